"""Transformers' own classes as witnesses of a checkpoint's base path: what it computes without adapters. One file a family.

A fault that a loader and the reference share would show in no other comparison: both read the checkpoint with the same code.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

from torch import Tensor, nn

from ...core.errors import UserError
from ...system.packages import install_command


@dataclass(frozen=True)
class Witnessed:
    """One prompt's or pair's results, float32.

    blocks   (part, layer) -> a block's output at every position [n, width]; parts as in verify/report.BlockLine
    outputs  stage -> a further result, in the order of computation
    """

    blocks: Mapping[tuple[str, int], Tensor]
    outputs: Mapping[str, Tensor]


def import_transformers() -> ModuleType:
    """transformers without its messages. Raises UserError where it is not installed."""
    try:
        import transformers
    except ImportError:
        fix = install_command("hf")
        raise UserError("transformers is not installed", where="--against transformers", fix=fix) from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


@contextmanager
def translated(where: object) -> Iterator[None]:
    """Turn what transformers raises about a file into a UserError."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        what = f"transformers cannot load these files ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
        raise UserError(what, where=where, fix="verify without --against, or correct the file that is named") from error


@contextmanager
def outputs_of(modules: Mapping[tuple[str, int], nn.Module]) -> Iterator[dict[tuple[str, int], Tensor]]:
    """What these modules return inside the context, batch and positions flattened: [n, width]"""
    found: dict[tuple[str, int], Tensor] = {}

    def keep(key: tuple[str, int]) -> Callable[[nn.Module, object, object], None]:
        def hook(_: nn.Module, __: object, output: object) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            found[key] = tensor.flatten(0, -2).float()

        return hook

    hooks = [module.register_forward_hook(keep(key)) for key, module in modules.items()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
