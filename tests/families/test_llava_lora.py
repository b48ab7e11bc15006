"""LoRAs over a LLaVA: merged where they are read, equal to transformers' model with each pair beside its weight; what does not fit is named."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FP32, max_error
from reference.files import read_folder
from reference.llava import IMAGE, LlavaReference
from safetensors.torch import save_file
from synthetic_llava import LlavaShape, write_llava
from test_random_llava import generated, transformers_llava

from eas_export.backends.opening import open_runtime
from eas_export.core.errors import UserError
from eas_export.families import load_checkpoint
from eas_export.families.contract import Sources
from eas_export.families.witnesses.llava import open_witness
from eas_export.pipeline import build, verify
from eas_export.verify.report import Verdict

SHAPE, RANK = LlavaShape(kv_heads=2), 2
EVERY = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.down_proj",
)
OWN_TOWER = "model.vision_tower.vision_tower."
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A LLaVA without adapters."""
    folder = write_llava(tmp_path_factory.mktemp("lora") / "base", SHAPE)
    torch.save(
        {k: t for k, t in read_folder(folder).items() if ".adapter_attn." not in k}, folder / "pytorch_model.bin"
    )
    return folder


def drawn(shapes: dict[str, tuple[int, ...]]) -> Tensors:
    random = torch.Generator().manual_seed(7)
    return {key: torch.randn(shape, generator=random) / 8 for key, shape in shapes.items()}


def pairs(base: Path, rank: int = RANK, targets: tuple[str, ...] = EVERY) -> Tensors:
    """Of every layer's targets, by the names of the base model."""
    weights = {k.removesuffix(".weight"): t.shape for k, t in read_folder(base).items()}
    names = [name for name in weights if name.endswith(targets)]
    return drawn({f"{n}.lora_A.weight": (rank, weights[n][1]) for n in names}) | drawn(
        {f"{n}.lora_B.weight": (weights[n][0], rank) for n in names}
    )


def write_lora(
    folder: Path, tensors: Tensors, prefix: str = "base_model.model.", form: str = "safetensors", **said: object
) -> Path:
    folder.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 16, "target_modules": ["q_proj"], "use_dora": False} | said
    (folder / "adapter_config.json").write_text(json.dumps(config))
    named = {prefix + key: tensor for key, tensor in tensors.items()}
    file = folder / f"adapter_model.{form}"
    save_file(named, file) if form == "safetensors" else torch.save(named, file)
    return folder


def merged(weights: Tensors, lora: Tensors, factor: float) -> Tensors:
    result = dict(weights)
    for key, a in lora.items():
        if "lora_A" in key:
            b = lora[key.replace("lora_A", "lora_B")]
            name = key.replace("lora_A.", "")
            product = sum(torch.outer(b[:, i].double(), a[i].double()) for i in range(len(a)))
            result[name] = (weights[name].double() + factor * product).float()
    return result


def whole(base: Path, folder: Path, tensors: Tensors) -> Path:
    """A folder of the base model with these tensors."""
    shutil.copytree(base, folder)
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder


def require_same(got: Sources, want: Path) -> None:
    """Equal to what is read of the folder, whose weights were merged by the formula."""
    ours, theirs = load_checkpoint(got), load_checkpoint(Sources(want))
    assert ours.config == theirs.config and ours.evidence.text == theirs.evidence.text
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, tensor in ours.tensors.items():
        assert max_error(tensor.read().float(), theirs.tensors[name].read().float()) < 1e-6, name


def require_same_witness(got: Sources, want: Path) -> None:
    """transformers' model of the LoRA is that of the merged folder, tower included."""
    models, ids = [open_witness(got), open_witness(Sources(want))], torch.arange(1, 7)[None]
    positions, text, random = torch.arange(6)[None], torch.full((1, 6), -1), torch.Generator().manual_seed(1)
    pixels = torch.randn((1, 3, 14, 14), generator=random)
    ours, theirs = (model.read(ids, positions, text, None).outputs["logits"] for model in models)
    assert max_error(ours, theirs) < 1e-5 and models[0].without_attention == models[1].without_attention
    with torch.no_grad():
        ours, theirs = (model.encode_images(pixels) for model in models)
    assert max_error(ours, theirs) < 1e-5


