"""Specs that the decoder's graphs share: dims, cache tensors, fold state, folded weights."""

from ...core.configs.decoder import ModelConfig
from ...core.graph_spec import Dim, TensorSpec
from ...core.limits import Limits
from ...core.plan import SkipPlan
from ...core.precision import Precision
from .blocks import Block, KeptBlock, SkippedBlock, block_types
from .routers import MODALITIES


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
    [B, skipped, rank]; empty without adapters, and where they are folded at build time."""
    if config.router in (None, "folded"):
        return ()
    router = TensorSpec(name="router", dtype="float32", shape=(batch, config.layers, 2))
    if config.site == "layer" or not plan.skipped:
        return (router,)
    rank = config.skipped_adapter.rank
    return (router, TensorSpec(name="pooled", dtype="float32", shape=(batch, len(plan.skipped), rank)))


def folded_parameters(plan: SkipPlan) -> frozenset[str]:
    """Names in the store of the parameters that a prompt's folded weights replace."""
    blocks = {i: SkippedBlock if i in plan.skipped else KeptBlock for i in range(plan.sites)}
    return frozenset(f"layers.{i}.{part}.weight" for i, block in blocks.items() for part in block.folds)


def folded_specs(config: ModelConfig, plan: SkipPlan, precision: Precision) -> tuple[TensorSpec, ...]:
    """Folded weights and biases, of one prompt or one modality: q, k, v of kept layers, gate and up of skipped attentions, what skipped
    layers add."""
    wide = {"attention.q": config.q_dim, "attention.k": config.kv_dim, "attention.v": config.kv_dim}
    sizes = {
        part: (out, config.dim) for part, out in (wide | dict.fromkeys(SkippedBlock.folds, config.ffn_dim)).items()
    }
    if config.skipped_adapter:
        sizes["change"] = (config.dim, config.skipped_adapter.rank)
    specs = []
    for i, part in fold_places(config, plan):
        for kind, shape in (("weight", sizes[part]), ("bias", sizes[part][:1])):
            specs.append(TensorSpec(name=f"folded.layers.{i}.{part}.{kind}", dtype=precision.dtype, shape=shape))
    return tuple(specs)


def fold_places(config: ModelConfig, plan: SkipPlan) -> list[tuple[int, str]]:
    """Layer and name of every linear layer that an adapter is folded into."""
    kept, skipped = block_types(config)
    blocks: list[type[Block]] = [skipped if i in plan.skipped else kept for i in range(plan.sites)]
    return [(i, part) for i, block in enumerate(blocks) for part in block.folds]


def folded_sets(config: ModelConfig, plan: SkipPlan) -> dict[str, dict[str, str]]:
    """Modality -> graph input -> name in the store, of the weights that were folded at build time; empty where none were."""
    if config.router != "folded":
        return {}
    places = [(f"layers.{i}.{part}", kind) for i, part in fold_places(config, plan) for kind in ("weight", "bias")]
    return {set_: {f"folded.{place}.{kind}": f"{place}.{set_}.{kind}" for place, kind in places} for set_ in MODALITIES}


def is_of_a_set(name: str) -> bool:
    """Whether a parameter belongs to a set of folded weights, which graphs take as inputs."""
    return name.startswith("layers.") and name.split(".")[-2] in MODALITIES
