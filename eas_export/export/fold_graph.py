"""fold: one prompt's fold state -> its folded weights (rewrite/fold.py), on the device

Inputs   router [1, layers, 2] float32 · pooled [1, skipped, rank] float32
Outputs  folded.layers.N.{attention.q, .k, .v}.{weight, bias} of kept layers, folded.layers.N.ffn.{gate, up}.{weight, bias} of skipped
"""

from torch import Tensor, nn

from ..config import Limits, ModelConfig
from ..graph import GraphSpec
from ..model.decoder import Decoder, fold_names
from ..plan import SkipPlan
from ..precision import Precision
from ..rewrite.fold import fold_linear, mix
from .common import fold_state_specs, folded_specs
from .fold_state import shifted_biases


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
            adapter, half = block.adapter, block.adapter.width // 2  # rank + 1
            inner, outer = adapter.down.weight[:half], mix(adapter.up, router[i])  # [rank + 1, dim], [dim, rank + 1]
            inner_bias = biases[i].squeeze(0)[:half] if i in biases else adapter.down.bias[:half]  # [rank + 1]
            for name in fold_names(i, block):
                weight, bias = fold_linear(decoder.get_submodule(name).weight, outer, inner, inner_bias)
                outputs[f"folded.{name}.weight"], outputs[f"folded.{name}.bias"] = weight, bias
        return outputs


def fold_spec(config: ModelConfig, plan: SkipPlan, precision: Precision, limits: Limits) -> GraphSpec:
    return GraphSpec(
        name="fold", dims={}, inputs=fold_state_specs(config, plan, 1), outputs=folded_specs(config, plan, precision)
    )