def test_a_bundle_is_transformers_model_with_the_pairs_beside_its_weights(base, tmp_path):
    """y = W x + alpha / r B A x, as LoRA is defined; half of the targets have another rank and another alpha."""
    lora = pairs(base, targets=EVERY[:3]) | pairs(base, rank=3, targets=EVERY[3:])
    patterns = dict(rank_pattern={"o_proj|mlp.*": 3}, alpha_pattern={"o_proj|mlp.*": 12})
    folder = write_lora(tmp_path / "lora", lora, **patterns)
    result = build(folder, tmp_path / "o", base_weights=base, max_prompt=64, fold="none", verify=False)
    assert "the LoRA of lora is merged into 24 weights of base" in result.notes

    model = transformers_llava(base, SHAPE)
    for name, module in model.named_modules():
        a = lora.get(f"{name.replace('model.language_model', 'model')}.lora_A.weight")
        if a is not None:
            b = lora[f"{name.replace('model.language_model', 'model')}.lora_B.weight"]
            factor = 8.0 if len(a) == RANK else 4.0
            module.register_forward_hook(lambda _, x, y, a=a, b=b, factor=factor: y + factor * (x[0] @ a.T @ b.T))
    random = np.random.default_rng(3)
    ids, forced = random.integers(1, SHAPE.vocab - 1, 10), random.integers(0, SHAPE.vocab - 1, 4)
    ids[4], image = IMAGE, random.standard_normal((1, 3, 14, 14)).astype(np.float32)
    own = [token for i in ids for token in ([SHAPE.vocab - 1] * 4 if i == IMAGE else [i])]
    with torch.no_grad():
        want = model(torch.tensor([[*own, *forced]]), pixel_values=torch.tensor(image)).logits[0, len(own) - 1 :]
    got = generated(open_runtime(result.bundle, "onnxruntime"), ids.tolist(), image, forced)
    assert max_error(got.logits[:, 0], want) < FP32
    report = verify(result.bundle, folder, base_weights=base, steps=2, against="transformers")
    assert report.verdict == Verdict.SAME and report.steps[0].name == "transformers", report.first_divergence


