"""An independent witness of the recorder: torch.export and PyTorch's own ONNX exporter on the same modules, with attention and the caches
written in another way. Both graphs run on ONNX Runtime, at sizes other than those they were made at, and give the same numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from conftest import golden_case, llava_golden_case
from meter_cases import LIMITS, Arrays, MeterCase, opened, run_onnx
from torch import Tensor, nn

from eas_export.core.configs import AnyConfig
from eas_export.core.graph_spec import GraphSpec
from eas_export.core.plan import SkipPlan, make_plan
from eas_export.core.precision import PRECISIONS
from eas_export.export import recorder
from eas_export.export.export_graph import export_graph
from eas_export.export.rules import RULES
from eas_export.networks import ops
from eas_export.networks.contract import Graph
from eas_export.networks.graphs import graphs_of
from eas_export.networks.network import build_network, store_name

FP32 = PRECISIONS["fp32"]
SAME = 2e-5  # largest error; sums are rounded in other orders
EXPORTED_AT = {"B": 2, "S": 5, "T": 11, "M": 3, "N": 4}  # torch.export takes equal sizes, and 1, for fixed ones
LIMITS = LIMITS.model_copy(update={"max_images": 2})


# The three operators in which a graph and a network differ most, as PyTorch has them


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool, mask: Tensor | None = None) -> Tensor:
    return F.scaled_dot_product_attention(q, *_wide(q, k, v), attn_mask=mask, is_causal=causal)


def attend_cached(q: Tensor, k_cache: Tensor, v_cache: Tensor, lengths: Tensor) -> Tensor:
    read = torch.arange(k_cache.shape[2]) < lengths[:, None, None, None]  # [B, 1, 1, T]
    return F.scaled_dot_product_attention(q, *_wide(q, k_cache, v_cache), attn_mask=read)


def scatter_cache(cache: Tensor, update: Tensor, slots: Tensor) -> Tensor:
    places = torch.arange(cache.shape[2]) - slots[:, None]  # [B, T]: which row of the update is in a slot
    new = (places >= 0) & (places < update.shape[2])
    rows = places.clamp(min=0).minimum(torch.full_like(places, 1) * (update.shape[2] - 1))
    taken = update.gather(2, rows[:, None, :, None].expand(-1, cache.shape[1], -1, cache.shape[3]))
    return torch.where(new[:, None, :, None], taken, cache)


def _wide(q: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
    return tuple(part.repeat_interleave(q.shape[1] // part.shape[1], 1) for part in parts)


@dataclass(frozen=True)
class Subject:
    """One graph of a golden model's form, with few layers and weights by chance."""

    config: AnyConfig
    plan: SkipPlan
    graph: Graph

    @cached_property
    def spec(self) -> GraphSpec:
        return self.graph.spec(self.config, self.plan, FP32, LIMITS)

    @cached_property
    def network(self) -> nn.Module:
        random = torch.Generator().manual_seed(0)
        network = build_network(self.config, self.plan, FP32, LIMITS).to_empty(device="cpu")
        for parameter in network.parameters():
            parameter.normal_(0, 0.3, generator=random)
        return network

    def recorded(self) -> Callable[[Arrays], Arrays]:
        """Runs the graph of the recorder."""
        _, model = export_graph(self.graph, self.config, self.plan, FP32, LIMITS)
        parameters = {store_name(name): parameter.numpy() for name, parameter in self.network.named_parameters()}
        return lambda inputs: run_onnx(model, parameters, inputs)

    def exported(self) -> Callable[[Arrays], Arrays]:
        """Runs the graph of torch.export."""
        free = {name: torch.export.Dim(name, min=1, max=1 << 20) for name in self.spec.dims}
        inputs, names = self.spec.inputs, [tensor.name for tensor in self.spec.outputs]
        shapes = {
            t.name: {axis: free[size] for axis, size in enumerate(t.shape) if isinstance(size, str)} for t in inputs
        }
        example = {name: torch.from_numpy(array) for name, array in self.draw(EXPORTED_AT).items()}
        with pytest.MonkeyPatch.context() as patch, torch.no_grad():
            for own in (attend, attend_cached, scatter_cache):
                patch.setattr(ops, own.__name__, own)
            module = self.graph.module(self.network)
            program = torch.export.export(module, (example,), dynamic_shapes={"inputs": shapes})
            model = torch.onnx.export(
                program,
                dynamo=True,
                optimize=False,
                verbose=False,
                input_names=[t.name for t in inputs],
                output_names=names,
            )
        session = ort.InferenceSession(model.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
        return lambda inputs: dict(zip(names, session.run(names, inputs)))

    def draw(self, sizes: dict[str, int]) -> Arrays:
        """Inputs of these sizes: numbers by chance, ids that are there, prompts of several lengths with images in them."""
        random, config = np.random.default_rng(0), self.config
        special = {
            "input_ids": lambda shape: random.integers(0, config.vocab_size, shape),
            "text_ids": lambda shape: random.integers(2, config.text.vocab_size, shape),
            "text_masks": lambda shape: 1 - np.tri(*shape, k=-2, dtype=np.int64)[:, ::-1],
            "text_index": lambda shape: np.arange(*shape) % sizes["M"],
            "image_index": lambda shape: np.arange(*shape) % sizes["N"] if len(shape) == 1 else self.places(sizes),
            "prompt_lengths": lambda shape: np.maximum(sizes["S"] - np.arange(*shape), 1),
            "position_ids": lambda shape: np.arange(shape[0])[:, None] % sizes["T"],
            "cache_lengths": lambda shape: np.arange(*shape) % sizes["T"],
            "router": lambda shape: random.dirichlet([1, 1], shape[:-1]).astype(np.float32),
        }
        return {
            t.name: special.get(t.name, lambda shape: random.normal(size=shape).astype(np.float32))(t.sizes(sizes))
            for t in self.spec.inputs
        }

    def places(self, sizes: dict[str, int]) -> np.ndarray:
        """image_index [B, S]: a token of text, every image feature, text again; the last row has text alone, unless it is the only one."""
        after = np.arange(sizes["S"]) - 1
        index = np.where(after < sizes["M"], after, -1) * np.ones((sizes["B"], 1), np.int64)
        index[1:][-1:] = -1
        return index


def _lavin() -> tuple[AnyConfig, SkipPlan]:
    config = golden_case("first").checkpoint.config
    vision = config.vision.model_copy(update={"blocks": 1, "feature_every": 1})
    return config.model_copy(update={"layers": 2, "vision": vision}), make_plan(2, "0", "--skip")


def _llava() -> tuple[AnyConfig, SkipPlan]:
    """With fewer heads of keys and values than of queries."""
    config = llava_golden_case("a").checkpoint.config
    vision = config.vision.model_copy(update={"blocks": 1})
    return config.model_copy(update={"layers": 2, "kv_heads": 2, "vision": vision}), make_plan(2, "1", "--skip")


def _meter(case: str) -> tuple[AnyConfig, SkipPlan]:
    config = opened(MeterCase(case).file, [], MeterCase(case).text_heads)[0].config
    text, image = (config.text.model_copy(update={"layers": 1}), config.image.model_copy(update={"blocks": 1}))
    return config.model_copy(update={"layers": 1, "text": text, "image": image}), make_plan(4, "1,2", "--skip")


SYSTEMS = {
    "lavin": _lavin,
    "llava": _llava,
    "meter-vqa": lambda: _meter("vqa_skip10"),
    "meter-retrieval": lambda: _meter("irtr_skip10"),
}
GRAPHS = (
    *("lavin weights vision", "lavin weights prefill", "lavin weights fold", "lavin weights decode"),
    *("lavin lowrank decode", "llava weights vision", "llava weights prefill", "llava lowrank decode"),
    *("meter-vqa offline encode", "meter-retrieval offline encode"),
)


def subject(name: str) -> Subject:
    system, fold, graph = name.split()
    config, plan = SYSTEMS[system]()
    return Subject(config, plan, graphs_of(config, fold)[graph])


def require_same(one: Subject, got: Callable[[Arrays], Arrays], want: Callable[[Arrays], Arrays]) -> None:
    """At sizes that neither was made at: prompts with the features of two images, and the smallest that there are."""
    features = 2 * one.config.vision.tokens if hasattr(one.config, "vision") else 4
    rows = 3 if "B" in one.spec.dims else 1  # folded weights are one prompt's
    for sizes in (
        {"B": rows, "S": features + 3, "T": features + 7, "M": features, "N": 2},
        {"B": 1, "S": 1, "T": 2, "M": 1, "N": 1},
    ):
        inputs = one.draw(sizes)
        results, wanted = got(inputs), want(inputs)
        assert list(results) == list(wanted)
        for name, array in wanted.items():
            assert results[name].shape == array.shape and results[name].dtype == array.dtype, name
            assert np.abs(results[name] - array).max() <= SAME * np.abs(array).max(), name


# graph -> wrong rules, each of which has to be seen: (function, rule)
PLANTED = {
    "lavin weights prefill": (
        (torch.softmax, lambda w, x, dim: RULES[torch.softmax](w, x, 0)),
        (ops.attend, lambda w, q, k, v, causal, mask=None: RULES[ops.attend](w, q, k, v, False, mask)),
    ),
    "llava lowrank decode": (
        (ops.attend_cached, lambda w, q, k, v, lengths: RULES[ops.attend](w, q, k, v, False)),
        (ops.scatter_cache, lambda w, cache, update, slots: RULES[ops.scatter_cache](w, cache, update, None)),
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_recorded_and_exported_graphs_give_the_same(name):
    one = subject(name)
    exported = one.exported()
    require_same(one, one.recorded(), exported)
    for function, wrong in PLANTED.get(name, ()):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(AssertionError):
            patch.setattr(recorder, "RULES", RULES | {function: wrong})
            require_same(one, one.recorded(), exported)
