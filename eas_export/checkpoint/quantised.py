"""Quantised checkpoints, which are refused by name: their integers and fp8 numbers are no weights without scales, and every method keeps
those in its own way.

Formats: transformers' quantizers. config.json has {"quantization_config": {"quant_method": ...}}, or load_in_8bit and load_in_4bit alone
in bitsandbytes' older files; beside or in place of a layer's weight are the tensors below.
"""

import re
import reprlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..core.errors import UserError
from ..core.record import quoted
from .lazy_tensor import LazyTensor

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
BUFFERS = (torch.int64, torch.bool)  # of positions and masks; no method packs weights in them
FIX = "give the original weights, in float16, bfloat16 or float32: quantised ones are not supported"


@dataclass(frozen=True)
class Method:
    """A way to quantise weights.

    name      for messages
    recorded  quant_method in config.json
    keys      pattern of the ends of keys that only its files have; None where only config.json tells
    pickled   start of the classes and functions that its torch files ask for
    """

    name: str
    recorded: str | None
    keys: str | None
    pickled: str | None = None


METHODS = (  # the first that fits; weight_scale last: several methods write it
    Method(
        "bitsandbytes, 4-bit", "bitsandbytes", r"\.(absmax|quant_map|quant_state\.bitsandbytes__\w+)", "bitsandbytes."
    ),
    Method("bitsandbytes, int8", "bitsandbytes", r"\.SCB"),
    Method("GPTQ", "gptq", r"\.g_idx"),
    Method("AWQ", "awq", r"\.qweight", "awq."),
    Method("AutoRound", "auto-round", None),
    Method("fine-grained fp8", "fp8", r"\.weight_scale_inv"),
    Method("FBGEMM's fp8", "fbgemm_fp8", None),
    Method("compressed-tensors", "compressed-tensors", r"\.weight_packed"),
    Method("torchao", "torchao", r"[._:]qdata", "torchao."),
    Method("HQQ", "hqq", r"\.W_q", "hqq."),
    Method("EETQ", "eetq", r"\.weight_scales"),
    Method("Quanto", "quanto", r"\.weight\._data", "optimum.quanto."),
    Method("PyTorch's own quantised tensors", None, None, "torch._utils._rebuild_qtensor"),
    Method("with weight_scale, as by compressed-tensors or FBGEMM", None, r"\.weight_scale"),
)


def require_floats(
    tensors: Mapping[str, LazyTensor], where: object, wanted: Collection[str] = (), recorded: Any = None
) -> None:
    """Raise UserError that names the method unless every tensor holds plain numbers.

    wanted    keys of weights; integers of 64 bits and bools pass for buffers elsewhere
    recorded  quantization_config of config.json
    """
    for key, tensor in tensors.items():
        if tensor.dtype not in FLOATS and (key in wanted or tensor.dtype not in BUFFERS):
            what = f"key {quoted(key)} is {str(tensor.dtype).removeprefix('torch.')}"
            if method := _method(tensors, recorded):
                raise UserError(f"the weights are quantised ({method}): {what}", where=where, fix=FIX)
            raise UserError(f"{what}, which is no weight without the scales of a quantisation", where=where, fix=FIX)


def refuse_pickled(asked: str, where: Path) -> None:
    """Raise UserError if a torch file asks for a class or function `asked` of one of the methods."""
    if method := next((method for method in METHODS if method.pickled and asked.startswith(method.pickled)), None):
        what = f"the weights are quantised ({method.name}): the pickle asks for {asked}, which was not run"
        raise UserError(what, where=where, fix=FIX)


def recorded_method(recorded: Any) -> str | None:
    """The name of the method in a quantization_config; None where that is not one."""
    if not isinstance(recorded, dict) or not recorded:
        return None
    old = recorded.get("load_in_8bit") is True or recorded.get("load_in_4bit") is True  # bitsandbytes' older files
    name = recorded.get("quant_method") or ("bitsandbytes" if old else None)
    if name is None:
        return None
    return next((m.name.split(",")[0] for m in METHODS if m.recorded == name), None) or reprlib.repr(name)


def left_over_record(recorded: Any) -> tuple[str, ...]:
    """A note about a quantization_config beside floating weights, which is left over from training on a quantised copy, or from undoing it: a
    method's own tensors are not there to scale anything, so the numbers in the file are the model's. transformers would quantise them again."""
    method = recorded_method(recorded)
    said = (
        f"config.json says that the model is quantised ({method}), but its weights are not: they are used as they are"
    )
    return (said,) if method else ()


def _method(tensors: Mapping[str, LazyTensor], recorded: Any) -> str | None:
    """The method's name: by config.json and the keys, else by either."""
    told = recorded_method(recorded)
    for method in METHODS:
        fits = method.keys and any(re.search(f"{method.keys}$", key) for key in tensors)
        if fits and told in (None, method.name.split(",")[0]):
            return method.name
    return told
