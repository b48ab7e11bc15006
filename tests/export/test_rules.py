"""Every rule against PyTorch: a small function of it is recorded, run on ONNX Runtime at several sizes, and gives PyTorch's numbers."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_graphs import f16, f32, i64, record_function, run
from torch import Tensor

from eas_export.export import recorder
from eas_export.export.rules import RULES
from eas_export.networks import ops

SIZES = ({"B": 3, "S": 5, "T": 9}, {"B": 1, "S": 1, "T": 5}, {"B": 2, "S": 4, "T": 8})


def prefill_window(x: Tensor, window: int) -> Tensor:
    positions = torch.arange(x.shape[2])
    own = positions[:, None]
    return ((positions < own + 1) & (positions >= own - (window - 1)))[None, None]


def cache_window(cache: Tensor, slots: Tensor) -> Tensor:
    places = torch.arange(cache.shape[2])
    return ((places < slots[:, None] + 1) & (places >= slots[:, None] - 1))[:, None, None]


def gelu_layer(x: Tensor, weight: Tensor) -> Tensor:
    return F.gelu(F.linear(x, weight))


# What it shows -> (function, inputs, output). Inputs are in 0 .. 3 where they are int64
CASES: dict[str, tuple[Callable, tuple, tuple]] = {
    "sums are broadcast": (lambda a, b: a + b, (f32("B", "S", 4), f32("S", 1)), f32("B", "S", 4)),
    "a number on either side": (lambda a: 1 + (2.5 - a) * 3 - 1, (f32("B"),), f32("B")),
    "integers with a float are float32": (lambda a: (1 - a) * -0.5, (i64("B"),), f32("B")),
    "float16 stays so beside a number": (lambda a: a * 0.1 + 2, (f16("B", 3),), f16("B", 3)),
    "float16 with float32 is float32": (lambda a, b: a - b, (f16("B", 3), f32(3)), f32("B", 3)),
    "quotients": (lambda a, b: a / (b + 1).float(), (f32("B", "S"), i64("B", 1)), f32("B", "S")),
    "a free size as a number": (lambda a: a * a.shape[1] + a.shape[0], (i64("B", "S"),), i64("B", "S")),
    "comparisons": (lambda a, b: ((a >= b) & (b < 2)).long(), (i64("B", "S"), i64("S")), i64("B", "S")),
    "unequal": (lambda a: (a != 1).long(), (i64("B"),), i64("B")),
    "casts": (lambda a, b: b.to(a.dtype).float(), (f16("B"), f32("B")), f32("B")),
    "tanh": (torch.tanh, (f32("B", 3),), f32("B", 3)),
    "a sum over a free axis": (lambda a: a.sum(1), (f32("B", "S", 3),), f32("B", 3)),
    "a mean, from the end": (lambda a: a.mean(-1), (f32("B", 3),), f32("B")),
    "a maximum that keeps its axis": (lambda a: a.amax(1, keepdim=True), (i64("B", "S"),), i64("B", 1)),
    "running sums": (lambda a: a.cumsum(1), (i64("B", "S"),), i64("B", "S")),
    "two free sizes from one": (
        lambda a, b: b.view(a.shape[0], a.shape[1], -1, 2),
        (i64("B", "S"), f32("B", "S", 6)),
        f32("B", "S", 3, 2),
    ),
    "flat and back": (
        lambda a: a.flatten(0, 1).reshape(-1, 3, 2).unflatten(0, (-1, a.shape[1])).transpose(2, 3),
        (f32("B", "S", 6),),
        f32("B", "S", 2, 3),
    ),
    "a reshape of a reshape that is read as well": (
        lambda a: (lambda flat: flat.sum(1) + flat.view(-1, 2, 2).sum(1).sum(1))(a.reshape(-1, 4)),
        (f32("B", 2, 2),),
        f32("B"),
    ),
    "an axis more and one less": (lambda a: a[:, None].squeeze(2), (f32("B", 1, "S"),), f32("B", 1, "S")),
    "an axis of one size is not squeezed": (lambda a: a.squeeze(1), (f32("B", 2),), f32("B", 2)),
    "every row for each token": (
        lambda a, b: a[:, None, :].expand(-1, b.shape[1], -1).flatten(0, 1).unflatten(0, (-1, b.shape[1])),
        (f32("B", 3), i64("B", "S")),
        f32("B", "S", 3),
    ),
    "a new axis in front": (lambda a, b: a.expand(b.shape[0], 2, 3), (f32(2, 3), f32("B")), f32("B", 2, 3)),
    "side by side": (lambda a, b: torch.cat([a, b, a], -1), (f32("B", 2), f32("B", 3)), f32("B", 7)),
    "one more on a free axis": (lambda a: torch.cat([a[:1], a])[1:], (f32("B", 2),), f32("B", 2)),
    "stacked": (lambda a, b: torch.stack([a, b], 1), (f32("B", "S"), f32("B", "S")), f32("B", 2, "S")),
    "slices, numbers, axes": (
        lambda a: a[:, 1:, None, 2, ..., :-1],
        (f32("B", 3, 4, "S", 5),),
        f32("B", 2, 1, "S", 4),
    ),
    "from the end": (lambda a: a[..., -2:][:, -1], (f32("B", 3, 4),), f32("B", 2)),
    "parts": (lambda a: (lambda x, y, z: x * y - z)(*a.chunk(3, -1)), (f32("B", 6),), f32("B", 2)),
    "one part": (lambda a: a.chunk(1, 1)[0], (f32("B", 6),), f32("B", 6)),
    "rows by number": (lambda a, b: a.index_select(1, b), (f32("B", 4, 2), i64("S")), f32("B", "S", 2)),
    "embeddings": (lambda a, b: F.embedding(b, a), (f32(4, 3), i64("B", "S")), f32("B", "S", 3)),
    "either": (
        lambda a, b, c: torch.where((c >= 2)[:, None], a, b),
        (f32("B", 3), f32(3), i64("B")),
        f32("B", 3),
    ),
    "zeros of a free size": (lambda a: torch.zeros_like(a) + a, (i64("B"),), i64("B")),
    "zeros of a fixed size": (lambda a: torch.cat([torch.zeros_like(a[:1]), a])[1:], (f32("B", 2),), f32("B", 2)),
    "positions": (
        lambda a: torch.arange(a.shape[1], device=a.device)[None, :] + a,
        (i64("B", "S"),),
        i64("B", "S"),
    ),
    "constants are computed at once": (
        lambda a: a + torch.full((3,), 0.5, device=a.device).cumsum(0),
        (f32("B", 3),),
        f32("B", 3),
    ),
    "a constant for every row": (
        lambda a: torch.full((3,), 2.0).expand(a.shape[0], 3) * a.sum(1)[:, None],
        (f32("B", 3),),
        f32("B", 3),
    ),
    "products of matrices": (lambda a, b: a @ b, (f32("B", 3, "S"), f32("B", "S", 2)), f32("B", 3, 2)),
    "a matrix and a vector": (lambda a, b: a @ b, (f32("B", 3), f32(3)), f32("B")),
    "linear": (lambda a, b, c: F.linear(a, b, c), (f32("B", 4), f32(3, 4), f32(3)), f32("B", 3)),
    "linear of three axes": (
        lambda a, b, c: F.linear(a, b, c),
        (f32("B", "S", 4), f32(3, 4), f32(3)),
        f32("B", "S", 3),
    ),
    "linear without bias, and gelu": (gelu_layer, (f32("B", 4), f32(3, 4)), f32("B", 3)),
    "a convolution": (
        lambda a, b: F.conv2d(a, b, None, (2, 2)),
        (f32("B", 3, 6, 4), f32(5, 3, 2, 2)),
        f32("B", 5, 3, 2),
    ),
    "a layer norm": (
        lambda a, b, c: F.layer_norm(a, (4,), b, c, 1e-3),
        (f32("B", 4), f32(4), f32(4)),
        f32("B", 4),
    ),
    "a layer norm alone": (lambda a: F.layer_norm(a, (4,), eps=1e-3), (f32("B", 4),), f32("B", 4)),
    "its positive part": (F.relu, (f32("B", 4),), f32("B", 4)),
    "softmax over an axis": (lambda a: torch.softmax(a, 1), (f32("B", 3, "S"),), f32("B", 3, "S")),
    "padding of two axes": (lambda a: F.pad(a, (0, 1, 2, 0)), (f32("B", 2, 3),), f32("B", 4, 4)),
    "gemm onto a row of its own": (ops.gemm, (f32("B", 4), f32(3, 4), f32("B", 3)), f32("B", 3)),
    "an RMS norm": (lambda a, b: ops.rms_norm(a, b, 1e-2), (f32("B", 4), f32(4)), f32("B", 4)),
    "swish": (lambda a: ops.swish(a, alpha=1.7) + ops.swish(a), (f32("B", 4),), f32("B", 4)),
    "RoPE of pairs": (
        lambda a, b, c, d: ops.rotate(a, b, c, d, True),
        (f32("B", 2, "S", 6), f32(9, 3), f32(9, 3), i64("B", "S")),
        f32("B", 2, "S", 6),
    ),
    "RoPE of halves": (
        lambda a, b, c, d: ops.rotate(a, b, c, d, False),
        (f32("B", 2, "S", 6), f32(9, 3), f32(9, 3), i64("B", "S")),
        f32("B", 2, "S", 6),
    ),
    "RoPE of a part of each head": (
        lambda a, b, c, d: ops.rotate(a, b, c, d, False),
        (f32("B", 2, "S", 10), f32(9, 3), f32(9, 3), i64("B", "S")),
        f32("B", 2, "S", 10),
    ),
    "the tanh approximation of GELU": (lambda a: F.gelu(a, approximate="tanh"), (f32("B", 4),), f32("B", 4)),
    "attention within a window, scaled and bounded": (
        lambda a, b, c: ops.attend(a, b, c, mask=prefill_window(a, 2), scale=0.7, softcap=0.5),
        (f32("B", 4, "S", 8), f32("B", 2, "S", 8), f32("B", 2, "S", 8)),
        f32("B", 4, "S", 8),
    ),
    "attention within a window of a cache, scaled and bounded": (
        lambda a, b, c, d: ops.attend_cached(a, b, c, d + 1, mask=cache_window(b, d), scale=0.7, softcap=0.5),
        (f32("B", 4, 1, 8), f32("B", 2, "T", 8), f32("B", 2, "T", 8), i64("B")),
        f32("B", 4, 1, 8),
    ),
    "causal attention of grouped heads": (
        lambda a, b, c: ops.attend(a, b, c, causal=True),
        (f32("B", 4, "S", 8), f32("B", 2, "S", 8), f32("B", 2, "S", 8)),
        f32("B", 4, "S", 8),
    ),
    "attention with a mask": (
        lambda a, b, c, d: ops.attend(a, b, c, causal=False, mask=d),
        (f32("B", 2, 3, 8), f32("B", 2, 5, 8), f32("B", 2, 5, 8), f32("B", 1, 1, 5)),
        f32("B", 2, 3, 8),
    ),
    "attention over a part of a cache": (
        lambda a, b, c, d: ops.attend_cached(a, b, c, d + 1),
        (f32("B", 4, 1, 8), f32("B", 2, "T", 8), f32("B", 2, "T", 8), i64("B")),
        f32("B", 4, 1, 8),
    ),
    "rows into a cache": (
        lambda a, b, c: ops.scatter_cache(a, b, c),
        (f32("B", 2, "T", 4), f32("B", 2, "S", 4), i64("B")),
        f32("B", 2, "T", 4),
    ),
}


def draw(dtype: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    if dtype == "int64":
        return random.integers(0, 4, shape)
    return random.normal(size=shape).astype(dtype)


@pytest.mark.parametrize("case", CASES)
def test_a_rule_gives_what_pytorch_gives(case):
    function, inputs, y = CASES[case]
    model, random = record_function(function, inputs, y), np.random.default_rng(0)
    for sizes in SIZES:
        arrays = [draw(dtype, tuple(sizes.get(size, size) for size in shape), random) for dtype, shape in inputs]
        got = run(model, dict(zip("abcdefg", arrays)))
        want = function(*(torch.from_numpy(array.copy()) for array in arrays)).numpy()
        assert got.dtype == want.dtype and got.shape == want.shape
        assert np.allclose(got, want, rtol=2e-3 if want.dtype == np.float16 else 1e-5, atol=1e-6), sizes


def test_every_rule_is_in_a_case(monkeypatch):
    used = set()

    class Watched(dict):
        def __getitem__(self, function):
            used.add(function)
            return super().__getitem__(function)

    monkeypatch.setattr(recorder, "RULES", Watched(RULES))
    for function, inputs, y in CASES.values():
        record_function(function, inputs, y)
    assert not [str(function) for function in RULES if function not in used]