FORMS = {
    "plain": (dict(), 8.0),
    "torch's file": (dict(form="bin"), 8.0),
    "without a prefix": (dict(prefix=""), 8.0),
    "rank-stabilised": (dict(use_rslora=True), 16 / math.sqrt(2)),
    "PEFT's defaults for what is null": (dict(lora_alpha=None, rank_pattern=None, use_rslora=None), 4.0),
    "fan_in_fan_out, which PEFT ignores for linear layers": (dict(fan_in_fan_out=True), 8.0),
    "patterns of whole names": (
        dict(alpha_pattern={r"^model\.layers\.\d+\.self_attn\.[qkvo]_proj": 2, "mlp.up_proj": 1}),
        1.0,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_how_peft_writes_it(form, base, tmp_path):
    said, factor = FORMS[form]
    lora = pairs(base, targets=EVERY[:2])
    want = whole(base, tmp_path / "want", merged(read_folder(base), lora, factor))
    require_same(Sources(write_lora(tmp_path / "lora", lora, **said), base_weights=base), want)


def test_modules_to_save_take_the_place_of_the_bases(base, tmp_path):
    lora, saved = pairs(base), drawn({"lm_head.weight": (96, 64), "model.norm.weight": (64,)})
    folder = write_lora(tmp_path / "lora", lora | saved, modules_to_save=["lm_head", "norm"])
    want = whole(base, tmp_path / "want", merged(read_folder(base), lora, 8.0) | saved)
    require_same(Sources(folder, base_weights=base), want)


def test_llavas_own_training_over_a_llama(base, tmp_path):
    """It writes config.json and, elsewhere than PEFT, the projector; the base has neither. Other heads are refused."""
    weights, lora = read_folder(base), pairs(base)
    projector = {key: t for key, t in weights.items() if "mm_projector" in key}
    llama = whole(base, tmp_path / "vicuna", {key: t for key, t in weights.items() if key not in projector})
    said = json.loads((base / "config.json").read_text())
    (llama / "config.json").write_text(
        json.dumps({"model_type": "llama"} | {k: v for k, v in said.items() if "mm_" not in k and k != "model_type"})
    )
    shutil.rmtree(llama / "vision_tower")
    (llama / "generation_config.json").write_text('{"eos_token_id": 2}')
    folder = write_lora(tmp_path / "llava-lora", lora, form="bin")
    torch.save({f"base_model.model.{key}": t for key, t in projector.items()}, folder / "non_lora_trainables.bin")
    shutil.copy(base / "config.json", folder)
    want = whole(base, tmp_path / "want", merged(weights, lora, 8.0))
    paths = dict(base_weights=llama, vision=base / "vision_tower")
    sources = Sources(folder, **paths)
    require_same(sources, want)
    opened = {"adapter_config.json", "adapter_model.bin", "non_lora_trainables.bin", "config.json"}
    assert {path.name for path in load_checkpoint(sources).files if path.parent == folder} == opened
    require_same_witness(sources, want)
    (folder / "config.json").write_text(json.dumps(said | {"num_attention_heads": 8}))
    with pytest.raises(UserError, match="the base model's num_attention_heads is 4, the checkpoint's is 8"):
        load_checkpoint(sources)


def test_a_lora_of_the_tower_is_built_with_it(base, tmp_path):
    """Only where the base has the tower's tensors, which are then not those of its folder."""
    own = {OWN_TOWER + key: tensor for key, tensor in read_folder(base / "vision_tower").items()}
    whole_base = whole(base, tmp_path / "base", read_folder(base) | own)
    lora = pairs(whole_base, targets=("self_attn.q_proj", "mlp.fc1"))
    folder = write_lora(tmp_path / "lora", lora)
    want = whole(base, tmp_path / "want", merged(read_folder(whole_base), lora, 8.0))
    said = json.loads((want / "config.json").read_text()) | {"unfreeze_mm_vision_tower": True}
    (want / "config.json").write_text(json.dumps(said))
    require_same(Sources(folder, base_weights=whole_base), want)
    require_same_witness(Sources(folder, base_weights=whole_base), want)
    with pytest.raises(UserError, match=f"the LoRA changes '{OWN_TOWER}.*', which the model does not have"):
        load_checkpoint(Sources(folder, base_weights=base))


def test_eas_adapters_beside_a_lora_in_one_file(tmp_path):
    """A raw state dict of PEFT's model: the LoRA has a name, and weights with one are called base_layer."""
    folder = write_llava(tmp_path / "eas", LlavaShape(skip=(0, 2)))
    weights, lora = read_folder(folder), pairs(folder)
    want = whole(folder, tmp_path / "want", merged(weights, lora, 8.0))
    changed = {key.replace("lora_A.", "") for key in lora}
    raw = {key.replace(".weight", ".base_layer.weight") if key in changed else key: t for key, t in weights.items()}
    raw |= {key.replace(".weight", ".default.weight"): tensor for key, tensor in lora.items()}
    torch.save({f"base_model.model.{key}": tensor for key, tensor in raw.items()}, folder / "pytorch_model.bin")
    with pytest.raises(
        UserError, match=r"have a LoRA beside them, but no adapter_config.json says its r and lora_alpha"
    ):
        load_checkpoint(Sources(folder))
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": 16}))
    require_same(Sources(folder), want)
    require_same_witness(Sources(folder), want)
    assert f"merged into {len(lora) // 2} weights of eas" in load_checkpoint(Sources(folder)).notes[0]


def test_eas_adapters_of_the_base(tmp_path):
    """Whose skipped attentions are gone: a LoRA brings none back."""
    base = write_llava(tmp_path / "eas", LlavaShape(skip=(0, 2)))
    lora = pairs(base)
    want = whole(base, tmp_path / "want", merged(read_folder(base), lora, 8.0))
    sources = Sources(write_lora(tmp_path / "lora", lora), base_weights=base)
    require_same(sources, want)
    checkpoint = load_checkpoint(sources)
    assert checkpoint.system == "LLaVA-EAS with a LoRA" and checkpoint.evidence.text == "[0, 2]"
    assert checkpoint.known_by == "adapter_config.json, and replaced_adapter in the keys of eas"


def test_eas_adapters_that_a_lora_brings_to_a_plain_base(base, tmp_path):
    """The plan is in the keys, though the base has every attention."""
    eas = read_folder(write_llava(tmp_path / "eas", LlavaShape(kv_heads=2, skip=(1, 3)), seed=4))
    adapters, lora = {key: t for key, t in eas.items() if "adapter" in key}, pairs(base)
    folder = write_lora(tmp_path / "lora", lora)
    torch.save({f"base_model.model.{key}": t for key, t in adapters.items()}, folder / "non_lora_trainables.bin")
    assert load_checkpoint(Sources(folder, base_weights=base)).evidence.text == "[1, 3]"
    bundle = build(folder, tmp_path / "o", base_weights=base, max_prompt=64, fold="lowrank", verify=False).bundle
    reference = LlavaReference(whole(base, tmp_path / "want", merged(read_folder(base), lora, 8.0) | adapters))
    random = np.random.default_rng(5)
    ids, forced = random.integers(1, 95, 9), random.integers(0, 95, 3)
    want = reference.run(ids.tolist(), [], forced)["logits"]
    none = np.zeros((0, 3, 14, 14), np.float32)
    assert (
        max_error(generated(open_runtime(bundle, "onnxruntime"), ids.tolist(), none, forced).logits[:, 0], want) < FP32
    )


REFUSED = {
    "another method": (dict(peft_type="IA3"), "peft_type is 'IA3': Input should be 'LORA'"),
    "DoRA": (dict(use_dora=True), "use_dora is True, which is not supported"),
    "biases of the LoRA": (dict(lora_bias=True), "lora_bias is True"),
    "layers made twice": (dict(layer_replication=[[0, 4], [2, 4]]), r"layer_replication is \[\[0, 4\], \[2, 4\]\]"),
    "tokens": (dict(trainable_token_indices=[5]), r"trainable_token_indices is \[5\]"),
    "parameters": (dict(target_parameters=["a"]), r"target_parameters is \['a'\]"),
    "an activated LoRA": (dict(alora_invocation_tokens=[5]), "alora_invocation_tokens"),
    "a changed base": (dict(init_lora_weights="pissa_niter_4"), "init_lora_weights is 'pissa_niter_4', which changed the"),
    "alpha without end": (dict(lora_alpha=math.inf), "lora_alpha is inf"),
    "no number": (dict(lora_alpha=math.nan), "lora_alpha is nan"),
    "alpha of nothing": (dict(lora_alpha=0), "lora_alpha is 0: .*greater than 0"),
    "alpha beyond reason": (dict(lora_alpha=1e7), "lora_alpha is 10000000.0"),
    "alpha of one module": (dict(alpha_pattern={"q_proj": -1}), "alpha_pattern.q_proj is -1"),
    "no rank": (dict(r=0), "r is 0: .*greater than 0"),
    "another rank": (dict(r=4), r"r of 'model.layers.0.self_attn.q_proj' is 4 in the file, but its pair has rank 2"),
    "another rank by a pattern": (dict(rank_pattern={"layers.1.*q_proj": 8}), "r of 'model.layers.1.self_attn.q_proj' is 8"),
    "no pattern": (dict(rank_pattern={"(": 8}), r"'\(' is no regular expression"),
    "a pattern without end": (dict(alpha_pattern={"([a-z.]+)+x": 8}), "repeats a group"),
}  # fmt: skip


@pytest.mark.parametrize("title", REFUSED)
def test_what_its_config_may_not_say(title, base, tmp_path):
    said, what = REFUSED[title]
    folder = write_lora(tmp_path / "lora", pairs(base, targets=EVERY[:1]), **said)
    with pytest.raises(UserError, match=what) as error:
        load_checkpoint(Sources(folder, base_weights=base))
    assert error.value.where == str(folder / "adapter_config.json") and "give " in error.value.fix


Q = "model.layers.0.self_attn.q_proj"
DAMAGED = {
    "half a pair": ({f"{Q}.lora_B.weight": None}, f"has '{Q}.lora_A.weight' without '{Q}.lora_B.weight'"),
    "another width": ({f"{Q}.lora_A.weight": (2, 65)}, r"the LoRA of .*does not fit: B \[64, 2\] times A \[2, 65\]"),
    "a layer too many": ({f"{Q.replace('0', '9')}.lora_{h}.weight": (2, 2) for h in "AB"}, "changes 'model.layers.9.*does not have"),
    "a module of its own": ({"model.layers.0.mlp.w.lora_A.weight": (2, 2)}, "unknown key 'model.layers.0.mlp.w.lora_A.weight' of shape .2, 2. in a LoRA"),
    "an embedding's": ({"model.embed_tokens.lora_embedding_A": (2, 96)}, "unknown key .*lora_embedding_A.*in a LoRA.*merge the LoRA into its base model"),
    "a magnitude": ({f"{Q}.lora_magnitude_vector": (64,)}, "unknown key .*lora_magnitude_vector'"),
    "another tensor": ({"model.layers.0.extra.weight": (2,)}, "unknown key 'model.layers.0.extra.weight'"),
}  # fmt: skip


@pytest.mark.parametrize("title", DAMAGED)
def test_what_does_not_fit_is_named(title, base, tmp_path):
    changes, what = DAMAGED[title]
    lora = pairs(base, targets=EVERY[:1]) | {k: torch.ones(s) if s else s for k, s in changes.items()}
    folder = write_lora(tmp_path / "lora", {key: tensor for key, tensor in lora.items() if tensor is not None})
    with pytest.raises(UserError, match=what) as error:
        load_checkpoint(Sources(folder, base_weights=base))
    assert str(folder) in error.value.where


def test_other_parts_of_a_lora_among_whole_weights_are_named(base, tmp_path):
    tensors = read_folder(base) | {"model.embed_tokens.lora_embedding_A": torch.ones(2, 96)}
    folder = whole(base, tmp_path / "whole", tensors)
    with pytest.raises(UserError, match=r"unknown key .*lora_embedding_A' .*part of a LoRA is not .*merge_and_unload"):
        load_checkpoint(Sources(folder))


def test_files_that_are_missing_are_named(base, tmp_path):
    folder = write_lora(tmp_path / "lora", pairs(base))
    with pytest.raises(
        UserError, match=r"this is a LoRA, not a whole model \(adapter_config.json\).*--base-weights DIR"
    ):
        load_checkpoint(Sources(folder))
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no adapter_model\.safetensors or adapter_model\.bin beside it"):
        load_checkpoint(Sources(folder, base_weights=base))
