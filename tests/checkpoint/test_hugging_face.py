"""Hugging Face folders: weights in one file or in shards, as safetensors or torch files, and what is wrong with damaged ones."""

import json
import shutil
import struct
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from PIL import Image
from safetensors.torch import save_file

from eas_export.checkpoint.hf_clip import Preprocessing, read_preprocessing, read_tower
from eas_export.checkpoint.hugging_face import read_folder
from eas_export.checkpoint.keys import Key
from eas_export.checkpoint.safetensors_file import read_safetensors
from eas_export.core.configs.vit import ImageConfig
from eas_export.core.errors import UserError
from eas_export.families.processing.image_processor import to_pixels

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bfloat16), "c": torch.empty(0)}
TABLE = {key: Key(key, tuple(tensor.shape)) for key, tensor in TENSORS.items()}


def write_shards(folder: Path, suffix: str) -> Path:
    folder.mkdir()
    weight_map = {}
    for number, keys in enumerate((("a",), ("b", "c")), start=1):
        name = f"model-0000{number}-of-00002{suffix}"
        save = save_file if suffix == ".safetensors" else torch.save
        save({key: TENSORS[key] for key in keys}, folder / name)
        weight_map |= dict.fromkeys(keys, name)
    index = "model.safetensors.index.json" if suffix == ".safetensors" else "pytorch_model.bin.index.json"
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


@pytest.mark.parametrize("form", ["model.safetensors", "pytorch_model.bin", ".safetensors", ".bin"])
def test_every_form_is_read(tmp_path, form):
    folder = tmp_path / "model"
    if form.startswith("."):
        write_shards(folder, form)
    else:
        folder.mkdir()
        (save_file if form.endswith("safetensors") else torch.save)(TENSORS, folder / form)
    tensors, files = read_folder(folder, TABLE)
    assert len(files) == (3 if form.startswith(".") else 1)
    assert set(tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert (tensors[name].shape, tensors[name].dtype) == (tuple(tensor.shape), tensor.dtype)
        assert torch.equal(tensors[name].read(), tensor)


def test_safetensors_stay_in_the_file(tmp_path):
    """A tensor of 256 MB takes no memory until it is read, and then no copy."""
    save_file({"large": torch.zeros(1 << 26)}, tmp_path / "x.safetensors")

    def anonymous() -> int:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["RssAnon"].split()[0])

    before = anonymous()
    tensor = read_safetensors(tmp_path / "x.safetensors")["large"].read()
    assert float(tensor.sum()) == 0
    assert anonymous() - before < 100_000  # kilobytes


def header(**tensors: dict) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "data, said",
    [
        (b"", "empty"),
        (b"abc", "not a whole safetensors"),
        (struct.pack("<Q", 1 << 60) + b"{}", "not a whole safetensors"),
        (header(x={"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}) + bytes(8), "not a whole safetensors"),
        (header(x={"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}) + bytes(8), "not a whole safetensors"),
        (
            header(x={"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}) + bytes(2),
            "tensor 'x' is of the unknown type F4",
        ),
    ],
)
def test_damaged_safetensors_are_refused(tmp_path, data, said):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(UserError, match=said) as refused:
        read_safetensors(path)
    assert refused.value.where == str(path)


def edited(folder: Path, **changes: str | None) -> Path:
    (index,) = folder.glob("*.index.json")
    weight_map = json.loads(index.read_text())["weight_map"] | changes
    index.write_text(json.dumps({"weight_map": {key: name for key, name in weight_map.items() if name is not None}}))
    return folder


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_an_index_and_its_shards_must_agree(tmp_path, suffix):
    first = f"model-00001-of-00002{suffix}"
    with pytest.raises(UserError, match=f"shard {first} lacks 'd', which .*index.json places"):
        read_folder(edited(write_shards(tmp_path / "lost", suffix), d=first), TABLE)
    with pytest.raises(UserError, match=r"has 'b', which .*index.json does not place"):
        read_folder(edited(write_shards(tmp_path / "unnamed", suffix), b=None), TABLE)
    gone = write_shards(tmp_path / "gone", suffix)
    (gone / first).unlink()
    with pytest.raises(UserError, match=rf"shard {first} of .*index\.json is missing .*copy all shards again"):
        read_folder(gone, TABLE)


@pytest.mark.parametrize("name", ["../x.bin", "/etc/passwd", "a/../../x.bin", "x\0.bin", ""])
def test_no_shard_lies_outside_the_folder(tmp_path, name):
    with pytest.raises(UserError, match=r"weight_map\['a'\] is .*outside the folder"):
        read_folder(edited(write_shards(tmp_path / "model", ".bin"), a=name), TABLE)


def test_a_folder_of_links_is_read(tmp_path):
    """Hugging Face's cache is one."""
    real = write_shards(tmp_path / "blobs", ".bin")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in real.iterdir():
        (snapshot / path.name).symlink_to(path)
    assert set(read_folder(snapshot, TABLE)[0]) == set(TENSORS)


def test_other_faults_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no model.safetensors, pytorch_model.bin or index"):
        read_folder(tmp_path, TABLE)
    folder = write_shards(tmp_path / "model", ".bin")
    (index,) = folder.glob("*.index.json")
    for text, said in (("{", "Expecting"), ("{}", "weight_map: Field required"), ('{"weight_map": {}}', "empty")):
        index.write_text(text)
        with pytest.raises(UserError, match=said):
            read_folder(folder, TABLE)
    index.write_text('{"weight_map": {"a": "weights.npz"}}')
    (folder / "weights.npz").write_bytes(b"x")
    with pytest.raises(UserError, match=r"unknown file type '.npz': expected .safetensors or .bin"):
        read_folder(folder, TABLE)


def tower(tmp_path: Path, file: str, **changes: object) -> Path:
    folder = shutil.copytree(GOLDEN / "llava" / "a" / "vision_tower", tmp_path / "tower", dirs_exist_ok=True)
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"num_attention_heads": 5}, "does not divide into 5 heads"),
        ({"image_size": 15}, "image_size 15 is not a multiple of patch_size 7"),
        ({"num_channels": 1}, "num_channels"),
        ({"vision_config": 3}, "config.json of CLIP"),
    ],
)
def test_towers_that_are_no_clip_are_refused(tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        read_tower(tower(tmp_path, "config.json", **changes))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"resample": 2}, "resample"),
        ({"do_center_crop": False}, "do_center_crop"),
        ({"size": {"shortest_edge": 28}}, r"size is {'shortest_edge': 28}, but the tower takes 14 x 14"),
        ({"crop_size": 7}, "crop_size is 7, but the tower takes 14 x 14"),
        ({"size": {"height": 14, "width": 14}}, "would squash images"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor"),
    ],
)
def test_other_preprocessing_is_refused(tmp_path, changes, said):
    folder = tower(tmp_path, "preprocessor_config.json", **changes)
    with pytest.raises(UserError, match=said):
        read_preprocessing(folder)[0].require_size(14, False, folder)


NORM = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}


