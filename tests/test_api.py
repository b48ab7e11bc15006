"""The way through Python, as the README shows it."""

import importlib
import inspect
import pkgutil
import shutil
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import pytest
from conftest import TINY, golden_case
from meter_cases import MeterCase

import eas_export
from eas_export import UserError
from eas_export.cli.main import cli
from eas_export.core.options import BuildOptions
from eas_export.families.contract import Sources
from eas_export.search.report import SearchOptions


def test_verify_takes_paths_and_opened_bundles(bundle_of):
    case = golden_case("first")
    bundle = bundle_of(case)
    assert eas_export.verify(bundle.path, case.folder).verdict == "same as the checkpoint"
    assert eas_export.verify(str(bundle.path)).verdict == "self-consistent"
    opened = eas_export.open_bundle(bundle.path)
    report = eas_export.verify(opened, case.folder, backend="pytorch", steps=2)
    assert [line.stage for line in report.steps[-1].cases["text"]][-3:] == ["decode 1", "decode 2", "tokens"]
    assert set(eas_export.open_runtime(opened, "onnxruntime").sessions) == {"vision", "prefill", "fold", "decode"}


def test_a_scale_that_the_checkpoint_does_not_say_any_more_is_another_model(bundle_of, tmp_path):
    """verify reads the checkpoint as it is: it does not put the bundle's own scale and skips in its place."""
    from cli.test_build import adapters, change

    case = golden_case("first")
    for edit, said in (
        ({"temperature": 5.0}, r"another model: its kept_adapter.temperature is 5.0, the bundle's 1.0 "),
        ({"adapter_scale": 0.7}, r"another model: its kept_adapter.scale is 0.7, the bundle's 1.0 "),
        ({"skip_list": "[3, 4]"}, r"its skip list is \[3, 4\], the bundle\'s \[0\]"),
    ):
        other = Path(shutil.copytree(case.folder, tmp_path / next(iter(edit))))
        change(adapters(other), lambda c, edit=edit: vars(c["args"]).update(edit))
        with pytest.raises(UserError, match=said):
            eas_export.verify(bundle_of(case), other)


def test_a_model_of_arrays_says_no_words(meter_bundle_of):
    """And asks for no tokenizer, which would not help."""
    with pytest.raises(UserError, match=r"takes arrays and does not generate text .*run BUNDLE --inputs X.npz"):
        eas_export.open_model(meter_bundle_of(MeterCase("vqa_skip10")))


def test_every_verb_is_a_function_whatever_was_imported(bundle_of, tmp_path):
    """Folders are called as the functions are; importing all of them must leave the functions where they were."""
    for module in pkgutil.walk_packages(eas_export.__path__, "eas_export."):
        importlib.import_module(module.name)
    bundle = bundle_of(TINY)
    question = eas_export.Question(prompt="What is shown?")
    assert eas_export.build(TINY.folder, tmp_path / "o", dry_run=True).bundle is None
    assert eas_export.verify(bundle_of(golden_case("first")), backend="pytorch", steps=1).verdict == "not run"
    (reply,) = eas_export.run(bundle.path, question, max_new_tokens=2)
    assert len(reply.tokens) == 2
    assert eas_export.inspect(bundle.path).precision == "fp32"
    assert set(eas_export.check(bundle)) == set(bundle.manifest.graphs)
    assert eas_export.doctor(progress=eas_export.Progress()).ok
    with pytest.raises(UserError, match="unknown baseline 'nobody'"):
        eas_export.bench(bundle, against=["nobody"])
    with pytest.raises(UserError, match="either the number of attentions to skip or a list of them"):
        eas_export.search(TINY.folder, tmp_path / "x.jsonl", tmp_path / "s")


ON_THE_COMMAND_LINE = {"as_json", "json_path", "html", "plot", "list_layers"}  # how results are shown
OTHERWISE = {"no_verify": "verify"}
FIELDS = {"build": BuildOptions.model_fields, "search": SearchOptions.model_fields}  # further keywords
FIELDS["inspect"] = {field.name: field for field in fields(Sources)}


@pytest.mark.parametrize("name", ["build", "verify", "bench", "search", "inspect", "check", "doctor"])
def test_keywords_are_the_command_lines_options(name):
    named = {*inspect.signature(getattr(eas_export, name)).parameters, *FIELDS.get(name, ())}
    options = {OTHERWISE.get(each.name, each.name) for each in cli.get_command(None, name).params}
    assert options - ON_THE_COMMAND_LINE <= named


def test_inspect_takes_skips_as_build_does_and_no_option_that_says_nothing_about_a_checkpoint():
    for skip in ([1, 3], "1,3"):
        assert eas_export.inspect(TINY.folder, skip=skip).plan.skipped == (1, 3)
    assert eas_export.inspect(TINY.folder, skip=1).plan.skipped == (1,)
    with pytest.raises(UserError, match=r"inspect does not take precision \(precision\): leave precision out: the"):
        eas_export.inspect(TINY.folder, adapter_scale=1.0, precision="bf16")
    with pytest.raises(UserError, match=r"skip is 1\.5: "):
        eas_export.inspect(TINY.folder, skip=1.5)


def test_long_work_says_how_far_it_is(bundle_of, plain, questions, tmp_path):
    """To a Progress of one's own."""
    stages = []

    class Listed(eas_export.Progress):
        @contextmanager
        def stage(self, title, total=None, unit="bytes"):
            stages.append(title)
            yield lambda done: None

    bundle, listed = bundle_of(TINY), Listed()
    facts = eas_export.inspect(bundle.path, check=True, progress=listed)
    assert (facts.kind, facts.fold, facts.files) == (
        "bundle",
        "weights",
        {n: r.bytes for n, r in bundle.manifest.files.items()},
    )
    facts = eas_export.inspect(TINY.folder)
    assert (facts.kind, facts.precision, facts.plan) == ("checkpoint", "fp16", TINY.plan)
    options = {"tune_steps": 1, "batch": 1, "kept_rank": 4, "skipped_rank": 4, "progress": listed}
    assert eas_export.search(plain, questions, tmp_path / "eas", skip="1", **options).skipped == (1,)
    assert {"checking files", "reading images", "tuning", "writing the checkpoint"} <= {*stages}
