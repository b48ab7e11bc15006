"""The fold's algebra in float64: folded, unfolded and published formulas are one function."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eas_export.checkpoint.eas_adapter import block_diagonal
from eas_export.rewrite.fold import fold_linear, shift_by_pooled, stack_inner, stack_inner_bias, stack_outer

GROUPS = 2


def draw(*size: int) -> torch.Tensor:
    return torch.randn(*size, dtype=torch.float64)


@settings(deadline=None, max_examples=60)
@given(
    half_rank=st.integers(1, 6),
    half_dim=st.integers(1, 8),
    out=st.integers(1, 9),
    scale=st.floats(-3, 3),
    temperature=st.floats(0.1, 20),
    seed=st.integers(0, 1 << 30),
    skipped=st.booleans(),
)
def test_folded_equals_unfolded_equals_published(half_rank, half_dim, out, scale, temperature, seed, skipped):
    torch.manual_seed(seed)
    rank, dim = GROUPS * half_rank, GROUPS * half_dim
    a, a_bias, c, c_bias = draw(rank, dim), draw(rank), draw(rank, dim), draw(rank)
    conv_b, b_bias, conv_d, d_bias = draw(dim, half_rank, 1), draw(dim), draw(dim, half_rank, 1), draw(dim)
    gain, weight, prompt, n = draw(dim), draw(out, dim), draw(5, dim), draw(3, dim)
    w = torch.softmax(draw(2) / temperature, 0)

    # as published: grouped convolutions, the mean of A n + a, two branches
    def grouped(conv, bias, h):
        return torch.nn.functional.conv1d(h.T[None], conv, bias, groups=GROUPS)[0].T

    pooled = (prompt @ a.T + a_bias).mean(0)
    h = 0.5 * (pooled + n @ c.T + c_bias) if skipped else n @ a.T + a_bias
    y = n + scale * (w[0] * grouped(conv_b, b_bias, h) + w[1] * grouped(conv_d, d_bias, h))
    if skipped:
        y = y * gain
    want = y @ weight.T

    # ours: stacked matrices, folded
    up = stack_outer(block_diagonal(conv_b), b_bias, block_diagonal(conv_d), d_bias, scale)
    inner, inner_bias = stack_inner(0.5 * c if skipped else a), stack_inner_bias(0.5 * c_bias if skipped else a_bias)
    if skipped:
        inner_bias = inner_bias + shift_by_pooled(prompt.mean(0) @ a.T + a_bias)
        weight = weight * gain
    outer = (up.unflatten(1, (2, -1)) * w[:, None]).sum(1)
    folded, bias = fold_linear(weight, outer, inner, inner_bias)
    unfolded = (n + (n @ inner.T + inner_bias) @ outer.T) @ weight.T

    size = 1 + want.abs().max()
    assert (n @ folded.T + bias - want).abs().max() < 1e-12 * size
    assert (unfolded - want).abs().max() < 1e-12 * size


def test_block_diagonal_is_the_grouped_convolution():
    conv = torch.arange(12.0).reshape(4, 3, 1)
    zero = torch.zeros(2, 3)
    assert block_diagonal(conv).equal(
        torch.cat([torch.cat([conv[:2, :, 0], zero], 1), torch.cat([zero, conv[2:, :, 0]], 1)])
    )


def test_the_published_bias_is_another():
    """The published fold overwrites W before it computes the bias, b' = (W R) beta instead of W beta: ours must not."""
    torch.manual_seed(0)
    weight, outer, inner, inner_bias = draw(4, 6), draw(6, 3), draw(3, 6), draw(3)
    folded, bias = fold_linear(weight, outer, inner, inner_bias)
    beta = outer @ inner_bias
    assert bias.allclose(weight @ beta)
    assert not bias.allclose(folded @ beta, atol=1e-2)
