"""Every kind of network's config as one type; `kind` tells them apart, and is the key of every table of kinds."""

from typing import Annotated

from pydantic import Field

from .config import ModelConfig
from .cross_encoder_config import CrossEncoderConfig

AnyConfig = Annotated[ModelConfig | CrossEncoderConfig, Field(discriminator="kind")]
