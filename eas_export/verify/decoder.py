"""A decoder's ledger: prompts and the tokens fed after them, through prefill, fold and decode.

Neither side holds the whole model: PyTorch goes block by block, and the bundle runs mapped, or in parts where its backend would copy it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor
from torch.nn.functional import pad

from ..backends.runtime import Runtime, Tensors
from ..bundle.bundle import Bundle
from ..checkpoint.checkpoint import Checkpoint
from ..core.plan import SkipPlan
from ..core.precision import PRECISIONS
from ..core.progress import Progress
from ..evaluate.accuracy import Accuracy, measure_accuracy
from ..families import get_family
from ..families.witnesses import DecoderWitness, Witnessed
from ..generation.conversation import check_prompts, decode_inputs, empty_caches, encode_images, prefill_inputs, set_of
from ..generation.generate import Generation, generate, join_generations
from ..generation.text_model import open_tokenizer
from ..networks.decoder.constant_routers import settle_routers
from ..networks.decoder.graphs import FOLD_MODES
from ..networks.decoder.teacher_forcing import force_tokens
from ..networks.drop import drop_adapters
from ..networks.parameters import network_parameters
from ..networks.prune import prune
from .adapter_modes import PUBLISHED, AdapterMode, folded, unfolded
from .decoder_passes import Decode, Prefill, make_blocks
from .decoder_samples import Sample, Samples, choose_tokens, join_samples, read_samples
from .ledger import FOLDED, STORED, Case, Ledger, Step, make_cases, readers_of
from .lines import Line, Output, compare_tokens, worst
from .locate import Fault, Search
from .metrics import relative_error, spread
from .reference import Reference, groups
from .report import PublishedDeviation

UNFOLDED = FOLD_MODES["lowrank"]  # whose network is the exported one with its adapters in place


class DecoderLedger(Ledger):
    """runtimes: the bundle on every available backend. Raises UserError for samples that do not fit the bundle.

    The reference is the checkpoint's network as it was trained; the judge of single blocks is the exported one, unfolded: it differs where
    routers read the modality token, which is not exported.
    """

    blocks_graph = "prefill"
    read_samples = staticmethod(read_samples)

    def __init__(
        self,
        bundle: Bundle,
        checkpoint: Checkpoint | None,
        samples: Samples,
        runtimes: Sequence[Runtime],
        progress: Progress,
    ):
        super().__init__(bundle, checkpoint, progress)
        m = bundle.manifest
        self._reference = self._judge = self._stored()
        if self.checkpoint:
            self._reference = self._open(self.checkpoint)
            self._judge = self._open(settle_routers(self.checkpoint, m.plan, UNFOLDED))
        fits = Runtime("verify", m.config, m.plan, m.limits, sessions={})
        for sample in samples.each.values():
            check_prompts(fits, sample.prompts, sample.forced)
        folded = m.config.router == "folded"  # a batch has one modality
        self._samples = choose_tokens(samples.by_modality() if folded else samples, runtimes)
        self.cases = make_cases(
            self._samples.each, m.limits.max_batch, join_samples, _of_one_modality if folded else lambda *_: True
        )
        with_image = (i for i, case in enumerate(self.cases) if case.batch.prompts.pixel_values is not None)
        probe = next(with_image, 0)
        self.probe, blocks = self.cases[probe], make_blocks(m.plan)

        def keep(prompt: int, layer: int, x: Tensor) -> None:
            if prompt == probe:
                self.boundaries[blocks[layer]] = x[self._reference.config.prefix - m.config.prefix :].clone()

        self.wanted = self._read("running the reference", self._reference, unfolded, keep)
        self.before = (self.before[0], self.wanted)

    def pytorch_runs(self) -> Iterator[tuple[Step, list[Generation]]]:
        mode = folded if "fold" in self.bundle.manifest.graphs else unfolded
        if mode is folded:
            yield FOLDED, self._read(f"running {FOLDED.name}", self._reference, mode)
        if self.checkpoint:
            yield STORED, self._read(f"running {STORED.name}", self._stored(), mode)

    def run(self, case: Case, runtime: Runtime) -> Generation:
        return generate(runtime, case.batch.prompts, forced=case.batch.forced)

    def kept(self, result: Generation) -> Generation:
        return replace(result, folded={})  # freed before the next ones are made

    def join(self, results: Sequence[Generation]) -> Generation:
        return join_generations(list(results))

    def compare(self, got: Generation, want: Generation, before: Generation, tolerance: float) -> tuple[Line, ...]:
        state = []
        if want.image_features is not None:
            state.append(Output("vision", got.image_features, want.image_features, before.image_features))
        for name, value in ((name, value) for name, value in want.state.items() if name in got.state):
            # router weights that lie close together: a probability's rounding does not shrink with their spread
            allowed = self.precision.state * max(1.0, spread(value))
            state.append(Output(name, got.state[name], value, before.state[name], allowed=allowed))
        logits = [
            Output(f"decode {i}" if i else "prefill", got.logits[i], want.logits[i], before.logits[i], logits=True)
            for i in range(len(want.logits))
        ]
        lines = [each.line(tolerance, self.precision) for each in (*state, *logits)]
        lines[len(state) + 1 : len(state) + 1] = self._fold_lines(got, want)  # behind the prefill
        allowed = self.precision.tolerance * spread(want.logits)
        return (*lines, compare_tokens("tokens", got.tokens, want.logits, allowed))

    def probe_inputs(self, runtime: Runtime) -> Tensors:
        prompts = self.probe.batch.prompts
        caches = empty_caches(runtime, 1, prompts.input_ids.shape[1])
        return prefill_inputs(prompts, encode_images(runtime, prompts)) | caches | set_of(runtime, prompts)

    def faults(self, search: Search, case: Case) -> Iterator[Fault]:
        reference, runtime = self._judge, search.runtime
        prompts, forced = case.batch.prompts, case.batch.forced
        features = encode_images(runtime, prompts)
        if prompts.pixel_values is not None:
            error = relative_error(features, reference.encode_images(prompts.pixel_values))
            if error is None or error > self.precision.tolerance:
                yield Fault("vision", None, "vision", error)
        caches = empty_caches(runtime, len(prompts.input_ids), prompts.input_ids.shape[1] + len(forced))
        given, adapters = prefill_inputs(prompts, features), set_of(runtime, prompts)
        state = self._of(case, self.wanted).state if adapters else {}
        yield from self._fold_faults(search, adapters, state)
        after = yield from search.walk(Prefill(reference, given | caches | adapters, given, prompts))
        if not adapters:
            state = {name: after[name] for name in ("router", "pooled") if name in after}
            adapters = state
        if "fold" in runtime.sessions:
            adapters = runtime.run("fold", state)
            yield from self._fold_faults(search, adapters, state)
        for step, token in enumerate(forced):
            before = {name: cache.float().clone() for name, cache in caches.items()}
            inputs, unfolded_inputs = (
                decode_inputs(token, prompts.prompt_lengths + step, *each)
                for each in ((caches, adapters), (before, state or adapters))
            )
            yield from search.walk(Decode(reference, inputs, unfolded_inputs))

    def _fold_faults(self, search: Search, folded: Tensors, state: Tensors) -> Iterator[Fault]:
        """Folded weights and biases that are not those of the state, [1, ...]."""
        for layer in range(self._reference.config.layers if folded and state else 0):
            for name, wanted in self._reference.fold(layer, state).items():
                error = relative_error(folded[name], wanted)
                if not search.allowed(error):
                    yield Fault("fold", layer, f"fold of {name.removeprefix(f'folded.layers.{layer}.')}", error)

    def base_path(self, witness: DecoderWitness) -> Iterator[tuple[str, Witnessed, Witnessed]]:
        """Without adapters, and without the attentions that the witness does not find in the files."""
        m, whole = self.bundle.manifest, drop_adapters(self.whole) if self.whole.config.has_adapters else self.whole
        plan = SkipPlan(sites=m.plan.sites, skipped=witness.without_attention, origin="the checkpoint's files")
        parameters = network_parameters(prune(whole, plan), plan, PRECISIONS["fp32"], m.limits)
        reference = Reference(whole.config, plan, m.limits, {name: tensor.read for name, tensor in parameters.items()})
        for name, sample in self._samples.each.items():
            if sample.prompts.pixel_values is not None and witness.encode_images is None:
                continue
            blocks: dict[tuple[str, int], Tensor] = {}

            def keep(_: int, layer: int, x: Tensor, blocks: dict = blocks) -> None:
                blocks["", layer] = x.clone()

            (ours,) = reference.read([sample.prompts], [sample.forced], on_block=keep)
            fed = force_tokens(
                [sample.prompts], [sample.forced[:, 0]], whole.config.prefix, whole.config.first_position
            )
            length, end = int(fed.lengths), whole.config.prompt_position + m.limits.max_tokens - 1
            # one more token, at the last position that the bundle has: LongRoPE depends on how far positions go
            ids, positions, index = (
                pad(values, (0, 1), value=value)
                for values, value in ((fed.batch.input_ids, 0), (fed.position_ids, end), (fed.batch.image_index, -1))
            )
            theirs = witness.read(ids, positions, index, sample.prompts.pixel_values)
            outputs = {"logits": ours.logits[:, 0]} | (
                {} if ours.image_features is None else {"vision": ours.image_features}
            )
            shown = {place: block[:length] for place, block in theirs.blocks.items()}
            compared = dict(theirs.outputs) | {"logits": theirs.outputs["logits"][length - 1 : -1]}
            yield name, Witnessed(blocks, outputs), Witnessed(shown, compared)

    def published_deviations(self) -> tuple[PublishedDeviation, ...]:
        m, deviations = self.bundle.manifest, []
        of_prompts = self.checkpoint and self.checkpoint.config.router == "prompt"
        names = get_family(m.config.family).published_deviations if of_prompts else ()
        for name in names:
            gains = {i: self.checkpoint.tensors[f"layers.{i}.ffn_norm.weight"].read().float() for i in m.plan.skipped}
            results = self._read(f"running the {name}", self._reference, PUBLISHED[name](gains))
            for case, got, want in zip(self.cases, results, self.wanted):
                error = relative_error(got.logits, want.logits)
                deviations.append(
                    PublishedDeviation(name=name, case=case.name, relative=error, tolerance=self.precision.tolerance)
                )
        return tuple(deviations)

    def accuracy(self, runtimes: Mapping[str, Runtime]) -> Accuracy | None:
        """On the questions with labels, by backends that answer quickly."""
        if not self._samples.questions:
            return None
        quick = {name: runtime for name, runtime in runtimes.items() if runtime.stays_open}
        config, read = self._reference.config, self._reference.read
        family, tokenizer = get_family(config.family), open_tokenizer(self.bundle)
        return measure_accuracy(quick, config, read, family, tokenizer, self._samples.questions, progress=self.progress)

    def _fold_lines(self, got: Generation, want: Generation) -> list[Line]:
        """Every folded weight and bias against the exact ones, layer by layer, as one line."""
        lines = [
            Output(name, got.folded[name].float(), value).line(0, self.precision)
            for layer in (range(self.bundle.manifest.config.layers) if got.folded and want.state else ())
            for name, value in self._reference.fold(layer, want.state).items()
        ]
        return [worst("fold", lines)] if lines else []

    def _read(self, title: str, reference: Reference, mode: AdapterMode, on_block=lambda *_: None) -> list[Generation]:
        prompts, forced = [*self._samples.prompts.values()], [*self._samples.forced.values()]
        layers = self.bundle.manifest.config.layers * len(groups(prompts, forced))
        with self.progress.stage(title, layers, "layers") as done:
            return reference.read(prompts, forced, done, mode, on_block)

    def _open(self, checkpoint: Checkpoint) -> Reference:
        m = self.bundle.manifest
        return Reference(checkpoint.config, m.plan, m.limits, readers_of(checkpoint, m))

    def _stored(self) -> Reference:
        m = self.bundle.manifest
        return Reference(m.config, m.plan, m.limits, self.stored_readers())


def _of_one_modality(a: Sample, b: Sample) -> bool:
    return (a.prompts.pixel_values is None) == (b.prompts.pixel_values is None)
