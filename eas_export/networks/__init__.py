"""NETWORK: the kinds of networks, one row of NETWORKS each. The same modules are recorded as graphs and run as the reference.

A network's definition is in networks/<kind>/, what a verb does with it in <verb>/<kind>.py; both are named here, once. The key is a
config's `kind`. Nothing is imported before it is used.

Shapes: B rows (prompts), L positions of a prompt with its prefix, S prompt tokens, T cache slots, n tokens of any rows
(B*L in the prefill, B in decoding), dim the model's width, H heads of head_dim.
"""

from dataclasses import dataclass
from typing import Any

from ..core.configs import AnyConfig
from ..core.registry import load


@dataclass(frozen=True)
class Network:
    """What a kind of network provides, each as ".module:attribute".

    modules           (config, plan, limits) -> the network as a torch module
    fold_modes        fold mode -> contract.FoldMode; the first that the config supports is the default
    parameters        (checkpoint after prune, plan, limits) -> the network's parameters by name
    settled           (pruned checkpoint, plan, fold mode) -> the checkpoint of the network that is exported, where that is another; None: it is not
    folded_sets       (config, plan) -> modality -> graph input -> name in the store, of weights that were folded at build time; None: none are
    useless           (config, plan) -> name prefixes of a checkpoint's tensors that the plan makes useless
    without_adapters  config -> the config without adapters, parts of their tensors' names, and whether what training skipped is kept; None: it needs its
                      adapters
    costs             (config, plan) -> contract.Costs
    requests          (config, plan, precision) -> fold mode -> memory.RequestMemory
    reference_bytes   (config, parameters by block, longest prompt) -> bytes of memory that verification needs for the reference
    pass_tokens       config -> tokens that an image adds to a pass
    describe          config -> rows of `inspect`'s table
    ledger, faults    what `verify` compares, and the faults that it plants
    bench             what `bench` times, and its baselines: bench/baselines.Kind
    run_arrays        what `run` does with an npz file: (bundle, path, cli/run_options.RunOptions) -> what --json shows, and a table of it
    run_questions     what `run` does with Questions in place of the path; the table is None where the answers have been printed
    run_chat          what `run --chat` does: (bundle, paths of images, RunOptions) -> None; None: the network does not talk
    """

    modules: str
    fold_modes: str
    parameters: str
    settled: str | None
    folded_sets: str | None
    useless: str
    without_adapters: str | None
    costs: str
    requests: str
    reference_bytes: str
    pass_tokens: str
    describe: str
    ledger: str
    faults: str
    bench: str
    run_arrays: str
    run_questions: str
    run_chat: str | None


NETWORKS = {
    "decoder": Network(
        modules=".networks.decoder.modules:DecoderNetwork",
        fold_modes=".networks.decoder.graphs:FOLD_MODES",
        parameters=".networks.decoder.parameters:parameters",
        settled=".networks.decoder.constant_routers:settle_routers",
        folded_sets=".networks.decoder.specs:folded_sets",
        useless=".networks.decoder.parameters:useless",
        without_adapters=".networks.decoder.parameters:without_adapters",
        costs=".networks.decoder.costs:costs",
        requests=".networks.decoder.costs:requests",
        reference_bytes=".networks.decoder.costs:reference_bytes",
        pass_tokens=".networks.decoder.costs:pass_tokens",
        describe=".networks.decoder.describe:describe",
        ledger=".verify.decoder:DecoderLedger",
        faults=".verify.decoder_faults:CONTROLS",
        bench=".bench.decoder:DECODER",
        run_arrays=".cli.run_tokens:run_tokens",
        run_questions=".cli.run_questions:run_questions",
        run_chat=".cli.run_chat:run_chat",
    ),
    "cross-encoder": Network(
        modules=".networks.cross_encoder.modules:folded_cross_encoder",
        fold_modes=".networks.cross_encoder.graphs:FOLD_MODES",
        parameters=".networks.cross_encoder.parameters:folded_parameters",
        settled=None,
        folded_sets=None,
        useless=".networks.cross_encoder.parameters:useless",
        without_adapters=None,
        costs=".networks.cross_encoder.costs:costs",
        requests=".networks.cross_encoder.costs:requests",
        reference_bytes=".networks.cross_encoder.costs:reference_bytes",
        pass_tokens=".networks.cross_encoder.costs:pass_tokens",
        describe=".networks.cross_encoder.describe:describe",
        ledger=".verify.cross_encoder:CrossEncoderLedger",
        faults=".verify.cross_encoder_faults:CONTROLS",
        bench=".bench.cross_encoder:CROSS_ENCODER",
        run_arrays=".cli.run_pairs:run_pairs",
        run_questions=".cli.run_pair_questions:run_pair_questions",
        run_chat=None,
    ),
}


def network_part(config: AnyConfig, name: str) -> Any:
    """The object that this field of Network names for the config's kind; None where it is None."""
    place = getattr(NETWORKS[config.kind], name)
    return None if place is None else load(place)
