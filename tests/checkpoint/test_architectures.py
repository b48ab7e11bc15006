"""config.json of every supported text decoder: what it leaves out, how RoPE is written in it, and which keys matter, as in transformers."""

import json
from copy import deepcopy
from itertools import product
from pathlib import Path
from zlib import crc32

import pytest
import torch
from hf_models import MODELS, SIZES
from transformers import AutoConfig, AutoModelForCausalLM
from transformers import CLIPVisionConfig as PublishedTower
from transformers import LlamaConfig as PublishedConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from eas_export.checkpoint.architectures import ARCHITECTURES, COMMON, FULL, SLIDING
from eas_export.checkpoint.hf_clip import ClipVisionConfig
from eas_export.checkpoint.hf_text import TextConfig
from eas_export.checkpoint.json_file import read_json
from eas_export.core.errors import UserError
from eas_export.families import detect
from eas_export.networks.decoder.rope import scaled_frequencies

POSITIONS = 48
FACTORS = {"short_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5], "long_factor": [float(i) for i in range(2, 10)]}
FORMS = {  # of a RoPE table, without its type
    "default": {},
    "linear": {"factor": 4.0},
    "linear by 1": {"factor": 1.0},
    "linear, in part": {"factor": 2.0, "partial_rotary_factor": 0.5},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 512},
    "yarn with all": {"factor": 2.0, "beta_fast": 8.0, "beta_slow": 2.0, "truncate": False, "attention_factor": 1.5},
    "yarn as DeepSeek's": {"factor": 4.0, "mscale": 1.0, "mscale_all_dim": 0.5},
    "yarn with reversed bounds": {"factor": 4.0, "beta_fast": 1.0, "beta_slow": 32.0},
    "yarn without": {},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
    "longrope": {**FACTORS, "original_max_position_embeddings": 16},
    "longrope by 3": {**FACTORS, "factor": 3.0, "original_max_position_embeddings": 512},
}
TABLES = {"none": None, "empty": {}, "theta alone": {"rope_theta": 3e5}}
TABLES |= {
    f"{form}, {key}": {key: form.split(" ")[0].rstrip(","), **more}
    | ({"rope_theta": 5e5} if key == "rope_type" else {})
    for (form, more), key in product(FORMS.items(), ("rope_type", "type"))
}
TABLES["both spellings"] = {"rope_type": "default", "type": "linear", "factor": 4.0}
BESIDE = ({}, {"rope_theta": 7e5}, {"original_max_position_embeddings": 32})


def read(tmp_path: Path, **values: object) -> TextConfig:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    return read_json(path, TextConfig, "a text decoder's config.json", "correct it")


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_what_a_config_leaves_out_is_transformers(model_type, tmp_path):
    ours, theirs = read(tmp_path, model_type=model_type), AutoConfig.for_model(model_type)
    row = ARCHITECTURES[model_type]
    computed = {"head_dim", "num_key_value_heads", "layer_types", "no_rope_layers"}  # compared below
    ours_alone = {"quantization_config", "is_causal", "use_bidirectional_attention", "partial_rotary_factor"}
    ours_alone |= {"use_sliding_window", "sliding_window_pattern"}  # the latter with _ before it
    for key in {*COMMON, *row.reads} - computed - ours_alone:
        assert getattr(ours, key) == getattr(theirs, key), key
    assert ours.kv_heads == theirs.num_key_value_heads and ours.hidden_act == getattr(theirs, row.activation)
    assert ours.head_size == (getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads)
    layers = range(theirs.num_hidden_layers)
    if types := getattr(theirs, "layer_types", None):
        assert [ours.layer_type(i) for i in layers] == types
    assert [ours.has_rope(i) for i in layers] == [
        bool(has) for has in getattr(theirs, "no_rope_layers", [1] * len(layers))
    ]
    tables = theirs.rope_parameters
    for kind, keys in ours.ropes.items():
        assert keys.rope_theta == tables.get(kind, tables)["rope_theta"]
    model = AutoModelForCausalLM._model_mapping[type(theirs)].__name__
    assert row.class_ == (model if model_type != "gemma3_text" else "Gemma3ForCausalLM")


