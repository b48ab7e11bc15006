"""A wrong weight is found by how far it moves the logits, and named by its layer."""

import shutil
from functools import partial

import pytest
import torch
from conftest import GoldenCase, golden_case

from eas_export.bundle.bundle import Bundle, open_bundle, write_manifest
from eas_export.bundle.manifest import WEIGHTS
from eas_export.core.precision import PRECISIONS
from eas_export.networks.parameters import network_parameters
from eas_export.networks.prune import prune
from eas_export.system.hashing import sha256_of
from eas_export.verify.compare import Request, compare_bundle
from eas_export.verify.decoder_samples import sample_prompts
from eas_export.verify.metrics import spread
from eas_export.verify.reference import Reference


def scaled(bundle: Bundle, name: str, factor: float, folder) -> Bundle:
    """A copy of the bundle with one tensor scaled, and its sha256 recorded."""
    shutil.copytree(bundle.path, folder)
    entry = bundle.store.entries[name]
    tensor = factor * bundle.store.tensor(name)
    with open(folder / WEIGHTS, "r+b") as file:
        file.seek(entry.offset)
        file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    record = bundle.manifest.files[WEIGHTS].model_copy(update={"sha256": sha256_of(folder / WEIGHTS)})
    files = bundle.manifest.files | {WEIGHTS: record}
    write_manifest(folder, bundle.manifest.model_copy(update={"files": files}))
    return open_bundle(folder)


class Moved:
    """How far the reference's logits move, in units of their tolerance, when one tensor of a layer is scaled."""

    def __init__(self, case: GoldenCase, bundle: Bundle, name: str):
        m = bundle.manifest
        parameters = network_parameters(prune(case.checkpoint, m.plan), m.plan, PRECISIONS["fp32"], m.limits)
        self.readers = {key: tensor.read for key, tensor in parameters.items()}
        self.samples = sample_prompts(m.config, m.limits, 8)
        self.name, self.read = name, self.readers[name]
        self.reference = partial(Reference, m.config, m.plan, m.limits)
        self.tolerance = PRECISIONS[m.precision].tolerance
        self.exact = self.logits(1.0)

    def logits(self, factor: float) -> list[torch.Tensor]:
        readers = self.readers | {self.name: lambda: factor * self.read()}
        prompts, forced = list(self.samples.prompts.values()), list(self.samples.forced.values())
        return [result.logits for result in self.reference(readers).read(prompts, forced)]

    def by(self, factor: float) -> float:
        moved = zip(self.logits(factor), self.exact)
        return (
            max(float((a[s] - b[s]).abs().max()) / spread(b[s]) for a, b in moved for s in range(len(b)))
            / self.tolerance
        )

    def factor_for(self, times: float) -> float:
        """The factor by which they move so many tolerances: the movement grows with what is added."""
        added = 1e-3
        for _ in range(12):
            now = self.by(1 + added)
            if abs(now / times - 1) < 0.02:
                break
            added *= times / now
        return 1 + added


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("fold", ["weights", "lowrank"])
@pytest.mark.parametrize("layer", [0, 3])
def test_a_scaled_weight_shows_by_twice_the_tolerance_and_by_itself_where_prompts_hide_it(
    bundle_of, tmp_path, layer, fold, precision
):
    case = golden_case("first")  # layer 0 is skipped, 3 is not
    bundle, name = bundle_of(case, precision, fold), f"layers.{layer}.ffn.down.weight"
    moved = Moved(case, bundle, name)
    verify = partial(compare_bundle, request=Request(case.checkpoint, "x"))
    bad = verify(scaled(bundle, name, moved.factor_for(2), tmp_path / "bad"))
    assert bad.exit_code == 1 and bad.first_divergence.layer == layer, bad.first_divergence
    assert bad.first_divergence.stage == "down"
    small = verify(scaled(bundle, name, moved.factor_for(0.1), tmp_path / "small"))
    assert all(step.ok for step in small.steps) and all(block.ok for block in small.blocks)
    assert small.exit_code == 1 and small.first_divergence.stage == name
