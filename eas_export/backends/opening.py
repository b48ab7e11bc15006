"""Bundles, opened on a backend: only with the graphs and weights that their config says."""

from dataclasses import replace

import torch

from ..bundle.bundle import Bundle
from ..core.errors import UserError
from ..core.precision import PRECISIONS
from ..networks.graphs import fold_modes, graphs_of
from ..networks.network import build_network, parameter_shapes
from ..system.memory import enough_memory
from . import BACKENDS, get_backend
from .runtime import CPU, Runtime


def open_runtime(bundle: Bundle, backend: str, device: torch.device = CPU) -> Runtime:
    """The bundle's graphs, ready to run on the device; engines run on a GPU in any case. Raises UserError for an unknown or missing backend,
    for graphs and weights that are not those of the bundle's config, and without memory on the device."""
    require_own_graphs_and_weights(bundle)
    row = get_backend(backend)
    if device == CPU or row.open_on is None:
        return row.open(bundle)
    with enough_memory(bundle.path):
        runtime = row.open_on(bundle, device)
    return replace(runtime, backend=f"{runtime.backend} on {device.type}")


def open_low_memory_runtime(bundle: Bundle, backend: str) -> Runtime:
    """The low-memory variant of `open_runtime`, which may be slow."""
    require_own_graphs_and_weights(bundle)
    return get_backend(backend).open_low_memory(bundle)


def weights_in_memory(bundle: Bundle) -> dict[str, int]:
    """Backend that runs graphs as they are, on the CPU -> the memory that the bundle's weights take in it, beside the mapped store."""
    backends = {name: get_backend(name) for name in BACKENDS}
    there = {name: row for name, row in backends.items() if row.compiler is None and row.health().runs}
    return {name: row.private_bytes(bundle) for name, row in there.items()}


def require_own_graphs_and_weights(bundle: Bundle) -> None:
    """Raise UserError where the manifest's graphs, or the store's tensors, are not those of the manifest's config."""
    m, precision = bundle.manifest, PRECISIONS[bundle.manifest.precision]
    graphs = (
        graphs_of(m.config, m.fold) if m.fold in fold_modes(m.config) else {}
    )  # a manifest may name one that this kind of network has not
    specs = {name: graph.spec(m.config, m.plan, precision, m.limits) for name, graph in graphs.items()}
    if specs != m.graphs:
        raise UserError("its graphs are not those of its config", where=bundle.path, fix="build it again with --force")
    network = build_network(m.config, m.plan, precision, m.limits)
    needed = {
        name: (shape, str(dtype).removeprefix("torch.")) for name, (shape, dtype) in parameter_shapes(network).items()
    }
    stored = {name: (entry.shape, entry.dtype) for name, entry in bundle.store.entries.items()}
    if different := [name for name in needed if needed[name] != stored.get(name)]:
        what = f"its weights are not those of its config: {min(different)}"
        raise UserError(what, where=bundle.path, fix="build it again with --force")
