"""The package as users install it: a wheel, in an environment of its own, used from another folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from conftest import made_once

ROOT = Path(__file__).parent.parent


def run(command: list[object], folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def tool(tmp_path_factory) -> Path:
    """`eas-export` of a wheel that was built and installed into a new environment. What it depends on is imported from this one's packages."""
    with made_once(tmp_path_factory, "wheel", "env") as env:
        if not env.exists():
            source, dist = (
                env.parent / "source",
                env.parent / "dist",
            )  # setuptools writes its build folders beside setup.py
            shutil.copytree(ROOT / "eas_export", source / "eas_export", ignore=shutil.ignore_patterns("__pycache__"))
            for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
                shutil.copyfile(ROOT / name, source / name)
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
            run([*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", dist, source], ROOT)
            venv.create(env, symlinks=True)
            python = env / "bin" / "python"
            run([*pip, "--python", python, "install", "--quiet", "--no-deps", *dist.glob("*.whl")], ROOT)
            packages = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], ROOT).strip())
            (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return env / "bin" / "eas-export"


def test_the_demo_runs_from_a_wheel(tool, tmp_path):
    imported = run([tool.with_name("python"), "-c", "import eas_export; print(eas_export.__file__)"], tmp_path)
    assert imported.startswith(str(tool.parents[1])), "the wheel's, not the checkout's"
    held_out = Path(imported.strip()).parent / "demo" / "held_out" / "questions.jsonl"
    asked = held_out.read_text().splitlines(keepends=True)
    assert len(asked) == 800
    held_out.write_text("".join(asked[:40]))  # README's run asks all
    last = run([tool, "demo"], tmp_path).splitlines()[-1].split()
    assert last[0] == "eas-export" and len(run([tool, *last[1:]], tmp_path).splitlines()) == 3
    run([tool, "verify", "eas-demo/demo.bundle", "--html", "page.html"], tmp_path)
    assert "self-consistent" in (tmp_path / "page.html").read_text("utf-8")
