"""Prompts of text decoders: a question is the user's message in the model's own chat template or, without one, the text as it is."""

from typing import TYPE_CHECKING

from torch import Tensor

from ...core.configs.decoder import ModelConfig
from ...core.errors import UserError
from ..contract import PromptFormat
from ..processing.chat_tokenizer import ChatTokenizer
from ..processing.question import Question, lines_of
from ..processing.tokenizer import Tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image


def format_question(question: Question) -> str:
    """Context, question and options on lines, as LLaVA's evaluations have them."""
    return "\n".join(lines_of(question, question.question))


def encode(config: ModelConfig, tokenizer: Tokenizer, text: str, images: int) -> list[int]:
    return [*tokenizer.before, *tokenizer.encode(text), *tokenizer.after]


def place_images(config: ModelConfig, token_ids: list[int], images: int) -> tuple[list[int], list[int]]:
    return token_ids, []


def pixels(config: ModelConfig, image: "Image") -> Tensor:
    """Raises UserError: a text model sees nothing."""
    raise UserError("there is an image, but the model takes text only", where="image", fix="leave images out")


PROMPTS = PromptFormat(
    place_images=place_images,
    format=format_question,
    encode=encode,
    pixels=pixels,
    tokenizer=ChatTokenizer,
)
