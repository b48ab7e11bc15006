"""What a row or a field brings by itself: an option, a backend, a fold mode, a weight format, a baseline of `bench`."""

import importlib.metadata
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
import torch
from conftest import golden_case
from meter_cases import MeterCase
from packaging.requirements import Requirement
from torch import nn

from eas_export.backends import BACKENDS, get_backend
from eas_export.bench import decoder
from eas_export.bench.baselines import Baseline
from eas_export.bench.report import BenchReport
from eas_export.build.artifacts import Blueprint, engine_targets
from eas_export.build.keys import graph_key, identify
from eas_export.build.recipe import resolve
from eas_export.bundle.bundle import open_bundle
from eas_export.core.choices import choices_of
from eas_export.core.errors import UserError
from eas_export.core.limits import Limits
from eas_export.core.options import BuildOptions, options_of
from eas_export.core.plan import choose_plan
from eas_export.core.precision import PRECISIONS, WEIGHT_FORMATS, WeightFormat, parameter_dtype
from eas_export.core.progress import Progress
from eas_export.export.lowerings import LOWERINGS
from eas_export.families import load_checkpoint
from eas_export.families.contract import Sources
from eas_export.networks.decoder.graphs import FOLD_MODES
from eas_export.networks.drop import drop_adapters
from eas_export.networks.network import build_network, load_parameters
from eas_export.networks.parameters import network_parameters, plain
from eas_export.networks.prune import prune
from eas_export.pipeline import build, settle
from eas_export.system.hashing import key_of

ROOT = Path(__file__).parent.parent
CASE, METER = golden_case("first"), MeterCase("vqa_skip10")
OF_METER = {"skip": METER.skip, "text_heads": METER.text_heads}
ALONE = OF_METER | {"text_length": 10, "cross_heads": 4}  # of a state dict that says neither
QUICK = ("--prompt-tokens", 6, "--new-tokens", 3, "--batch", 1, "--rounds", 2)
ENGINES = {"backend": "tensorrt-rtx"}
# Option -> (the options that there are beside it, another value than it has there)
CHANGED = {
    "skip": ({}, "2-3"),
    "router_temperature": ({}, 5.0),
    "adapter_scale": ({}, 0.5),
    "text_heads": (OF_METER, 3),
    "text_length": (ALONE, 9),
    "cross_heads": (ALONE, 6),
    "image_cross_reading": (OF_METER, "paper"),
    "precision": ({}, "fp16"),
    "fold": ({"max_batch": 1}, "lowrank"),
    "adapters": ({}, "drop"),
    "max_batch": ({"fold": "lowrank"}, 3),
    "max_images": ({}, 2),
    "max_prompt": ({}, 64),
    "max_tokens": ({}, 1999),
    "backend": ({}, "tensorrt-rtx"),
    "compute_capability": (ENGINES, "86"),
    "engine_weights": (ENGINES, "embedded"),
    "opset": ({}, 21),
}


@cache
def state_dict_alone() -> tuple[Path, TemporaryDirectory]:
    folder = TemporaryDirectory()
    file = Path(folder.name) / "alone.ckpt"
    torch.save(torch.load(METER.file, weights_only=True)["state_dict"], file)
    return file, folder


def keys_of(**options: object) -> SimpleNamespace:
    """Everything that a build's identity is made from, and what came of it: bundle, weights, and graphs by name."""
    request = resolve(None, options)
    ckpt = METER.file if "text_heads" in options else CASE.folder
    ckpt = state_dict_alone()[0] if "text_length" in options else ckpt
    checkpoint = load_checkpoint(Sources(ckpt, **request.options.settings))
    if request.options.adapters == "drop":
        checkpoint = drop_adapters(checkpoint)
    opts = settle(request.options, checkpoint.config)
    plan = choose_plan(checkpoint.config.sites, checkpoint.evidence, request.given_skip)
    targets = engine_targets(opts)
    made = identify(checkpoint, plan, opts, targets, None, Progress())
    store, specs = SimpleNamespace(entries={}), Blueprint(prune(checkpoint, plan), plan, opts, targets).graphs
    given = (checkpoint.config, plan, opts, store, made.toolchain)
    graphs = {name: graph_key(spec, *given) for name, spec in specs.items()}
    return SimpleNamespace(
        bundle=made.key, weights=made.weights, graphs=graphs, opts=opts, made=made, plan=plan, config=checkpoint.config,
        targets=targets, specs=specs, checkpoint=checkpoint,
    )  # fmt: skip


