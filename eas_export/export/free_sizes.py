"""Free sizes of a graph (B rows, S tokens, ..) as numbers that no other size can be mistaken for.

While a graph is recorded a free dim d stands as a prime number for which (d + 1) / 2 is a prime too, both larger than every size of
the model. Sizes of tensors are products, so a size that was made of free ones, d, d + 1, k d e with a fixed k, has those primes among its
factors, and by them it is told apart from every other: a number has only one way into primes.

A module that asks a tensor for a free size is given a FreeSize: it may make other sizes of it, and nothing else.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import NoReturn

Size = int | str  # fixed, or a free one's name: "B", "S + 1", "2*B*S"
LEAST = 1 << 16  # from here on suitable numbers are so dense that none is half of another


class FreeSizes:
    """Dim -> the number that it stands as.

    fixed  the model's largest size: what is free is larger
    """

    def __init__(self, dims: Sequence[str], fixed: int):
        self.fixed = max(fixed, LEAST)
        self.numbers = dict(zip(dims, _suitable(self.fixed)))

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


class FreeSize(int):
    """A free size in the hands of Python. Sums and products with whole numbers are free sizes too; whatever else would look at the
    number raises TypeError, since a branch or a constant would be right for that number alone."""

    def _size(operation: Callable[[int, int], int]) -> Callable[["FreeSize", int], "FreeSize"]:
        def compute(self, other: int) -> "FreeSize":
            if not isinstance(other, int):
                self._look()
            return FreeSize(operation(plain(self), plain(other)))

        return compute

    def _look(self, *others: object) -> NoReturn:
        raise TypeError("a free size is looked at, which is another number each time the graph runs")

    __add__ = __radd__ = _size(operator.add)
    __mul__ = __rmul__ = _size(operator.mul)
    __sub__ = _size(operator.sub)
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = _look
    __int__ = __float__ = __neg__ = __abs__ = __round__ = __trunc__ = __floor__ = __ceil__ = _look
    __rsub__ = __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __divmod__ = __rdivmod__ = _look
    __mod__ = __rmod__ = __pow__ = __rpow__ = _look
    __hash__ = int.__hash__


def plain(size: int) -> int:
    """The number that a size stands as."""
    return int.__pos__(size)


def _suitable(above: int) -> Iterator[int]:
    """The primes p of which (p + 1) / 2 is a prime larger than `above`."""
    return (2 * half - 1 for half in count(above + 1) if _is_prime(half) and _is_prime(2 * half - 1))


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
