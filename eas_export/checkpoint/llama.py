"""A whole LLaMA-1, from a folder in Meta's layout or in Hugging Face's: the same tensors either way.

Conversion to Hugging Face's layout reorders the rows of q and k for another form of RoPE; they are put back in Meta's order when read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..core.errors import UserError
from ..system.files import require_folder
from . import hf_llama, meta_llama
from .hf_files import CONFIG_FILE
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


class HfLlamaConfig(hf_llama.LlamaConfig):
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
    published, files = read_folder(folder, hf_llama.EVERY_KEY)
    file = folder / CONFIG_FILE
    config = read_json(file, HfLlamaConfig, "the config.json of a LLaMA", "give a LLaMA of model_type llama")
    if config.kv_heads != config.num_attention_heads:
        what = f"num_key_value_heads is {config.kv_heads}, not num_attention_heads {config.num_attention_heads}"
        raise UserError(what, where=file, fix="give LLaMA-1 weights: LaVIN has no grouped-query attention")
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    published, tied, notes = hf_llama.tie(published, config)
    table = {
        **hf_llama.LLAMA_KEYS,
        **hf_llama.attention_keys("i", pairs_of=heads),
        **(hf_llama.TIED_HEAD if tied else hf_llama.UNTIED_HEAD),
    }
    sizes = hf_llama.llama_sizes(config, published, folder)
    tensors = rename(published, table, sizes, layers, str(folder))
    described = _config(sizes, layers, heads, config.rms_norm_eps, config.rope_theta)
    return Llama(described | {"tied_head": tied}, tensors, (file, *files), (*left_over(folder), *notes))


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
