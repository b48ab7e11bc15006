"""METER's golden cases: what the published code gave, and ways to run the encode graph on a case."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch

from eas_export.bundle.bundle import Bundle
from eas_export.core.limits import Limits
from eas_export.core.plan import make_plan
from eas_export.core.precision import PRECISIONS
from eas_export.export.export_graph import export_graph
from eas_export.families import load_checkpoint
from eas_export.families.contract import Sources
from eas_export.networks.cross_encoder.modules import unfolded_cross_encoder
from eas_export.networks.cross_encoder.parameters import unfolded_parameters
from eas_export.networks.graphs import graphs_of
from eas_export.networks.network import build_network, load_parameters
from eas_export.networks.parameters import network_parameters
from eas_export.networks.prune import prune
from eas_export.networks.skeleton import skeleton

GOLDEN = Path(__file__).parent / "golden"
METER_CASES = ("vqa_skip10", "vqa_small_ln", "nlvr2_skip10", "irtr_skip10")
PLAIN_CASES = ("comparators/meter/vqa_full", "comparators/meter/nlvr2_full")
DAS_CASES = tuple(f"comparators/meter-das/{name}" for name in ("vqa_train", "vqa_none", "irtr_search"))
EVERY_CASE = (*METER_CASES, *PLAIN_CASES, *DAS_CASES)


@dataclass(frozen=True)
class MeterCase:
    """One Lightning checkpoint of the published format with what the published code gave on it."""

    name: str

    @property
    def folder(self) -> Path:
        """EAS's are named without theirs."""
        return GOLDEN / ("" if "/" in self.name else "meter") / self.name

    @property
    def file(self) -> Path:
        return self.folder / "last.ckpt"

    @property
    def system(self) -> str:
        """Its name for users."""
        return {"meter": "METER", "meter-das": "METER-DAS"}.get(self.name.split("/")[-2:][0], "METER-EAS")

    @cached_property
    def meta(self) -> dict:
        return json.loads((self.folder / "meta.json").read_text())

    @cached_property
    def inputs(self) -> dict[str, np.ndarray]:
        return dict(np.load(self.folder / "inputs.npz"))

    @cached_property
    def golden(self) -> dict[str, np.ndarray]:
        return dict(np.load(self.folder / "golden.npz"))

    @property
    def skip(self) -> list[int]:
        return self.meta["skip_list"]

    @property
    def given_skip(self) -> list[int] | None:
        """What --skip must be given; None where the checkpoint says it."""
        return self.skip if self.name in METER_CASES else None

    @property
    def text_heads(self) -> int:
        return self.meta["sizes"]["text_heads"]

    @property
    def head(self) -> str:
        """The graph's output beside cls_feats."""
        return "scores" if self.meta["task"] == "irtr" else "logits"

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The case's inputs in the form of `eas-export run --inputs`."""
        names = {"pixels": "pixel_values", "pixels_0": "pixel_values", "pixels_1": "pixel_values_1"}
        return {names.get(name, name): value for name, value in self.inputs.items()}

    def images(self, row: int) -> list[np.ndarray]:
        """The image of a row, or both of NLVR2's; retrieval may have one image for all its texts."""
        if "pixels" not in self.inputs:
            return [self.inputs["pixels_0"][row], self.inputs["pixels_1"][row]]
        return [self.inputs["pixels"][row % len(self.inputs["pixels"])]]


LIMITS = Limits(max_batch=4)
Arrays = dict[str, np.ndarray]


def opened(file: Path, skip: list[int], text_heads: int, reading: str = "published"):
    """The pruned checkpoint, its plan and its graph."""
    checkpoint = load_checkpoint(Sources(file, text_heads=text_heads, image_cross_reading=reading))
    plan = make_plan(checkpoint.config.sites, ",".join(map(str, skip)) or "none", "--skip")
    return prune(checkpoint, plan), plan, graphs_of(checkpoint.config, "offline")["encode"]


def graph_inputs(case: MeterCase) -> Arrays:
    """A case's inputs by the encode graph's names."""
    inputs = dict(case.arrays)
    if case.meta["task"] == "irtr":
        rows = len(inputs["text_ids"])
        inputs |= {"text_index": np.arange(rows), "image_index": np.arange(rows) % len(inputs["pixel_values"])}
    return inputs


@torch.no_grad()
def run_form(form: str, checkpoint, plan, graph, inputs: Arrays) -> Arrays:
    """What a form of the network gives: "folded" or "unfolded" in PyTorch, or the exported graph on "onnxruntime"."""
    config, precision = checkpoint.config, PRECISIONS["fp32"]
    parameters = network_parameters(checkpoint, plan, precision, LIMITS)
    if form == "onnxruntime":
        arrays = {name: tensor.read().numpy() for name, tensor in parameters.items()}
        return run_onnx(export_graph(graph, config, plan, precision, LIMITS)[1], arrays, inputs)
    if form == "unfolded":
        with skeleton():
            network = unfolded_cross_encoder(config, plan).eval()
        parameters = unfolded_parameters(checkpoint, plan)
    else:
        network = build_network(config, plan, precision, LIMITS)
    load_parameters(network, {name: tensor.read for name, tensor in parameters.items()})
    got = graph.module(network)({name: torch.from_numpy(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in got.items()}


def run_onnx(model: ir.Model, parameters: Arrays, inputs: Arrays) -> Arrays:
    """An exported graph with these parameters, by their names in the store."""
    for name, value in model.graph.initializers.items():
        if value.const_value is None:
            value.const_value = ir.tensor(parameters[name])
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs)))


def run_bundle(bundle: Bundle, inputs: Arrays) -> Arrays:
    """A bundle's encode graph as it lies there, without anything of ours."""
    session = ort.InferenceSession(bundle.graph_file("encode"), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs)))
