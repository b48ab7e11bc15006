"""Reader for safetensors files (Hugging Face). The library maps the file: a tensor stays on disk until it is read."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..core.errors import UserError
from ..core.record import quoted
from ..system.files import require_file
from .lazy_tensor import LazyTensor
from .quantised import FIX

DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "BOOL": torch.bool,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
}


def read_safetensors(path: Path) -> dict[str, LazyTensor]:
    """The file's tensors by name. Raises UserError for a file that is truncated or damaged, and for a dtype no checkpoint has."""
    fix = "copy the file again"
    try:
        file = safe_open(require_file(path), framework="pt")
        slices = {name: file.get_slice(name) for name in file.keys()}
        headers = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"the file is not a whole safetensors file ({error})", where=path, fix=fix) from None
    tensors = {}
    for name, (shape, dtype) in headers.items():
        if dtype not in DTYPES:
            raise UserError(f"tensor {quoted(name)} is of the unknown type {dtype}", where=path, fix=FIX)
        read = lambda name=name: file.get_tensor(name)
        tensors[name] = LazyTensor(shape, DTYPES[dtype], f"{path.name}: {name}", read)
    return tensors
