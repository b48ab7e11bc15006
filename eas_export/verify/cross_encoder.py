"""A cross-encoder's ledger: pairs of texts and images, in one pass.

The network is small enough to be held as a whole: a checkpoint's tensors are mapped, and only what is folded is memory of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from ..backends.runtime import Runtime, Tensors
from ..bundle.bundle import Bundle
from ..bundle.manifest import Manifest
from ..checkpoint.checkpoint import Checkpoint
from ..core.precision import PRECISIONS
from ..core.progress import Progress
from ..evaluate.accuracy import Accuracy
from ..families.witnesses import EncodersWitness, Witnessed, outputs_of
from ..generation.encode import encode, graph_inputs
from ..networks.adapter import Pool
from ..networks.cross_encoder.adapters import Bottleneck
from ..networks.cross_encoder.encode import PIXELS
from ..networks.cross_encoder.modules import CrossEncoder, unfolded_cross_encoder
from ..networks.cross_encoder.pairs import Pairs, join_pairs
from ..networks.cross_encoder.parameters import unfolded_parameters
from ..networks.graphs import graphs_of
from ..networks.network import Readers, build_network, load_parameters, parameter_shapes
from ..networks.skeleton import skeleton
from .ledger import FOLDED, STORED, Case, Ledger, Step, make_cases
from .lines import Line, Output, compare_tokens
from .locate import Fault, Pass, Search, watched
from .metrics import spread
from .pair_samples import PairSamples, measure_accuracy, read_samples
from .taps import Block

GRAPH = "encode"
FOLDED_OFFLINE = replace(
    FOLDED,
    what="the same weights in PyTorch in float32, the adapters before attentions and feed-forward networks folded into them",
)
BESIDE = {"text_layers": "image_layers", "image_layers": "text_layers"}
PARTS = {  # rows of blocks, by their names in the network, in the order of computation
    "text.layers": "text encoder",
    "vision.blocks": "image encoder",
    "text_layers": "text stream",
    "image_layers": "image stream",
}


class CrossEncoderLedger(Ledger):
    blocks_graph = GRAPH
    read_samples = staticmethod(read_samples)

    def __init__(
        self,
        bundle: Bundle,
        checkpoint: Checkpoint | None,
        samples: PairSamples,
        runtimes: Sequence[Runtime],
        progress: Progress,
    ):
        super().__init__(bundle, checkpoint, progress)
        m = bundle.manifest
        self._asked, self._samples = samples, list(samples.each.values())
        self.cases = make_cases(samples.each, m.limits.max_batch, join_pairs)
        self.probe = self.cases[0]
        self._reference = (
            open_unfolded(m, self.checkpoint) if self.checkpoint else open_folded(m, self.stored_readers())
        )
        with progress.stage("running the reference"), ExitStack() as hooks:
            for block in make_blocks(m):

                def keep(_: nn.Module, __: tuple, out: Tensor, block: Block = block) -> None:
                    self.boundaries.setdefault(block, out)  # of the probe, which comes first

                module = self._reference.get_submodule(block.path)
                hooks.callback(module.register_forward_hook(keep).remove)
            self.wanted = [answer(self._reference, pair) for pair in self._samples]
        self.before = (self.before[0], self.wanted)
        # output -> the standard deviation of the reference's on all samples. A few scores may be close by chance: theirs is what the head
        # makes of features with their deviation
        self._units = {
            name: spread(torch.cat([each[name].flatten() for each in self.wanted])) for name in self.wanted[0]
        }
        if "scores" in self._units:
            self._units["scores"] = self._units["cls_feats"] * float(self._reference.head.weight.norm())

    def accuracy(self, runtimes: Mapping[str, Runtime]) -> Accuracy | None:
        runs = {name: (partial(encode, runtime), runtime.limits.max_batch) for name, runtime in runtimes.items()}
        reference = partial(answer, self._reference)
        config = self.bundle.manifest.config
        return measure_accuracy(config, self._asked, self.wanted, reference, runs, self.progress)

    def pytorch_runs(self) -> Iterator[tuple[Step, list[Tensors]]]:
        if not self.checkpoint:
            return
        for step, readers in ((FOLDED_OFFLINE, self.checkpoint_readers()), (STORED, self.stored_readers())):
            with self.progress.stage(f"running {step.name}"):
                network = open_folded(self.bundle.manifest, readers)
                results = [answer(network, pair) for pair in self._samples]
            yield step, results

    def run(self, case: Case, runtime: Runtime) -> Tensors:
        return encode(runtime, case.batch)

    def join(self, results: Sequence[Tensors]) -> Tensors:
        return {name: torch.cat([each[name] for each in results]) for name in results[0]}

    def compare(self, got: Tensors, want: Tensors, before: Tensors, tolerance: float) -> tuple[Line, ...]:
        (head,) = want.keys() - {"cls_feats"}
        lines = []
        for name in ("cls_feats", head):
            output = Output(name, got[name], want[name], before[name], self._units[name], logits=name == "logits")
            lines.append(output.line(tolerance, self.precision))
        if head == "logits":
            allowed = max(self.precision.tolerance * self._units[head], self.precision.floor)
            lines.append(compare_tokens("answers", got[head].argmax(-1)[None], want[head][None], allowed))
        return tuple(lines)

    def probe_inputs(self, runtime: Runtime) -> Tensors:
        return graph_inputs(runtime, self.probe.batch)

    def faults(self, search: Search, case: Case) -> Iterator[Fault]:
        """On the case's first pair."""
        pairs = case.batch.part(0, 1)
        one = Encode(self._reference, make_blocks(self.bundle.manifest), pairs, graph_inputs(search.runtime, pairs))
        yield from search.walk(one)

    def base_path(self, witness: EncodersWitness) -> Iterator[tuple[str, Witnessed, Witnessed]]:
        """The encoders of text and images, up to the streams."""
        network, cases = self._reference, self.cases[: len(self._samples)]
        rows = {"text encoder": network.text.layers, "image encoder": network.vision.blocks}
        modules = {(part, i): module for part, row in rows.items() for i, module in enumerate(row)}
        for case, pair in zip(cases, self._samples):
            mask = network.mask(pair.text_masks)
            with outputs_of(modules) as blocks:
                network.text(pair.text_ids, mask)
                image = network.vision(pair.pixels[0])
            yield (
                case.name,
                Witnessed(blocks, {"image": image}),
                witness.read(pair.text_ids, pair.text_masks, pair.pixels[0]),
            )


