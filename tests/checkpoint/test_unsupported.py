"""Published systems that are not supported: each is named with its reason, wherever its file is given; those beside it load."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import GOLDEN, golden_case
from reference.files import read_folder

from eas_export.checkpoint.layouts import refuse_unsupported
from eas_export.core.errors import UserError
from eas_export.families import FAMILIES, load_checkpoint
from eas_export.families.contract import Sources

COMPARATORS, LLAVA, LAVIN = GOLDEN / "comparators", GOLDEN / "llava" / "a", golden_case("all").folder
FILES = {  # of the published code
    "LLaMA-DAS": COMPARATORS / "llama-das" / "mid" / "checkpoint-19.pth",
    "LLaMA-Adapter": COMPARATORS / "llama-adapter-v1" / "len3" / "llama_adapter_len3_layer3.pth",
    "LLaMA-Adapter v2": COMPARATORS / "llama-adapter-v2" / "bias" / "checkpoint.pth",
}
REASONS = {
    "LLaVA-DAS": "cannot finish its training nor load what it saves",
    "LLaMA-DAS": "its adapters have a ReLU and never fold.*give LaVIN, LaVIN-LoRA, LaVIN-DAS or LaVIN-EAS",
    "LLaMA-Adapter": "a second softmax over learned prompts",
    "LLaMA-Adapter v2": "a second softmax over learned prompts",
}
LLAVA_DAS = {  # LLaVA-DAS/llava/train/das_adapter.py: its adapters' names and shapes, of both a kept and a skipped layer
    f"model.layers.{i}.{name}.{part}": shape
    for i in range(2)
    for name in ("adapter_adapt_0", "adapter_adapt_1", "adapter_replace")
    for part, shape in {
        "down.weight": (4, 32),
        "down.bias": (4,),
        "up.weight": (32, 4),
        "up.bias": (32,),
    }.items()
}


def say(name: str) -> str:
    return rf"(?s)this is a checkpoint of {name} \(it has .*, which is not supported: .*{REASONS[name]}"


def given(role: str, file: Path, folder: Path) -> Sources:
    """A file in the place of an option, or in a folder of the published layout with one."""
    if role == "--ckpt":
        return Sources(file)
    if role == "--ckpt, weights and tower beside":
        shutil.copytree(LAVIN, folder, ignore=shutil.ignore_patterns("checkpoint-*", "*.npz"))
    folder.mkdir(exist_ok=True)
    copy = shutil.copy(file, folder / file.name)
    return {
        "--ckpt, a folder": Sources(folder),
        "--ckpt, weights and tower beside": Sources(folder),
        "--weights": Sources(LAVIN, weights=folder),
        "--weights, the file": Sources(LAVIN, weights=copy),
        "--vision": Sources(LLAVA, vision=folder),
        "--vision, the file": Sources(LAVIN, vision=copy),
        "--base-weights": Sources(LLAVA, base_weights=folder),
    }[role]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "role",
    [
        "--ckpt",
        "--ckpt, a folder",
        "--ckpt, weights and tower beside",
        "--weights",
        "--weights, the file",
        "--vision",
        "--vision, the file",
        "--base-weights",
    ],
)
def test_a_system_is_named_whatever_its_file_is_given_as(role, name, tmp_path):
    with pytest.raises(UserError, match=say(name)):
        load_checkpoint(given(role, FILES[name], tmp_path / "given"))


@pytest.fixture(scope="module")
def llava_das(tmp_path_factory) -> Path:
    """What its search would save: LLaVA's own tensors, and all adapters in every layer."""
    folder = tmp_path_factory.mktemp("unsupported") / "llava-das"
    shutil.copytree(LLAVA, folder, ignore=shutil.ignore_patterns("*.bin*", "*.safetensors", "*.npz", "*.index.json"))
    plain = {key: tensor for key, tensor in read_folder(LLAVA).items() if "adapter" not in key}
    torch.save(plain | {key: torch.ones(shape) for key, shape in LLAVA_DAS.items()}, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("role", ["ckpt", "base_weights", "weights"])
def test_llava_das_is_named_whatever_its_folder_is_given_as(role, llava_das):
    ckpt = {"ckpt": llava_das, "base_weights": LLAVA, "weights": LAVIN}[role]
    with pytest.raises(UserError, match=say("LLaVA-DAS")):
        load_checkpoint(Sources(ckpt, **{} if role == "ckpt" else {role: llava_das}))


def test_commands_say_so(bundle_of, refused, tmp_path):
    """verify looks for the family of its bundle."""
    das, prompts, bundle = FILES["LLaMA-DAS"], FILES["LLaMA-Adapter"], bundle_of(golden_case("all")).path
    for file, name in ((das, "LLaMA-DAS"), (prompts, "LLaMA-Adapter")):
        for line in (
            ("build", "--ckpt", file, "--out", tmp_path / "b"),
            ("inspect", file),
            ("verify", bundle, "--ckpt", file),
        ):
            assert f"this is a checkpoint of {name} (it has" in refused(*line), line


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bundle_of_any_family_gets_the_same_answer(family):
    with pytest.raises(UserError, match=say("LLaMA-Adapter")):
        load_checkpoint(Sources(FILES["LLaMA-Adapter"]), family)


@pytest.mark.parametrize(
    "keys",
    [
        ["layers.0.replaced_adapter.conv_A.weight", "layers.1.adapter_attn.conv_A.weight"],  # LaVIN-DAS
        ["model.layers.0.adapter_attn.conv_B.weight", "model.layers.0.mlp.down_proj.weight"],  # LLaVA-EAS
        ["cross_modal_text_layers.0.attention.output.adapter.down_proj.weight"],  # METER-DAS
        ["layers.0.attention.wq.lora_A", "adapter_modality_embedding.weight"],  # LaVIN-LoRA
        ["model.layers.0.attention.gate", "visual_query.weight"],
        ["adapter_query.weight", "visual_query.weight"],
        ["layers.0.downsample.down.weight"],
    ],
)
def test_a_near_miss_is_nobodys(keys):
    refuse_unsupported(keys, "f")
