"""LaVIN's prompts: the image's features take the place of zeros behind "Image: "."""

from string import ascii_uppercase
from typing import TYPE_CHECKING

from torch import Tensor

from ...core.configs.decoder import ModelConfig
from ...core.errors import UserError
from ..contract import LLAMA_PADDING, PromptFormat
from ..processing.image_processor import to_pixels
from ..processing.question import Question
from ..processing.tokenizer import Tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image


def place_images(config: ModelConfig, token_ids: list[int], images: int) -> tuple[list[int], list[int]]:
    """Put the image in place of the prompt's first n_prompt zeros, which must be consecutive. Without an image no prompt has several
    zeros in a row: LLaMA's tokenizer writes none."""
    n_prompt = config.vision.tokens
    if images == 0:
        places = range(len(token_ids) - n_prompt + 1)
        if n_prompt > 1 and any(not any(token_ids[start : start + n_prompt]) for start in places):
            what = f"a prompt without an image has {n_prompt} zeros (n_prompt) in a row, where an image belongs"
            fix = "give the image as pixel_values and image_row; a text prompt has no zeros, but 'Image: N/A'"
            raise UserError(what, where="input_ids", fix=fix)
        return token_ids, []
    if images > 1:
        what = f"a prompt has {images} images"
        raise UserError(what, where="image_row", fix="give at most one image per prompt: LaVIN takes no more")
    zeros = [position for position, token in enumerate(token_ids) if token == 0][:n_prompt]
    if len(zeros) < n_prompt or zeros[-1] - zeros[0] != n_prompt - 1:
        what = f"a prompt with an image has zeros at {zeros}, expected {n_prompt} (n_prompt) in a row"
        fix = f"write {n_prompt} zeros where the image belongs: 'Image: ' + zeros + prompt"
        raise UserError(what, where="input_ids", fix=fix)
    return token_ids, zeros


def format_question(question: Question) -> str:
    """ScienceQA's published format; a missing context is N/A."""
    options = " ".join(f"({letter}) {text}" for letter, text in zip(ascii_uppercase, question.options))
    context = question.context or "N/A"
    return f"Question: {question.question}\nContext: {context}\nOptions: {options}\nResponse:"


def encode(config: ModelConfig, tokenizer: Tokenizer, text: str, images: int) -> list[int]:
    """BOS, "Image: " and n_prompt zeros (without an image "Image: N/A"), then the text; each part is encoded separately."""
    if images == 0:
        return [tokenizer.bos, *tokenizer.encode("Image: N/A"), *tokenizer.encode(text)]
    return [tokenizer.bos, *tokenizer.encode("Image: "), *[0] * config.vision.tokens, *tokenizer.encode(text)]


def pixels(config: ModelConfig, image: "Image") -> Tensor:
    return to_pixels(image, config.vision.image_size, config.vision.image)


PROMPTS = PromptFormat(place_images, format_question, encode, pixels, padding=LLAMA_PADDING, most_images=1)
