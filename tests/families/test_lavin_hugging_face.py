"""LaVIN-EAS over Hugging Face's copy of its LLaMA: the same model, tensor for tensor, as over Meta's files."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import GoldenCase, golden_case
from reference.files import read_lavin
from reference.lavin import LavinReference
from safetensors.torch import save_file
from test_golden import check_against_golden
from transformers import LlamaForCausalLM

from eas_export.backends.opening import open_runtime
from eas_export.checkpoint import llama as llama_files
from eas_export.core.errors import UserError
from eas_export.families import load_checkpoint
from eas_export.families.contract import Sources
from eas_export.generation.generate import generate
from eas_export.pipeline import build, verify

CASE = golden_case("half_13B")
NAMES = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
ENDS = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}


def converted(case: GoldenCase, folder: Path, form: str = "safetensors", **changes: object) -> Path:
    """The case's LLaMA as transformers' conversion script writes it."""
    weights, _, params = read_lavin(case.folder)
    dim, heads, layers = params["dim"], params["n_heads"], params["n_layers"]
    state = {f"{ours}.weight": weights[f"{meta}.weight"] for meta, ours in ENDS.items()}
    for i in range(layers):
        for meta, ours in NAMES.items():
            weight = weights[f"layers.{i}.{meta}.weight"]
            if meta in ("attention.wq", "attention.wk"):
                weight = weight.view(heads, dim // heads // 2, 2, dim).transpose(1, 2).reshape(dim, dim)
            state[f"model.layers.{i}.{ours}.weight"] = weight
        state[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = torch.ones(dim // heads // 2)
    folder.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": dim,
        "intermediate_size": len(weights["layers.0.feed_forward.w1.weight"]),
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "rms_norm_eps": params["norm_eps"],
        "vocab_size": len(weights["output.weight"]),
    }
    (folder / "config.json").write_text(json.dumps(config | changes))
    if form == "safetensors":
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / "model.safetensors")
    else:
        parts = [dict(list(state.items())[start::2]) for start in (0, 1)]
        names = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
        for part, name in zip(parts, names):
            torch.save({key: tensor.clone() for key, tensor in part.items()}, folder / name)
        index = {"weight_map": {key: name for part, name in zip(parts, names) for key in part}}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def rest_of(case: GoldenCase, folder: Path) -> Path:
    """Its files without LLaMA."""
    return shutil.copytree(case.folder, folder, ignore=shutil.ignore_patterns("weights", "golden.*", "inputs.npz"))


@pytest.mark.parametrize("form", ["safetensors", "shards of .bin"])
@pytest.mark.parametrize("place", ["inside", "--weights"])
def test_every_tensor_is_that_of_metas_files(place, form, tmp_path):
    data = rest_of(CASE, tmp_path / "data")
    llama = converted(CASE, data / "weights" / "llama-hf" if place == "inside" else tmp_path / "llama-hf", form)
    got = load_checkpoint(Sources(data, weights=None if place == "inside" else llama))
    want = CASE.checkpoint
    assert got.config == want.config and got.evidence == want.evidence and not got.notes
    assert got.tensors.keys() == want.tensors.keys()
    for name, tensor in got.tensors.items():
        assert tensor.dtype == want.tensors[name].dtype and torch.equal(tensor.read(), want.tensors[name].read()), name


def test_transformers_computes_the_same_with_the_converted_files(tmp_path):
    """The published network without adapters is LLaMA; the position in front that nobody attends to changes nothing."""
    model = LlamaForCausalLM.from_pretrained(converted(CASE, tmp_path / "llama-hf"), dtype=torch.float32)
    ids = [1, 5, 9, 40, 3, 17]
    with torch.no_grad():
        got = model(torch.tensor([ids])).logits[0, -1]
    want = LavinReference(CASE.folder, skip=(), scale=0.0).run(ids)["logits"][0]
    assert torch.allclose(got, want, atol=1e-4) and want.std() > 0.1


def test_a_bundle_of_it_equals_the_published_code_and_its_witness(tmp_path, bundle_of):
    """Also where Meta's params.json, but none of its weights, lies beside it."""
    data = rest_of(CASE, tmp_path / "data")
    llama = converted(CASE, data / "weights" / "13B")
    shutil.copy(next(CASE.folder.glob("weights/*/params.json")), llama)
    bundle = build(data, tmp_path / "a.bundle", verify=False, **CASE.limits).bundle
    inputs = CASE.prompts("img1")
    check_against_golden(
        CASE, "img1", generate(open_runtime(bundle, "onnxruntime"), inputs.prompts, forced=inputs.forced_tokens)
    )
    of_meta = bundle_of(CASE)
    assert bundle.manifest.files["weights.safetensors"].sha256 == of_meta.manifest.files["weights.safetensors"].sha256
    assert bundle.manifest.key != of_meta.manifest.key
    report = verify(of_meta, CASE.folder, weights=llama, steps=2, against="transformers")
    assert report.verdict == "same as the checkpoint", report.first_divergence
    assert report.steps[0].name == "transformers" and set(report.steps[0].cases) == {"text", "shortest"}


