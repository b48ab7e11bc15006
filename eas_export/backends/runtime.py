"""What every backend gives: sessions that run graphs on tensors, and who they belong to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    """cpu, or cuda: the first GPU; None: that where PyTorch sees one. Raises UserError for cuda where it sees none, and
    for any other name."""
    if name not in (None, "cpu", "cuda"):
        raise UserError(f"unknown device {name!r}", where="--device", fix="give cpu or cuda")
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UserError("PyTorch sees no GPU here", where="--device cuda", fix="leave it out, or see eas-export doctor")
    return torch.device("cuda", 0) if there and name != "cpu" else CPU


class Session(Protocol):
    """One graph, ready to run.

    Tensors are contiguous, on the runtime's device and of the spec's dtypes; an aliased output is the very tensor of its input and is
    updated in place, and may be a later request's input.
    """

    spec: GraphSpec

    def run(self, requests: Sequence[tuple[Tensors, Tensors]]) -> None:
        """Run the graph on each request's inputs, in this order, and write every output of the spec."""
        ...

    def bind(self, inputs: Tensors, outputs: Tensors) -> Callable[[], None]:
        """The same on these very tensors, as often as it is called: what it reads and writes is where it was."""
        ...


@dataclass(frozen=True)
class Bound:
    """A graph on tensors that stay: fill `inputs`, call `run`, read `outputs`."""

    inputs: Tensors
    outputs: Tensors
    run: Callable[[], None]


@dataclass(frozen=True)
class Runtime:
    """All graphs of one model on one backend.

    device  where tensors are
    empty   (sizes, dtype=...) -> where an output is put; None: the device's memory
    stays_open  whether sessions hold their weights from run to run; where they take them anew, token by token is slow
    """

    backend: str
    config: AnyConfig
    plan: SkipPlan
    limits: Limits
    sessions: Mapping[str, Session]
    device: torch.device = CPU
    empty: Callable[..., Tensor] | None = None
    stays_open: bool = True

    def run(self, graph: str, inputs: Tensors) -> Tensors:
        """Run a graph; outputs are newly allocated but for aliased ones. Raises UserError for sizes beyond the graph's limits,
        and without memory on the device."""
        return self.run_each(graph, [inputs])[0]

    def run_each(self, graph: str, requests: Sequence[Tensors]) -> list[Tensors]:
        """Run a graph on several requests' inputs, one after the other. A session that works part by part takes each part's weights
        once for all of them."""
        session = self.sessions[graph]
        pairs = [self._ready(session.spec, inputs) for inputs in requests]
        session.run(pairs)
        return [outputs for _, outputs in pairs]

    def bind(self, graph: str, inputs: Tensors) -> Bound:
        """A graph on these inputs and on outputs that are allocated once, to be run again and again."""
        session = self.sessions[graph]
        ready, outputs = self._ready(session.spec, inputs)
        return Bound(ready, outputs, session.bind(ready, outputs))

    def _ready(self, spec: GraphSpec, inputs: Tensors) -> tuple[Tensors, Tensors]:
        """The spec's inputs as a session takes them, and its outputs."""
        dims = spec.measure(inputs)
        spec.require_within(dims)
        in_place = {*spec.aliases.values()}
        given = {t.name: inputs[t.name] for t in spec.inputs}
        empty = self.empty or partial(torch.empty, device=self.device)
        with enough_memory(f"graph {spec.name}"):
            ready = {n: t if n in in_place else t.to(self.device).contiguous() for n, t in given.items()}
            outputs = {
                t.name: ready[spec.aliases[t.name]]
                if t.name in spec.aliases
                else empty(t.sizes(dims), dtype=getattr(torch, t.dtype))
                for t in spec.outputs
            }
        return ready, outputs
