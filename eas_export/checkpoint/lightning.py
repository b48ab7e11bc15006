"""PyTorch Lightning checkpoints: {state_dict, hyper_parameters, epoch, callbacks, optimizer_states, lr_schedulers, ...}.

They name classes of the training program and of libraries that need not be installed (callbacks as keys, schedulers, config
containers). Only tensors and plain data are read: any other name becomes an object that does nothing.
"""

from pathlib import Path
from typing import Any

from .keys import KeyTable
from .lazy_tensor import LazyTensor
from .restricted_unpickler import Inert, PlainObject
from .state_dict import read_state


def read_lightning(path: Path, table: KeyTable) -> tuple[dict[str, LazyTensor], dict[str, Any]]:
    """The model's tensors by their published names, not read yet, and its hyper-parameters: those of their entry `config`, where the
    published training code puts them, before those beside it. Empty where none were saved, as in the file of a state dict alone.

    Raises UserError for files that are truncated or damaged, and as state_dict.read_state does.
    """
    tensors, saved = read_state(path, table, "state_dict", Inert)
    parameters = _plain(saved.get("hyper_parameters")) if isinstance(saved, dict) else {}
    return tensors, parameters | _plain(parameters.get("config"))


def _plain(value: Any) -> dict[str, Any]:
    """The values of a mapping of any class, of an argparse.Namespace, or of OmegaConf's DictConfig, whose _content are nodes with a _val; of
    anything else none."""
    if isinstance(value, PlainObject) and not isinstance(value, dict):
        value = vars(value).get("_content", vars(value))
    items = value.items() if isinstance(value, dict) else ()
    nodes = {name: vars(item) if isinstance(item, PlainObject) else {} for name, item in items}
    return {name: nodes[name].get("_val", item) for name, item in items}
