"""eas-export run on a decoder with questions: text out, as it is generated or a line per answer."""

import json
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import click

from ..bundle.bundle import Bundle
from ..core.errors import UserError
from ..families.processing.question import Question
from ..generation.sampling import Sampling
from ..generation.text_model import Reply, TextModel, open_model
from ..system.files import Lines, written_by_line
from ..system.hashing import key_of
from .run_options import DEFAULT_NEW_TOKENS, RunOptions


def run_questions(bundle: Bundle, questions: Sequence[Question], options: RunOptions) -> tuple[dict, None]:
    """What `--json` shows; the answers are printed here. Raises UserError for questions that do not fit the bundle."""
    max_new_tokens, outputs = options.max_new_tokens or DEFAULT_NEW_TOKENS, options.outputs
    answers = []

    def keep(reply: Reply) -> None:
        record = _record(len(answers) + 1, questions[len(answers)], reply)
        lines.write(json.dumps(record, ensure_ascii=False))
        answers.append(record)
        if not counted:
            click.echo(f"[{len(answers)}] {reply.text}")

    counted, group = options.as_json or outputs, bundle.manifest.limits.max_batch
    key = _key(bundle, questions, max_new_tokens, options)
    nowhere = nullcontext(Lines(Path(), [], lambda line: None))
    with written_by_line(outputs, key, options.resume, group) if outputs else nowhere as lines:
        answers += _kept(lines)
        if answers:
            options.progress.note("resumed", {"answers kept": len(answers), "of": len(questions)})
        try:
            with options.progress.stage("loading"):
                model = open_model(bundle, options.backend, options.exif_rotate)
            if len(questions) == 1 and not counted:
                _stream_one(model, questions, max_new_tokens, options.sampling)
            else:
                stage = options.progress.stage("answering", len(questions) - len(answers), "questions")
                with stage if counted else nullcontext(lambda count: None) as done:
                    for reply in model.replies(questions, max_new_tokens, options.sampling, len(answers)):
                        keep(reply)
                        done(1)
        except BaseException as error:
            if answers and outputs:
                click.echo(f"the first {len(answers)} answers are in {lines.partial}", err=True)
                error.add_note("the same command with --resume goes on after the answers that are there")
            raise
    return {"answers": answers, "outputs": str(outputs) if outputs else None, "backend": options.backend}, None


def _record(number: int, question: Question, reply: Reply) -> dict:
    """A line of --outputs; a question's id comes back with what LLaVA's evaluations look for beside it."""
    asked = {"question_id": question.question_id, "prompt": question.prompt or question.question}
    asked = {} if question.question_id is None else asked
    return {"question": number, **asked, "text": reply.text, "finish": reply.finish, "tokens": reply.tokens}


def _key(bundle: Bundle, questions: Sequence[Question], max_new_tokens: int, options: RunOptions) -> str:
    """What answers depend on, as a hash; images count by their paths."""
    images = [[os.path.realpath(name) for name in question.image] for question in questions]
    texts = [question.model_dump(mode="json", exclude={"image"}) for question in questions]
    how = [max_new_tokens, options.sampling.model_dump(mode="json"), options.backend, options.exif_rotate]
    return key_of(bundle.manifest.key, texts, images, how)


def _kept(lines: Lines) -> list[dict]:
    """The answers of an interrupted run. Raises UserError where somebody changed their file."""
    try:
        answers = [json.loads(line) for line in lines.kept]
        if [answer["question"] for answer in answers] == [*range(1, len(answers) + 1)]:
            return answers
    except (ValueError, TypeError, KeyError):
        pass
    raise UserError("the partial output is damaged", where=lines.partial, fix="delete the file, and start again")


def _stream_one(model: TextModel, questions: Sequence[Question], max_new_tokens: int, sampling: Sampling) -> None:
    conversation = model.start(questions, room=max_new_tokens)
    empty = True
    for step in model.stream(conversation, max_new_tokens, sampling):
        text = "".join(text for _, text in step)
        empty = empty and not text.strip()
        click.echo(text, nl=False)
    click.echo()
    if empty:
        click.echo("note: the answer is empty; a prompt that is not in the model's own format can do that", err=True)
