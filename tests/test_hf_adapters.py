"""Text decoders of Hugging Face with PIA adapters, in every architecture: both fold modes against the naive transcription."""

from itertools import product
from pathlib import Path

import pytest
import torch
from conftest import FP32, RUN_HERE, max_error, text_prompts
from engine_stand_in import open_stand_in
from hf_models import MODELS, WINDOW, make_folder
from reference.hf_decoder import HfReference

from eas_export.backends.opening import open_runtime
from eas_export.checkpoint.architectures import ARCHITECTURES
from eas_export.generation.generate import generate
from eas_export.pipeline import build

PROMPTS = [[5, 33, 71, 2, 9, 60, 13, 5, 28, 47, 66], [8, 15, 3, 40, 52, 21, 64]]
FORCED = torch.tensor([[4, 70, 12, 31, 5, 59, 44, 23], [50, 6, 37, 1, 68, 19, 29, 55]])
REWRITTEN = (
    "gemma2",
    "smollm3",
)  # as TensorRT's engines get them: bounded scores in parts, masks for windows and lengths
SKIP = (0, 3)  # one of the layers with a window or with RoPE, where others have none, stays


def test_it_is_short_and_shares_no_code():
    text = (Path(__file__).parent / "reference" / "hf_decoder.py").read_text()
    assert len(text.splitlines()) <= 120
    assert "eas_export" not in text


def test_every_architecture_is_here():
    assert MODELS.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize("model_type", MODELS)
def test_both_fold_modes_equal_the_naive_transcription(tmp_path, model_type):
    """After prompts that are longer than a window, and after 8 forced tokens: one prompt at a time, or both at once."""
    assert min(map(len, PROMPTS)) > WINDOW
    folder = make_folder(tmp_path / "ckpt", model_type, SKIP)
    reference = HfReference(folder)
    want = [reference.run(ids, forced) for ids, forced in zip(PROMPTS, FORCED.tolist())]
    spread = want[0]["logits"].std()
    for fold, groups in {"weights": ([0], [1]), "lowrank": ([0, 1],)}.items():
        bundle = build(folder, tmp_path / fold, verify=False, fold=fold, max_prompt=32, max_tokens=48).bundle
        assert bundle.manifest.plan.skipped == SKIP
        runtimes = [open_runtime(bundle, backend) for backend in RUN_HERE]
        if model_type in REWRITTEN:
            runtimes.append(open_stand_in(bundle).runtime)
        for runtime, rows in product(runtimes, groups):
            prompts = text_prompts(*(PROMPTS[row] for row in rows))
            got = generate(runtime, prompts, forced=FORCED[rows].T)
            for i, row in enumerate(rows):
                assert max_error(got.logits[:, i], want[row]["logits"]) < FP32 * spread
                assert max_error(got.state["router"][i], want[row]["router"]) < 1e-5
                assert max_error(got.state["pooled"][i], want[row]["pooled"]) < 2e-5


def test_verification_folds_into_linear_layers_with_biases(tmp_path):
    """Of q, k and v, and of gate and up: the PyTorch steps of `verify` fold by themselves."""
    built = build(make_folder(tmp_path / "ckpt", "llama", SKIP), tmp_path / "out", max_prompt=32, max_tokens=48)
    assert built.report.verdict == "same as the checkpoint", built.report.first_divergence
