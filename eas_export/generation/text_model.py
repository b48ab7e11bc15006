"""Text in, text out: a bundle with its tokenizer and the family's prompt format.

model = open_model("lavin-7b.bundle")
for reply in model.replies(["Why is the sky blue?", Question(question="What is it?", image="cat.png")]):
    print(reply.text)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import torch

from ..backends.opening import open_runtime
from ..backends.runtime import Runtime
from ..bundle.bundle import Bundle, open_bundle
from ..checkpoint.hf_files import TOKENIZER_FILES, TOKENIZERS
from ..core.errors import UserError
from ..families import get_family, make_tokenizer
from ..families.processing.chat_template import message
from ..families.processing.question import Question, as_questions
from ..families.processing.tokenizer import TextStream, Tokenizer
from ..inputs.questions import make_prompt, require_known, require_short
from ..networks.decoder.prompts import Prompts, join_prompts
from .conversation import Conversation, Finish, together
from .sampling import GREEDY, Sampling
from .stream import Token, answer, stream


@dataclass(frozen=True)
class Reply:
    """An answer as text, without its end token, which `tokens` includes."""

    text: str
    tokens: tuple[int, ...]
    finish: Finish


class TextModel:
    """A runtime with a tokenizer: questions in, text out. A question may be a text: Question(question=text).

    exif_rotate  see families/processing/image_processor.read_image
    """

    def __init__(self, runtime: Runtime, tokenizer: Tokenizer, exif_rotate: bool = False):
        self.runtime, self.tokenizer, self.exif_rotate = runtime, tokenizer, exif_rotate
        self.family = get_family(runtime.config.family)

    def start(
        self, questions: str | Question | Sequence[str | Question], room: int = 0, first: int = 1
    ) -> Conversation:
        """Prefill the questions' prompts, in one batch.

        room   cache slots to reserve for more tokens (see Conversation)
        first  the first question's number in messages

        Raises UserError where a prompt is too long or an image cannot be read, and as Conversation does.
        """
        questions = as_questions(questions)
        if not questions:
            raise UserError("there is no question", where="questions", fix="ask at least one")
        self._require_short(questions, first)
        conversation = Conversation(self.runtime, join_prompts(self._prompts(questions, first)), room)
        conversation.messages = [self.family.prompts.messages(question) for question in questions]
        return conversation

    def extend(self, conversation: Conversation, turns: Sequence[str]) -> None:
        """Feed the next turn's text, one per row; see Conversation.extend."""
        self._extend(conversation, [self.tokenizer.encode(turn) for turn in turns])

    def ask(self, conversation: Conversation, questions: Sequence[str | Question]) -> None:
        """Feed each row's next question, after its answer's end, in the family's format of several turns; see Conversation.extend. Raises
        UserError for an image, which only a first prompt has."""
        asked = as_questions(questions)
        if any(question.image for question in asked):
            fix = "start another conversation with it"
            raise UserError("an image can only be in the first prompt of a conversation", where="ask", fix=fix)
        if any(question.system is not None for question in asked):
            fix = "start another conversation with it"
            raise UserError("a system message can only begin a conversation", where="ask", fix=fix)
        prompts, before = self.family.prompts, conversation.messages
        turns = [
            prompts.turn(self.tokenizer, question, earlier)
            for question, earlier in zip_longest(asked, before[: len(asked)], fillvalue=())
        ]
        answers = [message("assistant", self.tokenizer.decode(tokens)) for tokens in conversation.answers]
        pending = conversation.pending
        ended = torch.tensor([finish == Finish.EOS for finish in conversation.finish])
        conversation.pending = pending.masked_fill(ended, -1)  # the turn begins with the answer's end
        try:
            self._extend(conversation, turns)
        except UserError:
            conversation.pending = pending
            raise
        said = zip(before, answers, map(prompts.messages, asked))
        conversation.messages = [[*earlier, answer, *new] for earlier, answer, new in said]

    def _extend(self, conversation: Conversation, turns: Sequence[list[int]]) -> None:
        for row, ids in enumerate(turns):
            require_known(ids, self.runtime.config, self.tokenizer, f"row {row}")
        conversation.extend(turns)

    def stream(
        self, conversation: Conversation, max_new_tokens: int = 32, sampling: Sampling = GREEDY
    ) -> Iterator[list[tuple[Token, str]]]:
        """Yield each step's new tokens with the text that each completes. An incomplete character at the end of an answer that ended by
        length is held back, since the answer may continue."""
        texts = [TextStream(self.tokenizer, before) for before in conversation.answers]
        for tokens in stream(conversation, max_new_tokens, self.tokenizer.ends, sampling):
            ends = (token.finish in (Finish.EOS, Finish.LIMIT) for token in tokens)
            yield [(token, texts[token.row].push(token.id, last)) for token, last in zip(tokens, ends)]

    def replies(
        self,
        questions: str | Question | Sequence[str | Question],
        max_new_tokens: int = 32,
        sampling: Sampling = GREEDY,
        answered: int = 0,
    ) -> Iterator[Reply]:
        """Answer one question, or several in order, in batches of the bundle's limit, each question on its own.

        answered  how many of the first questions to leave out: whole batches, so that the others are answered as with them

        Raises UserError before generating anything if a prompt is too long; otherwise as `start` does for the current batch.
        """
        questions = as_questions(questions)
        self._require_short(questions)
        size = self.runtime.limits.max_batch
        for begin in range(answered, len(questions), size):
            yield from self._reply(questions[begin : begin + size], begin, max_new_tokens, sampling)

    def _prompts(self, questions: Sequence[Question], first: int) -> list[Prompts]:
        config = self.runtime.config
        return [
            make_prompt(question, config, self.family, self.tokenizer, question.where(number), self.exif_rotate)
            for number, question in enumerate(questions, start=first)
        ]

    def _reply(self, batch: Sequence[Question], begin: int, max_new_tokens: int, sampling: Sampling) -> list[Reply]:
        """A batch's replies, of several batches where it cannot be one. Its caches and folded weights are freed before the next batch."""
        prompts, replies = self._prompts(batch, begin + 1), {}
        for group in together(self.runtime, prompts):
            conversation = Conversation(self.runtime, join_prompts([prompts[row] for row in group]), max_new_tokens)
            rows = [begin + row for row in group]
            answers = answer(conversation, max_new_tokens, self.tokenizer.ends, sampling, rows)
            for row, each in zip(group, answers):
                replies[row] = Reply(self.tokenizer.decode(each.tokens), each.tokens, each.finish)
        return [replies[row] for row in range(len(batch))]

    def _require_short(self, questions: Sequence[Question], first: int = 1) -> None:
        config, limits = self.runtime.config, self.runtime.limits
        for number, question in enumerate(questions, start=first):
            require_short(question, config, self.family, self.tokenizer, limits, question.where(number))


