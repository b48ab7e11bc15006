"""verify --against transformers: every form of file is the same to transformers and to us, and what a loader misreads is found."""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch
from conftest import LAVIN_CASES, LLAVA_CASES, golden_case, llava_golden_case
from meter_cases import METER_CASES, MeterCase
from reference.files import read_folder
from safetensors.torch import save_file
from synthetic_llava import LlavaShape, write_llava

from eas_export import build, inspect, open_bundle, verify
from eas_export.checkpoint.hf_rope import RopeKeys
from eas_export.core.errors import UserError
from eas_export.demo import CHECKPOINT
from eas_export.families import NO_TOKENIZER
from eas_export.families.llava import tower

load = import_module("eas_export.families.llava.load")  # the package has a function of this name
read_part = import_module("eas_export.families.llava.read")
SHAPE = LlavaShape(layers=3, skip=(1,), heads=4, kv_heads=2)
WITNESS = "transformers"
SMALL = {"max_prompt": 24, "max_tokens": 32}


def witnessed(folder: Path, out: Path, vision: Path | None = None, **options):
    """The report of a build of this folder beside transformers, and its witness's step."""
    bundle = build(folder, out, vision=vision, verify=False, **SMALL, **options).bundle
    report = verify(bundle, folder, vision=vision, steps=2, against=WITNESS)
    return report, report.steps[0]


