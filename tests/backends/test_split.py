"""A graph in parts is the graph."""

import onnx
import pytest
import torch
from conftest import golden_case, text_prompts

from eas_export.backends.onnxruntime.cpu import OnnxRuntimeSession, PartedSession, _sessions
from eas_export.backends.onnxruntime.split import split
from eas_export.backends.runtime import Runtime
from eas_export.generation.generate import generate
from eas_export.verify.decoder_samples import sample_prompts

CASE = golden_case("half_13B")


def opened(kind: type, bundle) -> Runtime:
    m = bundle.manifest
    return Runtime("onnxruntime", m.config, m.plan, m.limits, _sessions(kind, bundle, m.graphs))


@pytest.mark.parametrize("fold", ["weights", "lowrank"])
def test_parts_give_what_the_whole_gives(bundle_of, fold):
    bundle = bundle_of(CASE, fold=fold)
    prompts = sample_prompts(bundle.manifest.config, bundle.manifest.limits, 3).prompts["image"]
    forced = torch.tensor([[5], [6], [7]])
    whole, parts = (
        generate(opened(kind, bundle), prompts, forced=forced) for kind in (OnnxRuntimeSession, PartedSession)
    )
    given, wanted = ({"logits": g.logits, "features": g.image_features} | g.state | g.folded for g in (parts, whole))
    assert given.keys() == wanted.keys()
    for name, value in wanted.items():  # ONNX Runtime fuses a little less where a graph ends
        assert (given[name] - value).abs().max() < 5e-6, name


def test_no_part_has_the_weights_of_two_blocks(bundle_of):
    for fold in ("weights", "lowrank"):
        bundle = bundle_of(CASE, fold=fold)
        for name in bundle.manifest.graphs:
            model = onnx.load(bundle.graph_file(name), load_external_data=False)
            weights = [i.name for i in model.graph.initializer if i.external_data]
            parts = split(model)
            used = [{n for n in node.input if n in weights} for part in parts for node in part.model.graph.node]
            assert set().union(*used) == set(weights)
            for part in parts:
                large = {i.name.split(".ffn")[0] for i in part.model.graph.initializer if ".ffn." in i.name}
                assert len(large) <= 1
            assert sum(len(part.model.graph.node) for part in parts) == len(model.graph.node)


def test_a_part_that_fails_names_its_graph(bundle_of):
    from eas_export.core.errors import UserError

    runtime = opened(PartedSession, bundle_of(CASE))
    with pytest.raises(UserError, match=r"ONNX Runtime failed to run the graph .*graph prefill"):
        generate(
            Runtime("x", runtime.config, runtime.plan, runtime.limits, runtime.sessions, empty=zeros),
            text_prompts([1]),
            1,
        )


def zeros(sizes, dtype):
    """Logits of a shape that no graph gives."""
    return (
        torch.zeros(*sizes[:-1], sizes[-1] + 1, dtype=dtype)
        if len(sizes) == 2 and dtype == torch.float32
        else torch.empty(sizes, dtype=dtype)
    )
