"""What every backend gives: sessions that run graphs on tensors, and who they belong to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..config import Limits, ModelConfig
from ..graph import GraphSpec
from ..plan import SkipPlan

Tensors = dict[str, Tensor]


class Session(Protocol):
    """One graph, ready to run."""

    spec: GraphSpec

    def run(self, requests: Sequence[tuple[Tensors, Tensors]]) -> None:
        """Run the graph on each request's inputs, in this order, and write every output of the spec. Tensors are contiguous and of
        the spec's dtypes; an aliased output is the very tensor of its input and is updated in place, and may be a later request's
        input."""
        ...


@dataclass(frozen=True)
class Runtime:
    """All graphs of one model on one backend.

    allocate  (sizes, dtype=...) -> where an output is put
    """

    backend: str
    config: ModelConfig
    plan: SkipPlan
    limits: Limits
    sessions: Mapping[str, Session]
    allocate: Callable[..., Tensor] = torch.empty

    def run(self, graph: str, inputs: Tensors) -> Tensors:
        """Run a graph; outputs are newly allocated but for aliased ones."""
        return self.run_each(graph, [inputs])[0]

    def run_each(self, graph: str, requests: Sequence[Tensors]) -> list[Tensors]:
        """Run a graph on several requests' inputs, one after the other. A session that works part by part takes each part's weights
        once for all of them."""
        session = self.sessions[graph]
        in_place = {*session.spec.aliases.values()}
        pairs = []
        for inputs in requests:
            given = {t.name: inputs[t.name] for t in session.spec.inputs}
            ready = {n: t if n in in_place else t.contiguous() for n, t in given.items()}
            pairs.append((ready, self._outputs(session.spec, inputs)))
        session.run(pairs)
        return [outputs for _, outputs in pairs]

    def _outputs(self, spec: GraphSpec, inputs: Tensors) -> Tensors:
        dims = spec.measure(inputs)
        return {
            t.name: inputs[spec.aliases[t.name]]
            if t.name in spec.aliases
            else self.allocate(t.sizes(dims), dtype=getattr(torch, t.dtype))
            for t in spec.outputs
        }
