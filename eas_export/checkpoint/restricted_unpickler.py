"""Stand-ins for the names in a checkpoint's pickle: functions and classes of our own that only hold data.

The table is made anew for each load: a pickle can set attributes on its entries, so none of them is shared.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

STORAGE_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
NEW_DTYPES = (  # without a storage class of their own
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
    *("uint16", "uint32", "uint64"),
)
TORCHSCRIPT_LISTS = ("restore_type_tag", "build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")
BUILTINS = ("builtins", "__builtin__")  # pickle's names for one module
NUMPY_SCALARS = ("numpy.core.multiarray", "numpy._core.multiarray")
PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
OMEGACONF = {  # its configs hold nodes, which hold values
    "omegaconf.dictconfig": ("DictConfig",),
    "omegaconf.nodes": ("AnyNode", "IntegerNode", "StringNode"),
}
PLAIN = (str, bytes, int, float, type(None))
LONGEST_TEXT = 4096  # of a path or a device
MOST_COPIED = 1 << 22  # items that the stand-ins of one load copy: each call may copy the result of the one before


def require_plain_key(key: Any) -> None:
    """Raise ValueError for a key that could take forever to hash: a tuple that holds another twice, which holds another twice, ..."""
    parts = key if isinstance(key, tuple) else (key,)
    if not all(isinstance(part, (*PLAIN, type, Inert)) for part in parts):  # the last two hash by identity
        raise ValueError(f"a {type(key).__name__} as a key")


class PlainObject:
    """Stands for an object of a class that is not imported: holds its attributes only."""


class Inert(PlainObject, dict):
    """Stands for any unknown class or function, and for its objects and results, where unknown names are allowed: accepts everything,
    keeps the items of a mapping only."""

    __slots__ = ()
    __hash__, __eq__ = object.__hash__, object.__eq__

    def __init__(self, *_, **__):
        pass

    def __setstate__(self, _):
        pass

    def append(self, _):
        pass

    def extend(self, _):
        pass

    def add(self, _):
        pass


def plain_class(name: str) -> type[PlainObject]:
    """A class whose objects keep attributes that are set and ignore constructor arguments."""
    return type(name, (PlainObject,), {"__init__": lambda self, *_: None})


def make_stand_ins(rebuild_tensor: Callable[..., Any]) -> dict[tuple[str, str], Any]:
    """(module, name) -> stand-in; `rebuild_tensor(storage, offset, size, stride)` returns a tensor."""

    def rebuild_tensor_v2(storage, offset, size, stride, *_):
        return rebuild_tensor(storage, offset, size, stride)

    def rebuild_tensor_v3(storage, offset, size, stride, _grad, _hooks, dtype, *_):
        _, key, nbytes = storage
        return rebuild_tensor((dtype, key, nbytes // dtype.itemsize), offset, size, stride)

    def rebuild_wrapper(kind, *_):
        return kind()

    def rebuild_subclass(rebuild, _kind, arguments, _state):
        return rebuild(*arguments)

    def first(value, *_):
        return value

    copied = 0

    def count(items):
        nonlocal copied
        copied += len(items)
        if copied > MOST_COPIED:
            raise ValueError(f"more than {MOST_COPIED} items are copied")
        return items

    def as_list(items=(), *_):
        return list(count(items))

    def as_text(*parts):
        return "/".join(str(part)[:LONGEST_TEXT] for part in parts if isinstance(part, PLAIN))[:LONGEST_TEXT]

    def fill(self, items=()):
        for key, value in count(items):
            require_plain_key(key)
            self[key] = value

    def opaque_class(name: str) -> type:
        return type(name, (plain_class(name),), {"__setstate__": lambda self, _: None})

    table = {
        ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor_v2,
        ("torch._utils", "_rebuild_tensor_v3"): rebuild_tensor_v3,
        ("torch._utils", "_rebuild_wrapper_subclass"): rebuild_wrapper,
        ("torch._utils", "_rebuild_parameter"): first,
        ("torch._tensor", "_rebuild_from_type_v2"): rebuild_subclass,
        ("torch", "Tensor"): "torch.Tensor",
        ("torch.storage", "UntypedStorage"): torch.uint8,
        ("torch.nn.parameter", "Parameter"): "torch.nn.Parameter",
        ("torch", "Size"): as_list,
        ("torch", "device"): as_text,
        ("collections", "OrderedDict"): type("OrderedDict", (OrderedDict,), {"__init__": fill}),
        ("collections", "defaultdict"): type("defaultdict", (OrderedDict,), {"__init__": lambda self, *_: None}),
        ("argparse", "Namespace"): plain_class("Namespace"),
        ("numpy", "dtype"): opaque_class("dtype"),
        ("_codecs", "encode"): first,
    }
    table |= {("torch", name): dtype for name, dtype in STORAGE_DTYPES.items()}
    table |= {("torch", name): getattr(torch, name) for name in NEW_DTYPES}
    table |= {("torch", str(dtype).removeprefix("torch.")): str(dtype) for dtype in STORAGE_DTYPES.values()}
    table |= {("torch.jit._pickle", name): first for name in TORCHSCRIPT_LISTS}
    table |= {("pathlib", name): as_text for name in PATHS}
    table |= {(module, "scalar"): opaque_class("scalar") for module in NUMPY_SCALARS}
    table |= {(module, name): plain_class(name) for module, names in OMEGACONF.items() for name in names}
    table |= {(module, "set"): as_list for module in BUILTINS}
    # a defaultdict names its factory
    table |= {(m, name): name for m in BUILTINS for name in ("int", "long", "float", "bool", "str", "list", "dict")}
    return table
