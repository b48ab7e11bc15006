"""Long work says how far it is: to people on a terminal and in a log, and to machines."""

import json

from rich.console import Console

import eas_export.cli.progress as progress
from eas_export.cli.progress import BarProgress, JsonProgress, LineProgress


def work(listener, monkeypatch, every: float = 0.0) -> None:
    for name in ("EVERY", "EVERY_EVENT"):
        monkeypatch.setattr(progress, name, every)
    with listener.stage("writing", 4_000_000_000) as done:
        done(1_000_000_000)
        done(3_000_000_000)
    with listener.stage("thinking"):
        pass
    with listener.stage("comparing", 30, "layers") as done:
        done(15)


def test_a_log_gets_amount_rate_and_time_left(monkeypatch, capsys):
    work(LineProgress(), monkeypatch)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("writing: 1.00 GB of 4.00 GB, ") and "/s, " in lines[0] and lines[0].endswith(" s left")
    assert [line.split(" in ")[0] for line in lines if "done" in line] == [
        "writing: done",
        "thinking: done",
        "comparing: done",
    ]
    assert "comparing: 15 layers of 30 layers" in lines[-2] and lines[-1].endswith("30 layers")


def test_a_log_is_not_flooded(monkeypatch, capsys):
    work(LineProgress(), monkeypatch, every=10)
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_machines_get_events(monkeypatch, capsys):
    work(JsonProgress(), monkeypatch)
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(e["event"], e["stage"]) for e in events] == [
        ("start", "writing"),
        ("progress", "writing"),
        ("progress", "writing"),
        ("done", "writing"),
        ("start", "thinking"),
        ("done", "thinking"),
        ("start", "comparing"),
        ("progress", "comparing"),
        ("done", "comparing"),
    ]
    first = events[1]
    assert (first["done"], first["total"], first["unit"]) == (1_000_000_000, 4_000_000_000, "bytes")
    assert first["rate"] > 0 and first["seconds_left"] >= 0


def test_a_terminal_gets_bars(monkeypatch, capsys):
    console = Console(force_terminal=True, width=120)
    with console.capture() as seen:
        work(BarProgress(console), monkeypatch)
    assert "writing" in seen.get() and capsys.readouterr().err.count(": done in ") == 3


def test_every_command_sends_events_with_json(bundle_of, command):
    from conftest import golden_case

    code, text, err = command("verify", bundle_of(golden_case("first")).path, "--json", "--steps", "1")
    assert code == 0 and json.loads(text)["verdict"] == "self-consistent"
    assert {"start", "done"} <= {json.loads(line)["event"] for line in err.splitlines()}
