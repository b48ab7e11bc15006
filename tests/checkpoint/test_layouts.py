"""What people have that is no whole model: named, with the tool that makes one of it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import GOLDEN, TINY, golden_case
from safetensors.torch import save_file

from eas_export.checkpoint.hugging_face import find_weights, left_over, read_folder
from eas_export.checkpoint.keys import Key
from eas_export.core.errors import UserError
from eas_export.families import load_checkpoint, make_tokenizer
from eas_export.families.contract import Sources
from eas_export.families.processing.image_processor import read_image
from eas_export.inspect import inspect

LLAVA = GOLDEN / "llava" / "a"
KEYS = {key: Key(key, (2,)) for key in ("t", "t1", "t2")}
PARTS = {  # files of a layout -> its name, and the tool
    ("adapter_config.json", "adapter_model.safetensors"): ("a LoRA", r"with --base-weights DIR.*merge_and_unload\(\)"),
    ("adapter_config.json", "adapter_model.bin", "non_lora_trainables.bin"): ("a LoRA", "--base-weights DIR"),
    ("mm_projector.bin",): ("LLaVA's projector", "--model-base BASE"),
    ("non_lora_trainables.bin",): ("LLaVA's projector", "merge_lora_weights"),
    ("latest", "zero_to_fp32.py", "global_step8/mp_rank_00_model_states.pt"): ("DeepSpeed ZeRO", r"zero_to_fp32.py \. \."),
    ("latest", "global_step8/mp_rank_00_model_states.pt"): ("DeepSpeed ZeRO", "before DeepSpeed 0.15.3"),
    ("checkpoint/mp_rank_00_model_states.pt", "latest"): ("of PyTorch Lightning", r"convert_zero_\w+\('.*part', 'OUT.ckpt'\)"),
    ("__0_0.distcp", ".metadata"): ("an FSDP checkpoint", r"format_utils dcp_to_torch \S+/part OUT.pth"),
    ("pytorch_model_fsdp_0/__0_0.distcp",): ("an FSDP checkpoint", r"merge-weights \S+/pytorch_model_fsdp_0 \S+/part "),
    ("model-q4_0.gguf",): ("a GGUF file", "give the original model"),
    ("llama.nemo",): ("an archive of NVIDIA NeMo", "Hugging Face's layout"),
}  # fmt: skip


def emptied(folder: Path) -> Path:
    """The golden LLaVA's folder without weights, tower included."""
    ignore = shutil.ignore_patterns("*.bin*", "*.npz", "*.safetensors", "golden.json")
    return shutil.copytree(LLAVA, folder, ignore=ignore)


