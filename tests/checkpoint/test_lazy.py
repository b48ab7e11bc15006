"""Tensors that are known before they are read: what is said of one has to be so."""

import pytest
import torch

from eas_export.checkpoint.lazy_tensor import LazyTensor, combine
from eas_export.core.errors import InternalError


def lazy(*shape: int, dtype: torch.dtype = torch.float32) -> LazyTensor:
    return LazyTensor(shape, dtype, "x.bin: w", lambda: torch.ones(shape, dtype=dtype))


def test_a_conversion_gives_what_it_says():
    both = combine([lazy(2, 3), lazy(4, 3)], lambda a, b: torch.cat([a, b]).half(), (6, 3), torch.float16)
    assert both.shape == (6, 3) == tuple(both.read().shape) and both.dtype == both.read().dtype == torch.float16
    assert lazy(2, 3).map(lambda t: t + 1).shape == (2, 3)
    assert lazy(3).map(lambda t: t.sum(), ()).read() == 3


@pytest.mark.parametrize(
    "convert, shape, dtype",
    [
        (lambda t: t.T, None, None),
        (lambda t: t.half(), None, None),
        (lambda t: t.flatten(), (5,), None),
        (lambda t: t, None, torch.float16),
    ],
)
def test_one_that_gives_something_else_is_our_mistake(convert, shape, dtype):
    with pytest.raises(InternalError, match=r"x\.bin: w became torch\.float"):
        lazy(2, 3).map(convert, shape, dtype).read()
