"""eas-export run on a decoder with questions: text out, as it is generated or a line per answer."""

import json
from collections.abc import Sequence
from contextlib import nullcontext

import click

from ..bundle.bundle import Bundle
from ..families.processing.question import Question
from ..generation.sampling import Sampling
from ..generation.text_model import Reply, TextModel, open_model
from ..system.files import written_by_line
from .run_options import DEFAULT_NEW_TOKENS, RunOptions


def run_questions(bundle: Bundle, questions: Sequence[Question], options: RunOptions) -> tuple[dict, None]:
    """What `--json` shows; the answers are printed here. Raises UserError for questions that do not fit the bundle."""
    max_new_tokens, outputs = options.max_new_tokens or DEFAULT_NEW_TOKENS, options.outputs
    with options.progress.stage("loading"):
        model = open_model(bundle, options.backend, options.exif_rotate)
    answers = []

    def keep(reply: Reply) -> None:
        asked = questions[len(answers)]
        ids = (
            {}
            if asked.question_id is None
            else {"question_id": asked.question_id, "prompt": asked.prompt or asked.question}
        )
        record = {"question": len(answers) + 1, **ids, "text": reply.text}
        record |= {"finish": reply.finish, "tokens": reply.tokens}
        write(json.dumps(record, ensure_ascii=False))
        answers.append(record)
        if not counted:
            click.echo(f"[{len(answers)}] {reply.text}")

    counted = options.as_json or outputs
    with written_by_line(outputs) if outputs else nullcontext(lambda line: None) as write:
        try:
            if len(questions) == 1 and not counted:
                _stream_one(model, questions, max_new_tokens, options.sampling)
            else:
                stage = options.progress.stage("answering", len(questions), "questions")
                with stage if counted else nullcontext(lambda count: None) as done:
                    for reply in model.replies(questions, max_new_tokens, options.sampling):
                        keep(reply)
                        done(1)
        except BaseException:
            if answers and outputs:
                click.echo(f"the first {len(answers)} answers are in {outputs.resolve()}.partial", err=True)
            raise
    return {"answers": answers, "outputs": str(outputs) if outputs else None, "backend": options.backend}, None


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
