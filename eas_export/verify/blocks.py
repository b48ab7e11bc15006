"""Error block by block: a prompt's prefill with every block's output shown, against the reference's."""

from collections.abc import Mapping

from torch import Tensor

from ..backends.contract import Backend
from ..backends.runtime import Runtime
from ..bundle.bundle import Bundle
from ..core.precision import PRECISIONS
from ..generation.conversation import empty_caches, encode_images, prefill_inputs
from .cases import Case
from .metrics import compare, spread
from .report import BlockLine
from .stages import OUT
from .taps import boundary_taps, run_tapped


def compare_blocks(
    bundle: Bundle, name: str, backend: Backend, runtime: Runtime, case: Case, wanted: Mapping[int, Tensor]
) -> tuple[BlockLine, ...]:
    """Every block's line.

    name, backend  one that opens tapped graphs; runtime: the bundle on it
    case           one prompt
    wanted         layer -> the reference's output there [prefix + S, dim] float32
    """
    m = bundle.manifest
    caches = empty_caches(runtime, 1, case.prompts.input_ids.shape[1])
    inputs = prefill_inputs(case.prompts, encode_images(runtime, case.prompts)) | caches
    _, taps = run_tapped(bundle, backend, runtime, "prefill", inputs, boundary_taps(bundle, "prefill"))
    tolerance, lines = PRECISIONS[m.precision].tolerance, []
    for layer, want in wanted.items():
        line = compare("", taps[layer, OUT], want, tolerance * spread(want))
        lines.append(
            BlockLine(
                step=name,
                case=case.name,
                layer=layer,
                kind="skipped" if layer in m.plan.skipped else "kept",
                error=line.error,
                relative=line.relative,
                cosine=line.cosine,
                tolerance=tolerance,
                ok=line.ok,
            )
        )
    return tuple(lines)
