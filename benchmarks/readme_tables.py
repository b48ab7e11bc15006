"""Write the README's tables of measured figures from results/*.json, between their markers. No figure there is typed by hand.

python benchmarks/readme_tables.py
"""

import json
import re
from pathlib import Path

from common import RESULTS

README = Path(__file__).parent.parent / "README.md"


def load(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def size_table() -> str:
    rows = [
        "| model | precision | parameters before | after pruning | bytes needed | bundle | ratio | bar |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for precision in ("fp16", "fp32"):
        r = load(f"bundle_size_1B_{precision}")
        rows.append(
            f"| 1B shape, 8 of 22 skipped | {precision} | {r['parameters_before']:,} | {r['parameters_after']:,} | {r['needed_bytes']:,} "
            f"| {r['bundle_bytes']:,} | {r['ratio']:.4f} | {r['bars']['ratio']} |"
        )
    return "\n".join([*rows, "", _provenance(load("bundle_size_1B_fp16"))])


def trace_table() -> str:
    r = load("trace_7B_fp16_weights")
    rows = ["| graph | nodes | seconds |", "|---|---|---|"]
    rows += [f"| {name} | {graph['nodes']} | {graph['seconds']:.1f} |" for name, graph in r["graphs"].items()]
    bars = f"bar: {r['bars']['seconds']} s, {r['bars']['peak_memory_bytes'] / 1e9} GB"
    rows.append(f"| all ({bars}) | | {r['seconds']:.1f} s, peak {r['peak_memory_bytes'] / 1e9:.2f} GB |")
    return "\n".join([*rows, "", _provenance(r)])


def modes_table() -> str:
    nodes, speed = load("decode_nodes_7B_fp16"), load("fold_modes_1B_fp32")
    request, batches = nodes["request"], speed["lowrank_batches"]
    state = request["lowrank"]

    def ratio(mode: str) -> str:
        low, high = speed[f"{mode}_over_floor_p10_p90"]
        return f"{speed[f'{mode}_over_floor']:.3f} ({low:.3f} to {high:.3f})"

    own = f"{request['weights']['folded_weights_bytes'] / 1e9:.2f} GB"
    even = f"after {speed['break_even_tokens']:,} tokens" if speed["break_even_tokens"] else "never, on this machine"
    rows = [
        "| | `weights` | `lowrank` | no adapters at all |",
        "|---|---|---|---|",
        f"| nodes of a decode step, 7B with 12 of 32 skipped | {nodes['nodes']['weights']} | {nodes['nodes']['lowrank']} | {nodes['nodes']['floor']} |",
        f"| a request's own weights, 7B in fp16 | {own} | none | |",
        f"| a request's fold state, 7B | {state['fold_state_numbers']} numbers, {state['fold_state_bytes']:,} bytes | the same | |",
        f"| KV cache per token and row, 7B in fp16 | {state['kv_bytes_per_token']:,} bytes | the same | |",
        "| rows at once | 1 | as many as `--max-batch` | |",
        f"| a decode step against no adapters, 1B shape in fp32, one row (10th to 90th percentile) | {ratio('weights')} | {ratio('lowrank')} | 1 |",
        f"| the fold, once per prompt | {speed['fold_seconds']:.2f} s, pays back {even} | none | |",
    ]
    rates = ", ".join(f"{rows_}: {batch['tokens_per_second']:.1f}" for rows_, batch in batches.items())
    rows.append(f"| tokens per second by rows, taken in turns | | {rates} | |")
    return "\n".join([*rows, "", f"`{nodes['command']}` and {_provenance(speed)}"])


def _provenance(result: dict) -> str:
    machine, versions = result["machine"], result["versions"]
    tools = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"`{result['command']}` on {machine['cores']} cores ({machine['cpu']}), no GPU; {tools}."


TABLES = {"modes": modes_table, "size": size_table, "trace": trace_table}


def with_tables(text: str) -> str:
    """The README's text with every marked table made anew."""
    for name, make in TABLES.items():
        block = f"<!-- table:{name} -->\n{make()}\n<!-- end -->"
        text, count = re.subn(
            rf"<!-- table:{name} -->.*?<!-- end -->", lambda _, block=block: block, text, flags=re.DOTALL
        )
        assert count == 1, f"the README has {count} places for the table {name}"
    return text


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text()))
