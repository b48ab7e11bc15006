"""Specs that the decoder's graphs share: dims, cache tensors, fold state, folded weights."""

from ...core.configs.decoder import ModelConfig
from ...core.graph_spec import Dim, TensorSpec
from ...core.limits import Limits
from ...core.plan import SkipPlan
from ...core.precision import Precision
from .modules import KeptBlock, SkippedBlock


def dims_of(config: ModelConfig, limits: Limits) -> dict[str, Dim]:
    """B rows, S prompt tokens, T cache slots, M image feature vectors, N images of all rows."""
    images = limits.max_batch * limits.max_images
    tokens = config.image_tokens
    return {
        "B": Dim(min=1, opt=limits.max_batch, max=limits.max_batch, limit="max-batch"),
        "S": Dim(min=1, opt=max(1, limits.max_prompt // 2), max=limits.max_prompt, limit="max-prompt"),
        "T": Dim(min=1, opt=limits.max_tokens, max=limits.max_tokens, limit="max-tokens"),
        "N": Dim(min=1, opt=images, max=images, limit="max-images"),
        "M": Dim(min=1, opt=images * tokens, max=images * tokens, limit="max-images"),
    }


def cache_specs(
    config: ModelConfig, plan: SkipPlan, precision: Precision, batch: int | str, prefix: str
) -> tuple[TensorSpec, ...]:
    """Key and value caches of the kept layers, [B, kv_heads, T, head_dim], under "<prefix>.<layer>.key" and ".value"."""
    shape = (batch, config.kv_heads, "T", config.head_dim)
    return tuple(
        TensorSpec(name=f"{prefix}.{i}.{part}", dtype=precision.dtype, shape=shape)
        for i in plan.kept
        for part in ("key", "value")
    )


def cache_aliases(plan: SkipPlan) -> dict[str, str]:
    """present.<layer>.key is past_key_values.<layer>.key, updated in place."""
    return {f"present.{i}.{part}": f"past_key_values.{i}.{part}" for i in plan.kept for part in ("key", "value")}


def fold_state_specs(config: ModelConfig, plan: SkipPlan, batch: int | str) -> tuple[TensorSpec, ...]:
    """The fold state, a prompt's whole influence on the adapters: router [B, layers, 2] and, where layers are skipped, pooled
    [B, skipped, rank]; empty without adapters."""
    if config.skipped_adapter is None:
        return ()
    router = TensorSpec(name="router", dtype="float32", shape=(batch, config.layers, 2))
    pooled = TensorSpec(name="pooled", dtype="float32", shape=(batch, len(plan.skipped), config.skipped_adapter.rank))
    return (router, pooled) if plan.skipped else (router,)


def folded_parameters(plan: SkipPlan) -> frozenset[str]:
    """Names in the store of the parameters that a prompt's folded weights replace."""
    blocks = {i: SkippedBlock if i in plan.skipped else KeptBlock for i in range(plan.sites)}
    return frozenset(f"layers.{i}.{part}.weight" for i, block in blocks.items() for part in block.folds)


def folded_specs(config: ModelConfig, plan: SkipPlan, precision: Precision) -> tuple[TensorSpec, ...]:
    """One prompt's folded weights and biases: q, k, v of kept layers, gate and up of skipped ones."""
    widths = dict(zip(KeptBlock.folds, (config.dim, config.kv_dim, config.kv_dim)))
    widths |= dict.fromkeys(SkippedBlock.folds, config.ffn_dim)
    specs = []
    for i in range(config.layers):
        for part in (SkippedBlock if i in plan.skipped else KeptBlock).folds:
            name, width = f"folded.layers.{i}.{part}", widths[part]
            specs.append(TensorSpec(name=f"{name}.weight", dtype=precision.dtype, shape=(width, config.dim)))
            specs.append(TensorSpec(name=f"{name}.bias", dtype=precision.dtype, shape=(width,)))
    return tuple(specs)
