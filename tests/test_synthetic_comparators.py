"""The random checkpoints of the compared systems: laid out as the published code's files are, and in every shape what is built of them equals
the naive transcriptions."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FP32, GOLDEN, max_error
from meter_cases import opened, run_form
from reference.comparators import (
    LavinDasReference,
    LavinLoraReference,
    LavinRouterReference,
    MeterDasReference,
    MeterFullReference,
)
from synthetic import Shape, clip_shapes, llama_shapes, write_checkpoint
from synthetic_comparators import lavin, lavin_das, lavin_lora, meter_das, meter_full
from synthetic_meter import MeterShape, write_meter

from eas_export.backends.opening import open_runtime
from eas_export.families import get_family
from eas_export.generation.generate import generate
from eas_export.inputs.npz import make_inputs
from eas_export.pipeline import build

COMPARATORS = GOLDEN / "comparators"

# CLIP's text side and RoBERTa's counted positions
UNREAD = ("vit_model.positional_embedding", "vit_model.ln_final.", "text_transformer.embeddings.position_ids")


def saved(file: Path) -> dict:
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(file, weights_only=True)


def layout(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Key -> shape"""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


LAVINS = {
    "lavin/router": lavin,
    "lavin/scaled": lavin,
    "lavin-das/mid": lavin_das,
    "lavin-das/first_search": lambda shape: lavin_das(shape, search=True),
    "lavin-lora/r4": lavin_lora,
    "lavin-lora/r2": lambda shape: lavin_lora(shape, rank=2),
}


@pytest.mark.parametrize("name", LAVINS)
def test_lavins_files_are_the_published_ones(name):
    golden = COMPARATORS / name
    meta = json.loads((golden / "meta.json").read_text())
    same = ("dim", "layers", "heads", "vocab", "multiple_of", "hidden_proj", "clip_width", "clip_blocks", "norm_eps")
    sizes = {key: meta[key] for key in same} | {"rank": meta["adim"], "skip": tuple(meta["skip"] or ())}
    sizes |= {"temperature": meta["t"], "scale": meta["s"]}
    shape = Shape("7B", clip_patch=meta["clip_patch"], clip_image=meta["clip_res"], **sizes)
    trained, published = LAVINS[name](shape), saved(golden / "checkpoint-19.pth")
    assert trained.sizes == layout(published["model"])
    assert trained.args == vars(published["args"])
    assert llama_shapes(shape) == layout(saved(golden / "weights" / "7B" / "consolidated.00.pth"))
    assert clip_shapes(shape) == layout(saved(golden / "clip" / "ViT-tiny-7.pth"))


METERS = {
    "meter/vqa_full": meter_full,
    "meter/nlvr2_full": meter_full,
    "meter-das/vqa_train": lambda shape: meter_das(shape, [1, 4, 6, 9]),
    "meter-das/irtr_search": lambda shape: meter_das(shape, [11, 4, 2, 6], search=True),
}


@pytest.mark.parametrize("name", METERS)
def test_meters_files_are_the_published_ones(name):
    golden = COMPARATORS / name
    meta = json.loads((golden / "meta.json").read_text())
    said = meta["sizes"]
    same = ("heads", "vocab", "patch", "image", "vit_width", "vit_blocks", "text_layers")
    sizes = {key: said[key] for key in same} | {"dim": said["hidden"], "layers": said["num_top_layer"], "ffn": 64}
    sizes |= {"text_ffn": said["text_intermediate"], "text_length": said["text_len"], "positions": 20}
    sizes |= {"rank": said["adapter"] or 2, "skipped_rank": said["layer_adapter"] or 2}
    answers = {"vqa": 17, "nlvr2": 2, "irtr": 1}[meta["task"]]
    shape = MeterShape({"irtr": "retrieval"}.get(meta["task"], meta["task"]), answers=answers, **sizes)
    state, published = METERS[name](shape), saved(golden / "last.ckpt")
    drawn, there = (
        {key: size for key, size in sizes.items() if not key.startswith(UNREAD)}
        for sizes in (state.sizes, layout(published["state_dict"]))
    )
    assert drawn == there
    config = published["hyper_parameters"]["config"]
    assert state.settings == {key: config[key] for key in state.settings}
    for key, value in state.values.items():
        assert value.any() == published["state_dict"][key].any()


