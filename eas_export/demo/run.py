"""The demo: build and verify the small trained model, and compare its answers with those of the model before EAS."""

import filecmp
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..core.errors import UserError
from ..core.progress import Progress
from ..families import load_checkpoint
from ..families.contract import Sources
from ..families.processing.image_processor import read_image
from ..inputs.questions import read_questions
from ..pipeline import BuildResult, build
from ..system.files import translated, written_whole
from ..verify.html import render
from . import BASE, CHECKPOINT, QUESTIONS, RECIPE
from .compare import EAS, FULL, Answered, answer, models_of
from .pictures import draw

BUNDLE, SOURCE, REPORT, SHEET, SHOWN = "demo.bundle", "checkpoint", "report.html", "questions.png", "questions.jsonl"
TEMPLATES = ("Which one is larger?", "What is the sum?", "Is the second one odd or even?")


@dataclass(frozen=True)
class Example:
    """A question that is shown. with_every_attention, bundle: what the model before EAS and the bundle answer"""

    question: str
    images: tuple[Path, ...]
    right: str
    with_every_attention: str
    bundle: str

    def lines(self) -> list[str]:
        return [
            self.question,
            "",
            f"every attention: {self.with_every_attention}",
            f"EAS bundle: {self.bundle}",
            f"right answer: {self.right}",
        ]

    def as_json(self) -> dict[str, str | list[str]]:
        return asdict(self) | {"images": [str(path) for path in self.images]}


@dataclass(frozen=True)
class DemoResult:
    """answers_agree: the bundles answered every question as EAS in PyTorch does, token for token"""

    built: BuildResult
    answers: list[Answered]
    examples: list[Example]

    @property
    def answers_agree(self) -> bool:
        return all(each.as_eas in (None, 1.0) for each in self.answers)


def run(folder: Path, progress: Progress) -> DemoResult:
    """Write the checkpoint, demo.bundle, report.html, and three questions with their pictures (questions.jsonl, questions.png) to `folder`.

    Raises UserError where the folder holds files that no demo wrote: nothing of them is replaced.
    """
    _require_own(folder)
    with translated(folder):
        shutil.copytree(CHECKPOINT, folder / SOURCE, dirs_exist_ok=True)
    built = build(folder / SOURCE, folder / BUNDLE, recipe=RECIPE, force=True, progress=progress)
    with tempfile.TemporaryDirectory() as scratch:
        lowrank = build(
            CHECKPOINT,
            Path(scratch) / "lowrank.bundle",
            recipe=RECIPE,
            fold="lowrank",
            max_batch=32,
            base=folder / BUNDLE,
            verify=False,
            progress=progress,
        )
        base, eas = (load_checkpoint(Sources(source)) for source in (BASE, CHECKPOINT))
        answers = answer(models_of(base, eas, [built.bundle, lowrank.bundle]), QUESTIONS, eas, progress)
    with written_whole(folder / REPORT) as file:
        file.write(render(built.report, BUNDLE).encode())
    return DemoResult(built, answers, _write_examples(folder, answers))


def _require_own(folder: Path) -> None:
    with translated(folder, "--out is not a folder that can be read", "choose another place"):
        names = [path.name for path in folder.iterdir()] if folder.exists() else []
    files = [path.relative_to(CHECKPOINT) for path in CHECKPOINT.rglob("*") if path.is_file()]
    same, _, _ = filecmp.cmpfiles(CHECKPOINT, folder / SOURCE, files, shallow=False)
    if names and len(same) < len(files):  # an earlier demo's first step was to copy it
        what = f"the folder has files, such as {min(names)!r}, but not the demo's {SOURCE}"
        raise UserError(what, where=f"--out {folder}", fix="name a new or an empty folder")


def _write_examples(folder: Path, answers: Sequence[Answered]) -> list[Example]:
    """One question of each of TEMPLATES, as a file for `eas-export run` and drawn with its answers."""
    questions, texts = read_questions(QUESTIONS), {each.model: each.texts for each in answers}
    before, after = texts[FULL], texts[f"{EAS}, --fold weights"]
    chosen = [next(i for i, each in enumerate(questions) if text in each.prompt) for text in TEMPLATES]
    with translated(folder):
        (folder / "images").mkdir(exist_ok=True)
        lines = QUESTIONS.read_text("utf-8").splitlines()
        with written_whole(folder / SHOWN) as file:
            file.write("".join(f"{lines[i]}\n" for i in chosen).encode())
        for i in chosen:
            for image in questions[i].image:
                shutil.copyfile(image, folder / "images" / Path(image).name)
        examples = [
            Example(text, tuple(map(Path, questions[i].image)), questions[i].answer[0], before[i], after[i])
            for i, text in zip(chosen, TEMPLATES)
        ]
        draw([([read_image(path) for path in each.images], each.lines()) for each in examples], folder / SHEET)
    return examples
