"""What is loaded equals a naive loader's that shares no code: every tensor bit for bit, none missing or extra, and every number, in
every form that files come in."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import GOLDEN, LAVIN_CASES, LLAVA_CASES, TINY, max_error
from meter_cases import EVERY_CASE, MeterCase
from reference import files, naive
from synthetic import Shape, write_checkpoint
from synthetic_llava import LlavaShape, write_llava
from synthetic_meter import MeterShape, write_meter
from test_llava import config, own_tower, tensors

from eas_export import demo
from eas_export.families import load_checkpoint
from eas_export.families.contract import Sources

Change = Callable[[Path], None]


def check(path: Path, want: tuple[dict[str, torch.Tensor], dict], within: float = 0.0, **options: object) -> None:
    checkpoint = load_checkpoint(Sources(path, **options))
    assert checkpoint.config.model_dump() == want[1]
    assert checkpoint.tensors.keys() == want[0].keys()
    for name, tensor in checkpoint.tensors.items():
        assert tensor.shape == want[0][name].shape and max_error(tensor.read().float(), want[0][name]) <= within, name


def test_it_is_short_and_shares_no_code():
    for module in (files, naive):
        text = Path(module.__file__).read_text()
        assert len(text.splitlines()) <= 200
        assert "eas_export" not in text


LAVINS = [*(GOLDEN / "lavin" / name for name in LAVIN_CASES), TINY.folder]
LAVINS += [GOLDEN / "comparators" / name for name in ("lavin/router", "lavin/scaled")]
LAVINS += [GOLDEN / "comparators" / "lavin-das" / name for name in ("mid", "first_search")]


@pytest.mark.parametrize("folder", LAVINS, ids=lambda f: f"{f.parent.name}-{f.name}")
def test_lavin(folder):
    check(folder, naive.lavin(folder))


@pytest.mark.parametrize(
    "folder", [*(GOLDEN / "llava" / name for name in LLAVA_CASES), demo.BASE, demo.CHECKPOINT], ids=lambda f: f.name
)
def test_llava(folder):
    """The published code's, and the demo's, of which one has no adapters."""
    check(folder, naive.llava(folder))


@pytest.mark.parametrize("name", EVERY_CASE)
def test_meter(name):
    case = MeterCase(name)
    check(case.file, naive.meter(case.file, case.text_heads), text_heads=case.text_heads)


@pytest.mark.parametrize("name", ["r4", "r2"])
def test_lavins_lora(name):
    folder = GOLDEN / "comparators" / "lavin-lora" / name
    check(folder, naive.lavin(folder), within=1e-6)  # products are added in another order


LAVIN_FORMS = {
    "one file": dict(),
    "two shards": dict(shards=2, norm_eps=1e-5),
    "mlp adapters, which nobody calls": dict(visual_adapter_type="normal", temperature=0.7, scale=0.4),
}


@pytest.mark.parametrize("title", LAVIN_FORMS)
def test_lavins_forms(tmp_path, title):
    sizes = dict(
        dim=64, layers=3, heads=4, vocab=64, multiple_of=32, rank=4, clip_width=64, clip_blocks=8, clip_image=28
    )
    folder = write_checkpoint(tmp_path / "data", Shape("7B", skip=(1,), **(sizes | LAVIN_FORMS[title])))
    check(folder, naive.lavin(folder))


def tied(folder: Path) -> None:
    """Embedding and head both in the file, and equal."""
    tensors(lm_head__weight=files.read_folder(folder)["model.embed_tokens.weight"])(folder)
    config(tie_word_embeddings=True)(folder)


def tower(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Change:
    def write(folder: Path) -> None:
        file = folder / "vision_tower" / "pytorch_model.bin"
        torch.save(change(torch.load(file, weights_only=True)), file)

    return write


def bare(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As transformers 5 saves it."""
    return {name.removeprefix("vision_model."): tensor for name, tensor in state.items()}