def test_every_option_says_what_it_decides():
    assert set(CHANGED) == set(BuildOptions.model_fields)
    for name, about in options_of(BuildOptions).items():
        assert about.help and set(about.decides) <= {"weights", "graphs", "engines"}, name
        assert ("engines" in about.decides) == (about.shown_by == "targets"), "a builder sees its target and no options"


@pytest.mark.parametrize("name", CHANGED)
def test_what_an_option_decides_has_another_key(name):
    beside, value = CHANGED[name]
    decides, one, other = options_of(BuildOptions)[name].decides, keys_of(**beside), keys_of(**beside | {name: value})
    assert (one.bundle != other.bundle) == bool(decides)
    assert (one.weights != other.weights) == ("weights" in decides)
    assert (one.graphs != other.graphs) == ("graphs" in decides)


@pytest.mark.parametrize("options", [{}, {"fold": "lowrank", "opset": 21}, ENGINES, OF_METER], ids=str)
def test_keys_are_made_as_they_always_were(options):
    """Else no bundle that is there would be taken for the same."""
    it = keys_of(**options)
    limits, skipped = it.opts.limits, list(it.plan.skipped)
    numbers = [it.opts.precision, limits.max_tokens, it.config.model_dump(mode="json"), skipped]
    engines = [target.model_dump(mode="json") for target in it.targets]
    decided = [numbers, it.opts.fold, limits.model_dump(), engines, it.opts.opset]
    assert it.bundle == key_of([s.sha256 for s in it.made.sources], decided, it.made.toolchain, None)
    tensors = [s.sha256 for s in it.made.sources if not s.name.endswith(".model")]
    assert it.weights == key_of(tensors, numbers, it.made.toolchain)
    beside = [skipped, it.opts.max_tokens, it.opts.opset]
    for name, spec in it.specs.items():
        assert it.graphs[name] == key_of(spec.model_dump(), it.config.structure(), beside, [], it.made.toolchain)


def test_opsets_are_those_that_graphs_are_written_down_in():
    assert set(choices_of(BuildOptions.model_fields["opset"])) == set(LOWERINGS)


def python(folder: Path, code: str, *arguments: object) -> str:
    """What a process prints that has the folder's modules in front; sitecustomize.py there runs in it and in all that it starts."""
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


COMMAND = "from eas_export.cli.main import main; main()"

OPTION = """
import sys
from pathlib import Path
from typing import Literal
from eas_export.core import options

class More(options.BuildOptions):
    colour: Literal["red", "blue"] = options.option("red", "Of the bundle.", options.GRAPHS, "")

options.BuildOptions = More
from eas_export.build.recipe import resolve
from eas_export.cli.build import build as command
from eas_export.core.errors import UserError
from eas_export.pipeline import build, settle

assert "--colour [red|blue]" in command.get_help(command.make_context("build", [], resilient_parsing=True))
ckpt, recipe, out = map(Path, sys.argv[1:])
assert resolve(None, {}).options.colour == "red" and resolve(recipe, {}).options.colour == "blue"
try:
    build(ckpt, out, colour="green", dry_run=True)
except UserError as error:
    assert error.what == "colour is 'green': Input should be 'red' or 'blue'", error
red = build(ckpt, out, verify=False).bundle.manifest
blue = build(ckpt, out, recipe=recipe, verify=False, force=True).bundle.manifest
assert (red.options.colour, blue.options.colour) == ("red", "blue") and red.key != blue.key
keys = [{name: record.key for name, record in m.files.items()} for m in (red, blue)]
assert {name for name in keys[0] if keys[0][name] != keys[1][name]} == {f"{graph}.onnx" for graph in red.graphs}
"""


def test_an_option_is_a_field(tmp_path):
    (tmp_path / "r.yaml").write_text("colour: blue\n")
    python(tmp_path, OPTION, CASE.folder, tmp_path / "r.yaml", tmp_path / "o")


BACKEND = {
    "toy_backend.py": """
from dataclasses import replace
from functools import cache
from eas_export.backends.onnxruntime.cpu import ONNXRUNTIME, health

TOY = replace(ONNXRUNTIME, health=lambda: health().model_copy(update={"status": "plays"}), open_instrumented=None)
""",
    "sitecustomize.py": """
from eas_export.backends import BACKENDS, BackendRow

BACKENDS["toy"] = BackendRow("toy_backend:TOY", "graphs", ("onnxruntime",))
""",
}


