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
from ..recordable import within
from .blocks import Block
from .fold_state import shifted_biases
from .modules import Decoder
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


def fold_layer(layer: int, block: Block, router: Tensor, down_bias: Tensor) -> dict[str, Tensor]:
    """One layer's folded weights and biases, by the outputs' names; arguments as for Block.fold"""
    folded = block.fold(router, down_bias).items()
    return {
        f"folded.layers.{layer}.{part}.{kind}": tensor
        for part, tensors in folded
        for kind, tensor in zip(("weight", "bias"), tensors)
    }


def fold_spec(config: ModelConfig, plan: SkipPlan, precision: Precision, limits: Limits) -> GraphSpec:
    return GraphSpec(
        name="fold", dims={}, inputs=fold_state_specs(config, plan, 1), outputs=folded_specs(config, plan, precision)
    )


def fold_reads(plan: SkipPlan, name: str) -> bool:
    return name in folded_parameters(plan) or (name.startswith("layers.") and ".adapter." in name)


FOLD = Graph(FoldGraph, fold_spec, fold_reads)