@pytest.mark.parametrize(
    "own, whole",
    [
        ({}, None),
        (NORM, None),
        (NORM, {"processor_class": "CLIPProcessor"}),  # of transformers 4
        (NORM, {"image_processor": {"image_mean": [0.1, 0.2, 0.3], "image_processor_type": "CLIPImageProcessor"}}),
        (None, {"image_processor": NORM}),
    ],
)
def test_preprocessing_is_transformers(tmp_path, own, whole):
    """Its file, and what the file leaves out."""
    from transformers import CLIPImageProcessorPil

    contents = {"preprocessor_config.json": own, "processor_config.json": whole}
    for name, content in contents.items():
        if content is not None:
            (tmp_path / name).write_text(json.dumps(content))
    published, (ours, file) = CLIPImageProcessorPil.from_pretrained(tmp_path), read_preprocessing(tmp_path)
    assert contents[file.name] is not None
    for name in ("image_mean", "image_std", "resample", "do_resize", "do_center_crop", "do_rescale", "do_normalize"):
        assert getattr(ours, name) == getattr(published, name), name
    ours.require_size(224, False, file)


SIDE = {"height": 14, "width": 14}


@pytest.mark.parametrize(
    "changes, taken",
    [
        ({}, True),
        ({"size": 14, "crop_size": 14}, True),
        ({"do_pad": True, "do_convert_rgb": False}, True),
        ({"pad_size": {"height": 20, "width": 20}, "do_pad": True}, False),
        ({"pad_size": {"height": 20, "width": 20}, "do_pad": False}, True),
        ({"pad_size": {"height": 20, "width": 20}}, True),
        ({"size": 14, "default_to_square": True}, False),
        ({"use_square_size": True}, False),
        ({"size": SIDE}, False),
        ({"size": {"shortest_edge": 14, "longest_edge": 14}}, False),
        ({"size": [14, 14]}, False),
        ({"do_resize": False}, False),
        ({"resample": 2}, False),
        ({"do_normalize": False}, False),
        ({"do_rescale": False}, False),
        ({"do_center_crop": False}, False),
    ],
)
def test_other_pixels_than_transformers_are_refused(tmp_path, changes, taken):
    """What is taken gives its pixels, what is refused has others."""
    from transformers import CLIPImageProcessorPil

    folder = tower(tmp_path, "preprocessor_config.json", **changes)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    published = CLIPImageProcessorPil.from_pretrained(folder)(image, return_tensors="np")["pixel_values"][0]
    with nullcontext() if taken else pytest.raises(UserError):
        ours, file = read_preprocessing(folder)
        ours.require_size(14, False, file)
    config = ImageConfig(square="crop", mean=Preprocessing().image_mean, std=Preprocessing().image_std)
    got = to_pixels(image, 14, config).numpy()
    assert taken == (got.shape == published.shape and np.abs(got - published).max() < 1e-5)


def test_a_whole_clips_config_holds_the_towers(tmp_path):
    folder = tower(tmp_path, "config.json")
    own = read_tower(folder)[0]
    (folder / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": own.model_dump()}))
    assert read_tower(folder)[0] == own
