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


def _provenance(result: dict) -> str:
    machine, versions = result["machine"], result["versions"]
    tools = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"`{result['command']}` on {machine['cores']} cores ({machine['cpu']}), no GPU; {tools}."


TABLES = {"size": size_table, "trace": trace_table}


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
