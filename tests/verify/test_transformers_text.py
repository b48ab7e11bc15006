"""verify --against transformers on text decoders of Hugging Face: every architecture is the same to transformers and to us, and what a loader
misreads is found at its first layer."""

import json
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hf_models import MODELS, make_folder
from safetensors.torch import load_file, save_file

from eas_export import build, verify
from eas_export.checkpoint.architectures import ARCHITECTURES
from eas_export.core.errors import UserError
from eas_export.families.contract import Sources
from eas_export.families.witnesses.hf import open_witness

load = import_module("eas_export.families.hf.load")  # the package has a function of this name
WITNESS = "transformers"
LIMITS = {"max_prompt": 24, "max_tokens": 32}  # longer than the windows


def witnessed(folder: Path, out: Path, **options):
    """The report of a build of this folder beside transformers, and its witness's step."""
    bundle = build(folder, out, verify=False, **LIMITS, **options).bundle
    report = verify(bundle, folder, steps=2, against=WITNESS)
    return report, report.steps[0]


@pytest.mark.parametrize("model_type", MODELS)
def test_every_architecture_is_the_same_to_transformers(model_type, tmp_path):
    """One layer's attention is not in the files, as training with PIA adapters leaves it."""
    folder = make_folder(tmp_path / "ckpt", model_type, adapters=(1,))
    report, step = witnessed(folder, tmp_path / "a.bundle", fold="lowrank")
    assert report.verdict == "same as the checkpoint", report.first_divergence
    assert step.name == WITNESS and "without the attentions of layers 1, which the files lack" in step.what
    assert all(line.stage == "logits" for lines in step.cases.values() for line in lines)
    blocks = [block for block in report.blocks if block.step == WITNESS]
    assert [(block.layer, block.kind) for block in blocks] == [(i, "skipped" if i == 1 else "kept") for i in range(4)]


def test_long_rope_is_chosen_by_the_limits_of_the_bundle(tmp_path):
    """transformers chooses by the length of each prompt."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 500.0,
        "short_factor": [1.0] * 3,
        "long_factor": [1.0, 2.0, 3.0],
    }
    longer = {"rope_parameters": rope, "original_max_position_embeddings": 16, "head_dim": 12}
    report, step = witnessed(make_folder(tmp_path / "ckpt", "phi3", **longer), tmp_path / "a.bundle")
    assert report.verdict == "same as the checkpoint", report.first_divergence
    assert {"shortest", "longest"} <= set(step.cases)


def read_otherwise(**changes: Callable[[Any], Any]) -> Callable[[pytest.MonkeyPatch], None]:
    """Fields of config.json read as other values: field -> (the right value) -> another."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        def misread(folder: Path) -> Any:
            right = read_config(folder)
            return right.model_copy(update={name: change(getattr(right, name)) for name, change in changes.items()})

        read_config = load.read_config
        monkeypatch.setattr(load, "read_config", misread)

    return plant


def without_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "gemma", replace(ARCHITECTURES["gemma"], fixed={}))


def other_theta(ropes: dict[str, Any]) -> dict[str, Any]:
    return {kind: rope.model_copy(update={"rope_theta": 600.0}) for kind, rope in ropes.items()}


MISREAD = {  # fault of a loader -> model, how it is planted, and the layer and stage at which the witness finds it
    "another theta": ("llama", read_otherwise(ropes=other_theta), 0, "block"),
    "norms without their offset": ("gemma", without_offset, 0, "block"),
    "a window in another layer": ("ministral", read_otherwise(layer_types=lambda t: (*t[:2], t[3], t[3])), 2, "block"),
    "logits without their softcap": (
        "gemma2",
        read_otherwise(final_logit_softcapping=lambda cap: None),
        None,
        "logits",
    ),
}


@pytest.mark.parametrize("fault", MISREAD)
def test_what_a_loader_misreads_is_found_by_the_witness_alone(fault, monkeypatch, tmp_path):
    """Both sides of every other step have the same fault."""
    model_type, plant, layer, stage = MISREAD[fault]
    folder = make_folder(tmp_path / "ckpt", model_type)
    plant(monkeypatch)
    report, _ = witnessed(folder, tmp_path / "a.bundle")
    found = report.first_divergence
    assert (found.step, found.layer, found.stage) == (WITNESS, layer, stage)
    assert report.exit_code == 1 and all(
        line.ok for other in report.steps[1:] for lines in other.cases.values() for line in lines
    )


def test_no_code_of_the_folder_is_run(tmp_path):
    """The folder's own class would write a file."""
    folder = make_folder(tmp_path / "ckpt", "llama")
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
    (folder / "config.json").write_text(
        json.dumps(
            config
            | {
                "auto_map": names,
                "_attn_implementation": "kernels-community/flash-attn",
                "quantization_config": {"quant_method": "x"},
            }
        )
    )
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    witness = open_witness(Sources(folder))
    assert witness.without_attention == () and not (tmp_path / "ran").exists()


def test_a_folder_that_lacks_a_tensor_is_no_witness(tmp_path):
    folder = make_folder(tmp_path / "ckpt", "qwen3")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"transformers finds no tensor for model\.layers\.1\.mlp\.up_proj\.weight"):
        open_witness(Sources(folder))
