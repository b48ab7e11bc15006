"""What a model is and how large its inputs may be, as data. No torch here."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


class Record(BaseModel):
    """A frozen record that refuses unknown keys: the base of everything that is written to or read from JSON or YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Size = Annotated[int, Field(gt=0, le=1 << 24)]  # no dimension of a model is larger


class AdapterConfig(Record):
    """One kind of PIA adapter.

    rank         h, the adapter's inner width
    scale        s
    temperature  t of the router's softmax (paper, Eq. 6)
    """

    rank: Size
    scale: float = Field(allow_inf_nan=False)
    temperature: float = Field(gt=0, allow_inf_nan=False)


class VisionConfig(Record):
    """A CLIP ViT whose class token is read after every `feature_every` blocks.

    image_size, patch_size  pixels
    width                   channels of the tower
    """

    image_size: Size
    patch_size: Size
    width: Size
    blocks: int = Field(gt=0, le=1000)
    heads: Size
    feature_every: Size
    projector_width: Size
    adapter: AdapterConfig

    @property
    def tokens(self) -> int:
        """Feature vectors that one image gives."""
        return self.blocks // self.feature_every

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


class ModelConfig(Record):
    """A decoder with a vision tower.

    modality_token  the prompt starts with a token that says whether there is an image: it has a table of two of
                    its own, no other token attends to it, its keys and values are not cached, and the
                    router's mean leaves it out (LaVIN)
    rope_interleaved  RoPE turns the pairs (0, 1), (2, 3), ... (True) or (i, i + head_dim/2) (False)
    """

    family: str
    vocab_size: Size
    dim: Size
    layers: int = Field(gt=0, le=1000)
    heads: Size
    ffn_dim: Size
    norm_eps: float = Field(gt=0, le=1)
    rope_theta: float = Field(ge=1, le=1e12)
    rope_interleaved: bool
    modality_token: bool
    kept_adapter: AdapterConfig
    skipped_adapter: AdapterConfig
    vision: VisionConfig

    def structure(self) -> dict:
        """What graphs depend on: without the numbers that are folded into the weights."""
        in_weights = {"scale": True, "temperature": True}
        return self.model_dump(
            exclude={"kept_adapter": in_weights, "skipped_adapter": in_weights, "vision": {"adapter": in_weights}}
        )

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def prefix(self) -> int:
        """Positions that the prefill puts before the prompt's first token."""
        return int(self.modality_token)


class Limits(Record):
    """The largest inputs a bundle takes.

    max_batch   rows
    max_prompt  tokens of one prompt
    max_tokens  tokens of one prompt and its answer together: the cache's slots, and the length of RoPE's tables
    """

    max_batch: PositiveInt = 1
    max_prompt: PositiveInt = 1024
    max_tokens: PositiveInt = Field(default=2048, le=1 << 17)

    @model_validator(mode="after")
    def _prompt_fits(self):
        if self.max_prompt >= self.max_tokens:
            raise ValueError(
                f"max_prompt {self.max_prompt} leaves no room for an answer in max_tokens {self.max_tokens}"
            )
        return self
