"""The config of a PIA adapter."""

from pydantic import Field

from ..record import Record, Size


class AdapterConfig(Record):
    """One kind of PIA adapter.

    rank         h, the adapter's inner width
    scale        s
    temperature  t of the router's softmax (paper, Eq. 6)
    """

    rank: Size
    scale: float = Field(allow_inf_nan=False)
    temperature: float = Field(gt=0, allow_inf_nan=False)
