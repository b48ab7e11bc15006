"""METER equal to the published code: the folded network, the unfolded one, and the exported graph on ONNX Runtime."""

from functools import cache

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from conftest import FP32, max_error
from meter_cases import METER_CASES, MeterCase

from eas_export.config import Limits
from eas_export.export.export_graph import export_graph
from eas_export.export.graphs import graphs_of
from eas_export.families import load_checkpoint
from eas_export.family import Sources
from eas_export.model.cross_encoder import unfolded_cross_encoder
from eas_export.model.network import build_network, load_parameters
from eas_export.plan import make_plan
from eas_export.precision import PRECISIONS
from eas_export.rewrite.constants import network_parameters
from eas_export.rewrite.cross_encoder import unfolded_parameters
from eas_export.rewrite.prune import prune

LIMITS = Limits(max_batch=4)
FORMS = ("folded", "unfolded", "onnxruntime")


@cache
def case_of(name: str) -> MeterCase:
    return MeterCase(name)


def opened(case: MeterCase, reading: str = "published"):
    """The pruned checkpoint, its plan and its graph."""
    checkpoint = load_checkpoint(Sources(case.file, text_heads=case.text_heads, image_cross_reading=reading))
    plan = make_plan(checkpoint.config.sites, ",".join(map(str, case.skip)), "--skip")
    return prune(checkpoint, plan), plan, graphs_of(checkpoint.config, "offline")["encode"]


def graph_inputs(case: MeterCase) -> dict[str, torch.Tensor]:
    arrays = {name: torch.from_numpy(value) for name, value in case.inputs.items()}
    names = {"pixels": "pixel_values", "pixels_0": "pixel_values", "pixels_1": "pixel_values_1"}
    inputs = {names.get(name, name): value for name, value in arrays.items()}
    if case.meta["task"] == "irtr":
        rows = len(inputs["text_ids"])
        inputs |= {"text_index": torch.arange(rows), "image_index": torch.zeros(rows, dtype=torch.int64)}
    return inputs


@torch.no_grad()
def run(
    case: MeterCase, form: str, inputs: dict[str, torch.Tensor], reading: str = "published"
) -> dict[str, np.ndarray]:
    checkpoint, plan, graph = opened(case, reading)
    config, precision = checkpoint.config, PRECISIONS["fp32"]
    parameters = network_parameters(checkpoint, plan, precision, LIMITS)
    if form == "onnxruntime":
        return run_onnx(export_graph(graph, config, plan, precision, LIMITS)[1], parameters, inputs)
    with torch.device("meta"):
        if form == "unfolded":
            network, parameters = unfolded_cross_encoder(config, plan).eval(), unfolded_parameters(checkpoint, plan)
        else:
            network = build_network(config, plan, precision, LIMITS)
    load_parameters(network, {name: tensor.read for name, tensor in parameters.items()})
    return {name: value.numpy() for name, value in graph.module(network)(inputs).items()}


def run_onnx(model: ir.Model, parameters: dict, inputs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    for name, value in model.graph.initializers.items():
        if value.const_value is None:
            value.const_value = ir.tensor(parameters[name].read().numpy())
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {name: value.numpy() for name, value in inputs.items()})))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", METER_CASES)
def test_it_equals_the_published_code(name, form):
    case = case_of(name)
    got = run(case, form, graph_inputs(case))
    assert set(got) == {"cls_feats", "scores" if name.startswith("irtr") else "logits"}
    for each, value in got.items():
        assert value.shape == case.golden[each].shape and value.dtype == np.float32
        assert max_error(value, case.golden[each]) < FP32, each
