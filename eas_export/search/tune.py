"""Training by AdamW, a step at a time, and its state on disk."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from ..core.errors import UserError
from ..system.files import written_whole

WARM_UP = 0.05  # share of the steps in which the learning rate rises
LONGEST_GRADIENT = 1.0  # its norm, to which a longer one is shortened


class Trainer:
    """parameters: name -> what is trained, in place; the learning rate rises to `rate` and falls to nothing at `steps`"""

    def __init__(self, parameters: Mapping[str, Tensor], rate: float, steps: int):
        self.parameters, self.steps, self.done = dict(parameters), steps, 0
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
        self.rate = rate

    def step(self, loss: Tensor) -> float:
        """Follow the loss's gradient. Returns the loss. Raises UserError where it is not finite."""
        value = finite(loss, self.done)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * _share(self.done / self.steps)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), LONGEST_GRADIENT)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1
        return value

    def save(self, path: Path) -> None:
        """Write the parameters and what AdamW remembers of each. Raises UserError where that cannot be written."""
        tensors = {"done": torch.tensor(self.done)}
        for name, parameter in self.parameters.items():
            tensors[f"value {name}"] = parameter.detach().contiguous()
            tensors |= {f"{kind} {name}": value for kind, value in self.optimizer.state.get(parameter, {}).items()}
        with written_whole(path) as file:
            file.write(save(tensors))

    def load(self, path: Path) -> None:
        """Go on from there. Raises UserError where the file is not of these parameters."""
        try:
            tensors = load_file(path)
            self.done = int(tensors.pop("done"))
            for name, parameter in self.parameters.items():
                parameter.data.copy_(tensors.pop(f"value {name}"))
                kinds = ("step", "exp_avg", "exp_avg_sq")
                if f"step {name}" in tensors:  # a parameter that no subnetwork has used yet has none
                    state = {kind: tensors.pop(f"{kind} {name}") for kind in kinds}
                    self.optimizer.state[parameter] = {
                        kind: value if kind == "step" else value.to(parameter.device) for kind, value in state.items()
                    }
        except Exception as error:  # safetensors has a kind of its own, which is no ValueError
            what = f"it is no state of this training ({' '.join(str(error).split())[:100]})"
            raise UserError(what, where=path, fix="delete it to begin anew") from None


def finite(loss: Tensor, step: int) -> float:
    """The loss as a number. Raises UserError where it is none."""
    value = float(loss.detach())
    if not math.isfinite(value):
        fix = "take a smaller --learning-rate, or a wider --precision"
        raise UserError(f"the loss is {value}", where=f"step {step}", fix=fix)
    return value


def _share(done: float) -> float:
    """Of the learning rate, when this share of the steps is done."""
    if done < WARM_UP:
        return (done + 1e-3) / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))
