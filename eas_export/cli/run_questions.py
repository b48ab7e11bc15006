"""eas-export run on a decoder with questions: text out, as it is generated or a line per answer."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext

import click

from ..bundle.bundle import Bundle
from ..families.processing.question import Question
from ..generation.conversation import Finish
from ..generation.sampling import Sampling
from ..generation.text_model import Reply, TextModel, open_model
from .answers_file import answers_file, answers_key
from .run_options import DEFAULT_NEW_TOKENS, RunOptions

WHY = {
    Finish.EOS: "eos",
    Finish.LENGTH: "length (--max-new-tokens)",
    Finish.LIMIT: "limit (the build's --max-tokens)",
}

FORMS = ({"text", "finish", "tokens"},)  # of an answer


def run_questions(bundle: Bundle, questions: Sequence[Question], options: RunOptions) -> tuple[dict, None]:
    """What `--json` shows; the answers are printed here. Raises UserError for questions that do not fit the bundle."""
    options.require_decoding()
    max_new_tokens, outputs = options.max_new_tokens or DEFAULT_NEW_TOKENS, options.outputs

    def keep(reply: Reply) -> None:
        add(_record(len(answers) + 1, questions[len(answers)], reply))
        if not counted:
            click.echo(f"[{len(answers)}] {reply.text}")

    counted, group = options.as_json or outputs, bundle.manifest.limits.max_batch
    key = answers_key(bundle, questions, options, max_new_tokens, options.sampling.model_dump(mode="json"))
    with answers_file(options, key, group, [question.image for question in questions], FORMS) as (answers, add):
        with options.progress.stage("loading"):
            model = open_model(bundle, options.backend, options.exif_rotate)
        if model.tokenizer.chat is None and any(question.prompt is None for question in questions):
            for said in model.tokenizer.chat_notes():
                options.progress.note("questions", {"format": said})
        earlier, begin = len(answers), time.monotonic()
        if len(questions) == 1 and not counted:
            add(_stream_one(model, questions, max_new_tokens, options.sampling))
        else:
            stage = options.progress.stage("answering", len(questions) - len(answers), "questions")
            with stage if counted else nullcontext(lambda count: None) as done:
                for reply in model.replies(questions, max_new_tokens, options.sampling, len(answers)):
                    keep(reply)
                    done(1)
        if new := answers[earlier:]:
            options.progress.note(*_summary(new, time.monotonic() - begin))
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
