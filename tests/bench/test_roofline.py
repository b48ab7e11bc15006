"""Operations counted from shapes are those that PyTorch counts over the graphs' own modules; bytes are those of the exported graphs'
weights and of shapes written out here."""

from collections.abc import Callable

import onnx
import pytest
import torch
from conftest import GOLDEN, GoldenCase, golden_case, llava_golden_case
from meter_cases import METER_CASES, MeterCase, opened
from torch.utils.flop_counter import FlopCounterMode

from eas_export.bench.roofline import CROSS_ENCODER_FLOPS, DECODER_FLOPS, Limit, Work, limit_of, work_of
from eas_export.bundle.bundle import Bundle
from eas_export.core.configs.decoder import ModelConfig
from eas_export.core.limits import Limits
from eas_export.core.plan import SkipPlan
from eas_export.core.precision import PRECISIONS
from eas_export.networks.contract import Graph
from eas_export.networks.graphs import fold_modes, graphs_of
from eas_export.networks.network import build_network
from eas_export.networks.parameters import exported
from eas_export.networks.prune import prune

FP32, LIMITS = PRECISIONS["fp32"], Limits(max_batch=8, max_images=2)
LAVIN, LLAVA = golden_case("half_13B"), llava_golden_case("half")
CASES = [*map(golden_case, ("half_13B", "all", "noskip")), LLAVA]


def without_adapters(config: ModelConfig) -> ModelConfig:
    vision = config.vision.model_copy(update={"adapter": None})
    return config.model_copy(update={"kept_adapter": None, "skipped_adapter": None, "vision": vision})


def counted(graph: Graph, config, plan: SkipPlan, sizes: dict[str, int]) -> int:
    """What PyTorch counts over the graph's module, on shapes without numbers."""
    spec = graph.spec(config, plan, FP32, LIMITS)
    network = build_network(config, plan, FP32, LIMITS)
    inputs = {t.name: torch.zeros(t.sizes(sizes), dtype=getattr(torch, t.dtype), device="meta") for t in spec.inputs}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        graph.module(network)(inputs)
    return counter.get_total_flops()


def future(config: ModelConfig, plan: SkipPlan, sizes: dict[str, int]) -> int:
    """Scores that the module makes and masks, S (S - 1) / 2 a row, and their product with v."""
    rows, length = sizes["B"], sizes["S"]
    return len(plan.kept) * rows * length * (length - 1) * 2 * config.dim


def by_vector(config: ModelConfig, plan: SkipPlan, sizes: dict[str, int]) -> int:
    """The folded biases: PyTorch counts no product with a vector."""
    kept, skipped = (a.rank + 1 for a in (config.kept_adapter, config.skipped_adapter))
    outputs = config.dim + 2 * config.kv_dim
    return -2 * (len(plan.kept) * outputs * kept + len(plan.skipped) * 2 * config.ffn_dim * skipped)


FLOPS = {**DECODER_FLOPS, **CROSS_ENCODER_FLOPS}
UNLIKE: dict[str, Callable[..., int]] = {"prefill": future, "fold": by_vector}  # what PyTorch counts more


@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_decoders_operations_are_counted(case, kv_heads):
    config = case.checkpoint.config.model_copy(update={"kv_heads": kv_heads})
    assert config.heads == 4
    for each in (config, without_adapters(config)):
        for fold in fold_modes(each):
            graphs = graphs_of(each, fold)
            for name, graph in graphs.items():
                rows = 1 if "fold" in graphs else 3
                sizes = {"B": rows, "S": 11, "T": 13, "N": 2, "M": 2 * config.vision.tokens}
                ours = FLOPS[name](each, case.plan, graph.spec(each, case.plan, FP32, LIMITS), sizes)
                more = UNLIKE[name](each, case.plan, sizes) if name in UNLIKE else 0
                assert ours + more == counted(graph, each, case.plan, sizes), name


