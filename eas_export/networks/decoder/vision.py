"""vision: pixel_values [N, 3, H, W] -> image_features [N, tokens, dim]"""

from torch import Tensor, nn

from ...core.configs.decoder import ModelConfig
from ...core.graph_spec import GraphSpec, TensorSpec
from ...core.limits import Limits
from ...core.plan import SkipPlan
from ...core.precision import Precision
from ..contract import Graph
from .specs import dims_of


class VisionGraph(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"image_features": self.network.vision(inputs["pixel_values"])}


def vision_spec(config: ModelConfig, plan: SkipPlan, precision: Precision, limits: Limits) -> GraphSpec:
    size, tokens = config.vision.image_size, config.vision.tokens
    return GraphSpec(
        name="vision",
        dims={"N": dims_of(config, limits)["N"]},
        inputs=(TensorSpec(name="pixel_values", dtype=precision.dtype, shape=("N", 3, size, size)),),
        outputs=(TensorSpec(name="image_features", dtype=precision.dtype, shape=("N", tokens, config.dim)),),
    )


def vision_reads(plan: SkipPlan, name: str) -> bool:
    return name.startswith("vision.")


VISION = Graph(VisionGraph, vision_spec, vision_reads)
