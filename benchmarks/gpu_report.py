"""What the parts of benchmarks/gpu.py found, as one result: a table, and JSON whose ratios are computed from its own times."""

import json
import subprocess
from pathlib import Path

import torch
from common import environment
from synthetic import Shape

PACKAGES = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "onnxruntime-gpu", "tensorrt-rtx", "tensorrt")
RUNTIMES = ("pytorch", "onnxruntime", "tensorrt-rtx", "tensorrt")


def report(
    parts: list[str], work: Path, device: torch.device, model: Shape, options: list[str], folders: list[Path]
) -> int:
    """Print the table and write the result into each folder. The last line is the result as JSON. Returns 1 where a mode differs from
    the reference, else 0."""
    found = {name: _read(work / f"{name}.json") for name in parts}
    modes = {name: found[name].get("modes", {}) for name in RUNTIMES}
    shape, precision = options[1], options[3]
    result = {
        "name": f"gpu_{shape}_{precision}",
        "shape": shape,
        "layers": model.layers,
        "skipped": len(model.skip),
        "precision": precision,
        "device": device.type,
        "parity_failures": sum(
            m["parity"]["ok"] is False for ms in modes.values() for m in ms.values() if "parity" in m
        ),
        "ratios": ratios(modes),
        "parts": found,
        "bars": {"parity_failures": 0},
    }
    result |= environment(PACKAGES, _gpu() if device.type == "cuda" else None)
    result["command"] = " ".join(["python benchmarks/gpu.py --part all --work DIR", *options])
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{result['name']}.json").write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join([*_table(modes), "", *_missing(found), "", json.dumps(result)]))
    return int(result["parity_failures"] > 0)


def ratios(modes: dict[str, dict]) -> dict[str, dict[str, float]]:
    """ "<part> <mode>" -> what a decode step at one row takes, against other steps of the same run; `over_` and `_by_` are quotients of
    medians. Against the floor and the unskipped model of the same part and kind, and against PyTorch's same mode."""
    result = {}
    for part, of_part in modes.items():
        for mode, figures in of_part.items():
            mine = _step(figures)
            kind = mode.removeprefix(mode.split()[0])  # "" or " captured"
            others = {
                "over_floor": _step(of_part.get(f"floor{kind}")),
                "over_unskipped": _step(of_part.get(f"unskipped{kind}")),
                "over_pytorch": _step(modes["pytorch"].get(mode)),
                "over_pytorch_captured": _step(modes["pytorch"].get(f"{mode.split()[0]} captured")),
            }
            if mine:
                result[f"{part} {mode}"] = {name: mine / other for name, other in others.items() if other}
    return result


def _step(figures: dict | None) -> float | None:
    return (figures or {}).get("speed", {}).get("decode", {}).get("1", {}).get("p50_seconds")


def _table(modes: dict[str, dict]) -> list[str]:
    """A line for each mode; ms are medians, of decode steps at one row p50 / p90."""
    lengths = _keys(modes, "prefill")
    batches = _keys(modes, "decode")
    head = ["part", "mode", "parity", "vision ms", *(f"prefill {n} ms" for n in lengths), "fold ms", "first step ms"]
    head += ["decode ms", "GB/s", "of copy", *(f"tok/s at {n}" for n in batches)]
    rows = [head, ["---"] * len(head)]
    for part, of_part in modes.items():
        for mode, figures in of_part.items():
            speed = figures.get("speed", {})
            decode = speed.get("decode", {})
            one = decode.get("1", {})
            cells = [part, mode, _parity(figures), _ms(speed.get("vision"))]
            cells += [_ms(speed.get("prefill", {}).get(n)) for n in lengths]
            cells += [_ms(speed.get("fold")), _ms(one, "first_step_seconds")]
            cells += [f"{_ms(one)} / {_ms(one, 'p90_seconds')}" if "p50_seconds" in one else ""]
            cells += [_number(one.get("bytes_per_second"), 1e-9, 0), _number(one.get("share_of_copy"), 1, 2)]
            cells += [_number(decode.get(n, {}).get("tokens_per_second"), 1, 1) for n in batches]
            rows.append(cells)
    return [f"| {' | '.join(row)} |" for row in rows]


def _parity(figures: dict) -> str:
    parity = figures.get("parity")
    if parity is None:
        return "not run"
    if not isinstance(parity["cases"], dict):
        return parity["cases"]
    worst = {case.get("share_of_tolerance") if isinstance(case, dict) else case for case in parity["cases"].values()}
    shares = [share for share in worst if isinstance(share, float)]
    text = "; ".join(
        [*([f"{max(shares):.2f} of tolerance"] if shares else []), *(w for w in worst if isinstance(w, str))]
    )
    return text if parity["ok"] else f"DIFFERS: {text}"


def _missing(found: dict[str, dict]) -> list[str]:
    """Everything that was not run, and why."""
    lines = []
    for part, content in found.items():
        lines += [f"{part}: {_reason(content)}"] if _reason(content) else []
        for mode, figures in content.get("modes", {}).items():
            lines += [f"{part} {mode}: {_reason(figures)}"] if _reason(figures) else []
            lines += [
                f"{part} {mode} {g}, not all on the GPU: {s}" for g, s in figures.get("not_all_on_the_gpu", {}).items()
            ]
            decode = figures.get("speed", {}).get("decode", {})
            lines += [f"{part} {mode} at {n} rows: {_reason(f)}" for n, f in decode.items() if _reason(f)]
    return lines


def _reason(content: dict) -> str | None:
    for key, word in (("not_run", "not run"), ("error", "failed"), ("stopped", "stopped")):
        if key in content:
            return f"{word}: {content[key]}"
    return None


def _keys(modes: dict[str, dict], figure: str) -> list[str]:
    keys = {key for ms in modes.values() for mode in ms.values() for key in mode.get("speed", {}).get(figure, {})}
    return sorted(keys, key=int)


def _ms(figure: dict | None, key: str = "p50_seconds") -> str:
    return _number((figure or {}).get(key), 1e3, 2)


def _number(value: float | None, factor: float, digits: int) -> str:
    return "" if value is None else f"{value * factor:.{digits}f}"


def _read(path: Path) -> dict:
    if not path.exists():
        return {"not_run": f"it was not started: there is no {path.name}"}
    return json.loads(path.read_text())


def _gpu() -> dict:
    device = torch.cuda.get_device_properties(0)
    return {
        "name": device.name,
        "compute_capability": f"{device.major}.{device.minor}",
        "memory_gb": round(device.total_memory / 1e9, 1),
        "cuda": torch.version.cuda,
        "driver": _driver(),
    }


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.split()[0]
    except (OSError, subprocess.TimeoutExpired, IndexError):
        return None
