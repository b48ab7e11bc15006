"""A decoder and its vision tower."""

from torch import nn

from ..config import Limits, ModelConfig
from ..plan import SkipPlan
from .decoder import Decoder
from .vision import TOWERS


class DecoderNetwork(nn.Module):
    """decoder and vision: the parameters' names are the store's, without the first word "decoder."."""

    def __init__(self, config: ModelConfig, plan: SkipPlan, limits: Limits):
        super().__init__()
        self.decoder = Decoder(config, plan, limits.max_tokens + config.prefix)
        self.vision = TOWERS[config.vision.features](config.vision, config.dim)
