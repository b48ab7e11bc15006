"""Every script under benchmarks/ can be started: what it imports is there, and its options are explained."""

import importlib
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parent.parent / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_it_starts(path, monkeypatch, capsys):
    module = importlib.import_module(path.stem)
    assert Path(module.__file__) == path
    if hasattr(module, "main") and "argparse" in vars(module):
        monkeypatch.setattr(sys, "argv", [str(path), "--help"])
        with pytest.raises(SystemExit) as ended:
            module.main()
        assert ended.value.code == 0 and "usage:" in capsys.readouterr().out
