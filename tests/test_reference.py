"""A second, naive transcription of the method agrees with the published code and with the network, on random models too."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FP32, max_error
from reference.lavin import LavinReference
from synthetic import Shape, write_checkpoint

from eas_export.backends.pytorch import open_network
from eas_export.core.limits import Limits
from eas_export.core.plan import choose_plan
from eas_export.core.precision import PRECISIONS
from eas_export.families import detect
from eas_export.families.contract import Sources
from eas_export.generation.generate import generate
from eas_export.inputs.npz import make_inputs
from eas_export.networks.parameters import network_parameters
from eas_export.networks.prune import prune


def test_it_is_short_and_shares_no_code():
    text = (Path(__file__).parent / "reference" / "lavin.py").read_text()
    assert len(text.splitlines()) <= 200
    assert "eas_export" not in text


@pytest.mark.parametrize("run", ["img1", "txt1"])
def test_reference_equals_the_published_code(lavin_case, run):
    arrays = lavin_case.arrays(run)
    reference = LavinReference(lavin_case.folder)
    image = arrays["pixel_values"][0] if "pixel_values" in arrays else None
    got = reference.run(arrays["input_ids"][0].tolist(), image, arrays["forced_tokens"][:, 0].tolist())
    golden = lavin_case.golden
    assert max_error(got["logits"], golden[f"{run}/v3/logits"][:, 0]) < FP32
    assert max_error(got["hidden"], golden[f"{run}/v3/hidden"][:, 0]) < FP32
    assert max_error(got["router"], golden[f"{run}/v3/router"][:, 0]) < 1e-5


RANDOM_SHAPES = {
    "two image tokens": dict(clip_blocks=8, skip=(0, 3), layers=4),
    "three image tokens, hot router": dict(clip_blocks=12, skip=(2, 1), layers=4, temperature=0.7),
    "two shards, scaled": dict(shards=2, skip=(1,), layers=3, scale=0.4, norm_eps=1e-5),
    "all skipped": dict(skip=(0, 1, 2), layers=3, rank=2),
    "none skipped, wide adapters": dict(skip=(), layers=2, rank=16, heads=2),
    "unused mlp adapters": dict(skip=(1,), layers=2, visual_adapter_type="normal"),
}


@pytest.mark.parametrize("fold", ["weights", "lowrank"])
@pytest.mark.parametrize("title", RANDOM_SHAPES)
def test_network_equals_reference_on_random_models(tmp_path, title, fold):
    sizes = dict(
        dim=64, heads=4, vocab=64, multiple_of=32, rank=4, hidden_proj=8, clip_width=64, clip_blocks=4, clip_image=28
    )
    shape = Shape("tiny", **(sizes | RANDOM_SHAPES[title]))
    folder = write_checkpoint(tmp_path / "ckpt", shape, seed=len(title))
    random = np.random.default_rng(len(title))
    family = detect(folder)
    checkpoint = family.load(Sources(folder))
    plan = choose_plan(shape.layers, checkpoint.evidence, explicit="none" if not shape.skip else None)
    parameters = network_parameters(prune(checkpoint, plan), plan, PRECISIONS["fp32"], Limits())
    readers = {name: tensor.read for name, tensor in parameters.items()}
    runtime = open_network(checkpoint.config, plan, PRECISIONS["fp32"], Limits(), fold, readers)
    reference = LavinReference(folder)
    for image in (None, random.standard_normal((3, 28, 28)).astype(np.float32)):
        ids = random.integers(1, 64, 11)
        if image is not None:
            ids[3 : 3 + shape.clip_blocks // 4] = 0
        forced = random.integers(0, 64, (5, 1))
        arrays = {"input_ids": ids[None], "prompt_lengths": np.array([len(ids)]), "forced_tokens": forced}
        if image is not None:
            arrays |= {"pixel_values": image[None], "image_row": np.array([0])}
        inputs = make_inputs(arrays, checkpoint.config, family, title)
        got = generate(runtime, inputs.prompts, forced=inputs.forced_tokens)
        want = reference.run(ids.tolist(), image, arrays["forced_tokens"][:, 0].tolist())
        scale = max(1.0, float(want["logits"].std()))
        assert max_error(got.logits[:, 0], want["logits"]) < FP32 * scale
        assert max_error(got.state["router"][0], want["router"]) < 1e-5
        if plan.skipped:
            assert max_error(got.state["pooled"][0], want["pooled"][list(plan.skipped)]) < 1e-5 * max(
                1.0, float(got.state["pooled"].abs().max())
            )
        for layer in range(plan.sites if fold == "weights" else 0):
            weight, bias = reference.fold(layer, want["router"][layer], want["pooled"][layer] if plan.skipped else None)
            parts = [name for name in got.folded if name.startswith(f"folded.layers.{layer}.")]
            assert max_error(torch.cat([got.folded[n] for n in parts if n.endswith("weight")]), weight) < FP32
            assert max_error(torch.cat([got.folded[n] for n in parts if n.endswith("bias")]), bias) < FP32
