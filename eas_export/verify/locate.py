"""Where a bundle first leaves the reference: graph by graph, block by block, and then inside the first bad block.

Each part is judged alone. The reference is given what the bundle's own graph had in front of a block (taps.py, replay.py), so an error
that an earlier block made is not held against a later one, and a fault stands out however little it moves the logits.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..backends.contract import Backend
from ..backends.runtime import Runtime, Tensors
from ..bundle.bundle import Bundle
from ..core.precision import Precision
from ..generation.conversation import decode_inputs, empty_caches, encode_images, prefill_inputs
from ..networks.decoder.prompts import Prompts
from .metrics import largest_difference, spread
from .reference import Reference
from .replay import Replay, Stages
from .staged_ledger import Fault
from .stages import ORDER, OUT
from .taps import boundary_taps, run_tapped, stage_taps


@dataclass(frozen=True)
class Search:
    """A bundle on a backend that opens tapped graphs, and what it should compute."""

    bundle: Bundle
    backend: Backend
    runtime: Runtime
    reference: Reference
    precision: Precision

    def find(self, prompts: Prompts, forced: Tensor) -> Fault | None:
        """The first fault of its own that a part makes on these prompts and the tokens [steps, B] fed after them; None where no part
        does: then what differs has added up."""
        return next(self._faults(prompts, forced), None)

    def _faults(self, prompts: Prompts, forced: Tensor) -> Iterator[Fault]:
        features = encode_images(self.runtime, prompts)
        if prompts.pixel_values is not None:
            error = relative_error(features, self.reference.encode_images(prompts.pixel_values))
            if error is None or error > self.precision.tolerance:
                yield Fault("vision", None, "vision", error)
        slots = prompts.input_ids.shape[1] + len(forced)
        caches = empty_caches(self.runtime, len(prompts.input_ids), slots)
        inputs = prefill_inputs(prompts, features)
        after = yield from self._walk("prefill", inputs | caches, inputs, prompts)
        state = {name: after[name] for name in ("router", "pooled") if name in after}
        adapters = state
        if "fold" in self.runtime.sessions:
            adapters = self.runtime.run("fold", state)
            yield from self._fold(adapters, state)
        for step, token in enumerate(forced):
            given = decode_inputs(token, prompts.prompt_lengths + step, caches, adapters)
            before = {name: cache.float().clone() for name, cache in caches.items()}
            unfolded = decode_inputs(token, prompts.prompt_lengths + step, before, state)
            yield from self._walk("decode", given, unfolded, None)

    def _walk(self, graph: str, inputs: Tensors, unfolded: Tensors, prompts: Prompts | None) -> Iterator[Fault]:
        """The faults of a graph's blocks; the graph's outputs in the end."""
        layers = range(self.reference.config.layers)
        outputs, taps = self._run(graph, inputs, boundary_taps(self.bundle, graph))
        given = {layer: taps[layer - 1, OUT] for layer in layers}
        unfolded = {name: t.float() if t.is_floating_point() else t for name, t in unfolded.items()}
        for layer, wanted in self._replay(graph, given, unfolded):
            got = {OUT: taps[layer, OUT]} | self._outputs(layer, outputs, wanted)
            if (bad := self._first_bad(got, wanted, prompts)) and layer < 0:
                yield Fault(graph, None, "embedding", bad[1])
            elif bad:
                yield self._inside(graph, layer, inputs, unfolded, given[layer], got, prompts)
        last = taps[layers[-1], OUT]
        if prompts is not None:
            last = last[_last_tokens(prompts, self.reference.config.prefix)]
        error = relative_error(outputs["logits"], Replay(self.reference, {}).logits(last))
        if not self._allowed(error):
            yield Fault(graph, None, "head", error)
        return outputs

    def _inside(
        self,
        graph: str,
        layer: int,
        inputs: Tensors,
        unfolded: Tensors,
        given: Tensor,
        got: Stages,
        prompts: Prompts | None,
    ) -> Fault:
        """The first bad stage of a bad layer. The graph is run once more, on caches that it has filled already with the same."""
        _, taps = self._run(graph, inputs, stage_taps(self.bundle, graph, layer))
        stages = {stage: value for (_, stage), value in taps.items()}
        *_, (_, wanted) = self._replay(graph, {layer: given}, unfolded)
        stage, error = self._first_bad(stages | got, wanted, prompts)
        return Fault(graph, layer, stage, error)

    def _fold(self, folded: Tensors, state: Tensors) -> Iterator[Fault]:
        for layer in range(self.reference.config.layers):
            for name, wanted in self.reference.fold(layer, state).items():
                error = relative_error(folded[name].float(), wanted)
                if not self._allowed(error):
                    yield Fault("fold", layer, f"fold of {name.removeprefix(f'folded.layers.{layer}.')}", error)

    def _run(self, graph: str, inputs: Tensors, taps: Mapping) -> tuple[Tensors, dict]:
        return run_tapped(self.bundle, self.backend, self.runtime, graph, inputs, taps)

    def _replay(self, graph: str, given: Mapping[int, Tensor], inputs: Tensors) -> Iterator[tuple[int, Stages]]:
        replay = Replay(self.reference, given)
        return replay.prefill(inputs) if graph == "prefill" else replay.decode(inputs)

    def _outputs(self, layer: int, outputs: Tensors, wanted: Stages) -> Stages:
        """What the graph itself gives of a layer."""
        found = {}
        for stage, want in wanted.items():
            if stage == "router":
                found[stage] = outputs["router"][:, layer]
            elif stage == "pooled":
                found[stage] = outputs["pooled"][:, self.reference.plan.skipped.index(layer)]
            elif stage.endswith(" cache"):
                cache = outputs[f"present.{layer}.{stage.removesuffix(' cache')}"]
                found[stage] = cache[:, :, : want.shape[2]].float()
        return found

    def _first_bad(self, got: Stages, wanted: Stages, prompts: Prompts | None) -> tuple[str, float | None] | None:
        """The first stage in the order of computation that is off, and by how much."""
        for stage in ORDER:
            if stage in got and stage in wanted:
                ours, theirs = got[stage], wanted[stage]
                if prompts is not None:
                    ours, theirs = (self._of_prompts(stage, each, prompts) for each in (ours, theirs))
                error = relative_error(ours, theirs, smallest=1.0 if stage in ("router", "pooled") else 0.0)
                if not self._allowed(error):
                    return stage, error
        return None

    def _of_prompts(self, stage: str, value: Tensor, prompts: Prompts) -> Tensor:
        """Without what pads a prompt."""
        if stage in ("router", "pooled"):
            return value
        prefix, length = self.reference.config.prefix, prompts.input_ids.shape[1]
        inside = torch.arange(length) < prompts.prompt_lengths[:, None]  # [B, S]
        if stage.endswith(" cache"):
            return value.transpose(1, 2)[inside]  # [tokens, H, head_dim]
        return value[torch.cat([torch.ones(len(inside), prefix, dtype=torch.bool), inside], 1).flatten()]

    def _allowed(self, error: float | None) -> bool:
        return error is not None and error <= self.precision.block


def relative_error(got: Tensor, wanted: Tensor, smallest: float = 0.0) -> float | None:
    """Largest difference in units of the wanted's standard deviation, or of `smallest`; None where there is no number."""
    error = largest_difference(got.float(), wanted)
    return None if error is None else error / max(spread(wanted), smallest)


def _last_tokens(prompts: Prompts, prefix: int) -> Tensor:
    """Where each prompt's last token is among all positions: [B]"""
    rows, length = prompts.input_ids.shape
    return torch.arange(rows) * (length + prefix) + prefix + prompts.prompt_lengths - 1