@pytest.mark.parametrize("name", ["lavin/router", "lavin-das/mid"])
def test_the_operations_of_systems_that_fold_when_they_are_built_are_counted(name):
    case = GoldenCase(name, GOLDEN / "comparators" / name)
    pruned = prune(case.checkpoint, case.plan)
    for fold in fold_modes(case.checkpoint.config):
        config = exported(pruned, case.plan, fold).config
        sizes = {"B": 3, "S": 11, "T": 13, "N": 2, "M": 2 * config.vision.tokens}
        for graph_name, graph in graphs_of(config, fold).items():
            ours = FLOPS[graph_name](config, case.plan, graph.spec(config, case.plan, FP32, LIMITS), sizes)
            more = UNLIKE[graph_name](config, case.plan, sizes) if graph_name in UNLIKE else 0
            assert ours + more == counted(graph, config, case.plan, sizes), graph_name


@pytest.mark.parametrize("name", METER_CASES)
def test_a_cross_encoders_operations_are_counted(name):
    """More pairs than texts, and more texts than images, where they are encoded once."""
    case = MeterCase(name)
    checkpoint, plan, graph = opened(case.file, case.skip, case.text_heads)
    config, sizes = checkpoint.config, {"B": 4, "M": 3, "N": 2}
    spec = graph.spec(config, plan, FP32, LIMITS)
    assert FLOPS["encode"](config, plan, spec, sizes) == counted(graph, config, plan, sizes)


