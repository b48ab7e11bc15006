"""eas-export run on a decoder with questions: text out, as it is generated or a line per answer."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import click

from ..bundle.bundle import Bundle
from ..families.processing.question import Question
from ..generation.conversation import Finish
from ..generation.sampling import Sampling
from ..generation.text_model import Reply, TextModel, open_model
from ..system.files import Lines, written_by_line
from .answers_file import answers_key, kept_answers
from .run_options import DEFAULT_NEW_TOKENS, RunOptions

WHY = {
    Finish.EOS: "eos",
    Finish.LENGTH: "length (--max-new-tokens)",
    Finish.LIMIT: "limit (the build's --max-tokens)",
}


def run_questions(bundle: Bundle, questions: Sequence[Question], options: RunOptions) -> tuple[dict, None]:
    """What `--json` shows; the answers are printed here. Raises UserError for questions that do not fit the bundle."""
    options.require_decoding()
    max_new_tokens, outputs = options.max_new_tokens or DEFAULT_NEW_TOKENS, options.outputs
    answers: list[dict] = []

    def keep(reply: Reply) -> None:
        record = _record(len(answers) + 1, questions[len(answers)], reply)
        lines.write(json.dumps(record, ensure_ascii=False))
        answers.append(record)
        if not counted:
            click.echo(f"[{len(answers)}] {reply.text}")

    counted, group = options.as_json or outputs, bundle.manifest.limits.max_batch
    key = answers_key(bundle, questions, options, max_new_tokens, options.sampling.model_dump(mode="json"))
    nowhere = nullcontext(Lines(Path(), [], lambda line: None))
    with written_by_line(outputs, key, options.resume, group) if outputs else nowhere as lines:
        answers += kept_answers(lines)
        if answers:
            options.progress.note("resumed", {"answers kept": len(answers), "of": len(questions)})
        try:
            with options.progress.stage("loading"):
                model = open_model(bundle, options.backend, options.exif_rotate)
            earlier, begin = len(answers), time.monotonic()
            if len(questions) == 1 and not counted:
                answers.append(_stream_one(model, questions, max_new_tokens, options.sampling))
            else:
                stage = options.progress.stage("answering", len(questions) - len(answers), "questions")
                with stage if counted else nullcontext(lambda count: None) as done:
                    for reply in model.replies(questions, max_new_tokens, options.sampling, len(answers)):
                        keep(reply)
                        done(1)
            if new := answers[earlier:]:
                options.progress.note(*_summary(new, time.monotonic() - begin))
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


def _stream_one(model: TextModel, questions: Sequence[Question], max_new_tokens: int, sampling: Sampling) -> dict:
    conversation = model.start(questions, room=max_new_tokens)
    text = ""
    for step in model.stream(conversation, max_new_tokens, sampling):
        for _, more in step:
            click.echo(more, nl=False)
            text += more
    click.echo()
    if not text.strip():
        click.echo("note: the answer is empty; a prompt that is not in the model's own format can do that", err=True)
    return _record(1, questions[0], Reply(text, tuple(conversation.answers[0]), conversation.finish[0]))


def _summary(answers: Sequence[dict], seconds: float) -> tuple[str, dict]:
    """Why answers ended, how long they are, and how fast they came; the seconds are those of reading the prompts, too."""
    ends, tokens = Counter(WHY[answer["finish"]] for answer in answers), sum(len(each["tokens"]) for each in answers)
    rate = {"tokens": tokens, "tokens per second": tokens / max(seconds, 1e-6)}
    if len(answers) == 1:
        return "answer", {"ended by": WHY[answers[0]["finish"]], **rate}
    return "answers", {f"ended by {why}": count for why, count in ends.items()} | rate
