"""A cross-encoder's graph for TensorRT-RTX: the same function after rewriting, and engines that are built for real."""

import shutil
from collections import Counter

import pytest
from conftest import FP32, max_error
from engine_stand_in import open_stand_in
from meter_cases import MeterCase

from eas_export.backends.checking import check as check_graphs
from eas_export.backends.tensorrt import engine_graph
from eas_export.core.progress import Progress
from eas_export.generation.encode import encode
from eas_export.inputs.pairs import make_pairs
from eas_export.pipeline import build

VQA, RETRIEVAL, PLAIN, DAS = (
    MeterCase(name)
    for name in ("vqa_skip10", "irtr_skip10", "comparators/meter/nlvr2_full", "comparators/meter-das/vqa_train")
)


@pytest.fixture(autouse=True)
def bind_all(monkeypatch):
    """At the goldens' sizes no weight is large enough by itself."""
    monkeypatch.setattr(engine_graph, "MIN_BOUND_BYTES", 256)


@pytest.mark.parametrize(
    "case, weights",
    [(VQA, "embedded"), (RETRIEVAL, "bound"), (PLAIN, "embedded"), (DAS, "bound")],
    ids=lambda each: getattr(each, "name", each),
)
def test_the_rewritten_graph_equals_the_published_code(meter_bundle_of, case, weights):
    """Scaled queries, weights as inputs; three pairs where two go at once."""
    stand_in = open_stand_in(meter_bundle_of(case), weights)
    got = encode(stand_in.runtime, make_pairs(case.arrays, stand_in.runtime.config, case.name))
    assert set(got) == {case.head, "cls_feats"}
    for each, value in got.items():
        assert max_error(value, case.golden[each]) < FP32, each
    bound = set(stand_in.engines["encode"].inputs) - {
        tensor.name for tensor in stand_in.runtime.sessions["encode"].spec.inputs
    }
    assert bool(bound) == (weights == "bound")


@pytest.mark.parametrize(
    "case, precision, attention",
    [(VQA, "fp16", "fused"), (VQA, "fp32", "decomposed"), (PLAIN, "fp16", "fused"), (DAS, "fp16", "fused")],
    ids=lambda each: getattr(each, "name", each),
)
def test_an_engine_is_built(meter_bundle_of, tmp_path, case, precision, attention):
    """Every attention is a layer, and those over a text are told its mask."""
    out = shutil.copytree(meter_bundle_of(case, precision).path, tmp_path / "o")
    options = {"skip": case.given_skip, "text_heads": case.text_heads, "precision": precision, "max_batch": 2}
    options |= {"image_cross_reading": "published", "backend": "tensorrt-rtx", "compute_capability": "86"}
    bundle = build(case.file, out, force=True, verify=False, **options).bundle
    m = bundle.manifest
    (record,) = m.engines("tensorrt-rtx").values()
    assert (record.graph, record.attention) == ("encode", attention)
    check = check_graphs(bundle, "tensorrt-rtx", Progress())["encode"]
    kept = set(m.config.every_attention()) - m.config.attentions(m.plan.skipped)
    over_texts = [each for each in kept if (each.stream == "text") == (each.part == "attention")]
    kinds = Counter(layer.kind for layer in check.layers)
    assert kinds["ATTENTION_INPUT"] == m.config.text.layers + m.config.image.blocks + len(kept)
    assert check.masked == m.config.text.layers + len(over_texts) and not check.lost