def test_rows_in_the_files_order_would_be_found_by_the_witness(tmp_path, monkeypatch):
    """It reads the folder by transformers alone."""
    llama = converted(CASE, tmp_path / "llama-hf")
    monkeypatch.setattr(llama_files, "in_pairs", lambda weight, heads: weight)
    bundle = build(CASE.folder, tmp_path / "a.bundle", weights=llama, verify=False, **CASE.limits).bundle
    found = verify(bundle, CASE.folder, weights=llama, steps=2, against="transformers").first_divergence
    assert (found.step, found.layer, found.stage) == ("transformers", 0, "block")


def test_a_head_that_is_tied(tmp_path):
    """As for LLaVA: of two that differ both are used, with a note."""
    data = rest_of(CASE, tmp_path / "data")
    llama = converted(CASE, data / "weights" / "13B", "shards of .bin", tie_word_embeddings=True, rms_norm_eps=1e-3)
    checkpoint = load_checkpoint(Sources(data))
    assert "lm_head.weight is used as it is" in checkpoint.notes[0] and not checkpoint.config.tied_head
    assert checkpoint.config.norm_eps == 1e-3
    for file in llama.glob("*.bin"):
        held = torch.load(file, weights_only=True)
        torch.save({key: tensor for key, tensor in held.items() if key != "lm_head.weight"}, file)
    index = llama / "pytorch_model.bin.index.json"
    places = {k: v for k, v in json.loads(index.read_text())["weight_map"].items() if k != "lm_head.weight"}
    index.write_text(json.dumps({"weight_map": places}))
    checkpoint = load_checkpoint(Sources(data))
    assert checkpoint.config.tied_head and "head.weight" not in checkpoint.tensors and not checkpoint.notes


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"num_key_value_heads": 2}, "num_key_value_heads is 2: LaVIN supports only 4"),
        ({"model_type": "mistral"}, "model_type"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type is linear: LaVIN supports only default"),
        ({"head_dim": 32}, "head_dim is 32: LaVIN supports only 16"),
        ({"attention_bias": True}, "attention_bias is True: LaVIN supports only False"),
        ({"mlp_bias": True}, "mlp_bias is True: LaVIN supports only False"),
        ({"hidden_act": "gelu"}, "hidden_act is gelu: LaVIN supports only silu"),
        ({"vocab_size": 7}, "vocab_size is 7, but model.embed_tokens.weight has 96 rows"),
        ({"num_hidden_layers": 7}, "missing key model.layers.6"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_other_models_are_refused(changes, said, tmp_path):
    data = rest_of(CASE, tmp_path / "data")
    llama = converted(CASE, data / "weights" / "13B", **changes)
    with pytest.raises(UserError) as error:
        load_checkpoint(Sources(data))
    assert said in error.value.what and str(llama) in error.value.where


def test_paths_of_another_kind_are_told():
    (file,) = CASE.folder.glob("weights/*/consolidated.00.pth")
    for path, said in ((file, "a file, not a folder"), (file.parent / "absent", "there is no such folder")):
        with pytest.raises(UserError, match=rf"{said} .*pass --weights DIR, the folder with params.json .*config.json"):
            load_checkpoint(Sources(CASE.folder, weights=path))
    with pytest.raises(UserError, match=r"the folder has no \*\.pth or \*\.pt .*--vision FILE"):
        load_checkpoint(Sources(CASE.folder, vision=golden_case("all").folder / "weights"))


def test_of_several_llamas_the_training_arguments_choose(tmp_path):
    data = shutil.copytree(CASE.folder, tmp_path / "data")
    other = converted(golden_case("all"), data / "weights" / "another", rms_norm_eps=0.5)
    assert load_checkpoint(Sources(data)).config == CASE.checkpoint.config
    (data / "weights" / "13B").rename(data / "weights" / "7B")
    with pytest.raises(UserError, match=r"found 2 folders of a LLaMA \(7B, another\)"):
        load_checkpoint(Sources(data))
    assert load_checkpoint(Sources(data, weights=other)).config.norm_eps == 0.5
