"""What every backend gives: sessions that run graphs on tensors, and who they belong to."""

from collections.abc import Mapping
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

    def run(self, inputs: Tensors, outputs: Tensors) -> None:
        """Run the graph and write every output of the spec. Tensors are contiguous and of the spec's dtypes; an aliased output is
        the very tensor of its input and is updated in place."""
        ...


@dataclass(frozen=True)
class Runtime:
    """All graphs of one model on one backend."""

    backend: str
    config: ModelConfig
    plan: SkipPlan
    limits: Limits
    sessions: Mapping[str, Session]

    def run(self, graph: str, inputs: Tensors) -> Tensors:
        """Run a graph; outputs are newly allocated but for aliased ones."""
        session = self.sessions[graph]
        spec = session.spec
        dims = spec.measure(inputs)
        outputs = {}
        for tensor in spec.outputs:
            if tensor.name in spec.aliases:
                outputs[tensor.name] = inputs[spec.aliases[tensor.name]]
            else:
                outputs[tensor.name] = torch.empty(tensor.sizes(dims), dtype=getattr(torch, tensor.dtype))
        given = {t.name: inputs[t.name] for t in spec.inputs}
        in_place = {*spec.aliases.values()}
        session.run({n: t if n in in_place else t.contiguous() for n, t in given.items()}, outputs)
        return outputs
