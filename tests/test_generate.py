"""Edges of generation: the shortest prompt, full caches, padding, batches, limits."""

from dataclasses import replace

import pytest
import torch
from conftest import RUN_HERE, golden_case, max_error, text_prompts, with_image

from eas_export.backends.opening import open_runtime
from eas_export.core.errors import UserError
from eas_export.core.limits import Limits
from eas_export.generation.conversation import empty_caches, encode_images, prefill
from eas_export.generation.generate import generate

CASE = golden_case("half_13B")
SAME = 5e-5


@pytest.mark.parametrize("fold", ["weights", "lowrank"])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_shortest_prompts(bundle_of, fold, length):
    bundle = bundle_of(CASE, fold=fold)
    prompts = text_prompts(list(range(5, 5 + length)))
    want, got = (generate(open_runtime(bundle, backend), prompts, steps=3) for backend in ("pytorch", "onnxruntime"))
    assert max_error(got.logits, want.logits) < SAME
    assert max_error(got.state["pooled"], want.state["pooled"]) < 1e-5


@pytest.mark.parametrize("backend", RUN_HERE)
def test_an_image_may_stand_anywhere(bundle_of, backend):
    """At the first and the last position of the prompt: nothing assumes what stands around it."""
    runtime = open_runtime(bundle_of(CASE), backend)
    reference = open_runtime(bundle_of(CASE, fold="lowrank"), "pytorch")
    pixels = torch.randn(3, 14, 14, generator=torch.Generator().manual_seed(0))
    for position in (0, 4):
        prompts = with_image(text_prompts([5, 6, 7, 8, 9]), 0, position, pixels)
        assert max_error(generate(runtime, prompts, 2).logits, generate(reference, prompts, 2).logits) < SAME


@pytest.mark.parametrize("backend", RUN_HERE)
def test_padding_and_batch_mates_change_nothing(bundle_of, backend):
    """A row alone equals the row in a ragged, mixed batch: means, router and last token respect prompt_lengths."""
    runtime = open_runtime(bundle_of(CASE, fold="lowrank"), backend)
    pixels = torch.randn(2, 3, 14, 14, generator=torch.Generator().manual_seed(1))
    rows = [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14], [15], [16, 17, 18, 19]]
    forced = torch.arange(20).reshape(5, 4)
    batch = with_image(with_image(text_prompts(*rows, pad=3), 1, 2, pixels[0]), 3, 0, pixels[1])
    together = generate(runtime, batch, forced=forced)
    for i, row in enumerate(rows):
        alone = text_prompts(row)
        if i in (1, 3):
            alone = with_image(alone, 0, 2 if i == 1 else 0, pixels[i // 2])
        single = generate(runtime, alone, forced=forced[:, i : i + 1].contiguous())
        assert max_error(together.logits[:, i], single.logits[:, 0]) < SAME
        for name in ("router", "pooled"):
            assert max_error(together.state[name][i], single.state[name][0]) < 1e-5


def limited(bundle_of, **limits):
    runtime = open_runtime(bundle_of(CASE), "onnxruntime")
    return replace(runtime, limits=Limits(**limits))


def test_caches_may_be_filled_to_the_last_slot(bundle_of):
    runtime = limited(bundle_of, max_prompt=7, max_tokens=9)
    full = generate(runtime, text_prompts([1, 2, 3, 4, 5, 6, 7]), steps=2)
    roomy = generate(limited(bundle_of), text_prompts([1, 2, 3, 4, 5, 6, 7]), steps=5)
    assert max_error(full.logits, roomy.logits[:3]) < SAME


@pytest.mark.parametrize(
    "prompts, steps, said",
    [
        (text_prompts([1] * 8), 0, "8 prompt tokens, the bundle takes 7.*--max-prompt 8"),
        (text_prompts([1] * 7), 3, "10 tokens of prompt and answer, the bundle takes 9.*--max-tokens 10"),
        (text_prompts([1], [2]), 0, "2 prompts at once.*--fold lowrank"),
    ],
)
def test_limits_are_kept(bundle_of, prompts, steps, said):
    with pytest.raises(UserError, match=said):
        generate(limited(bundle_of, max_prompt=7, max_tokens=9), prompts, steps)


def test_the_longest_prompt_and_answer_of_a_bundle(bundle_of):
    """RoPE's tables reach to the last position that the limits allow."""
    bundle = bundle_of(CASE)
    limits = bundle.manifest.limits
    ids = torch.randint(96, (1, limits.max_prompt), generator=torch.Generator().manual_seed(0)).tolist()
    prompts = text_prompts(ids[0])
    forced = torch.zeros(2, 1, dtype=torch.int64)
    want, got = (
        generate(open_runtime(bundle, backend), prompts, forced=forced) for backend in ("pytorch", "onnxruntime")
    )
    assert max_error(got.logits, want.logits) < SAME
    rows = bundle.store.entries["rope.cos"].shape[0]
    assert rows == limits.max_tokens + bundle.manifest.config.prefix


def test_infinite_logits_are_an_error(bundle_of, monkeypatch):
    runtime = open_runtime(bundle_of(CASE), "pytorch")
    with torch.no_grad():
        weights = runtime.sessions["prefill"].module.network.decoder.norm
        monkeypatch.setattr(weights, "weight", torch.nn.Parameter(torch.full_like(weights.weight, float("nan"))))
    with pytest.raises(UserError, match="logits are not finite"):
        generate(runtime, text_prompts([1, 2]))


def test_onnxruntime_updates_the_caches_in_place(bundle_of):
    runtime = open_runtime(bundle_of(CASE), "onnxruntime")
    prompts = text_prompts([3, 4, 5])
    caches = empty_caches(runtime, 1, slots=6)
    outputs = prefill(runtime, prompts, encode_images(runtime, prompts), caches)
    for name, cache in caches.items():
        assert outputs[name.replace("past_key_values", "present")] is cache
        assert cache[:, :, :3].abs().amax((1, 3)).min() > 0 and cache[:, :, 3:].abs().max() == 0
