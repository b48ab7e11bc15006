"""Free sizes of a graph (B rows, S tokens, ..) as numbers that no other size can be mistaken for.

While a graph is recorded a free dim d stands as a prime number for which (d + 1) / 2 is a prime too, both larger than every size of
the model, and far from the multiples of the others. Sizes of tensors are products, so a size that was made of free ones, d, d + 1, k d e
with a fixed k, has those primes among its factors, and by them it is told apart from every other: a number has only one way into primes.

A module that asks a tensor for a free size is given a FreeSize: it may make other sizes of it, and nothing else.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch

Size = int | str  # fixed, or a free one's name: "B", "S + 1", "2*B*S"
LEAST = 1 << 16  # what is taken for fixed, however small the model


class FreeSizes:
    """Dim -> the number that it stands as.

    fixed  the model's largest size: what is free is larger
    """

    def __init__(self, dims: Sequence[str], fixed: int):
        self.fixed = max(fixed, LEAST)
        self.numbers = dict(zip(dims, _far_apart(self.fixed)))

    def name(self, size: int) -> Size:
        """The size as it is where it is fixed, else what it was made of. Raises ValueError for a larger one that was not made of free
        sizes in a way that is known without doubt."""
        if size <= self.fixed:
            return size
        rest, factors = size, []
        for dim, number in self.numbers.items():
            for factor, prime, name in ((number, number, dim), (number + 1, (number + 1) // 2, f"{dim} + 1")):
                while rest % prime == 0:
                    if rest % factor:
                        raise ValueError(f"a size of {size} is no whole multiple of {name}")
                    rest //= factor
                    factors.append(name)
        if not factors or rest > self.fixed:
            raise ValueError(f"a size of {size} is larger than any of the model's and not made of {self.numbers}")
        if len(factors) == rest == 1:
            return factors[0]
        return "*".join([str(rest)] * (rest > 1) + [f"({name})" if " " in name else name for name in factors])


class FreeSize(torch.SymInt):
    """A free size in the hands of Python, number: what it stands as. torch's functions take it where they take a size; sums and products
    with whole numbers are free sizes too. Whatever else would look at the number raises TypeError, since a branch or a constant would be
    right for that number alone."""

    def __init__(self, number: int):
        self.number = number

    def __add__(self, other: int) -> "FreeSize":
        return self._made(operator.add, other)

    def __mul__(self, other: int) -> "FreeSize":
        return self._made(operator.mul, other)

    __radd__, __rmul__ = __add__, __mul__

    def _made(self, operation: Callable[[int, int], int], other: int) -> "FreeSize":
        if not isinstance(other, int | FreeSize):
            _look(self)
        made = operation(self.number, plain(other))
        return FreeSize(made) if made >= self.number else _look(self)

    def __repr__(self) -> str:
        return f"a free size ({self.number})"


def plain(size: Any) -> Any:
    """The number that a free size stands as; anything else as it is."""
    return size.number if isinstance(size, FreeSize) else size


def _look(*_: object) -> NoReturn:
    raise TypeError("a free size is looked at, which is another number each time the graph runs")


for _name in (
    *("eq", "ne", "lt", "le", "gt", "ge", "bool", "int", "float", "index", "hash", "str", "format"),
    *("neg", "pos", "abs", "invert", "round", "trunc", "floor", "ceil", "sub", "rsub", "truediv", "rtruediv"),
    *("floordiv", "rfloordiv", "mod", "rmod", "divmod", "rdivmod", "pow", "rpow"),
    *("and", "rand", "or", "ror", "xor", "rxor", "lshift", "rlshift", "rshift", "rrshift"),
):
    setattr(FreeSize, f"__{_name}__", _look)


def _far_apart(fixed: int) -> Iterator[int]:
    """Primes p of which (p + 1) / 2 is a prime larger than `fixed`, and no multiple of one is nearer to another than `fixed`: with the
    model's own sizes more or less, none becomes another."""
    taken: list[int] = []
    half = 2 * fixed
    while True:
        half += 1
        number = 2 * half - 1
        near = any(not fixed < number % other < other - fixed for other in taken)
        if not near and _is_prime(half) and _is_prime(number):
            taken.append(number)
            yield number
            half += fixed // 2


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
