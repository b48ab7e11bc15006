"""The network on another device than the CPU, without one: tensors of the meta device have no values, so whatever mixes devices, or
reads a value back to the host, raises. A GPU's step that waits for no value can be captured, too."""

import pytest
import torch

from eas_export.backends.pytorch import open_network
from eas_export.core.limits import Limits
from eas_export.core.precision import PRECISIONS
from eas_export.generation.conversation import decode_inputs, empty_caches, prefill
from eas_export.networks import ops
from eas_export.networks.decoder.prompts import Prompts
from eas_export.networks.parameters import network_parameters
from eas_export.networks.prune import prune

META = torch.device("meta")


@pytest.mark.parametrize("fold", ["weights", "lowrank"])
def test_all_graphs_stay_on_the_device(lavin_case, fold):
    rows, precision = 1 if fold == "weights" else 3, PRECISIONS["fp16"]
    config, plan, limits = lavin_case.checkpoint.config, lavin_case.plan, Limits(max_batch=rows)
    parameters = network_parameters(prune(lavin_case.checkpoint, plan), plan, precision, limits)
    readers = {name: tensor.read for name, tensor in parameters.items()}
    runtime = open_network(config, plan, precision, limits, fold, readers, META)
    assert {p.device for p in runtime.sessions["prefill"].module.parameters()} == {META} == {runtime.device}

    size = config.vision.image_size
    pixels = torch.zeros(1, 3, size, size, dtype=torch.float16)
    features = runtime.run("vision", {"pixel_values": pixels})["image_features"][0]
    ids = torch.ones(rows, 7, dtype=torch.int64)
    lengths, caches = torch.full((rows,), 7), empty_caches(runtime, rows, 9)
    after = prefill(runtime, Prompts(ids, lengths, torch.full_like(ids, -1)), features, caches)
    state = {name: after[name] for name in ("router", "pooled") if name in after}
    adapters = runtime.run("fold", state) if fold == "weights" else state
    step = runtime.bind("decode", decode_inputs(ids[:, 0], lengths, caches, adapters))
    step.run()
    assert {tensor.device for tensor in step.outputs.values()} == {META}


def test_a_cache_is_written_in_place():
    cache, update = torch.zeros(2, 1, 4, 1), torch.tensor([[5.0, 6.0], [7.0, 8.0]]).view(2, 1, 2, 1)
    assert ops.scatter_cache(cache, update, torch.tensor([0, 2])) is cache
    assert cache.flatten(1).tolist() == [[5, 6, 0, 0], [0, 0, 7, 8]]
    with pytest.raises(IndexError):
        ops.scatter_cache(cache, update, torch.tensor([0, 3]))
