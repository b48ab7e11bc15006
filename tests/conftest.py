"""Fixtures: the published code's cases, bundles built from them (once a session), and the command line."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from meter_cases import MeterCase
from search_cases import write_plain, write_questions

from eas_export.backends import BACKENDS, get_backend
from eas_export.backends.tensorrt import engine_graph
from eas_export.bundle.bundle import Bundle, open_bundle
from eas_export.checkpoint.checkpoint import Checkpoint
from eas_export.core.plan import SkipPlan, choose_plan
from eas_export.families import detect
from eas_export.families.contract import Sources
from eas_export.inputs.npz import Inputs, make_inputs
from eas_export.networks.decoder.prompts import Prompts
from eas_export.pipeline import build

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # of a shell that started the tests in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

GOLDEN = Path(__file__).parent / "golden"
LAVIN_CASES = ("all", "first", "half_13B", "noskip")
LLAVA_CASES = ("a", "half")
RUN_HERE = tuple(name for name in BACKENDS if get_backend(name).compiler is None)  # graphs as they are, without engines
SHORT = {"max_prompt": 128, "max_tokens": 256}  # of shared bundles: the ledger goes through the longest prompt, too
FP32 = 1e-4  # largest absolute error allowed against the published code, float32


@dataclass(frozen=True)
class GoldenCase:
    """One checkpoint of the published format with what the published code gave on it."""

    name: str
    folder: Path
    limits: dict[str, int] = field(default_factory=lambda: SHORT)

    @cached_property
    def inputs(self) -> dict[str, np.ndarray]:
        return dict(np.load(self.folder / "inputs.npz"))

    @cached_property
    def golden(self) -> dict[str, np.ndarray]:
        return dict(np.load(self.folder / "golden.npz"))

    @cached_property
    def checkpoint(self) -> Checkpoint:
        return detect(self.folder).load(Sources(self.folder))

    @property
    def skip(self) -> str | None:
        """What --skip must be given; None where the checkpoint says it."""
        return "none" if self.name == "noskip" else None

    @property
    def plan(self) -> SkipPlan:
        return choose_plan(self.checkpoint.config.sites, self.checkpoint.evidence, self.skip)

    def run_inputs(self, run: str) -> dict[str, np.ndarray]:
        """What the published code was given, by its names."""
        return {key.removeprefix(f"{run}/"): value for key, value in self.inputs.items() if key.startswith(f"{run}/")}

    def image_rows(self, run: str) -> np.ndarray:
        """The rows that have an image."""
        return np.flatnonzero(self.run_inputs(run)["indicators"])

    def arrays(self, run: str) -> dict[str, np.ndarray]:
        """A run's inputs in the form of `eas-export run --inputs`."""
        part, rows = self.run_inputs(run), self.image_rows(run)
        arrays = {
            "input_ids": part["token_ids"],
            "prompt_lengths": part["lengths"],
            "forced_tokens": part["forced_tokens"],
        }
        return arrays | ({"pixel_values": part["images"][rows], "image_row": rows} if len(rows) else {})

    def prompts(self, run: str) -> Inputs:
        return make_inputs(self.arrays(run), self.checkpoint.config, detect(self.folder), run)


@dataclass(frozen=True)
class LlavaCase(GoldenCase):
    """Its inputs have other names; rows are padded, and one without an image has one all the same, which nobody looks at."""

    def image_rows(self, run: str) -> np.ndarray:
        return np.flatnonzero((self.run_inputs(run)["input_ids"] == -200).any(1))

    def arrays(self, run: str) -> dict[str, np.ndarray]:
        part, rows = self.run_inputs(run), self.image_rows(run)
        arrays = {
            "input_ids": part["input_ids"],
            "prompt_lengths": part["attention_mask"].sum(1),
            "forced_tokens": part["forced_tokens"],
        }
        return arrays | ({"pixel_values": part["images"][rows], "image_row": rows} if len(rows) else {})


