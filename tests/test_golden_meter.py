"""METER equal to the published code: the folded network, the unfolded one, and the exported graph on ONNX Runtime."""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from conftest import FP32, max_error
from meter_cases import DAS_CASES, EVERY_CASE, PLAIN_CASES, MeterCase, graph_inputs, opened, run_bundle, run_form

CELLS = ("down.weight", "down.bias", "up.weight", "up.bias")  # of an adapter whose norm is folded


def check(case: MeterCase, got: dict[str, np.ndarray]) -> None:
    assert set(got) == {"cls_feats", case.head}
    for each, value in got.items():
        assert value.shape == case.golden[each].shape and value.dtype == np.float32
        assert max_error(value, case.golden[each]) < FP32, each


@pytest.mark.parametrize("form", ["folded", "unfolded"])
@pytest.mark.parametrize("name", EVERY_CASE)
def test_the_network_equals_the_published_code(name, form):
    case = MeterCase(name)
    check(case, run_form(form, *opened(case.file, case.skip, case.text_heads), graph_inputs(case)))


@pytest.mark.parametrize("name", EVERY_CASE)
def test_the_graph_equals_the_published_code(meter_bundle_of, name):
    """The file of a bundle on ONNX Runtime; one of the cases is in the older opset."""
    case = MeterCase(name)
    check(case, run_bundle(meter_bundle_of(case), graph_inputs(case)))


@pytest.mark.parametrize("name", ["vqa_skip10", "nlvr2_skip10", "irtr_skip10"])
def test_the_graph_holds_no_adapter_but_those_of_skipped_attentions(meter_bundle_of, name):
    bundle = meter_bundle_of(MeterCase(name))
    model, config, plan = ir.load(bundle.graph_file("encode")), bundle.manifest.config, bundle.manifest.plan
    assert dict(model.opset_imports) == {"": 24} and not model.functions
    onnx.checker.check_model(bundle.graph_file("encode"))
    skipped = config.attentions(plan.skipped)
    assert len(skipped) == MeterCase(name).meta["n_distinct_modules"]
    names = set(model.graph.initializers)
    assert not [each for each in names if "adapter" in each]
    places = {f"{each.stream}_layers.{each.layer}.{each.part}." for each in skipped}
    low_rank = {each for each in names if ".pool." in each or ".down." in each or ".up." in each}
    assert low_rank == {
        place + each for place in places for each in ("down.weight", "pool.weight", "pool.bias", "up.weight", "up.bias")
    }
    assert not [
        each for each in names if each.endswith(("q.weight", "o.weight")) and each.rsplit(".", 2)[0] + "." in places
    ]
    counts = Counter(node.op_type for node in model.graph)
    kept = 4 * config.layers - len(skipped)
    assert counts["Attention"] == config.text.layers + config.image.blocks + kept
    encoders = 6 * config.text.layers + 4 * config.image.blocks + 2  # q k v o fc1 fc2; qkv out fc1 fc2; transforms
    heads = 2 + (1 if config.task == "retrieval" else 2)  # poolers, head
    assert counts["Gemm"] == encoders + heads + 2 * 2 * config.layers + 4 * kept + 3 * len(skipped)
    assert "MatMul" not in counts


@pytest.mark.parametrize("name", [*PLAIN_CASES, *DAS_CASES])
def test_a_skipped_layer_is_an_adapter_and_nothing_else(meter_bundle_of, name):
    """No name or shape of its attentions, feed-forward network or norms is in the store or the graph; what is kept is all there."""
    bundle = meter_bundle_of(MeterCase(name))
    m, config, entries = bundle.manifest, bundle.manifest.config, bundle.store.entries
    assert sorted(m.plan.skipped) == sorted(MeterCase(name).skip)
    places = [f"{stream}_layers.{i}" for stream in ("text", "image") for i in range(6)]  # by site, where layers are
    skipped = [places[site] for site in m.plan.skipped]
    for place in places:
        held = {each.removeprefix(f"{place}.") for each in entries if each.startswith(f"{place}.")}
        beside = {each for each in held if each.startswith("adapters.")}
        if place in skipped:
            assert held == {f"skipped_adapter.{cell}" for cell in CELLS}
        else:
            slots = ("attention", "cross_attention", "ffn") if name in DAS_CASES else ()
            assert beside == {f"adapters.{slot}.{cell}" for slot in slots for cell in CELLS}
            assert {"attention.q.weight", "cross_attention.v.bias", "ffn.fc1.weight", "ffn_norm.bias"} < held - beside
            assert len(held - beside) == 2 * 8 + 4 + 3 * 2
    assert ("classifier_token" in entries) == (name in DAS_CASES)
    of_layers = [entry.shape for each, entry in entries.items() if "_layers." in each]
    assert of_layers.count((config.ffn_dim, config.dim)) == len(places) - len(skipped)  # fc1
    assert of_layers.count((config.dim, config.dim)) == 8 * (len(places) - len(skipped))  # q, k, v, o
    graph = ir.load(bundle.graph_file("encode")).graph
    onnx.checker.check_model(bundle.graph_file("encode"))
    counts = Counter(node.op_type for node in graph)
    kept = len(places) - len(skipped)
    assert counts["Attention"] == config.text.layers + config.image.blocks + 2 * kept
    assert counts["Relu"] == (3 * kept + len(skipped) if name in DAS_CASES else 0)
    encoders = 6 * config.text.layers + 4 * config.image.blocks + 2  # q k v o fc1 fc2; qkv out fc1 fc2; transforms
    heads = 2 + (1 if config.task == "retrieval" else 2)  # poolers, head
    assert counts["Gemm"] == encoders + heads + 10 * kept + 2 * counts["Relu"]


@pytest.mark.parametrize("form", ["folded", "unfolded"])
def test_the_two_readings_are_two_functions(form):
    """As the published code reads indices 18 to 23, and as the paper does."""
    case = MeterCase("vqa_skip10")
    got = {
        reading: run_form(form, *opened(case.file, case.skip, case.text_heads, reading), graph_inputs(case))["logits"]
        for reading in ("published", "paper")
    }
    assert max_error(got["published"], case.golden["logits"]) < FP32 < 100 * FP32 < max_error(*got.values())


def test_a_text_and_an_image_are_encoded_once_for_all_their_pairs(meter_bundle_of):
    """Any pairs of them score as each does alone."""
    case = MeterCase("irtr_skip10")
    bundle = meter_bundle_of(case)
    image = case.inputs["pixels"]
    inputs = graph_inputs(case) | {
        "pixel_values": np.concatenate([-image, image]),
        "text_index": np.array([2, 0, 1, 2]),
        "image_index": np.array([1, 1, 0, 0]),
    }
    got = run_bundle(bundle, inputs)["scores"]
    assert max_error(got[:2], case.golden["scores"][[2, 0]]) < FP32
    for row in (2, 3):
        alone = {
            "text_ids": inputs["text_ids"][inputs["text_index"][[row]]],
            "text_masks": inputs["text_masks"][inputs["text_index"][[row]]],
            "pixel_values": -image,
            "text_index": np.array([0]),
            "image_index": np.array([0]),
        }
        assert max_error(run_bundle(bundle, alone)["scores"], got[[row]]) < FP32
