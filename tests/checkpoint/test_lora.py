"""Low-rank pairs are merged into the weights beside them, lazily; what does not fit is named."""

import numpy as np
import pytest
import torch

from eas_export.checkpoint.keys import Key
from eas_export.checkpoint.lazy_tensor import LazyTensor
from eas_export.checkpoint.lora import merge_pairs, pair_keys
from eas_export.core.errors import UserError


def lazy(key: str, tensor: torch.Tensor) -> LazyTensor:
    return LazyTensor(tuple(tensor.shape), tensor.dtype, f"a.bin: {key}", lambda: tensor)


def drawn(
    weight: tuple[int, ...] = (6, 4), a: tuple[int, ...] = (2, 4), b: tuple[int, ...] = (6, 2), dtype=torch.float32
):
    random = torch.Generator().manual_seed(0)
    shapes = {"x.weight": weight, "x.lora_A.weight": a, "x.lora_B.weight": b}
    tensors = {key: torch.randn(shape, generator=random).to(dtype) for key, shape in shapes.items()}
    return {key: lazy(key, tensor) for key, tensor in (tensors | {"y.weight": torch.ones(2)}).items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_product_is_added_without_rounding(dtype):
    tensors = drawn(dtype=dtype)
    merged = merge_pairs(tensors, lambda name, rank: {("x", 2): 8.0}[name, rank], "a.bin")
    w, a, b = (tensors[f"x.{part}weight"].read().double().numpy() for part in ("", "lora_A.", "lora_B."))
    assert set(merged) == {"x.weight", "y.weight"} and merged["y.weight"] is tensors["y.weight"]
    assert (merged["x.weight"].shape, merged["x.weight"].dtype) == ((6, 4), torch.float32)
    assert np.abs(merged["x.weight"].read().numpy() - (w + 8 * np.einsum("or,ri->oi", b, a))).max() < 1e-5


def test_nothing_is_read_before_it_is_needed():
    def never() -> torch.Tensor:
        raise AssertionError("read")

    tensors = {key: LazyTensor(tensor.shape, tensor.dtype, key, never) for key, tensor in drawn().items()}
    merged = merge_pairs(tensors, lambda name, rank: 1.0, "a.bin")
    with pytest.raises(AssertionError, match="read"):
        merged["x.weight"].read()


@pytest.mark.parametrize(
    "gone, said",
    [
        ("x.lora_A.weight", "has 'x.lora_B.weight' without 'x.lora_A.weight'"),
        ("x.lora_B.weight", "has 'x.lora_A.weight' without 'x.lora_B.weight'"),
        ("x.weight", "changes 'x.weight', which the model does not have"),
    ],
)
def test_what_is_missing_is_named(gone, said):
    tensors = drawn()
    del tensors[gone]
    with pytest.raises(UserError, match=rf"the LoRA {said} \(a.bin\): give the LoRA and the base model"):
        merge_pairs(tensors, lambda name, rank: 1.0, "a.bin")


@pytest.mark.parametrize(
    "shapes",
    [dict(a=(2, 5)), dict(b=(5, 2)), dict(b=(6, 3)), dict(a=(0, 4), b=(6, 0)), dict(a=(4,)), dict(weight=(6, 4, 1))],
    ids=str,
)
def test_shapes_that_do_not_fit_are_named(shapes):
    with pytest.raises(UserError, match=r"the LoRA of 'x' does not fit: B \[.*\] times A \[.*\] is no change of a wei"):
        merge_pairs(drawn(**shapes), lambda name, rank: 1.0, "a.bin")


def test_rows_of_pairs_stand_beside_matrices_alone():
    table = {
        "l.{i}.wq.weight": Key("layers.{i}.q.weight", ("kv", "dim")),
        "norm.weight": Key("norm.weight", ("dim",)),
        "dropped.*": None,
    }
    assert pair_keys(table) == {
        "l.{i}.wq.lora_A.weight": Key("layers.{i}.q.lora_A.weight", ("rank", "dim")),
        "l.{i}.wq.lora_B.weight": Key("layers.{i}.q.lora_B.weight", ("kv", "rank")),
    }
