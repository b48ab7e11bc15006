"""The ledger on LLaVA-EAS models: every fault that applies is found where it was planted, with grouped keys and values too."""

import shutil

import pytest
from conftest import TINY, llava_golden_case
from PIL import Image
from synthetic_llava import LlavaShape, write_llava

from eas_export.families.processing.question import Question
from eas_export.families.processing.tokenizer import Tokenizer
from eas_export.generation.text_model import open_model
from eas_export.pipeline import build, verify
from eas_export.verify.controls import Place
from eas_export.verify.decoder_faults import CONTROLS
from eas_export.verify.report import Verdict


def check_every_fault_is_found(bundle, folder) -> None:
    report = verify(bundle, folder, negative_controls=True)
    assert report.verdict == Verdict.SAME
    planted = {control.name for control in report.controls if not control.why_not}
    assert planted >= {"transposed weight", "position off by one", "stale cache slot", "router weights off by 1 %"}
    for control in report.controls:
        place = CONTROLS[control.name].place(bundle.manifest)
        if isinstance(place, Place):
            assert (control.found.graph, control.found.layer) == (place.graph, place.layer), control.name
            assert control.found.stage in CONTROLS[control.name].stages


@pytest.mark.parametrize("fold", ["weights", "lowrank"])
def test_the_goldens(llava_case, bundle_of, fold):
    check_every_fault_is_found(bundle_of(llava_case, fold=fold), llava_case.folder)


@pytest.mark.parametrize("fold", ["weights", "lowrank"])
def test_grouped_keys_and_values(tmp_path, fold):
    folder = write_llava(tmp_path / "ckpt", LlavaShape(kv_heads=2, skip=(0, 2)))
    check_every_fault_is_found(build(folder, tmp_path / "out", verify=False, fold=fold).bundle, folder)


def test_the_published_fold_is_told_apart(bundle_of):
    case = llava_golden_case("a")
    (form,) = {shortcut.name for shortcut in verify(bundle_of(case), case.folder).shortcuts}
    assert form == "published fold"


def test_text_and_images_go_in_and_text_comes_out(tmp_path, refused):
    (tokenizer,) = TINY.checkpoint.tokenizer
    shape = LlavaShape(skip=(1,), vocab=Tokenizer((tokenizer,), 1 << 20).size)
    folder = write_llava(tmp_path / "ckpt", shape)
    shutil.copy(tokenizer, folder / "tokenizer.model")
    for name, colour in (("a.png", (200, 10, 30)), ("b.png", (0, 90, 255))):
        Image.new("RGB", (40, 30), colour).save(tmp_path / name)
    two = [str(tmp_path / name) for name in ("a.png", "b.png")]
    questions = [
        Question(question="What?", options=("a cat", "a dog"), image=str(tmp_path / "a.png")),
        Question(prompt="Two <image>\nof it", image=str(tmp_path / "a.png")),
        Question(prompt="Hello"),
        Question(prompt="<image> and <image>", image=two),
    ]
    result = build(folder, tmp_path / "out", max_prompt=250, max_tokens=300, max_images=2)
    assert "two images" in result.report.steps[-1].cases and result.report.ok
    model = open_model(result.bundle)
    replies = list(model.replies(questions, max_new_tokens=4))
    assert all(1 <= len(reply.tokens) <= 4 for reply in replies)

    def first_logits(*images: str):
        return model.start([Question(prompt="<image> and <image>", image=images)]).logits

    assert (first_logits(*two) - first_logits(*reversed(two))).abs().max() > 1e-3  # each stands in its own place
    asked = ("run", result.bundle.path, "--prompt", "<image>", "--image", two[0], "--image", two[1], "--image", two[0])
    assert "--max-images" in refused(*asked)