def config(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def tensors(**changes: Callable[[dict], torch.Tensor] | None) -> Callable[[Path], None]:
    """Tensors of the checkpoint made anew; "__" for "." """

    def change(folder: Path) -> None:
        held = {key: tensor.clone() for key, tensor in read_folder(folder).items()}
        held |= {key.replace("__", "."): make(held) for key, make in changes.items()}
        torch.save(held, folder / "pytorch_model.bin")

    return change


def own_tower(folder: Path, change: float = 0.0) -> None:
    """The tower's tensors beside the model's, as training saves them; changed as training would."""
    torch.manual_seed(0)
    trained = {
        f"model.vision_tower.vision_tower.{key}": tensor + change * torch.randn_like(tensor)
        for key, tensor in read_folder(folder / "vision_tower").items()
    }
    torch.save(read_folder(folder) | trained, folder / "pytorch_model.bin")


def together(*changes: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda folder: [change(folder) for change in changes]


def as_shards(folder: Path) -> None:
    held = list(read_folder(folder).items())
    (folder / "pytorch_model.bin").unlink()
    files = {}
    for number, part in enumerate((held[::2], held[1::2]), start=1):
        name = f"model-0000{number}-of-00002.safetensors"
        save_file({key: tensor.contiguous() for key, tensor in part}, folder / name)
        files |= {key: name for key, _ in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def halved(dtype: torch.dtype) -> Callable[[Path], None]:
    return lambda folder: torch.save(
        {key: tensor.to(dtype) for key, tensor in read_folder(folder).items()}, folder / "pytorch_model.bin"
    )


def of_transformers_5(folder: Path) -> None:
    """A tower without the prefix of older versions."""
    path = folder / "vision_tower" / "pytorch_model.bin"
    held = {key.removeprefix("vision_model."): t for key, t in torch.load(path, weights_only=True).items()}
    torch.save(held, path)


def tower_without_weights(folder: Path) -> None:
    own_tower(folder)
    (folder / "vision_tower" / "pytorch_model.bin").unlink()


def left_over_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"lm_head.weight": "gone.safetensors"}}')


def random(*shape: int) -> Callable[[dict], torch.Tensor]:
    return lambda held: 0.2 * torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def of_heads(size: int) -> dict[str, Callable[[dict], torch.Tensor]]:
    """Attentions whose heads have this size, in the layers that have one."""
    q, kv = SHAPE.heads * size, SHAPE.kv_heads * size
    shapes = {"q": (q, SHAPE.dim), "k": (kv, SHAPE.dim), "v": (kv, SHAPE.dim), "o": (SHAPE.dim, q)}
    return {f"model__layers__{i}__self_attn__{x}_proj__weight": random(*shapes[x]) for i in (0, 2) for x in shapes}


def biases() -> dict[str, Callable[[dict], torch.Tensor]]:
    """Of attentions, in the layers that have one, and of feed-forward networks."""
    kv, sizes = SHAPE.kv_heads * SHAPE.dim // SHAPE.heads, {"gate": SHAPE.ffn, "up": SHAPE.ffn, "down": SHAPE.dim}
    attention = {"q": SHAPE.dim, "k": kv, "v": kv, "o": SHAPE.dim}
    made = {f"model__layers__{i}__self_attn__{x}_proj__bias": random(n) for i in (0, 2) for x, n in attention.items()}
    return made | {f"model__layers__{i}__mlp__{x}_proj__bias": random(n) for i in range(3) for x, n in sizes.items()}


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 16}
TIED = config(tie_word_embeddings=True)
FORMS: dict[str, Callable[[Path], None]] = {
    "as written": lambda folder: None,
    "shards": as_shards,
    "an index left over": left_over_index,
    "fp16": halved(torch.float16),
    "bf16": halved(torch.bfloat16),
    "theta": config(rope_theta=5e5),
    "theta in rope_parameters": config(rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 5e5}),
    "theta in both": config(rope_theta=1e6, rope_parameters={"type": "default", "rope_theta": 5e5}),
    "RoPE by a factor of 2": config(rope_scaling={"type": "linear", "factor": 2.0}),
    "RoPE of Llama 3": config(rope_parameters=LLAMA3),
    "another head size": together(config(head_dim=24, rope_scaling=YARN), tensors(**of_heads(24))),
    "biases": together(config(attention_bias=True, mlp_bias=True), tensors(**biases())),
    "RoPE by a factor of 1": config(rope_scaling={"type": "linear", "factor": 1.0}),
    "epsilon": config(rms_norm_eps=1e-2),
    "epsilon left out": lambda f: (f / "config.json").write_text((f / "config.json").read_text().replace('"rms_norm_eps": 1e-05, ', "")),
    "tied, with a head of its own": TIED,
    "tied, with the same head": together(TIED, tensors(lm_head__weight=lambda held: held["model.embed_tokens.weight"].clone())),
    "another layer of the tower": config(mm_vision_select_layer=-1),
    "layer counted from the start": config(mm_vision_select_layer=1),
    "tower of transformers 5": of_transformers_5,
    "own tower, frozen": own_tower,
    "own tower, trained": together(lambda f: own_tower(f, 0.1), config(unfreeze_mm_vision_tower=True)),
    "own tower, changed but not said": lambda f: own_tower(f, 0.1),
    "own tower alone": tower_without_weights,
    "quantised, says config.json alone": config(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
    "attention from the hub": config(_attn_implementation="kernels-community/flash-attn", auto_map={"AutoConfig": "x.Y"}),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_llava_is_the_same_to_transformers(form, tmp_path):
    folder = write_llava(tmp_path / "ckpt", SHAPE)
    FORMS[form](folder)
    report, step = witnessed(folder, tmp_path / "a.bundle")
    assert report.verdict == "same as the checkpoint", report.first_divergence
    assert step.name == WITNESS and set(step.cases) == {"text", "image", "shortest", "longest"}
    assert [line.stage for line in step.cases["image"]] == ["vision", "logits"]
    blocks = [block for block in report.blocks if block.step == WITNESS]
    assert [(block.layer, block.kind) for block in blocks] == [(0, "kept"), (1, "skipped"), (2, "kept")]
    assert all(block.ok for block in blocks) and "without the attentions of layers 1, which the files lack" in step.what


def test_two_images_in_a_prompt(tmp_path):
    folder = write_llava(tmp_path / "ckpt", SHAPE)
    report, step = witnessed(folder, tmp_path / "a.bundle", max_images=2)
    assert report.verdict == "same as the checkpoint", report.first_divergence
    assert "two images" in step.cases


@pytest.mark.parametrize("folder_named", ["by config.json", "by --vision"])
@pytest.mark.parametrize("trained", [True, False])
def test_which_tower_is_built(trained, folder_named, tmp_path):
    """LLaVA's code loads the folder's tower over the checkpoint's own, unless that was trained. The right features are those of a
    CLIPVisionModel of either."""
    folder = write_llava(tmp_path / "ckpt", SHAPE)
    own_tower(folder, 0.1)
    config(unfreeze_mm_vision_tower=trained)(folder)
    vision = None
    if folder_named == "by --vision":
        vision = (folder / "vision_tower").rename(tmp_path / "clip")
    report, _ = witnessed(folder, tmp_path / "a.bundle", vision=vision)
    assert report.verdict == "same as the checkpoint", report.first_divergence
    notes = " ".join(inspect(tmp_path / "a.bundle").notes)
    name = "clip" if vision else "vision_tower"
    if trained:
        assert f"the checkpoint's own is built, not that of {name}" in notes
    else:
        assert f"the vision tower of {name} is built, not the checkpoint's own" in notes and "which differs" in notes
    stored = open_bundle(tmp_path / "a.bundle").store.tensor("vision.position_embedding")
    key = "vision_model.embeddings.position_embedding.weight"
    own, of_folder = (
        read_folder(folder)[f"model.vision_tower.vision_tower.{key}"],
        read_folder(vision or folder / "vision_tower")[key],
    )
    assert torch.equal(stored, own if trained else of_folder) and not torch.equal(own, of_folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_tower_that_was_only_rounded_is_no_other_tower(dtype, tmp_path):
    folder = write_llava(tmp_path / "ckpt", SHAPE)
    own_tower(folder)
    held = {k: t.to(dtype) if "vision_tower" in k else t for k, t in read_folder(folder).items()}
    torch.save(held, folder / "pytorch_model.bin")
    assert inspect(folder).notes == (NO_TOKENIZER,)
    held = {k: t.to(torch.bfloat16).to(torch.float16) if "vision_tower" in k else t for k, t in held.items()}
    torch.save(held, folder / "pytorch_model.bin")  # trained in bf16, published as fp16
    assert inspect(folder).notes == (NO_TOKENIZER,)
    own_tower(folder, 0.1)
    assert "which differs" in inspect(folder).notes[0]


def test_tower_and_flag_without_own_tensors(tmp_path):
    folder = write_llava(tmp_path / "ckpt", SHAPE)
    config(unfreeze_mm_vision_tower=True)(folder)
    report, _ = witnessed(folder, tmp_path / "a.bundle")
    assert report.verdict == "same as the checkpoint" and inspect(folder).notes == (NO_TOKENIZER,)


@pytest.mark.parametrize("name", LLAVA_CASES)
def test_golden_llava(name, bundle_of, tmp_path):
    case = llava_golden_case(name)
    report = verify(bundle_of(case), case.folder, steps=2, against=WITNESS)
    assert report.verdict == "same as the checkpoint", report.first_divergence
    assert report.steps[0].name == WITNESS and "image" in report.steps[0].cases


@pytest.mark.parametrize("name", LAVIN_CASES)
def test_golden_lavin(name, bundle_of):
    case = golden_case(name)
    report = verify(bundle_of(case), case.folder, steps=2, against=WITNESS)
    assert report.verdict == "same as the checkpoint", report.first_divergence
    assert set(report.steps[0].cases) == {"text", "shortest"}  # those without an image


@pytest.mark.parametrize("name", METER_CASES)
def test_golden_meter(name, meter_bundle_of):
    case = MeterCase(name)
    report = verify(meter_bundle_of(case), case.file, against=WITNESS)
    assert report.verdict == "same as the checkpoint", report.first_divergence
    parts = {block.part for block in report.blocks if block.step == WITNESS}
    assert parts == {"text encoder", "image encoder"}


def test_the_demo(tmp_path):
    report, step = witnessed(CHECKPOINT, tmp_path / "a.bundle")
    assert report.verdict == "same as the checkpoint" and step.ok


def swapped(monkeypatch) -> None:
    """Keys for queries, everywhere."""
    table = load.layer_keys()
    q, k = "model.layers.{attention}.self_attn.q_proj.weight", "model.layers.{attention}.self_attn.k_proj.weight"
    monkeypatch.setattr(load, "layer_keys", lambda *biases: table | {q: table[k], k: table[q]})


def other_theta(monkeypatch) -> None:
    scaled = RopeKeys.rope
    monkeypatch.setattr(RopeKeys, "rope", lambda *given: scaled(*given).model_copy(update={"theta": 2e4}))


def other_epsilon(monkeypatch) -> None:
    read = read_part.read_config
    monkeypatch.setattr(read_part, "read_config", lambda f: read(f).model_copy(update={"rms_norm_eps": 1e-1}))


def other_tower(monkeypatch) -> None:
    """As if no tower had been trained."""
    find = tower.find_tower
    monkeypatch.setattr(
        load, "find_tower", lambda c, *others: find(c.model_copy(update={"unfreeze_mm_vision_tower": False}), *others)
    )


def other_head(monkeypatch) -> None:
    """As if the head were the embedding."""
    monkeypatch.setattr(load, "tie", lambda published, config: (published, True, ()))


MISREAD = {  # fault of a loader -> the layer and the stage at which the witness finds it
    "queries for keys": (swapped, 0, "block"),
    "another theta": (other_theta, 0, "block"),
    "another epsilon": (other_epsilon, 0, "block"),
    "another tower": (other_tower, None, "vision"),
    "another head": (other_head, None, "logits"),
}


@pytest.mark.parametrize("fault", MISREAD)
def test_what_a_loader_misreads_is_found_by_the_witness_alone(fault, monkeypatch, tmp_path):
    """Both sides of every other step have the same fault."""
    plant, layer, stage = MISREAD[fault]
    folder = write_llava(tmp_path / "ckpt", LlavaShape(layers=3, skip=(1,)))
    own_tower(folder, 0.1)
    config(unfreeze_mm_vision_tower=True)(folder)
    plant(monkeypatch)
    report, step = witnessed(folder, tmp_path / "a.bundle")
    assert report.exit_code == 1 and not (step.ok and all(b.ok for b in report.blocks if b.step == WITNESS))
    found = report.first_divergence
    assert (found.step, found.layer, found.stage) == (WITNESS, layer, stage)
    assert verify(tmp_path / "a.bundle", folder, steps=2).verdict == "same as the checkpoint"


@pytest.mark.parametrize(
    "odd",
    [{"initializer_range": "0.02"}, {"eos_token_id": "2"}, {"pad_token_id": 10**9}],
    ids=lambda odd: next(iter(odd)),
)
def test_what_transformers_refuses_is_no_fault_of_ours(odd, tmp_path, refused):
    folder = write_llava(tmp_path / "ckpt", SHAPE)
    config(**odd)(folder)
    build(folder, tmp_path / "a.bundle", verify=False, **SMALL)
    said = refused("verify", tmp_path / "a.bundle", "--ckpt", folder, "--against", WITNESS)
    assert "transformers cannot load these files" in said


def test_a_tower_without_its_config_that_transformers_does_not_know(tmp_path, refused, command):
    folder = write_llava(tmp_path / "ckpt", SHAPE)
    own_tower(folder)
    (folder / "vision_tower").rename(tmp_path / "clip")
    config(mm_vision_tower="openai/clip-vit-large-patch14")(folder)
    build(folder, tmp_path / "a.bundle", verify=False, **SMALL)
    asked = ("verify", tmp_path / "a.bundle", "--ckpt", folder, "--against", WITNESS)
    assert "pass --vision DIR" in refused(*asked)
    assert command(*asked, "--vision", tmp_path / "clip")[0] == 0


def test_an_older_transformers_is_told(bundle_of, refused, monkeypatch):
    case = llava_golden_case("a")
    monkeypatch.setattr("transformers.__version__", "4.37.2")
    said = refused("verify", bundle_of(case).path, "--ckpt", case.folder, "--against", WITNESS)
    assert "transformers 4.37.2 is installed: the comparison needs 5 or later" in said and "-U" in said


def test_lavin_with_two_llamas(bundle_of, tmp_path):
    """The training arguments choose."""
    case = golden_case("half_13B")
    folder = shutil.copytree(case.folder, tmp_path / "data")
    other = shutil.copytree(golden_case("all").folder / "weights", tmp_path / "other")
    (theirs,) = (path.parent for path in other.glob("*/params.json"))
    shutil.copytree(theirs, folder / "weights" / "another")
    report = verify(bundle_of(case), folder, steps=2, against=WITNESS)
    assert report.verdict == "same as the checkpoint", report.first_divergence


def test_lavin_without_an_epsilon_has_metas(tmp_path):
    folder = shutil.copytree(golden_case("all").folder, tmp_path / "data")
    (params,) = folder.glob("weights/*/params.json")
    params.write_text(json.dumps({k: v for k, v in json.loads(params.read_text()).items() if k != "norm_eps"}))
    report, _ = witnessed(folder, tmp_path / "a.bundle")
    assert report.verdict == "same as the checkpoint", report.first_divergence


def test_a_pickle_with_more_than_tensors_is_not_run(bundle_of, tmp_path, refused):
    """torch's own message advises to run it."""
    case = golden_case("all")
    folder = shutil.copytree(case.folder, tmp_path / "data")
    file = min(folder.glob("weights/*/consolidated.*.pth"))
    torch.save(torch.load(file, weights_only=True) | {"extra": argparse.Namespace(a=1)}, file)
    said = refused("verify", bundle_of(case).path, "--ckpt", folder, "--against", WITNESS)
    assert "torch.load refuses a file here" in said and "weights_only" not in said


def test_it_needs_the_checkpoint_and_says_what_to_install(bundle_of, command, refused, monkeypatch):
    bundle = bundle_of(llava_golden_case("a"))
    assert "--against transformers needs the checkpoint's files" in refused("verify", bundle.path, "--against", WITNESS)
    with pytest.raises(UserError, match="unknown witness 'vllm'"):
        verify(bundle, llava_golden_case("a").folder, against="vllm")
    monkeypatch.setitem(sys.modules, "transformers", None)
    said = refused("verify", bundle.path, "--ckpt", llava_golden_case("a").folder, "--against", WITNESS)
    assert "transformers is not installed" in said and "pip install" in said


def test_it_says_how_much_memory_it_takes(bundle_of, monkeypatch, refused):
    case = llava_golden_case("a")
    monkeypatch.setattr(import_module("eas_export.verify.witness"), "PROCESS", 10**15)
    said = refused("verify", bundle_of(case).path, "--ckpt", case.folder, "--against", WITNESS)
    assert "the model in transformers, in float32, takes up to 1000000.00 GB of memory" in said


def test_a_report_shows_the_witness(bundle_of, command, tmp_path):
    case, page = llava_golden_case("a"), tmp_path / "report.html"
    code, text, _ = command("verify", bundle_of(case).path, "--ckpt", case.folder, "--against", WITNESS, "--html", page)
    assert code == 0 and "transformers: each prompt's largest error" in text
    assert "the model without its adapters" in text and "without the attentions of layers 3, 5" in text
    assert "transformers" in page.read_text() and "by themselves" in page.read_text()


def test_transformers_is_not_imported_without_it(bundle_of):
    case = llava_golden_case("a")
    program = f"""
import sys
from eas_export import verify
verify({str(bundle_of(case).path)!r}, {str(case.folder)!r}, steps=1)
assert "transformers" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
