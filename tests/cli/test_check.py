"""check: what TensorRT's parser makes of a bundle's graphs."""

import json
import shutil

import onnx
import pytest
from conftest import golden_case

from eas_export.backends.checking import GraphCheck
from eas_export.backends.contract import Layer
from eas_export.bundle.bundle import with_digest
from eas_export.system.packages import install_command

CASE = golden_case("half_13B")


def test_every_layer_has_its_kind(bundle_of, command):
    bundle = bundle_of(CASE, "fp16")
    code, text, _ = command("check", bundle.path, "--json")
    said, kept = json.loads(text), len(CASE.plan.kept)
    assert code == 0 and said["ok"] and set(said["graphs"]) == {"vision", "prefill", "fold", "decode"}
    decode = said["graphs"]["decode"]
    assert decode["kinds"]["ATTENTION_INPUT"] == decode["fused"] == decode["masked"] == decode["cached"] == kept
    assert sum(decode["kinds"].values()) == len(decode["layers"])
    assert all(layer["name"] and layer["kind"].isupper() for layer in decode["layers"])
    blocks = CASE.checkpoint.config.vision.blocks
    code, text, _ = command("check", bundle.path, "--layers")
    assert code == 0 and "as meant" in text
    found = [line.split() for line in text.splitlines()]
    assert ["kind", "vision", "prefill", "fold", "decode"] in found
    assert ["ATTENTION_INPUT", *map(str, (blocks, kept, kept))] in found  # none in the fold
    listed = [words[0] for words in found if len(words) == 2]
    assert listed.count("ATTENTION_INPUT") == 2 * kept + blocks


def test_an_expanded_bundle_is_shown_as_what_it_is(bundle_of, command):
    """opset 21: attention is decomposed, so none can be a layer; the fold has none."""
    code, text, _ = command("check", bundle_of(CASE, opset=21).path, "--json")
    decode, fold = (json.loads(text)["graphs"][name] for name in ("decode", "fold"))
    assert code == 1 and decode["lost"] == "opset 21: attention is decomposed"
    assert decode["attentions"] == len(CASE.plan.kept) and fold["attentions"] == 0 and fold["lost"] == ""
    assert decode["fused"] == 0 and decode["kinds"]["SOFTMAX"] >= len(CASE.plan.kept)


def test_an_attention_that_the_parser_decomposes_is_named(bundle_of, command, tmp_path):
    """One that has outputs that TensorRT's attention has not."""
    folder = shutil.copytree(bundle_of(CASE, "fp16").path, tmp_path / "b")
    path = folder / "decode.onnx"
    model = onnx.load(path, load_external_data=False)
    node = next(node for node in model.graph.node if node.op_type == "Attention")
    node.attribute.append(onnx.helper.make_attribute("softcap", 30.0))
    path.write_bytes(model.SerializeToString())
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["decode.onnx"]["bytes"] = path.stat().st_size
    (folder / "manifest.json").write_text(json.dumps(with_digest(manifest)))
    code, text, err = command("check", folder)
    assert (code == 1 and "attentions are decomposed" in text) or (code == 2 and "graph decode" in err)


@pytest.mark.parametrize(
    "counts, lost",
    [
        ((2, 2, 2, 2, 4, 4), ""),
        ((2, 1, 1, 2, 4, 4), "1 of 2 attentions are decomposed"),
        ((2, 2, 2, 2, 4, 3), "1 of 4 caches are copied"),
        ((2, 2, 0, 2, 4, 4), "2 of 2 attentions read all of their cache"),
        ((2, 2, 0, 0, 4, 4), ""),
    ],
)
def test_what_is_lost_is_named(counts, lost):
    names = ("attentions", "fused", "masked", "cached", "caches", "in_place")
    layers = (Layer(name="x", kind="CAST"),)
    assert GraphCheck(layers=layers, opset=24, **dict(zip(names, counts))).lost == lost


def test_what_cannot_be_checked_says_why(bundle_of, refused):
    path = bundle_of(CASE, "fp16").path
    assert "builds no engines to check" in refused("check", path, "--backend", "onnxruntime")
    assert "did you mean tensorrt-rtx" in refused("check", path, "--backend", "tensort-rtx")
    assert install_command("gpu") in refused("check", path, "--backend", "tensorrt")
    for command in ("check", "run", "verify", "inspect", "bench"):
        given = ("--prompt", "x") if command == "run" else ()
        assert "there is no such file or folder" in refused(command, path / "nowhere", *given)
