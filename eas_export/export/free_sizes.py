"""Free sizes of a graph (B rows, S tokens, ..), represented by numbers that are unmistakable.

While a graph is recorded, each free dim d is a prime number for which (d + 1) / 2 is prime too, both larger than every size of the
model, and far from the multiples of the other dims. Sizes of tensors are products, so a size derived from free ones (d, d + 1, or k d e
with a fixed k) has those primes among its factors. As prime factorizations are unique, it cannot be confused with any other size.

A module that asks a tensor for a free size gets a FreeSize, from which it can only make other sizes.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch

Size = int | str  # fixed, or a free one's name: "B", "S + 1", "2*B*S"
LEAST = 1 << 16  # sizes up to this are fixed, however small the model


class FreeSizes:
    """Dims and the numbers that represent them.

    fixed  the model's largest size: free sizes are larger
    """

    def __init__(self, dims: Sequence[str], fixed: int):
        self.fixed = max(fixed, LEAST)
        self.numbers = dict(zip(dims, _far_apart(self.fixed)))

    def name(self, size: int) -> Size:
        """A fixed size itself, else an expression of the dims. Raises ValueError for a large size that is not one of the products
        above."""
        if size <= self.fixed:
            return size
        rest, factors = size, []
        for dim, number in self.numbers.items():
            for factor, prime, name in ((number, number, dim), (number + 1, (number + 1) // 2, f"{dim} + 1")):
                while rest % prime == 0:
                    if rest % factor:
                        raise ValueError(f"the size {size} is not a multiple of {name}")
                    rest //= factor
                    factors.append(name)
        if not factors or rest > self.fixed:
            raise ValueError(f"the size {size} is larger than any of the model's, but not a product of {self.numbers}")
        if len(factors) == rest == 1:
            return factors[0]
        return "*".join([str(rest)] * (rest > 1) + [f"({name})" if " " in name else name for name in factors])


class FreeSize(torch.SymInt):
    """A free size as seen by Python code; `number` represents it. torch's functions take it as a size, and its sums and products with
    integers are free sizes too. Everything else that would use the number raises TypeError, since a branch or a constant would be right
    for that number only."""

    def __init__(self, number: int):
        self.number = number

    def __add__(self, other: int) -> "FreeSize":
        return self._made(operator.add, other)

    def __mul__(self, other: int) -> "FreeSize":
        return self._made(operator.mul, other)

    __radd__, __rmul__ = __add__, __mul__

    def _made(self, operation: Callable[[int, int], int], other: int) -> "FreeSize":
        if not isinstance(other, int | FreeSize):
            _refuse(self)
        made = operation(self.number, plain(other))
        return FreeSize(made) if made >= self.number else _refuse(self)

    def __repr__(self) -> str:
        return f"a free size ({self.number})"


def plain(size: Any) -> Any:
    """A free size's number; other values unchanged."""
    return size.number if isinstance(size, FreeSize) else size


def _refuse(*_: object) -> NoReturn:
    raise TypeError("the value of a free size is used, but it differs from run to run")


for _name in (
    *("eq", "ne", "lt", "le", "gt", "ge", "bool", "int", "float", "index", "hash", "str", "format"),
    *("neg", "pos", "abs", "invert", "round", "trunc", "floor", "ceil", "sub", "rsub", "truediv", "rtruediv"),
    *("floordiv", "rfloordiv", "mod", "rmod", "divmod", "rdivmod", "pow", "rpow"),
    *("and", "rand", "or", "ror", "xor", "rxor", "lshift", "rlshift", "rshift", "rrshift"),
):
    setattr(FreeSize, f"__{_name}__", _refuse)


def _far_apart(fixed: int) -> Iterator[int]:
    """Primes p for which (p + 1) / 2 is a prime larger than `fixed`. Every multiple of one is further than `fixed` from the others, so
    that adding or subtracting a size of the model cannot turn one into another."""
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
