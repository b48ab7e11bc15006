"""Quantised checkpoints are refused by name in every family, however they are stored; floating weights are not."""

import json
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
from conftest import golden_case, llava_golden_case
from meter_cases import MeterCase
from safetensors.torch import save_file
from torch.utils._python_dispatch import return_and_correct_aliasing

from eas_export.checkpoint.hf_clip import clip_keys
from eas_export.checkpoint.hugging_face import read_weights
from eas_export.checkpoint.quantised import METHODS
from eas_export.checkpoint.torch_zip import read_torch_zip
from eas_export.core.errors import UserError
from eas_export.families import get_family, load_checkpoint
from eas_export.families.contract import Ranks, Sources
from eas_export.families.llava.read import EVERY_KEY

CASE = llava_golden_case("a")
REMEDY = "give the original weights, in float16, bfloat16 or float32: quantised ones are not supported"
Tensors = dict[str, torch.Tensor]


def int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rounded by row, and each row's largest value"""
    largest = weight.float().abs().amax(1)
    return (127 * weight.float() / largest[:, None]).round().to(torch.int8), largest


def nibbles(weight: torch.Tensor, dtype: torch.dtype, dim: int) -> torch.Tensor:
    """Rounded to four bits, as many as fit in an integer along `dim`"""
    each = 2 * dtype.itemsize
    parts = (int8(weight)[0].long() // 16 + 8).unflatten(dim, (-1, each)).unbind(dim + 1)
    return sum(part << 4 * i for i, part in enumerate(parts)).to(torch.int64).to(dtype)


def bitsandbytes_4bit(name: str, weight: torch.Tensor) -> Tensors:
    state = json.dumps({"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [*weight.shape]}).encode()
    return {
        f"{name}.weight": nibbles(weight.reshape(1, -1), torch.uint8, 1).reshape(-1, 1),
        f"{name}.weight.absmax": weight.float().reshape(-1, 64).abs().amax(1),
        f"{name}.weight.quant_map": torch.linspace(-1, 1, 16),
        f"{name}.weight.quant_state.bitsandbytes__nf4": torch.tensor(list(state), dtype=torch.uint8),
    }


def gptq(name: str, weight: torch.Tensor) -> Tensors:
    return awq(name, weight) | {
        f"{name}.qweight": nibbles(weight.T, torch.int32, 0),
        f"{name}.g_idx": torch.arange(weight.shape[1], dtype=torch.int32) // 64,
    }


def awq(name: str, weight: torch.Tensor) -> Tensors:
    return {
        f"{name}.qweight": nibbles(weight.T, torch.int32, 1),
        f"{name}.qzeros": torch.full((1, weight.shape[0] // 8), 0x77777777, dtype=torch.int32),
        f"{name}.scales": int8(weight)[1][None].half() / 8,
    }


def fp8(name: str, weight: torch.Tensor, scale: str) -> Tensors:
    largest = weight.float().abs().amax()
    return {f"{name}.weight": (448 * weight.float() / largest).to(torch.float8_e4m3fn)} | {
        f"{name}.{scale}": largest / 448
    }


FORMS = {  # what the methods write -> tensors of a layer, quantization_config, what is said
    "int8 without scales": (
        lambda name, w: {f"{name}.weight": int8(w)[0]},
        None,
        r"key 'model\.layers\S+_proj\.weight' is int8, which is no weight without the scales",
    ),
    "bitsandbytes int8": (
        lambda name, w: {
            f"{name}.weight": int8(w)[0],
            f"{name}.SCB": int8(w)[1],
            f"{name}.weight_format": torch.tensor(0, dtype=torch.uint8),
        },
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        r"\(bitsandbytes, int8\): key 'model\.\S+ is u?int8",
    ),
    "bitsandbytes int8, older": (
        lambda name, w: {f"{name}.weight": int8(w)[0], f"{name}.SCB": int8(w)[1]},
        {"load_in_8bit": True},
        r"\(bitsandbytes, int8\): key 'model\.\S+_proj\.weight' is int8",
    ),
    "bitsandbytes 4-bit": (
        bitsandbytes_4bit,
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        r"\(bitsandbytes, 4-bit\): key 'model\.\S+_proj\.weight\S* is uint8",
    ),
    "GPTQ": (gptq, {"quant_method": "gptq", "bits": 4}, r"\(GPTQ\): key 'model\.\S+_proj\.(g_idx|q\w+)' is int32"),
    "AWQ": (awq, {"quant_method": "awq", "bits": 4}, r"\(AWQ\): key 'model\.\S+_proj\.q\w+' is int32"),
    "fine-grained fp8": (
        lambda name, w: fp8(name, w, "weight_scale_inv"),
        {"quant_method": "fp8"},
        r"\(fine-grained fp8\): key 'model\.\S+_proj\.weight' is float8_e4m3fn",
    ),
    "torchao": (
        lambda name, w: {f"{name}._weight_qdata": int8(w)[0], f"{name}._weight_scale": int8(w)[1]},
        {"quant_method": "torchao"},
        r"\(torchao\): key 'model\.\S+_proj\._weight_qdata' is int8",
    ),
    "compressed-tensors, packed": (
        lambda name, w: {
            f"{name}.weight_packed": nibbles(w, torch.int32, 1),
            f"{name}.weight_scale": int8(w)[1][:, None].bfloat16(),
            f"{name}.weight_shape": torch.tensor(w.shape),
        },
        {"quant_method": "compressed-tensors"},
        r"\(compressed-tensors\): key 'model\.\S+_proj\.weight_packed' is int32",
    ),
}
BY_CONFIG = {  # the same tensors, told apart by config.json alone
    "compressed-tensors": r"\(compressed-tensors\): ",
    "fbgemm_fp8": r"\(FBGEMM's fp8\): ",
    "modelopt": r"\('modelopt'\): ",  # one that transformers does not know either
    None: r"\(with weight_scale, as by compressed-tensors or FBGEMM\): ",
}


def quantised(folder: Path, form, config: dict | None, file: str) -> Path:
    """The golden checkpoint with each projection of its language model in a method's form."""
    shutil.copytree(CASE.folder, folder)
    tensors: Tensors = {}
    for key, tensor in read_weights(CASE.folder, EVERY_KEY)[0].items():
        own = key.endswith("_proj.weight") and key.startswith("model.layers.")
        tensors |= form(key.removesuffix(".weight"), tensor.read()) if own else {key: tensor.read().clone()}
    for path in folder.glob("*model*"):
        path.unlink() if path.name != "tokenizer.model" else None
    tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    (save_file if file.endswith(".safetensors") else torch.save)(tensors, folder / file)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | ({"quantization_config": config} if config else {})))
    return folder


def refused(said: str, read, *given, where: Path | None = None, **options) -> None:
    with pytest.raises(UserError, match=said) as error:
        read(*given, **options)
    assert error.value.fix == REMEDY
    assert where is None or error.value.where == str(where)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("title", FORMS)
def test_a_quantised_llava_is_called_by_its_method(tmp_path, title, file):
    """With what config.json says, and by the keys alone."""
    form, config, said = FORMS[title]
    for name, recorded in (("told", config), ("untold", None)):
        folder = quantised(tmp_path / name, form, recorded, file)
        refused(said, load_checkpoint, Sources(folder), where=folder)


@pytest.mark.parametrize("method", BY_CONFIG)
def test_config_json_tells_methods_of_the_same_tensors_apart(tmp_path, method):
    config = {"quant_method": method} if method else None
    folder = quantised(tmp_path / "ckpt", lambda n, w: fp8(n, w, "weight_scale"), config, "model.safetensors")
    refused(BY_CONFIG[method] + r"key 'model\.\S+_proj\.weight' is float8_e4m3fn", load_checkpoint, Sources(folder))


def test_every_recorded_method_is_one_of_transformers():
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    known = {name.removesuffix("_4bit").removesuffix("_8bit") for name in AUTO_QUANTIZER_MAPPING}
    assert {method.recorded for method in METHODS} - {None} <= known


def test_neither_a_base_model_nor_training_takes_one(tmp_path):
    folder = quantised(tmp_path / "ckpt", *FORMS["GPTQ"][:2], "model.safetensors")
    refused(r"\(GPTQ\)", load_checkpoint, Sources(CASE.folder, base_weights=folder), where=folder)
    train = get_family("llava").train
    refused(r"\(GPTQ\)", train, Sources(folder), Ranks(4, 8), 0, torch.device("cpu"), where=folder)


def test_a_quantised_tower_is_called_one(tmp_path):
    folder = shutil.copytree(CASE.folder, tmp_path / "ckpt")
    tower = folder / "vision_tower"
    tensors = {key: tensor.read().clone() for key, tensor in read_weights(tower, clip_keys("vision_model."))[0].items()}
    for path in tower.glob("*model*"):
        path.unlink()
    key = "vision_model.encoder.layers.1.mlp.fc1.weight"
    save_file(tensors | {key: int8(tensors[key])[0]}, tower / "model.safetensors")
    refused(f"key '{key}' is int8", load_checkpoint, Sources(folder), where=tower)


def test_positions_are_no_weights(tmp_path):
    folder = shutil.copytree(CASE.folder, tmp_path / "ckpt")
    tensors = {
        key: tensor.read().clone()
        for key, tensor in read_weights(folder / "vision_tower", clip_keys("vision_model."))[0].items()
    }
    for path in (folder / "vision_tower").glob("*model*"):
        path.unlink()
    tensors["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    save_file(tensors, folder / "vision_tower" / "model.safetensors")
    assert load_checkpoint(Sources(folder)).tensors.keys() == CASE.checkpoint.tensors.keys()


def test_floats_are_read_although_config_json_says_quantised(tmp_path):
    """Training on a quantised copy leaves that behind; so does undoing it by hand."""
    plain = lambda name, w: {f"{name}.weight": w.clone()}
    told = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    got = load_checkpoint(Sources(quantised(tmp_path / "ckpt", plain, told, "model.safetensors")))
    assert got.notes == (
        "config.json says that the model is quantised (bitsandbytes), but its weights are not: they are used as they are",
    )
    want = CASE.checkpoint
    assert want.notes == () and got.tensors.keys() == want.tensors.keys()
    assert all(torch.equal(got.tensors[name].read(), tensor.read()) for name, tensor in want.tensors.items())


def changed_torch(source: Path, target: Path, key: str, *inside: str) -> None:
    """A file of torch.save with one of its tensors in int8."""
    saved = torch.load(source, weights_only=False)
    tensors = saved
    for name in inside:
        tensors = tensors[name]
    tensors[key] = int8(tensors[key].flatten(1))[0].reshape(tensors[key].shape)
    torch.save(saved, target)


LAVIN_PARTS = {
    "weights/7B/consolidated.00.pth": ("layers.0.attention.wq.weight",),
    "checkpoint-19.pth": ("module.layers.1.adapter_attn.conv_A.weight", "model"),
    "clip/ViT-tiny-7.pth": ("visual.transformer.resblocks.0.mlp.c_fc.weight",),
}


@pytest.mark.parametrize("file", LAVIN_PARTS)
def test_integers_are_no_weights_of_lavin(tmp_path, file):
    folder, (key, *inside) = shutil.copytree(golden_case("first").folder, tmp_path / "ckpt"), LAVIN_PARTS[file]
    changed_torch(folder / file, folder / file, key, *inside)
    refused(
        f"key '{key.removeprefix('module.')}' is int8, which is no weight without", load_checkpoint, Sources(folder)
    )


@pytest.mark.parametrize(
    "key",
    ["vit_model.visual.conv1.weight", "text_transformer.embeddings.word_embeddings.weight", "vqa_classifier.0.weight"],
)
def test_integers_are_no_weights_of_meter(tmp_path, key):
    case, file = MeterCase("vqa_skip10"), tmp_path / "last.ckpt"
    changed_torch(case.file, file, key, "state_dict")
    refused(f"key '{key}' is int8", load_checkpoint, Sources(file, text_heads=case.text_heads), where=file)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint16])
def test_no_other_integers_are_weights(tmp_path, dtype):
    folder = shutil.copytree(golden_case("first").folder, tmp_path / "ckpt")
    file = folder / "weights/7B/consolidated.00.pth"
    saved = torch.load(file)
    torch.save(saved | {"norm.weight": saved["norm.weight"].to(dtype)}, file)
    refused(f"key 'norm.weight' is {str(dtype).removeprefix('torch.')}", load_checkpoint, Sources(folder))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu])
