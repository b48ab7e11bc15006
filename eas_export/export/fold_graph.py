"""fold: one prompt's fold state -> its folded weights (rewrite/fold.py), on the device

Inputs   router [1, layers, 2] float32 · pooled [1, skipped, rank] float32
Outputs  folded.layers.N.{attention.q, .k, .v}.{weight, bias} of kept layers, folded.layers.N.ffn.{gate, up}.{weight, bias} of skipped
"""

from torch import Tensor, nn

from ..config import Limits, ModelConfig
from ..graph import GraphSpec
from ..model.decoder import Decoder, SkippedBlock, fold_names
from ..plan import SkipPlan
from ..precision import Precision
from ..rewrite.fold import fold_linear, mix, shift_by_pooled
from .common import fold_state_specs, folded_specs


class FoldGraph(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        decoder: Decoder = self.network.decoder
        router = inputs["router"].squeeze(0)  # [layers, 2]
        shifts = (
            list(shift_by_pooled(inputs["pooled"].squeeze(0)).unbind(0)) if "pooled" in inputs else []
        )  # skipped x [rank + 1]
        outputs: dict[str, Tensor] = {}
        for i, block in enumerate(decoder.layers):
            inner, inner_bias = block.adapter.down.weight, block.adapter.down.bias
            outer = mix(block.adapter.up, router[i])  # [dim, rank + 1]
            if isinstance(block, SkippedBlock):
                inner_bias = (inner_bias.float() + shifts.pop(0)).to(inner_bias.dtype)
            for name in fold_names(i, block):
                weight, bias = fold_linear(decoder.get_submodule(name).weight, outer, inner, inner_bias)
                outputs[f"folded.{name}.weight"], outputs[f"folded.{name}.bias"] = weight, bias
        return outputs


def fold_spec(config: ModelConfig, plan: SkipPlan, precision: Precision, limits: Limits) -> GraphSpec:
    return GraphSpec(
        name="fold", dims={}, inputs=fold_state_specs(config, plan, 1), outputs=folded_specs(config, plan, precision)
    )
