"""PyTorch Lightning checkpoints: {state_dict, hyper_parameters, epoch, callbacks, optimizer_states, lr_schedulers, ...}.

They name classes of the training program and of libraries that need not be installed (callbacks as keys, schedulers, config
containers). Only tensors and plain data are read: any other name becomes an object that does nothing.
"""

from pathlib import Path
from typing import Any

from ..core.errors import UserError
from .lazy_tensor import LazyTensor
from .restricted_unpickler import Inert
from .torch_zip import read_torch_zip, state_dict_of


def read_lightning(path: Path) -> tuple[dict[str, LazyTensor], dict[str, Any]]:
    """The model's tensors by name, not read yet, and its hyper-parameters (empty where none were saved).

    Raises UserError for files that are truncated, damaged, or without an entry "state_dict".
    """
    saved = read_torch_zip(path, unknown=Inert)
    if not isinstance(saved, dict) or not isinstance(saved.get("state_dict"), dict):
        what = "the checkpoint has no entry 'state_dict'"
        raise UserError(what, where=path, fix="give the .ckpt file that PyTorch Lightning's training wrote")
    parameters = saved.get("hyper_parameters")
    return state_dict_of(saved["state_dict"], path), parameters if isinstance(parameters, dict) else {}
