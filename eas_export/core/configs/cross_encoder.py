"""The config of a cross-encoder: a text and an image encoder, and two streams of cross-modal layers that read each other. No torch.

Sites, the indices of attentions that can be skipped, come in four groups of `layers` each: text self, text cross, image self, and a
last group, which is image self again in the published code and image cross in the paper.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from pydantic import Field

from ..record import Record, Size
from .vit import VitConfig

Task = Literal["vqa", "nlvr2", "retrieval"]
Reading = Literal["published", "paper"]


class TextConfig(Record):
    """A RoBERTa encoder.

    positions    rows of its position table; a text of L tokens uses rows 1 to L + 1
    token_types  rows of its type table; only the first is used
    """

    vocab_size: Size
    positions: Size
    token_types: Size
    width: Size
    layers: int = Field(gt=0, le=1000)
    heads: Size
    ffn_dim: Size
    norm_eps: float = Field(default=1e-5, gt=0, le=1)


class Attention(NamedTuple):
    """One attention of the cross-modal layers: stream "text" or "image", part "attention" (self) or "cross_attention", layer."""

    stream: str
    part: str
    layer: int


class CrossEncoderConfig(Record):
    """Two streams of cross-modal layers over a text and an image encoder, and the head of one task.

    layers        cross-modal layers per stream
    norm_eps      of the cross-modal layers; head_norm_eps of the head
    image_transform  the name of what makes pixels of an image, as the family calls it
    text_length   tokens of every text, padding included: padding counts in the means of skipped attentions, so it is
                  the length that the model was trained with
    adapter_rank  inner width of the adapters before attentions and feed-forward networks, which fold away
    skipped_rank  inner width of the adapters in place of skipped attentions
    answers       number of logits; 1 for retrieval, a score
    image_cross_reading  which attentions the last group of sites stands for
    """

    kind: Literal["cross-encoder"] = "cross-encoder"
    family: str
    task: Task
    dim: Size
    heads: Size
    ffn_dim: Size
    layers: int = Field(gt=0, le=250)
    norm_eps: float = Field(default=1e-12, gt=0, le=1)
    head_norm_eps: float = Field(default=1e-5, gt=0, le=1)
    text: TextConfig
    image: VitConfig
    image_transform: str = "clip"
    text_length: Size
    adapter_rank: Size
    skipped_rank: Size
    answers: Size
    image_cross_reading: Reading = "published"

    def structure(self) -> dict:
        """The fields that graphs depend on: without the rank of adapters that are folded into the weights, and without image preprocessing."""
        return self.model_dump(exclude={"adapter_rank", "image_transform"})

    @property
    def vocab_size(self) -> int:
        return self.text.vocab_size

    @property
    def has_adapters(self) -> bool:
        return True

    @property
    def unused_limits(self) -> tuple[str, ...]:
        """Fields of Limits that do not apply to it."""
        return ("max_prompt", "max_tokens", "max_images")

    @property
    def absent_graphs(self) -> tuple[str, ...]:
        """Graphs of its kind's fold modes that it does not have."""
        return ()

    @property
    def tables(self) -> tuple[str, ...]:
        """Parameters of which a run reads a row per token, and no more."""
        return ("text.words.weight", "text.positions.weight")

    @property
    def sites(self) -> int:
        """Number of sites; some attentions may have two, some none."""
        return 4 * self.layers

    @property
    def images(self) -> int:
        """Images per answer."""
        return 2 if self.task == "nlvr2" else 1

    @property
    def image_tokens(self) -> int:
        return self.image.patches + 1

    def attention(self, site: int) -> Attention:
        """The attention that a site's index stands for."""
        group, layer = divmod(site, self.layers)
        last = "attention" if self.image_cross_reading == "published" else "cross_attention"
        groups = (("text", "attention"), ("text", "cross_attention"), ("image", "attention"), ("image", last))
        return Attention(*groups[group], layer)

    def every_attention(self) -> tuple[Attention, ...]:
        """All attentions of the cross-modal layers, with a site or without."""
        parts = ("attention", "cross_attention")
        return tuple(Attention(s, part, i) for s in ("text", "image") for part in parts for i in range(self.layers))

    def attentions(self, sites: Iterable[int]) -> frozenset[Attention]:
        """The distinct attentions that these indices stand for."""
        return frozenset(map(self.attention, sites))

    def notes(self, skipped: Iterable[int]) -> tuple[str, ...]:
        """What a user should know about these sites: how the last group was read, and which of them name an attention twice."""
        skipped = sorted(skipped)
        last = [site for site in skipped if site >= 3 * self.layers]
        if not last:
            return ()
        if self.image_cross_reading == "paper":
            note = f"indices {last} were read as the image stream's cross-attentions; the published code reads them as self"
            return (note,)
        before = [site - self.layers for site in last]
        note = f"indices {last} were read as the image stream's self-attentions {before}, as published"
        again = [site for site in last if site - self.layers in skipped]
        twice = f"; {again} are the same attentions as {[site - self.layers for site in again]}" if again else ""
        return (note + twice,)
