"""What the systems of the paper's Table 2 compute on METER, at its published sizes, beside METER itself.

    python benchmarks/meter_systems.py

METER, of which full tuning and a tuned classifier change weights alone, and EAS are counted as they are exported
(eas_export/networks/cross_encoder/flops.py). Prompts, Adapter, Scaled PA and LoRA have no published code for METER: they are counted by formula, from
structures whose numbers of parameters are those that the paper reports. DAS is counted
as it is exported, too, with two layers skipped in each stream. The bar: the formula for the layers is off the network's count by nothing.

    LoRA            W + B A in two projections of each of the 24 attentions, rank 4: merged, it computes what METER does
    Adapter         up(relu(down x)) of rank 96, after each of the 24 attentions and 12 feed-forward networks
    Scaled PA       the same in 24 places
    shallow prompt  200 tokens more in each stream, through all layers
    deep prompt     200 keys and values more in each self-attention: the least that such prompts can cost
"""

from common import write_result
from meter_flops import PUBLISHED, config_of
from synthetic_meter import SHAPES, MeterShape

from eas_export.core.configs.cross_encoder import BottleneckConfig, CrossEncoderConfig
from eas_export.networks.cross_encoder.flops import attention, flops, linear

PROMPTS, RANK, LORA_RANK = 200, 96, 4
DAS = "DAS, 2 of 6 layers in each stream"  # no list was published
DAS_SHARE = -0.1197  # of METER's FLOPs, on VQA, which DAS's paper reports
PAPER_PARAMETERS = {"Scaled PA": 3.59e6}  # that the paper reports


def main() -> None:
    tasks = {task: systems(SHAPES[task]) for task in SHAPES}
    off = sum(abs(off_network(config_of(shape, "published"))) for shape in SHAPES.values())
    for task, rows in tasks.items():
        for name, row in rows.items():
            print(f"{task}, {name}: {row['gflops']:.2f} GFLOPs, {row['more_gflops']:+.2f}")
    write_result(
        "meter_systems",
        {
            "unit": "GFLOPs per row, a multiply and an add are two",
            "paper_parameters": PAPER_PARAMETERS,
            "das": {"row": DAS, "paper_share_more": DAS_SHARE},
            "tasks": tasks,
            "formula_off_network_flops": off,
        },
        bars={"formula_off_network_flops": 0},
    )


def systems(shape: MeterShape) -> dict[str, dict]:
    """System -> what it computes per row, what of that is more than METER's, whether by formula, and its parameters."""
    config, streams = config_of(shape, "published"), 2
    dim, layers, images = config.dim, config.layers, config.images
    tokens = config.text_length + config.image_tokens
    meter = sum(flops(config, (), adapters=False).values())
    bottleneck, width = 2 * linear(tokens, dim, RANK), 2 * dim * RANK + dim + RANK  # of a place in both streams, of one
    shallow = images * (cross_modal(config, PROMPTS) - cross_modal(config, 0))
    keys = images * layers * (streams * 2 * linear(PROMPTS, dim, dim) + 2 * linear(tokens, dim, PROMPTS))
    published = {
        f"EAS, {name} of {config.sites}": (sum(flops(config, skip, adapters=False).values()) - meter, None, False)
        for name, skip in PUBLISHED[shape.task].items()
        if name.isdigit()
    }
    more = {
        "full tuning, classifier only": (0, None, False),
        "shallow prompt": (shallow, streams * PROMPTS * dim, True),
        "deep prompt": (keys, streams * layers * PROMPTS * dim, True),
        "LoRA": (0, streams * layers * 2 * 2 * 2 * dim * LORA_RANK, True),
        "Adapter": (images * layers * 3 * bottleneck, streams * layers * 3 * width, True),
        "Scaled PA": (images * layers * 2 * bottleneck, streams * layers * 2 * width, True),
        DAS: (sum(flops(das_of(config), das_skips(config), adapters=True).values()) - meter, None, False),
        **published,
    }
    return {
        name: {
            "gflops": round((meter + count) / 1e9, 2),
            "more_gflops": round(count / 1e9, 2),
            "share_more": round(count / meter, 4),
            "parameters": parameters,
            "by_formula": formula,
        }
        for name, (count, parameters, formula) in more.items()
    }


def das_of(config: CrossEncoderConfig) -> CrossEncoderConfig:
    """METER-DAS of these sizes, with its published ranks."""
    kept, skipped = (BottleneckConfig(rank=rank, activation="relu", norm_eps=1e-5) for rank in (RANK, 3 * RANK))
    adapters = {"before_adapter": None, "beside_adapter": kept, "behind_adapter": kept, "skipped_adapter": skipped}
    return config.model_copy(update={"site": "layer"} | adapters)


def das_skips(config: CrossEncoderConfig) -> tuple[int, ...]:
    """The last two layers of each stream."""
    return tuple(end - back for end in (config.layers, 2 * config.layers) for back in (2, 1))


def cross_modal(config: CrossEncoderConfig, more: int) -> int:
    """Of the cross-modal layers for one image, with so many tokens more in each stream."""
    text, image, dim = config.text_length + more, config.image_tokens + more, config.dim
    each = (
        attention(n, n, dim) + attention(n, other, dim) + 2 * linear(n, dim, config.ffn_dim)
        for n, other in ((text, image), (image, text))
    )
    return config.layers * sum(each)


def off_network(config: CrossEncoderConfig) -> int:
    """What the formula for the cross-modal layers counts beyond the network's own count."""
    parts = flops(config, (), adapters=False).items()
    counted = sum(count for part, count in parts if part.startswith("cross-modal"))
    return config.images * cross_modal(config, 0) - counted


if __name__ == "__main__":
    main()
