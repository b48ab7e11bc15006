"""`--skip none`, the model with every attention: it equals the naive transcriptions, and what was never trained in it is said."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FP32, RUN_HERE, golden_case, max_error
from reference.files import read_folder
from reference.lavin import LavinReference
from reference.llava import IMAGE, LlavaReference
from synthetic_llava import LlavaShape, write_llava

from eas_export.backends.opening import open_runtime
from eas_export.bundle.bundle import open_bundle
from eas_export.families import NO_TOKENIZER, get_family
from eas_export.generation.generate import generate
from eas_export.inputs.npz import make_inputs
from eas_export.pipeline import build

LAVIN = golden_case("half_13B")
SHAPE = LlavaShape(kv_heads=2, skip=(0, 2), form="shards", dtype=torch.bfloat16)
NEVER = "adapters before attentions that training skipped are untrained: 0, 2"


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory) -> Path:
    return write_llava(tmp_path_factory.mktemp("fine-tuned") / "ckpt", SHAPE)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """The model that fine-tuning began with, in another dtype and other shards; nobody reads its tower."""
    shape = LlavaShape(kv_heads=2, form="shards of bin", dtype=torch.float16)
    folder = write_llava(tmp_path_factory.mktemp("original") / "base-7b", shape, seed=5)
    shutil.rmtree(folder / "vision_tower")
    return folder


def whole(fine_tuned: Path, original: Path, folder: Path) -> Path:
    """What `fine_tuned` would be with the original's attentions and adapters that do nothing in every layer."""
    tensors, theirs = read_folder(fine_tuned), read_folder(original)
    like = {name.split(".adapter_attn.")[1]: t for name, t in tensors.items() if ".1.adapter_attn." in name}
    for i in SHAPE.skip:
        tensors |= {name: t for name, t in theirs.items() if name.startswith(f"model.layers.{i}.self_attn.")}
        tensors |= {f"model.layers.{i}.adapter_attn.{name}": torch.zeros_like(t) for name, t in like.items()}
    folder.mkdir()
    shutil.copy(fine_tuned / "config.json", folder)
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder


def require_equal(bundle, run, ids: list[int], pixels: np.ndarray, forced: np.ndarray) -> None:
    """run: the reference's, on a prompt's ids, image and the tokens fed after it"""
    arrays = {"input_ids": np.array([ids]), "forced_tokens": forced[:, None], "pixel_values": pixels[None]}
    config = bundle.manifest.config
    inputs = make_inputs(arrays | {"image_row": np.array([0])}, config, get_family(config.family), "test")
    want = run(ids, pixels, forced)["logits"]
    for backend in RUN_HERE:
        got = generate(open_runtime(bundle, backend), inputs.prompts, forced=inputs.forced_tokens)
        assert max_error(got.logits[:, 0], want) < FP32 * max(1.0, float(want.std()))


