"""One type for the configs of all kinds of networks; their field `kind` tells them apart and is the key of NETWORKS."""

from typing import Annotated

from pydantic import Field

from .cross_encoder import CrossEncoderConfig
from .decoder import ModelConfig

AnyConfig = Annotated[ModelConfig | CrossEncoderConfig, Field(discriminator="kind")]
