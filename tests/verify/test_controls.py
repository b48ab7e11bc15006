"""Known faults, planted: the copy is whole but for the fault, and the fault shows where it was planted and not before."""

import errno
import os
import shutil
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from conftest import LAVIN_CASES, golden_case, max_error, text_prompts
from hf_models import make_folder

from eas_export.backends.opening import open_low_memory_runtime, open_runtime
from eas_export.bundle.bundle import open_bundle, write_manifest
from eas_export.bundle.manifest import MANIFEST, TASK, WEIGHTS, EngineRecord, FileRecord, Target
from eas_export.bundle.store import Store
from eas_export.core.errors import InternalError
from eas_export.core.plan import make_plan
from eas_export.generation.conversation import decode_inputs, empty_caches, encode_images
from eas_export.generation.generate import generate
from eas_export.networks import ops
from eas_export.networks.fold import mix, pooled_shift, shifted_bias
from eas_export.pipeline import build
from eas_export.system.hashing import sha256_of
from eas_export.verify.controls import Place, plant
from eas_export.verify.decoder_faults import CONTROLS
from eas_export.verify.decoder_samples import sample_prompts

FOLDS = ("weights", "lowrank")
BUNDLES = [(name, "fp32", fold, 24) for name in LAVIN_CASES for fold in FOLDS] + [
    ("half_13B", "fp16", "weights", 24),
    ("first", "fp16", "lowrank", 21),
    ("half_13B", "bf16", "weights", 24),
    ("half_13B", "fp32", "lowrank", 21),
]
HALF = ("half_13B", "fp32", "weights", 24)


@pytest.fixture(scope="module")
def sound(bundle_of, tmp_path_factory):
    """sound(case, precision, fold, opset) -> a bundle, one prompt's inputs of each graph that a fault may be in, and what they
    give, opened whole and in parts. It is of this module alone: onnx.checker refuses weights that have links."""

    @cache
    def get(name, *options):
        shared = bundle_of(golden_case(name), *options).path
        bundle = open_bundle(shutil.copytree(shared, tmp_path_factory.mktemp("sound") / shared.name))
        runtime = open_runtime(bundle, "onnxruntime")
        prompt = sample_prompts(runtime.config, runtime.limits, 1).prompts["text"]
        caches = empty_caches(runtime, 1, 20)
        inputs = {
            "prefill": {
                "input_ids": prompt.input_ids,
                "image_features": encode_images(runtime, prompt),
                "image_index": prompt.image_index,
                "prompt_lengths": prompt.prompt_lengths,
            }
            | caches
        }
        outputs = run(runtime, inputs)
        state = {key: value for key, value in outputs["prefill"].items() if key in ("router", "pooled")}
        caches = {key: outputs["prefill"][key.replace("past_key_values", "present")] for key in caches}
        if "fold" in runtime.sessions:
            inputs["fold"] = state
            state = run(runtime, {"fold": state})["fold"]
        inputs["decode"] = decode_inputs(torch.tensor([5]), prompt.prompt_lengths, caches, state)
        in_parts = run(open_low_memory_runtime(bundle, "onnxruntime"), inputs)
        return SimpleNamespace(bundle=bundle, inputs=inputs, outputs=run(runtime, inputs), in_parts=in_parts)

    return get


def run(runtime, inputs: dict) -> dict:
    """Each graph on its own inputs, which stay as they are."""
    return {
        graph: runtime.run(graph, {name: value.clone() for name, value in given.items()})
        for graph, given in inputs.items()
    }


def differing(got: dict, want: dict) -> dict[str, set[str]]:
    """Graph -> its outputs that differ in any bit; the fold state's by layer: "router.3" """
    found = {}
    for graph, outputs in want.items():
        found[graph] = {name for name, value in outputs.items() if not value.equal(got[graph][name])}
        for name in found[graph] & {"router", "pooled"}:
            rows = (outputs[name] != got[graph][name]).any(-1).any(0)
            found[graph] = found[graph] - {name} | {f"{name}.{i}" for i in rows.nonzero().flatten().tolist()}
    return {graph: names for graph, names in found.items() if names}


def files(bundle) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in bundle.path.iterdir() if path.is_file()}


