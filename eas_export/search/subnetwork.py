"""The subnetworks of a model with both adapters in every layer, one for each set of skipped attentions.

Each is built for its skip list like a bundle's network (networks/), from the current tensors: the trained network is the exported one.
Below fp32, frozen tensors are rounded to the precision before they are folded; a bundle folds first and rounds once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.lazy_tensor import LazyTensor
from ..core.limits import Limits
from ..core.plan import SkipPlan
from ..core.precision import Precision
from ..networks.decoder.prefill import start_reading
from ..networks.decoder.teacher_forcing import TeacherForced, force_tokens
from ..networks.network import build_network, store_name
from ..networks.parameters import network_parameters
from ..networks.prune import prune
from .examples import Example


@dataclass(frozen=True)
class Batch:
    """Prompts followed by their answers.

    forced   prompts and answers without their last tokens, which predict nothing
    places   [answer tokens] int64: where each is predicted, among the B*L positions
    targets  [answer tokens] int64
    """

    forced: TeacherForced
    places: Tensor
    targets: Tensor


def make_batch(examples: Sequence[Example], prefix: int) -> Batch:
    forced = force_tokens([each.prompt for each in examples], [each.answer[:-1] for each in examples], prefix)
    length = forced.position_ids.shape[1]
    places = [
        row * length + prefix + int(prompt) - 1 + torch.arange(len(each.answer))
        for row, (prompt, each) in enumerate(zip(forced.lengths, examples))
    ]
    return Batch(forced, torch.cat(places), torch.cat([each.answer for each in examples]))


class Supernet:
    """checkpoint: with both adapters in every layer; trained tensors are read for every subnetwork, frozen ones once"""

    def __init__(self, checkpoint: Checkpoint, precision: Precision, limits: Limits, device: torch.device):
        self.precision, self.limits, self.device = precision, limits, device
        self.checkpoint = replace(
            checkpoint, tensors={name: self._settled(tensor) for name, tensor in checkpoint.tensors.items()}
        )

    @property
    def prefix(self) -> int:
        return self.checkpoint.config.prefix

    def loss(self, skipped: tuple[int, ...], batch: Batch) -> Tensor:
        """Cross entropy of the answers' tokens with these attentions skipped, in nats: a float32 scalar."""
        config = self.checkpoint.config
        plan = SkipPlan(sites=config.sites, skipped=skipped, origin="search")
        parameters = network_parameters(prune(self.checkpoint, plan), plan, self.precision, self.limits)
        module = _AnswerLoss(build_network(config, plan, self.precision, self.limits))
        tensors = {
            f"network.{name}": parameters[store_name(name)].read().to(self.device)
            for name, _ in module.network.named_parameters()
        }
        return functional_call(module, tensors, (batch, self.device))

    def _settled(self, tensor: LazyTensor) -> LazyTensor:
        """A frozen tensor in memory, in the precision's dtype; a trained one unchanged."""
        value = tensor.read()
        if value.requires_grad:
            return tensor
        value = value.to(self.device, getattr(torch, self.precision.dtype))
        return LazyTensor(tensor.shape, value.dtype, tensor.source, lambda: value)


class _AnswerLoss(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, batch: Batch, device: torch.device) -> Tensor:
        decoder, pixels = self.network.decoder, batch.forced.batch.pixel_values
        dtype = decoder.embed.weight.dtype
        if pixels is None:
            features = torch.zeros(1, decoder.config.dim, dtype=dtype, device=device)
        else:
            features = self.network.vision(pixels.to(device, dtype)).flatten(0, 1)
        inputs = {name: tensor.to(device) for name, tensor in batch.forced.inputs(features).items()}
        x, reading = start_reading(decoder, inputs, batch.forced.position_ids.to(device))
        for layer, block in enumerate(decoder.layers):
            x, _ = reading.block(layer, block, x, lambda *_: None)
        logits = decoder.logits(x.index_select(0, batch.places.to(device)))  # [answer tokens, vocab]
        return F.cross_entropy(logits, batch.targets.to(device))
