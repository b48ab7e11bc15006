"""How many floating-point operations skipping saves METER at its published sizes, by part, and compared with the paper's figure.

    python benchmarks/meter_flops.py

The paper reports 10 to 14 GFLOPs less than METER. Four things change such a figure: whether a multiply and its add are one operation
(MACs) or two; whether indices 18 to 23 are read as published (image self once more: fewer attentions are skipped) or as in the paper
(image cross); whether the adapters before kept parts are still there, as in the published code, or folded; and, little, the text's
length: an image has 577 tokens. The bars: folding leaves no operation of the adapters before kept parts, and the published VQA list
saves at least what the paper says.
"""

from common import write_result
from synthetic_meter import SHAPES, MeterShape

from eas_export.core.configs.cross_encoder import CrossEncoderConfig, TextConfig
from eas_export.core.configs.vit import VitConfig
from eas_export.networks.cross_encoder.flops import flops

PUBLISHED = {  # task -> skip lists of the published code
    "vqa": {
        "10": [13, 8, 17, 4, 6, 12, 23, 2, 1, 0],
        "10, the other": [16, 13, 6, 12, 18, 5, 3, 21, 15, 7],
        "8": [8, 12, 2, 5, 19, 13, 6, 7],
    },
    "nlvr2": {
        "16": [23, 6, 21, 19, 5, 13, 7, 0, 12, 17, 22, 4, 2, 18, 3, 1],
        "14": [22, 16, 11, 7, 23, 2, 4, 18, 1, 13, 19, 12, 3, 5],
        "12": [23, 6, 19, 3, 8, 13, 2, 7, 21, 11, 15, 0],
        "10": [15, 0, 23, 3, 10, 1, 13, 12, 18, 8],
        "8": [19, 0, 12, 18, 15, 21, 9, 8],
    },
    "retrieval": {"10": [12, 5, 20, 11, 18, 14, 3, 19, 13, 6], "8": [5, 12, 13, 18, 19, 20, 2, 14]},
}
PAPER_GFLOPS = (10, 14)


def config_of(shape: MeterShape, reading: str) -> CrossEncoderConfig:
    return CrossEncoderConfig(
        family="meter",
        task=shape.task,
        dim=shape.dim,
        heads=shape.heads,
        ffn_dim=shape.ffn,
        layers=shape.layers,
        text=TextConfig(
            vocab_size=shape.vocab,
            positions=shape.positions,
            token_types=1,
            width=shape.dim,
            layers=shape.text_layers,
            heads=shape.heads,
            ffn_dim=shape.text_ffn,
        ),
        image=VitConfig(
            image_size=shape.image,
            patch_size=shape.patch,
            width=shape.vit_width,
            blocks=shape.vit_blocks,
            heads=shape.vit_width // 64,
            ffn_dim=4 * shape.vit_width,
        ),
        text_length=shape.text_length,
        before_adapter={"rank": shape.rank},
        skipped_adapter={"rank": shape.skipped_rank},
        answers=shape.answers,
        image_cross_reading=reading,
    )


def measure(shape: MeterShape, skip: list[int], reading: str) -> dict:
    """GFLOPs per row of METER, of METER with EAS's adapters and nothing skipped, and of the exported graph."""
    config = config_of(shape, reading)
    plain, trained = flops(config, (), adapters=False), flops(config, (), adapters=True)
    exported = flops(config, skip, adapters=False)
    unfolded = flops(config, skip, adapters=True)
    totals = [sum(each.values()) / 1e9 for each in (plain, trained, unfolded, exported)]
    return {
        "indices": len(skip),
        "attentions": len(config.attentions(skip)),
        "gflops": dict(
            zip(("METER", "adapters, none skipped", "skipped, unfolded", "exported"), (round(t, 2) for t in totals))
        ),
        "saved_of_METER": saved(totals[0] - totals[3]),
        "saved_of_none_skipped": saved(totals[1] - totals[3]),
        "published_code_of_METER": saved(totals[0] - totals[2]),
        "parts": {part: [round(each[part] / 1e9, 3) for each in (trained, exported)] for part in exported},
    }


def saved(gflops: float) -> dict[str, float]:
    return {"gflops": round(gflops, 2), "gmacs": round(gflops / 2, 2)}


def main() -> None:
    lists = {
        f"{task} {name}, 18-23 as {reading}": measure(SHAPES[task], skip, reading)
        for task, skips in PUBLISHED.items()
        for name, skip in skips.items()
        for reading in ("published", "paper")
    }
    left = max(each["parts"]["cross-modal adapters"][1] for each in lists.values())
    for name, each in lists.items():
        saved = [each[of]["gflops"] for of in ("published_code_of_METER", "saved_of_METER")]
        print(
            f"{name}: {each['indices']} indices are {each['attentions']} attentions; less than METER by {saved[0]} GFLOPs with the "
            f"adapters in place, {saved[1]} folded ({each['saved_of_METER']['gmacs']} GMACs); the paper says {PAPER_GFLOPS}"
        )
    vqa = lists["vqa 10, 18-23 as published"]
    write_result(
        "meter_flops",
        {
            "unit": "GFLOPs per row, a multiply and an add are two; parts: [adapters in place and none skipped, exported]",
            "paper_saves_gflops": PAPER_GFLOPS,
            "lists": lists,
            "adapters_left_gflops": left,
            "vqa_exported_gflops": vqa["gflops"]["exported"],
        },
        bars={"adapters_left_gflops": 0, "vqa_exported_gflops": vqa["gflops"]["METER"] - PAPER_GFLOPS[0]},
    )


if __name__ == "__main__":
    main()
