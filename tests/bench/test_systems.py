"""The systems that EAS is compared with, given to `bench` as checkpoints or bundles."""

import pytest
from conftest import TINY, golden_case, llava_golden_case
from meter_cases import MeterCase

from eas_export.bench.baseline_bundles import BaselineBundles
from eas_export.bench.settings import Workload
from eas_export.bench.systems import SYSTEMS, contestants
from eas_export.bundle.bundle import open_bundle
from eas_export.cli.bench import bench as command_line
from eas_export.core.errors import UserError
from eas_export.core.progress import Progress

CASE = golden_case("first")


def place(bundle, name: str, path, folder):
    """The bundle that a system is timed with."""
    found = contestants({name: path}, bundle, None, "cpu")[name]
    workload = Workload(prompt_tokens=6, new_tokens=3, batches=(1, 2))
    bundles = BaselineBundles(bundle, None, workload, folder, Progress(), {name: found.place})
    return open_bundle(bundles.place(name), check=True)


@pytest.mark.parametrize("name, fold", [("lavin-folded", "weights"), ("lavin-unfolded", "lowrank")])
def test_a_checkpoint_is_built_as_the_bundle_was_over_its_weights(bundle_of, tmp_path, name, fold):
    own = bundle_of(CASE, precision="fp16")
    m = place(own, name, CASE.folder, tmp_path).manifest
    assert (m.precision, m.fold, m.options.opset) == ("fp16", fold, own.manifest.options.opset)
    assert (m.limits.max_prompt, m.limits.max_tokens) == (128, 256)
    assert m.limits.max_batch == (1 if fold == "weights" else 2)
    assert m.base.sha256 == own.manifest.files["weights.safetensors"].sha256


def test_one_over_another_base_model_shares_nothing(bundle_of, tmp_path):
    """The shape is the same, the weights are not."""
    assert place(bundle_of(CASE), "das", golden_case("all").folder, tmp_path).manifest.base is None


@pytest.mark.parametrize(
    "name, path, said",
    [
        (
            "eas",
            CASE.folder,
            "unknown system 'eas' (--against-ckpt): did you mean das? choose one of: lavin-folded, lavin-unfolded, das, lora",
        ),
        ("das", "no/such", "there is no such file or folder (no/such)"),
        ("das", CASE.folder / "weights", "this is not a checkpoint of a known family"),
        ("das", TINY.folder, "its vocab_size is 128, the bundle's is 96 (--against-ckpt das="),
        ("das", llava_golden_case("a").folder, "its family is llava, the bundle's is lavin (--against-ckpt das="),
        ("das", golden_case("noskip").folder, "build it with --skip and the list that it was trained with"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_before_any_work(bundle_of, name, path, said):
    with pytest.raises(UserError) as refused:
        contestants({name: path}, bundle_of(CASE), None, "cpu")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "name, options, said",
    [
        ("das", {"precision": "fp16"}, "was built with --precision fp16, to be compared it needs fp32"),
        ("lavin-folded", {"fold": "lowrank"}, "was built with --fold lowrank, to be compared it needs weights"),
        (
            "lavin-unfolded",
            {},
            "build it with --precision fp32 --fold lowrank --max-prompt 128 --max-tokens 256, or give",
        ),
    ],
)
def test_a_bundle_that_was_built_otherwise_is_refused(bundle_of, name, options, said):
    with pytest.raises(UserError) as refused:
        contestants({name: bundle_of(CASE, **options).path}, bundle_of(CASE), None, "cpu")
    assert said in str(refused.value)


def test_a_bundle_is_run_where_it_is(bundle_of, tmp_path):
    other = bundle_of(CASE, fold="lowrank")
    assert place(bundle_of(CASE), "lavin-unfolded", other.path, tmp_path).path == other.path
    assert not [*tmp_path.iterdir()]


def test_a_fold_mode_that_the_model_does_not_have_is_refused(meter_bundle_of):
    """A METER's adapters are folded when it is built."""
    case = MeterCase("vqa_skip10")
    with pytest.raises(UserError, match="has no fold mode lowrank, only offline"):
        contestants({"lavin-unfolded": case.file}, meter_bundle_of(case), None, "cpu")


@pytest.mark.parametrize(
    "options, said",
    [
        (("--against-ckpt", "das"), "'das' is not NAME=PATH, such as das=das-data/"),
        (("--against-ckpt", "das=a", "--against-ckpt", "das=b"), "das is given twice"),
        (("--against-ckpt", "das=no/such"), "there is no such file or folder (no/such)"),
    ],
)
def test_the_command_line_says_what_is_wrong(refused, bundle_of, options, said):
    assert said in refused("bench", bundle_of(CASE).path, *options)


def test_help_names_every_system():
    (option,) = (each for each in command_line.params if each.name == "against_ckpt")
    assert all(name in option.help for name in SYSTEMS)