def test_a_backend_is_a_file_and_a_row(bundle_of, tmp_path):
    for name, text in BACKEND.items():
        (tmp_path / name).write_text(text)
    run, out, bundle = (lambda *a: python(tmp_path, COMMAND, *a)), tmp_path / "o", bundle_of(CASE).path
    assert "--backend [onnxruntime|tensorrt-rtx|tensorrt|toy]" in run("build", "--help")
    assert json.loads(run("doctor", "--json"))["backends"]["toy"]["status"] == "plays"
    build_it = ("build", "--ckpt", CASE.folder, "--out", out, "--backend", "toy", "--max-prompt", 64, "--no-verify")
    assert json.loads(run(*build_it, "--json"))["options"]["backend"] == ["toy"]
    report = json.loads(run("verify", out, "--ckpt", CASE.folder, "--backend", "toy", "--json"))
    assert report["verdict"] == "same as the checkpoint" and report["steps"][-1]["name"] == "toy"
    quick = (*QUICK, "--scratch", tmp_path, "--against", "toy-weights", "--json")
    timed = BenchReport.model_validate_json(run("bench", bundle, *quick))
    assert not any(each.why_not for each in timed.baselines.values())
    assert timed.baselines["toy-weights"].what == "toy, adapters folded into the weights prompt by prompt"


def test_rows_say_of_backends_what_they_are():
    extras = [Requirement(line).name for line in importlib.metadata.requires("eas-export")]
    for name, row in BACKENDS.items():
        assert (get_backend(name).compiler is not None) == (row.runs == "engines"), name
        assert row.packages and set(row.packages) <= set(extras), name


def test_a_fold_mode_is_a_row(tmp_path, monkeypatch):
    monkeypatch.setitem(FOLD_MODES, "beside", FOLD_MODES["lowrank"])
    assert "beside" in choices_of(BuildOptions.model_fields["fold"])
    built = build(CASE.folder, tmp_path / "o", fold="beside", max_prompt=64, max_tokens=96)
    assert built.report.verdict == "same as the checkpoint" and built.report.fold == "beside"
    m = open_bundle(tmp_path / "o").manifest
    assert (m.fold, m.limits.max_batch, set(m.graphs)) == ("beside", 8, {"vision", "prefill", "decode"})
    monkeypatch.delitem(FOLD_MODES, "beside")
    with pytest.raises(
        UserError, match="the manifest is damaged: fold: Input should be 'weights', 'lowrank', 'none' or"
    ):
        open_bundle(tmp_path / "o")


def test_a_baseline_is_a_row(bundle_of, command, monkeypatch, tmp_path):
    monkeypatch.setitem(decoder.BASELINES, "mine", Baseline("lowrank", "pytorch", "what I would run"))
    quick = (*QUICK, "--scratch", tmp_path, "--against", "mine", "--json")
    code, text, err = command("bench", bundle_of(CASE).path, *quick)
    mine = BenchReport.model_validate_json(text).baselines["mine"]
    assert code == 0 and not mine.why_not and mine.what == "what I would run" and mine.steady, err


class Negated(nn.Module):
    """A linear layer whose matrix is stored with the other sign."""

    def __init__(self, inputs: int, outputs: int, bias: bool):
        super().__init__()
        self.negated = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, -self.negated, self.bias)


def negate(name: str, tensor, precision) -> dict:
    """Matrices of linear layers, but not the adapters', which stay as they are."""
    *place, last = name.split(".")
    mine = last == "weight" and len(tensor.shape) == 2 and not {"adapter", "router", "pool"} & {*place}
    if not mine or place[-1] in ("embed", "modality"):
        return plain(name, tensor, precision)
    dtype = getattr(torch, parameter_dtype(name, precision))
    return {".".join([*place, "negated"]): tensor.map(lambda t: -t.to(dtype), dtype=dtype)}


def test_a_weight_format_is_a_row(monkeypatch):
    row = WeightFormat(pack=f"{__name__}:negate", linear=f"{__name__}:Negated")
    monkeypatch.setitem(WEIGHT_FORMATS, "negated", row)
    config, plan, limits = CASE.checkpoint.config, CASE.plan, Limits(max_prompt=64, max_tokens=96)
    networks = []
    for precision in (PRECISIONS["fp32"], replace(PRECISIONS["fp32"], weights="negated")):
        parameters = network_parameters(prune(CASE.checkpoint, plan), plan, precision, limits)
        network = build_network(config, plan, precision, limits)
        networks.append(load_parameters(network, {name: tensor.read for name, tensor in parameters.items()}))
    ours, theirs = networks
    x = torch.randn(5, config.dim)
    assert theirs.decoder.head.negated.equal(-ours.decoder.head.weight)
    assert theirs.decoder.layers[1].project(x)[0].equal(ours.decoder.layers[1].project(x)[0])