def older(config: dict) -> dict:
    """The spelling of transformers 4."""
    config = dict(config)
    tables = config.pop("rope_parameters")
    table = dict(tables.get(FULL, tables))
    config["rope_theta"] = table.pop("rope_theta")
    if SLIDING in tables:
        config["rope_local_base_freq"] = tables[SLIDING]["rope_theta"]
    if (kind := table.pop("rope_type")) != "default":
        config["rope_scaling"] = {**table, "type": kind}
    elif "partial_rotary_factor" in table:
        config["partial_rotary_factor"] = table["partial_rotary_factor"]
    config["torch_dtype"] = config.pop("dtype", "float32")
    return config


@pytest.mark.parametrize("model_type", MODELS)
def test_both_spellings_and_what_is_left_out_read_alike(model_type, tmp_path):
    """transformers, too, reads the older spelling as the newer one."""
    given = {**SIZES, **MODELS[model_type]}
    whole = AutoConfig.for_model(model_type, **deepcopy(given)).to_dict()
    want = read(tmp_path, **whole).model_fields_of()
    assert read(tmp_path, model_type=model_type, **given).model_fields_of() == want
    assert read(tmp_path, **older(whole)).model_fields_of() == want
    again = AutoConfig.for_model(model_type, **{k: v for k, v in older(deepcopy(whole)).items() if k != "model_type"})
    again.rope_parameters.pop("type", None)
    assert again.rope_parameters == whole["rope_parameters"]


@pytest.mark.parametrize("scaling", TABLES)
def test_rope_is_transformers(scaling, tmp_path):
    """Frequencies, and the factor of cosines and sines. What is refused, transformers refuses too, or reads in a way that a bundle cannot have."""
    taken = 0
    for parameters, beside in product(TABLES, BESIDE):
        written = {"max_position_embeddings": 2048, **beside}
        written |= {"rope_scaling": TABLES[scaling], "rope_parameters": TABLES[parameters]}
        sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
        try:
            published = PublishedConfig(**sizes, **deepcopy(written))
            rotary, table = LlamaRotaryEmbedding(published), published.rope_parameters
        except KeyError:
            rotary, table = None, {}
        try:
            rope = TextConfig(model_type="llama", **sizes, **deepcopy(written)).ropes[FULL].rope(16)
        except ValueError:
            part = table.get("partial_rotary_factor", 1.0) != 1
            assert rotary is None or table["rope_type"] == "dynamic" or part, (parameters, beside)
            continue
        assert rotary is not None, (parameters, beside)
        taken += 1
        want = rotary.inv_freq
        if table["rope_type"] == "longrope":
            rotary(torch.zeros(1), torch.arange(POSITIONS)[None])
            want = rotary.inv_freq
        ours, factor = scaled_frequencies(rope, rope.dims or 16, POSITIONS)
        assert torch.allclose(want, ours, rtol=1e-6, atol=0), (parameters, beside)
        assert factor == pytest.approx(rotary.attention_scaling), (parameters, beside)
    assert taken or scaling.split(",")[0] in ("dynamic", "linear", "yarn without")


