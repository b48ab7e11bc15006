"""From a graph to an engine in this process: what is tried again, and what the builder calls back."""

import threading
import time
from pathlib import Path

import onnx_ir as ir
import pytest
import tensorrt_rtx as trt
from conftest import golden_case

from eas_export.backends.tensorrt import build as engine_build
from eas_export.backends.tensorrt import flavor
from eas_export.backends.tensorrt.build import profile_shapes
from eas_export.backends.tensorrt.callbacks import make_monitor, make_writer
from eas_export.backends.tensorrt.engine_graph import rewrite
from eas_export.backends.tensorrt.flavor import Refused, build, logger
from eas_export.backends.tensorrt.tensorrt_rtx import FLAVOR
from eas_export.bundle.manifest import Target

CASE = golden_case("half_13B")
TARGET = Target(backend="tensorrt-rtx", version=trt.__version__, compute_capabilities=("8.6",), weights="bound")
MYELIN = "[myelin] MyelinCheckException: wrap_attention_op_in_kgen: CHECK(mask == nullptr) failed."


@pytest.fixture
def build_graph(bundle_of, tmp_path):
    """build_graph(graph, on_fraction) -> how its attention is computed"""

    def run(graph: str, on_fraction=lambda done: True) -> str:
        bundle, model = bundle_of(CASE, "fp16"), tmp_path / f"{graph}.onnx"
        spec = bundle.manifest.graphs[graph]
        ir.save(rewrite(bundle.graph_file(graph), spec, bundle.store, "bound"), model)
        return build(FLAVOR, model, tmp_path / "x.engine", profile_shapes(spec), TARGET, on_fraction)

    return run


@pytest.fixture
def failing_first(monkeypatch):
    """failing_first(text): the first build fails with these words -> whether each build's attentions may be taken apart"""

    def fail(text: str) -> list[list[bool]]:
        write, tries = flavor._write, []

        def once(trt, network, config, engine: Path) -> bool:
            tries.append([attention.decomposable for attention in flavor.attentions(trt, network)])
            if len(tries) > 1:
                return write(trt, network, config, engine)
            logger(trt).errors.append(text)
            return False

        monkeypatch.setattr(flavor, "_write", once)
        return tries

    return fail


def test_attention_that_the_builder_fails_on_is_taken_apart(build_graph, failing_first):
    """In whatever words it says so."""
    tries = failing_first(MYELIN)
    assert build_graph("decode") == "decomposed"
    kept = len(CASE.plan.kept)
    assert tries == [[False] * kept, [True] * kept]


@pytest.mark.parametrize("graph, text", [("decode", "Requested amount of GPU memory: OutOfMemory"), ("fold", MYELIN)])
def test_neither_a_lack_of_memory_nor_a_graph_without_attention_is_tried_again(build_graph, failing_first, graph, text):
    tries = failing_first(text)
    with pytest.raises(Refused):
        build_graph(graph)
    assert len(tries) == 1


def test_a_build_that_nobody_waits_for_is_not_tried_again(build_graph, monkeypatch):
    write, tries = flavor._write, []
    monkeypatch.setattr(flavor, "_write", lambda *args: tries.append(args) or write(*args))
    with pytest.raises(Refused):
        build_graph("decode", lambda done: False)
    assert len(tries) == 1


def test_the_compilers_failure_is_told_from_a_lack_of_memory():
    refusal = engine_build._refusal(
        FLAVOR, "decode", [MYELIN, "Could not find any implementation for node {ForeignNode}"]
    )
    assert "compiler fails on a part of the graph" in refusal.what and "memory" not in refusal.what


def test_what_progress_raises_ends_the_build_and_is_raised_then(build_graph):
    def fail(done: float) -> bool:
        raise ZeroDivisionError("in a callback")

    with pytest.raises(ZeroDivisionError, match="in a callback"):
        build_graph("decode", fail)


def test_no_exception_leaves_a_callback():
    def fail(done: object) -> bool:
        raise ZeroDivisionError

    monitor = make_monitor(trt, fail)
    monitor.phase_start("build", None, 2)
    assert monitor.step_complete("build", 0) is False
    monitor.phase_finish("build")
    assert monitor.stopped and isinstance(monitor.failure, ZeroDivisionError)

    class File:
        write = staticmethod(fail)

    writer = make_writer(trt, File())
    assert writer.write(b"engine") == 0 and isinstance(writer.failure, ZeroDivisionError)


def test_progress_is_told_by_one_thread_at_a_time():
    inside, together = threading.Lock(), []

    def tell(done: float) -> bool:
        free = inside.acquire(blocking=False)
        together.append(not free)
        time.sleep(0.001)
        if free:
            inside.release()
        return True

    monitor = make_monitor(trt, tell)

    def work(name: str) -> None:
        monitor.phase_start(name, None, 10)
        for step in range(10):
            monitor.step_complete(name, step)
        monitor.phase_finish(name)

    threads = [threading.Thread(target=work, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(together) == 44 and not any(together)


def test_what_the_builder_does_not_take_is_refused():
    """It says so by what it returns."""

    class Config:
        num_compute_capabilities = 0

        def clear_flag(self, flag: object) -> None: ...

        def add_optimization_profile(self, profile: object) -> int:
            return -1

        def set_compute_capability(self, capability: object, index: int) -> bool:
            return False

    with pytest.raises(Refused, match=r"compute capability 8\.6 is not supported"):
        FLAVOR.configure(trt, Config(), TARGET)
    builder = trt.Builder(logger(trt))
    definition = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))

    class Builder:
        create_optimization_profile = builder.create_optimization_profile
        create_builder_config = Config

    with pytest.raises(Refused, match="does not accept the limits"):
        flavor.make_config(trt, flavor.Network(Builder(), definition, None), {})
