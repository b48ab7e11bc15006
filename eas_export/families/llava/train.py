"""Train LLaVA-EAS from LLaVA: put adapters into every layer, and write the fine-tuned checkpoint."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ...bundle.store import Parameter, write_store
from ...checkpoint.eas_adapter import fresh_adapter
from ...checkpoint.hf_files import CONFIG_FILE, TOKENIZER_CONFIG
from ...checkpoint.lazy_tensor import LazyTensor
from ...core.errors import UserError
from ...core.precision import DTYPES
from ...core.progress import Progress
from ...system.files import written_whole
from ..contract import Ranks, Sources, Trainable
from .load import assemble
from .read import read_model

WEIGHTS, TOWER = "model.safetensors", "vision_tower"
ALONG = "*_config.json"  # copied along with the weights, beside the tokenizer
LAYER = re.compile(r"model\.layers\.(\d{1,4})\.(self_attn|adapter_attn|replaced_adapter)\.")
COMPUTED = ".rotary_emb.inv_freq"  # a key of older transformers, computed from the config


@dataclass(frozen=True)
class _Kind:
    """A published adapter: its name in a layer, its down projections ("A": conv_A), and whether its router has a bias."""

    name: str
    inner: str
    router_bias: bool


KEPT, SKIPPED = _Kind("adapter_attn", "A", router_bias=False), _Kind("replaced_adapter", "AC", router_bias=True)


def train(sources: Sources, ranks: Ranks, seed: int, device: torch.device) -> Trainable:
    """A LLaVA with both adapters in every layer: the checkpoint's where it has them, else new ones, of the same rank if it has any.

    Raises UserError where a layer has no attention, and as load.load does.
    """
    model = read_model(sources)
    config = model.config
    published = {key: tensor for key, tensor in model.tensors.items() if not key.endswith(COMPUTED)}
    for key, tensor in published.items():
        if str(tensor.dtype).removeprefix("torch.") not in DTYPES:
            fix = f"convert the model to one of {', '.join(DTYPES)}"
            raise UserError(f"tensor {key} has dtype {tensor.dtype}", where=sources.ckpt, fix=fix)
    random = torch.Generator().manual_seed(seed)
    adapters: dict[str, Tensor] = {}
    for kind, rank in ((KEPT, ranks.kept), (SKIPPED, ranks.skipped)):
        rank = _own_rank(published, kind) or rank
        for layer in range(config.num_hidden_layers):
            place = f"model.layers.{layer}.{kind.name}"
            own = {key: t.read().float().clone() for key, t in published.items() if key.startswith(f"{place}.")}
            fresh = fresh_adapter(place, config.hidden_size, rank, kind.inner, kind.router_bias, random)
            adapters |= own or fresh
    for layer in range(config.num_hidden_layers):
        if f"model.layers.{layer}.self_attn.q_proj.weight" not in published:
            what = f"layer {layer} has no attention left: the search cannot tell whether it is redundant"
            raise UserError(what, where=sources.ckpt, fix="give the model from before its attentions were removed")
    adapters = {key: tensor.to(device).requires_grad_() for key, tensor in adapters.items()}
    live = {key: _live(key, tensor) for key, tensor in adapters.items()}
    checkpoint = assemble(sources, replace(model, tensors=published | live))
    own_files = {sources.ckpt / CONFIG_FILE, *model.files, *checkpoint.tokenizer}
    beside = [path for path in sources.ckpt.glob(ALONG) if path.is_file() and path.name != TOKENIZER_CONFIG]
    beside += [path for path in checkpoint.tokenizer if path.name != CONFIG_FILE]
    tower = [path for path in checkpoint.files if path not in own_files]
    along = {path.name: path for path in beside} | {f"{TOWER}/{path.name}": path for path in tower}
    settings = json.loads((sources.ckpt / CONFIG_FILE).read_text("utf-8")) | (
        {"mm_vision_tower": TOWER} if tower else {}
    )
    return Trainable(checkpoint, adapters, partial(_write, published, adapters, along, settings))


def _own_rank(published: Mapping[str, LazyTensor], kind: _Kind) -> int | None:
    shapes = (tensor.shape for key, tensor in published.items() if key.endswith(f".{kind.name}.conv_A.weight"))
    return next((shape[0] for shape in shapes if shape), None)


def _live(key: str, tensor: Tensor) -> LazyTensor:
    """A LazyTensor whose read gives the current value."""
    return LazyTensor(tuple(tensor.shape), tensor.dtype, f"training: {key}", lambda: tensor)


def _write(
    published: Mapping[str, LazyTensor],
    adapters: Mapping[str, Tensor],
    along: Mapping[str, Path],
    settings: Mapping[str, object],
    skipped: tuple[int, ...],
    folder: Path,
    progress: Progress,
) -> None:
    """Write the checkpoint as published fine-tuning does: skipped layers without self_attn and adapter_attn, kept layers without
    replaced_adapter.

    along     name in `folder` -> file to copy there
    settings  contents of config.json, which is written last
    """
    trained = {key: _live(key, tensor.detach().cpu()) for key, tensor in adapters.items()}
    parameters = [
        Parameter(key, str(t.dtype).removeprefix("torch."), t.shape, t.source, t.read)
        for key, t in {**published, **trained}.items()
        if not _is_removed(key, skipped)
    ]
    with progress.stage("writing the checkpoint", sum(p.nbytes for p in parameters)) as done:
        with written_whole(folder / WEIGHTS) as file:
            write_store(Path(file.name), parameters, done)
    for name, path in along.items():
        (folder / name).parent.mkdir(exist_ok=True)
        with written_whole(folder / name) as file, open(path, "rb") as source:
            shutil.copyfileobj(source, file)
    with written_whole(folder / CONFIG_FILE) as file:
        file.write((json.dumps(settings, indent=2) + "\n").encode())


def _is_removed(key: str, skipped: tuple[int, ...]) -> bool:
    match = LAYER.match(key)
    return bool(match) and (match[2] == "replaced_adapter") != (int(match[1]) in skipped)
