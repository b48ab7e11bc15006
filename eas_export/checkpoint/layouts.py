"""What is refused by name: layouts of parts of a model and of training's own checkpoints, with the tool that makes a whole model of each, and
published systems that are not supported, with the reason. A LoRA is refused but for where its base model is given (peft.py).

Formats: PEFT's save_pretrained; LLaVA's training of the projector alone; DeepSpeed's ZeRO, also as PyTorch Lightning's strategy, whose
checkpoint is a folder; torch.distributed.checkpoint, as FSDP uses it; llama.cpp's GGUF; NVIDIA NeMo's archives; the files of DAS on LLaMA and
LLaVA, and of LLaMA-Adapter.
"""

import fnmatch
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from ..core.errors import UserError
from ..core.record import quoted

ADAPTER_CONFIG = "adapter_config.json"
MERGE_LORA = (
    "merge the LoRA into its base model with PEFT's merge_and_unload() and save_pretrained(), and give the result"
)
LORA_PART = ".lora_"  # in the keys of its tensors
MERGE = "python scripts/merge_lora_weights.py --model-path {folder} --model-base BASE --save-model-path OUT"


@dataclass(frozen=True)
class Layout:
    """what   the end of a sentence
    files  patterns of names in the folder, or of the file itself, each of which tells
    fix    what makes a whole model; {folder} stands for the path, quoted for a shell ({path!r}: for Python), {place} for the folder that
           tells, if it is one inside
    """

    what: str
    files: tuple[str, ...]
    fix: str


LAYOUTS = (  # the first that fits
    Layout(  # before the next row: a LoRA of LLaVA has non_lora_trainables.bin, too
        "a LoRA, not a whole model",
        (ADAPTER_CONFIG, "adapter_model.*"),
        f"for a LoRA of LLaVA, also pass the model that it was trained on, with --base-weights DIR; else {MERGE_LORA}",
    ),
    Layout(
        "LLaVA's projector, without a language model",
        ("mm_projector.bin", "non_lora_trainables.bin"),
        f"give the folder of a fine-tuned model, or join the projector and its language model, in LLaVA's repository, with: {MERGE}",
    ),
    Layout(
        "a DeepSpeed checkpoint of PyTorch Lightning, in parts",
        ("checkpoint/*_model_states.pt",),
        "join the parts with lightning.pytorch.utilities.deepspeed's convert_zero_checkpoint_to_fp32_state_dict({path!r}, 'OUT.ckpt'), and "
        "give OUT.ckpt",
    ),
    Layout(
        "a DeepSpeed ZeRO checkpoint, in parts",
        ("zero_to_fp32.py", "global_step*"),
        "join the parts, in {folder}, with: python zero_to_fp32.py . . (before DeepSpeed 0.15.3: python zero_to_fp32.py . "
        "pytorch_model.bin); then give the folder again",
    ),
    Layout(
        "an FSDP checkpoint, in parts",
        ("pytorch_model_fsdp_*", "*.distcp"),
        "join the parts with: accelerate merge-weights {place} {folder} (writes model.safetensors there), or python -m "
        "torch.distributed.checkpoint.format_utils dcp_to_torch {place} OUT.pth (writes one file of torch)",
    ),
    Layout("a GGUF file of llama.cpp", ("*.gguf",), "give the original model, as safetensors or .bin"),
    Layout(
        "an archive of NVIDIA NeMo",
        ("*.nemo",),
        "convert the archive to Hugging Face's layout with NeMo's scripts, and give that folder",
    ),
)


@dataclass(frozen=True)
class Unsupported:
    """A published system.

    keys  patterns of keys in its files, which no supported system has together: a file with all of them is its
    why   the reason, a clause
    """

    name: str
    keys: tuple[str, ...]
    why: str
    fix: str


PROMPTS = "each of its last attentions adds a second softmax over learned prompts, which is not built yet"
OVER_LLAMA = "give LaVIN, LaVIN-LoRA, LaVIN-DAS or LaVIN-EAS, trained over the same LLaMA"
UNSUPPORTED = (  # the first that fits
    Unsupported(
        "LLaVA-DAS",
        ("*layers.*.adapter_[ar]*.down.weight",),  # adapter_adapt_0, adapter_adapt_1 and adapter_replace
        "its published code cannot finish its training nor load what it saves, so that no file says what it computes",
        "give LLaVA-EAS, or LaVIN-DAS to compare with a model that skips whole layers",
    ),
    Unsupported(
        "LLaMA-DAS",
        ("*layers.*_a*.down_sampler.weight",),  # adapter_attn and replaced_adapter
        "its adapters have a ReLU and never fold, and its published decoding attends to a cache slot that nothing was written to",
        OVER_LLAMA,
    ),
    Unsupported(
        "LLaMA-Adapter v2",
        ("*adapter_query.weight", "*visual_query.weight", "*.attention.gate"),
        PROMPTS,
        OVER_LLAMA,
    ),
    Unsupported(
        "LLaMA-Adapter",
        ("*adapter_query.weight", "*.attention.gate"),
        PROMPTS,
        OVER_LLAMA,
    ),
)


def refuse_unsupported(keys: Collection[str], where: object) -> None:
    """Raise UserError for the keys of a published system that is not supported."""
    for system in UNSUPPORTED:
        found = [next((key for key in keys if fnmatch.fnmatchcase(key, pattern)), None) for pattern in system.keys]
        if all(found):
            what = f"this is a checkpoint of {system.name} (it has {quoted(found[0])}), which is not supported: {system.why}"
            raise UserError(what, where=where, fix=system.fix)


def refuse_part(path: Path) -> None:
    """Raise UserError if a folder, or a file by its name, is in one of these layouts. Whole weights beside are not looked for."""
    is_folder = os.path.isdir(path)
    for layout in LAYOUTS:
        for pattern in layout.files:
            found = min(path.glob(pattern), default=None) if is_folder else path if path.match(pattern) else None
            if found:
                places = {
                    "path": str(path),
                    "folder": quote(str(path)),
                    "place": quote(str(found if found.is_dir() else path)),
                }
                name = found.relative_to(path) if is_folder else found.name
                what = f"this is {layout.what} ({name})"
                raise UserError(what, where=path, fix=layout.fix.format(**places))


def refuse_lora_beside(folder: Path) -> None:
    """Raise UserError for a LoRA beside whole weights, where transformers would add it to the base model that it names."""
    if (folder / ADAPTER_CONFIG).is_file():
        what = f"the folder has a LoRA ({ADAPTER_CONFIG}) beside whole weights, and either may be meant"
        fix = (
            f"move {ADAPTER_CONFIG} and adapter_model.* into another folder; if they are not merged into these weights yet, pass that as --ckpt "
            f"and --base-weights {quote(str(folder))}"
        )
        raise UserError(what, where=folder, fix=fix)