def put(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


@pytest.mark.parametrize("names", PARTS, ids=lambda names: names[0])
@pytest.mark.parametrize("role", ["--ckpt", "--ckpt with config.json", "--base-weights", "--weights", "--vision"])
def test_a_part_of_a_model_is_named_whatever_it_is_given_as(role, names, tmp_path):
    folder = tmp_path / "part"
    if role in ("--ckpt with config.json", "--base-weights"):
        emptied(folder)
    sources = {
        "--weights": Sources(golden_case("all").folder, weights=folder),
        "--vision": Sources(LLAVA, vision=folder),
        "--base-weights": Sources(LLAVA, base_weights=folder),
    }.get(role, Sources(put(folder, names)))
    put(folder, names)
    what, fix = PARTS[names]
    with pytest.raises(UserError, match=rf"(?s)this is .*{what}.*{fix}") as error:
        load_checkpoint(sources)
    assert str(folder) in error.value.where and "{" not in error.value.fix


@pytest.mark.parametrize("name", ["model.gguf", "llama.nemo", "mm_projector.bin"])
def test_a_file_of_a_part_is_named(name, tmp_path):
    put(tmp_path, (name,))
    for sources in (Sources(tmp_path / name), Sources(golden_case("all").folder, vision=tmp_path / name)):
        with pytest.raises(UserError, match=f"this is .*{name}"):
            load_checkpoint(sources)


def test_lightnings_folder_in_place_of_its_file(tmp_path):
    put(tmp_path / "last.ckpt", ("checkpoint/mp_rank_00_model_states.pt", "zero_to_fp32.py"))
    with pytest.raises(UserError, match="of PyTorch Lightning, in parts"):
        load_checkpoint(Sources(tmp_path))


def test_whole_weights_beside_trainings_files_are_read(tmp_path):
    folder = shutil.copytree(LLAVA, tmp_path / "whole")
    put(folder, ("latest", "zero_to_fp32.py", "global_step8/mp_rank_00_model_states.pt", "mm_projector.bin"))
    assert load_checkpoint(Sources(folder)).config == load_checkpoint(Sources(LLAVA)).config
    put(folder, ("adapter_config.json",))  # transformers would add the LoRA to the base model that it names
    with pytest.raises(
        UserError,
        match=r"a LoRA .* beside whole weights.*move adapter_config.json .*as --ckpt and --base-weights \S+/whole$",
    ):
        load_checkpoint(Sources(folder))


def shards(folder: Path, suffix: str, number: float, present: tuple[int, ...] = (1, 2)) -> None:
    names = {n: f"{'model' if suffix == '.safetensors' else 'pytorch_model'}-0000{n}-of-00002{suffix}" for n in (1, 2)}
    for n in present:
        tensors = {f"t{n}": torch.full((2,), number)}
        save_file(tensors, folder / names[n]) if suffix == ".safetensors" else torch.save(tensors, folder / names[n])
    whole = "model.safetensors" if suffix == ".safetensors" else "pytorch_model.bin"
    (folder / f"{whole}.index.json").write_text(json.dumps({"weight_map": {f"t{n}": names[n] for n in (1, 2)}}))


def read_values(folder: Path) -> set[float]:
    return {float(value) for tensor in read_folder(folder, KEYS)[0].values() for value in tensor.read()}


def test_an_index_without_any_shard_is_passed_over(tmp_path):
    """transformers would stop at it."""
    shards(tmp_path, ".safetensors", 1.0, present=())
    shards(tmp_path, ".bin", 2.0)
    assert read_values(tmp_path) == {2.0}
    (note,) = left_over(tmp_path)
    assert "pytorch_model.bin.index.json is read: of model.safetensors.index.json, which is left over, no shard" in note
    torch.save({"t": torch.full((2,), 3.0)}, tmp_path / "pytorch_model.bin")
    assert read_values(tmp_path) == {3.0} and "pytorch_model.bin is read" in left_over(tmp_path)[0]
    shards(tmp_path, ".safetensors", 1.0)
    assert read_values(tmp_path) == {1.0} and left_over(tmp_path) == ()  # as transformers chooses


def test_an_index_with_some_of_its_shards_is_an_error_that_says_what_to_do(tmp_path):
    """Which of two models is meant, nobody can tell."""
    shards(tmp_path, ".safetensors", 1.0, present=(2,))
    shards(tmp_path, ".bin", 2.0)
    with pytest.raises(UserError) as error:
        read_folder(tmp_path, KEYS)
    assert "model-00001-of-00002.safetensors of model.safetensors.index.json is missing" in error.value.what
    assert "or move model.safetensors.index.json elsewhere to read pytorch_model.bin.index.json" in error.value.fix
    (tmp_path / "model.safetensors.index.json").unlink()
    assert read_values(tmp_path) == {2.0}


def test_nothing_but_a_left_over_index_is_an_error(tmp_path):
    shards(tmp_path, ".safetensors", 1.0, present=())
    assert find_weights(tmp_path).name == "model.safetensors.index.json"
    with pytest.raises(UserError, match=r"is missing .*copy all shards again$"):
        read_folder(tmp_path, KEYS)


def test_a_left_over_index_is_noted(tmp_path):
    folder = shutil.copytree(LLAVA, tmp_path / "llava")
    for place in (folder, folder / "vision_tower"):
        shards(place, ".safetensors", 1.0, present=())
    notes = [note for note in inspect(folder).notes if "left over" in note]
    assert len(notes) == 2 and load_checkpoint(Sources(folder)).config == load_checkpoint(Sources(LLAVA)).config


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 134\n"


def pointer(path: Path) -> Path:
    path.write_bytes(POINTER)
    return path


def test_a_bundle_in_git_lfs_is_told(bundle_of, tmp_path):
    folder = shutil.copytree(bundle_of(golden_case("all")).path, tmp_path / "b")
    pointer(folder / "weights.safetensors")
    with pytest.raises(UserError, match="the file is a Git LFS pointer"):
        inspect(folder)


READERS = {
    "model.safetensors": lambda f: load_checkpoint(Sources(f)),
    "pytorch_model.bin": lambda f: load_checkpoint(Sources(f)),
    "config.json": lambda f: load_checkpoint(Sources(f)),
    "vision_tower/pytorch_model.bin": lambda f: load_checkpoint(Sources(f)),
    "tokenizer.model": lambda f: make_tokenizer([f / "tokenizer.model"], TINY.checkpoint.config),
    "cat.png": lambda f: read_image(f / "cat.png"),
    "a.pth": lambda f: load_checkpoint(Sources(golden_case("all").folder, vision=f / "a.pth")),
    "a.ckpt": lambda f: load_checkpoint(Sources(f / "a.ckpt")),
}


@pytest.mark.parametrize("name", READERS)
def test_a_git_lfs_pointer_is_named(name, tmp_path):
    folder = shutil.copytree(LLAVA, tmp_path / "my model")
    path = pointer(folder / name)
    with pytest.raises(UserError, match="the file is a Git LFS pointer") as error:
        READERS[name](folder)
    assert error.value.where.startswith(str(path)) and f"run git lfs pull in '{path.parent}'" in error.value.fix
