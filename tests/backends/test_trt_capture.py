"""A session's launches: when they are captured as one, and what it says where TensorRT or the device refuses. No graph is run here:
a context and a device that write down what they are told stand in for real ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import tensorrt_rtx
import torch
from engine_stand_in import trt

from eas_export.backends.runtime import Runtime
from eas_export.backends.tensorrt import session
from eas_export.backends.tensorrt.flavor import get_flavor, logger
from eas_export.backends.tensorrt.session import EngineSession, device_weights
from eas_export.backends.tensorrt.tensorrt_rtx import make_context
from eas_export.core.errors import InternalError, UserError
from eas_export.core.graph_spec import GraphSpec, TensorSpec
from eas_export.generation import conversation
from eas_export.system.memory import MORE_MEMORY

X, Y = (TensorSpec(name=name, dtype="float32", shape=(1,)) for name in "xy")
SPEC = GraphSpec(name="decode", dims={}, inputs=(X,), outputs=(Y,))


class Engine:
    """y from x and the weight w. did: what its context is told; answers: what that returns"""

    num_io_tensors = 3
    get_tensor_name = staticmethod("xwy".__getitem__)

    def __init__(self, did: list[str]):
        self.did, self.answers, self.addresses = did, {"set_tensor_address": True, "execute_async_v3": True}, {}

    def get_tensor_mode(self, name: str) -> trt.TensorIOMode:
        return trt.TensorIOMode.OUTPUT if name == "y" else trt.TensorIOMode.INPUT

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return self.answers["set_tensor_address"]

    def execute_async_v3(self, stream: int) -> bool:
        self.did.append(f"launch on {stream}")
        return self.answers["execute_async_v3"]


class Stream:
    def __init__(self, name: str, did: list[str]):
        self.cuda_stream, self._did = name, did

    def wait_stream(self, other: "Stream") -> None:
        self._did.append(f"{self.cuda_stream} waits for {other.cuda_stream}")


class Cuda:
    """torch.cuda. broken: captures end with an error, and leave their stream the current one"""

    def __init__(self, did: list[str]):
        self.did, self.broken = did, False
        self.outer, self.inner = Stream("outer", did), Stream("inner", did)
        self.current = self.outer

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def current_stream(self) -> Stream:
        return self.current

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def CUDAGraph(self) -> SimpleNamespace:
        return SimpleNamespace(replay=lambda: self.did.append("replay"))

    @contextmanager
    def graph(self, graph: object, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"  # other threads may allocate
        self.current = stream
        self.did.append("capture")
        yield
        if self.broken:
            raise RuntimeError("operation failed due to a previous error during capture")


@pytest.fixture
def did() -> list[str]:
    return []


@pytest.fixture
def cuda(monkeypatch, did) -> Cuda:
    stand_in = Cuda(did)
    monkeypatch.setattr(session, "torch", SimpleNamespace(cuda=stand_in))
    monkeypatch.setattr(session, "_stream_of", lambda device: stand_in.inner)
    return stand_in


def open_session(engine: Engine, make_context=lambda trt, engine, stays: engine, spec=SPEC) -> EngineSession:
    flavor = replace(get_flavor("tensorrt"), make_context=make_context)
    return EngineSession(trt, flavor, engine, spec, {"w": torch.zeros(1)})


def pair() -> tuple[dict, dict]:
    return {"x": torch.zeros(1)}, {"y": torch.zeros(1)}


def taken(did: list[str]) -> list[str]:
    """What was done since the last time, without the waiting."""
    found = [each.removesuffix(" on inner") for each in did if "waits" not in each]
    did.clear()
    return found


def test_a_step_is_captured_once_it_is_warm(cuda, did):
    run = open_session(Engine(did)).bind(*pair())
    for _ in range(4):
        run()
    assert taken(did) == ["launch", "capture", "launch", "replay", "replay", "replay"]
    assert cuda.current is cuda.outer


def test_a_capture_is_of_one_attachment(cuda, did):
    """Another's tensors, or another shape, make a captured graph one of something else, and the next launch a cold one."""
    engine = Engine(did)
    session, (inputs, outputs) = open_session(engine), pair()
    first, second = session.bind(inputs, outputs), session.bind(*pair())
    for _ in range(3):
        first()
        second()
    assert taken(did) == ["launch"] * 6
    again = ["launch", "capture", "launch", "replay", "replay"]
    for other in (second, lambda: session.run([pair()])):
        for _ in range(3):
            first()
        assert taken(did) == again
        assert engine.addresses["x"] == inputs["x"].data_ptr()
        other()
        taken(did)