def expected(name: str, m) -> dict[str, set[str]]:
    """What must differ: everything that depends on the fault, and nothing else."""
    layer, plan = CONTROLS[name].place(m).layer, m.plan
    caches = {f"present.{i}.{part}" for i in plan.kept if i > layer for part in ("key", "value")}
    first = "ffn.gate" if layer in plan.skipped else "attention.q"
    folded = {f"folded.layers.{layer}.{first}.{kind}" for kind in ("weight", "bias")}
    state = {f"router.{i}" for i in range(layer + 1, plan.sites)}
    state |= {f"pooled.{row}" for row, i in enumerate(plan.skipped) if i > layer}
    own = {f"present.{layer}.key", f"present.{layer}.value"} if layer in plan.kept else set()
    if name == "published bias":
        return {"fold": {f"folded.layers.{layer}.{first}.bias"}}
    if name.startswith("router"):
        names = {t.name for t in m.graphs.get("fold", m.graphs["decode"]).outputs}
        if "fold" in m.graphs:
            return {"fold": {each for each in names if each.startswith(f"folded.layers.{layer}.")}}
        return {"decode": caches | own | {"logits"}}
    if name == "transposed weight":
        rest = {"fold": folded} if "fold" in m.graphs else {"decode": caches | {"logits"}}
        return {"prefill": state | caches | {"logits"}} | rest
    return {"decode": caches | {f"present.{layer}.key", "logits"}}


@pytest.mark.parametrize("key", BUNDLES, ids=lambda key: "-".join(map(str, key)))
def test_a_fault_is_in_its_place_and_nowhere_else(key, sound, tmp_path):
    case = sound(*key)
    bundle, m, before = case.bundle, case.bundle.manifest, files(case.bundle)
    for name in [name for name, why in reasons(m).items() if not why]:
        copy, want = plant(bundle, CONTROLS[name], tmp_path / name), expected(name, m)
        assert open_bundle(copy.path, check=True).manifest == copy.manifest
        assert files(bundle) == before
        assert CONTROLS[name].place(m).graph in want
        assert differing(run(open_runtime(copy, "onnxruntime"), case.inputs), case.outputs) == want
        assert differing(run(open_low_memory_runtime(copy, "onnxruntime"), case.inputs), case.in_parts) == want
        changed = {each for each, sha256 in files(copy).items() if before.get(each) != sha256} - {TASK}
        assert changed == {MANIFEST, *(f"{graph}.onnx" for graph in want)}
        assert (TASK in copy.manifest.files) == (name == "transposed weight")


@pytest.mark.parametrize("name", ["half_13B", "noskip"])
def test_the_published_bias_is_made_of_the_weight_that_was_overwritten(name, sound, tmp_path):
    """b' = (W R)(U m1), of a skipped layer and of a kept one"""
    case = sound(name, "fp32", "weights", 24)
    control, m, store = CONTROLS["published bias"], case.bundle.manifest, case.bundle.store
    layer = control.place(m).layer
    state, half = case.inputs["fold"], store.entries[f"layers.{layer}.adapter.up"].shape[1] // 2
    bias = store.tensor(f"layers.{layer}.adapter.down.bias")
    if layer in m.plan.skipped:
        bias = shifted_bias(bias, pooled_shift(state["pooled"][0, m.plan.skipped.index(layer)]))
    mixed = mix(store.tensor(f"layers.{layer}.adapter.up"), state["router"][0, layer]) @ bias[:half]
    part = f"folded.layers.{layer}.{'ffn.gate' if layer in m.plan.skipped else 'attention.q'}"
    got = run(open_runtime(plant(case.bundle, control, tmp_path / "copy"), "onnxruntime"), case.inputs)["fold"]
    assert (got[f"{part}.bias"] - got[f"{part}.weight"] @ mixed).abs().max() < 1e-5
    assert (got[f"{part}.bias"] - case.outputs["fold"][f"{part}.bias"]).abs().max() > 0.1