def weights(bundle: Bundle, graph: str, rows: dict[str, int]) -> int:
    """Bytes of what the exported graph reads from the store; of tables the given rows."""
    model = onnx.load(bundle.graph_file(graph), load_external_data=False).graph
    entries = [bundle.store.entries[i.name] for i in model.initializer if i.external_data]
    assert {*rows} <= {entry.name for entry in entries}
    return sum(entry.nbytes * rows.get(entry.name, entry.shape[0]) // entry.shape[0] for entry in entries)


def rope(rows: int) -> dict[str, int]:
    return {"rope.cos": rows, "rope.sin": rows}


def test_bytes_with_folded_weights(bundle_of):
    bundle = bundle_of(LAVIN, "fp16")
    m = bundle.manifest
    c, kept, skipped = m.config, len(m.plan.kept), len(m.plan.skipped)
    assert kept and skipped
    folded = 2 * (c.dim + 1) * (kept * 3 * c.dim + skipped * 2 * c.ffn_dim)
    state = 4 * (2 * c.layers + skipped * c.skipped_adapter.rank)
    slot, logits = 2 * kept * 2 * c.dim, 4 * c.vocab_size  # key and value in fp16
    fold = work_of(bundle, "fold", {})
    assert fold.bytes == weights(bundle, "fold", {}) + state + folded
    decode = work_of(bundle, "decode", {"T": 9})
    assert (
        decode.bytes == weights(bundle, "decode", {"embed.weight": 1, **rope(1)}) + 3 * 8 + folded + logits + 10 * slot
    )
    prefill = work_of(bundle, "prefill", {"B": 1, "S": 7, "M": 5, "T": 99})
    rows = {"embed.weight": 7, "modality.weight": 2, **rope(7)}
    given = 8 * (2 * 7 + 1) + 2 * 5 * c.dim
    assert prefill.bytes == weights(bundle, "prefill", rows) + given + logits + state + 7 * slot
    one = work_of(bundle, "prefill", {"B": 1, "S": 1, "M": 5, "T": 99})
    tables = [bundle.store.entries[name] for name in ("embed.weight", "rope.cos", "rope.sin")]
    row = sum(2 * table.shape[1] for table in tables)
    assert prefill.bytes - one.bytes == 6 * (row + 2 * 8 + slot) + 2 * c.dim  # and one of the modality token's two rows
    vision = work_of(bundle, "vision", {"N": 3})
    pixels, features = 2 * 3 * c.vision.image_size**2, 2 * c.vision.tokens * c.dim
    assert vision.bytes == weights(bundle, "vision", {}) + 3 * (pixels + features)


def test_bytes_where_adapters_stay_beside_the_weights(bundle_of):
    bundle = bundle_of(LAVIN, fold="lowrank")
    m = bundle.manifest
    c, kept, skipped = m.config, len(m.plan.kept), len(m.plan.skipped)
    state = 3 * 4 * (2 * c.layers + skipped * c.skipped_adapter.rank)
    slot, logits = 3 * 2 * kept * 4 * c.dim, 3 * 4 * c.vocab_size
    decode = work_of(bundle, "decode", {"B": 3, "T": 9})
    assert (
        decode.bytes == weights(bundle, "decode", {"embed.weight": 3, **rope(3)}) + 9 * 8 + state + logits + 10 * slot
    )
    prefill = work_of(bundle, "prefill", {"B": 3, "S": 50, "M": 1, "T": 50})
    assert 3 * 50 > c.vocab_size  # no more than the table
    rows = {"embed.weight": c.vocab_size, "modality.weight": 2, **rope(150)}
    given = 8 * (2 * 150 + 3) + 4 * c.dim
    assert prefill.bytes == weights(bundle, "prefill", rows) + given + logits + state + 50 * slot


def test_bytes_of_a_shared_store_are_the_graphs(bundle_of):
    """What a bundle without adapters finds in a store that another one shares with it."""
    with_them = bundle_of(LAVIN, fold="lowrank")
    m, config = with_them.manifest, without_adapters(with_them.manifest.config)
    specs = {n: g.spec(config, m.plan, FP32, m.limits) for n, g in graphs_of(config, "none").items()}
    bundle = Bundle(with_them.path, m.model_copy(update={"config": config, "fold": "none", "graphs": specs}))
    theirs = {"decode": 0, "vision": 0}
    for name, entry in bundle.store.entries.items():
        if ".adapter." in name or (".router." in name and name.startswith("vision.")):
            theirs["vision" if name.startswith("vision.") else "decode"] += entry.nbytes
    assert min(theirs.values()) > 0
    state = 4 * (2 * config.layers + len(m.plan.skipped) * m.config.skipped_adapter.rank)
    for name, sizes, inputs in (("decode", {"B": 1, "T": 4}, state), ("vision", {"N": 1}, 0)):
        less = work_of(with_them, name, sizes).bytes - work_of(bundle, name, sizes).bytes
        assert less == theirs[name] + inputs


def test_bytes_of_texts_and_images(meter_bundle_of):
    bundle = meter_bundle_of(MeterCase("irtr_skip10"))
    c = bundle.manifest.config
    tokens = c.text_length
    assert tokens < min(c.text.vocab_size, c.text.positions)
    rows = {"text.words.weight": tokens, "text.positions.weight": tokens}
    given = 2 * 8 * tokens + 2 * 4 * 3 * c.image.image_size**2 + 2 * 8 * 4
    given_back = 4 * (4 + 4 * 2 * c.dim)
    encode = work_of(bundle, "encode", {"B": 4, "M": 1, "N": 2})
    assert encode.bytes == weights(bundle, "encode", rows) + given + given_back


def test_a_work_is_both_counts(bundle_of):
    bundle = bundle_of(LAVIN, fold="lowrank")
    m, sizes = bundle.manifest, {"B": 2, "T": 5}
    work = work_of(bundle, "decode", sizes)
    assert work.flops == FLOPS["decode"](m.config, m.plan, m.graphs["decode"], sizes)
    with pytest.raises(KeyError, match="T"):
        work_of(bundle, "decode", {"B": 2})


def test_every_graph_has_a_row():
    configs = [LAVIN.checkpoint.config, opened(MeterCase("vqa_skip10").file, [], 1)[0].config]
    names = {name for config in configs for fold in fold_modes(config) for name in graphs_of(config, fold)}
    assert {*FLOPS} == names


def test_the_slower_of_both_is_the_limit():
    rates = {"bytes_per_second": 10.0, "flops_per_second": 100.0}
    assert limit_of(Work(bytes=20, flops=100), **rates) == Limit(seconds=2.0, bound="memory")
    assert limit_of(Work(bytes=20, flops=500), **rates) == Limit(seconds=5.0, bound="arithmetic")
