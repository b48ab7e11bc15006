"""Transformers' own classes as witnesses of a checkpoint's base path: what it computes without adapters. One file a family.

A fault that a loader and the reference share would show in no other comparison: both read the checkpoint with the same code.
"""

import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
from packaging.version import Version
from torch import Tensor, nn

from ...checkpoint.hugging_face import find_weights, read_weights
from ...checkpoint.keys import KeyTable
from ...checkpoint.state_dict import published_names
from ...core.errors import UserError
from ...system.packages import install_command


@dataclass(frozen=True)
class Witnessed:
    """One prompt's or pair's results, float32.

    blocks   (part, layer) -> a block's output at every position [n, width]; parts as in verify/report.BlockLine
    outputs  stage -> a further result, in the order of computation
    """

    blocks: Mapping[tuple[str, int], Tensor]
    outputs: Mapping[str, Tensor]


class DecoderWitness(Protocol):
    """without_attention: layers whose attention the files lack; encode_images: [N, 3, H, W] -> [N * tokens, dim], None where prompts with
    images are not read"""

    without_attention: tuple[int, ...]
    encode_images: Callable[[Tensor], Tensor] | None

    def read(self, ids: Tensor, positions: Tensor, index: Tensor, pixels: Tensor | None) -> Witnessed:
        """One prompt with the tokens fed after it, in one pass: blocks [S, dim] and outputs vision [M, dim] (with images) and logits [S, vocab].

        ids, positions  [1, S] int64
        index           [1, S] int64: -1 for text, else the image feature in a token's place
        pixels          [N, 3, H, W] float32
        """


class EncodersWitness(Protocol):
    """without_attention: empty"""

    without_attention: tuple[int, ...]

    def read(self, text_ids: Tensor, text_masks: Tensor, images: Tensor) -> Witnessed:
        """A pair's encoders: blocks [L, width] and [P, width], and image [P, width], normalised once more.

        text_ids, text_masks  [1, L] int64; images: [1, 3, H, W] float32
        """


def import_transformers() -> ModuleType:
    """transformers without its messages. Raises UserError where it is not installed."""
    try:
        import transformers
    except ImportError:
        fix = install_command("hf")
        raise UserError("transformers is not installed", where="--against transformers", fix=fix) from None
    if Version(transformers.__version__) < Version("5"):
        what = f"transformers {transformers.__version__} is installed: the comparison needs 5 or later"
        raise UserError(what, where="--against transformers", fix=install_command("hf", option="-U"))
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


@contextmanager
def translated(
    where: object, fix: str = "verify without --against, or correct the file that is named"
) -> Iterator[None]:
    """Turn whatever transformers raises about a file into a UserError."""
    try:
        yield
    except UserError:
        raise
    except pickle.UnpicklingError as error:  # whose text advises to run the pickle's code
        what = "torch.load refuses a file here: its pickle asks for more than tensors and plain data"
        raise UserError(what, where=where, fix=fix) from error
    except Exception as error:  # it and the hub's library raise a dozen kinds
        what = f"transformers cannot load these files ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
        raise UserError(what, where=where, fix=fix) from error


def exactly(
    folder: Path, table: KeyTable, names: Mapping[str, str] | None = None, dtype: torch.dtype | str = torch.float32
) -> dict[str, Any]:
    """Options of from_pretrained for a folder's own weights.

    table  of the published keys, before which files may have a prefix
    names  patterns of published keys -> transformers' names
    """
    published = published_names(read_weights(folder, table)[0], table, folder)
    without = {f"^{re.escape(key)}$": name for key, name in published.items() if key != name}
    return {
        "key_mapping": without | dict(names or {}),
        "dtype": dtype,
        "local_files_only": True,
        "attn_implementation": "eager",  # a file may name an implementation that would be downloaded
        "use_safetensors": ".safetensors" in find_weights(folder).name,  # an index may be left over
    }


def require_all(missing: Iterable[str], folder: object) -> None:
    """Raise UserError that names the first tensor, if transformers misses any in a folder's files."""
    if first := min(missing, default=None):
        what = f"transformers finds no tensor for {first}"
        fix = "check that the files are whole, with no tensors inside an entry such as state_dict; or verify without --against"
        raise UserError(what, where=folder, fix=fix)


def llama_config(transformers: ModuleType, folder: object) -> Any:
    """The LlamaConfig of a folder, without a quantisation that is left over: `load` refuses weights that are quantised."""
    config = transformers.LlamaConfig.from_pretrained(folder)
    vars(config).pop("quantization_config", None)
    return config


def from_tensors(kind: Any, config: Any, tensors: Mapping[str, Tensor], **options: Any) -> nn.Module:
    """A model of transformers' class `kind` with these tensors, not copied. Raises ValueError where one is missing."""
    model, report = kind.from_pretrained(
        None, config=config, state_dict=dict(tensors), dtype=torch.float32, output_loading_info=True, **options
    )
    if report["missing_keys"]:
        raise ValueError(f"no tensor for {min(report['missing_keys'])}")
    return model


@contextmanager
def outputs_of(modules: Mapping[tuple[str, int], nn.Module]) -> Iterator[dict[tuple[str, int], Tensor]]:
    """What these modules return inside the context, batch and positions flattened: [n, width]"""
    found: dict[tuple[str, int], Tensor] = {}

    def keep(key: tuple[str, int]) -> Callable[[nn.Module, object, object], None]:
        def hook(_: nn.Module, __: object, output: object) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            found[key] = tensor.flatten(0, -2).float()

        return hook

    hooks = [module.register_forward_hook(keep(key)) for key, module in modules.items()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