def whole(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of all of CLIP."""
    others = ("text_model.final_layer_norm.weight", "visual_projection.weight", "logit_scale")
    return state | {name: torch.ones(2) for name in others}


def whole_config(folder: Path) -> None:
    file = folder / "vision_tower" / "config.json"
    file.write_text(json.dumps({"model_type": "clip", "vision_config": json.loads(file.read_text())}))
    tower(whole)(folder)


def inside(folder: Path) -> None:
    """The tower's weights among the checkpoint's, and only its config in its folder."""
    place = shutil.copytree(folder / "vision_tower", folder.parent / "kept")
    own_tower(folder, "vision_tower")
    (folder / "vision_tower").mkdir()
    shutil.copy(place / "config.json", folder / "vision_tower")


def trained(said: bool) -> Change:
    """The tower's tensors, changed, beside the model's."""

    def write(folder: Path) -> None:
        own = {f"{files.OWN_TOWER}{key}": 1.5 * t for key, t in files.read_folder(folder / "vision_tower").items()}
        torch.save(files.read_folder(folder) | own, folder / "pytorch_model.bin")
        config(unfreeze_mm_vision_tower=said)(folder)

    return write


def beside(name: str, **content: object) -> Change:
    """A file in the tower's folder."""

    def write(folder: Path) -> None:
        (folder / "vision_tower" / name).write_text(json.dumps(content))

    return write


ROPE = {"rope_theta": 5e5, "rope_type": "default"}
NORM = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
LLAVA_FORMS: dict[str, tuple[dict, tuple[Change, ...]]] = {
    "bin": (dict(), ()),
    "bin in shards": (dict(form="shards of bin"), ()),
    "safetensors": (dict(form="safetensors"), ()),
    "safetensors in shards": (dict(form="shards"), ()),
    "fp16": (dict(dtype=torch.float16), ()),
    "bf16, safetensors": (dict(dtype=torch.bfloat16, form="safetensors"), ()),
    "tied, without a head": (dict(tied=True), ()),
    "tied, with the same head": (dict(), (tied,)),
    "tied, with a head of its own": (dict(), (config(tie_word_embeddings=True),)),
    "a tower that was trained, the folder's preprocessing": (
        dict(clip_heads=2),
        (trained(True), beside("preprocessor_config.json", **NORM)),
    ),
    "a tower that was changed, unsaid": (dict(), (trained(False),)),
    "RoPE in rope_parameters": (dict(), (config(rope_theta="absent", rope_parameters=ROPE),)),
    "RoPE in rope_scaling": (dict(theta=3e4), (config(rope_scaling=ROPE),)),
    "RoPE in neither": (dict(theta=3e4), ()),
    "no theta, eps or groups": (
        dict(),
        (config(rope_theta="absent", rms_norm_eps="absent", num_key_value_heads="absent"),),
    ),
    "the tower without a prefix": (dict(), (tower(bare),)),
    "the tower in all of CLIP": (dict(activation="gelu", clip_heads=2), (whole_config,)),
    "the tower inside": (dict(clip_heads=2), (inside,)),
    "the tower inside, without a folder": (dict(), (lambda folder: own_tower(folder, "openai/clip"),)),
    "preprocessing": (dict(), (beside("preprocessor_config.json", **NORM),)),
    "preprocessing of transformers 5": (dict(), (beside("processor_config.json", image_processor=NORM),)),
    "the last block, images cropped": (dict(), (config(mm_vision_select_layer=-1, image_aspect_ratio="square"),)),
    "the first block": (dict(), (config(mm_vision_select_layer=1, image_aspect_ratio=None),)),
    "grouped keys, other ranks": (dict(kv_heads=2, kept_rank=6, skipped_rank=2), ()),
    "before fine-tuning": (dict(search=True), ()),
    "nothing skipped": (dict(skip=()), ()),
    "all skipped": (dict(skip=(0, 1, 2, 3)), ()),
}


@pytest.mark.parametrize("title", LLAVA_FORMS)
def test_llavas_forms(tmp_path, title):
    shape, changes = LLAVA_FORMS[title]
    folder = write_llava(tmp_path / "ckpt", LlavaShape(**({"skip": (0, 2)} | shape)))
    for change in changes:
        change(folder)
    check(folder, naive.llava(folder))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("task", ["vqa", "nlvr2", "retrieval"])
def test_meters_forms(tmp_path, task, dtype):
    sizes = dict(dim=48, heads=4, layers=2, ffn=96, rank=6, skipped_rank=10, vocab=60, positions=20, text_layers=3)
    sizes |= dict(text_ffn=64, vit_width=64, vit_blocks=2, patch=8, image=24, text_length=9)
    answers = {"vqa": 5, "nlvr2": 2, "retrieval": 1}[task]
    file = write_meter(tmp_path, MeterShape(task=task, answers=answers, **sizes))
    saved = torch.load(file, weights_only=True)
    saved["state_dict"] = {name: t.to(dtype) if t.is_floating_point() else t for name, t in saved["state_dict"].items()}
    saved["state_dict"] |= {"nas_gate": torch.randn(8), "skip_num": torch.tensor([2.0])}  # as the search leaves them
    torch.save(saved, file)
    check(file, naive.meter(file, 4), text_heads=4)
