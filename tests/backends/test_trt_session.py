"""Sessions over engines, with ONNX Runtime in the engines' place (tests/engine_stand_in.py), and what is refused before one is opened."""

import gc
import weakref

import numpy as np
import pytest
import torch
from conftest import RUN_HERE, golden_case, max_error, text_prompts
from engine_stand_in import open_stand_in, trt
from test_golden import check_against_golden

from eas_export.backends.opening import open_runtime
from eas_export.backends.tensorrt import engine_graph, session
from eas_export.backends.tensorrt.engine_graph import engine_spec
from eas_export.backends.tensorrt.flavor import get_flavor
from eas_export.backends.tensorrt.session import EngineSession, require_same
from eas_export.bundle.manifest import Target
from eas_export.core.errors import UserError
from eas_export.generation.conversation import Conversation
from eas_export.generation.generate import generate
from eas_export.generation.stream import answer

CASE = golden_case("half_13B")
FLAVOR = get_flavor("tensorrt-rtx")


@pytest.fixture(autouse=True)
def bind_all(monkeypatch):
    """At the goldens' sizes no weight is large enough by itself."""
    monkeypatch.setattr(engine_graph, "MIN_BOUND_BYTES", 256)


@pytest.mark.parametrize("weights", ["bound", "embedded"])
@pytest.mark.parametrize("fold, run", [("weights", "img1"), ("weights", "txt1"), ("lowrank", "b3")])
def test_rewritten_graphs_equal_the_published_code(lavin_case, bundle_of, fold, run, weights):
    """A cache of fixed length, a mask for its lengths, scaled queries, weights as inputs: the same function."""
    inputs = lavin_case.prompts(run)
    runtime = open_stand_in(bundle_of(lavin_case, fold=fold), weights).runtime
    check_against_golden(lavin_case, run, generate(runtime, inputs.prompts, forced=inputs.forced_tokens))


def test_all_engines_share_one_copy_of_the_weights(bundle_of):
    bundle = bundle_of(CASE)
    stand_in = open_stand_in(bundle)
    addresses: dict[str, set[int]] = {}
    for engine in stand_in.engines.values():
        for name in set(engine.inputs) & set(bundle.store.entries):
            addresses.setdefault(name, set()).add(engine.contexts[0].addresses[name])
    assert all(len(each) == 1 for each in addresses.values())
    shared = [n for n in addresses if sum(n in engine.inputs for engine in stand_in.engines.values()) > 1]
    assert {"embed.weight", "head.weight"} <= set(shared)
    large = {name for name, entry in bundle.store.entries.items() if entry.nbytes >= 256}
    assert set(addresses) == large


def test_a_step_is_bound_once(bundle_of):
    """After the first step nothing but the launch: no address and no shape is told again."""
    stand_in = open_stand_in(bundle_of(CASE, fold="lowrank"))
    conversation = Conversation(stand_in.runtime, text_prompts([1, 2, 3], [4, 5]), room=6)
    (context,) = stand_in.engines["decode"].contexts
    counts = []
    for token in range(4):
        conversation.feed(torch.tensor([token, token + 1]))
        counts.append(dict(context.told))
    assert [c["execute_async_v3"] for c in counts] == [1, 2, 3, 4]
    assert len({(c["set_input_shape"], c["set_tensor_address"]) for c in counts}) == 1


def test_two_conversations_take_turns(bundle_of):
    """Each is bound to its own caches; changing over tells the addresses again."""
    bundle = bundle_of(CASE, fold="lowrank")
    runtime = open_stand_in(bundle).runtime
    first, second = (Conversation(runtime, text_prompts(row), room=8) for row in ([1, 2, 3], [4, 5]))
    said = {id(c): [] for c in (first, second)}
    for _ in range(3):
        for conversation in (first, second):
            said[id(conversation)] += answer(conversation, 2)[0].tokens
    for conversation, row in ((first, [1, 2, 3]), (second, [4, 5])):
        alone = Conversation(open_runtime(bundle, "onnxruntime"), text_prompts(row), room=8)
        assert said[id(conversation)] == list(answer(alone, 6)[0].tokens)


def test_a_finished_conversation_gives_its_memory_back_at_once(bundle_of):
    """The session it ran on last does not hold it, nor do its parts each other."""
    runtime = open_stand_in(bundle_of(CASE, fold="lowrank")).runtime
    gc.disable()
    try:
        conversation = Conversation(runtime, text_prompts([1, 2, 3]))
        conversation.feed(torch.tensor([1]))
        caches = [weakref.ref(cache) for cache in conversation._caches.values()]
        del conversation
        assert not any(cache() is not None for cache in caches)
    finally:
        gc.enable()


