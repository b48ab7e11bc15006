"""The block-by-block reference is the network, and holds a block."""

import resource

import pytest
import torch
from conftest import golden_case

from eas_export.backends.pytorch import open_network
from eas_export.core.errors import UserError
from eas_export.core.limits import Limits
from eas_export.core.precision import PRECISIONS
from eas_export.generation.generate import generate
from eas_export.networks.decoder.prompts import Prompts
from eas_export.networks.parameters import network_parameters
from eas_export.networks.prune import prune
from eas_export.system.scratch import LARGE, Scratch
from eas_export.verify.decoder_samples import drawn_tokens, sample_prompts
from eas_export.verify.reference import Reference, groups

LIMITS = Limits(max_batch=8, max_prompt=32, max_tokens=64)


def parameters(case) -> dict:
    return network_parameters(prune(case.checkpoint, case.plan), case.plan, PRECISIONS["fp32"], LIMITS)


@pytest.mark.parametrize("name", ["first", "half_13B", "noskip", "all"])
def test_all_prompts_at_once_are_each_prompt_step_by_step(name):
    """Prompts of different lengths, with and without images, different numbers of forced tokens; a fed token changes no state."""
    case = golden_case(name)
    config, readers = case.checkpoint.config, {n: t.read for n, t in parameters(case).items()}
    samples = sample_prompts(config, LIMITS, 8)
    prompts = list(samples.prompts.values())
    forced = [tokens[: 3 + i] for i, tokens in enumerate(samples.forced.values())]
    seen = []
    reference = Reference(config, case.plan, LIMITS, readers)
    got = reference.read(prompts, forced, seen.append)
    assert sum(seen) == config.layers
    for fold in ("weights", "lowrank"):
        network = open_network(config, case.plan, PRECISIONS["fp32"], LIMITS, fold, readers)
        for prompt, fed, mine in zip(prompts, forced, got):
            want = generate(network, prompt, forced=fed)
            assert mine.logits.shape == want.logits.shape
            assert (mine.logits - want.logits).abs().max() < 2e-5
            assert all((mine.state[key] - want.state[key]).abs().max() < 5e-6 for key in want.state)
            assert (mine.image_features is None) == (prompt.pixel_values is None)
            if mine.image_features is not None:
                assert (mine.image_features - want.image_features).abs().max() < 2e-5
            for layer in range(config.layers if want.folded else 0):
                for key, value in reference.fold(layer, want.state).items():
                    assert (value - want.folded[key]).abs().max() < 1e-6
    assert {p.device.type for p in reference.network.decoder.parameters()} == {"meta"}  # nothing stays


def test_one_block_is_loaded_at_a_time():
    case = golden_case("first")
    most = []

    def counted(name, read):
        def reader():
            reference = watched[0]
            blocks = {
                i
                for i, block in enumerate(reference.network.layers)
                if any(p.device.type != "meta" for p in block.parameters())
            }
            most.append(len(blocks))
            return read()

        return reader

    watched = []
    readers = {n: counted(n, t.read) for n, t in parameters(case).items()}
    watched.append(Reference(case.checkpoint.config, case.plan, LIMITS, readers))
    samples = sample_prompts(case.checkpoint.config, LIMITS, 2)
    watched[0].read(list(samples.prompts.values()), list(samples.forced.values()))
    assert len(most) == len(readers) and max(most) == 0  # whenever a block is read, no other one is there


def test_prompts_of_about_one_length_go_together_up_to_a_number_of_tokens():
    def prompt(length: int) -> Prompts:
        ids = torch.zeros(1, length, dtype=torch.int64)
        return Prompts(ids, torch.tensor([length]), torch.full_like(ids, -1))

    fed = torch.zeros(4, 1, dtype=torch.int64)
    for lengths, wanted in (
        ([10, 20, 30], [[0, 1, 2]]),
        ([1500, 1000, 10, 1000], [[2], [1, 3], [0]]),
        ([5000], [[0]]),
        ([5000, 5000], [[0], [1]]),
        ([700] * 7, [[0, 1], [2, 3], [4, 5], [6]]),
        ([17, 588, 1, 1016], [[2, 0], [1], [3]]),  # padding costs more than another pass
        ([300, 17, 260, 1], [[3, 1], [2, 0]]),
    ):
        assert groups([prompt(n) for n in lengths], [fed] * len(lengths)) == wanted


def test_forced_tokens_are_the_same_every_time():
    config = golden_case("first").checkpoint.config
    first, second = (drawn_tokens(config, ["a", "b"], 5) for _ in range(2))
    assert first["a"].equal(second["a"]) and not first["a"].equal(first["b"]) and first["a"].shape == (5, 1)


def test_scratch_leaves_no_files(tmp_path):
    large = Scratch(tmp_path).empty((2, LARGE), torch.float16)
    small = Scratch(tmp_path).empty((3,), torch.float32)
    large.fill_(2)
    assert float(large.sum(dtype=torch.float64)) == 4.0 * LARGE and small.shape == (3,)
    assert not list(tmp_path.iterdir())


def test_scratch_that_finds_no_room_is_one_line(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGE, hard))
    try:
        with pytest.raises(UserError, match=r"0\.00 GB of scratch files \(File too large\)"):
            Scratch(tmp_path).empty((LARGE,), torch.float32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
