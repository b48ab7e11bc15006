"""Write what README and docs show of results/ between its markers: tables, the first page's figure, the demo's output. Nothing of it is typed by hand.

python benchmarks/readme_tables.py
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from common import RESULTS

REAL = ("1B", "7B", "13B")
OTHERS = {
    "LLaVA, 1B shape, fp16": "llava-1B_fp16_weights",
    "METER VQA, fp32": "meter_vqa_fp32",
    "METER VQA, fp16": "meter_vqa_fp16",
}
BENCH, STEP = "bench_1B_fp32", "decode x1"
READINGS = {"ffn-12": "feed-forward networks", "mixed-12": "attentions and feed-forward networks, half each"}
PLAIN_METER = "full tuning, classifier only"
ENGINES = (("1B", "bound"), ("7B", "bound"), ("1B", "embedded"))
ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def load(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = ["".join(f"| {cell} " if cell != "" else "| " for cell in row) + "|" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def columns(results: Mapping[str, dict], rows: Mapping[str, Callable[[dict], object]]) -> str:
    """A column for each result; rows: title -> what it says of a result"""
    return table(["", *results], [[title, *map(say, results.values())] for title, say in rows.items()])


def size_table() -> str:
    results = {precision: load(f"bundle_size_1B_{precision}") for precision in ("fp16", "fp32")}
    head = ("model", "precision", "parameters before", "after pruning", "bytes needed", "bundle", "ratio", "bar")
    counts = ("parameters_before", "parameters_after", "needed_bytes", "bundle_bytes")
    rows = [
        [
            "1B shape, 8 of 22 skipped",
            precision,
            *(f"{r[n]:,}" for n in counts),
            f"{r['ratio']:.4f}",
            r["bars"]["ratio"],
        ]
        for precision, r in results.items()
    ]
    return f"{table(head, rows)}\n\n{_provenance(results['fp16'], *results.values())}"


def trace_table() -> str:
    results = {shape: load(f"trace_{shape}_fp16_weights") for shape in ("7B", "13B")}
    rows = [
        [name, *(r["graphs"][name][kind] for r in results.values() for kind in ("nodes", "seconds"))]
        for name in results["7B"]["graphs"]
    ]
    rows = [[f"{cell:.2f}" if isinstance(cell, float) else cell for cell in row] for row in rows]
    whole = ["all"]
    for r in results.values():
        whole.append(f"bar {r['bars']['seconds']} s, {r['bars']['peak_memory_bytes'] / 1e9} GB")
        whole.append(f"{r['seconds']:.2f}, peak {r['peak_memory_bytes'] / 1e9:.2f} GB")
    head = ["graph", *(title for shape in results for title in (f"{shape}, nodes", "seconds"))]
    return f"{table(head, [*rows, whole])}\n\n{_provenance(results['7B'], *results.values())}"


def build_table() -> str:
    r = load("build_time")
    head = ("build", "seconds", "CPU seconds", "before", "CPU seconds", "share (bar: 0.25)")
    rows = [
        [
            name,
            *(f"{side[kind]:.2f}" for side in sides.values() for kind in ("seconds", "cpu_seconds")),
            f"{r[f'{name}, seconds against ' + r['before']]:.2f}",
        ]
        for name, sides in r["builds"].items()
    ]
    return f"{table(head, rows)}\n\nMedians of {r['rounds']} interleaved rounds. {_provenance(r)}"


def modes_table() -> str:
    nodes, speed = load("decode_nodes_7B_fp16"), load(BENCH)
    request, report = nodes["request"], speed["report"]
    state, even = request["lowrank"], report["break_even"]
    claims = {claim["name"]: claim["ratio"] for claim in report["claims"]}
    own = f"{request['weights']['folded_weights_bytes'] / 1e9:.2f} GB"
    pays = f"paid back after {even['tokens']:,} tokens" if even["tokens"] else "not paid back on this machine"
    folded, beside = (_spread(claims[f"{name} against no adapters"]) for name in ("folded", "low-rank"))
    numbers = f"{state['fold_state_numbers']} numbers, {state['fold_state_bytes']:,} bytes"
    steady = report["baselines"]["onnxruntime-lowrank"]["steady"]
    rates = ", ".join(f"{each['rows']}: {each['tokens_per_second']['p50']:.1f}" for each in steady)
    measured = "a decode step against no adapters, 1B shape in fp32, one row (10th to 90th percentile)"
    rows = [
        ("nodes of a decode step, 7B with 12 of 32 skipped", *nodes["nodes"].values()),
        ("a request's own weights, 7B in fp16", own, "none", ""),
        ("a request's fold state, 7B", numbers, "the same", ""),
        ("KV cache per token and row, 7B in fp16", f"{state['kv_bytes_per_token']:,} bytes", "the same", ""),
        ("rows at once", 1, "as many as `--max-batch`", ""),
        (measured, folded, beside, 1),
        ("the fold, once per prompt", f"{even['fold_seconds']['p50']:.2f} s, {pays}", "none", ""),
        ("tokens per second by rows, interleaved", "", rates, ""),
    ]
    modes = table(("", "`weights`", "`lowrank`", "no adapters at all"), rows)
    return f"{modes}\n\n`{nodes['command']}` and {_provenance(speed)}"


def bench_table() -> str:
    r = load(BENCH)
    report = r["report"]
    over = {each["of"]: each["ratio"] for each in report["against"] if each["part"] == STEP}
    batches, rows = report["workload"]["batches"], []
    head = ("baseline", f"a step over `{report['subject']}`'s", "ms", "prefill, ms", "opened in")
    for name, each in report["baselines"].items():
        if each["why_not"]:
            continue
        rates = {steady["rows"]: f"{steady['tokens_per_second']['p50']:.1f}" for steady in each["steady"]}
        prefill = each["parts"].get("prefill")
        cells = [f"`{name}`: {each['what']}", _spread(over[name]) if name in over else 1]
        cells += [f"{each['steady'][0]['step']['seconds']['p50'] * 1e3:.1f}"]
        cells += [f"{prefill['seconds']['p50'] * 1e3:.0f}" if prefill else "", f"{each['opened_seconds']:.2f} s"]
        rows.append([*cells, ", ".join(rates.get(n, "none") for n in batches)])
    baselines = table((*head, f"tokens/s with {', '.join(map(str, batches))} rows"), rows)
    return "\n\n".join([baselines, _causes(report), _bars(r), _provenance(r)])


def _causes(report: dict) -> str:
    rows = [
        [each["name"], f"{each['saved_seconds']['p50'] * 1e3:.1f}", _spread(each["ratio"])] for each in report["causes"]
    ]
    if kv := report["kv"]:
        low, middle, high = (f"{kv['saved_seconds'][p] * 1e3:.2f}" for p in ("p10", "p50", "p90"))
        title = f"of that, the KV cache of skipped attentions, at {kv['full']} slots against {kv['short']}"
        rows.append([title, f"{middle} ({low} to {high})", ""])
    return table(("a step of one row", "ms less", "times"), rows)


def _bars(r: dict) -> str:
    """What has to hold, and why where it does not."""
    share = next(roof["share"] for roof in r["report"]["roofline"] if roof["part"] == STEP)
    titles = {
        "weights_over_floor": "folded over no adapters, a step",
        "lowrank_over_floor": "low-rank over no adapters, a step",
        "bandwidth_over_decode": "the probe's memory bandwidth over a step's (the step read at "
        f"{share['p50']:.3f} of the probe's bandwidth, {share['p10']:.3f} to {share['p90']:.3f})",
        "weights_over_published": "folded over PyTorch eager as published, a step",
        "plain_over_genai": "the base model over onnxruntime-genai, a step",
        "plain_opened_seconds": "the base model opened, seconds",
        "disagreements": f"of {r['compared_twice']} ratios, those that a second run saw outside the first one's spread",
    }
    missed = r.get("missed", {})
    rows = [(title, f"{r[n]:g}", f"{r['bars'][n]:.4g}", missed.get(n, "")) for n, title in titles.items()]
    return table(("", "measured", "bar", ""), rows)


def _spread(values: dict) -> str:
    return f"{values['p50']:.3f} ({values['p10']:.3f} to {values['p90']:.3f})"


def real_table() -> str:
    results = {shape: load(f"real_size_{shape}_fp16_weights") for shape in REAL}
    took = "{build_seconds:.0f} s of {build_seconds_allowed:.0f} s (`cp`: {copy_seconds:.0f} s)"
    rows = {
        "attentions skipped": lambda r: r["skipped"],
        "checkpoint read": _read,
        "build: bytes written / read (bar 0.90 at 7B)": _written,
        "build: peak memory (bar at 7B 2.5 GB)": lambda r: _gigabytes(r["build_memory_bytes"]),
        "build: time, and what is allowed at 7B (2.5 x `cp` + 120 s)": lambda r: took.format(**r),
        "the same build again": lambda r: f"{r['second_build_seconds'][1]:.1f} s",
        "verify: peak memory (bar at 7B 4 GB)": lambda r: _gigabytes(r["verify_memory_bytes"]),
        "verify: time": lambda r: f"{r['verify_seconds']:.0f} s",
    }
    opened = load("loading_1B")
    return (
        f"{columns(results, rows)}\n\nMemory is RssAnon + RssShmem, sampled; mapped files do not count. Opened and used once, all graphs of a 1B bundle "
        f"hold, mapped pages counted, {opened['fp32_held_by_weights']:.2f} x the weights in fp32 (bar 1.15; "
        f"{opened['fp32_private_bytes'] / 1e6:.0f} MB of it private) and {opened['fp16_held_by_weights']:.2f} x in fp16.\n\n"
        f"{_commands(results.values(), ', ')} and {_provenance(opened, *results.values())}"
    )


def families_table() -> str:
    results = {title: load(f"real_size_{name}") for title, name in OTHERS.items()}
    rows = {
        "checkpoint read": _read,
        "build: bytes written / read": _written,
        "build: peak memory, time": lambda r: f"{_gigabytes(r['build_memory_bytes'])}, {r['build_seconds']:.0f} s",
        "verify: peak memory, time": lambda r: f"{_gigabytes(r['verify_memory_bytes'])}, {r['verify_seconds']:.0f} s",
    }
    first, *others = results.values()
    return f"{columns(results, rows)}\n\n{_commands(others, ', ')} and {_provenance(first, *others)}"


def _read(result: dict) -> str:
    return _gigabytes(result["read_bytes"])


def _written(result: dict) -> str:
    return f"{result['written_by_read']:.3f}"


def _gigabytes(nbytes: float) -> str:
    return f"{nbytes / 1e9:.2f} GB"


def interruptions_table() -> str:
    r = load("interruptions")
    kills, limits, disks = r["kills"], r["file_size_limits"], r["full_disks"]
    left = (
        f"nothing that opens: {kills['nothing opened']}; the old bundle, whole: {kills['the old bundle was whole']}; the new one, whole: "
        f"{kills['the new bundle was whole']}"
    )
    more = "one line; {finished_after_that} finished with more room"
    rows = [
        ("killed at a random moment (SIGKILL)", kills["count"], left),
        ("finished after such kills", kills["builds_finished_after"], "a bundle that verifies, and nothing beside it"),
        ("refused by a limit on file sizes", limits["refused"], more.format(**limits)),
        ("refused by a full disk", disks["refused"], more.format(**disks)),
        (f"anything else (bar {r['bars']['failures']})", r["failures"], ""),
    ]
    return f"{table(('builds', '', 'what was left'), rows)}\n\n{_provenance(r)}"


def fuzz_table() -> str:
    r = load("fuzz")
    counts = {name: each for name, each in r["targets"].items()} | {
        f"all; anything else (bar {r['bars']['failures']}): {r['failures']}; slowest (bar {r['bars']['slowest_seconds']} s): "
        f"{r['slowest_seconds']} s": r
    }
    rows = [(name, f"{each['refused']:,}", f"{each['accepted']:,}") for name, each in counts.items()]
    return f"{table(('input', 'refused', 'accepted'), rows)}\n\n{_provenance(r)}"


def engines_table() -> str:
    results = {f"{shape}, {kind}": load(f"engines_{shape}_fp16_weights_{kind}") for shape, kind in ENGINES}
    first, *others = results.values()
    rows = {f"{graph}: attention, size, seconds": partial(_engine, graph) for graph in first["graphs"]}
    rows |= {
        "attentions and caches of the decode graph that are layers of their own": _own_layers,
        "all engines (bar 300 s)": lambda r: f"{r['engine_seconds']} s",
        "peak memory (bar for bound ones 2 GB)": lambda r: _gigabytes(r["peak_memory_bytes"]),
        "run on a GPU": lambda r: r["run"],
    }
    built = f"Built by {first['built_by']} for compute capability {', '.join(first['compute_capabilities'])}."
    return f"{columns(results, rows)}\n\n{built} {_provenance(first, *others)} Likewise {_commands(others, ' and ')}."


def _engine(graph: str, result: dict) -> str:
    engine = result["graphs"][graph]
    return f"{engine['attention']}, {engine['bytes'] / 1e6:.1f} MB, {engine['seconds']} s"


def _own_layers(result: dict) -> str:
    decode = result["graphs"]["decode"]
    return f"{decode['attentions_fused']} of {decode['attentions']}, {decode['caches_in_place']}"


def verify_table() -> str:
    r = load("verify_demo")
    ledger = f"{len(r['steps'])} steps, {r['outputs_compared']} outputs compared (bar {r['bars']['seconds']} s)"
    faults = f"the same with planted faults: {r['faults_found']} found, {r['faults_missed']} missed (bar 0)"
    rows = [(ledger, f"{r['seconds']} s"), (faults, f"{r['seconds_with_faults']} s")]
    rows += [
        (f"for information: the {name} would be off by", f"{low} to {high} of the logits' spread")
        for name, (low, high) in r["shortcuts"].items()
    ]
    whole = table(("verifying the demo's bundle, whole process", ""), rows)
    return f"{whole}\n\n{_provenance(r)}"


def demo_table() -> str:
    r, whole = load("demo_training"), load("demo_time")
    right, seeds = r["right"], r["seeds"]
    kinds = {
        "every attention": "every attention",
        "EAS, in PyTorch": "EAS",
        "EAS, bundle, `--fold weights`": "EAS, --fold weights",
        "EAS, bundle, `--fold lowrank`": "EAS, --fold lowrank",
        "skips by chance, adapters tuned as long": "by chance",
        "EAS's skips without adapters": "same skips, no adapters",
    }
    rows = [
        [title, *(f"{100 * each[key]:.1f} %" for each in (*(seed["right"] for seed in seeds), right))]
        for title, key in kinds.items()
    ]
    attentions = round(len(seeds[0]["skipped"]) / seeds[0]["skipped_share"])
    rows.append([f"skipped, of {attentions}", *(", ".join(map(str, seed["skipped"])) for seed in seeds), ""])
    asked = f"{seeds[0]['questions']} held-out questions, right to the letter"
    head = (asked, *(f"seed {seed['seed']}" for seed in seeds), "mean")
    lists = [100 * one["right"] for seed in seeds for one in seed["by_chance"]]
    spared = [
        100 * (one["right"] - seed["right"]["EAS"])
        for seed in seeds
        for one in seed["by_chance"]
        if 0 not in one["skipped"]
    ]
    by_seed = ", ".join(f"{100 * (seed['right']['EAS'] - seed['right']['by chance']):.1f}" for seed in seeds)
    return (
        f"{table(head, rows)}\n\n"
        f"{len(lists)} random lists get {min(lists):.1f} to {max(lists):.1f} %: EAS is {-r['chance_points_above']:.1f} points above their mean ({by_seed} by "
        f"seed). The {len(spared)} that keep the first attention differ from EAS by {min(spared):+.1f} to {max(spared):+.1f} points. Answers of a bundle that differ from PyTorch's in any token: {r['answers_that_differ']}. "
        f"One seed from nothing: {r['training_minutes']} minutes at most (bar 30), one thread each. "
        f"`eas-export demo`, seed 0's model: {whole['seconds']} s (bar {whole['bars']['seconds']}).\n\n"
        f"{_provenance(r)} Likewise `{whole['command']}`."
    )


def meter_table() -> str:
    r, rows = load("meter_flops"), []
    head = ("published list", "indices", "attentions", "METER, GFLOPs", "less, adapters in place", "less, exported")
    for name, each in r["lists"].items():
        if name.endswith("published"):
            saved = (each[of]["gflops"] for of in ("published_code_of_METER", "saved_of_METER"))
            title = name.removesuffix(", 18-23 as published").replace("vqa", "VQA").replace("nlvr2", "NLVR2")
            rows.append([title, each["indices"], each["attentions"], each["gflops"]["METER"], *saved])
    return f"{table(head, rows)}\n\n{r['unit'].split(';')[0]}. {_provenance(r)}"


METHODS = {"lavin": "LaVIN", "eas": "EAS", "das": "DAS", "lora": "LoRA, merged"}
CARRIED = {"weights": ", folded", "lowrank": ", beside the weights", None: ""}


def comparison_table() -> str:
    r = load("comparison")
    head = ("", "skipped", "a sample over LaVIN folded's", "a sample", "prefill", "a step", "memory", "weights")
    head = (*head, "KV per token", "GFLOPs a sample", "published, 7B on an A100")
    rows = [_system_row(name, row) for name, row in r["systems"].items()]
    work = r["workload"]
    how = (
        f"Random weights and adapters, for speed alone; {r['shape']} shape, {r['precision']}, prompts of {work['prompt_tokens']} tokens and answers of "
        f"{work['new_tokens']}; memory is resident, weights that are mapped and may be shared included. * our reading, counted and not timed."
    )
    mixed = r["mixed_batch"]
    together = (
        f"With its adapters beside the weights LaVIN takes prompts with and without an image in one batch: a step of {mixed['prompts']} prompts takes "
        f"{_spread(mixed['step_over_one_modality'])} times as long as with adapters folded, which takes those of one modality."
    )
    return f"{_fair(r)}\n\n{table(head, rows)}\n\n{together}\n\n{how} {_provenance(r)}"


def _system_row(name: str, row: dict) -> list[object]:
    counts = [
        _gigabytes(row["weight_bytes"]),
        f"{row['kv_bytes_per_token'] / 1e3:.0f} kB",
        f"{row['sample_flops'] / 1e9:.1f}",
    ]
    skipped = f"{row['skipped']} of {row['of']}" if row["skipped"] else ""
    if row.get("our_reading"):
        return [f"{READINGS[name]} *", skipped, "", "", "", "", "", *counts, ""]
    seconds = [row[f"{part}_seconds"]["p50"] for part in ("sample", "prefill", "step")]
    timed = [
        _spread(row["sample_over_lavin_folded"]),
        f"{seconds[0]:.2f} s",
        *(f"{s * 1e3:.0f} ms" for s in seconds[1:]),
    ]
    published = f"{row['paper_seconds']:.2f} s" if row["paper_seconds"] else ""
    title = METHODS[row["method"]] + CARRIED[row["fold"]]
    return [title, skipped, *timed, _gigabytes(row["peak_bytes"]), *counts, published]


def _fair(r: dict) -> str:
    """What a speed-up is measured against."""
    systems = r["systems"]
    ours, lora, unfolded = (systems[name] for name in ("eas-12", "lora", "lavin-unfolded"))
    over = ours["sample_over_lavin_folded"]["p50"]
    faster = 1 / over, unfolded["sample_over_lavin_folded"]["p50"] / over
    published = [each["paper_seconds"] / ours["paper_seconds"] for each in (lora, unfolded)]
    return (
        f"**The fair speed-up of EAS is over LaVIN with folded adapters: here {faster[0]:.2f} times with {ours['skipped']} of {ours['of']} attentions skipped.** Over "
        f"unfolded LaVIN it is {faster[1]:.2f} times. By the published times of a 7B on an A100 they are {published[0]:.2f} and {published[1]:.2f}: "
        "LaVIN folded was not timed, but computes what a merged LoRA does, with biases."
    )


def meter_systems_table() -> str:
    r = load("meter_systems")
    tasks, titles = r["tasks"], {"vqa": "VQA", "nlvr2": "NLVR2", "retrieval": "retrieval"}
    rows = []
    names = dict.fromkeys(name for systems in tasks.values() for name in systems)
    for name in sorted(names, key=lambda name: int(name.split()[1]) if name.startswith("EAS") else 0):
        found = [systems.get(name) for systems in tasks.values()]
        one = next(filter(None, found))
        said, count = r["paper_parameters"].get(name), one["parameters"]
        parameters = f"{count / 1e6:.2f} M{f' (paper: {said / 1e6:.2f} M)' if said else ''}" if count else ""
        more = [_more(each) if each else "" for each in found]
        rows.append([f"{name} *" if one["by_formula"] else name, parameters, *more])
    plain = [f"{titles[task]}, of {systems[PLAIN_METER]['gflops']} GFLOPs" for task, systems in tasks.items()]
    return f"{table(('', 'parameters', *plain), rows)}\n\n{r['unit']}; * by formula. DAS's paper reports {100 * r['das']['paper_share_more']:+.2f} % on VQA. {_provenance(r)}"


def _more(system: dict) -> str:
    return f"{system['more_gflops']:+.2f} ({100 * system['share_more']:+.1f} %)" if system["more_gflops"] else "0"


def _commands(results: Iterable[dict], between: str) -> str:
    return between.join(f"`{_command(each)}`" for each in results)


def _command(result: dict) -> str:
    return result["command"].split(" --scratch")[0]


def _provenance(result: dict, *others: dict) -> str:
    """How it was measured; of others in the same table, on which processors."""
    machine, versions = result["machine"], result["versions"]
    cpus = dict.fromkeys(each["machine"]["cpu"] for each in (result, *others))
    tools = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"`{_command(result)}` on {machine['cores']} cores ({' or '.join(cpus)}), no GPU; {tools}."


def headline() -> str:
    """The first page's one measured line, with what it does not say."""
    r = load(BENCH)
    baselines, claims = r["report"]["baselines"], r["report"]["claims"]
    ours, plain = (
        f"{baselines[f'onnxruntime-{name}']['steady'][0]['step']['seconds']['p50'] * 1e3:.0f} ms"
        for name in ("lowrank", "plain")
    )
    eager = next(each["ratio"] for each in claims if each["name"] == "eager as published against low-rank")
    return (
        f"**Measured:** on {r['machine']['cores']} CPU cores ({r['machine']['cpu']}) a decode step of a 1B-shaped LaVIN-EAS (fp32, `--fold lowrank`, ONNX Runtime) takes "
        f"{ours}: {eager['p50']:.1f} times (10th to 90th percentile {eager['p10']:.1f} to {eager['p90']:.1f}) as fast as eager PyTorch with the adapters applied as "
        f"published. Most of that is ONNX Runtime's, which takes {plain} for the base model without EAS. Random weights; **no GPU was measured**. "
        "[Details](docs/measured.md)"
    )


