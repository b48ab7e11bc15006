"""Train EAS from a Hugging Face folder: put adapters into every layer, and write the fine-tuned checkpoint as published training does."""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..bundle.store import Parameter, write_store
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.eas_adapter import fresh_adapter
from ..checkpoint.hf_files import CONFIG_FILE, TOKENIZER_CONFIG
from ..checkpoint.hugging_face import Tensors
from ..checkpoint.lazy_tensor import LazyTensor
from ..core.errors import UserError
from ..core.precision import DTYPES
from ..core.progress import Progress
from ..system.files import written_whole
from .contract import Ranks, Sources, Trainable

WEIGHTS = "model.safetensors"
ALONG = ("*_config.json", "*.jinja")  # copied along with the weights, beside the tokenizer
LAYER = re.compile(r"model\.layers\.(\d{1,4})\.(self_attn|adapter_attn|replaced_adapter)\.")
COMPUTED = ".rotary_emb.inv_freq"  # a key of older transformers, computed from the config


@dataclass(frozen=True)
class Kind:
    """A published adapter: its name in a layer, its down projections ("A": conv_A), and whether its router has a bias."""

    name: str
    inner: str
    router_bias: bool = True


SKIPPED = Kind("replaced_adapter", "AC")


@dataclass(frozen=True)
class Training:
    """A model with both adapters in every layer.

    base      the model's tensors by their published keys
    adapters  published key -> trained tensor, float32
    """

    base: Tensors
    adapters: dict[str, Tensor]

    @property
    def tensors(self) -> Tensors:
        """All by their published keys; reading an adapter's gives its current value."""
        return self.base | {key: _live(key, tensor) for key, tensor in self.adapters.items()}

    def trainable(
        self, checkpoint: Checkpoint, sources: Sources, config: bytes, more: Mapping[str, Path] | None = None
    ) -> Trainable:
        """`checkpoint` as it is trained.

        config  contents of the written config.json
        more    name in the written folder -> file to copy there, beside the settings in the model's folder and the tokenizer's files
        """
        beside = [path for pattern in ALONG for path in sources.ckpt.glob(pattern) if path.is_file()]
        beside = [path for path in beside if path.name != TOKENIZER_CONFIG]
        beside += [path for path in checkpoint.tokenizer if path.name != CONFIG_FILE]
        along = {path.name: path for path in beside} | dict(more or {})
        return Trainable(checkpoint, self.adapters, partial(_write, self.base, self.adapters, along, config))


def put_adapters(
    published: Tensors,
    kinds: Sequence[Kind],
    dim: int,
    layers: int,
    sources: Sources,
    ranks: Ranks,
    seed: int,
    device: torch.device,
) -> Training:
    """Put both adapters into every layer: the checkpoint's where it has them, else new ones, of the same rank if it has any.

    kinds  of a kept and of a skipped layer

    Raises UserError where a layer has no attention, and for a tensor of a dtype that is not supported.
    """
    published = {key: tensor for key, tensor in published.items() if not key.endswith(COMPUTED)}
    for key, tensor in published.items():
        if str(tensor.dtype).removeprefix("torch.") not in DTYPES:
            fix = f"convert the model to one of {', '.join(DTYPES)}"
            raise UserError(f"tensor {key} has dtype {tensor.dtype}", where=sources.ckpt, fix=fix)
    random = torch.Generator().manual_seed(seed)
    adapters: dict[str, Tensor] = {}
    for kind, rank in zip(kinds, (ranks.kept, ranks.skipped)):
        rank = _own_rank(published, kind) or rank
        for layer in range(layers):
            place = f"model.layers.{layer}.{kind.name}"
            own = {key: t.read().float().clone() for key, t in published.items() if key.startswith(f"{place}.")}
            adapters |= own or fresh_adapter(place, dim, rank, kind.inner, kind.router_bias, random)
    found = {int(match[1]) for key in published if (match := LAYER.match(key)) and match[2] == "self_attn"}
    if missing := sorted({*range(layers)} - found):
        what = f"layer {missing[0]} has no attention left: the search cannot tell whether it is redundant"
        raise UserError(what, where=sources.ckpt, fix="give the model from before its attentions were removed")
    adapters = {key: tensor.to(device).requires_grad_() for key, tensor in adapters.items()}
    return Training({key: t for key, t in published.items() if key not in adapters}, adapters)


def _own_rank(published: Mapping[str, LazyTensor], kind: Kind) -> int | None:
    shapes = (tensor.shape for key, tensor in published.items() if key.endswith(f".{kind.name}.conv_A.weight"))
    return next((shape[0] for shape in shapes if shape), None)


def _live(key: str, tensor: Tensor) -> LazyTensor:
    """A LazyTensor whose read gives the current value."""
    return LazyTensor(tuple(tensor.shape), tensor.dtype, f"training: {key}", lambda: tensor)


def _write(
    base: Mapping[str, LazyTensor],
    adapters: Mapping[str, Tensor],
    along: Mapping[str, Path],
    config: bytes,
    skipped: tuple[int, ...],
    folder: Path,
    progress: Progress,
) -> None:
    """Write the checkpoint as published fine-tuning does: skipped layers without self_attn and adapter_attn, kept layers without
    replaced_adapter.

    along   name in `folder` -> file to copy there
    config  contents of config.json, which is written last
    """
    trained = {key: _live(key, tensor.detach().cpu()) for key, tensor in adapters.items()}
    parameters = [
        Parameter(key, str(t.dtype).removeprefix("torch."), t.shape, t.source, t.read)
        for key, t in {**base, **trained}.items()
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
        file.write(config)


def _is_removed(key: str, skipped: tuple[int, ...]) -> bool:
    match = LAYER.match(key)
    return bool(match) and (match[2] == "replaced_adapter") != (int(match[1]) in skipped)
