"""LLaVA-EAS models of other shapes than the goldens': against the naive transcription, and without skips and adapters against
transformers' own LLaVA."""

from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FP32, RUN_HERE, max_error
from engine_stand_in import open_stand_in
from reference.files import read_folder
from reference.llava import IMAGE, LlavaReference
from synthetic_llava import LlavaShape, write_llava

from eas_export.backends.opening import open_runtime
from eas_export.backends.runtime import Runtime
from eas_export.bundle.bundle import Bundle
from eas_export.families import get_family, load_checkpoint
from eas_export.families.contract import Sources
from eas_export.generation.generate import Generation, generate
from eas_export.inputs.npz import make_inputs
from eas_export.pipeline import build

SHAPES = {
    "grouped keys and values, layer 0 skipped": dict(heads=8, kv_heads=2, skip=(0, 2), form="safetensors"),
    "one head of keys and values, tied": dict(kv_heads=1, skip=(3,), tied=True, form="shards", theta=5e5),
    "search stage, gelu tower": dict(skip=(1, 2), search=True, activation="gelu", norm_eps=1e-3, kept_rank=12),
    "all skipped": dict(skip=(0, 1, 2, 3), skipped_rank=2, form="shards of bin"),
    "none skipped": dict(clip_blocks=4, clip_width=32, clip_heads=4, kept_rank=16),
}


def generated(runtime: Runtime, ids: list[int], images: np.ndarray, forced: np.ndarray) -> Generation:
    arrays = {"input_ids": np.array([ids]), "forced_tokens": forced[:, None]}
    if len(images):
        arrays |= {"pixel_values": images, "image_row": np.zeros(len(images), np.int64)}
    inputs = make_inputs(arrays, runtime.config, get_family(runtime.config.family), "test")
    return generate(runtime, inputs.prompts, forced=inputs.forced_tokens)


def runtimes(bundle: Bundle) -> list[Runtime]:
    """On every backend that runs here, and as TensorRT is given the graphs."""
    return [*(open_runtime(bundle, backend) for backend in RUN_HERE), open_stand_in(bundle).runtime]


@pytest.mark.parametrize("title, fold", zip(SHAPES, cycle(("weights", "lowrank"))))
def test_bundles_equal_the_reference_on_random_models(tmp_path, title, fold):
    """With no image, one, and three in one prompt."""
    shape = LlavaShape(**SHAPES[title])
    folder = write_llava(tmp_path / "ckpt", shape, seed=len(title))
    skip = ",".join(map(str, shape.skip)) if shape.search else None
    options = dict(fold=fold, skip=skip, opset=21 if shape.kv_heads == 1 else 24, max_images=3, max_prompt=64)
    bundle = build(folder, tmp_path / "out", verify=False, **options).bundle
    assert bundle.manifest.plan.skipped == shape.skip
    reference, random = LlavaReference(folder, shape.skip), np.random.default_rng(len(title))
    for images in (0, 1, 3):
        pixels = random.standard_normal((images, 3, 14, 14)).astype(np.float32)
        ids, forced = random.integers(1, shape.vocab, 12), random.integers(0, shape.vocab, 4)
        ids[[1, 5, 6][:images]] = IMAGE  # the last two stand together
        want = reference.run(ids.tolist(), pixels, forced)
        for runtime in runtimes(bundle):
            got = generated(runtime, ids.tolist(), pixels, forced)
            assert max_error(got.logits[:, 0], want["logits"]) < FP32
            assert max_error(got.state["router"][0], want["router"]) < 1e-5
            if shape.skip:
                assert max_error(got.state["pooled"][0], want["pooled"][list(shape.skip)]) < 2e-5
            if images:
                assert max_error(got.image_features, want["image_embeds"].flatten(0, 1)) < FP32


