"""Every kind of network's config as one type; `kind` tells them apart, and is the key of every table of kinds."""

from typing import Annotated

from pydantic import Field

from .cross_encoder import CrossEncoderConfig
from .decoder import ModelConfig

AnyConfig = Annotated[ModelConfig | CrossEncoderConfig, Field(discriminator="kind")]