def demo_output() -> str:
    """The demo's first question, and all that follows the questions."""
    lines = (RESULTS / "demo.txt").read_text("utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("layers "))
    rest = filter(None, lines[start:])
    return "\n".join(["```text", *lines[: lines.index("")], "[two more questions]", *rest, "```"])


BLOCKS = {
    "line:headline": headline,
    "output:demo": demo_output,
    "table:demo": demo_table,
    "table:bench": bench_table,
    "table:modes": modes_table,
    "table:size": size_table,
    "table:trace": trace_table,
    "table:build": build_table,
    "table:real": real_table,
    "table:interruptions": interruptions_table,
    "table:fuzz": fuzz_table,
    "table:engines": engines_table,
    "table:verify": verify_table,
    "table:meter": meter_table,
    "table:comparison": comparison_table,
    "table:meter_systems": meter_systems_table,
    "table:families": families_table,
}
MARKED = re.compile(r"<!-- ((?:line|output|table):\w+) -->\n.*?<!-- end -->", re.DOTALL)


def with_results(text: str) -> str:
    """A page with every marked block made anew."""
    return MARKED.sub(lambda found: f"<!-- {found[1]} -->\n{BLOCKS[found[1]]()}\n<!-- end -->", text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(with_results(page.read_text("utf-8")), "utf-8")
