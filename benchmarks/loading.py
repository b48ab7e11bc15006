"""The memory of a bundle's sessions on ONNX Runtime, opened and used once: private and mapped.

    python benchmarks/loading.py --shape 1B

Builds the shape in fp32 and in fp16, opens all sessions (vision, prefill, decode) in their own process, runs a prompt and a token, and
asks the system what that process holds. The bar: the sessions of the fp32 bundle hold at most 1.15 x the weights, mapped pages counted.
fp16 weights are widened on a CPU, and may take no more private memory than `inspect` says.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from common import write_result
from synthetic import SHAPES, write_checkpoint

from eas_export.backends import get_backend
from eas_export.backends.onnxruntime.cpu import open_sessions
from eas_export.backends.runtime import Runtime
from eas_export.bundle.bundle import open_bundle
from eas_export.bundle.manifest import WEIGHTS
from eas_export.generation.conversation import Conversation
from eas_export.networks.decoder.prompts import Prompts
from eas_export.pipeline import build
from eas_export.system.machine import private_memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=[name for name in SHAPES if name != "demo"], default="1B")
    parser.add_argument("--scratch", type=Path, help="where to put the files; default: the system's temporary folder")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)  # the process that is measured
    given = parser.parse_args()
    if given.open:
        print(json.dumps(open_and_use(given.open)))
        return
    figures: dict = {"shape": given.shape}
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        checkpoint = write_checkpoint(Path(scratch) / "checkpoint", SHAPES[given.shape])
        for precision in ("fp32", "fp16"):
            out = Path(scratch) / precision
            build(checkpoint, out, precision=precision, fold="lowrank", verify=False)
            command = [sys.executable, __file__, "--open", str(out)]
            seen = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            figures |= {f"{precision}_{name}": value for name, value in seen.items()}
    figures["fp32_held_by_weights"] = round(figures["fp32_held_bytes"] / figures["fp32_weights_bytes"], 4)
    figures["fp16_held_by_weights"] = round(figures["fp16_held_bytes"] / figures["fp16_weights_bytes"], 4)
    figures["fp16_private_by_said"] = round(figures["fp16_private_bytes"] / figures["fp16_said_bytes"], 4)
    write_result(f"loading_{given.shape}", figures, bars={"fp32_held_by_weights": 1.15, "fp16_private_by_said": 1.0})


def open_and_use(path: Path) -> dict:
    bundle = open_bundle(path)
    m = bundle.manifest
    open_sessions(bundle, {}), torch.ones(2) @ torch.ones(2)  # so that imports and thread pools are not counted
    before = _memory()
    runtime = Runtime("onnxruntime", m.config, m.plan, m.limits, open_sessions(bundle, m.graphs))
    ids = torch.tensor([[1, 2, 3]])
    Conversation(runtime, Prompts(ids, torch.tensor([3]), torch.full_like(ids, -1)), room=5).feed(torch.tensor([1]))
    now = _memory()
    return {
        "weights_bytes": m.files[WEIGHTS].bytes,
        "private_bytes": now["private"] - before["private"],
        "held_bytes": sum(now.values()) - sum(before.values()),
        "said_bytes": get_backend("onnxruntime").private_bytes(bundle),
    }


def _memory() -> dict[str, int]:
    mapped = re.search(r"^RssFile:\s+(\d+)", Path("/proc/self/status").read_text(), re.M)
    return {"private": private_memory(), "mapped": 1024 * int(mapped[1])}


if __name__ == "__main__":
    main()
