"""What skipping saves, as records: parameters, bytes and cache, before and after pruning."""

from .config import Record


class Account(Record):
    """parameters: part -> number; total_bytes: of all parameters; kv_bytes_per_token: of one row's caches"""

    parameters: dict[str, int]
    total_parameters: int
    total_bytes: int
    kv_bytes_per_token: int


class Accounts(Record):
    """Before and after pruning, both counted in the bundle's dtype."""

    before: Account
    after: Account
