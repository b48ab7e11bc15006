"""Read LaVIN's files: a LLaMA, a checkpoint of adapters or low-rank pairs (`checkpoint-<epoch>.pth`) and OpenAI's CLIP ViT.

Formats, from the published training code:
- weights/<name>/params.json and consolidated.NN.pth (one file, or model-parallel shards); also the same model in Hugging Face's layout
- checkpoint-<epoch>.pth = {model, optimizer, epoch, scaler, args}: the adapters' tensors; only `args` records the skip list,
  scale, temperature and n_prompt
- clip/*.pth or *.pt: a state dict, or the TorchScript archive that OpenAI publishes
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.eas_adapter import rank_sizes
from ...checkpoint.keys import rename, require
from ...checkpoint.lazy_tensor import LazyTensor
from ...checkpoint.llama import EXPECTED, Llama, find_llama, read_llama
from ...checkpoint.lora import merge_pairs
from ...checkpoint.openai_clip import CLIP_KEYS, ClipSizes, clip_sizes
from ...checkpoint.restricted_unpickler import PlainObject
from ...checkpoint.state_dict import read_state, refuse_by_name
from ...core.configs.adapter import Router
from ...core.configs.decoder import ModelConfig
from ...core.errors import UserError
from ...core.plan import SkipEvidence, make_plan
from ...core.record import quoted, validated
from ...system.files import only_file
from ..contract import Sources
from ..processing.tokenizer import find_tokenizer
from .keys import ADAPTER_KEYS, SYSTEMS, System

ADAPTERS = "checkpoint-*.pth"
NAMED = "--ckpt FILE --weights DIR --vision FILE"
LAYOUT = f"lay the files out as weights/<name>/, clip/*.pth, checkpoint-*.pth, or name them with {NAMED}"
FEATURE_EVERY = 4  # the class token is read after blocks 4, 8, ...
AT_336_PIXELS = 577  # positions of the ViT-L/14 that the published code never uses
QUANTISED = ("4bit", "8bit")  # values of args.bits
OPTIONS = {"adapter_scale": "--adapter-scale 1", "temperature": "--router-temperature 10"}  # with published values
LORA_ALPHA = 16.0  # a constant of the published code, in no file
LARGEST_SETTING = 1e6  # scales are near 1, temperatures near 10
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Tensors = dict[str, LazyTensor]


@dataclass(frozen=True)
class Files:
    adapters: Path
    weights: Path  # LLaMA's folder
    vision: Path
    tokenizer: tuple[Path, ...]


def load(sources: Sources) -> Checkpoint:
    """Read the headers of the three parts. Raises UserError for missing, unknown, mis-shaped or mismatched tensors."""
    files, trained, args = open_files(sources)
    adapters_file = files.adapters
    llama = read_llama(files.weights)
    clip, _ = read_state(files.vision, CLIP_KEYS)

    system, layers = _system(trained, adapters_file), llama.config["layers"]
    held = _layers_with(trained, layers)
    sizes, vit = _sizes(llama, trained, held, system, clip, files)
    tensors = llama.tensors | rename(trained, system.layers, sizes, layers, str(adapters_file), groups=held)
    tensors |= rename(trained, system.tower, sizes, vit.blocks, str(adapters_file))
    tensors |= rename(clip, CLIP_KEYS, sizes, vit.blocks, str(files.vision))
    tensors = merge_pairs(tensors, lambda _, rank: LORA_ALPHA / rank, adapters_file)

    _check_n_prompt(args, vit.blocks, adapters_file)
    evidence = _evidence(held, args, adapters_file)
    settings = _settings(sources, args, adapters_file) if system.router else (1.0, 1.0)
    return Checkpoint(
        config=_config(llama, system, sizes, vit, *settings, files.vision),
        tensors=tensors,
        evidence=evidence,
        files=(adapters_file, *llama.files, files.vision, *files.tokenizer),
        notes=(*_notes(args), *_contradiction(evidence, layers, args), *llama.notes),
        tokenizer=files.tokenizer,
        system=system.name,
        known_by=f"{system.known_by} in the keys of {adapters_file.name}",
    )


def open_files(sources: Sources) -> tuple[Files, Tensors, dict[str, Any]]:
    """The files, the adapters' tensors and the training arguments, which choose among several LLaMAs."""
    folder = sources.ckpt.is_dir()
    if folder and not any(sources.ckpt.glob(ADAPTERS)):
        refuse_by_name(sources.ckpt)
    adapters = only_file(sources.ckpt, (ADAPTERS,), LAYOUT, NAMED) if folder else sources.ckpt
    trained, args = _read_trained(adapters)
    return _find_files(sources, adapters, args), trained, args


