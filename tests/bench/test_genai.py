"""onnxruntime-genai beside a plain bundle: the same weights give the same logits, so times can be compared."""

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FP32, made_once, max_error, text_prompts
from safetensors.torch import load_file
from synthetic_llava import LlavaShape, write_llava

from eas_export.backends.opening import open_runtime
from eas_export.bench import genai
from eas_export.bench.llama import END, half_split, write_llama
from eas_export.bundle.bundle import Bundle, open_bundle
from eas_export.core.errors import UserError
from eas_export.generation.generate import generate
from eas_export.networks import ops
from eas_export.pipeline import build
from eas_export.system.packages import install_command

SHAPE = LlavaShape(layers=2, kv_heads=2, ffn=112, theta=5e5, norm_eps=1e-3)
NEEDS_IT = pytest.mark.skipif(find_spec("onnxruntime_genai") is None, reason="onnxruntime-genai is not installed")


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Bundle:
    """A LLaVA's bundle: keys in groups, angles and norms other than the usual ones."""
    options = dict(skip="none", adapters="drop", verify=False, max_batch=2, max_prompt=32, max_tokens=64)
    with made_once(tmp_path_factory, "plain", "llava") as out:
        if not out.exists():
            build(write_llava(out.with_suffix(".ckpt"), SHAPE), out, **options)
        return open_bundle(out)


@pytest.fixture(scope="module")
def exported(plain, tmp_path_factory) -> Path:
    with made_once(tmp_path_factory, "plain", "genai") as out:
        if not out.exists():
            write_llama(plain, out.with_suffix(".llama"))
            genai.export_genai(out.with_suffix(".llama"), out, "fp32")
        return out


def drawn(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).integers(END + 1, SHAPE.vocab, (rows, 12))


@NEEDS_IT
@pytest.mark.parametrize("rows", [1, 2])
def test_logits_are_the_bundles(plain, exported, rows):
    """Of a prompt, of eight steps after it, and of the same steps again."""
    model, ids, logits, tokens = genai.open_genai(exported), drawn(rows), [], []
    model.prefill(ids, room=8)
    for step in range(9):
        if step:
            model.step()
        logits.append(model.logits())
        tokens.append(model.tokens)
    assert logits[0].shape == (rows, SHAPE.vocab) and logits[0].dtype == np.float32
    forced = torch.from_numpy(np.stack(tokens[:-1])).long()
    want = generate(open_runtime(plain, "onnxruntime"), text_prompts(*ids.tolist()), forced=forced).logits.numpy()
    others = np.arange(SHAPE.vocab) != END
    assert want.std() > 0.5
    assert max_error(np.stack(logits)[..., others], want[..., others]) < FP32 * want.std()
    assert np.array_equal(np.where(others, want, -np.inf).argmax(-1), tokens)
    assert (np.stack(logits)[..., END] == -np.inf).all()

    with pytest.raises(UserError, match="max_length"):
        model.step()
    model.rewind()
    assert np.array_equal(model.tokens, tokens[0])
    for step in range(1, 9):
        model.step()
        assert np.array_equal(model.tokens, tokens[step]) and np.array_equal(model.logits(), logits[step])


@NEEDS_IT
def test_an_end_token_does_not_end_it(exported, tmp_path):
    """It would be chosen first: it is not, and steps go on."""
    model, ids = genai.open_genai(exported), drawn(1)
    model.prefill(ids, room=0)
    likely = int(model.tokens[0])
    other = shutil.copytree(exported, tmp_path / "other")
    config = json.loads((other / "genai_config.json").read_text())
    config["model"] |= {"eos_token_id": likely}
    (other / "genai_config.json").write_text(json.dumps(config))
    ended = genai.open_genai(other)
    ended.prefill(ids, room=9)
    for _ in range(9):
        assert likely not in ended.tokens
        ended.step()


@NEEDS_IT
def test_a_prompt_with_the_end_token_is_refused(exported):
    with pytest.raises(UserError, match="a prompt holds the end token, 2"):
        genai.open_genai(exported).prefill(np.array([[5, END, 7]]), room=2)


@NEEDS_IT
def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="genai_config"):
        genai.open_genai(tmp_path)


