"""The fold's algebra in float64: folded, low-rank, unfolded and published formulas are one function."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eas_export.checkpoint.eas_adapter import block_diagonal
from eas_export.core.configs.adapter import AdapterConfig
from eas_export.networks.adapter import Adapter
from eas_export.networks.fold import fold_linear, mix, pooled_shift, spread, stack_inner, stack_inner_bias, stack_outer


def draw(*size: int) -> torch.Tensor:
    return torch.randn(*size, dtype=torch.float64)


@settings(deadline=None, max_examples=100)
@given(
    groups=st.integers(1, 4),
    rank_per_group=st.integers(1, 5),
    dim_per_group=st.integers(1, 6),
    out=st.integers(1, 9),
    rows=st.integers(1, 4),
    scale=st.floats(-3, 3),
    temperature=st.floats(0.1, 20),
    seed=st.integers(0, 1 << 30),
    skipped=st.booleans(),
)
def test_folded_lowrank_and_unfolded_are_one_function(
    groups, rank_per_group, dim_per_group, out, rows, scale, temperature, seed, skipped
):
    torch.manual_seed(seed)
    rank, dim = groups * rank_per_group, groups * dim_per_group
    a, a_bias, c, c_bias = draw(rank, dim), draw(rank), draw(rank, dim), draw(rank)
    conv_b, b_bias = draw(dim, rank_per_group, 1), draw(dim)
    conv_d, d_bias = draw(dim, rank_per_group, 1), draw(dim)
    gain, weight = (draw(dim) if skipped else torch.ones(dim).double()), draw(out, dim)
    prompts, n = draw(rows, 5, dim), draw(rows, dim)  # each row has a prompt of its own
    w = torch.softmax(draw(rows, 2) / temperature, -1)

    # unfolded, as published: grouped convolutions, the mean of A n + a over the prompt, two branches
    def grouped(conv, bias, h):
        return torch.nn.functional.conv1d(h[:, :, None], conv, bias, groups=groups)[:, :, 0]

    pooled = (prompts @ a.T + a_bias).mean(1)  # [rows, rank]
    h = 0.5 * (pooled + n @ c.T + c_bias) if skipped else n @ a.T + a_bias
    y = n + scale * (w[:, :1] * grouped(conv_b, b_bias, h) + w[:, 1:] * grouped(conv_d, d_bias, h))
    want = (y * gain) @ weight.T

    # the stored form of it
    with torch.no_grad():
        adapter = Adapter(dim, AdapterConfig(rank=rank, scale=scale, temperature=temperature)).double()
        adapter.down.weight.copy_(stack_inner(0.5 * c if skipped else a))
        adapter.down.bias.copy_(stack_inner_bias(0.5 * c_bias if skipped else a_bias))
        b, d = (block_diagonal(conv, groups) for conv in (conv_b, conv_d))
        adapter.up.copy_(stack_outer(b, b_bias, d, d_bias, scale))
    base = weight * gain
    biases = adapter.down.bias + pooled_shift(pooled) if skipped else None  # [rows, width]

    size = 1 + want.abs().max()
    lowrank = adapter(n, spread(w, adapter.width), biases) @ base.T  # all rows at once
    assert (lowrank - want).abs().max() < 1e-12 * size
    half = rank + 1
    for row in range(rows):  # folding serves one prompt at a time
        inner_bias = (adapter.down.bias if biases is None else biases[row])[:half]
        folded, bias = fold_linear(base, mix(adapter.up, w[row]), adapter.down.weight[:half], inner_bias)
        assert (n[row] @ folded.T + bias - want[row]).abs().max() < 1e-12 * size


def test_block_diagonal_is_the_grouped_convolution():
    conv = torch.arange(12.0).reshape(4, 3, 1)
    zero = torch.zeros(2, 3)
    assert block_diagonal(conv, groups=2).equal(
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
