"""What training leaves in the systems that EAS is compared with: checkpoints of a chosen shape in the published formats, with random weights.

    shape = SHAPES["1B"]
    write_checkpoint(folder, shape, trained=lavin_das(shape))              LLaMA, CLIP and adapters
    write_adapters(folder / "checkpoint-19.pth", lavin(shape), random)     the adapters, beside a LLaMA and a CLIP that are there
    write_meter(folder, shape, state=meter_das(shape, skip=[1, 9]))

A LaVIN-DAS's skips are its shape's; for METER-DAS the published ranks are MeterShape's `rank`, and 288 for `skipped_rank`.
"""

from collections.abc import Sequence

import torch
from synthetic import Shape, Sizes, Trained, adapter, args_of, image_inputs, linear, norm, tower_adapters
from synthetic_meter import MeterShape, MeterState, meter_shapes

DAS_ARGS = {"nas_epoch": 0, "nas_warmup_epoch": 5, "language_only": False, "language_dataset": ""}


def _args(shape: Shape) -> dict:
    """LaVIN's training arguments."""
    return {name: value for name, value in args_of(shape).items() if name != "skip_list"} | {"drop_path": 0.0}


def lavin(shape: Shape) -> Trained:
    """LaVIN: an adapter before every attention."""
    sizes: Sizes = {}
    for i in range(shape.layers):
        sizes |= adapter(f"module.layers.{i}.adapter_attn", shape.dim, shape.rank, "A")
    return Trained(sizes | tower_adapters(shape) | image_inputs(shape), _args(shape))


def lavin_das(shape: Shape, search: bool = False) -> Trained:
    """LaVIN-DAS: an adapter before a kept attention or in a skipped layer's place; before the search has ended both, and no list."""
    sizes: Sizes = {}
    for i in range(shape.layers):
        if search or i not in shape.skip:
            sizes |= adapter(f"module.layers.{i}.adapter_attn", shape.dim, shape.rank, "A")
        if search or i in shape.skip:
            sizes |= adapter(f"module.layers.{i}.replaced_adapter", shape.dim, 4 * shape.rank, "A")
    args = _args(shape) | DAS_ARGS | {"skipped_num": len(shape.skip), "search_mode": search}
    args["skip_list"] = str([] if search else list(shape.skip))
    return Trained(sizes | tower_adapters(shape) | image_inputs(shape), args)


def lavin_lora(shape: Shape, rank: int = 4) -> Trained:
    """LaVIN-LoRA: no adapters, A and B beside four projections of every attention and the tower's second ones of every MLP."""
    sizes: Sizes = {}
    for i in range(shape.layers):
        for letter in "qkvo":
            sizes |= _lora(f"module.layers.{i}.attention.w{letter}", shape.dim, shape.dim, rank)
    for i in range(shape.clip_blocks):
        block = f"module.backbone.visual.transformer.resblocks.{i}"
        sizes |= _lora(f"{block}.mlp.c_proj", shape.clip_width, 4 * shape.clip_width, rank)
    args = _args(shape) | DAS_ARGS | {"skipped_num": 0, "search_mode": False, "skip_list": "[]"}
    return Trained(sizes | image_inputs(shape), args)


def _lora(name: str, out: int, into: int, rank: int) -> Sizes:
    return {f"{name}.lora_A": (rank, into), f"{name}.lora_B": (out, rank)}


def meter_full(shape: MeterShape) -> MeterState:
    """METER without adapters, whatever was trained."""
    every = meter_shapes(shape).items()
    return MeterState({key: size for key, size in every if "adapter" not in key and key != "token4classifier"})


def meter_das(shape: MeterShape, skip: Sequence[int], search: bool = False) -> MeterState:
    """METER-DAS, the plan in its settings; a file of the search has it in das_gate, and another in its settings."""
    sizes = {"token4classifier": (1, 1, shape.dim)} | meter_full(shape).sizes
    for stream, letter in (("text", "l"), ("image", "v")):
        for i in range(shape.layers):
            layer = f"cross_modal_{stream}_layers.{i}"
            for part in ("attention.output.adapter", "crossattention.output.adapter", "adapter"):
                sizes |= _relu_adapter(f"{layer}.{part}", shape.dim, shape.rank)
            sizes |= _relu_adapter(f"adapter_list_{letter}.{i}.0", shape.dim, shape.skipped_rank)
    gate = torch.linspace(-1, -0.1, 2 * shape.layers)
    for place, site in enumerate(skip):
        gate[site] = 1 - place / 100
    values = {"das_gate": gate if search else torch.zeros_like(gate), "skip_num": torch.tensor([float(len(skip))])}
    settings = {"skip_num": len(skip), "skip_module": [0, 1, 2, 3] if search else list(skip)}
    return MeterState(sizes | {name: tuple(value.shape) for name, value in values.items()}, values, settings)


def _relu_adapter(name: str, width: int, rank: int) -> Sizes:
    parts = norm(f"{name}.adapter_layer_norm_before", width) | linear(f"{name}.down_proj", rank, width)
    return parts | linear(f"{name}.up_proj", width, rank)