class Encode(Pass):
    """The encode graph on one pair."""

    graph = GRAPH

    def __init__(self, network: CrossEncoder, blocks: Sequence[Block], pairs: Pairs, inputs: Tensors):
        self.network, self.config, self.blocks, self.inputs = network, network.config, blocks, inputs
        self.reference_inputs = pairs.inputs(network.config, torch.float32)
        mask = network.mask(pairs.text_masks)  # [1, 1, 1, L]
        self.masks = {"text.layers": mask, "text_layers": torch.cat([mask] * network.config.images)}

    def shape(self, block: Block) -> Sequence[int]:
        config = self.config
        return {
            "text.layers": (config.text_length, config.text.width),
            "vision.blocks": (config.images * config.image_tokens, config.image.width),
            "text_layers": (config.images * config.text_length, config.dim),
            "image_layers": (config.images * config.image_tokens, config.dim),
        }[_row(block)]

    def entry(self, block: Block, values: Tensors) -> Tensor:
        network, images = self.network, self.config.images
        if _row(block) == "text.layers":
            return network.text.embed(self.reference_inputs["text_ids"])
        if _row(block) == "vision.blocks":
            return network.vision.embed(torch.cat([self.reference_inputs[name] for name in PIXELS[:images]]))
        if _row(block) == "text_layers":
            return torch.cat([network.enter_text(self._last("text.layers", values))] * images).flatten(0, 1)
        return network.enter_images(network.vision.last_norm(self._last("vision.blocks", values))).flatten(0, 1)

    def replay(self, block: Block, values: Tensors) -> Tensors:
        """Without the outputs of pools, which show in what follows them, and of norms whose weights are folded into what follows."""
        row, x, module = _row(block), values[block.input], self.network.get_submodule(block.path)
        if row == "vision.blocks":
            others = (self.config.image_tokens,)
        elif row == "text.layers":
            others = (self.masks[row],)
        else:
            mask, beside = self.masks["text_layers"], values[f"{BESIDE[row]}.{block.layer} in"]
            others = (beside, mask, None) if row == "text_layers" else (beside, None, mask)
        # an adapter stands before a part in the reference
        with watched(module, block.path, name=lambda place: place.replace(".part.", ".")) as seen:
            module(x, *others)
        parts = dict(module.named_modules())
        hidden = {f"{block.path}.{name}" for name, part in parts.items() if isinstance(part, Pool)}
        hidden |= {f"{block.path}.{name}.norm" for name, part in parts.items() if isinstance(part, Bottleneck)}
        return {place: value for place, value in seen.items() if place not in hidden}

    def finish(self, values: Tensors) -> Iterator[tuple[str, Tensor, Tensor]]:
        pairs = self.network.pool(*(self._last(row, values) for row in BESIDE))  # [images, 2 dim]
        cls_feats = pairs.flatten()[None]
        head = self.network.head(cls_feats)
        named = {"scores": head.squeeze(-1)} if self.config.task == "retrieval" else {"logits": head}
        for name, want in ({"cls_feats": cls_feats} | named).items():
            yield name, values[name], want

    def _last(self, row: str, values: Tensors) -> Tensor:
        """The output of a row's last block."""
        return values[[block for block in self.blocks if _row(block) == row][-1].output]


