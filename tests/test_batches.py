"""A row's answer is its own: alone, or in any batch, order, padding and mix of modalities."""

import pytest
import torch
from conftest import golden_case, max_error, text_prompts, with_image
from hypothesis import given, settings
from hypothesis import strategies as st

from eas_export.backends.opening import open_runtime
from eas_export.generation.conversation import Conversation
from eas_export.generation.generate import generate
from eas_export.generation.sampling import Sampling
from eas_export.generation.stream import answer
from eas_export.networks.decoder.prompts import Prompts, join_prompts

CASE = golden_case("half_13B")  # image tokens: 1; vocabulary: 96
SAME, STATE, MARGIN = 5e-5, 1e-5, 1e-3
STEPS = 3


@pytest.fixture(scope="module")
def runtime(bundle_of):
    return open_runtime(bundle_of(CASE, fold="lowrank"), "onnxruntime")


@st.composite
def single_prompts(draw) -> Prompts:
    """One row of 1 to 9 tokens, in every second one of them an image at any place."""
    prompts = text_prompts(draw(st.lists(st.integers(0, 95), min_size=1, max_size=9)))
    if draw(st.booleans()):
        place = draw(st.integers(0, prompts.input_ids.shape[1] - 1))
        pixels = torch.randn(3, 14, 14, generator=torch.Generator().manual_seed(draw(st.integers(0, 9))))
        prompts = with_image(prompts, 0, place, pixels)
    return prompts


def padded(prompts: Prompts, columns: int) -> Prompts:
    """More padding on the right, of a token that means something."""
    longer = text_prompts(*prompts.input_ids.tolist(), pad=columns)
    index = torch.nn.functional.pad(prompts.image_index, (0, columns), value=-1)
    return Prompts(longer.input_ids, prompts.prompt_lengths, index, prompts.pixel_values)


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(single_prompts(), min_size=2, max_size=6),
    padding=st.integers(0, 4),
    seed=st.integers(0, 1 << 20),
)
def test_a_row_alone_equals_the_row_in_any_batch(runtime, rows, padding, seed):
    forced = torch.randint(96, (STEPS, len(rows)), generator=torch.Generator().manual_seed(seed))
    together = generate(runtime, padded(join_prompts(rows), padding), forced=forced)
    for i, row in enumerate(rows):
        alone = generate(runtime, row, forced=forced[:, i : i + 1])
        assert max_error(together.logits[:, i], alone.logits[:, 0]) < SAME
        for name, value in alone.state.items():
            assert max_error(together.state[name][i], value[0]) < STATE
        top = alone.logits[:, 0].topk(2).values
        clear = top[:, 0] - top[:, 1] > MARGIN
        assert together.tokens[:, i][clear].equal(alone.tokens[:, 0][clear])


@settings(deadline=None, max_examples=30)
@given(
    rows=st.lists(single_prompts(), min_size=2, max_size=6),
    eos=st.integers(0, 95),
    temperature=st.sampled_from([0.0, 1.0, 3.0]),
    seed=st.integers(0, 1 << 20),
)
def test_answers_do_not_depend_on_batch_mates(runtime, rows, eos, temperature, seed):
    """Also when rows end at different steps, and when tokens are drawn."""
    sampling = Sampling(temperature=temperature, top_p=0.9, seed=seed)
    together = answer(Conversation(runtime, join_prompts(rows)), 6, {eos}, sampling)
    for i, row in enumerate(rows):
        assert together[i] == answer(Conversation(runtime, row), 6, {eos}, sampling, rows=[i])[0]
