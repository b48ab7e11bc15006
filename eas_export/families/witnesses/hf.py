"""A text decoder in transformers: the class that it chooses for the folder's config.json, without any code from the folder."""

import re
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from ...checkpoint.architectures import Architecture
from ..contract import Sources
from ..hf.load import EVERY_KEY, read_config
from . import Witnessed, exactly, import_transformers, outputs_of, require_all, translated

ATTENTION = re.compile(r"model\.layers\.(\d+)\.self_attn\.")


class TextWitness:
    """model: a ForCausalLM of transformers

    without_attention  layers whose attention the files lack. Without its adapter EAS computes x + FFN(g2 g1 x / rms(x)) there, g1 and g2
                       the gains of the norms before attention and feed-forward network: so does transformers' layer, once o is zero and
                       g2 is g1 g2
    """

    encode_images = None

    def __init__(self, model: Any, row: Architecture, without_attention: Collection[int]):
        self._model = model.eval()
        self.without_attention = tuple(sorted(without_attention))
        theirs, offset = {ours: name for name, ours in row.norms.items()}, float(row.fixed.get("norm_offset", False))
        with torch.no_grad():
            for layer in (model.model.layers[i] for i in self.without_attention):
                for parameter in layer.self_attn.o_proj.parameters():
                    parameter.zero_()
                before, inside = (getattr(layer, theirs[norm]).weight for norm in ("norm", "ffn_norm"))
                inside.copy_((before + offset) * (inside + offset) - offset)

    @torch.no_grad()
    def read(self, ids: Tensor, positions: Tensor, index: Tensor, pixels: Tensor | None) -> Witnessed:
        """See DecoderWitness."""
        with outputs_of({("", i): layer for i, layer in enumerate(self._model.model.layers)}) as blocks:
            # with a mask, positions that repeat are not taken for several sequences
            every = torch.ones_like(ids)
            result = self._model(input_ids=ids, position_ids=positions, attention_mask=every, use_cache=False)
        return Witnessed(blocks, {"logits": result.logits[0].float()})


def open_witness(sources: Sources) -> TextWitness:
    """Raises UserError where transformers is not installed, cannot load the files, or finds a tensor missing that is not an attention."""
    transformers, folder = import_transformers(), sources.ckpt
    with translated(folder):
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        vars(config).pop("quantization_config", None)  # left over: `load` refuses weights that are quantised
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            folder, config=config, trust_remote_code=False, output_loading_info=True, **exactly(folder, EVERY_KEY)
        )
    missing = report["missing_keys"]
    require_all((key for key in missing if not ATTENTION.match(key)), folder)
    without_attention = {int(match[1]) for key in missing if (match := ATTENTION.match(key))}
    return TextWitness(model, read_config(folder).architecture, without_attention)
