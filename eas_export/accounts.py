"""What skipping saves, as records: parameters, bytes and cache, before and after pruning."""

from typing import Annotated

from pydantic import Field

from .config import Record

Count = Annotated[int, Field(ge=0, le=1 << 60)]


class Account(Record):
    """parameters: part -> number; total_bytes: of all parameters; kv_bytes_per_token: of one row's caches;
    flops: floating-point operations of all matrix products of one pass over one row, 0 where a pass has no fixed size"""

    parameters: dict[str, Count]
    total_parameters: Count
    total_bytes: Count
    kv_bytes_per_token: Count
    flops: Count = 0


class Accounts(Record):
    """Before and after pruning, both counted in the bundle's dtype."""

    before: Account
    after: Account
