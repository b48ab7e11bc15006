"""Where a bundle first leaves the reference: block by block, and then inside the first bad block.

Each block is judged alone. The reference's is given what the bundle's own graph had in front of its block, so an error that an earlier
block made is not held against a later one, and a fault stands out however little it moves the logits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

from torch import Tensor, nn

from ..backends.contract import Backend
from ..backends.runtime import Runtime, Tensors
from ..bundle.bundle import Bundle
from ..core.precision import Precision
from .metrics import outlier_unit, relative_error
from .taps import GIVEN, Block, InstrumentedGraph


@dataclass(frozen=True)
class Fault:
    """graph, part, layer, stage, error: see report.Divergence"""

    graph: str
    layer: int | None
    stage: str
    error: float | None
    part: str = ""


class Pass:
    """One run of one graph, and the reference beside it. A kind of network implements it.

    graph   the bundle's; inputs: its inputs
    blocks  in the order of computation

    Values go by their places: an output's name, a block's `input` and `output`, and a module's path ("layers.3.attention.q").
    """

    graph: str
    inputs: Tensors
    blocks: Sequence[Block]

    def shape(self, block: Block) -> Sequence[int]:
        """The shape of the block's output."""
        raise NotImplementedError

    def surroundings(self) -> AbstractContextManager:
        """A context in which the reference has its weights, except those of blocks."""
        return nullcontext()

    def entry(self, block: Block, values: Tensors) -> Tensor:
        """The right input of a row's first block."""
        raise NotImplementedError

    def replay(self, block: Block, values: Tensors) -> Tensors:
        """A forward of the reference's block on the input of the graph's own: every stage in the order of computation."""
        raise NotImplementedError

    def finish(self, values: Tensors) -> Iterator[tuple[str, Tensor, Tensor]]:
        """What follows the last blocks: stage, the graph's value, and the right one."""
        raise NotImplementedError

    def stages_in(self, outputs: Tensors) -> Tensors:
        """The stages of blocks that are among the graph's own outputs, by their places."""
        return outputs

    def stage(self, block: Block, place: str) -> str:
        """The place's name in reports."""
        return "block" if place == block.path else place.removeprefix(f"{block.path}.")

    def error(self, place: str, got: Tensor, want: Tensor, unit: float) -> float | None:
        """The error in units of the reference's standard deviation, or of `unit` where that is larger."""
        return relative_error(got, want, unit)


@dataclass(frozen=True)
class Search:
    """backend: one that opens instrumented graphs; runtime: the bundle on it"""

    bundle: Bundle
    backend: Backend
    runtime: Runtime
    precision: Precision

    def walk(self, one: Pass) -> Iterator[Fault]:
        """Yields the faults that parts of a graph make by themselves, and returns its outputs. Raises UserError where the graph does not run."""
        graph = InstrumentedGraph(self.bundle, one.graph)
        shapes = {block.output: one.shape(block) for block in one.blocks}
        values = self._run(graph, one, shapes, one.blocks)
        values |= one.stages_in(values)
        with one.surroundings():
            for block in one.blocks:
                if block.layer == 0:
                    entry = one.entry(block, values)
                    error = one.error(block.input, values[block.input], entry, self._outlier(entry))
                    if not self.allowed(error):
                        yield Fault(one.graph, None, f"{block.part}, embedding".removeprefix(", "), error)
                wanted = one.replay(block, values)
                if self._first_bad(one, block, values, wanted):
                    shapes = {p: want.shape for p, want in wanted.items() if p not in values and graph.has(p)}
                    # the caches are already filled, with the same values
                    inside = self._run(graph, one, shapes) | {p: values[p] for p in wanted if p in values}
                    place, error = self._first_bad(one, block, inside | {block.input: values[block.input]}, wanted)
                    yield Fault(one.graph, block.layer, one.stage(block, place), error, block.part)
            for stage, got, want in one.finish(values):
                error = relative_error(got, want)
                if not self.allowed(error):
                    yield Fault(one.graph, None, stage, error)
        return values

    def allowed(self, error: float | None) -> bool:
        return error is not None and error <= self.precision.block

    def _run(
        self, graph: InstrumentedGraph, one: Pass, shapes: Mapping[str, Sequence[int]], entries: Sequence[Block] = ()
    ) -> Tensors:
        return graph.run(self.backend, self.runtime, one.inputs, shapes, entries)

    def _first_bad(self, one: Pass, block: Block, got: Tensors, wanted: Tensors) -> tuple[str, float | None] | None:
        """The first stage in the order of computation that is wrong, and its error. A block's output keeps the rounding of outliers in its
        input, which it may take away."""
        for place, want in wanted.items():
            unit = max(self._outlier(want), self._outlier(got[block.input]) if place == block.output else 0.0)
            if place in got and not self.allowed(error := one.error(place, got[place], want, unit)):
                return place, error
        return None

    def _outlier(self, x: Tensor) -> float:
        """The unit in which a single block may round its outliers as much as a whole stream may (metrics.stream_units)."""
        return outlier_unit(x) * self.precision.tolerance / self.precision.block


@contextmanager
def watched(
    module: nn.Module, path: str, inputs: Sequence[str] = (), name: Callable[[str], str] = str
) -> Iterator[Tensors]:
    """The outputs of a module's parts when it runs in this context, by their places, in the order of computation.

    path    the module's own
    inputs  parts whose input is recorded, too
    """
    seen: Tensors = {}
    with ExitStack() as hooks:
        for part, each in module.named_modules():
            place = f"{path}.{part}".removesuffix(".")

            def keep_output(_: nn.Module, __: tuple, result: Tensor, place: str = place) -> None:
                seen[name(place)] = result

            def keep_input(_: nn.Module, args: tuple, place: str = place) -> None:
                seen[name(place) + GIVEN] = args[0]

            hooks.callback(each.register_forward_hook(keep_output).remove)
            if part in inputs:
                hooks.callback(each.register_forward_pre_hook(keep_input).remove)
        yield seen
