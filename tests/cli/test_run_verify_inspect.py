"""run, verify, inspect and demo as a user calls them."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from conftest import FP32, GOLDEN, golden_case, max_error, text_prompts
from hf_models import make_folder
from synthetic import SHAPES, write_checkpoint

from eas_export.backends.opening import open_runtime
from eas_export.bundle.bundle import Bundle, open_bundle, with_digest
from eas_export.bundle.manifest import WEIGHTS
from eas_export.generation.conversation import Conversation
from eas_export.system.hashing import sha256_of

CASE = golden_case("first")


@pytest.fixture
def bundle(bundle_of, tmp_path):
    """A bundle that was moved to another folder and may be spoiled."""
    return open_bundle(shutil.copytree(bundle_of(CASE).path, tmp_path / "elsewhere" / "moved.bundle"))


@pytest.fixture
def npz(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, **CASE.arrays("img1"))
    return path


@pytest.mark.parametrize("backend", ["onnxruntime", "pytorch"])
def test_a_moved_bundle_runs(bundle, npz, tmp_path, command, backend):
    out = tmp_path / "y.npz"
    code, text, err = command("run", bundle.path, "--inputs", npz, "--outputs", out, "--backend", backend, "--json")
    assert code == 0, err
    got = np.load(out)
    assert max_error(got["logits"], CASE.golden["img1/v3/logits"]) < FP32
    assert got["logits"].dtype == np.float32 and got["tokens"].dtype == np.int64
    assert np.array_equal(got["tokens"], CASE.golden["img1/greedy_tokens"])
    assert json.loads(text)["tokens"] == got["tokens"].T.tolist()


def test_without_forced_tokens_it_generates(bundle, tmp_path, command):
    arrays = CASE.arrays("img1")
    arrays.pop("forced_tokens")
    np.savez(tmp_path / "x.npz", **arrays)
    code, text, _ = command("run", bundle.path, "--inputs", tmp_path / "x.npz", "--max-new-tokens", "9", "--json")
    assert code == 0 and json.loads(text)["tokens"] == CASE.golden["img1/greedy_tokens"].T.tolist()


def test_run_refuses(bundle, npz, tmp_path, refused):
    run = ("run", bundle.path, "--inputs", npz)
    assert "is a folder" in refused(*run, "--outputs", ".")
    assert "is a folder" in refused("run", bundle.path, "--inputs", tmp_path)
    assert "did you mean onnxruntime" in refused(*run, "--backend", "onnxruntme")
    assert "cannot be written" in refused(*run, "--outputs", tmp_path / "absent" / "y.npz")
    assert "not a bundle" in refused("run", tmp_path, "--inputs", npz)
    assert "the inputs force tokens" in refused(*run, "--temperature", "1")
    np.savez(tmp_path / "b3.npz", **CASE.arrays("b3"))
    assert "--fold lowrank" in refused("run", bundle.path, "--inputs", tmp_path / "b3.npz")
    np.savez(tmp_path / "long.npz", input_ids=np.ones((1, 129), int))
    assert "129 prompt tokens, the bundle takes 128" in refused("run", bundle.path, "--inputs", tmp_path / "long.npz")


def test_verify_with_and_without_the_checkpoint(bundle, npz, command):
    code, text, _ = command("verify", bundle.path, "--ckpt", CASE.folder, "--json")
    said = json.loads(text)
    assert (
        code == 0
        and said["verdict"] == "same as the checkpoint"
        and said["reference"] == "the checkpoint it was built from"
    )
    assert [step["name"] for step in said["steps"]] == [
        "pytorch, folded",
        "pytorch, the bundle's weights",
        "onnxruntime",
    ]
    stages = [line["stage"] for line in said["steps"][-1]["cases"]["image"]]
    assert stages == ["vision", "router", "pooled", "prefill", "fold", *(f"decode {i}" for i in range(1, 9)), "tokens"]
    code, text, _ = command("verify", bundle.path, "--inputs", npz, "--json")
    said = json.loads(text)
    assert code == 0 and said["verdict"] == "self-consistent" and list(said["steps"][-1]["cases"]) == ["row 0"]
    assert "pass --ckpt too" in command("verify", bundle.path, "--weights", CASE.folder / "weights")[2]
    code, text, _ = command("verify", bundle.path)
    assert code == 0 and "self-consistent" in text and "same as the checkpoint" not in text


def test_verify_takes_each_row_of_a_batch_on_its_own(bundle_of, tmp_path, command):
    np.savez(tmp_path / "b3.npz", **CASE.arrays("b3"))
    code, text, err = command(
        "verify", bundle_of(CASE).path, "--ckpt", CASE.folder, "--inputs", tmp_path / "b3.npz", "--json"
    )
    assert code == 0, err
    assert list(json.loads(text)["steps"][-1]["cases"]) == ["row 0", "row 1", "row 2"]


def scale_weight(bundle: Bundle, name: str, factor: float) -> None:
    entry = bundle.store.entries[name]
    with open(bundle.path / WEIGHTS, "r+b") as file:
        file.seek(entry.offset)
        scaled = factor * torch.frombuffer(bytearray(file.read(entry.nbytes)), dtype=torch.float32)
        file.seek(entry.offset)
        file.write(scaled.numpy().tobytes())


def test_a_damaged_bundle_differs_and_is_not_run(bundle, command):
    scale_weight(bundle, "layers.2.ffn.down.weight", 1.01)
    code, text, _ = command("verify", bundle.path, "--ckpt", CASE.folder, "--json")
    said = json.loads(text)
    assert code == 1 and said["verdict"] == "differs" and said["steps"] == []
    assert [line["name"] for line in said["files"] if not line["ok"]] == ["weights.safetensors"]
    assert said["first_divergence"]["stage"] == "weights.safetensors"
    code, text, _ = command("verify", bundle.path)
    assert (
        code == 1 and "verdict: differs (exit 1: damaged files" in text and "damaged file weights.safetensors" in text
    )


def test_verify_finds_a_changed_weight_and_says_where(bundle, command):
    """One layer's down-projection moved by 1 %, sealed with a new sha256: the stages behind it differ from the checkpoint."""
    scale_weight(bundle, "layers.2.ffn.down.weight", 1.01)
    seal(bundle, WEIGHTS)
    code, text, _ = command("verify", bundle.path, "--ckpt", CASE.folder, "--json")
    said = json.loads(text)
    assert code == 1 and said["verdict"] == "differs" and all(line["ok"] for line in said["files"])
    for step in said["steps"][1:]:  # the fold of the checkpoint is right
        wrong = [line["stage"] for line in step["cases"]["text"] if not line["ok"]]
        assert wrong[0] in ("router", "prefill") and "decode 1" in wrong
    found = said["first_divergence"]
    assert (found["step"], found["case"]) == ("pytorch, the bundle's weights", "text")
    assert (found["graph"], found["layer"], found["stage"]) == ("prefill", 2, "down")
    assert command("verify", bundle.path)[0] == 0  # it is consistent with itself: only the checkpoint tells


