"""The systems that EAS is compared with, given to `bench` as checkpoints or bundles."""

import pytest
import torch
from conftest import TINY, golden_case, llava_golden_case
from meter_cases import MeterCase
from synthetic import Shape, write_adapters, write_checkpoint
from synthetic_comparators import lavin, lavin_das, lavin_lora

from eas_export.bench.baseline_bundles import BaselineBundles
from eas_export.bench.runners import RUNNERS
from eas_export.bench.settings import Workload
from eas_export.bench.stages import ANSWER, PREFILL
from eas_export.bench.systems import SYSTEMS, contestants
from eas_export.bundle.bundle import open_bundle
from eas_export.cli.bench import bench as command_line
from eas_export.core.errors import UserError
from eas_export.core.progress import Progress
from eas_export.pipeline import build

CASE = golden_case("first")
SHAPE = Shape(
    "7B", dim=128, layers=4, heads=4, vocab=96, multiple_of=32, rank=8, skip=(1, 2, 3), hidden_proj=16,
    clip_width=64, clip_blocks=4, clip_image=28,
)  # fmt: skip
LIMITS = {"max_prompt": 32, "max_tokens": 64}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """files(name) -> a checkpoint of the system over the base model of `files("eas")`, which has a bundle beside it, eas.bundle; "lora" is over
    another base model of the same shape."""
    folder = tmp_path_factory.mktemp("systems")
    eas = write_checkpoint(folder / "eas", SHAPE)
    write_checkpoint(folder / "lora", SHAPE, seed=2, trained=lavin_lora(SHAPE))
    for name, system in {"lavin": lavin, "das": lavin_das}.items():
        (folder / name).mkdir()
        for part in ("weights", "clip"):
            (folder / name / part).symlink_to(eas / part)
        write_adapters(folder / name / "checkpoint-19.pth", system(SHAPE), torch.Generator().manual_seed(1))
    build(eas, folder / "eas.bundle", precision="fp16", fold="weights", verify=False, **LIMITS)
    return lambda name: folder / name


WORKLOAD = Workload(prompt_tokens=6, new_tokens=3, batches=(1, 2))


def place(bundle, name: str, path, folder):
    """The bundle that a system is timed with."""
    found = contestants({name: path}, bundle, None, "cpu")[name]
    bundles = BaselineBundles(bundle, None, WORKLOAD, folder, Progress(), {name: found.place})
    return open_bundle(bundles.place(name), check=True)


@pytest.mark.parametrize(
    "name, system, fold, shares",
    [
        (
            "lavin-folded",
            "lavin",
            "weights",
            False,
        ),  # q, k and v are others, once for each modality, and without skips gate and up
        ("lavin-unfolded", "lavin", "lowrank", True),
        ("das", "das", "weights", True),
        ("lora", "lora", "none", False),
    ],
)
def test_a_checkpoint_is_built_as_the_bundle_was(files, tmp_path, name, system, fold, shares):
    own = open_bundle(files("eas.bundle"))
    placed = place(own, name, files(system), tmp_path)
    parts = RUNNERS["onnxruntime"](placed.path, WORKLOAD).parts
    for part in (PREFILL, ANSWER, "decode x2"):
        parts[part].prepare()()
    m = placed.manifest
    assert (m.precision, m.fold) == ("fp16", fold)
    assert (m.limits.max_prompt, m.limits.max_tokens, m.limits.max_batch) == (32, 64, 2)
    assert m.plan.skipped == (SHAPE.skip if system == "das" else ())
    assert (m.base and m.base.sha256) == (own.manifest.files["weights.safetensors"].sha256 if shares else None)


def test_of_skipped_layers_nothing_is_run_as_published_or_without_adapters(files, tmp_path):
    bundle = build(files("das"), tmp_path / "das", fold="lowrank", verify=False, **LIMITS).bundle
    with pytest.raises(UserError, match="skipped layers are not run as published"):
        RUNNERS["published"](bundle.path, WORKLOAD)
    with pytest.raises(UserError, match="nothing would be left of the layers that the bundle skips"):
        BaselineBundles(bundle, None, WORKLOAD, tmp_path, Progress()).place("floor")


@pytest.mark.parametrize(
    "name, system, said",
    [
        ("das", "lavin", "that model skips nothing, but the system of that name skips layers (--against-ckpt das="),
        ("das", "eas", "that model skips attentions, but the system of that name skips layers"),
        ("lavin-folded", "eas", "that model skips attentions, but the system of that name skips nothing"),
        ("lora", "das", "that model skips layers, but the system of that name skips nothing"),
    ],
)
def test_another_system_than_the_names_is_refused(files, name, system, said):
    with pytest.raises(UserError) as refused:
        contestants({name: files(system)}, open_bundle(files("eas.bundle")), None, "cpu")
    assert said in str(refused.value)


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
        ("das", llava_golden_case("a").folder, "a checkpoint of llava, the bundle's is of lavin"),
        ("das", MeterCase("comparators/meter-das/vqa_train").file, "a checkpoint of meter, the bundle's is of lavin"),
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
    other = bundle_of(golden_case("noskip"), fold="lowrank")
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
