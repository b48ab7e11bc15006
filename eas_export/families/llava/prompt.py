"""LLaVA-1.5's prompts: the conversation format ("vicuna_v1"), the places of images in it, and their pixels.

Source: LLaVA's conversation module, mm_utils.py and ScienceQA evaluation.
"""

from typing import TYPE_CHECKING

from torch import Tensor

from ...core.configs.decoder import ModelConfig
from ...core.errors import UserError
from ..contract import LLAMA_PADDING, PromptFormat
from ..processing.hf_tokenizer import HuggingFaceTokenizer
from ..processing.image_processor import to_pixels
from ..processing.question import Question, lines_of
from ..processing.tokenizer import Tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image

PLACEHOLDER = "<image>"  # in text
IMAGE = -200  # in token ids
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def format_question(question: Question) -> str:
    """The conversation up to the answer: image, context, question and options, in the format of the published ScienceQA evaluation.

    As there and in training, the place of one image in the question's text is not its place in the conversation: it comes first. Of several
    images, which the published code does not take, those with a place in the text stay there.
    """
    return f"{SYSTEM} {_turn(question)}"


def format_next_turn(question: Question) -> str:
    """From the end of the answer before it. Raises UserError for a place of an image, which only a first prompt has."""
    turn = _turn(question)
    if PLACEHOLDER in turn:
        what = f"image placeholders in a later turn ({PLACEHOLDER}): only the first prompt of a conversation has images"
        raise UserError(
            what, where="prompt", fix=f"leave {PLACEHOLDER} out, or start another conversation (in a chat: /image FILE)"
        )
    return f"</s>{turn}"


def _turn(question: Question) -> str:
    asked, images = question.question, len(question.image)
    if images == 1 and PLACEHOLDER in asked:
        asked = asked.replace(PLACEHOLDER, "").strip()
    lines = [PLACEHOLDER] * (images - asked.count(PLACEHOLDER))
    message = "\n".join([*lines, *lines_of(question, asked)])
    return f"USER: {message} ASSISTANT:"


def encode(config: ModelConfig, tokenizer: Tokenizer, text: str, images: int) -> list[int]:
    """The text between images, each part encoded separately as the tokenizer does it by itself, with IMAGE between the parts: a start
    token before the first. Images without a placeholder come first, a line each. Raises UserError where the text has more placeholders than there are images."""
    places = text.count(PLACEHOLDER)
    if places > images:
        what = f"image placeholders in the prompt ({PLACEHOLDER}): {places}, images given: {images}"
        raise UserError(what, where="prompt", fix=f"give {places} images, or leave {PLACEHOLDER} out")
    parts = (f"{PLACEHOLDER}\n" * (images - places) + text).split(PLACEHOLDER)
    ids = [*tokenizer.before, *tokenizer.encode(parts[0]), *tokenizer.after]
    for part in parts[1:]:
        ids += [IMAGE, *tokenizer.encode(part), *tokenizer.after]
    return ids


def place_images(config: ModelConfig, token_ids: list[int], images: int) -> tuple[list[int], list[int]]:
    """Replace each IMAGE by one zero per image feature. Raises UserError unless there is one IMAGE per image."""
    places = token_ids.count(IMAGE)
    if places != images:
        what = f"a prompt with {images} images has {places} image placeholders ({IMAGE})"
        raise UserError(what, where="input_ids", fix=f"write {IMAGE} once where each image belongs")
    ids: list[int] = []
    positions: list[int] = []
    for token in token_ids:
        if token == IMAGE:
            positions += range(len(ids), len(ids) + config.vision.tokens)
            ids += [0] * config.vision.tokens
        else:
            ids.append(token)
    return ids, positions


def pixels(config: ModelConfig, image: "Image") -> Tensor:
    """[3, image_size, image_size] float32"""
    return to_pixels(image, config.vision.image_size, config.vision.image)


PROMPTS = PromptFormat(
    place_images=place_images,
    format=format_question,
    encode=encode,
    pixels=pixels,
    placeholder=IMAGE,
    padding=LLAMA_PADDING,
    next_turn=format_next_turn,
    tokenizer=HuggingFaceTokenizer,
)
