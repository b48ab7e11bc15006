"""Text decoders of Hugging Face: each architecture's network is transformers' in float64, a bundle in ONNX Runtime is in float32."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import max_error, text_prompts
from hf_models import MODELS, WINDOW, make_folder
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from eas_export.backends.opening import open_runtime
from eas_export.checkpoint.checkpoint import Checkpoint
from eas_export.core.configs.decoder import ModelConfig
from eas_export.core.limits import Limits
from eas_export.core.plan import make_plan
from eas_export.core.precision import PRECISIONS
from eas_export.families import load_checkpoint
from eas_export.families.contract import Sources
from eas_export.generation.generate import generate
from eas_export.networks.decoder.prefill import PrefillGraph
from eas_export.networks.network import build_network, load_parameters
from eas_export.networks.parameters import network_parameters
from eas_export.pipeline import build

FACTORS = {"short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [2.0, 3.0, 4.0, 5.0]}
SCALED = {"factor": 4.0, "original_max_position_embeddings": 8, "rope_theta": 500.0}
LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}
FORMS = {name: (name, {}) for name in MODELS} | {
    "llama, linear": ("llama", {"rope_parameters": LINEAR}),
    "qwen2, yarn": ("qwen2", {"rope_parameters": {"rope_type": "yarn", **SCALED}}),
    "phi3, longrope": (
        "phi3",
        {
            "head_dim": 16,  # transformers counts the factors by the width
            "original_max_position_embeddings": 8,
            "rope_parameters": {"rope_type": "longrope", "partial_rotary_factor": 0.5, **FACTORS},
        },
    ),
    "gemma3_text, linear": (
        "gemma3_text",
        {"rope_parameters": {"full_attention": LINEAR, "sliding_attention": {"rope_type": "default"}}},
    ),
    "granite, grouped by 4": ("granite", {"num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True}),
    "gemma, gelu": ("gemma", {"hidden_act": "gelu", "attention_bias": True}),
    "smollm3, windows": ("smollm3", {"use_sliding_window": True, "sliding_window": WINDOW, "mlp_bias": True}),
}
IDS = [5, 33, 71, 2, 9, 60, 13, 5, 28, 47, 66, 21]
FORCED = [4, 70, 12, 31, 5, 59, 44, 23]
LIMITS = Limits(max_batch=len(IDS), max_prompt=16, max_tokens=24)


@contextmanager
def in_float64() -> Iterator[None]:
    """Norms, softmax and RoPE of transformers are in float32 whatever a model's dtype; here what is called so is float64."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("float32", "float"):
            patch.setattr(torch, name, torch.float64)
        patch.setattr(Tensor, "float", Tensor.double)
        yield


