"""Model-parallel shards are joined along the dimension that their key says."""

import pytest
import torch

from eas_export.checkpoint.keys import Key, merge_shards
from eas_export.checkpoint.lazy_tensor import LazyTensor
from eas_export.core.errors import UserError

TABLE = {"layers.{i}.w": Key("layers.{i}.q", ("out", "in"), shard=1), "norm": Key("norm", ("in",))}


def shard(number: int, *shape: int) -> dict[str, LazyTensor]:
    tensors = {"layers.0.w": torch.full(shape, float(number)), "norm": torch.ones(3)}
    return {
        key: LazyTensor(tuple(t.shape), t.dtype, f"{number}.pth: {key}", lambda t=t: t) for key, t in tensors.items()
    }


def test_they_are_laid_side_by_side():
    merged = merge_shards([shard(0, 2, 3), shard(1, 2, 1)], TABLE, ["0.pth", "1.pth"])
    assert merged["layers.0.w"].shape == (2, 4)
    assert merged["layers.0.w"].read().tolist() == [[0, 0, 0, 1]] * 2
    assert merged["norm"].read().equal(torch.ones(3))


@pytest.mark.parametrize("other", [(3, 3), (2,), (2, 3, 1)])
def test_shards_of_several_models_are_refused(other):
    with pytest.raises(UserError, match="which do not join along 1") as raised:
        merge_shards([shard(0, 2, 3), shard(1, *other)], TABLE, ["0.pth", "1.pth"])
    assert raised.value.where == "0.pth: layers.0.w" and f"[[2, 3], {list(other)}]" in raised.value.what
    with pytest.raises(UserError, match="which do not join along 1"):
        merge_shards([shard(0, *other), shard(1, 2, 3)], TABLE, ["0.pth", "1.pth"])
