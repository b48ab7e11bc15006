"""The interface that every backend implements: a Runtime of sessions that run graphs on tensors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from ..core.configs import AnyConfig
from ..core.errors import UserError
from ..core.graph_spec import GraphSpec
from ..core.limits import Limits
from ..core.plan import SkipPlan
from ..system.memory import enough_memory

Tensors = dict[str, Tensor]
CPU = torch.device("cpu")


def device_named(name: str | None) -> torch.device:
    """The device called "cpu" or "cuda" (the first GPU); None: the GPU if PyTorch sees one, else the CPU. Raises UserError for other
    names, and for cuda without a GPU."""
    if name not in (None, "cpu", "cuda"):
        raise UserError(f"unknown device {name!r}", where="--device", fix="give cpu or cuda")
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise UserError("PyTorch sees no GPU here", where="--device cuda", fix="leave it out, or see eas-export doctor")
    return torch.device("cuda", 0) if has_gpu and name != "cpu" else CPU


class Session(Protocol):
    """One graph, ready to run.

    Tensors are contiguous, on the runtime's device and of the spec's dtypes. An aliased output is the same tensor as its input, updated
    in place; it may be a later request's input.
    """

    spec: GraphSpec

    def run(self, requests: Sequence[tuple[Tensors, Tensors]]) -> None:
        """Run the graph on each request's inputs, in this order, and write every output of the spec."""
        ...

    def bind(self, inputs: Tensors, outputs: Tensors) -> Callable[[], None]:
        """A function that runs the graph on these tensors, in place, each time it is called."""
        ...


@dataclass(frozen=True)
class Bound:
    """A graph bound to fixed tensors: fill `inputs`, call `run`, read `outputs`."""

    inputs: Tensors
    outputs: Tensors
    run: Callable[[], None]


@dataclass(frozen=True)
class Runtime:
    """All graphs of one model on one backend.

    device  of all tensors
    empty   (sizes, dtype=...) -> memory for an output; None: torch.empty on the device
    sets    modality -> graph input -> weights that were folded at build time, on the device; graphs that take them run prompts of one
            modality at a time (networks/decoder/specs.folded_sets)
    stays_open  whether sessions keep their weights between runs; if not, decoding token by token is slow
    """

    backend: str
    config: AnyConfig
    plan: SkipPlan
    limits: Limits
    sessions: Mapping[str, Session]
    device: torch.device = CPU
    empty: Callable[..., Tensor] | None = None
    stays_open: bool = True
    sets: Mapping[str, Tensors] = field(default_factory=dict)

    def run(self, graph: str, inputs: Tensors) -> Tensors:
        """Run a graph; outputs are newly allocated, except aliased ones. Raises UserError for sizes beyond the graph's limits, and if
        the device runs out of memory."""
        return self.run_each(graph, [inputs])[0]

    def run_each(self, graph: str, requests: Sequence[Tensors]) -> list[Tensors]:
        """Run a graph on several requests, one after the other. A session that works part by part loads each part's weights once for
        all of them."""
        session = self.sessions[graph]
        pairs = [self._ready(session.spec, inputs) for inputs in requests]
        session.run(pairs)
        return [outputs for _, outputs in pairs]

    def bind(self, graph: str, inputs: Tensors) -> Bound:
        """Bind a graph to these inputs and newly allocated outputs, to run it repeatedly."""
        session = self.sessions[graph]
        ready, outputs = self._ready(session.spec, inputs)
        return Bound(ready, outputs, session.bind(ready, outputs))

    def _ready(self, spec: GraphSpec, inputs: Tensors) -> tuple[Tensors, Tensors]:
        """The spec's inputs, contiguous on the device, and its outputs."""
        dims = spec.measure(inputs)
        spec.require_within(dims)
        in_place = {*spec.aliases.values()}
        own = {t.name: inputs[t.name] for t in spec.inputs}
        empty = self.empty or partial(torch.empty, device=self.device)
        with enough_memory(f"graph {spec.name}"):
            ready = {n: t if n in in_place else t.to(self.device).contiguous() for n, t in own.items()}
            outputs = {
                t.name: ready[spec.aliases[t.name]]
                if t.name in spec.aliases
                else empty(t.sizes(dims), dtype=getattr(torch, t.dtype))
                for t in spec.outputs
            }
        return ready, outputs
