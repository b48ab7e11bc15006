"""A decoder's base path in transformers' LlamaForCausalLM, or in a model that has one inside."""

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

from . import Witnessed, outputs_of


class LlamaWitness:
    """llama: transformers' LlamaModel, with its layers; head: the layer behind it

    without_attention  layers whose attention the files lack. Without its adapter EAS computes x + FFN(g2 g1 x / rms(x)) there, g1 and g2
                       the weights of the layer's two norms: so does transformers' layer, once o is zero and g2 is g1 g2
    encode_images      [N, 3, H, W] -> [N * tokens, dim]; None: prompts with images are not read
    """

    def __init__(
        self,
        llama: nn.Module,
        head: nn.Module,
        without_attention: Collection[int] = (),
        encode_images: Callable[[Tensor], Tensor] | None = None,
    ):
        self._llama, self._head = llama.eval(), head
        self.without_attention, self.encode_images = tuple(sorted(without_attention)), encode_images
        with torch.no_grad():
            for layer in (llama.layers[i] for i in self.without_attention):
                layer.self_attn.o_proj.weight.zero_()
                layer.post_attention_layernorm.weight.mul_(layer.input_layernorm.weight)

    @torch.no_grad()
    def read(self, ids: Tensor, positions: Tensor, index: Tensor, pixels: Tensor | None) -> Witnessed:
        """See DecoderWitness."""
        x, outputs = self._llama.embed_tokens(ids).clone(), {}
        if pixels is not None:
            outputs["vision"] = self.encode_images(pixels)
            x[index >= 0] = outputs["vision"][index[index >= 0]]
        layers = {("", i): layer for i, layer in enumerate(self._llama.layers)}
        with outputs_of(layers) as blocks:
            # with a mask, positions that repeat are not taken for several sequences
            every = torch.ones_like(ids)
            last = self._llama(inputs_embeds=x, position_ids=positions, attention_mask=every, use_cache=False)
        outputs["logits"] = self._head(last.last_hidden_state)[0]
        return Witnessed(blocks, outputs)
