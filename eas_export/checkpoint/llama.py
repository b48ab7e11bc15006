"""A whole LLaMA-1, from a folder in Meta's layout or in Hugging Face's: the same tensors either way.

Conversion to Hugging Face's layout reorders the rows of q and k for another form of RoPE; they are put back in Meta's order when read.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from ..core.errors import UserError
from ..system.files import require_folder
from . import meta_llama
from .architectures import FULL
from .hf_files import CONFIG_FILE
from .hf_keys import EVERY_TEXT_KEY, TIED_HEAD, UNTIED_HEAD, text_keys, text_sizes
from .hf_text import TextConfig, require_vocabulary, tie
from .hugging_face import left_over, read_folder
from .json_file import read_json
from .keys import rename, require
from .lazy_tensor import LazyTensor
from .meta_llama import PARAMS_FILE, find_shards
from .state_dict import refuse_by_name

EXPECTED = f"{PARAMS_FILE} and consolidated.*.pth, or {CONFIG_FILE} and safetensors"


@dataclass(frozen=True)
class Llama:
    """The fields of a ModelConfig, the tensors under our names, rows of q and k for RoPE that turns neighbouring pairs, and every file."""

    config: dict[str, Any]
    tensors: dict[str, LazyTensor]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()


class HfLlamaConfig(TextConfig):
    read_as: ClassVar = "llama"

    model_type: Literal["llama"] = "llama"


def find_llama(folder: Path, name: str | None) -> Path:
    """`folder` itself if it is a LLaMA's, else its only subfolder that is one, or the one of these that is called `name`."""
    fix = f"pass --weights DIR, the folder with {EXPECTED}"
    if main_file(folder):
        return folder
    folders = sorted(path for path in folder.glob("*/") if main_file(path))
    named = [path for path in folders if path.name == name]
    if not folders:
        refuse_by_name(folder)
        require_folder(folder, fix)
    if len(folders) != 1 and len(named) != 1:
        names = f" ({', '.join(path.name for path in folders)})" if folders else ""
        raise UserError(f"found {len(folders) or 'no'} folders of a LLaMA{names}", where=folder, fix=fix)
    return (named or folders)[0]


def read_llama(folder: Path) -> Llama:
    """The model, not read yet. Raises UserError for missing, unknown and mis-shaped tensors, and for a LLaMA with grouped keys and values."""
    return LAYOUTS[main_file(folder) or PARAMS_FILE](folder)


def _read_meta(folder: Path) -> Llama:
    params, shards = meta_llama.read_params(folder / PARAMS_FILE), find_shards(folder)
    published, table = meta_llama.read_shards(shards), meta_llama.LLAMA_KEYS
    vocab = require(published, "tok_embeddings.weight", 2, str(folder))[0]
    sizes = {"dim": params.dim, "ffn": params.ffn_dim, "vocab": vocab}
    tensors = rename(published, table, sizes, params.n_layers, str(folder))
    config = _config(sizes, params.n_layers, params.n_heads, params.norm_eps, params.rope_theta)
    return Llama(config, tensors, (folder / PARAMS_FILE, *shards))


def _read_hugging_face(folder: Path) -> Llama:
    published, files = read_folder(folder, EVERY_TEXT_KEY)
    file = folder / CONFIG_FILE
    config = read_json(file, HfLlamaConfig, "the config.json of a LLaMA", "give a LLaMA of model_type llama")
    layers, heads, sizes = config.num_hidden_layers, config.num_attention_heads, text_sizes(config)
    described = _config(sizes, layers, heads, config.rms_norm_eps, config.ropes[FULL].rope_theta)
    _require_llama_1(config, described, file)
    require_vocabulary(config, published, folder)
    published, tied, notes = tie(published, config)
    table = {**text_keys(config.architecture, False, False), **(TIED_HEAD if tied else UNTIED_HEAD)}
    for part in ("q_proj", "k_proj"):
        key = f"model.layers.{{i}}.self_attn.{part}.weight"
        table[key] = replace(table[key], convert=lambda weight: in_pairs(weight, heads), becomes=table[key].shape)
    tensors = rename(published, table, sizes, layers, str(folder))
    return Llama(described | {"tied_head": tied}, tensors, (file, *files), (*left_over(folder), *notes))


def _require_llama_1(config: TextConfig, described: dict[str, Any], file: Path) -> None:
    """Raise UserError for what LaVIN's code does not compute: grouped keys, heads of another size, biases, scaled RoPE, another activation."""
    rope = config.ropes[FULL]
    only = {
        "num_key_value_heads": (config.kv_heads, described["heads"]),
        "head_dim": (config.head_size, described["dim"] // described["heads"]),
        "attention_bias": (config.attention_bias, False),
        "mlp_bias": (config.mlp_bias, False),
        "hidden_act": (config.hidden_act, "silu"),
        "rope_type": (rope.rope_type if rope.rope(config.head_size).scaling else "default", "default"),
    }
    for key, (value, supported) in only.items():
        if value != supported:
            fix = "give LLaMA-1 weights: LaVIN was trained on nothing else"
            raise UserError(f"{key} is {value}: LaVIN supports only {supported}", where=file, fix=fix)


def in_pairs(weight: Tensor, heads: int) -> Tensor:
    """Rows of each head from its first half and its second to (0, h/2), (1, h/2 + 1), ...: [heads * h, dim], as Meta's files have them.
    transformers' conversion of those files does the opposite."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


LAYOUTS: dict[str, Callable[[Path], Llama]] = {PARAMS_FILE: _read_meta, CONFIG_FILE: _read_hugging_face}


def main_file(folder: Path) -> str | None:
    """The file that tells the layout, of both the one that has weights beside it; None where there is neither."""
    files = [name for name in LAYOUTS if (folder / name).is_file()]
    return next(iter(files if any(folder.glob("consolidated.*")) else files[::-1]), None)


def _config(sizes: dict[str, int], layers: int, heads: int, norm_eps: float, rope_theta: float) -> dict[str, Any]:
    return {
        "vocab_size": sizes["vocab"],
        "dim": sizes["dim"],
        "layers": layers,
        "heads": heads,
        "kv_heads": heads,
        "ffn_dim": sizes["ffn"],
        "norm_eps": norm_eps,
        "rope_theta": rope_theta,
        "rope_interleaved": True,
    }