TINY = dict(dim=64, heads=4, vocab=64, multiple_of=32, rank=4, hidden_proj=8, clip_width=64, clip_blocks=4)
TINY |= dict(clip_image=28, layers=3, skip=(1,))
WIDE = TINY | dict(layers=2, heads=2, rank=16, skip=(0,), temperature=0.7, scale=0.4, clip_blocks=8, shards=2)


def drawn(shape: Shape, image: bool) -> tuple[list[int], np.ndarray | None, list[int]]:
    """A prompt's ids, its image, and the tokens fed after it"""
    random = np.random.default_rng(7)
    ids, pixels = random.integers(1, shape.vocab, 9), random.standard_normal((3, 28, 28)).astype(np.float32)
    ids[3 : 3 + (shape.clip_blocks // 4 if image else 0)] = 0
    return ids.tolist(), pixels if image else None, random.integers(0, shape.vocab, 2).tolist()


def test_lavins_adapters_fold_offline(tmp_path):
    """With its own modality's router weights, a decoder without adapters gives the same logits; with the other's it does not."""
    shape = Shape("tiny", **WIDE)
    folder = write_checkpoint(tmp_path / "ckpt", shape, trained=lavin(shape))

    class Folded(LavinRouterReference):
        def adapted(self, name: str, n: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            return super().adapted(name, n, w) if name.startswith("visual.") else n

    wanted = [LavinRouterReference(folder).run(*drawn(shape, image)) for image in (False, True)]
    for modality in (False, True):
        folded = Folded(folder)
        for i in range(shape.layers):
            weights, biases = folded.fold(i, wanted[modality]["router"][i])
            for letter, weight, bias in zip("qkv", weights.chunk(3), biases.chunk(3)):
                folded.weights[f"layers.{i}.attention.w{letter}.weight"] = weight
                folded.weights[f"layers.{i}.attention.w{letter}.bias"] = bias
        for image in (False, True):
            error = max_error(folded.run(*drawn(shape, image))["logits"], wanted[image]["logits"])
            assert error < FP32 if modality == image else error > 0.01


RANDOM_LAVINS = {
    "LaVIN, three image tokens, hot router": (
        lavin,
        LavinRouterReference,
        "weights",
        dict(clip_blocks=12, temperature=0.3),
    ),
    "LaVIN, two shards, scaled": (lavin, LavinRouterReference, "lowrank", WIDE),
    "DAS, the last layers, wide adapters": (lavin_das, LavinDasReference, "lowrank", dict(skip=(2, 1), rank=16)),
    "LoRA": (lambda shape: lavin_lora(shape, rank=6), LavinLoraReference, "none", dict(clip_blocks=8)),
    "DAS, all but one": (lavin_das, LavinDasReference, "weights", dict(skip=(0, 2), scale=0.4)),
    "DAS, every layer": (lavin_das, LavinDasReference, "lowrank", dict(skip=(0, 1, 2))),
}


@pytest.mark.parametrize("title", RANDOM_LAVINS)
def test_bundles_equal_the_reference_on_random_models(tmp_path, title):
    """Row by row, in one batch of both modalities and of different lengths where the bundle takes batches."""
    trained, system, fold, sizes = RANDOM_LAVINS[title]
    shape = Shape("tiny", **(TINY | sizes))
    folder = write_checkpoint(tmp_path / "ckpt", shape, seed=len(title), trained=trained(shape))
    bundle = build(folder, tmp_path / "out", verify=False, fold=fold, max_prompt=64, max_tokens=128, max_batch=2).bundle
    family, config = get_family("lavin"), bundle.manifest.config
    runtime = open_runtime(bundle, "onnxruntime")
    (text, _, forced), (seen, pixels, _) = drawn(shape, False), drawn(shape, True)
    rows = [(text + text[:4], None), (seen, pixels)]
    reference = system(folder)
    assert reference.skip == (set(shape.skip) if system is LavinDasReference else set())
    want = [reference.run(ids, image, forced)["logits"] for ids, image in rows]
    assert all(0.3 < float(logits.std()) < 3 for logits in want)
    for batch in [[0], [1]] if fold == "weights" else [[0, 1]]:
        length = max(len(rows[row][0]) for row in batch)
        arrays = {"input_ids": np.array([rows[row][0] + [0] * (length - len(rows[row][0])) for row in batch])}
        arrays |= {"prompt_lengths": np.array([len(rows[row][0]) for row in batch])}
        arrays |= {"forced_tokens": np.array([forced] * len(batch)).T}
        if 1 in batch:
            arrays |= {"pixel_values": pixels[None], "image_row": np.array([batch.index(1)])}
        inputs = make_inputs(arrays, config, family, title)
        got = generate(runtime, inputs.prompts, forced=inputs.forced_tokens).logits
        for place, row in enumerate(batch):
            assert max_error(got[:, place], want[row]) < FP32


TINY_METER = dict(dim=48, heads=4, layers=2, ffn=96, rank=6, skipped_rank=10, vocab=60, positions=20, text_layers=2)
TINY_METER |= dict(text_ffn=64, vit_width=64, vit_blocks=2, patch=8, image=24, text_length=9)
METER_FORMS = {
    "full, vqa": (dict(answers=5), meter_full, None),
    "full, nlvr2": (dict(task="nlvr2", answers=2), meter_full, None),
    "full, retrieval": (dict(task="retrieval", answers=1, layers=1), meter_full, None),
    "das": (dict(answers=5), lambda shape: meter_das(shape, [3, 0]), {0, 3}),
    "das, everything": (dict(task="nlvr2", answers=2), lambda shape: meter_das(shape, range(4)), {0, 1, 2, 3}),
    "das, nothing": (dict(answers=5, heads=2), lambda shape: meter_das(shape, []), set()),
    "das, search": (dict(task="retrieval", answers=1), lambda shape: meter_das(shape, [2, 1], search=True), {1, 2}),
}


@pytest.mark.parametrize("title", METER_FORMS)
def test_meters_of_any_shape_run_and_the_network_is_equal(tmp_path, title):
    sizes, state, skip = METER_FORMS[title]
    shape = MeterShape(**(TINY_METER | sizes))
    file = write_meter(tmp_path, shape, state=state(shape))
    if skip is None:
        reference = MeterFullReference(file, 4)
    else:
        reference = MeterDasReference(file, 4)
        assert reference.skip == skip
    random = np.random.default_rng(3)
    masks = (np.arange(9) < [[6], [9]]).astype(np.int64)
    inputs = {"text_ids": np.where(masks, random.integers(2, 60, (2, 9)), 1), "text_masks": masks}
    images = random.standard_normal((2, 2, 3, 24, 24)).astype(np.float32)
    inputs |= {"pixel_values": images[:, 0]}
    inputs |= {"pixel_values_1": images[:, 1]} if shape.task == "nlvr2" else {}
    inputs |= {"text_index": np.arange(2), "image_index": np.arange(2)} if shape.task == "retrieval" else {}
    looked_at = images if shape.task == "nlvr2" else images[:, :1]
    rows = [reference.run(*map(torch.tensor, (inputs["text_ids"][i], masks[i], *looked_at[i]))) for i in range(2)]
    assert 0.1 < float(rows[0]["cls_feats"].std()) < 2
    for form in ("folded", "onnxruntime"):
        got = run_form(form, *opened(file, sorted(skip or ()), 4), inputs)
        assert got.keys() == {"cls_feats", "scores" if shape.task == "retrieval" else "logits"}
        for name, value in got.items():
            assert max_error(value, torch.stack([row[name] for row in rows])) < FP32, (form, name)
