"""The published loop: its numbers are the published code's, its adapters are convolutions, its other weights are the bundle's."""

from dataclasses import replace

import pytest
import torch
from conftest import FP32, LAVIN_CASES, LLAVA_CASES, golden_case, llava_golden_case, max_error
from meter_cases import MeterCase
from torch import nn

from eas_export.backends.pytorch import load_network, readers_of
from eas_export.bench.published import open_published, published_graphs, published_is_dynamic
from eas_export.bench.published_network import published_network
from eas_export.bundle.bundle import Bundle
from eas_export.core.errors import UserError
from eas_export.core.precision import PRECISIONS
from eas_export.generation.generate import Generation, generate
from eas_export.networks.network import store_name

RUNS = ("img1", "txt1", "b3")
HALF = golden_case("half_13B")


def generated(case, run: str, bundle: Bundle) -> Generation:
    inputs = case.prompts(run)
    return generate(open_published(bundle), inputs.prompts, forced=inputs.forced_tokens)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", LAVIN_CASES)
def test_lavin_equals_what_was_published_for_batches(bundle_of, name, run):
    case = golden_case(name)
    got = generated(case, run, bundle_of(case, fold="lowrank"))
    assert max_error(got.logits, case.golden[f"{run}/v1/logits"]) < FP32
    frozen = max_error(got.logits[1:], case.golden[f"{run}/v3/logits"][1:])
    assert frozen > 0.1 if case.plan.skipped else frozen < FP32


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", LLAVA_CASES)
def test_llava_equals_what_was_published(bundle_of, name, run):
    case = llava_golden_case(name)
    got = generated(case, run, bundle_of(case, fold="lowrank"))
    assert max_error(got.logits, case.golden[f"{run}/v3/logits"]) < FP32
    for state in ("router", "pooled"):
        rows = list(case.plan.skipped) if state == "pooled" else slice(None)
        assert max_error(got.state[state].transpose(0, 1), case.golden[f"{run}/v3/{state}"][rows]) < 1e-5


def test_images_go_through_convolutions_too(bundle_of):
    got = generated(HALF, "img1", bundle_of(HALF, fold="lowrank"))
    want = HALF.golden["img1/image_embeds"].reshape(got.image_features.shape)
    assert max_error(got.image_features, want) < FP32


def test_a_folding_bundle_gives_the_same(bundle_of):
    """Its weights are the same; nothing is folded."""
    folding, lowrank = (generated(HALF, "img1", bundle_of(HALF, fold=fold)) for fold in ("weights", "lowrank"))
    assert torch.equal(folding.logits, lowrank.logits) and not folding.folded


def test_fp16_is_near_it(bundle_of):
    got, want = generated(HALF, "b3", bundle_of(HALF, "fp16", "lowrank")), HALF.golden["b3/v1/logits"]
    assert 0 < max_error(got.logits, want) < PRECISIONS["fp16"].tolerance * want.std()


@pytest.fixture(scope="module")
def half(bundle_of) -> tuple[Bundle, nn.Module]:
    bundle = bundle_of(HALF, fold="lowrank")
    m = bundle.manifest
    network = load_network(m.config, m.plan, PRECISIONS[m.precision], m.limits, readers_of(bundle))
    return bundle, published_network(network)


def test_its_adapters_are_convolutions_and_the_outer_ones_grouped(half):
    _, network = half
    inner = {"KeptBlock": {"conv_A": 1}, "SkippedBlock": {"conv_A": 1, "conv_C": 1}, "VisionBlock": {"conv_A": 1}}
    blocks = [*network.decoder.layers, *network.vision.blocks]
    assert {type(block).__name__ for block in blocks} == {f"Published{name}" for name in inner}
    for block in blocks:
        parts = dict(block.adapter.named_children())
        assert all(isinstance(part, nn.Conv1d) and part.kernel_size == (1,) for part in parts.values())
        groups = {name: part.groups for name, part in parts.items()}
        assert groups == inner[type(block).__name__.removeprefix("Published")] | {"conv_B": 2, "conv_D": 2}
        assert "gain" not in dict(block.named_parameters()) or torch.all(block.gain == 1)


def test_only_adapters_are_copied(half):
    bundle, network = half
    other = (".adapter.", ".gain")
    shared = {store_name(n): p for n, p in network.named_parameters() if not any(part in n for part in other)}
    assert shared.keys() == {n for n in bundle.store.entries if ".adapter." not in n and ".pool." not in n}
    for name, parameter in shared.items():
        assert parameter.data_ptr() == bundle.store.tensor(name).data_ptr(), name


def test_each_familys_semantics_and_what_its_step_reads(half):
    assert published_is_dynamic("lavin") and not published_is_dynamic("llava")
    plan = half[0].manifest.plan
    for dynamic in (True, False):
        graphs = published_graphs(dynamic)
        assert list(graphs) == ["vision", "prefill", "decode"]
        assert graphs["decode"].reads(plan, "layers.0.pool.weight") == dynamic
        assert not graphs["decode"].reads(plan, "layers.0.router.weight")


def test_bundles_without_a_decoders_adapters_are_refused(half, meter_bundle_of):
    bundle = half[0]
    config = bundle.manifest.config.model_copy(update={"kept_adapter": None, "skipped_adapter": None})
    plain = replace(bundle, manifest=bundle.manifest.model_copy(update={"config": config, "fold": "none"}))
    for other in (plain, meter_bundle_of(MeterCase("vqa_skip10"))):
        with pytest.raises(UserError, match="has no adapters to decode with"):
            open_published(other)
