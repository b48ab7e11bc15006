"""Reader for safetensors files (Hugging Face). The library maps the file: a tensor stays on disk until it is read."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..core.errors import UserError
from ..system.files import require_file
from .lazy_tensor import LazyTensor

DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
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
            what = f"tensor {name} has dtype {dtype}: expected one of {', '.join(DTYPES)}"
            raise UserError(what, where=path, fix="convert it to bfloat16 or float32")
        read = lambda name=name: file.get_tensor(name)
        tensors[name] = LazyTensor(shape, DTYPES[dtype], f"{path.name}: {name}", read)
    return tensors
