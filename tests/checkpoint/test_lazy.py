"""Tensors that are known before they are read: what is said of one has to be so."""

import pytest
import torch

from eas_export.checkpoint import lazy_tensor
from eas_export.checkpoint.lazy_tensor import LazyTensor, combine, differ
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


WIDE = torch.linspace(-3, 3, 3000).unflatten(0, (3, 1000))
ONE_OFF = WIDE.clone().index_put_((torch.tensor(2), torch.tensor(999)), torch.tensor(3.1))  # the last number


@pytest.mark.parametrize(
    "a, b, at_all, by_more_than_rounding",
    [
        (WIDE, WIDE.clone(), False, False),
        (WIDE, ONE_OFF, True, True),
        (WIDE, WIDE.half(), True, False),
        (WIDE.bfloat16(), WIDE, True, False),
        (WIDE.bfloat16().half(), WIDE, True, False),  # rounded twice
        (WIDE.bfloat16(), WIDE.half(), True, False),
        (ONE_OFF.half(), WIDE, True, True),
        (WIDE.half(), WIDE.half().float(), False, False),
        (WIDE, WIDE.flatten(), True, True),
        (torch.tensor(2.0), torch.tensor(3.0), True, True),
        (torch.zeros(0, 2), torch.zeros(0, 2), False, False),
        (torch.arange(5), torch.arange(5).float(), False, False),
        (torch.zeros(3), torch.tensor([0.0, torch.nan, 0.0]), True, True),
    ],
)
def test_tensors_differ_at_all_or_by_more_than_rounding(a, b, at_all, by_more_than_rounding, monkeypatch):
    """Also where they are compared in several pieces."""
    one, other = (LazyTensor(tuple(t.shape), t.dtype, "x.bin: w", lambda t=t: t) for t in (a, b))
    rounding = torch.finfo(torch.bfloat16).eps
    for piece in (lazy_tensor.PIECE, 7):
        monkeypatch.setattr(lazy_tensor, "PIECE", piece)
        assert differ(one, other) == differ(other, one) == at_all
        assert differ(one, other, rounding) == differ(other, one, rounding) == by_more_than_rounding
