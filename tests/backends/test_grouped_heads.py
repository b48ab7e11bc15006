"""TensorRT-RTX's engines of a model whose keys and values have fewer heads than its queries, built for real."""

from collections import Counter

import pytest
from synthetic_llava import LlavaShape, write_llava

from eas_export.backends.checking import check as check_graphs
from eas_export.backends.tensorrt import engine_graph
from eas_export.core.progress import Progress
from eas_export.pipeline import build


@pytest.mark.parametrize("fold", ["weights", "lowrank"])
def test_grouped_attention_is_fused(tmp_path, fold, monkeypatch):
    monkeypatch.setattr(engine_graph, "MIN_BOUND_BYTES", 256)
    folder = write_llava(tmp_path / "ckpt", LlavaShape(heads=4, kv_heads=2, skip=(0, 2), clip_heads=2))
    options = dict(fold=fold, precision="fp16", backend="tensorrt-rtx", compute_capability="8.6")
    bundle = build(folder, tmp_path / "out", verify=False, max_prompt=64, max_tokens=128, **options).bundle
    engines = bundle.manifest.engines("tensorrt-rtx")
    assert (engines["prefill"].attention, engines["decode"].attention) == ("fused", "fused")
    for graph, check in check_graphs(bundle, "tensorrt-rtx", Progress()).items():
        if graph in ("prefill", "decode"):
            kinds = Counter(layer.kind for layer in check.layers)
            assert kinds["ATTENTION_INPUT"] == 2 and kinds["KV_CACHE_UPDATE"] == 4
            masked = [layer.mask for layer in check.layers if layer.kind == "ATTENTION_INPUT"]
            assert masked == [graph == "decode"] * 2
