"""A decoder without a vision tower: the seam for models that read text alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SHORT, TINY, llava_golden_case, max_error, text_prompts, with_image

import eas_export
from eas_export import UserError, pipeline
from eas_export.core.configs.decoder import ModelConfig
from eas_export.families import get_family
from eas_export.families.processing.question import Question
from eas_export.families.processing.tokenizer import Tokenizer
from eas_export.generation.generate import generate
from eas_export.inputs.npz import read_inputs
from eas_export.inputs.questions import make_prompt

CASE = llava_golden_case("half")
FOLDS = ("weights", "lowrank")
PROMPTS = text_prompts([1, 5, 9, 30, 7])


@pytest.fixture
def text_only(monkeypatch, bundle_of):
    """The golden checkpoint as if it had no tower, for every build here."""
    whole = CASE.checkpoint
    tensors = {name: tensor for name, tensor in whole.tensors.items() if not name.startswith("vision.")}
    checkpoint = replace(whole, config=whole.config.model_copy(update={"vision": None}), tensors=tensors)
    for fold in FOLDS:
        bundle_of(CASE, fold=fold)  # what is shared is built from the whole one
    monkeypatch.setattr(pipeline, "load_checkpoint", lambda *arguments: checkpoint)


@pytest.mark.parametrize("fold", FOLDS)
def test_it_answers_as_the_model_with_a_tower_does_on_text(bundle_of, text_only, tmp_path, fold):
    bundle = pipeline.build(CASE.folder, tmp_path / "o", fold=fold, verify=False, **SHORT).bundle
    assert "vision" not in bundle.manifest.graphs
    assert [t.name for t in bundle.manifest.graphs["prefill"].inputs[:2]] == ["input_ids", "prompt_lengths"]
    assert not any(name.startswith("vision.") for name in bundle.store.entries)
    forced = torch.tensor([[4], [17], [3]])
    ours, theirs = (
        generate(eas_export.open_runtime(each, "onnxruntime"), PROMPTS, forced=forced).logits
        for each in (bundle, bundle_of(CASE, fold=fold))
    )
    assert max_error(ours, theirs.numpy()) < 1e-5
    assert eas_export.verify(bundle).verdict == "self-consistent"
    assert eas_export.inspect(bundle.path).limits == {"max_batch": 1 if fold == "weights" else 8} | SHORT


def test_images_are_refused(text_only, tmp_path):
    bundle = pipeline.build(CASE.folder, tmp_path / "o", verify=False, **SHORT).bundle
    runtime = eas_export.open_runtime(bundle, "onnxruntime")
    size = CASE.checkpoint.config.vision.image_size
    with pytest.raises(UserError, match="the model takes text only"):
        generate(runtime, with_image(PROMPTS, 0, 2, torch.zeros(3, size, size)), forced=torch.tensor([[4]]))
    arrays = {
        "input_ids": np.array([[1, 5]]),
        "pixel_values": np.zeros((1, 3, size, size), np.float32),
        "image_row": [0],
    }
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match="the model takes text only"):
        read_inputs(tmp_path / "x.npz", bundle.manifest.config, get_family("llava"))
    tokenizer = Tokenizer(TINY.checkpoint.tokenizer, 1 << 20)
    with pytest.raises(UserError, match="the model takes text only"):
        make_prompt(
            Question(prompt="x", image="cat.png"), bundle.manifest.config, get_family("llava"), tokenizer, "here"
        )
    with pytest.raises(UserError, match=r"does not apply to this kind of network \(--max-images\)"):
        pipeline.build(CASE.folder, tmp_path / "p", max_images=2, verify=False, **SHORT)


def test_a_modality_token_needs_a_tower():
    config = CASE.checkpoint.config.model_dump() | {"vision": None, "modality_token": True}
    with pytest.raises(ValueError, match="modality_token, and routers that depend on it, need a vision tower"):
        ModelConfig(**config)