def test_a_step_that_cannot_be_captured_is_launched(cuda, did):
    run = open_session(Engine(did)).bind(*pair())
    run()
    cuda.broken = True
    for _ in range(3):
        run()
    assert taken(did) == ["launch", "capture", "launch", "launch", "launch", "launch"]
    assert cuda.current is cuda.outer


def test_a_launch_that_fails_leaves_the_streams_in_order_and_gives_its_own_reason(cuda, did):
    engine = Engine(did)
    session = open_session(engine)
    engine.answers["execute_async_v3"] = False
    logger(trt).errors.append("of something long ago")
    with pytest.raises(UserError, match=r"TensorRT failed to run the engine \(no reason given\)"):
        session.run([pair()])
    assert did == ["inner waits for outer", "launch on inner", "outer waits for inner"]
    assert cuda.current is cuda.outer


def test_an_engine_without_memory_to_run_says_so(did):
    def refuse(trt, engine, stays) -> None:
        logger(trt).errors.append("Error Code 2: OutOfMemory")

    with pytest.raises(UserError, match=r"cannot create the engine's context \(Error Code 2: OutOfMemory\)") as refusal:
        open_session(Engine(did), refuse)
    assert refusal.value.where == "graph decode" and refusal.value.fix == MORE_MEMORY


def test_a_weight_that_is_not_taken_is_no_silence(did):
    engine = Engine(did)
    engine.answers["set_tensor_address"] = False
    with pytest.raises(InternalError, match="does not take an address for w"):
        open_session(engine)


def no_memory(*args: object, **named: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_torch_without_memory_is_one_line(monkeypatch, did):
    session = open_session(Engine(did))
    limits = SimpleNamespace(max_tokens=4)
    runtime = Runtime("stand-in", None, None, limits, {"decode": session}, empty=no_memory)
    bundle = SimpleNamespace(
        path="b.bundle",
        store=SimpleNamespace(
            entries={"w": SimpleNamespace(nbytes=4)}, tensor=lambda name: SimpleNamespace(to=no_memory)
        ),
    )
    with pytest.raises(UserError, match="out of memory") as of_outputs:
        runtime.run("decode", pair()[0])
    with pytest.raises(UserError, match="out of memory") as of_weights:
        device_weights(bundle, [Engine(did)], torch.device("cpu"))
    session.spec = SPEC.model_copy(update={"aliases": {"y": "x"}})
    monkeypatch.setattr(conversation.torch, "zeros", no_memory)
    with pytest.raises(UserError, match="out of memory") as of_caches:
        conversation.empty_caches(runtime, 1, 4)
    assert [each.value.where for each in (of_outputs, of_weights, of_caches)] == ["graph decode", "b.bundle", "caches"]
    assert of_weights.value.fix == MORE_MEMORY


@pytest.mark.parametrize("stays, strategy", [(True, "WHOLE_GRAPH_CAPTURE"), (False, "DISABLED")])
def test_rtx_captures_what_stays_where_it_is(stays, strategy):
    engine = SimpleNamespace(create_runtime_config=SimpleNamespace, create_execution_context=lambda config: config)
    config = make_context(tensorrt_rtx, engine, stays)
    assert config.cuda_graph_strategy == getattr(tensorrt_rtx.CudaGraphStrategy, strategy)


def test_decoding_is_what_stays(did):
    """Every other graph's tensors are elsewhere each time."""
    names, said = ("vision", "prefill", "fold", "decode"), []
    for name in names:
        spec = SPEC.model_copy(update={"name": name})
        open_session(Engine(did), lambda trt, engine, stays: said.append(stays) or engine, spec)
    assert dict(zip(names, said)) == {"vision": False, "prefill": False, "fold": False, "decode": True}
