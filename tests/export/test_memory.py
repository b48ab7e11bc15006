"""What graphs need of memory, against what the exported graphs hold."""

import json

import onnx
import pytest
from conftest import golden_case

from eas_export.core.precision import PRECISIONS
from eas_export.networks.graphs import graphs_of
from eas_export.networks.memory import device_memory


@pytest.mark.parametrize("fold", ["weights", "lowrank"])
def test_graphs_read_what_their_rows_say(lavin_case, bundle_of, fold):
    bundle = bundle_of(lavin_case, "fp16", fold) if fold == "lowrank" else bundle_of(lavin_case, "fp16")
    entries, plan = bundle.store.entries, bundle.manifest.plan
    for name, graph in graphs_of(bundle.manifest.config, fold).items():
        model = onnx.load(bundle.graph_file(name), load_external_data=False).graph
        held = {i.name for i in model.initializer if i.external_data}
        assert held == {parameter for parameter in entries if graph.reads(plan, parameter)}, name


def test_a_gpus_memory_for_both_ways(bundle_of, command):
    bundle = bundle_of(golden_case("half_13B"), "fp16")
    m, nbytes = bundle.manifest, {name: entry.nbytes for name, entry in bundle.store.entries.items()}
    memory = device_memory(m.config, m.plan, PRECISIONS["fp16"], m.limits, m.fold, nbytes)
    graphs = [onnx.load(bundle.graph_file(name), load_external_data=False).graph for name in m.graphs]
    each = [sum(nbytes[i.name] for i in graph.initializer if i.external_data) for graph in graphs]
    assert memory.bound == sum(nbytes.values()) and memory.embedded == sum(each) and memory.largest == max(each)
    folded = sum(t.shape[0] * (t.shape[1] if len(t.shape) > 1 else 1) * 2 for t in m.graphs["fold"].outputs)
    caches = 2 * len(m.plan.kept) * m.config.dim * 2 * m.limits.max_tokens
    assert memory.requests == folded + caches
    code, text, _ = command("inspect", bundle.path, "--json")
    assert code == 0 and json.loads(text)["device_memory"] == memory.model_dump()
