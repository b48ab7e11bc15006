"""The config of a cross-encoder: a text and an image encoder, and two streams of cross-modal layers that read each other. No torch.

Sites are the indices of what can be skipped. Those of attentions come in four groups of `layers` each: text self, text cross, image self, and
a last group, which is image self again in the published code and image cross in the paper. Those of layers come in two: text, image.
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from ..plan import Site
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


STREAMS = ("text", "image")
ATTENTIONS = ("attention", "cross_attention")  # of a layer: self, cross


class Attention(NamedTuple):
    """One attention of the cross-modal layers: stream "text" or "image", part "attention" (self) or "cross_attention", layer."""

    stream: str
    part: str
    layer: int


class BottleneckConfig(Record):
    """An adapter of the cross-modal layers, P(x) = up(f(down(n(x)))).

    rank        inner width
    activation  f
    norm_eps    of n, a LayerNorm; None: n(x) is x
    """

    rank: Size
    activation: Literal["none", "relu"] = "none"
    norm_eps: float | None = Field(default=None, gt=0, le=1)

    @property
    def is_linear(self) -> bool:
        """Whether linear layers after it can take it in."""
        return self.activation == "none" and self.norm_eps is None


class CrossEncoderConfig(Record):
    """Two streams of cross-modal layers over a text and an image encoder, and the head of one task.

    layers        cross-modal layers per stream
    norm_eps      of the cross-modal layers; head_norm_eps of the head
    image_transform  the name of what makes pixels of an image, as the family calls it
    text_length   tokens of every text, padding included: padding counts in the means of skipped attentions, so it is
                  the length that the model was trained with
    classifier_token  the text stream's first token is a parameter, and not what the text encoder gives there
    site          what a skip leaves out: an attention, or a whole layer with its feed-forward network and norms
    before_adapter   x + P(x) is what a kept attention's queries read (self-attention's keys and values, too), and the feed-forward network
    beside_adapter   P(x) is added to a kept attention's output, of which x has the queries
    behind_adapter   P(z) is added to a kept layer's output; the feed-forward network reads z
    skipped_adapter  in place of what is skipped. Of an attention: the mean over the tokens that it would read is added before `up`.
                     Of a layer: its output is x + P(x). None: nothing can be skipped
    answers       number of logits; 1 for retrieval, a score
    image_cross_reading  which attentions the last group of sites stands for

    An adapter that is None is not there.
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
    classifier_token: bool = True
    site: Site = "attention"
    before_adapter: BottleneckConfig | None = None
    beside_adapter: BottleneckConfig | None = None
    behind_adapter: BottleneckConfig | None = None
    skipped_adapter: BottleneckConfig | None = None
    answers: Size
    image_cross_reading: Reading = "published"

    @model_validator(mode="before")
    @classmethod
    def _of_older_bundles(cls, values: Any) -> Any:
        """Up to 0.10.0, manifests had the ranks of two adapters."""
        ranks = {"adapter_rank": "before_adapter", "skipped_rank": "skipped_adapter"}
        if not isinstance(values, dict):
            return values
        return {ranks.get(key, key): {"rank": value} if key in ranks else value for key, value in values.items()}

    def structure(self) -> dict:
        """The fields that graphs depend on: without adapters that are folded into the weights, and without image preprocessing."""
        folded = {"before_adapter"} if self.before_adapter and self.before_adapter.is_linear else set()
        return self.model_dump(exclude={"image_transform"} | folded)

    @property
    def vocab_size(self) -> int:
        return self.text.vocab_size

    @property
    def has_adapters(self) -> bool:
        return any((self.before_adapter, self.beside_adapter, self.behind_adapter, self.skipped_adapter))

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
        return len(self._groups) * self.layers

    @property
    def images(self) -> int:
        """Images per answer."""
        return 2 if self.task == "nlvr2" else 1

    @property
    def image_tokens(self) -> int:
        return self.image.patches + 1

    def every_attention(self) -> tuple[Attention, ...]:
        """All attentions of the cross-modal layers, with a site or without."""
        return tuple(Attention(s, part, i) for s in STREAMS for part in ATTENTIONS for i in range(self.layers))

    def attentions(self, sites: Iterable[int]) -> frozenset[Attention]:
        """The distinct attentions that these indices stand for; of a layer, both that it has."""
        places = (divmod(site, self.layers) for site in sites)
        return frozenset(Attention(*each, layer) for group, layer in places for each in self._groups[group])

    @property
    def _groups(self) -> tuple[tuple[tuple[str, str], ...], ...]:
        """For each group of sites, the streams and parts of the attentions that a site of it stands for."""
        if self.site == "layer":
            return tuple(tuple((stream, part) for part in ATTENTIONS) for stream in STREAMS)
        last = "attention" if self.image_cross_reading == "published" else "cross_attention"
        return (("text", "attention"),), (("text", "cross_attention"),), (("image", "attention"),), (("image", last),)

    def notes(self, skipped: Iterable[int]) -> tuple[str, ...]:
        """What a user should know about these sites: how the last group was read, and which of them name an attention twice."""
        skipped = sorted(skipped)
        last = [site for site in skipped if site >= 3 * self.layers]  # none where sites are layers
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
