"""Build engines from a bundle's graphs, each in its own process, and explain failures."""

import hashlib
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ... import __version__
from ...bundle.manifest import EngineRecord, Made, Target
from ...bundle.store import Store
from ...core.errors import InternalError, UserError
from ...core.graph_spec import GraphSpec
from ...core.progress import Progress
from ...system.hashing import key_of
from ...system.memory import OUT_OF_MEMORY
from ..contract import EnginePlan, Layer
from .engine_graph import engine_spec, rewrite
from .flavor import Flavor, Shapes

# Its arguments are our sys.path, in order: PYTHONPATH would put other packages before the standard library
WORKER = [
    sys.executable,
    "-c",
    "import sys; sys.path[:] = sys.argv[1:]; from eas_export.backends.tensorrt.worker import main; main()",
]
LESS = "lower --max-batch, --max-prompt or --max-tokens, or use a machine with more"
# The builder's message -> its meaning and the fix
REFUSALS = (
    (
        rf"{OUT_OF_MEMORY.pattern}|\bkilled\b",
        "the builder ran out of memory",
        f"build with --engine-weights bound, {LESS}",
    ),
    (
        r"MyelinCheckException",
        "TensorRT's compiler fails on a part of the graph: a bug in this version",
        "try another version of TensorRT, and report the graph to NVIDIA",
    ),
    (
        r"Could not find any implementation",
        "no kernel was found for a part of the graph, usually for lack of memory",
        f"close other programs on the GPU, or {LESS}",
    ),
    (r"No space left|File too large|quota", "the engine cannot be written", "free some space"),
    (r"ended by signal", "the builder crashed", "try another version of TensorRT, and report the graph to NVIDIA"),
)
ANYTHING_ELSE = "try another version; eas-export check lists the graph's layers as the builder parses them"


def plan_engine(flavor: Flavor, path: Path, spec: GraphSpec, store: Store, target: Target) -> EnginePlan:
    """The plan of a graph's engine; see contract.Compiler."""
    model = rewrite(path, spec, store, target.weights)
    shapes = profile_shapes(spec)
    content = hashlib.sha256(ir.to_proto(model).SerializeToString(deterministic=True)).hexdigest()
    return EnginePlan(
        key=key_of(__version__, target.model_dump(mode="json"), content, shapes),
        reads=_read_by_builder(model),
        build=lambda out, progress: _build(flavor, model, spec.name, target, shapes, out, progress),
    )


def profile_shapes(spec: GraphSpec) -> Shapes:
    """The smallest, usual and largest shape of every input that has a free size."""
    spec = engine_spec(spec)
    sizes = [{name: getattr(dim, bound) for name, dim in spec.dims.items()} for bound in ("min", "opt", "max")]
    free = [tensor for tensor in spec.inputs if not all(isinstance(size, int) for size in tensor.shape)]
    return {tensor.name: tuple(list(tensor.sizes(each)) for each in sizes) for tensor in free}


def list_layers(flavor: Flavor, path: Path, spec: GraphSpec, store: Store) -> list[Layer]:
    """See contract.Compiler."""
    flavor.load()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path.name
        ir.save(rewrite(path, spec, store, "bound"), file)
        request = {"backend": flavor.backend, "model": str(file)}
        answer = run_worker(flavor, spec.name, request, lambda fraction: None)
    return [Layer(**layer) for layer in answer["layers"]]


def _read_by_builder(model: ir.Model) -> tuple[str, ...]:
    """The files with the model's external weights."""
    tensors = [value.const_value for value in model.graph.initializers.values()]
    return tuple(sorted({tensor.location for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}))


def _build(
    flavor: Flavor, model: ir.Model, graph: str, target: Target, shapes: Shapes, out: Path, progress: Progress
) -> Made:
    """Build the engine `out`; the builder's input is written beside it and removed afterwards."""
    file = out.with_suffix(".rewritten.onnx")
    request = {
        "backend": flavor.backend,
        "model": str(file),
        "engine": str(out),
        "shapes": shapes,
        "target": target.model_dump(mode="json"),
    }
    start = time.monotonic()
    try:
        ir.save(model, file)
        with progress.stage(f"building {graph} for {flavor.title}", 100, "%") as done:
            reported = 0

            def tell(fraction: float) -> None:
                nonlocal reported
                percent = int(100 * fraction)
                if percent > reported:
                    done(percent - reported)
                    reported = percent

            answer = run_worker(flavor, graph, request, tell)
            tell(1.0)
    finally:
        file.unlink(missing_ok=True)
    seconds = round(time.monotonic() - start, 1)
    return Made(engine=EngineRecord(graph=graph, target=target, attention=answer["attention"], seconds=seconds))


def run_worker(
    flavor: Flavor, graph: str, request: dict[str, Any], on_fraction: Callable[[float], None]
) -> dict[str, Any]:
    """Run the worker process on a request. Returns its last answer. Raises UserError where the builder fails."""
    answer: dict[str, Any] = {}
    with tempfile.TemporaryFile() as stderr, _started(stderr) as process:
        with suppress(BrokenPipeError):  # it has ended already; the reason is examined below
            process.stdin.write(json.dumps(request).encode())
            process.stdin.close()
        for line in process.stdout:
            answer = json.loads(line)
            if "fraction" in answer:
                on_fraction(answer["fraction"])
        code = process.wait()
        stderr.seek(0)
        printed = stderr.read().decode(errors="replace")
    if "attention" in answer or "layers" in answer:
        return answer
    if "refused" in answer:
        raise _refusal(flavor, graph, answer["refused"])
    if code == -signal.SIGKILL:  # sent by the system when memory runs out
        raise _refusal(flavor, graph, ["killed"])
    if OUT_OF_MEMORY.search(printed):
        raise _refusal(flavor, graph, [printed.splitlines()[-1]])
    if code < 0:
        raise _refusal(flavor, graph, [f"ended by signal {-code}", *printed.splitlines()[-1:]])
    raise InternalError(f"the process that builds {graph} ended with {code}:\n{printed[-4000:]}")


@contextmanager
def _started(stderr: Any) -> Iterator[subprocess.Popen]:
    command = [*WORKER, *sys.path]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _refusal(flavor: Flavor, graph: str, errors: list[str]) -> UserError:
    text = " ".join("; ".join(errors).split())
    for pattern, meaning, fix in REFUSALS:
        if re.search(pattern, text, re.I):
            return UserError(f"{flavor.title}: {meaning} ({_first(text)})", where=f"graph {graph}", fix=fix)
    return UserError(f"{flavor.title} rejects the graph ({_first(text)})", where=f"graph {graph}", fix=ANYTHING_ELSE)


def _first(text: str) -> str:
    return text[:300] or "no reason given"
