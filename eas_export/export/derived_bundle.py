"""A bundle from a bundle: what stays is linked, what is replaced is written anew, and the whole is sealed again.

A replaced weight goes into task.safetensors, as a task's own weights do in a bundle that shares another's store, and every graph that
reads it is pointed there. Keys change with the files: no build takes the derived bundle, or a replaced file of it, for its own.
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
    """A bundle while it is derived from another. Engines and reports are left out: they are the original's.

    folder  where it goes; must not exist
    """

    def __init__(self, bundle: Bundle, folder: Path):
        self.manifest, self.folder = bundle.manifest, folder
        self._bundle = bundle
        self._models: dict[str, ir.Model] = {}
        folder.mkdir(parents=True)

    def graph(self, name: str) -> ir.Graph:
        """A graph to be edited in place; no weight is read."""
        if name not in self._models:
            self._models[name] = self._load(name)
        return self._models[name].graph

    def replace_graphs(self, graphs: Iterable[tuple[GraphSpec, ir.Model]]) -> None:
        """Other graphs over the same store, in the place of all that the original has. The models' weights have names and no values."""
        models = {spec.name: (spec, attach_weights(model, self._bundle.store)) for spec, model in graphs}
        self._models = {name: model for name, (_, model) in models.items()}
        self.manifest = self.manifest.model_copy(update={"graphs": {name: spec for name, (spec, _) in models.items()}})

    def weight(self, name: str) -> Tensor:
        """A tensor of the original's store. Do not write to it."""
        return self._bundle.store.tensor(name)

    def replace_weight(self, name: str, tensor: Tensor) -> None:
        """Give one tensor of the store another content of the same shape and dtype."""
        entries = self._bundle.store.entries
        readers = {n: (lambda n=n: self.weight(n)) for n, entry in entries.items() if entry.file.name == TASK}
        readers[name] = lambda: tensor
        parameters = [Parameter(n, entries[n].dtype, entries[n].shape, TASK, read) for n, read in readers.items()]
        write_store(self.folder / TASK, parameters, lambda count: None)
        store = Store(self.folder / TASK)
        for graph in self.manifest.graphs:
            model = self._models.get(graph) or self._load(graph)
            read_by_it = store.entries.keys() & model.graph.initializers.keys()
            for each in read_by_it:
                model.graph.initializers[each].const_value = None
            if read_by_it:
                self._models[graph] = attach_weights(model, store)

    def seal(self, change: str, note: str | None = None, **manifest: Any) -> Bundle:
        """The bundle, whole and opened.

        change    names what was done to it: it decides the keys
        note      goes into the manifest
        manifest  other fields of the manifest that change
        """
        for name, model in self._models.items():
            ir.save(model, self.folder / f"{name}.onnx")
        before, files = self._bundle.manifest.files, {}
        gone = {f"{name}.onnx" for name in self._bundle.manifest.graphs.keys() - self.manifest.graphs.keys()}
        for name, record in before.items():
            if record.engine is None and name not in gone and not (self.folder / name).exists():
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
        """Whose store the bundle shares: what its original shares, or its original's own."""
        if self.manifest.base or TASK not in files:
            return self.manifest.base
        shared = files[WEIGHTS]
        return SourceRecord(name=self._bundle.path.resolve().name, bytes=shared.bytes, sha256=shared.sha256)
