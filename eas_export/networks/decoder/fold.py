"""fold: one prompt's fold state -> its folded weights (networks/fold.py), on the device

Inputs   router [1, layers, 2] float32 · pooled [1, skipped, rank] float32
Outputs  folded.layers.N.{attention.q, .k, .v}.{weight, bias} of kept layers, folded.layers.N.ffn.{gate, up}.{weight, bias} of skipped
"""

from torch import Tensor, nn

from ...core.configs.decoder import ModelConfig
from ...core.graph_spec import GraphSpec
from ...core.limits import Limits
from ...core.plan import SkipPlan
from ...core.precision import Precision
from ..contract import Graph
from ..fold import fold_linear, mix
from ..recordable import within
from .fold_state import shifted_biases
from .modules import Decoder, KeptBlock, SkippedBlock
from .specs import fold_state_specs, folded_parameters, folded_specs


class FoldGraph(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        decoder: Decoder = self.network.decoder
        router = inputs["router"].squeeze(0)  # [layers, 2]
        biases = shifted_biases(decoder, inputs.get("pooled"))  # of [1, width]
        outputs: dict[str, Tensor] = {}
        for i, block in enumerate(decoder.layers):
            with within(f"layers.{i}"):
                bias = biases[i].squeeze(0) if i in biases else block.adapter.down.bias
                outputs |= fold_layer(i, block, router[i], bias)
        return outputs


def fold_layer(layer: int, block: KeptBlock | SkippedBlock, router: Tensor, down_bias: Tensor) -> dict[str, Tensor]:
    """One layer's folded weights and biases, by the outputs' names: router [2] float32; down_bias [width], shifted by the pooled feature
    in a skipped layer"""
    folded, factors = {}, fold_factors(block, router, down_bias)
    for part in block.folds:
        weight, bias = fold_linear(block.get_submodule(part).weight, *factors)
        folded |= {f"folded.layers.{layer}.{part}.weight": weight, f"folded.layers.{layer}.{part}.bias": bias}
    return folded


def fold_factors(block: KeptBlock | SkippedBlock, router: Tensor, down_bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A block's adapter as the last arguments of networks.fold.fold_linear: outer [dim, rank + 1] float32, inner [rank + 1, dim] and its
    bias [rank + 1]"""
    half = block.adapter.width // 2  # rank + 1
    return mix(block.adapter.up, router), block.adapter.down.weight[:half], down_bias[:half]


def fold_spec(config: ModelConfig, plan: SkipPlan, precision: Precision, limits: Limits) -> GraphSpec:
    return GraphSpec(
        name="fold", dims={}, inputs=fold_state_specs(config, plan, 1), outputs=folded_specs(config, plan, precision)
    )


def fold_reads(plan: SkipPlan, name: str) -> bool:
    return name in folded_parameters(plan) or (name.startswith("layers.") and ".adapter." in name)


FOLD = Graph(FoldGraph, fold_spec, fold_reads)