def _read_trained(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """The adapters' tensors, and the training arguments."""
    tensors, saved = read_state(path, ADAPTER_KEYS, "model")
    args = saved.get("args") if isinstance(saved, dict) else None
    args = vars(args) if isinstance(args, PlainObject) else args if isinstance(args, dict) else {}
    args = {key: _as_setting(value) for key, value in args.items()}
    _refuse_unsupported(args, path)
    return tensors, args


def _as_setting(value: Any) -> Any:
    """A value that messages can show: lists as text, objects and numbers of thousands of digits as their type's name."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(str(_plain(each)) for each in value)}]"
    return _plain(value)


def _plain(value: Any) -> Any:
    shown = value is None or isinstance(value, str | float) or (isinstance(value, int) and value.bit_length() < 10_000)
    return value if shown else type(value).__name__


def _system(trained: Tensors, where: Path) -> System:
    """The system that the keys tell. Raises UserError where they are no system's."""
    for system in SYSTEMS:
        if system.has(trained):
            return system
    known = ", ".join(f"{system.name} ({system.known_by})" for system in SYSTEMS)
    first = quoted(next(iter(trained))) if trained else "nothing"
    raise UserError(f"no layer of the checkpoint has adapters: it has {first}", where=where, fix=f"give one of {known}")


def _layers_with(trained: Tensors, layers: int) -> dict[str, tuple[int, ...]]:
    """The layers that have an adapter before their attention, or nothing at all, and those that have a replacement."""
    replaced = tuple(
        i for i in range(layers) if any(key.startswith(f"layers.{i}.replaced_adapter.") for key in trained)
    )
    kept = (
        i
        for i in range(layers)
        if i not in replaced or any(key.startswith(f"layers.{i}.adapter_attn.") for key in trained)
    )
    return {"kept": tuple(kept), "skipped": replaced}


def _evidence(held: dict[str, tuple[int, ...]], args: dict[str, Any], file: Path) -> SkipEvidence:
    """The skip list that the keys tell, where a layer has one adapter; else that of the training arguments."""
    kept, skipped = held["kept"], held["skipped"]
    if not set(kept) & set(skipped):
        return SkipEvidence(text=",".join(map(str, skipped)) or "none", origin=f"the keys of {file.name}")
    text = args.get("skip_list")
    return SkipEvidence(text=None if text is None else str(text), origin=f"args.skip_list of {file.name}")


def _contradiction(evidence: SkipEvidence, layers: int, args: dict[str, Any]) -> tuple[str, ...]:
    """A note where the training arguments list other skips than the keys tell, which are followed."""
    written = str(args.get("skip_list", "[]"))
    if evidence.text is None or evidence.text == written or written.strip() == "[]":
        return ()
    try:
        same = make_plan(layers, written, "args").skipped == make_plan(layers, evidence.text, evidence.origin).skipped
    except UserError:
        same = False
    return (
        ()
        if same
        else (f"args.skip_list is {written!r}, but {evidence.origin} say {evidence.text}: they are followed",)
    )


def _sizes(
    llama: Llama, trained: Tensors, held: dict[str, tuple[int, ...]], system: System, clip: Tensors, files: Files
) -> tuple[dict[str, int], ClipSizes]:
    """The sizes that the key tables name, and the tower's. Raises UserError where no LaVIN model has them."""
    where, tower = str(files.adapters), str(files.vision)
    places = {
        "skipped": [f"layers.{i}.replaced_adapter.conv_A.weight" for i in held["skipped"][:1]],
        "kept": [f"layers.{i}.adapter_attn.conv_A.weight" for i in held["kept"][:1]],
        "visual": ["backbone.visual.transformer.resblocks.0.adapter_attn.conv_A.weight"],
    }
    if system.router:
        found = {name: require(trained, key, 3, where)[0] for name, keys in places.items() for key in keys}
        if "skipped" in found:
            found.setdefault("kept", found["skipped"])  # where no layer is kept
        ranks = rank_sizes(found, where)
    else:
        ranks = {"lora": require(trained, "layers.0.attention.wq.lora_A", 2, where)[0]}
    vit = clip_sizes(clip, tower)
    if vit.blocks % FEATURE_EVERY or not vit.is_published or vit.positions == AT_336_PIXELS:
        raise UserError(
            f"a vision tower of {vit.blocks} blocks, width {vit.width} and {vit.positions} positions does not fit LaVIN",
            where=tower,
            fix="give CLIP's ViT-L/14 of 224 pixels: blocks divisible by 4, width by 64, a square of patches and one class token",
        )
    sizes = {
        "dim": llama.config["dim"],
        "projector": require(trained, "adapter_proj.conv_A.weight", 2, where)[0],
        "width": vit.width,
        "patch": vit.patch,
        "positions": vit.positions,
    }
    return sizes | ranks, vit


def _config(
    llama: Llama,
    system: System,
    sizes: dict[str, int],
    vit: ClipSizes,
    scale: float,
    temperature: float,
    where: Path,
) -> ModelConfig:
    def adapter(name: str, router: Router | None = system.router) -> dict[str, Any] | None:
        numbers = {"rank": sizes.get(name), "scale": scale, "temperature": temperature, "router": router}
        return numbers if name in sizes else None

    return validated(
        ModelConfig,
        where,
        "check that the files are complete and belong together",
        family="lavin",
        **llama.config,
        modality_token=system.modality_token,
        first_position=int(not system.modality_token),
        site=system.site,
        kept_adapter=adapter("kept"),
        skipped_adapter=adapter("skipped"),
        vision=dict(
            **vit.config,
            features="class",
            feature_every=FEATURE_EVERY,
            projector_width=sizes["projector"],
            projector_activation="silu",
            image=dict(square="squash", mean=IMAGENET_MEAN, std=IMAGENET_STD),
            adapter=adapter("visual", system.of_tower),
        ),
    )


def _find_files(sources: Sources, adapters: Path, args: dict[str, Any]) -> Files:
    base = sources.ckpt if sources.ckpt.is_dir() else None
    if base is None and (sources.weights is None or sources.vision is None):
        what = "the adapter checkpoint contains neither LLaMA nor CLIP"
        fix = f"also pass --weights DIR (with {EXPECTED}) and --vision FILE (CLIP ViT)"
        raise UserError(what, where=adapters, fix=fix)
    weights = find_llama(sources.weights or base / "weights", args.get("llm_model"))
    place = sources.vision or base / "clip"
    vision = (
        place if sources.vision and not os.path.isdir(place) else only_file(place, ("*.pth", "*.pt"), LAYOUT, NAMED)
    )
    return Files(
        adapters,
        weights,
        vision,
        find_tokenizer([weights, weights.parent, *([base] if base else [])], sources.tokenizer),
    )


def _refuse_unsupported(args: dict[str, Any], where: Path) -> None:
    for name, value, why, better in (
        ("visual_adapter_type", "router_block", "which the published code cannot run either", "router"),
        ("adapter_type", "mlp", "which the published code does not support", "attn"),
    ):
        if args.get(name) == value:
            raise UserError(f"{name} is {value!r}, {why}", where=f"{where}: args", fix=f"train with {name} {better!r}")


def _notes(args: dict[str, Any]) -> tuple[str, ...]:
    """What training did to LLaMA's weights, which are read as they are."""
    notes = []
    if args.get("use_vicuna"):
        notes.append("the adapters were trained on Vicuna: the LLaMA weights must already include Vicuna's delta")
    if (bits := args.get("bits")) in QUANTISED:
        notes.append(
            f"the adapters were trained on LLaMA quantised to {bits}, and run on the weights as they are in the files"
        )
    return tuple(notes)


def _check_n_prompt(args: dict[str, Any], blocks: int, where: Path) -> None:
    n_prompt = args.get("n_prompt", blocks // FEATURE_EVERY)
    if n_prompt != blocks // FEATURE_EVERY:
        what = f"n_prompt is {n_prompt}, but a tower of {blocks} blocks gives {blocks // FEATURE_EVERY} image tokens"
        raise UserError(what, where=f"{where}: args", fix="give the CLIP tower that the adapters were trained with")


def _settings(sources: Sources, args: dict[str, Any], where: Path) -> tuple[float, float]:
    """The adapters' scale and the router's temperature. Raises UserError for one that is no number, and for all that are missing."""
    given = {"adapter_scale": sources.adapter_scale, "temperature": sources.router_temperature}
    missing = [name for name, value in given.items() if value is None and name not in args]
    if missing:
        what = f"the checkpoint does not record {' and '.join(missing)} in its args"
        raise UserError(what, where=where, fix=f"pass {' '.join(OPTIONS[name] for name in missing)}, as in training")
    scale, temperature = (_setting(name, value, args, OPTIONS[name], where) for name, value in given.items())
    return scale, temperature


def _setting(name: str, given: float | None, args: dict[str, Any], option: str, where: Path) -> float:
    value = given if given is not None else args.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST_SETTING:
        raise UserError(f"args.{name} is {value!r}", where=where, fix=f"pass {option}, as in training")
    if name == "temperature" and value <= 0:
        what = f"the router temperature is {value}, expected a number above 0"
        raise UserError(what, where=where if given is None else option, fix=f"pass {option}, or another value above 0")
    return float(value)
