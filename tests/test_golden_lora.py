"""LaVIN-LoRA equals the published code, without its bugs: prefill and five decode steps. Nothing of the LoRA is left in the network."""

import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FP32, RUN_HERE, max_error
from reference.files import read_lavin
from safetensors import safe_open
from test_golden_comparators import ComparatorCase, case_of

from eas_export.backends.opening import open_runtime
from eas_export.core.errors import UserError
from eas_export.core.limits import Limits
from eas_export.core.precision import PRECISIONS
from eas_export.families import load_checkpoint
from eas_export.families.contract import Sources
from eas_export.generation.generate import generate, join_generations
from eas_export.networks.parameters import network_parameters
from eas_export.networks.prune import prune
from eas_export.pipeline import build, verify
from eas_export.verify.decoder_samples import single_rows
from eas_export.verify.reference import Reference
from eas_export.verify.report import Verdict

load = import_module("eas_export.families.lavin.load")  # the package has a function of this name
R4 = case_of("lavin-lora", "r4")


@pytest.fixture(scope="module", params=[R4, case_of("lavin-lora", "r2")], ids=lambda case: case.name)
def case(request) -> ComparatorCase:
    return request.param


@pytest.mark.parametrize("backend", RUN_HERE)
@pytest.mark.parametrize("run", ["img1", "txt1", "b3"])
def test_a_bundle_equals_the_published_code(case, bundle_of, backend, run):
    inputs = case.prompts(run)
    got = generate(open_runtime(bundle_of(case, fold="none"), backend), inputs.prompts, forced=inputs.forced_tokens)
    assert max_error(got.logits, case.logits(run)) < FP32
    assert np.array_equal(got.tokens, case.golden[f"{run}/greedy_tokens"])
    if len(rows := case.image_rows(run)):
        want = case.golden[f"{run}/image_embeds"][rows].reshape(got.image_features.shape)
        assert max_error(got.image_features, want) < FP32


@pytest.mark.parametrize("run", ["img1", "txt1", "b3"])
def test_the_ledgers_reference_equals_the_published_code(case, run):
    """Block by block, rows and steps at once."""
    inputs, config, limits = case.prompts(run), case.checkpoint.config, Limits()
    tensors = network_parameters(prune(case.checkpoint, case.plan), case.plan, PRECISIONS["fp32"], limits)
    reference = Reference(config, case.plan, limits, {name: tensor.read for name, tensor in tensors.items()})
    rows = single_rows(inputs.prompts, config.vision.tokens)
    forced = [inputs.forced_tokens[:, row : row + 1] for row in range(len(rows))]
    assert max_error(join_generations(reference.read(rows, forced)).logits, case.logits(run)) < FP32


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_it_verifies_and_finds_planted_faults(bundle_of, precision):
    """Against transformers, too, where the pairs are merged by a formula of its own into Meta's weights."""
    bundle = bundle_of(R4, precision, fold="none")
    report = verify(bundle, R4.folder, steps=2, negative_controls=precision == "fp32", against="transformers")
    assert report.verdict == Verdict.SAME, report.first_divergence
    assert report.steps[0].name == "transformers" and {block.kind for block in report.blocks} == {"kept"}
    planted = {control.name: control for control in report.controls if not control.why_not}
    assert all(control.ok for control in planted.values()), planted
    assert precision == "fp16" or {"transposed weight", "position off by one"} <= set(planted)


def test_a_lora_that_is_not_merged_would_be_found_by_the_witness(tmp_path, monkeypatch):
    monkeypatch.setattr(load, "merge_pairs", lambda tensors, *_: {k: t for k, t in tensors.items() if "lora" not in k})
    bundle = build(R4.folder, tmp_path / "o", verify=False, **R4.limits).bundle
    found = verify(bundle, R4.folder, steps=2, against="transformers").first_divergence
    assert (found.step, found.layer, found.stage) == ("transformers", 0, "block")


def test_nothing_of_the_lora_is_left(case, bundle_of):
    """No adapter, no pair and no modality token; what is merged is not rounded to the base's fp16."""
    bundle = bundle_of(case, fold="none")
    config = bundle.manifest.config
    assert not config.has_adapters and config.vision.adapter is None and not config.modality_token
    assert case.checkpoint.system == "LaVIN-LoRA" and "lora_A" in case.checkpoint.known_by
    with safe_open(bundle.path / "weights.safetensors", "pt") as store:
        names = {*store.keys()}
    assert not [name for name in names if "lora" in name or "adapter" in name or "modality" in name]
    weights, _, _ = read_lavin(case.folder)
    name = "layers.3.attention.wo"
    a, b, base = (weights[f"{name}.{part}"] for part in ("lora_A", "lora_B", "weight"))
    want = base.double() + 16 / len(a) * torch.einsum("or,ri->oi", b.double(), a.double())
    assert max_error(case.checkpoint.tensors["layers.3.attention.o.weight"].read().double(), want) < 1e-6


def damaged(case: ComparatorCase, folder: Path, **changes: torch.Tensor | None) -> Path:
    """The case with tensors of its checkpoint changed or, where None, removed; "__" for "." """
    shutil.copytree(case.folder, folder)
    (file,) = folder.glob("checkpoint-*.pth")
    saved = torch.load(file, weights_only=False)
    saved["model"] |= {f"module.{key.replace('__', '.')}": tensor for key, tensor in changes.items()}
    saved["model"] = {key: tensor for key, tensor in saved["model"].items() if tensor is not None}
    torch.save(saved, file)
    return folder


DAMAGED = {
    "half a pair": (dict(layers__2__attention__wk__lora_B=None), "missing key layers.2.attention.wk.lora_B, expected with"),
    "another width": (dict(layers__0__attention__wv__lora_A=torch.ones(4, 5)), r"wv.lora_A has shape \[4, 5\], expected \[\d, 32\]"),
    "another rank": (dict(layers__1__attention__wq__lora_A=torch.ones(7, 32)), r"wq.lora_A has shape \[7, 32\]"),
    "of the FFN": (dict(layers__0__feed_forward__w1__lora_A=torch.ones(4, 32)), "unknown key 'layers.0.feed_forward.w1.lora_A'"),
}  # fmt: skip


@pytest.mark.parametrize("title", DAMAGED)
def test_what_does_not_fit_is_named(title, tmp_path):
    changes, said = DAMAGED[title]
    with pytest.raises(UserError, match=said) as error:
        load_checkpoint(Sources(damaged(R4, tmp_path / "data", **changes)))
    assert "checkpoint-19.pth" in error.value.where


def test_no_scale_nor_temperature_is_asked_for(tmp_path):
    """They are of adapters, which it has not."""
    folder = damaged(R4, tmp_path / "data")
    (file,) = folder.glob("checkpoint-*.pth")
    torch.save(torch.load(file, weights_only=False)["model"], file)
    assert load_checkpoint(Sources(folder)).config == R4.checkpoint.config