def made(folder: Path, form: str) -> Path:
    """A model whose weights are multiples of 2^-10, so that what is converted in float32, 1 + w among it, is exact."""
    name, changes = FORMS[form]
    make_folder(folder, name, **{"hidden_size": 64, "head_dim": 12, **changes})
    tensors = load_file(folder / "model.safetensors")
    assert all("bias" not in key or tensor.count_nonzero() for key, tensor in tensors.items())
    tensors = {key: (1024 * tensor).round() / 1024 for key, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@dataclass
class Published:
    """transformers' model in float64, and what it computes: logits [S, vocab] after each token of IDS, and by type of layer the cosines and sines
    [S, dims] of their positions."""

    logits: Tensor
    tables: list[tuple[Tensor, Tensor]]


def published(folder: Path) -> Published:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    rotary, tables, types = model.model.rotary_emb, [], ("full_attention", "sliding_attention")
    positions = torch.arange(len(IDS))[None]
    with in_float64(), torch.no_grad():
        rows = torch.tensor([IDS]), positions
        logits = model(rows[0]).logits[0]
        for kind in types if "sliding_attention" in model.config.rope_parameters else (None,):
            extra = {} if kind is None else {"layer_type": kind}
            cos, sin = rotary(torch.zeros(1, dtype=torch.float64), positions, **extra)
            tables.append((cos[0], sin[0]))
    return Published(logits, tables)


def ours(checkpoint: Checkpoint, config: ModelConfig, tables: list[tuple[Tensor, Tensor]] | None) -> Tensor:
    """Logits of the network in float64 after each token of IDS, [S, vocab]: prefixes are rows of a batch, padded. tables: of RoPE; None: its own."""
    plan = make_plan(config.layers, "none", "this test")
    checkpoint = Checkpoint(**{**vars(checkpoint), "config": config})
    network = build_network(config, plan, PRECISIONS["fp32"], LIMITS)
    parameters = network_parameters(checkpoint, plan, PRECISIONS["fp32"], LIMITS)
    load_parameters(network.decoder, {name: (lambda p=p: p.read().float()) for name, p in parameters.items()})
    network = network.double()
    for name, (cos, sin) in zip(config.rope_names, tables or ()):
        rope, half = network.decoder.get_submodule(name), cos.shape[-1] // 2
        for mine, theirs in ((rope.cos, cos), (rope.sin, sin)):
            assert torch.allclose(mine[: len(IDS)], theirs[:, :half], rtol=0, atol=1e-6)
            mine.data[: len(IDS)] = theirs[:, :half]
    rows = len(IDS)
    shape = (rows, config.kv_heads, LIMITS.max_tokens, config.head_dim)
    names = [f"past_key_values.{i}.{part}" for i in range(config.layers) for part in ("key", "value")]
    inputs = {"input_ids": torch.tensor([IDS] * rows), "prompt_lengths": torch.arange(1, rows + 1)}
    with in_float64(), torch.no_grad():
        caches = {name: torch.zeros(shape, dtype=torch.float64) for name in names}
        return PrefillGraph(network)(inputs | caches)["logits"]


@pytest.mark.parametrize("form", FORMS)
def test_the_network_is_transformers_in_float64(form, tmp_path):
    """At every position of a prompt that is longer than a window. RoPE's tables are compared in float32, and are transformers' own for the rest."""
    assert len(IDS) > WINDOW
    folder = made(tmp_path / "ckpt", form)
    checkpoint, want = load_checkpoint(Sources(folder)), published(folder)
    got = ours(checkpoint, checkpoint.config, want.tables)
    assert got.dtype == torch.float64 and want.logits.std() > 0.1
    assert (got - want.logits).abs().max() < 1e-9


Change = Callable[[ModelConfig], dict[str, object]]


def windows(by: int) -> Change:
    return lambda config: {
        "layer_attention": tuple(
            each.model_copy(update={"window": each.window and each.window + by}) for each in config.layer_attention
        )
    }


def theta(config: ModelConfig) -> dict[str, object]:
    return {"ropes": tuple(rope.model_copy(update={"theta": rope.theta * 1.1}) for rope in config.ropes)}


MISREAD: dict[str, tuple[str, Change]] = {
    "theta": ("llama", theta),
    "no scaling": ("llama", lambda config: {"ropes": tuple(r.model_copy(update={"scaling": None}) for r in config.ropes)}),
    "pairs of RoPE": ("mistral", lambda config: {"rope_interleaved": True}),
    "whole heads turn": ("phi3", lambda config: {"ropes": tuple(r.model_copy(update={"dims": None}) for r in config.ropes)}),
    "a window wider by one": ("mistral", windows(1)),
    "a window narrower by one": ("gemma2", windows(-1)),
    "norms without their offset": ("gemma", lambda config: {"norm_offset": False}),
    "scale of scores": ("granite", lambda config: {"attention_scale": None}),
    "scores not bounded": ("gemma2", lambda config: {"attention_softcap": None}),
    "logits not bounded": ("gemma2", lambda config: {"logit_softcap": None}),
    "embeddings not scaled": ("gemma3_text", lambda config: {"embedding_scale": 1.0}),
    "layers added whole": ("granite", lambda config: {"residual_scale": 1.0}),
    "another activation": ("gemma", lambda config: {"activation": "gelu"}),
    "RoPE in every layer": ("smollm3", lambda config: {"layer_attention": ()}),
}  # fmt: skip


@pytest.mark.parametrize("what", MISREAD)
def test_a_field_that_is_misread_would_be_found(what, tmp_path):
    form, change = MISREAD[what]
    folder = made(tmp_path / "ckpt", form)
    checkpoint = load_checkpoint(Sources(folder))
    got = ours(checkpoint, checkpoint.config.model_copy(update=change(checkpoint.config)), None)
    want = published(folder).logits
    assert (got - want).abs().max() > 1e-4 * want.std()
    assert (ours(checkpoint, checkpoint.config, None) - want).abs().max() < 2e-6 * want.std()


@pytest.mark.parametrize("model_type", MODELS)
def test_a_bundle_of_a_plain_model_is_transformers(model_type, tmp_path):
    """In ONNX Runtime, fp32: after a prompt that is longer than a window, and after 8 forced tokens."""
    folder = made(tmp_path / "ckpt", model_type)
    bundle = build(folder, tmp_path / "a.bundle", verify=False, max_prompt=16, max_tokens=24).bundle
    forced = torch.tensor([FORCED]).T
    got = generate(open_runtime(bundle, "onnxruntime"), text_prompts(IDS), forced=forced).logits[:, 0]
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        want = model(torch.tensor([IDS + FORCED])).logits[0, len(IDS) - 1 :].numpy()
    assert len(got) in (len(want), len(want) - 1) and len(got) >= 8
    assert max_error(got, want[: len(got)]) < 1e-4 * want.std()
