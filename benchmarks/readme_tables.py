"""Write the README's tables of measured figures from results/*.json, between their markers. No figure there is typed by hand.

python benchmarks/readme_tables.py
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

from common import RESULTS

REAL = ("1B", "7B", "13B")
OTHERS = {
    "LLaVA, 1B shape, fp16": "llava-1B_fp16_weights",
    "METER VQA, fp32": "meter_vqa_fp32",
    "METER VQA, fp16": "meter_vqa_fp16",
}
BENCH, STEP = "bench_1B_fp32", "decode x1"
ENGINES = (("1B", "bound"), ("7B", "bound"), ("1B", "embedded"))
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
    results = {shape: load(f"trace_{shape}_fp16_weights") for shape in ("7B", "13B")}
    rows = [f"| graph | {' | '.join(f'{shape}, nodes | seconds' for shape in results)} |", "|---|---|---|---|---|"]
    for name in results["7B"]["graphs"]:
        cells = ("{nodes} | {seconds:.2f}".format(**result["graphs"][name]) for result in results.values())
        rows.append(f"| {name} | {' | '.join(cells)} |")
    cells = (
        f"bar {r['bars']['seconds']} s, {r['bars']['peak_memory_bytes'] / 1e9} GB | "
        f"{r['seconds']:.2f}, peak {r['peak_memory_bytes'] / 1e9:.2f} GB"
        for r in results.values()
    )
    rows.append(f"| all | {' | '.join(cells)} |")
    return "\n".join([*rows, "", _provenance(results["7B"])])


def build_table() -> str:
    r = load("build_time")
    rows = ["| build | seconds | CPU seconds | before | CPU seconds | share (bar: 0.25) |", "|---|---|---|---|---|---|"]
    for name, sides in r["builds"].items():
        cells = [f"{side[kind]:.2f}" for side in sides.values() for kind in ("seconds", "cpu_seconds")]
        rows.append(f"| {name} | {' | '.join(cells)} | {r[f'{name}, seconds against ' + r['before']]:.2f} |")
    return "\n".join([*rows, "", f"Medians of {r['rounds']} rounds in turns. {_provenance(r)}"])


def modes_table() -> str:
    nodes, speed = load("decode_nodes_7B_fp16"), load(BENCH)
    request, report = nodes["request"], speed["report"]
    state, even = request["lowrank"], report["break_even"]
    claims = {claim["name"]: claim["ratio"] for claim in report["claims"]}
    own = f"{request['weights']['folded_weights_bytes'] / 1e9:.2f} GB"
    pays = f"after {even['tokens']:,} tokens" if even["tokens"] else "never, on this machine"
    folded, beside = (_spread(claims[f"{name} against no adapters"]) for name in ("folded", "low-rank"))
    rows = [
        "| | `weights` | `lowrank` | no adapters at all |",
        "|---|---|---|---|",
        f"| nodes of a decode step, 7B with 12 of 32 skipped | {nodes['nodes']['weights']} | {nodes['nodes']['lowrank']} | {nodes['nodes']['floor']} |",
        f"| a request's own weights, 7B in fp16 | {own} | none | |",
        f"| a request's fold state, 7B | {state['fold_state_numbers']} numbers, {state['fold_state_bytes']:,} bytes | the same | |",
        f"| KV cache per token and row, 7B in fp16 | {state['kv_bytes_per_token']:,} bytes | the same | |",
        "| rows at once | 1 | as many as `--max-batch` | |",
        f"| a decode step against no adapters, 1B shape in fp32, one row (10th to 90th percentile) | {folded} | {beside} | 1 |",
        f"| the fold, once per prompt | {even['fold_seconds']['p50']:.2f} s, pays back {pays} | none | |",
    ]
    steady = report["contestants"]["onnxruntime-lowrank"]["steady"]
    rates = ", ".join(f"{each['rows']}: {each['tokens_per_second']['p50']:.1f}" for each in steady)
    rows.append(f"| tokens per second by rows, taken in turns | | {rates} | |")
    return "\n".join([*rows, "", f"`{nodes['command']}` and {_provenance(speed)}"])


def bench_table() -> str:
    r = load(BENCH)
    report = r["report"]
    over = {each["of"]: each["ratio"] for each in report["against"] if each["part"] == STEP}
    batches = report["workload"]["batches"]
    rows = [
        f"| contestant | a step over `{report['subject']}`'s | ms | prefill, ms | opened in | tokens/s with {', '.join(map(str, batches))} rows |",
        "|---|---|---|---|---|---|",
    ]
    for name, each in report["contestants"].items():
        if each["why_not"]:
            continue
        ratio = _spread(over[name]) if name in over else "1"
        rates = {steady["rows"]: f"{steady['tokens_per_second']['p50']:.1f}" for steady in each["steady"]}
        prefill = each["parts"].get("prefill")
        cells = [f"`{name}`: {each['what']}", ratio, f"{each['steady'][0]['step']['seconds']['p50'] * 1e3:.1f}"]
        cells += [f"{prefill['seconds']['p50'] * 1e3:.0f}" if prefill else "", f"{each['opened_seconds']:.2f} s"]
        rows.append(f"| {' | '.join([*cells, ', '.join(rates.get(n, 'none') for n in batches)])} |")
    return "\n".join([*rows, "", *_causes(report), "", *_bars(r), "", _provenance(r)])


def _causes(report: dict) -> list[str]:
    rows = ["| a step of one row | ms less | times |", "|---|---|---|"]
    for each in report["causes"]:
        less = each["saved_seconds"]
        rows.append(f"| {each['name']} | {less['p50'] * 1e3:.1f} | {_spread(each['ratio'])} |")
    if kv := report["kv"]:
        saved = kv["saved_seconds"]
        title = f"keys and values no longer kept, {kv['full']} slots for {kv['short']}"
        rows.append(
            f"| {title} (in the first) | {saved['p50'] * 1e3:.2f} ({saved['p10'] * 1e3:.2f} to {saved['p90'] * 1e3:.2f}) | |"
        )
    return rows


def _bars(r: dict) -> list[str]:
    """What has to hold, and why where it does not."""
    share = next(roof["share"] for roof in r["report"]["roofline"] if roof["part"] == STEP)
    titles = {
        "weights_over_floor": "folded over no adapters, a step",
        "lowrank_over_floor": "low-rank over no adapters, a step",
        "bandwidth_over_decode": f"memory's bandwidth over a step's (a share of {share['p50']:.3f}, {share['p10']:.3f} to {share['p90']:.3f})",
        "weights_over_published": "folded over PyTorch eager as published, a step",
        "plain_over_genai": "the base model over onnxruntime-genai, a step",
        "plain_opened_seconds": "the base model opened, seconds",
        "disagreements": f"of {r['compared_twice']} ratios, those that a second run saw outside the first one's spread",
    }
    rows = ["| | measured | bar | |", "|---|---|---|---|"]
    missed = r.get("missed", {})
    rows += [
        f"| {title} | {r[name]:g} | {r['bars'][name]:.4g} | {missed.get(name, '')} |" for name, title in titles.items()
    ]
    return rows


def _spread(values: dict) -> str:
    return f"{values['p50']:.3f} ({values['p10']:.3f} to {values['p90']:.3f})"


def real_table() -> str:
    rows = [
        "| | " + " | ".join(REAL) + " |",
        "|---|" + "---|" * len(REAL),
    ]
    results = [load(f"real_size_{shape}_fp16_weights") for shape in REAL]

    def row(title: str, say: Callable[[dict], str]) -> None:
        rows.append(f"| {title} | " + " | ".join(map(say, results)) + " |")

    row("attentions skipped", lambda r: r["skipped"])
    row("checkpoint read", lambda r: f"{r['read_bytes'] / 1e9:.2f} GB")
    row("build: bytes written / read (bar 0.90 at 7B)", lambda r: f"{r['written_by_read']:.3f}")
    row("build: peak memory (bar at 7B 2.5 GB)", lambda r: f"{r['build_memory_bytes'] / 1e9:.2f} GB")
    row(
        "build: time, and what is allowed at 7B (2.5 x `cp` + 120 s)",
        lambda r: f"{r['build_seconds']:.0f} s of {r['build_seconds_allowed']:.0f} s (`cp`: {r['copy_seconds']:.0f} s)",
    )
    row("the same build again", lambda r: f"{r['second_build_seconds'][1]:.1f} s")
    row("verify: peak memory (bar at 7B 4 GB)", lambda r: f"{r['verify_memory_bytes'] / 1e9:.2f} GB")
    row("verify: time", lambda r: f"{r['verify_seconds']:.0f} s")
    opened = load("loading_1B")
    rows += [
        "",
        f"Memory is RssAnon + RssShmem, sampled; mapped files do not count. Opened and used once, all graphs of a 1B bundle hold, mapped pages "
        f"counted, {opened['fp32_held_by_weights']:.2f} x the weights in fp32 (bar 1.15; {opened['fp32_private_bytes'] / 1e6:.0f} MB of it private) "
        f"and {opened['fp16_held_by_weights']:.2f} x in fp16.",
        "",
        f"{', '.join(chr(96) + r['command'] + chr(96) for r in results)} and {_provenance(opened, *results)}",
    ]
    return "\n".join(rows)


def families_table() -> str:
    results = {title: load(f"real_size_{name}") for title, name in OTHERS.items()}
    rows = ["| | " + " | ".join(results) + " |", "|---|" + "---|" * len(results)]

    def row(title: str, say: Callable[[dict], str]) -> None:
        rows.append(f"| {title} | " + " | ".join(map(say, results.values())) + " |")

    row("checkpoint read", lambda r: f"{r['read_bytes'] / 1e9:.2f} GB")
    row("build: bytes written / read", lambda r: f"{r['written_by_read']:.3f}")
    row("build: peak memory, time", lambda r: f"{r['build_memory_bytes'] / 1e9:.2f} GB, {r['build_seconds']:.0f} s")
    row(
        "verify: peak memory, time",
        lambda r: f"{r['verify_memory_bytes'] / 1e9:.2f} GB, {r['verify_seconds']:.0f} s",
    )
    first, *others = results.values()
    commands = [f"`{r['command'].split(' --scratch')[0]}`" for r in others]
    return "\n".join([*rows, "", f"{', '.join(commands)} and {_provenance(first)}"])


def interruptions_table() -> str:
    r = load("interruptions")
    kills, limits, disks = r["kills"], r["file_size_limits"], r["full_disks"]
    rows = [
        "| builds | | what was left |",
        "|---|---|---|",
        f"| killed at a random moment (SIGKILL) | {kills['count']} | nothing that opens: {kills['nothing opened']}; the old bundle, whole: "
        f"{kills['the old bundle was whole']}; the new one, whole: {kills['the new bundle was whole']} |",
        f"| finished after such kills | {kills['builds_finished_after']} | a bundle that verifies, and nothing beside it |",
        f"| refused by a limit on file sizes | {limits['refused']} | one line; {limits['finished_after_that']} finished with more room |",
        f"| refused by a full disk | {disks['refused']} | one line; {disks['finished_after_that']} finished with more room |",
        f"| anything else (bar {r['bars']['failures']}) | {r['failures']} | |",
    ]
    return "\n".join([*rows, "", _provenance(r)])


def fuzz_table() -> str:
    r = load("fuzz")
    rows = ["| input | refused | accepted |", "|---|---|---|"]
    rows += [f"| {name} | {counts['refused']:,} | {counts['accepted']:,} |" for name, counts in r["targets"].items()]
    rows.append(
        f"| all; anything else (bar {r['bars']['failures']}): {r['failures']}; slowest (bar {r['bars']['slowest_seconds']} s): "
        f"{r['slowest_seconds']} s | {r['refused']:,} | {r['accepted']:,} |"
    )
    return "\n".join([*rows, "", _provenance(r)])


def engines_table() -> str:
    results = [load(f"engines_{shape}_fp16_weights_{weights}") for shape, weights in ENGINES]
    rows = [
        "| | " + " | ".join(f"{shape}, {weights}" for shape, weights in ENGINES) + " |",
        "|---|" + "---|" * len(ENGINES),
    ]

    def row(title: str, cell: Callable[[dict], str]) -> None:
        rows.append(f"| {title} | " + " | ".join(map(cell, results)) + " |")

    for graph in results[0]["graphs"]:
        row(
            f"{graph}: attention, size, seconds",
            lambda r, graph=graph: "{attention}, {mb:.1f} MB, {seconds} s".format(
                mb=r["graphs"][graph]["bytes"] / 1e6, **r["graphs"][graph]
            ),
        )
    row("attentions and caches of the decode graph that are layers of their own", _own_layers)
    row("all engines (bar 300 s)", lambda r: f"{r['engine_seconds']} s")
    row("peak memory (bar for bound ones 2 GB)", lambda r: f"{r['peak_memory_bytes'] / 1e9:.2f} GB")
    row("run on a GPU", lambda r: r["run"])
    first = results[0]
    built = f"Built by {first['built_by']} for compute capability {', '.join(first['compute_capabilities'])}."
    commands = " and ".join(f"`{r['command']}`" for r in results[1:])
    return "\n".join([*rows, "", f"{built} {_provenance(first)} Likewise {commands}."])


def verify_table() -> str:
    r = load("verify_demo")
    rows = [
        "| verifying the demo's bundle, whole process | |",
        "|---|---|",
        f"| {len(r['steps'])} steps, {r['outputs_compared']} outputs compared (bar {r['bars']['seconds']} s) | {r['seconds']} s |",
        f"| the same with planted faults: {r['faults_found']} found, {r['faults_missed']} missed (bar 0) | {r['seconds_with_faults']} s |",
    ]
    rows += [
        f"| for information: the {name} would be off by | {low} to {high} of the logits' spread |"
        for name, (low, high) in r["shortcuts"].items()
    ]
    return "\n".join([*rows, "", _provenance(r)])


def demo_table() -> str:
    r, whole = load("demo_training"), load("demo_time")
    right, seeds = r["right"], r["seeds"]

    def row(title: str, key: str, say: Callable[[dict], str]) -> str:
        return f"| {title} | {' | '.join(say(seed) for seed in seeds)} | {100 * right[key]:.1f} % |"

    def percent(key: str) -> Callable[[dict], str]:
        return lambda seed: f"{100 * seed['right'][key]:.1f} %"

    lists = [100 * one["right"] for seed in seeds for one in seed["by_chance"]]
    by_seed = ", ".join(f"{100 * (seed['right']['EAS'] - seed['right']['by chance']):.1f}" for seed in seeds)
    heads = " | ".join(f"seed {seed['seed']}" for seed in seeds)
    lines = [
        f"| {seeds[0]['questions']} held-out questions, right to the letter | {heads} | mean |",
        "|---|" + "---|" * (len(seeds) + 1),
        row("every attention", "every attention", percent("every attention")),
        row("EAS, in PyTorch", "EAS", percent("EAS")),
        row("EAS, bundle, `--fold weights`", "EAS, --fold weights", percent("EAS, --fold weights")),
        row("EAS, bundle, `--fold lowrank`", "EAS, --fold lowrank", percent("EAS, --fold lowrank")),
        row("skips by chance, adapters tuned as long", "by chance", percent("by chance")),
        row("EAS's skips without adapters", "without these, no adapters", percent("without these, no adapters")),
        f"| skipped, of {round(len(seeds[0]['skipped']) / seeds[0]['skipped_share'])} | "
        + " | ".join(", ".join(map(str, seed["skipped"])) for seed in seeds)
        + " | |",
        "",
        f"By chance are {len(lists)} lists, {min(lists):.1f} to {max(lists):.1f} %: EAS is {-r['chance_points_above']:.1f} points above their mean ({by_seed} by "
        f"seed). Answers of a bundle that differ from PyTorch's in any token: {r['answers_that_differ']}. "
        f"One seed from nothing: {r['training_minutes']} minutes at most (bar 30), one thread each. "
        f"`eas-export demo`, seed 0's model: {whole['seconds']} s (bar {whole['bars']['seconds']}).",
        "",
        f"{_provenance(r)} Likewise `{whole['command']}`.",
    ]
    return "\n".join(lines)


def meter_table() -> str:
    r = load("meter_flops")
    rows = [
        "| published list | indices | attentions | METER, GFLOPs | less, adapters in place | less, exported |",
        "|---|---|---|---|---|---|",
    ]
    for name, each in r["lists"].items():
        if name.endswith("published"):
            saved = each["published_code_of_METER"]["gflops"], each["saved_of_METER"]["gflops"]
            title = name.removesuffix(", 18-23 as published").replace("vqa", "VQA").replace("nlvr2", "NLVR2")
            counts = f"{each['indices']} | {each['attentions']} | {each['gflops']['METER']}"
            rows.append(f"| {title} | {counts} | {saved[0]} | {saved[1]} |")
    return "\n".join([*rows, "", f"{r['unit'].split(';')[0]}. {_provenance(r)}"])


def _own_layers(result: dict) -> str:
    decode = result["graphs"]["decode"]
    return f"{decode['attentions_fused']} of {decode['attentions']}, {decode['caches_in_place']}"


def _provenance(result: dict, *others: dict) -> str:
    """How it was measured; of others in the same table, on which processors."""
    machine, versions = result["machine"], result["versions"]
    cpus = dict.fromkeys(each["machine"]["cpu"] for each in (result, *others))
    tools = ", ".join(f"{name} {version}" for name, version in versions.items())
    command = result["command"].split(" --scratch")[0]
    return f"`{command}` on {machine['cores']} cores ({' or '.join(cpus)}), no GPU; {tools}."


TABLES = {
    "demo": demo_table,
    "bench": bench_table,
    "modes": modes_table,
    "size": size_table,
    "trace": trace_table,
    "build": build_table,
    "real": real_table,
    "interruptions": interruptions_table,
    "fuzz": fuzz_table,
    "engines": engines_table,
    "verify": verify_table,
    "meter": meter_table,
    "families": families_table,
}


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
