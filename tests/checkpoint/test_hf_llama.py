"""config.json of a LLaMA: RoPE is read as transformers reads it, wherever and however it is written."""

from copy import deepcopy
from itertools import product

import pytest
import torch
from eas_export.checkpoint.hf_llama import LlamaConfig
from transformers import CLIPVisionConfig as PublishedTower
from transformers import LlamaConfig as PublishedConfig
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from eas_export.checkpoint.hf_clip import ClipVisionConfig
from eas_export.core.errors import UserError
from eas_export.core.record import validated

SIZES = dict(hidden_size=64, intermediate_size=96, num_attention_heads=4, num_hidden_layers=2, vocab_size=96)
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FORMS = {  # of a table, without its type
    "default": {},
    "linear": {"factor": 4.0},
    "linear by 1": {"factor": 1.0},
    "linear by 1, in part": {"factor": 1.0, "partial_rotary_factor": 0.5},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 4.0},
    "llama3": LLAMA3,
}
TABLES = {"none": None, "empty": {}, "theta alone": {"rope_theta": 3e5}}
TABLES |= {
    f"{form}, {key}": {key: form.split(" ")[0], **more} | ({"rope_theta": 5e5} if key == "rope_type" else {})
    for (form, more), key in product(FORMS.items(), ("rope_type", "type"))
}
TABLES["both spellings"] = {"rope_type": "default", "type": "linear", "factor": 4.0}


@pytest.mark.parametrize("theta", [{}, {"rope_theta": 7e5}], ids=["", "theta beside"])
@pytest.mark.parametrize("parameters", TABLES)
@pytest.mark.parametrize("scaling", TABLES)
def test_rope_is_transformers(scaling, parameters, theta):
    """Where it is taken, its frequencies are those of transformers; what is refused is scaled in transformers, and named."""
    written = theta | {"rope_scaling": TABLES[scaling], "rope_parameters": TABLES[parameters]}
    published = PublishedConfig(**SIZES, **deepcopy(written))
    rotary = LlamaRotaryEmbedding(published)
    try:
        config = validated(LlamaConfig, "config.json", "fix it", **SIZES, **deepcopy(written))
    except UserError as error:
        kind = published.rope_parameters["rope_type"]
        assert kind != "default" and f"RoPE is scaled by '{kind}'" in error.what
    else:
        ours = 1.0 / config.rope_theta ** (torch.arange(0, 16, 2) / 16)
        assert rotary.inv_freq.shape == ours.shape and torch.allclose(rotary.inv_freq, ours, rtol=1e-6)
        assert rotary.attention_scaling == 1.0 and published.rope_parameters["rope_type"] in ("default", "linear")


def test_a_table_of_another_kind_is_refused():
    for written in ({"rope_scaling": "linear"}, {"rope_parameters": [1]}):
        with pytest.raises(UserError, match=r"RoPE is scaled by .*only plain RoPE"):
            validated(LlamaConfig, "config.json", "fix it", **SIZES, **written)


@pytest.mark.parametrize(
    "ours, published, given",
    [(LlamaConfig, PublishedConfig, SIZES), (ClipVisionConfig, PublishedTower, {})],
    ids=["llama", "tower"],
)
def test_what_a_config_leaves_out_is_transformers(ours, published, given):
    """Every key that is read; the language model's sizes must be there."""
    config, theirs = ours(**given), published(**given)
    of_none = {"head_dim": 16, "num_key_value_heads": 4}
    for key in set(ours.model_fields) - {"rope_theta", "quantization_config"}:
        value = getattr(config, key)
        assert (of_none[key] if value is None else value) == getattr(theirs, key, True), key
    assert {key for key, field in ours.model_fields.items() if field.is_required()} == set(given)


@pytest.mark.parametrize(
    "key, value, matters",
    [
        ("rms_norm_eps", 0.1, True),
        ("hidden_act", "gelu", True),
        ("attention_bias", True, True),
        ("mlp_bias", True, True),
        ("head_dim", 32, True),
        ("is_causal", False, True),
        ("max_position_embeddings", 4, False),
        ("pretraining_tp", 2, False),
        ("sliding_window", 2, False),
        ("attention_dropout", 0.5, False),
        ("logit_scale", 0.5, False),
        ("final_logit_softcapping", 1.0, False),
    ],
)
def test_keys_that_matter_to_transformers_are_read_or_refused(key, value, matters):
    """By its logits; all others are ignored, as there."""
    logits = []
    for written in ({}, {key: value}):
        torch.manual_seed(0)
        model = LlamaForCausalLM(PublishedConfig(**SIZES, **written)).eval()
        logits.append(model(torch.arange(1, 9)[None]).logits)
    assert matters == (not torch.allclose(*logits, atol=1e-6))
    try:
        config = validated(LlamaConfig, "config.json", "fix it", **SIZES, **{key: value})
    except UserError as error:
        assert matters and key in error.what
    else:
        assert matters == (config != LlamaConfig(**SIZES))