def test_caches_are_as_long_as_the_engines_have_them(bundle_of):
    """However few tokens are asked for, and reserving more moves nothing."""
    bundle = bundle_of(CASE, fold="lowrank")
    stand_in = open_stand_in(bundle)
    conversation = Conversation(stand_in.runtime, text_prompts([1, 2, 3]))
    shapes = stand_in.engines["prefill"].contexts[0].shapes
    layer = CASE.plan.kept[0]
    assert shapes[f"past_key_values.{layer}.key"][2] == bundle.manifest.limits.max_tokens
    conversation.feed(torch.tensor([1]))
    before = dict(stand_in.engines["decode"].contexts[0].addresses)
    conversation.reserve(100)
    conversation.feed(torch.tensor([2]))
    after = stand_in.engines["decode"].contexts[0].addresses
    assert {n: a for n, a in after.items() if n.startswith("past_")} == {
        n: a for n, a in before.items() if n.startswith("past_")
    }
    # updated in place: what goes in and what comes out is one buffer
    assert all(after[out] == after[given] for out, given in bundle.manifest.graphs["decode"].aliases.items())


@pytest.mark.parametrize("backend", RUN_HERE)
def test_sizes_beyond_the_limits_name_graph_input_shape_and_option(bundle_of, backend):
    runtime = open_runtime(bundle_of(CASE, fold="lowrank"), backend)
    check_refusal(runtime)


def test_engines_refuse_what_their_profiles_do_not_hold(bundle_of):
    check_refusal(open_stand_in(bundle_of(CASE, fold="lowrank")).runtime)


def check_refusal(runtime) -> None:
    spec = runtime.sessions["vision"].spec
    pixels = torch.zeros(9, *spec.inputs[0].shape[1:])
    with pytest.raises(UserError) as refusal:
        runtime.run("vision", {"pixel_values": pixels})
    side = runtime.config.vision.image_size
    assert refusal.value.where == "graph vision"
    assert refusal.value.what == f"input pixel_values has shape [9, 3, {side}, {side}]: N is 9, out of range 1..8"
    assert "--max-images" in refusal.value.fix


def test_an_engine_of_another_graph_is_refused(bundle_of):
    stand_in = open_stand_in(bundle_of(CASE))
    engine, m = stand_in.engines["decode"], bundle_of(CASE).manifest
    with pytest.raises(UserError, match="does not match the graph"):
        EngineSession(trt, FLAVOR, engine, engine_spec(m.graphs["prefill"]), {})
    engine.aliases = {}  # one that copies its caches
    with pytest.raises(UserError, match=r"output present\.\d.* does not match the graph"):
        EngineSession(trt, FLAVOR, engine, engine_spec(m.graphs["decode"]), {})


@pytest.mark.parametrize(
    "version, capability, what, fix",
    [
        (
            "1.8.0",
            "8.6",
            "were built by TensorRT-RTX 1.7.1, but 1.8.0 is installed",
            "install TensorRT-RTX 1.7.1, or build again with --force",
        ),
        ("1.7.1", None, "PyTorch sees none here", "--backend onnxruntime"),
        ("1.7.1", "9.0", "are for compute capability 8.6, 12.0, but this GPU has 9.0", "--compute-capability 9.0"),
    ],
)
def test_a_mismatch_is_one_line_with_the_remedy(bundle_of, version, capability, what, fix):
    target = Target(backend="tensorrt-rtx", version="1.7.1", compute_capabilities=("8.6", "12.0"), weights="bound")
    bundle = bundle_of(CASE)
    with pytest.raises(UserError) as refusal:
        require_same(target, version, capability, FLAVOR, bundle)
    assert what in refusal.value.what and fix in refusal.value.fix and "\n" not in str(refusal.value)
    require_same(target, "1.7.1", "12.0", FLAVOR, bundle)


@pytest.mark.parametrize(
    "capability, runs, status",
    [
        ("8.9", True, "on this GPU (8.9)"),
        ("9.0", False, "cannot run them on this GPU (compute capability 9.0)"),
        (None, False, "PyTorch sees no GPU here"),
    ],
)
def test_doctor_tells_a_gpu_that_is_not_supported(monkeypatch, capability, runs, status):
    monkeypatch.setattr(session, "_capability", lambda: capability)
    found = session.health(FLAVOR)
    assert found.runs is runs and status in found.status


def test_a_bundle_without_engines_says_how_to_get_them(bundle_of, tmp_path, refused):
    npz = tmp_path / "x.npz"
    np.savez(npz, **CASE.arrays("img1"))
    said = refused("run", bundle_of(CASE).path, "--inputs", npz, "--backend", "tensorrt-rtx")
    assert "has no TensorRT-RTX engines" in said and "build with --backend tensorrt-rtx and --force" in said


def test_logits_of_waiting_rows_stay(bundle_of):
    runtime = open_stand_in(bundle_of(CASE, fold="lowrank")).runtime
    conversation = Conversation(runtime, text_prompts([1, 2, 3], [4, 5]), room=6)
    before = conversation.logits.clone()
    conversation.feed(torch.tensor([7, 7]), torch.tensor([True, False]))
    assert conversation.logits[1].equal(before[1]) and max_error(conversation.logits[0], before[0]) > 1e-3