def open_model(bundle: Bundle | Path | str, backend: str = "onnxruntime", exif_rotate: bool = False) -> TextModel:
    """Open a bundle as a TextModel. Raises UserError if the model does not generate text, or the tokenizer is missing or another model's."""
    opened = open_bundle(bundle)
    if get_family(opened.manifest.config.family).prompts is None:
        fix = "give arrays: eas-export run BUNDLE --inputs X.npz, or call generation/encode.encode"
        raise UserError("the bundle's model takes arrays and does not generate text", where=opened.path, fix=fix)
    tokenizer = open_tokenizer(opened)
    return TextModel(open_runtime(opened, backend), tokenizer, exif_rotate)


def run(
    bundle: Bundle | Path | str,
    questions: str | Question | Sequence[str | Question],
    max_new_tokens: int = 32,
    sampling: Sampling = GREEDY,
    backend: str = "onnxruntime",
) -> list[Reply]:
    """The bundle's reply to each question. Raises UserError as `open_model` and `TextModel.replies` do."""
    return list(open_model(bundle, backend).replies(questions, max_new_tokens, sampling))


def has_tokenizer(bundle: Bundle) -> bool:
    return any(name in bundle.manifest.files for name in TOKENIZERS)


def open_tokenizer(bundle: Bundle) -> Tokenizer:
    """The bundle's tokenizer. Raises UserError if it is missing or another model's."""
    if not has_tokenizer(bundle):
        what = "the bundle has no tokenizer: the checkpoint came without one"
        fix = "build again with --tokenizer PATH, or give token ids: --inputs X.npz"
        raise UserError(what, where=bundle.path, fix=fix)
    files = [bundle.path / name for name in TOKENIZER_FILES if name in bundle.manifest.files]
    return make_tokenizer(files, bundle.manifest.config)