def drawn(vocab: int) -> tuple[list[int], np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    ids = random.integers(1, vocab, 12).tolist()
    return ids, random.standard_normal((3, 14, 14)).astype(np.float32), random.integers(0, vocab, 4)


def test_lavin(tmp_path, command):
    """Its files have all attentions, and adapters of both kinds for every layer."""
    out, skipped = tmp_path / "o", ", ".join(map(str, LAVIN.plan.skipped))
    code, text, err = command(
        "build", "--ckpt", LAVIN.folder, "--out", out, "--skip", "none", "--fold", "lowrank", "--json"
    )
    said = json.loads(text)
    assert code == 0 and said["report"]["verdict"] == "same as the checkpoint", err
    notes = said["notes"]
    assert notes == [
        f"--skip is not what the checkpoint was trained with: args.skip_list of checkpoint-19.pth says {LAVIN.checkpoint.evidence.text}",
        f"adapters before attentions that training skipped are untrained: {skipped}",
        NO_TOKENIZER,
    ]
    for path, more in ((out, ()), (LAVIN.folder, ("--skip", "none"))):
        assert json.loads(command("inspect", path, *more, "--json")[1])["notes"] == notes
    arrays = LAVIN.arrays("img1")
    prompt = arrays["input_ids"][0].tolist(), arrays["pixel_values"][0], arrays["forced_tokens"][:, 0]
    require_equal(open_bundle(out), LavinReference(LAVIN.folder, skip=()).run, *prompt)
    assert (
        max_error(LavinReference(LAVIN.folder, skip=()).run(*prompt)["logits"], LAVIN.golden["img1/v3/logits"][:, 0])
        > 0.1
    )


def test_llava_of_the_search_stage(tmp_path):
    """It says nothing of skips, so none is any less trained."""
    folder = write_llava(tmp_path / "ckpt", LlavaShape(search=True))
    result = build(folder, tmp_path / "o", skip="none", fold="lowrank", max_prompt=64)
    assert result.report.ok and result.notes == (NO_TOKENIZER,)
    ids, pixels, forced = drawn(96)
    ids[3] = IMAGE
    reference = LlavaReference(folder, skip=())
    require_equal(result.bundle, lambda ids, image, forced: reference.run(ids, [image], forced), ids, pixels, forced)


def test_fine_tuned_llava_has_lost_them(fine_tuned, tmp_path, refused):
    for ask in (("build", "--ckpt", fine_tuned, "--out", tmp_path / "o"), ("inspect", fine_tuned)):
        line = refused(*ask, "--skip", "none")
        assert "lacks model.layers.0.self_attn.q_proj.weight, model.layers.0.adapter_attn." in line
        assert "pass --skip 0,2, as it was trained, or pass --base-weights DIR" in line
    assert not list(tmp_path.iterdir())


def test_fine_tuned_llava_with_the_original_models(fine_tuned, original, tmp_path, command, refused):
    bundle, more = tmp_path / "o", ("--base-weights", original)
    code, text, err = command("build", "--ckpt", fine_tuned, "--out", bundle, "--skip", "none", *more, "--json")
    said = json.loads(text)
    assert code == 0 and said["report"]["verdict"] == "same as the checkpoint", err
    assert said["notes"] == [
        "layers 0, 2, where kept, have the attention of base-7b; adapters before it have no effect",
        "--skip is not what the checkpoint was trained with: the layers with replaced_adapter in ckpt says [0, 2]",
        NEVER,
        NO_TOKENIZER,
    ]
    for path, given in ((bundle, ()), (fine_tuned, ("--skip", "none", *more))):
        assert json.loads(command("inspect", path, *given, "--json")[1])["notes"] == said["notes"]
    assert f"note: {NEVER}" in " ".join(command("inspect", bundle)[1].split())

    against = ("--against", "transformers")
    code, text, err = command("verify", bundle, "--ckpt", fine_tuned, *more, *against, "--json")
    said = json.loads(text)
    assert code == 0 and said["verdict"] == "same as the checkpoint", err
    witnessed = {block["layer"]: block["kind"] for block in said["blocks"] if block["step"] == "transformers"}
    assert witnessed == dict.fromkeys(range(SHAPE.layers), "kept") and "lack" not in said["steps"][0]["what"]
    assert "--base-weights DIR" in refused("verify", bundle, "--ckpt", fine_tuned)
    assert "pass --ckpt too" in refused("verify", bundle, *more)

    ids, pixels, forced = drawn(SHAPE.vocab)
    ids[3] = IMAGE
    reference = LlavaReference(
        whole(fine_tuned, original, tmp_path / "whole"), skip=(), tower=fine_tuned / "vision_tower"
    )
    require_equal(
        open_bundle(bundle), lambda ids, image, forced: reference.run(ids, [image], forced), ids, pixels, forced
    )


def test_the_checkpoints_own_list_has_nothing_untrained(fine_tuned, original, command):
    for path, more in ((LAVIN.folder, ()), (fine_tuned, ()), (fine_tuned, ("--base-weights", original))):
        notes = json.loads(command("inspect", path, *more, "--json")[1])["notes"]
        assert "untrained" not in " ".join(notes)


def test_a_longer_list_says_so_too(command):
    skipped, more = LAVIN.plan.skipped, LAVIN.plan.kept[0]
    asked = ",".join(map(str, (*skipped, more)))
    notes = json.loads(command("inspect", LAVIN.folder, "--skip", asked, "--json")[1])["notes"]
    assert f"adapters replacing attentions that training kept are untrained: {more}" in notes
    assert "adapters before attentions" not in " ".join(notes)


WRONG = {
    "another width": (dict(dim=32, heads=4, kv_heads=2), "the base model's hidden_size is 32, the checkpoint's is 64"),
    "more layers": (dict(layers=5, kv_heads=2), "the base model's num_hidden_layers is 5, the checkpoint's is 4"),
    "other heads": (
        dict(heads=8, kv_heads=4),
        "the base model's num_attention_heads is 8, the checkpoint's is 4",
    ),  # of the same shapes
    "other groups": (dict(kv_heads=4), "the base model's kv_heads is 4, the checkpoint's is 2"),
    "other angles": (
        dict(kv_heads=2, theta=5e5),
        "the base model's rope_theta is 500000.0, the checkpoint's is 10000.0",
    ),
    "fine-tuned too": (dict(kv_heads=2, skip=(2,)), "missing key model.layers.2.self_attn.q_proj.weight"),
}


@pytest.mark.parametrize("title", WRONG)
def test_another_model_is_no_base(fine_tuned, tmp_path, refused, title):
    sizes, said = WRONG[title]
    wrong = write_llava(tmp_path / "wrong", LlavaShape(**sizes))
    line = refused("inspect", fine_tuned, "--base-weights", wrong)
    assert said in line and str(wrong) in line


def test_a_folder_that_is_no_model_is_no_base(fine_tuned, tmp_path, refused):
    asked = ("inspect", fine_tuned, "--base-weights")
    assert "the folder has no model.safetensors, pytorch_model.bin or index" in refused(*asked, tmp_path)
    assert "there is no such folder" in refused(*asked, tmp_path / "absent")
    torch.save({"x": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    assert "the first of 1 is 'x', expected are keys such as model.embed_tokens.weight" in refused(*asked, tmp_path)
    torch.save({"model.embed_tokens.weight": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    assert "no such file" in (line := refused(*asked, tmp_path)) and "config.json" in line
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": "x"}')
    assert "the file is not the config.json of a LLaMA model (hidden_size" in refused(*asked, tmp_path)
    assert "does not take --base-weights" in refused("inspect", LAVIN.folder, "--base-weights", tmp_path)
