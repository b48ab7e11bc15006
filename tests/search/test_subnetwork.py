"""What is trained is the network that is exported."""

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, llava_golden_case

from eas_export.core.limits import Limits
from eas_export.core.precision import PRECISIONS
from eas_export.families import get_family, load_checkpoint
from eas_export.families.contract import Ranks, Sources
from eas_export.families.processing.tokenizer import Tokenizer
from eas_export.networks.parameters import network_parameters
from eas_export.networks.prune import prune
from eas_export.search.examples import Example, Examples, batch_at
from eas_export.search.subnetwork import Supernet, make_batch
from eas_export.verify.reference import Reference

FP32, LIMITS, CPU = PRECISIONS["fp32"], Limits(max_prompt=64, max_tokens=96), torch.device("cpu")
LLAVA = get_family("llava")


def of_golden(case, runs) -> list[Example]:
    """The published code's prompts, and the tokens that it was fed as answers."""
    found = []
    for run in runs:
        inputs = case.prompts(run)
        found.append(Example(inputs.prompts, inputs.forced_tokens[:, 0]))
    return found


@pytest.mark.parametrize("case", [TINY, llava_golden_case("half")], ids=["lavin", "llava"])
def test_the_loss_is_that_of_the_reference(case):
    """For LaVIN's positions and modality token too; prompts of other lengths in one batch."""
    if case is TINY:
        prompts = [p for p in _tiny_prompts()]
        examples = [Example(p, torch.arange(3 + n) + 5) for n, p in enumerate(prompts)]
    else:
        examples = of_golden(case, ("img1", "txt1"))
    config, plan = case.checkpoint.config, case.plan
    supernet = Supernet(prune(case.checkpoint, plan), FP32, LIMITS, CPU)
    got = supernet.loss(plan.skipped, make_batch(examples, config.prefix))
    parameters = network_parameters(prune(case.checkpoint, plan), plan, FP32, LIMITS)
    reference = Reference(config, plan, LIMITS, {name: t.read for name, t in parameters.items()})
    fed = [each.answer[:-1, None] for each in examples]
    logits = [one.logits[:, 0] for one in reference.read([each.prompt for each in examples], fed)]
    want = F.cross_entropy(torch.cat(logits), torch.cat([each.answer for each in examples]))
    assert float(got.detach()) == pytest.approx(float(want), abs=1e-5)


def _tiny_prompts():
    from eas_export.verify.decoder_samples import sample_prompts

    return list(sample_prompts(TINY.checkpoint.config, LIMITS, 8).prompts.values())


def test_new_adapters_change_nothing_before_they_are_trained(plain, questions):
    """Where nothing is skipped: the plain model's loss."""
    bare = load_checkpoint(Sources(plain))
    trainable = LLAVA.train(Sources(plain), Ranks(4, 8), 0, CPU)
    examples = Examples(questions, bare.config, LLAVA, Tokenizer(bare.tokenizer, bare.config.vocab_size))
    batch = make_batch([examples[i] for i in range(6)], 0)
    with_adapters, without = (
        Supernet(each, FP32, examples.limits, CPU).loss((), batch).detach() for each in (trainable.checkpoint, bare)
    )
    assert bare.config.kept_adapter is None and trainable.checkpoint.config.kept_adapter.rank == 4
    assert float(with_adapters) == pytest.approx(float(without), abs=1e-6)


def test_adapters_of_the_subnetwork_are_trained_and_nothing_else(plain, questions):
    trainable = LLAVA.train(Sources(plain), Ranks(4, 8), 0, CPU)
    checkpoint = trainable.checkpoint
    examples = Examples(questions, checkpoint.config, LLAVA, Tokenizer(checkpoint.tokenizer, 128))
    supernet = Supernet(checkpoint, FP32, examples.limits, CPU)
    supernet.loss((1, 3), make_batch([examples[2]], 0)).backward()
    reached = {key for key, t in trainable.adapters.items() if t.grad is not None}
    kept, skipped = (
        {key for key in trainable.adapters if f"layers.{i}." in key and kind in key}
        for i, kind in ((0, "adapter_attn"), (1, "replaced_adapter"))
    )
    assert kept <= reached and skipped <= reached
    assert not any("layers.0.replaced" in key or "layers.1.adapter_attn" in key for key in reached)


def test_the_gradient_is_the_slope(plain, questions):
    trainable = LLAVA.train(Sources(plain), Ranks(4, 8), 0, CPU)
    checkpoint = trainable.checkpoint
    examples = Examples(questions, checkpoint.config, LLAVA, Tokenizer(checkpoint.tokenizer, 128))
    supernet, batch = Supernet(checkpoint, FP32, examples.limits, CPU), make_batch([examples[5]], 0)
    with torch.no_grad():
        for tensor in trainable.adapters.values():
            tensor += 0.05 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(tensor.numel()))
    supernet.loss((1,), batch).backward()
    key = "model.layers.1.replaced_adapter.conv_C.weight"
    tensor = trainable.adapters[key]
    direction = tensor.grad / tensor.grad.norm()
    with torch.no_grad():
        tensor += 1e-2 * direction
        above = supernet.loss((1,), batch)
        tensor -= 2e-2 * direction
        slope = float(above - supernet.loss((1,), batch)) / 2e-2
    assert slope == pytest.approx(float(tensor.grad.norm()), rel=2e-2)


def test_every_question_has_its_turn():
    """Before any has another one, whatever the batch's size is."""
    rows = [row for step in range(7) for row in batch_at(step, 10, 4, seed=3)]
    assert sorted(rows[:10]) == sorted(rows[10:20]) == list(range(10)) and rows[:10] != rows[10:20]
    assert batch_at(5, 10, 4, seed=3) == rows[20:24] and batch_at(5, 10, 4, seed=4) != rows[20:24]
