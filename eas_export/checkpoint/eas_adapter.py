"""PIA adapters under the names of all published EAS checkpoints: conv_A .. conv_D and expert_weights."""

import torch
from torch import Tensor

from ..core.errors import UserError
from .keys import Key

GROUPS = 2  # of conv_B and conv_D in all published code


def _matrix(weight: Tensor) -> Tensor:
    """A 1x1 convolution [out, in, 1] as [out, in]"""
    return weight.squeeze(-1)


def adapter_keys(
    published: str, ours: str, dim: str, rank: str, inner: str, router_bias: bool = True
) -> dict[str, Key]:
    """The rows of one adapter in a key table.

    published, ours  the adapter's published name and ours
    dim, rank        names of sizes; "<rank>_per_group" must be one too
    inner            "A" before a kept attention, "AC" in place of a skipped one
    router_bias      whether its router has a bias
    """
    keys: dict[str, Key] = {}
    for letter in inner:
        keys[f"{published}.conv_{letter}.weight"] = Key(
            f"{ours}.{letter}", (rank, dim, 1), convert=_matrix, becomes=(rank, dim)
        )
        keys[f"{published}.conv_{letter}.bias"] = Key(f"{ours}.{letter.lower()}", (rank,))
    for letter in "BD":
        keys[f"{published}.conv_{letter}.weight"] = Key(
            f"{ours}.{letter}", (dim, f"{rank}_per_group", 1), convert=block_diagonal, becomes=(dim, rank)
        )
        keys[f"{published}.conv_{letter}.bias"] = Key(f"{ours}.{letter.lower()}", (dim,))
    keys[f"{published}.expert_weights.weight"] = Key(f"{ours}.E", (2, dim))
    if router_bias:
        keys[f"{published}.expert_weights.bias"] = Key(f"{ours}.e", (2,))
    return keys


def rank_sizes(ranks: dict[str, int], where: object) -> dict[str, int]:
    """The sizes that `adapter_keys` names: each rank and its part per group. Raises UserError for a rank that groups do not divide."""
    for name, rank in ranks.items():
        if rank % GROUPS:
            what = f"the {name} adapters have rank {rank}, which is not a multiple of {GROUPS} groups"
            raise UserError(what, where=where, fix="check that the file is a complete EAS checkpoint")
    return ranks | {f"{name}_per_group": rank // GROUPS for name, rank in ranks.items()}


def fresh_adapter(
    published: str, dim: int, rank: int, inner: str, router_bias: bool, random: torch.Generator
) -> dict[str, Tensor]:
    """A new adapter's tensors, float32, by their published keys and in their published shapes (see `adapter_keys`).

    Initialised as in published training: conv_A and conv_C Xavier-uniform, conv_B, conv_D and biases zero, so that the adapter changes
    nothing yet; the router's weight as in torch's linear layer, its bias, which is random there, zero.
    """

    def uniform(*shape: int, bound: float) -> Tensor:
        return torch.empty(shape).uniform_(-bound, bound, generator=random)

    tensors = {}
    for letter in inner:
        tensors[f"{published}.conv_{letter}.weight"] = uniform(rank, dim, 1, bound=(6 / (rank + dim)) ** 0.5)
        tensors[f"{published}.conv_{letter}.bias"] = torch.zeros(rank)
    for letter in "BD":
        tensors[f"{published}.conv_{letter}.weight"] = torch.zeros(dim, rank // GROUPS, 1)
        tensors[f"{published}.conv_{letter}.bias"] = torch.zeros(dim)
    tensors[f"{published}.expert_weights.weight"] = uniform(2, dim, bound=dim**-0.5)
    if router_bias:
        tensors[f"{published}.expert_weights.bias"] = torch.zeros(2)
    return tensors


def block_diagonal(weight: Tensor, groups: int = GROUPS) -> Tensor:
    """A grouped 1x1 convolution as a matrix.

    weight  [dim, rank/groups, 1]; block i takes rows [i dim/g, (i+1) dim/g) and columns [i rank/g, (i+1) rank/g)
    returns [dim, rank]
    """
    return torch.block_diag(*weight.squeeze(-1).chunk(groups))


def grouped(matrix: Tensor, groups: int = GROUPS) -> Tensor:
    """The inverse of `block_diagonal`: a block-diagonal matrix as the weight of a grouped 1x1 convolution.

    matrix  [dim, rank]; values outside the blocks are not read
    returns [dim, rank/groups, 1]
    """
    return torch.cat([rows.chunk(groups, 1)[i] for i, rows in enumerate(matrix.chunk(groups))])[:, :, None]
