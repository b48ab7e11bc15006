"""Values of graphs are found by the names of the modules that give them, and these names are true in both opsets."""

import onnx
import pytest
from conftest import copy_of, golden_case, llava_golden_case
from meter_cases import MeterCase

from eas_export.core.errors import UserError
from eas_export.core.precision import PRECISIONS
from eas_export.export.derived_bundle import DerivedBundle
from eas_export.networks.network import build_network, parameter_shapes
from eas_export.verify import cross_encoder, decoder_passes
from eas_export.verify.compare import Request, compare_bundle
from eas_export.verify.controls import given_by
from eas_export.verify.taps import InstrumentedGraph

INSIDE = ("adapter.down", "attention.down")  # products of adapters, which are no modules' own calls


def check_names(bundle, graph: str, blocks) -> None:
    """Every block has its output, and so has every module whose weights the graph reads; it comes from a node that reads them."""
    m, own = bundle.manifest, InstrumentedGraph(bundle, graph)
    nodes = onnx.load(bundle.graph_file(graph), load_external_data=False).graph.node
    makers = {value: node for node in nodes for value in node.output}
    read = {name.removeprefix("folded.") for node in nodes for name in node.input}
    weights = parameter_shapes(build_network(m.config, m.plan, PRECISIONS[m.precision], m.limits)).keys() & read
    for block in blocks:
        assert own.has(block.output)
        stages = {name.rpartition(".")[0] for name in weights if name.startswith(f"{block.path}.")}
        stages = {stage for stage in stages if not stage.endswith(INSIDE)}
        assert len(stages) >= 4
        for stage in stages:
            maker = makers[stage]
            if stage.endswith(".router"):  # a softmax behind its product
                maker = makers[maker.input[0]]
            own_weights = {name for name in weights if name.startswith(f"{stage}.")}
            assert {name.removeprefix("folded.") for name in maker.input} & own_weights, stage


@pytest.mark.parametrize("graph", ["prefill", "decode"])
@pytest.mark.parametrize("fold", ["weights", "lowrank"])
@pytest.mark.parametrize(
    "case, precision, opset",
    [
        (golden_case("half_13B"), "fp32", 24),
        (golden_case("half_13B"), "fp32", 21),
        (golden_case("first"), "fp16", 21),
        (golden_case("all"), "bf16", 24),
        (llava_golden_case("a"), "fp32", 24),
    ],
    ids=lambda each: getattr(each, "name", each),
)
def test_a_decoders_values_are_named_by_its_modules(bundle_of, case, precision, opset, fold, graph):
    bundle = bundle_of(case, precision, fold, opset)
    check_names(bundle, graph, decoder_passes.make_blocks(bundle.manifest.plan))


@pytest.mark.parametrize("name", ["vqa_skip10", "vqa_small_ln", "nlvr2_skip10", "irtr_skip10"])
def test_a_cross_encoders_values_are_named_by_its_modules(meter_bundle_of, name):
    bundle = meter_bundle_of(MeterCase(name))  # vqa_small_ln is in opset 21
    check_names(bundle, "encode", cross_encoder.make_blocks(bundle.manifest))


def test_a_graph_without_the_names_differs(bundle_of, tmp_path):
    """Its blocks cannot be shown, and what was not compared is not the same."""
    case = golden_case("first")
    derived = DerivedBundle(copy_of(bundle_of(case), tmp_path / "own"), tmp_path / "copy")
    (output,) = given_by(derived.graph("prefill"), "layers.3", "Add").outputs
    output.name = "renamed"
    bundle = derived.seal("renamed")
    report = compare_bundle(bundle, Request(case.checkpoint, "x"))
    assert all(step.ok for step in report.steps) and report.exit_code == 1
    assert [(block.layer, block.ok, block.error) for block in report.blocks] == [(0, False, None)]
    assert (report.first_divergence.graph, report.first_divergence.stage) == ("prefill", "block")
    with pytest.raises(UserError, match=r"the graph has no value named layers\.3,"):
        InstrumentedGraph(bundle, "prefill").run(None, None, {}, {"layers.3": (1, 1)})
