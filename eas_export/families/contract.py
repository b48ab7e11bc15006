"""The contract of a model family, and Sources: the user's files and the options that override what a checkpoint records. A family is
one file under families/ and one row in its table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..checkpoint.checkpoint import Checkpoint
from ..core.configs.cross_encoder import CrossEncoderConfig
from ..core.configs.decoder import ModelConfig
from ..core.configs.vit import ImageConfig
from ..core.errors import UserError
from ..core.progress import Progress
from .processing.chat_template import Message, message
from .processing.question import Question
from .processing.roberta_tokenizer import RobertaTokenizer
from .processing.tokenizer import Tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image

    from .witnesses import DecoderWitness, EncodersWitness


LLAMA_PADDING = (0, 2)  # what LLaMA's tokenizer, which has no token for it, is told to pad with: <unk> or </s>


@dataclass(frozen=True)
class Sources:
    """The user's files, and options that no file records.

    ckpt               a folder in the family's published layout, or its main file
    weights, vision    the other files, where `ckpt` does not contain them
    base_weights       the model that a LoRA was trained on, or the original one, for attentions that fine-tuning removed
    tokenizer          a tokenizer's file or folder, in place of the checkpoint's
    labels             a list of a classifier's answers
    router_temperature, adapter_scale, text_heads, text_length, cross_heads, image_cross_reading  see core/options.BuildOptions
    shapes             only shapes will be read (build --dry-run): a family may take them from the config where the weights are not there
    """

    ckpt: Path
    weights: Path | None = None
    vision: Path | None = None
    base_weights: Path | None = None
    tokenizer: Path | None = None
    labels: Path | None = None
    router_temperature: float | None = None
    adapter_scale: float | None = None
    text_heads: int | None = None
    text_length: int | None = None
    cross_heads: int | None = None
    image_cross_reading: str | None = None
    shapes: bool = False

    @classmethod
    def given(
        cls,
        where: str,
        ckpt: Path | str | None,
        weights: Path | str | None = None,
        vision: Path | str | None = None,
        base_weights: Path | str | None = None,
        tokenizer: Path | str | None = None,
        **settings: Any,
    ) -> "Sources | None":
        """The sources of the command `where`; None if no path was given. Raises UserError for other paths without a checkpoint."""
        others = [None if path is None else Path(path) for path in (weights, vision, base_weights, tokenizer)]
        if ckpt is not None:
            return cls(Path(ckpt), *others, **settings)
        if any(others):
            what = "--weights, --vision, --base-weights and --tokenizer need --ckpt"
            raise UserError(what, where=where, fix="pass --ckpt too")
        return None


@dataclass(frozen=True)
class PromptFormat:
    """The prompt format that a decoder was trained with.

    place_images  (config, token ids of one prompt as ints, number of its images) -> the ids with slots for the features, and the
                  position of each image feature among them, in order; raises UserError where images and ids do not match
    format        question -> the prompt text, in the format that the family was trained with; where the tokenizer has a chat template, the
                  user's message
    encode        (config, tokenizer, text, number of its images) -> the token ids of a whole prompt, image placeholders included
    pixels        (config, image in RGB) -> [3, H, W] float32, preprocessed as for training the vision tower
    placeholder   the negative id that stands for an image among token ids; None where images take the place of tokens
    padding       the ids that rows of token ids are padded with: no prompt begins or ends with one
    most_images   of a prompt, whatever a bundle is built for; None: any number
    next_turn     question -> the text of a later turn of a conversation, from the answer's end token on; None: the end token, then `format`;
                  raises UserError where it has a place for an image
    tokenizer     (its files, the model's vocabulary) -> the tokenizer that the family was trained with; raises UserError
    """

    place_images: Callable[[ModelConfig, list[int], int], tuple[list[int], list[int]]]
    format: Callable[[Question], str]
    encode: Callable[[ModelConfig, Tokenizer, str, int], list[int]]
    pixels: Callable[[ModelConfig, "Image"], Tensor]
    placeholder: int | None = None
    padding: tuple[int, ...] = ()
    most_images: int | None = None
    next_turn: Callable[[Question], str] | None = None
    tokenizer: Callable[[Sequence[Path], int], Tokenizer] = Tokenizer

    def ids(self, config: ModelConfig, tokenizer: Tokenizer, question: Question) -> list[int]:
        """The token ids of a question's whole prompt, image placeholders included. Raises UserError for a system message without a place,
        and where the chat template refuses the question."""
        if question.prompt is not None:
            return self.encode(config, tokenizer, question.prompt, len(question.image))
        if tokenizer.chat:
            return tokenizer.encode(tokenizer.chat.render(self.messages(question)))
        if question.system is not None:
            what = "there is a system message, but the model has no chat template with a place for it"
            raise UserError(
                what, where="system", fix="put it into the question, or give the whole prompt: --prompt TEXT"
            )
        return self.encode(config, tokenizer, self.format(question), len(question.image))

    def messages(self, question: Question) -> list[Message]:
        """The question as a chat template takes it; a prompt as if it were what the user said."""
        said = question.prompt if question.prompt is not None else self.format(question)
        return [*([] if question.system is None else [message("system", question.system)]), message("user", said)]

    def turn(self, tokenizer: Tokenizer, question: Question, earlier: Sequence[Message] = ()) -> list[int]:
        """The token ids of a later turn, the end token of the answer before it included. Raises UserError where it has a place for an image,
        and as `ids` does.

        earlier  the conversation up to that answer, without it
        """
        if tokenizer.chat:
            return tokenizer.encode(tokenizer.chat.turn(earlier, *self.messages(question)))
        if self.next_turn is None:
            return [*tokenizer.ends[:1], *tokenizer.encode(self.format(question))]
        return tokenizer.encode(self.next_turn(question))


@dataclass(frozen=True)
class PairFormat:
    """How the texts and images of a cross-encoder were prepared for training, and what its logits mean.

    tokenizer      (its files, the model's vocabulary) -> the tokenizer that the family was trained with; raises UserError
    image          config -> how an image becomes pixel values; raises UserError for a way that is not supported
    answers        task -> the answers in the order of the logits, where they are the same in every model
    probabilities  task -> what makes probabilities of logits [B, answers], by the loss of training
    """

    tokenizer: Callable[[Sequence[Path], int], RobertaTokenizer]
    image: Callable[[CrossEncoderConfig], ImageConfig]
    answers: Mapping[str, tuple[str, ...]]
    probabilities: Mapping[str, Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class Ranks:
    """The inner widths of new adapters (AdapterConfig.rank)."""

    kept: int
    skipped: int


@dataclass(frozen=True)
class Trainable:
    """A model with both adapters in every layer, for searching the attentions to skip and training their replacements.

    checkpoint  the whole model; reading an adapter tensor gives its current value
    adapters    published key -> trained tensor, float32
    write       (skipped, folder, progress) -> None: writes the fine-tuned checkpoint in the published layout into an existing folder,
                config.json last
    """

    checkpoint: Checkpoint
    adapters: dict[str, Tensor]
    write: Callable[[tuple[int, ...], Path, Progress], None]


@dataclass(frozen=True)
class Family:
    """What the toolkit needs to know about a model family.

    name         as in FAMILIES
    layout       what its checkpoints look like, for messages
    detect       whether a path looks like one of its checkpoints (cheap, reads no tensors)
    load         Sources -> Checkpoint; raises UserError
    takes        the fields of Sources that `load` reads beside ckpt
    prompts      the prompt format of a decoder; None for other models
    pairs        the format of a cross-encoder's texts and images; None for other models
    published_deviations  approximations of the published code, by their names in verify/adapter_modes.py
    witness      Sources -> the base path in transformers' classes, read from the same files without `load` (families/witnesses); None: none
    train        (Sources, Ranks, seed, device) -> Trainable, of a model with or without adapters; None where training is not supported
    """

    name: str
    layout: str
    detect: Callable[[Path], bool]
    load: Callable[[Sources], Checkpoint]
    takes: tuple[str, ...]
    prompts: PromptFormat | None = None
    pairs: PairFormat | None = None
    published_deviations: tuple[str, ...] = ()
    witness: Callable[[Sources], "DecoderWitness | EncodersWitness"] | None = None
    train: Callable[[Sources, Ranks, int, torch.device], Trainable] | None = None
