"""Derive a bundle from a bundle: unchanged files are linked, replaced ones written, and a new manifest seals the result.

A replaced weight goes into task.safetensors, like the task's own weights in a bundle with a shared store, and every graph that reads it
is pointed there. Keys change with the files: no build reuses the derived bundle or its replaced files.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from torch import Tensor

from ..bundle.bundle import Bundle, open_bundle, write_manifest
from ..bundle.manifest import TASK, WEIGHTS, FileRecord, SourceRecord
from ..bundle.store import Parameter, Store, write_store
from ..core.graph_spec import GraphSpec
from ..system.files import link_or_copy
from ..system.hashing import key_of, sha256_of
from .weights import attach_weights


class DerivedBundle:
    """A bundle that is being derived from another. Engines and reports are not taken along: they belong to the original.

    folder  where the new bundle goes; must not exist
    """

    def __init__(self, bundle: Bundle, folder: Path):
        self.manifest, self.folder = bundle.manifest, folder
        self._bundle = bundle
        self._models: dict[str, ir.Model] = {}
        folder.mkdir(parents=True)

    def graph(self, name: str) -> ir.Graph:
        """A graph, to be edited in place; reads no weights."""
        if name not in self._models:
            self._models[name] = self._load(name)
        return self._models[name].graph

    def replace_graphs(self, graphs: Iterable[tuple[GraphSpec, ir.Model]]) -> None:
        """Replace all of the original's graphs by others over the same store. The models' weights have names but no values."""
        models = {spec.name: (spec, attach_weights(model, self._bundle.store)) for spec, model in graphs}
        self._models = {name: model for name, (_, model) in models.items()}
        self.manifest = self.manifest.model_copy(update={"graphs": {name: spec for name, (spec, _) in models.items()}})

    def weight(self, name: str) -> Tensor:
        """A tensor of the original's store. Do not write to it."""
        return self._bundle.store.tensor(name)

    def replace_weight(self, name: str, tensor: Tensor) -> None:
        """Replace one tensor of the store by another of the same shape and dtype."""
        entries = self._bundle.store.entries
        readers = {n: (lambda n=n: self.weight(n)) for n, entry in entries.items() if entry.file.name == TASK}
        readers[name] = lambda: tensor
        parameters = [Parameter(n, entries[n].dtype, entries[n].shape, TASK, read) for n, read in readers.items()]
        write_store(self.folder / TASK, parameters, lambda count: None)
        store = Store(self.folder / TASK)
        for graph in self.manifest.graphs:
            model = self._models.get(graph) or self._load(graph)
            replaced = store.entries.keys() & model.graph.initializers.keys()
            for weight in replaced:
                model.graph.initializers[weight].const_value = None
            if replaced:
                self._models[graph] = attach_weights(model, store)

    def seal(self, change: str, note: str | None = None, **manifest: Any) -> Bundle:
        """Complete the bundle and open it.

        change    a name for the change, which decides the keys
        note      added to the manifest's notes
        manifest  other changed fields of the manifest
        """
        for name, model in self._models.items():
            ir.save(model, self.folder / f"{name}.onnx")
        before, files = self._bundle.manifest.files, {}
        removed = {f"{name}.onnx" for name in self._bundle.manifest.graphs.keys() - self.manifest.graphs.keys()}
        for name, record in before.items():
            if record.engine is None and name not in removed and not (self.folder / name).exists():
                link_or_copy(self._bundle.path / name, self.folder / name)
                files[name] = record
        for path in self.folder.iterdir():
            if path.name not in files:
                key = key_of(before[path.name if path.name in before else WEIGHTS].key, path.name, change)
                files[path.name] = FileRecord(bytes=path.stat().st_size, sha256=sha256_of(path), key=key)
        key, notes = key_of(self.manifest.key, change), (*self.manifest.notes, *([note] if note else []))
        sealed = {"key": key, "files": dict(sorted(files.items())), "base": self._base(files), "notes": notes}
        write_manifest(self.folder, self.manifest.model_copy(update=sealed | manifest))
        return open_bundle(self.folder)

    def _load(self, name: str) -> ir.Model:
        return ir.from_proto(onnx.load(self._bundle.graph_file(name), load_external_data=False))

    def _base(self, files: dict[str, FileRecord]) -> SourceRecord | None:
        """The bundle whose store this one shares: the original's base, or the original itself."""
        if self.manifest.base or TASK not in files:
            return self.manifest.base
        shared = files[WEIGHTS]
        return SourceRecord(name=self._bundle.path.resolve().name, bytes=shared.bytes, sha256=shared.sha256)