def test_verify_tells_another_checkpoint(bundle, tmp_path, command, refused):
    other = shutil.copytree(CASE.folder, tmp_path / "other")
    path = other / "checkpoint-19.pth"
    data = bytearray(path.read_bytes())
    from test_build import adapters, change

    change(adapters(other), lambda c: c["model"]["module.layers.2.adapter_attn.conv_A.weight"].mul_(1.5))
    assert path.read_bytes() != data
    code, text, _ = command("verify", bundle.path, "--ckpt", other, "--json")
    said = json.loads(text)
    assert code == 1 and said["reference"] == "a checkpoint that is not its origin" and said["verdict"] == "differs"
    assert (said["first_divergence"]["layer"], said["first_divergence"]["stage"]) == (2, "adapter")
    assert "another model" in refused("verify", bundle.path, "--ckpt", GOLDEN / "lavin" / "all")
    other = refused("verify", bundle.path, "--ckpt", GOLDEN / "llava" / "a")
    assert "this is a checkpoint of llava, the bundle's is of lavin" in other


def spoil_manifest(bundle: Bundle, **changes) -> None:
    path = bundle.path / "manifest.json"
    path.write_text(json.dumps(with_digest(json.loads(path.read_text()) | changes)))


def seal(bundle: Bundle, name: str) -> None:
    """Record a file as it is now."""
    files = bundle.manifest.model_dump(mode="json")["files"]
    path = bundle.path / name
    changed = files[name] | {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    spoil_manifest(bundle, files=files | {name: changed})


def test_damaged_bundles_are_refused(bundle, npz, tmp_path, refused):
    path = bundle.path / "manifest.json"
    whole = path.read_text()
    files = json.loads(whole)["files"]
    record = files["fold.onnx"]
    for name in ("../x", "/etc/passwd", "a/../../x", "C:x", "", "x" * 300):
        spoil_manifest(bundle, files={**files, name: record})
        assert "the manifest is damaged: files" in refused("inspect", bundle.path)
    good = json.loads(whole)
    decode = good["graphs"]["decode"]
    lies = [
        {"files": {}},
        {"precision": "int3"},
        {"fold": "x"},
        {"graphs": good["graphs"] | {"decode": decode | {"name": "../outside"}}},
        {"graphs": good["graphs"] | {"decode": decode | {"inputs": [decode["inputs"][0] | {"dtype": "object"}]}}},
        {"plan": good["plan"] | {"skipped": [77]}},
        {"plan": good["plan"] | {"layers": 5}},
        {"plan": good["plan"] | {"layers": 10**9}, "config": good["config"] | {"layers": 10**9}},
        {"config": good["config"] | {"vision": good["config"]["vision"] | {"blocks": 1 << 24}}},
        {"options": {"foo": 1}},
        {
            "accounts": {
                "before": good["accounts"]["before"] | {"total_bytes": 10**400},
                "after": good["accounts"]["after"],
            }
        },
    ]
    for lie in lies:
        path.write_text(json.dumps(with_digest(good | lie)))
        assert "the manifest is damaged" in refused("inspect", bundle.path)
    for lie in (
        {"limits": good["limits"] | {"max_prompt": 7}},
        {"config": good["config"] | {"kv_heads": 2}},
        {"graphs": {name: spec for name, spec in good["graphs"].items() if name != "decode"}},
    ):
        path.write_text(json.dumps(with_digest(good | lie)))
        assert "graphs do not match its config" in refused("run", bundle.path, "--inputs", npz)
        assert "graphs do not match its config" in refused("verify", bundle.path)
    path.write_text(json.dumps(with_digest(good | {"config": good["config"] | {"ffn_dim": 5}})))
    assert "do not match its config" in refused("verify", bundle.path)
    own = bundle.graph_file("decode").read_bytes()
    bundle.graph_file("decode").write_bytes(bundle.graph_file("vision").read_bytes())
    path.write_text(whole)
    seal(bundle, "decode.onnx")
    assert "ONNX Runtime failed to run the graph" in refused("run", bundle.path, "--inputs", npz)
    bundle.graph_file("decode").write_bytes(own)
    path.write_text(whole)
    os.mkfifo(tmp_path / "pipe.npz")
    assert "not a regular file" in refused("run", bundle.path, "--inputs", tmp_path / "pipe.npz")
    spoil_manifest(bundle, schema_version=99)
    said = refused("inspect", bundle.path)
    assert "schema version is 99" in said and f"eas-export build --ckpt CHECKPOINT --out {bundle.path} --force" in said
    for text in ("", "{", "[]", '{"schema_version": 1}', whole[: len(whole) // 2]):
        path.write_text(text)
        assert "manifest" in refused("inspect", bundle.path)
    path.write_text(whole)
    (bundle.path / "fold.onnx").unlink()
    assert "fold.onnx is missing" in refused("verify", bundle.path)
    with open(bundle.path / "fold.onnx", "wb") as file:
        file.write(bytes(record["bytes"]))
    assert "ONNX Runtime" in refused("run", bundle.path, "--inputs", npz)


def test_inspect_counts_what_pruning_saves(bundle, command):
    code, text, _ = command("inspect", CASE.folder, "--json")
    said = json.loads(text)
    assert code == 0 and said["kind"] == "checkpoint" and said["plan"]["skipped"] == [0]
    before, after = said["accounts"]["before"], said["accounts"]["after"]
    assert before["parameters"]["attention"] == 6 * 4 * 64 * 64 and after["parameters"]["attention"] == 5 * 4 * 64 * 64
    assert (before["kv_bytes_per_token"], after["kv_bytes_per_token"]) == (2 * 6 * 64 * 2, 2 * 5 * 64 * 2)
    assert said["config"]["skipped_adapter"]["rank"] == 32
    code, text, _ = command("inspect", bundle.path, "--json")
    said = json.loads(text)
    assert code == 0 and said["kind"] == "bundle" and said["accounts"]["after"]["parameters"] == after["parameters"]
    assert said["accounts"]["after"]["kv_bytes_per_token"] == 2 * 5 * 64 * 4
    assert said["files"]["weights.safetensors"] == (bundle.path / WEIGHTS).stat().st_size


def test_inspect_counts_what_a_request_takes(bundle_of, tmp_path, command):
    """LaVIN-7B's shape, 12 of 32 skipped, rank 32: the fold state stays under 2 KB, folded weights take gigabytes."""
    folder = write_checkpoint(tmp_path / "data", SHAPES["7B"], skeleton=True)
    requests = json.loads(command("inspect", folder, "--json")[1])["requests"]
    folded, lowrank = requests["weights"], requests["lowrank"]
    assert lowrank["fold_state_numbers"] == 2 * 32 + 12 * 32 and lowrank["fold_state_bytes"] == 4 * 448 < 2000
    assert folded["fold_state_bytes"] == lowrank["fold_state_bytes"] and lowrank["folded_weights_bytes"] == 0
    qkv, gate_up = 20 * 3 * (4096 + 1) * 4096, 12 * 2 * (4096 + 1) * 11008  # weights and biases
    assert folded["folded_weights_bytes"] == 2 * (qkv + gate_up)
    assert folded["kv_bytes_per_token"] == 20 * 2 * 4096 * 2
    text = command("inspect", folder)[1]
    assert "448 numbers, 1.79 kB" in text and "4.18 GB" in text and "327.68 kB" in text
    # a bundle, in its own precision: the graph's outputs are what the table says
    for fold in ("weights", "lowrank"):
        opened = bundle_of(CASE, fold=fold)
        said = json.loads(command("inspect", opened.path, "--json")[1])["requests"]
        assert said["weights"]["kv_bytes_per_token"] == 5 * 2 * 64 * 4
        conversation = Conversation(open_runtime(bundle_of(CASE), "onnxruntime"), text_prompts([1, 2]))
        assert said["weights"]["folded_weights_bytes"] == sum(t.nbytes for t in conversation.folded.values())
        assert said[fold]["fold_state_bytes"] == sum(t.nbytes for t in conversation.state.values())


def test_paths_are_printed_as_they_are(bundle, command):
    odd = bundle.path.rename(bundle.path.with_name("m[v2][bold].bundle"))
    code, text, _ = command("inspect", odd)
    assert code == 0 and "m[v2][bold].bundle" in text


def test_inspect_shows_tables(bundle, refused, command):
    assert "these options are for checkpoints" in refused("inspect", bundle.path, "--skip", "1")
    code, text, _ = command("inspect", bundle.path)
    assert code == 0
    for part in ("attention skipped", "kept 8, skipped 32, vision 8", "KV cache per token", "weights.safetensors"):
        assert part in text
    code, text, _ = command("inspect", GOLDEN / "lavin" / "noskip")
    assert code == 0 and "shown without skipping" in " ".join(text.split())
    code, text, _ = command("inspect", GOLDEN / "lavin" / "noskip", "--skip", "1-2", "--json")
    assert json.loads(text)["plan"]["skipped"] == [1, 2]


LINEAR = {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}
LOCAL = {"rope_type": "default", "rope_theta": 1e4}
SYSTEMS = {  # of the published code's files: what inspect says of each, in order
    "lavin/router": (
        "system: LaVIN, known by adapter_attn without replaced_adapter in the keys of checkpoint-19.pth",
        "kept 4, skipped none, vision 4",
        "routers read the modality token alone",
        "the tower's each token on its own",
        "attention skipped 0 of 6: none",
    ),
    "lavin-das/mid": (  # without a fold state where adapters are folded when it is built
        "system: LaVIN-DAS, known by replaced_adapter without conv_C in the keys of checkpoint-19.pth",
        "kept 4, skipped 16, vision 4",
        "routers read the modality token alone",
        "layer skipped 2 of 6: 1, 3 (from the keys of checkpoint-19.pth)",
        "layer kept 4: 0, 2, 4, 5",
        "fold state 0 numbers, 0 B 12 numbers, 48 B",
    ),
    "lavin-das/first_search": (
        "system: LaVIN-DAS",
        "layer skipped 0 of 6: none",
        "the checkpoint does not say which layers are skipped (its list is '[]'): shown without skipping; pass --skip with the layers that training skipped (of 0-5, such as 3-5,1), or --skip none",
    ),
    "lavin-lora/r4": (
        "system: LaVIN-LoRA, known by lora_A without adapters in the keys of checkpoint-19.pth",
        "adapter ranks none: a model without adapters",
        "attention skipped 0 of 6: none",
    ),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_inspect_names_a_decoders_system_and_what_it_holds(name, command):
    code, text, _ = command("inspect", GOLDEN / "comparators" / name)
    text = " ".join(text.split())
    assert code == 0 and all(part in text for part in SYSTEMS[name]), text
    places = [text.index(part) for part in SYSTEMS[name]]
    assert places == sorted(places)
    assert ("routers read" in text) == ("lora" not in name)


def test_inspect_says_what_a_text_decoder_does_otherwise(tmp_path, command):
    """Windows, RoPE and scales by layer; nothing of towers and adapters that are not there."""
    folder = make_folder(
        tmp_path / "gemma", "gemma3_text", rope_parameters={"full_attention": LINEAR, "sliding_attention": LOCAL}
    )
    code, text, err = command("inspect", folder)
    assert code == 0, err
    text = " ".join(text.split())
    for part in (
        "4 of width 48, 4 heads of 16 (2 of keys and values)",
        "attention RoPE, theta 10,000, a window of 6 tokens in 2 layers; RoPE, theta 1,000,000, linear scaling by 8 in 2 layers",
        "norms of queries and keys; norms behind attention and feed-forward; activation gelu_tanh; attention scale 0.204124",
        "the embedding is the head",
        "adapter ranks none: a model without adapters",
        "attention skipped 0 of 4: none (from the keys of gemma)",
    ):
        assert part in text, text
    assert "adapters 0" not in text and "vision 0" not in text
    code, text, err = command("build", "--ckpt", folder, "--out", tmp_path / "o", "--adapters", "drop", "--dry-run")
    assert code == 0 and "left out" not in text, err


def test_a_prompt_of_lavin_has_one_image_whatever_a_bundle_is_built_for(tmp_path, refused):
    said = refused(
        "build", "--ckpt", golden_case("first").folder, "--out", tmp_path / "o", "--max-images", 2, "--dry-run"
    )
    assert "--max-images is 2, but a prompt of this model has at most 1" in said and said.endswith(
        "leave --max-images out"
    )
