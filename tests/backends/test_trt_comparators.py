"""Engines of the systems that EAS is compared with, for which TensorRT-RTX has the kernels that it has for EAS."""

import pytest
from synthetic import Shape, write_checkpoint
from synthetic_comparators import lavin, lavin_das, lavin_lora

from eas_export.backends.checking import check as check_graphs
from eas_export.backends.tensorrt import engine_graph
from eas_export.core.progress import Progress
from eas_export.pipeline import build

TOWER = {"clip_width": 64, "clip_blocks": 4, "clip_patch": 7, "clip_image": 14}
SHAPE = Shape("7B", dim=64, layers=2, heads=4, vocab=80, multiple_of=8, rank=8, skip=(0,), hidden_proj=16, **TOWER)


@pytest.mark.parametrize(("trained", "kept"), [(lavin, 2), (lavin_das, 1), (lavin_lora, 2)])
def test_engines_are_built_with_fused_attention_and_caches_in_place(trained, kept, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_graph, "MIN_BOUND_BYTES", 256)
    folder = write_checkpoint(tmp_path / "ckpt", SHAPE, trained=trained(SHAPE))
    options = dict(precision="fp16", backend="tensorrt-rtx", compute_capability="86", max_prompt=32, max_tokens=64)
    bundle = build(folder, tmp_path / "out", verify=False, **options).bundle
    attention = {graph: record.attention for graph, record in bundle.manifest.engines("tensorrt-rtx").items()}
    assert attention == {"vision": "fused", "prefill": "fused", "decode": "fused"}  # as for an EAS model of this size
    checks = check_graphs(bundle, "tensorrt-rtx", Progress())
    assert not any(check.lost for check in checks.values())
    for graph in ("prefill", "decode"):
        kinds = [layer.kind for layer in checks[graph].layers]
        assert kinds.count("ATTENTION_INPUT") == kept and kinds.count("KV_CACHE_UPDATE") == 2 * kept