@pytest.mark.parametrize(
    "written, said",
    [
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "RoPE is scaled by 'dynamic'.*only default, linear"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1]}}, "RoPE is scaled by 'mrope'"),
        ({"rope_parameters": {"mrope_section": [1, 1, 2]}}, "mrope_section: Extra inputs are not permitted"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear': expected a table"),
        ({"rope_parameters": [1]}, r"rope_parameters is \[1\]: expected a table"),
        ({"rope_parameters": {FULL: {}, SLIDING: {}}}, "full_attention: Extra inputs are not permitted"),
        ({"rope_scaling": {"type": "yarn"}}, "scaled by yarn needs factor"),
        ({"model_type": "gemma2", "sliding_window": None}, "there are layers of type sliding_attention"),
        ({"is_causal": False}, "is_causal is False"),
        ({"hidden_act": "relu2"}, "hidden_act is 'relu2': only silu"),
        ({"model_type": "phi3", "rope_scaling": {"type": "linear", "factor": 2.0}}, "only default, longrope, su, yarn"),
        ({"model_type": "gemma2", "use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        ({"model_type": "qwen2", "sliding_window": 4, "layer_types": [SLIDING] * 32}, "there are layers of type sliding_attention, but there is no sliding_window"),
        ({"model_type": "qwen2", "layer_types": ["chunked_attention"] * 32}, "layer_types has 'chunked_attention'"),
        ({"model_type": "qwen2", "layer_types": [FULL]}, "layer_types has 1 entries for 32 layers"),
        ({"model_type": "smollm3", "no_rope_layers": [1]}, "no_rope_layers has 1 entries for 36 layers"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window is 0"),
        ({"model_type": "mixtral"}, "model_type is 'mixtral', a model with a mixture of experts: only llama, mistral"),
        ({"model_type": "gpt_oss"}, "a mixture of experts with attention sinks"),
        ({"model_type": "phi"}, "attention and feed-forward network side by side"),
        ({"model_type": "gemma3"}, "a model with a vision tower"),
        ({"model_type": "new", "vision_config": {}}, "model_type is 'new', a model with a vision tower"),
        ({"model_type": "new"}, "model_type is 'new': only llama, mistral"),
        ({"model_type": ["llama"]}, r"model_type is \['llama'\]: only"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_not_supported_is_named(written, said, tmp_path):
    with pytest.raises(UserError, match=said):
        read(tmp_path, **{"model_type": "llama", **written})


def test_other_causal_models_are_told_what_is_supported(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "new", "architectures": ["NewForCausalLM"]}')
    assert detect(tmp_path).name == "hf"


SMALL = {**SIZES, "hidden_size": 32, "head_dim": 8, "num_hidden_layers": 2, "intermediate_size": 16, "vocab_size": 24}
CHANGES = {
    "rms_norm_eps": 0.5,
    "hidden_act": "gelu",
    "hidden_activation": "gelu",
    "attention_bias": True,
    "mlp_bias": True,
    "head_dim": 12,
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
    "is_causal": False,
    "sliding_window": 3,
    "max_window_layers": 1,
    "layer_types": [FULL, FULL],
    "sliding_window_pattern": 1,
    "no_rope_layers": [0, 1],
    "no_rope_layer_interval": 2,
    "rope_theta": 50.0,
    "rope_local_base_freq": 50.0,
    "partial_rotary_factor": 0.5,
    "query_pre_attn_scalar": 3,
    "attn_logit_softcapping": 0.5,
    "final_logit_softcapping": 0.5,
    "embedding_multiplier": 2.0,
    "residual_multiplier": 2.0,
    "attention_multiplier": 2.0,
    "logits_scaling": 2.0,
    **{"max_position_embeddings": 512, "attention_dropout": 0.5, "pretraining_tp": 2, "logit_scale": 0.5},
    **{"clip_qkv": 0.1, "num_local_experts": 4, "attention_chunk_size": 2, "original_max_position_embeddings": 4},
}


def logits(model_type: str, **written: object) -> torch.Tensor:
    config = AutoConfig.for_model(model_type, **deepcopy(SMALL | written))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            random = torch.Generator().manual_seed(crc32(name.encode()))
            parameter.copy_(0.4 * torch.randn(parameter.numel(), generator=random).view(parameter.shape))
        return model(torch.arange(1, 11)[None]).logits


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_keys_that_matter_to_transformers_are_read_or_refused(model_type):
    """By its logits; all others are ignored, as there."""
    window = {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 0, "sliding_window_pattern": 2}
    window = {key: value for key, value in window.items() if key in ARCHITECTURES[model_type].reads}
    base, ours = logits(model_type, **window), TextConfig(model_type=model_type, **SMALL, **window)
    for key, value in CHANGES.items():
        try:
            theirs = logits(model_type, **{**window, key: value})
            matters = theirs.shape != base.shape or not torch.allclose(theirs, base, atol=1e-5)
        except (ValueError, RuntimeError, KeyError):
            continue  # transformers refuses it
        try:
            changed = TextConfig(model_type=model_type, **{**SMALL, **window, key: value})
        except ValueError as error:
            assert matters and key in str(error), key
        else:
            tied = ours.tie_word_embeddings != changed.tie_word_embeddings
            assert matters == (tied or changed.model_fields_of() != ours.model_fields_of()), key


def test_what_a_towers_config_leaves_out_is_transformers():
    ours, theirs = ClipVisionConfig(), PublishedTower()
    for key in ClipVisionConfig.model_fields.keys() - {"quantization_config"}:
        assert getattr(ours, key) == getattr(theirs, key), key