@pytest.fixture(scope="session", autouse=True)
def own_environment(tmp_path_factory):
    """Digests that are remembered here are not the user's, and no printed line is broken (pytest's processes get COLUMNS from readline)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "1000")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", params=LAVIN_CASES)
def lavin_case(request) -> GoldenCase:
    return golden_case(request.param)


@pytest.fixture(scope="session", params=LLAVA_CASES)
def llava_case(request) -> LlavaCase:
    return llava_golden_case(request.param)


# Has a tokenizer, and no golden numbers; with the limits that a build has by itself
TINY = GoldenCase("tiny", Path(__file__).parent / "tiny" / "lavin", limits={})


def golden_case(name: str) -> GoldenCase:
    return GoldenCase(name, GOLDEN / "lavin" / name)


def by_itself(case: GoldenCase) -> GoldenCase:
    """The case with the limits that a build has by itself: where a test builds it over a shared bundle."""
    return replace(case, name=f"{case.name}-by-itself", limits={})


def llava_golden_case(name: str) -> LlavaCase:
    return LlavaCase(f"llava-{name}", GOLDEN / "llava" / name)


@pytest.fixture(scope="session")
def bundle_of(tmp_path_factory):
    """bundle_of(case, precision, fold, opset) -> Bundle, built on first use."""
    built: dict[tuple, Bundle] = {}

    def get(case: GoldenCase, precision: str = "fp32", fold: str = "weights", opset: int = 24) -> Bundle:
        key = (case.name, precision, fold, opset)
        if key not in built:
            options = {"skip": case.skip, "precision": precision, "fold": fold, "opset": opset} | case.limits
            with made_once(tmp_path_factory, "bundles", *key) as out:
                built[key] = (
                    open_bundle(out) if out.exists() else build(case.folder, out, verify=False, **options).bundle
                )
        return built[key]

    return get


@pytest.fixture(scope="session")
def meter_bundle_of(tmp_path_factory):
    """meter_bundle_of(case, precision, reading, skip) -> Bundle for two pairs at once, built on first use. skip: other than the case's.
    One of the cases is in the older opset."""
    built: dict[tuple, Bundle] = {}

    def get(case: MeterCase, precision: str = "fp32", reading: str = "published", skip: str | None = None) -> Bundle:
        key = ("meter", case.name.replace("/", "-"), precision, reading, skip or "own")
        if key not in built:
            options = {
                "skip": skip or case.given_skip,
                "precision": precision,
                "max_batch": 2,
                "text_heads": case.text_heads,
            }
            options |= {"image_cross_reading": reading, "opset": 21 if case.name == "vqa_small_ln" else 24}
            with made_once(tmp_path_factory, "bundles", *key) as out:
                built[key] = open_bundle(out) if out.exists() else build(case.file, out, verify=False, **options).bundle
        return built[key]

    return get


def copy_of(bundle: Bundle, folder: Path) -> Bundle:
    """A bundle of a test's own: planted faults link to its files, which others read with tools that refuse links."""
    return open_bundle(shutil.copytree(bundle.path, folder))


@contextmanager
def made_once(tmp_path_factory, kind: str, *key: object) -> Iterator[Path]:
    """Where something that all tests share goes, whichever of pytest's processes makes it first; the others wait."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / kind
    folder.mkdir(exist_ok=True)
    out = folder / "-".join(map(str, key))
    with FileLock(f"{out}.lock"):
        yield out


@pytest.fixture(scope="session")
def engines_of(bundle_of, tmp_path_factory):
    """engines_of(case, precision, fold) -> Bundle with TensorRT-RTX's engines of all its graphs, built on first use. Weights of 256 bytes
    and more are bound: at the goldens' sizes none would be otherwise."""
    built: dict[tuple, Bundle] = {}

    def get(case: GoldenCase, precision: str = "fp16", fold: str = "weights") -> Bundle:
        key = (case.name, precision, fold)
        if key not in built:
            plain = bundle_of(case, precision, fold).path
            options = {"skip": case.skip, "precision": precision, "fold": fold, "backend": "tensorrt-rtx"} | case.limits
            with made_once(tmp_path_factory, "engines", *key) as out, pytest.MonkeyPatch.context() as patch:
                patch.setattr(engine_graph, "MIN_BOUND_BYTES", 256)
                if not out.exists():
                    new = shutil.copytree(plain, out.with_suffix(".new"))
                    build(case.folder, new, force=True, verify=False, **options)
                    new.rename(out)
                built[key] = open_bundle(out)
        return built[key]

    return get


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> Path:
    """A LLaVA of random weights without adapters, with a tokenizer."""
    return write_plain(tmp_path_factory.mktemp("plain") / "llava", TINY.checkpoint.tokenizer[0])


@pytest.fixture(scope="session")
def questions(tmp_path_factory) -> Path:
    """Questions with answers."""
    return write_questions(tmp_path_factory.mktemp("questions"))


@pytest.fixture
def command(monkeypatch, capsys):
    """command("build", "--ckpt", ...) -> (exit code, standard output, standard error), through the real entry point."""
    from eas_export.cli.main import main

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["eas-export", *map(str, args)])
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capsys.readouterr()
        return exit_.value.code, out, err

    return run


@pytest.fixture
def refused(command):
    """refused(...) runs a command that must fail as a user's mistake and gives its one line."""

    def run(*args: object) -> str:
        code, out, err = command(*args, "--json")
        assert code == 2, (code, out, err)
        assert "Traceback" not in err + out
        said = json.loads(out)["error"]
        assert set(said) == {"what", "where", "fix"} and all(said.values())
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        return lines[0]

    return run


def max_error(got: torch.Tensor | np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(np.asarray(got, dtype=np.float64) - np.asarray(want, dtype=np.float64)).max())


def text_prompts(*rows: list[int], pad: int = 0) -> Prompts:
    length = max(map(len, rows)) + pad
    ids = torch.tensor([row + [77] * (length - len(row)) for row in rows])
    return Prompts(ids, torch.tensor([len(row) for row in rows]), torch.full_like(ids, -1))


def with_image(prompts: Prompts, row: int, position: int, pixels: torch.Tensor) -> Prompts:
    index = prompts.image_index.clone()
    index[row, position] = 0 if prompts.pixel_values is None else len(prompts.pixel_values)
    images = pixels[None] if prompts.pixel_values is None else torch.cat([prompts.pixel_values, pixels[None]])
    return replace(prompts, image_index=index, pixel_values=images)


LONG = ("test_docs", "test_gpu_benchmark", "test_wheel", "test_bench", "test_rows")  # modules with tests of a minute


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first, so that no process waits for another's at the end."""
    items.sort(key=lambda item: item.path.stem not in LONG)
