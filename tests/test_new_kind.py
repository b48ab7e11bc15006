"""A new kind of network is a config, a folder, a file per verb that differs, and a row: done in a copy of the package, where every verb works
on it and nothing else was touched."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import eas_export

GOLDEN = Path(__file__).parent / "golden" / "llava" / "half"
FILES = {
    "core/configs/second.py": '''
"""What a decoder of another kind is, as data."""
from typing import Literal
from .decoder import ModelConfig
class SecondConfig(ModelConfig):
    kind: Literal["second"] = "second"
''',
    "networks/second/__init__.py": '"""A decoder of another kind."""\n',
    "networks/second/graphs.py": '''
"""Its fold mode."""
from ..contract import FoldMode
from ..decoder.graphs import FOLD_MODES as DECODERS
FOLD_MODES = {"beside": FoldMode("adapters beside shared weights", DECODERS["lowrank"].graphs)}
''',
    "networks/second/describe.py": '''
"""Its config in words."""
def describe(config):
    return [["layers", f"{config.layers} of another kind"]]
''',
    "verify/second.py": '''
"""Its ledger."""
from .decoder import DecoderLedger
class SecondLedger(DecoderLedger):
    pass
''',
    "bench/second.py": '''
"""What is timed of it."""
from dataclasses import replace
from .baselines import Baseline
from .decoder import DECODER
ROWS = {"onnxruntime-beside": Baseline("beside", "onnxruntime", "ONNX Runtime"), "pytorch-beside": Baseline("beside", "pytorch", "PyTorch")}
SECOND = replace(DECODER, baselines=ROWS, claims=(), causes=())
''',
}
ROW = """

NETWORKS["second"] = replace(
    NETWORKS["decoder"],
    fold_modes=".networks.second.graphs:FOLD_MODES",
    describe=".networks.second.describe:describe",
    ledger=".verify.second:SecondLedger",
    bench=".bench.second:SECOND",
)
"""
USE = """
import dataclasses, json, sys
import numpy as np
import eas_export
from eas_export import families, pipeline
from eas_export.bench import run as bench_run
from eas_export.cli.run_options import RunOptions
from eas_export.cli.run_tokens import run_tokens
from eas_export.core.configs.second import SecondConfig
from eas_export.core.progress import Progress
from eas_export.generation.sampling import GREEDY
from pathlib import Path

def load(*given):
    checkpoint = families.load_checkpoint(*given)
    own = SecondConfig(**checkpoint.config.model_dump(exclude={"kind"}))
    return dataclasses.replace(checkpoint, config=own)

pipeline.load_checkpoint = bench_run.load_checkpoint = load
ckpt, out = sys.argv[1], Path(sys.argv[2])
limits = {"max_prompt": 64, "max_tokens": 96, "max_batch": 2}
built = eas_export.build(ckpt, out, **limits)
np.savez(out.with_suffix(".npz"), input_ids=[[1, 5, 9]])
options = RunOptions(None, 3, GREEDY, "onnxruntime", True, Progress())
answers, _ = run_tokens(built.bundle, out.with_suffix(".npz"), options)
found = eas_export.verify(out, ckpt, negative_controls=True)
timed = eas_export.bench(out, prompt_tokens=6, new_tokens=2, batches=(1,), rounds=2)
print(json.dumps({
    "build": built.report.verdict, "fold": built.bundle.manifest.fold, "verify": found.verdict,
    "controls": [control.ok for control in found.controls], "tokens": answers["tokens"],
    "kind": eas_export.inspect(out).config.kind, "check": list(eas_export.check(out)),
    "timed": {name: bool(each.steady) for name, each in timed.baselines.items()},
}))
"""


def test_every_verb_works_on_a_new_kind_of_network(tmp_path):
    package = shutil.copytree(Path(eas_export.__file__).parent, tmp_path / "eas_export")
    for name, text in FILES.items():
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(text.lstrip())
    kinds = package / "core" / "configs" / "__init__.py"
    union = "AnyConfig = Annotated[ModelConfig |"
    assert union in kinds.read_text()
    kinds.write_text(
        kinds.read_text()
        .replace(union, f"{union} SecondConfig |")
        .replace(
            "from .decoder import ModelConfig", "from .decoder import ModelConfig\nfrom .second import SecondConfig"
        )
    )
    table = package / "networks" / "__init__.py"
    assert "from dataclasses import dataclass\n" in table.read_text()
    table.write_text(table.read_text().replace("import dataclass\n", "import dataclass, replace\n") + ROW)

    command = [sys.executable, "-c", USE, str(GOLDEN), str(tmp_path / "second.bundle")]
    there = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(tmp_path)}}
    done = subprocess.run(command, capture_output=True, text=True, **there)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["build"] == said["verify"] == "same as the checkpoint"
    assert all(said["controls"]) and len(said["tokens"][0]) == 3
    assert said["kind"] == "second" and said["fold"] == "beside"
    assert said["check"] == ["vision", "prefill", "decode"]
    assert said["timed"] == {"onnxruntime-beside": True, "pytorch-beside": True}
