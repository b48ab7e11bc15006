"""Open bundles on a backend, after checking that graphs and weights match the config."""

from dataclasses import replace

import torch

from ..bundle.bundle import Bundle
from ..core.errors import UserError
from ..core.precision import PRECISIONS
from ..networks import network_part
from ..networks.graphs import fold_modes, graphs_of
from ..networks.network import build_network, parameter_shapes
from ..system.memory import enough_memory
from . import BACKENDS, get_backend
from .runtime import CPU, Runtime


def open_runtime(bundle: Bundle, backend: str, device: torch.device = CPU) -> Runtime:
    """The bundle's graphs, ready to run on the device; engines always run on a GPU. Raises UserError for an unknown or missing backend,
    for graphs and weights that do not match the bundle's config, and if the device runs out of memory."""
    require_own_graphs_and_weights(bundle)
    row = get_backend(backend)
    if device == CPU or row.open_on is None:
        return _with_sets(row.open(bundle), bundle)
    with enough_memory(bundle.path):
        runtime = _with_sets(row.open_on(bundle, device), bundle)
    return replace(runtime, backend=f"{runtime.backend} on {device.type}")


def open_low_memory_runtime(bundle: Bundle, backend: str) -> Runtime:
    """The low-memory variant of `open_runtime`, which may be slow."""
    require_own_graphs_and_weights(bundle)
    return _with_sets(get_backend(backend).open_low_memory(bundle), bundle)


def _with_sets(runtime: Runtime, bundle: Bundle) -> Runtime:
    """The runtime with the weights that were folded at build time, in the dtype in which its graphs take them (a backend may widen bf16),
    else mapped from the store on a CPU."""
    names = network_part(runtime.config, "folded_sets")
    if names is None:
        return runtime
    dtypes = {t.name: getattr(torch, t.dtype) for session in runtime.sessions.values() for t in session.spec.inputs}
    sets = {
        modality: {
            name: bundle.store.tensor(stored).to(runtime.device, dtypes[name]) for name, stored in of_inputs.items()
        }
        for modality, of_inputs in names(runtime.config, runtime.plan).items()
    }
    return replace(runtime, sets=sets)


def weights_in_memory(bundle: Bundle) -> dict[str, int]:
    """The bytes of memory that each backend without engines needs for the bundle's weights on the CPU, beside the mapped store."""
    backends = {name: get_backend(name) for name in BACKENDS}
    usable = {name: backend for name, backend in backends.items() if backend.compiler is None and backend.health().runs}
    return {name: backend.private_bytes(bundle) for name, backend in usable.items()}


def require_own_graphs_and_weights(bundle: Bundle) -> None:
    """Raise UserError where the manifest's graphs, or the store's tensors, do not match the manifest's config."""
    m, precision = bundle.manifest, PRECISIONS[bundle.manifest.precision]
    graphs = (
        graphs_of(m.config, m.fold) if m.fold in fold_modes(m.config) else {}
    )  # a manifest may name one that this kind of network does not have
    specs = {name: graph.spec(m.config, m.plan, precision, m.limits) for name, graph in graphs.items()}
    if specs != m.graphs:
        what = "the bundle's graphs do not match its config"
        raise UserError(what, where=bundle.path, fix="build it again with --force")
    network = build_network(m.config, m.plan, precision, m.limits)
    needed = {
        name: (shape, str(dtype).removeprefix("torch.")) for name, (shape, dtype) in parameter_shapes(network).items()
    }
    stored = {name: (entry.shape, entry.dtype) for name, entry in bundle.store.entries.items()}
    if different := [name for name in needed if needed[name] != stored.get(name)]:
        what = f"the bundle's weights do not match its config: {min(different)}"
        raise UserError(what, where=bundle.path, fix="build it again with --force")