def test_torch_files_of_fp8_are_read(tmp_path, dtype):
    """torch writes these dtypes in another form than the older ones."""
    values = torch.tensor([[1.0, 2.0, 0.5], [4.0, 8.0, 0.25]]).to(dtype)
    torch.save({"w": values, "part": values[1:, 1:]}, tmp_path / "x.pth")
    got = read_torch_zip(tmp_path / "x.pth")
    assert got["w"].dtype == dtype and got["w"].read().float().equal(values.float())
    assert got["part"].read().float().equal(values[1:, 1:].float())


def test_pickles_of_tensor_subclasses_are_called_by_their_method(tmp_path, monkeypatch):
    """torchao's tensors and PyTorch's own: nothing that the file asks for is imported."""

    class Int8Tensor(torch.Tensor):
        @staticmethod
        def __new__(cls, values: torch.Tensor, scale: torch.Tensor):
            return torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=scale.dtype)

        def __init__(self, values: torch.Tensor, scale: torch.Tensor):
            self.values_, self.scale = values, scale

        @classmethod
        def __torch_dispatch__(cls, function, kinds, args=(), kwargs=None):
            return return_and_correct_aliasing(function, args, kwargs or {}, args[0])

    module = types.ModuleType("torchao.quantization")
    module.Int8Tensor, Int8Tensor.__module__, Int8Tensor.__qualname__ = Int8Tensor, module.__name__, "Int8Tensor"
    monkeypatch.setitem(sys.modules, "torchao", types.ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    weight, path = torch.randn(4, 6), tmp_path / "x.pth"
    torch.save({"w": Int8Tensor(*int8(weight))}, path)
    monkeypatch.undo()
    refused(
        r"\(torchao\): the pickle asks for torchao\.quantization\.Int8Tensor, which was not run", read_torch_zip, path
    )
    with pytest.warns(UserWarning):
        torch.save({"w": torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)}, path)
    refused(
        r"\(PyTorch's own quantised tensors\): the pickle asks for torch\._utils\._rebuild_qtensor",
        read_torch_zip,
        path,
    )
    assert "torchao" not in sys.modules