def test_faults_beside_biases_and_where_layers_have_no_positions(tmp_path):
    """b' = b + (W R)(U m1); and of the kept layers 0 and 1, which would be taken, 1 has no RoPE"""
    folder = make_folder(tmp_path / "ckpt", "smollm3", (2, 3), attention_bias=True)
    bundle = build(folder, tmp_path / "out", verify=False, max_prompt=32, max_tokens=48).bundle
    place, plan = CONTROLS["position off by one"].place, make_plan(4, "0,2,3", "test")
    assert place(bundle.manifest) == Place("decode", 0)
    assert place(bundle.manifest.model_copy(update={"plan": plan})) == "no kept attention knows positions"
    planted = [plant(bundle, CONTROLS[name], tmp_path / name) for name in ("published bias", "position off by one")]
    forced = torch.tensor([[4], [17]])
    sound, bias, position = (
        generate(open_runtime(each, "onnxruntime"), text_prompts([5, 9, 30, 7]), forced=forced)
        for each in (bundle, *planted)
    )
    part, half = "layers.1.attention.q", bundle.store.entries["layers.1.adapter.up"].shape[1] // 2
    mixed = mix(bundle.store.tensor("layers.1.adapter.up"), sound.state["router"][0, 1])
    mixed = mixed @ bundle.store.tensor("layers.1.adapter.down.bias")[:half]
    published = bundle.store.tensor(f"{part}.bias") + bias.folded[f"folded.{part}.weight"] @ mixed
    assert max_error(bias.folded[f"folded.{part}.bias"], published) < 1e-5
    assert max_error(bias.folded[f"folded.{part}.bias"], sound.folded[f"folded.{part}.bias"]) > 0.1
    assert position.logits[0].equal(sound.logits[0]) and max_error(position.logits[1], sound.logits[1]) > 1e-2


@pytest.mark.parametrize("key", [HALF, ("half_13B", "fp32", "lowrank", 21)], ids=["24", "21"])
def test_the_new_key_goes_where_the_fault_says(key, sound, tmp_path):
    case = sound(*key)
    m, given = case.bundle.manifest, case.inputs["decode"]
    layer, slot = CONTROLS["stale cache slot"].place(m).layer, int(given["cache_lengths"])
    name, key_before = f"present.{layer}.key", given[f"past_key_values.{layer}.key"]

    def key_after(control: str, inputs: dict) -> torch.Tensor:
        copy = plant(case.bundle, CONTROLS[control], tmp_path / f"{control} {int(inputs['cache_lengths'])}")
        return run(open_runtime(copy, "onnxruntime"), {"decode": inputs})["decode"][name]

    sound_key = case.outputs["decode"][name]
    stale = key_after("stale cache slot", given)
    assert stale[:, :, slot - 1].equal(sound_key[:, :, slot]) and stale[:, :, slot].equal(key_before[:, :, slot])
    first = key_after("stale cache slot", given | {"cache_lengths": torch.tensor([0])})
    assert not first[:, :, 0].equal(key_before[:, :, 0]) and first[:, :, 1:].equal(key_before[:, :, 1:])

    later = key_after("position off by one", given)
    tables = [case.bundle.store.tensor(f"rope.{each}") for each in ("cos", "sin")]
    turned = ops.rotate(sound_key[:, :, slot : slot + 1], *tables, torch.tensor([[1]]), m.config.rope_interleaved)
    assert (later[:, :, slot : slot + 1] - turned).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["half_13B", "all"])
def test_a_transposed_weight_is_in_the_store_of_every_graph(name, sound, tmp_path):
    """Planted again, into a copy that has a task's store already: a square one is what it was."""
    case = sound(name, "fp32", "weights", 24)
    control, m = CONTROLS["transposed weight"], case.bundle.manifest
    layer = control.place(m).layer
    weight = f"layers.{layer}.{'attention.q' if m.plan.kept else 'ffn.gate'}.weight"
    once = plant(case.bundle, control, tmp_path / "once")
    original, stored = case.bundle.store.tensor(weight), once.store.tensor(weight)
    assert stored.equal(original.reshape(original.shape[::-1]).T) and not stored.equal(original)
    assert once.manifest.base.sha256 == m.files[WEIGHTS].sha256
    twice = plant(once, control, tmp_path / "twice")
    assert twice.manifest.base == once.manifest.base
    assert twice.store.tensor(weight).equal(stored.reshape(stored.shape[::-1]).T)
    got = run(open_runtime(twice, "onnxruntime"), case.inputs)
    assert bool(differing(got, case.outputs)) == (name == "all")
    # and a second tensor in the same file
    other = replace(control, place=lambda m: Place("prefill", layer + (2 if m.plan.kept else 1)))
    both = plant(once, other, tmp_path / "both")
    assert both.store.tensor(weight).equal(stored) and len(Store(both.path / TASK).entries) == 2
    got = run(open_runtime(both, "onnxruntime"), {"fold": case.inputs["fold"]})
    folded = differing(got, {"fold": case.outputs["fold"]})["fold"]
    assert {each.split(".")[2] for each in folded} == {str(layer), str(other.place(m).layer)}