def test_a_bundle_with_skips_or_adapters_is_refused(plain, tmp_path):
    m = plain.manifest
    skips = m.model_copy(update={"plan": m.plan.model_copy(update={"skipped": (1,)})})
    adapters = m.model_copy(update={"graphs": m.graphs | {"fold": m.graphs["decode"]}})
    for other in (skips, adapters):
        with pytest.raises(UserError, match="build one with --skip none --adapters drop"):
            write_llama(Bundle(plain.path, other), tmp_path / "llama")
    assert not list(tmp_path.iterdir())


def test_rows_for_the_other_rope_give_the_same_scores():
    """Of queries and of keys in groups, against every weight in another place."""
    heads, groups, width, dim = 4, 2, 6, 10
    random = torch.Generator().manual_seed(0)
    x = torch.randn(1, 5, dim, generator=random)
    angles = torch.rand(9, width // 2, generator=random) * 6
    positions = torch.arange(2, 7)[None]

    def scores(q: torch.Tensor, k: torch.Tensor, interleaved: bool) -> torch.Tensor:
        parts = [(x @ w.T).unflatten(-1, (-1, width)).transpose(1, 2) for w in (q, k)]  # [1, heads or groups, 5, width]
        q, k = (ops.rotate(part, angles.cos(), angles.sin(), positions, interleaved) for part in parts)
        return q @ ops.repeat_heads(k, heads).transpose(-1, -2)

    q, k = (torch.randn(n * width, dim, generator=random) for n in (heads, groups))
    want = scores(q, k, interleaved=True)
    assert max_error(scores(half_split(q, heads), half_split(k, groups), interleaved=False), want) < 1e-5
    assert max_error(scores(q, k, interleaved=False), want) > 0.1


def test_only_query_and_key_rows_of_pairs_are_reordered(plain, tmp_path):
    """The LLaVA has the other RoPE. With a config that says pairs, its other weights are still the store's."""
    m = plain.manifest
    config = m.config.model_copy(update={"rope_interleaved": True})
    write_llama(Bundle(plain.path, m.model_copy(update={"config": config})), tmp_path)
    tensors, store = load_file(tmp_path / "model.safetensors"), plain.store
    key = "model.layers.1.self_attn.k_proj.weight"
    assert torch.equal(tensors[key], half_split(store.tensor("layers.1.attention.k.weight"), SHAPE.kv_heads))
    assert torch.equal(tensors[key.replace("k_proj", "v_proj")], store.tensor("layers.1.attention.v.weight"))
    assert torch.equal(tensors["model.embed_tokens.weight"], store.tensor("embed.weight"))
    assert len(tensors) == 3 + 9 * SHAPE.layers


def test_a_missing_package_is_said(tmp_path, monkeypatch):
    export = lambda: genai.export_genai(tmp_path, tmp_path / "o", "fp32")
    for missing, ask in (
        ("transformers", export),
        ("onnxruntime_genai", export),
        ("onnxruntime_genai", lambda: genai.open_genai(tmp_path)),
    ):
        monkeypatch.setattr(genai, "find_spec", lambda name, missing=missing: None if name == missing else True)
        with pytest.raises(UserError, match=f"^{missing} is not installed") as said:
            ask()
        assert said.value.fix.startswith(install_command("bench"))


def test_the_builders_failure_is_reported_and_its_output_is_not_printed(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(genai, "find_spec", lambda name: True)
    stand_in = tmp_path / "python"
    stand_in.write_text("#!/bin/sh\necho loud\necho first >&2\necho 'ValueError: no such model' >&2\nexit 1\n")
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    with pytest.raises(UserError, match="model builder failed: ValueError: no such model"):
        genai.export_genai(tmp_path, tmp_path / "o", "fp32")
    assert capfd.readouterr() == ("", "")
    with pytest.raises(UserError, match="has no bf16 for the CPU"):
        genai.export_genai(tmp_path, tmp_path / "o", "bf16")


@NEEDS_IT
def test_what_the_builder_chose_is_left_alone(exported):
    config = json.loads((exported / "genai_config.json").read_text())
    assert config["model"]["decoder"]["session_options"] == {"log_id": "onnxruntime-genai", "provider_options": []}
    assert config["model"]["context_length"] == 65 and config["model"]["eos_token_id"] == END
