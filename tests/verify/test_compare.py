"""The ledger finds what a wrong graph does, also where only a batch shows it."""

from dataclasses import replace

import torch
from conftest import golden_case

from eas_export.backends.opening import open_runtime
from eas_export.core.precision import PRECISIONS
from eas_export.generation.generate import Generation, generate, join_generations
from eas_export.networks.decoder.prompts import Prompts, join_prompts
from eas_export.verify import ledger
from eas_export.verify.compare import Request, compare_bundle
from eas_export.verify.decoder import DecoderLedger
from eas_export.verify.decoder_samples import sample_prompts

CASE = golden_case("half_13B")


class Mutant:
    """A session whose inputs are changed before they are used."""

    def __init__(self, session, change):
        self.session, self.spec, self.change = session, session.spec, change

    def run(self, requests):
        self.session.run([(inputs | self.change(inputs), outputs) for inputs, outputs in requests])

    def bind(self, inputs, outputs):
        return lambda: self.run([(inputs, outputs)])


def ledger_with(monkeypatch, bundle, graph, change):
    def opened(bundle, backend):
        runtime = open_runtime(bundle, backend)
        return replace(runtime, sessions=dict(runtime.sessions) | {graph: Mutant(runtime.sessions[graph], change)})

    monkeypatch.setattr(ledger, "open_low_memory_runtime", opened)
    return verified(bundle)


def verified(bundle):
    return compare_bundle(bundle, Request(CASE.checkpoint, "x"))


def first_bad(report) -> str:
    return next(
        f"{case}: {line.stage}"
        for s in report.steps
        for case, lines in s.cases.items()
        for line in lines
        if not line.ok
    )


def test_rows_that_use_their_neighbours_state_are_found(bundle_of, monkeypatch):
    """Every row alone is right; only the batch shows it."""
    bundle = bundle_of(CASE, fold="lowrank")
    assert verified(bundle).ok

    def first_rows_router(inputs):
        return {"router": inputs["router"][:1].expand_as(inputs["router"]).contiguous()}

    report = ledger_with(monkeypatch, bundle, "decode", first_rows_router)
    assert not report.ok and first_bad(report) == "1 to 4 in one batch: decode 1"


def test_a_wrong_position_is_found_in_the_decode(bundle_of, monkeypatch):
    report = ledger_with(
        monkeypatch, bundle_of(CASE), "decode", lambda inputs: {"position_ids": inputs["position_ids"] + 1}
    )
    assert not report.ok and first_bad(report) == "text: decode 1"


def test_a_wrong_fold_state_is_found_in_the_fold(bundle_of, monkeypatch):
    report = ledger_with(monkeypatch, bundle_of(CASE), "fold", lambda inputs: {"router": inputs["router"] * 1.01})
    assert not report.ok and first_bad(report) == "text: fold"


def test_joined_batches_are_the_rows_they_were_made_of(bundle_of):
    runtime = open_runtime(bundle_of(CASE, fold="lowrank"), "pytorch")
    prompts = list(sample_prompts(runtime.config, runtime.limits, 2).prompts.values())
    prompts.append(replace(prompts[1], pixel_values=torch.ones_like(prompts[1].pixel_values)))
    alone = join_generations([generate(runtime, prompt, 2) for prompt in prompts])
    together = generate(runtime, join_prompts(prompts), 2)
    assert isinstance(join_prompts(prompts), Prompts) and together.tokens.equal(alone.tokens)
    assert (together.logits - alone.logits).abs().max() < 5e-5
    assert (together.image_features - alone.image_features).abs().max() < 1e-4


def test_extremes_can_be_verified(tmp_path):
    """The smallest limits, and adapters so weak that fp16 rounds what they fold to its smallest steps."""
    from eas_export import build

    folder = golden_case("all").folder
    result = build(folder, tmp_path / "o", max_prompt=2, max_tokens=3, precision="fp16", adapter_scale=1e-5)
    assert result.report.ok, result.report.first_divergence
    assert [line.stage for line in result.report.steps[-1].cases["text"]][-2:] == ["decode 2", "tokens"]


def test_router_weights_that_lie_close_together_are_held_to_an_absolute_error():
    """Their spread says nothing: a probability's rounding does not shrink with it."""

    def generation(router: float) -> Generation:
        state = {"router": torch.tensor([[[router, 1 - router]]])}
        return Generation(torch.zeros(1, 1, 3), torch.zeros(1, 1, dtype=torch.int64), None, state)

    ledger = DecoderLedger.__new__(DecoderLedger)
    ledger.precision = PRECISIONS["fp32"]
    for error, ok in ((3e-7, True), (3e-5, False)):
        lines = ledger.compare(generation(0.5 + error), generation(0.5), generation(0.5), 1e-4)
        assert [line.ok for line in lines if line.stage == "router"] == [ok]
