"""eas-export run on a cross-encoder with texts and images: answers with their probabilities, or what is found, best first."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import click

from ..bundle.bundle import Bundle
from ..families.processing.question import Question
from ..generation.pair_model import PairModel, has_answers, open_pair_model
from ..inputs.pair_questions import Item
from .answers_file import answers_file, answers_key
from .output import Table
from .run_options import RunOptions

TOP = 5  # answers, images or texts that are shown
CHOSEN, RANKED = ({"answer", "probability", "answers"},), ({"score"}, {"ranking"})  # keys of what is found

Done = Callable[[int], None]


def run_pair_questions(bundle: Bundle, questions: Sequence[Question], options: RunOptions) -> tuple[dict, Table | None]:
    """What `--json` shows, and a table of it unless many answers are in a file. Raises UserError for questions that do not fit the bundle, and for options of generation."""
    options.require_no_decoding()
    ranks, size, outputs = bundle.manifest.config.task == "retrieval", bundle.manifest.limits.max_batch, options.outputs
    with options.progress.stage("loading"):
        model = open_pair_model(bundle, options.backend, options.exif_rotate)
    items = model.items(questions)
    if cut := model.reader.cut([item for each in items for item in each]):
        others = f" and {len(cut) - 1} more" if cut[1:] else ""
        length = bundle.manifest.config.text_length
        options.progress.note(
            "texts", {f"{cut[0]}{others}": f"longer than {length} tokens: the rest is not read, as in training"}
        )
    single = all(len(each) == 1 for each in items)
    key, group = answers_key(bundle, questions, options, options.top), size if single else 1
    images = [[*dict.fromkeys(path for item in each for path in item.images)] for each in items]
    with answers_file(options, key, group, images, RANKED if ranks else CHOSEN) as (results, add):
        left = items[len(results) :]
        stage = options.progress.stage(
            "scoring" if ranks else "answering", sum(map(len, left)), "pairs" if ranks else "questions"
        )
        with stage as done:
            if ranks:
                found = _rankings(model, [left] if single else [[each] for each in left], options.top, done)
            else:
                found = _answers(model, questions, options.top or TOP, len(results), done)
            for each in found:
                add(_record(len(results) + 1, questions[len(results)], each))
    if not ranks and not has_answers(bundle):
        click.echo("note: answers are numbers: build the bundle with --labels FILE to have words", err=True)
    record = {"answers": results, "outputs": str(outputs) if outputs else None, "backend": options.backend}
    if outputs and len(results) > 1:
        return record, None
    return record, _ranking_table(items, results, options) if ranks else _answer_table(results, options)


def _record(number: int, question: Question, found: dict) -> dict:
    ids = {} if question.question_id is None else {"question_id": question.question_id}
    return {"question": number, **ids, **found}


def _answers(model: PairModel, questions: Sequence[Question], top: int, begin: int, done: Done) -> Iterator[dict]:
    for answers in model.answers(questions, top, begin):
        best = [{"answer": answer.text, "probability": answer.probability} for answer in answers]
        yield {**best[0], "answers": best}
        done(1)


def _rankings(
    model: PairModel, groups: Iterable[Sequence[Sequence[Item]]], top: int | None, done: Done
) -> Iterator[dict]:
    """Of each question, the score of its pair, or what it finds, best first. groups: of questions whose pairs share batches"""
    for group in groups:
        scores = model.scores([item for each in group for item in each])
        for each in group:
            own = []
            for score in islice(scores, len(each)):
                own.append(score)
                done(1)
            best = sorted(range(len(each)), key=lambda place, own=own: -own[place])[:top]
            ranking = [{**_found(each, place), "score": own[place]} for place in best]
            yield {"score": own[0]} if len(each) == 1 else {"ranking": ranking}


def _found(items: Sequence[Item], place: int) -> dict[str, str]:
    """What tells the item from the others: its image, or its text."""
    item = items[place]
    return {"image": item.images[0]} if items[0].text == items[-1].text else {"text": item.text}


def _answer_table(results: Sequence[dict], options: RunOptions) -> Table:
    if len(results) == 1:
        rows = [[each["answer"], f"{each['probability']:.3f}"] for each in results[0]["answers"]]
        return Table(f"{options.backend}, likeliest first", ["answer", "probability"], rows, numbers=1)
    rows = [[str(each["question"]), each["answer"], f"{each['probability']:.3f}"] for each in results]
    title = f"{options.backend}, {len(results)} questions"
    return Table(title, ["question", "answer", "probability"], rows, numbers=1)


def _ranking_table(items: Sequence[Sequence[Item]], results: Sequence[dict], options: RunOptions) -> Table:
    """The best of each question's ranking or, where each question is one pair, of all pairs."""
    top = options.top or TOP
    if all("score" in each for each in results):
        best = sorted(results, key=lambda each: -each["score"])[:top]
        pairs = [(each, items[each["question"] - 1][0]) for each in best]
        rows = [[str(each["question"]), pair.text, pair.images[0], f"{each['score']:.4f}"] for each, pair in pairs]
        title = f"{options.backend}, best {len(rows)} of {len(results)} pairs"
        return Table(title, ["question", "text", "image", "score"], rows, numbers=1)
    rows = []
    for each, own in zip(results, items):
        ranking = each.get("ranking") or [{**_found(own, 0), "score": each["score"]}]
        rows += [
            [str(each["question"]), next(iter(found.values())), f"{found['score']:.4f}"] for found in ranking[:top]
        ]
    title = f"{options.backend}, best {min(top, max(map(len, items)))} of {max(map(len, items))}"
    if len(results) == 1:
        return Table(title, ["found", "score"], [row[1:] for row in rows], numbers=1)
    return Table(title, ["question", "found", "score"], rows, numbers=1)