def make_blocks(m: Manifest) -> list[Block]:
    """Every block in the order of computation; the two streams' layers alternate."""
    config = m.config
    skipped = {f"{each.stream}_layers.{each.layer}" for each in config.attentions(m.plan.skipped)}

    def block(row: str, layer: int) -> Block:
        path = f"{row}.{layer}"
        last = row in BESIDE and (config.behind_adapter or (path in skipped and config.site == "layer"))  # a sum
        end = "" if row == "vision.blocks" or last else "ffn_norm"
        return Block(path, layer, "skipped" if path in skipped else "kept", PARTS[row], end)

    rows = [("text.layers", config.text.layers), ("vision.blocks", config.image.blocks)]
    found = [block(row, layer) for row, count in rows for layer in range(count)]
    return found + [block(row, layer) for layer in range(config.layers) for row in BESIDE]


def open_unfolded(m: Manifest, checkpoint: Checkpoint) -> CrossEncoder:
    """The network as it was trained, in float32, with its adapters in place."""
    with skeleton():
        network = unfolded_cross_encoder(m.config, m.plan).eval().requires_grad_(False)
    return load_parameters(network, {n: tensor.read for n, tensor in unfolded_parameters(checkpoint, m.plan).items()})


def open_folded(m: Manifest, parameters: Readers) -> CrossEncoder:
    """The network in float32 with its adapters folded into the weights. parameters: those that are not the network's are ignored"""
    network = build_network(m.config, m.plan, PRECISIONS["fp32"], m.limits)
    return load_parameters(network, {name: parameters[name] for name in parameter_shapes(network)})


@torch.no_grad()
def answer(network: CrossEncoder, pairs: Pairs) -> Tensors:
    """The outputs of the encode graph's module."""
    graph = graphs_of(network.config, "offline")[GRAPH].module(network)
    return graph(pairs.inputs(network.config, torch.float32))


def _row(block: Block) -> str:
    return block.path.rpartition(".")[0]
