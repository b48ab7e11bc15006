"""Point a graph's initializers into the bundle's weight store."""

import onnx_ir as ir

from ..bundle.store import Store
from ..core.errors import InternalError
from ..core.precision import DTYPES


def attach_weights(model: ir.Model, store: Store) -> ir.Model:
    """Point every initializer to its place in the store, by name; reads no weights. Raises InternalError for one that is missing or has
    another shape."""
    for name, value in model.graph.initializers.items():
        if value.const_value is not None:
            continue  # a constant of the graph itself
        entry = store.entries.get(name)
        if entry is None or tuple(value.shape.numpy()) != entry.shape:
            raise InternalError(f"graph {model.graph.name} needs {name} {value.shape}, the store has {entry}")
        value.const_value = ir.ExternalTensor(
            location=entry.file.name,
            offset=entry.offset,
            length=entry.nbytes,
            dtype=ir.DataType(DTYPES[entry.dtype].onnx),
            shape=ir.Shape(entry.shape),
            name=name,
            base_dir=str(entry.file.parent),
        )
    return model
