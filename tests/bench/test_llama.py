"""A text decoder's bundle as transformers' own Llama, Qwen2 or Qwen3; what none of these computes is refused by name."""

import pytest
import torch
from conftest import max_error
from hf_models import make_folder

from eas_export.bench.llama import require_expressible, write_llama
from eas_export.core.errors import UserError
from eas_export.families.contract import Sources
from eas_export.families.hf.load import load
from eas_export.pipeline import build

PLAIN_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
EXPRESSED = {
    "llama": {"attention_bias": False, "mlp_bias": False, **PLAIN_ROPE},
    "qwen2": {"use_sliding_window": False},
    "qwen3": {"use_sliding_window": False, "attention_bias": False, "tie_word_embeddings": True},
}
REFUSED = {
    "llama": "has o_bias, ffn_bias, ropes",
    "qwen3": "has layer_attention, o_bias, qkv_bias with qk_norm",
    "gemma3_text": "has layer_attention, activation, norm_offset, sandwich_norms, attention_scale, logit_softcap, embedding_scale",
}


@pytest.mark.parametrize("model_type", EXPRESSED)
def test_transformers_computes_the_same_of_what_was_written(model_type, tmp_path):
    from transformers import AutoModelForCausalLM

    ckpt = make_folder(tmp_path / "ckpt", model_type, **EXPRESSED[model_type])
    bundle = build(ckpt, tmp_path / "b", max_prompt=32, max_tokens=48, verify=False).bundle
    write_llama(bundle, tmp_path / "llama")
    first, again = (AutoModelForCausalLM.from_pretrained(tmp_path / name).eval() for name in ("ckpt", "llama"))
    assert type(first) is type(again)
    ids = torch.randint(3, 80, (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert max_error(first(ids).logits, again(ids).logits) < 1e-6


@pytest.mark.parametrize("model_type", REFUSED)
def test_what_no_class_computes_is_refused(model_type, tmp_path):
    config = load(Sources(make_folder(tmp_path, model_type))).config
    with pytest.raises(UserError, match=f"and this one {REFUSED[model_type]} ") as said:
        require_expressible(config)
    assert said.value.fix == "leave this baseline out"
