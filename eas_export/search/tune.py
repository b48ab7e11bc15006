"""Train with AdamW step by step, and save its state."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from ..core.errors import UserError
from ..system.files import written_whole

WARM_UP = 0.05  # share of the steps in which the learning rate rises
LARGEST_GRADIENT = 1.0  # norm to which gradients are clipped


class Trainer:
    """parameters: name -> tensor to train in place; the learning rate rises to `rate`, then falls to 0 at `steps`"""

    def __init__(self, parameters: Mapping[str, Tensor], rate: float, steps: int):
        self.parameters, self.steps, self.done = dict(parameters), steps, 0
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
        self.rate = rate

    def step(self, loss: Tensor) -> float:
        """Take one optimizer step. Returns the loss. Raises UserError if it is not finite."""
        value = self.backward(loss)
        self.update()
        return value

    def backward(self, loss: Tensor) -> float:
        """The first half of a step: gradients, while parameters stay as they are. Returns the loss. Raises UserError if it is not finite."""
        value = finite(loss, self.done)
        loss.backward()
        return value

    def update(self) -> None:
        """The second half: change the parameters by their gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * _share(self.done / self.steps)
        torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), LARGEST_GRADIENT)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1

    def save(self, path: Path) -> None:
        """Write the parameters and AdamW's state. Raises UserError if the file cannot be written."""
        tensors = {"done": torch.tensor(self.done)}
        for name, parameter in self.parameters.items():
            tensors[f"value {name}"] = parameter.detach().contiguous()
            tensors |= {f"{kind} {name}": value for kind, value in self.optimizer.state.get(parameter, {}).items()}
        with written_whole(path) as file:
            file.write(save(tensors))

    def load(self, path: Path) -> None:
        """Resume from a saved state. Raises UserError if it does not match the parameters."""
        try:
            tensors = load_file(path)
            self.done = int(tensors.pop("done"))
            for name, parameter in self.parameters.items():
                parameter.data.copy_(tensors.pop(f"value {name}"))
                kinds = ("step", "exp_avg", "exp_avg_sq")
                if f"step {name}" in tensors:  # missing for parameters that no subnetwork has used yet
                    state = {kind: tensors.pop(f"{kind} {name}") for kind in kinds}
                    self.optimizer.state[parameter] = {
                        kind: value if kind == "step" else value.to(parameter.device) for kind, value in state.items()
                    }
        except Exception as error:  # safetensors raises its own type, not a ValueError
            what = f"the saved training state does not match ({' '.join(str(error).split())[:100]})"
            raise UserError(what, where=path, fix="delete the file to start again") from None


def finite(loss: Tensor, step: int) -> float:
    """The loss as a float. Raises UserError if it is not finite."""
    value = float(loss.detach())
    if not math.isfinite(value):
        fix = "use a smaller --learning-rate, or --precision fp32"
        raise UserError(f"the training loss is {value}", where=f"step {step}", fix=fix)
    return value


def _share(done: float) -> float:
    """The share of the maximum learning rate when this share of the steps is done."""
    if done < WARM_UP:
        return (done + 1e-3) / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))