def transformers_llava(folder: Path, shape: LlavaShape):
    """transformers' model with the folder's weights; its image placeholder is the last token id."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    tower = CLIPVisionConfig(
        hidden_size=shape.clip_width,
        intermediate_size=shape.clip_mlp,
        num_hidden_layers=shape.clip_blocks,
        num_attention_heads=shape.clip_heads,
        image_size=shape.clip_image,
        patch_size=shape.clip_patch,
    )
    text = LlamaConfig(
        hidden_size=shape.dim,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=shape.vocab,
        rms_norm_eps=shape.norm_eps,
    )
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=tower, text_config=text, image_token_id=shape.vocab - 1, image_token_index=shape.vocab - 1
        )
    )
    theirs = {}
    for name, tensor in (read_folder(folder) | read_folder(folder / "vision_tower")).items():
        if "adapter" in name or "inv_freq" in name:
            continue
        name = name.replace("model.mm_projector.0", "model.multi_modal_projector.linear_1")
        name = name.replace("model.mm_projector.2", "model.multi_modal_projector.linear_2")
        name = name.replace("vision_model.", "model.vision_tower.")
        for part in ("embed_tokens", "layers", "norm"):
            name = (
                name.replace(f"model.{part}.", f"model.language_model.{part}.", 1)
                if name.startswith(f"model.{part}.")
                else name
            )
        theirs[name] = tensor
    model.load_state_dict(theirs)
    return model.eval()


@pytest.mark.parametrize("kv_heads, fold", [(4, "weights"), (2, "none")])
def test_without_skips_and_adapters_it_is_transformers_llava(tmp_path, kv_heads, fold):
    """Adapters of zeros, and a plain model that has none."""
    shape = LlavaShape(kv_heads=kv_heads)
    folder = write_llava(tmp_path / "ckpt", shape, seed=kv_heads)
    tensors = {name: t * (".adapter_attn." not in name) for name, t in read_folder(folder).items()}
    if fold == "none":
        tensors = {name: tensor for name, tensor in tensors.items() if ".adapter_attn." not in name}
    torch.save(tensors, folder / "pytorch_model.bin")
    model, random = transformers_llava(folder, shape), np.random.default_rng(kv_heads)
    pixels = random.standard_normal((2, 3, 14, 14)).astype(np.float32)
    ids, forced = random.integers(1, shape.vocab - 1, 12), random.integers(0, shape.vocab - 1, 5)
    ids[[2, 7]] = IMAGE
    own = [token for i in ids for token in ([shape.vocab - 1] * 4 if i == IMAGE else [i])]
    whole = torch.tensor([[*own, *forced]])
    with torch.no_grad():
        logits = model(input_ids=whole, pixel_values=torch.from_numpy(pixels)).logits[0, len(own) - 1 :]
    bundle = build(folder, tmp_path / "out", verify=False, fold=fold, max_images=2, max_prompt=64).bundle
    for runtime in runtimes(bundle):
        got = generated(runtime, ids.tolist(), pixels, forced)
        assert max_error(got.logits[:, 0], logits) < 1e-5


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_processors_padded_batch_is_transformers(tmp_path, side):
    """Images in the order of their placeholders; a row of text; a mask that says where the tokens are."""
    shape = LlavaShape()
    folder = write_llava(tmp_path / "ckpt", shape, seed=9)
    tensors = {name: tensor for name, tensor in read_folder(folder).items() if ".adapter_attn." not in name}
    torch.save(tensors, folder / "pytorch_model.bin")
    model, random = transformers_llava(folder, shape), np.random.default_rng(9)
    pixels = random.standard_normal((3, 3, 14, 14)).astype(np.float32)
    rows = [random.integers(1, shape.vocab - 1, length).tolist() for length in (12, 7, 9)]
    rows[0][2] = rows[0][7] = rows[2][4] = IMAGE

    def padded(prompts: list[list[int]]) -> list[np.ndarray]:
        """Ids and mask"""
        fill = [[0] * (max(map(len, prompts)) - len(prompt)) for prompt in prompts]
        both = prompts, [[1] * len(prompt) for prompt in prompts]
        return [np.array([z + r if side == "left" else r + z for r, z in zip(each, fill)]) for each in both]

    whole, seen = map(
        torch.from_numpy, padded([[t for i in r for t in ([95] * 4 if i == IMAGE else [i])] for r in rows])
    )
    places = (seen.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(
            input_ids=whole, attention_mask=seen, position_ids=places, pixel_values=torch.from_numpy(pixels)
        ).logits
    want = logits[range(3), [-1] * 3 if side == "left" else seen.sum(1) - 1]
    bundle = build(folder, tmp_path / "out", verify=False, fold="none", max_batch=3, max_images=3, max_prompt=64).bundle
    ids, mask = padded(rows)
    arrays = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}
    for runtime in runtimes(bundle):
        inputs = make_inputs(arrays, runtime.config, get_family("llava"), "test")
        assert max_error(generate(runtime, inputs.prompts, 1).logits[0], want) < 1e-5


def test_the_checkpoints_own_tower_is_the_towers_folder(tmp_path):
    """Where the folder's weights are gone, the checkpoint's own keys are the same numbers; where all of it is gone, CLIP's shapes say
    the rest."""
    shape = LlavaShape(skip=(1,))
    folder = write_llava(tmp_path / "ckpt", shape)
    checkpoint = load_checkpoint(Sources(folder))
    want = {name: tensor.read().clone() for name, tensor in checkpoint.tensors.items()}
    tensors, tower = read_folder(folder), read_folder(folder / "vision_tower")
    own = {f"model.vision_tower.vision_tower.{name}": tensor for name, tensor in tower.items()}
    torch.save(tensors | own, folder / "pytorch_model.bin")
    (folder / "vision_tower" / "pytorch_model.bin").unlink()
    for gone in (None, "config.json"):
        if gone:
            (folder / "vision_tower" / gone).unlink()
            (folder / "vision_tower").rmdir()
        got = load_checkpoint(Sources(folder))
        assert got.config == checkpoint.config
        assert got.tensors.keys() == want.keys()
        assert all(torch.equal(tensor.read(), want[name]) for name, tensor in got.tensors.items())