def test_the_same_fault_gives_the_same_copy(sound, tmp_path):
    bundle = sound(*HALF).bundle
    for name, control in CONTROLS.items():
        if not isinstance(control.place(bundle.manifest), str):
            one, other = (plant(bundle, control, tmp_path / f"{name} {i}") for i in "ab")
            assert one.manifest == other.manifest


def test_a_copy_takes_no_room_and_is_taken_for_nothing_else(sound, tmp_path):
    bundle = sound(*HALF).bundle
    copy = plant(bundle, CONTROLS["published bias"], tmp_path / "copy")
    m, theirs = copy.manifest, bundle.manifest
    assert [each for each in m.files if not (copy.path / each).samefile(bundle.path / each)] == ["fold.onnx"]
    assert m.key != theirs.key and m.files["fold.onnx"].key != theirs.files["fold.onnx"].key
    assert f"planted in layer {CONTROLS['published bias'].place(theirs).layer}" in m.notes[-1] and m.base is None


def test_where_there_are_no_links_files_are_copied(sound, tmp_path, monkeypatch):
    def refused(*paths):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refused)
    bundle = sound(*HALF).bundle
    copy = plant(bundle, CONTROLS["stale cache slot"], tmp_path / "copy")
    assert not copy.damaged_files()
    assert not any((copy.path / each).samefile(bundle.path / each) for each in copy.manifest.files)


def test_engines_and_reports_are_not_copied(sound, tmp_path):
    bundle = open_bundle(shutil.copytree(sound(*HALF).bundle.path, tmp_path / "with"))
    (bundle.path / "decode.x.engine").write_bytes(b"x")
    bundle.write_report("verify", {})
    target = Target(backend="x", version="1", compute_capabilities=("8.6",), weights="bound")
    engine = EngineRecord(graph="decode", target=target, attention="fused", seconds=1)
    record = FileRecord(bytes=1, sha256="0" * 64, key="0" * 64, engine=engine)
    files_with = bundle.manifest.files | {"decode.x.engine": record}
    write_manifest(bundle.path, bundle.manifest.model_copy(update={"files": files_with}))
    bundle = open_bundle(bundle.path)
    copy = plant(bundle, CONTROLS["published bias"], tmp_path / "copy")
    assert bundle.manifest.engine_files and not copy.manifest.engine_files
    assert {path.name for path in copy.path.iterdir()} == {MANIFEST, *copy.manifest.files}


def reasons(manifest) -> dict[str, str]:
    """Each control -> why it does not apply to such a bundle; empty where it does."""
    places = {name: control.place(manifest) for name, control in CONTROLS.items()}
    return {name: place if isinstance(place, str) else "" for name, place in places.items()}


OF_LAVIN = "weights of the other modality"  # planted in tests/test_golden_comparators.py


def test_what_does_not_apply_says_why(bundle_of, tmp_path):
    for name in LAVIN_CASES:
        for fold in FOLDS:
            bundle = bundle_of(golden_case(name), fold=fold)
            said = reasons(bundle.manifest)
            assert said.keys() == CONTROLS.keys()
            none = {each: why for each, why in said.items() if why}
            folded = {} if fold == "weights" else {"published bias": "the bundle has no fold graph"}
            in_attention = ("position off by one", "stale cache slot")
            kept = dict.fromkeys(in_attention, "no layer keeps its attention") if name == "all" else {}
            assert none == folded | kept | {OF_LAVIN: "no weights depend on a prompt's modality alone"}
            for each in none:
                with pytest.raises(InternalError, match="does not apply"):
                    plant(bundle, CONTROLS[each], tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    "name, place, said",
    [
        ("published bias", Place("prefill", 3), "there is no folded.layers.3.ffn.gate.bias"),
        ("router weights off by 1 %", Place("decode", 3), "there is no router"),
        ("position off by one", Place("decode", 3), "there is no layers.3.attention.q"),
        ("stale cache slot", Place("decode", 1), "there is no present.1.key"),
    ],
)
def test_a_graph_that_has_no_such_place_is_refused(name, place, said, bundle_of, tmp_path):
    control = replace(CONTROLS[name], place=lambda m: place)
    with pytest.raises(InternalError, match=said):
        plant(bundle_of(golden_case("half_13B")), control, tmp_path / "copy")
