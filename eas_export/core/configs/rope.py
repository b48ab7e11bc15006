"""RoPE: its frequencies, and how they are scaled for prompts that are longer than those of pretraining."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..record import Record, Size

Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Factors = Annotated[tuple[Factor, ...], Field(min_length=1, max_length=1 << 12)]


class LinearScaling(Record):
    """Every frequency is divided by `factor`."""

    kind: Literal["linear"] = "linear"
    factor: Factor


class Llama3Scaling(Record):
    """Frequencies of wavelengths above original_positions / low_factor are divided by `factor`, those below original_positions / high_factor
    are not, those between in part (Llama 3.1)."""

    kind: Literal["llama3"] = "llama3"
    factor: Factor
    low_factor: Factor
    high_factor: Factor
    original_positions: Size

    @model_validator(mode="after")
    def _is_ordered(self) -> "Llama3Scaling":
        if self.low_factor >= self.high_factor:
            raise ValueError(f"low_factor {self.low_factor:g} is not below high_factor {self.high_factor:g}")
        return self


class YarnScaling(Record):
    """Frequencies that turn fewer than beta_slow times in original_positions are divided by `factor`, those that turn more than beta_fast times
    are not, those between in part; cosines and sines are multiplied by attention_factor (YaRN, section 3).

    truncate  the bounds between are rounded to whole dimensions
    """

    kind: Literal["yarn"] = "yarn"
    factor: Factor
    beta_fast: Factor
    beta_slow: Factor
    original_positions: Size
    attention_factor: Factor
    truncate: bool = True


class LongropeScaling(Record):
    """Each frequency is divided by a factor of its own, of `long` where a bundle takes more than original_positions tokens, else of `short`;
    cosines and sines are multiplied by attention_factor (LongRoPE)."""

    kind: Literal["longrope"] = "longrope"
    short: Factors
    long: Factors
    original_positions: Size
    attention_factor: Factor


Scaling = Annotated[LinearScaling | Llama3Scaling | YarnScaling | LongropeScaling, Field(discriminator="kind")]


class Rope(Record):
    """Rotary position embeddings: dimension pair j turns by position * theta^(-2j / dims).

    dims  of a head that are turned, the first ones; None: all
    """

    theta: float = Field(ge=1, le=1e12)
    dims: Size | None = None
    scaling: Scaling | None = None


class LayerAttention(Record):
    """What one layer's attention does otherwise than another's.

    rope    index into ModelConfig.ropes; None: positions are not encoded
    window  a token attends to itself and to the window - 1 tokens before it; None: to all before it
    """

    rope: int | None = Field(default=0, ge=0)
    window: Size | None = None
