"""The report's form: JSON that says what its schema says, and no number where there is none."""

import json
import math

import pytest
import torch
from sample_reports import ALL, lacking, passing

from eas_export.cli.schemas import report_schema, schema_file
from eas_export.verify.lines import Line, compare, compare_tokens
from eas_export.verify.report import ParityReport, StepReport, Verdict


def test_the_committed_schema_is_current():
    committed = json.loads(schema_file("parity-report").read_text("utf-8"))
    assert committed == report_schema("parity-report"), "run python -m eas_export.cli.schemas"


@pytest.mark.parametrize("name", ALL)
def test_a_report_is_json_and_comes_back(name):
    report = ALL[name]()
    text = json.dumps(report.model_dump(mode="json"), allow_nan=False)
    assert ParityReport.model_validate_json(text) == report
    assert_fits(json.loads(text), report_schema("parity-report"))


def test_the_schema_refuses_what_is_no_report():
    plain = passing().model_dump(mode="json")
    for wrong in (plain | {"more": 1}, plain | {"steps": "none"}, plain | {"verdict": "fine"}):
        with pytest.raises(AssertionError):
            assert_fits(wrong, report_schema("parity-report"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_null(value):
    bad, good = torch.full((2, 1, 8), value), torch.arange(16.0).reshape(2, 1, 8)
    tokens = good.argmax(-1)
    lines = [
        *(compare("a", got, reference, 0.1) for got, reference in ((bad, good), (good, bad), (bad, bad))),
        *(compare("b", got[0], want[0], 0.1, logits=True) for got, want in ((bad, good), (good, bad), (bad, bad))),
        compare("c", good[0] * 3e38, good[0], 1e39, logits=True),
        compare_tokens("tokens", tokens, bad, 0.1),
        Line(stage="d", error=value, tolerance=1.0, ok=False, relative=value, cosine=value, kl=value, before=value),
    ]
    step = StepReport(name="s", what="", before="", tolerance=0.1, reason="", cases={"c": tuple(lines)})
    report = passing().model_copy(update={"steps": (step,)})
    text = json.dumps(report.model_dump(mode="json"), allow_nan=False)
    assert ParityReport.model_validate_json(text).steps[0].cases["c"][0].error is None
    assert not any(line.ok for line in lines if line.error is None)


def test_a_tolerance_is_a_number():
    with pytest.raises(ValueError):
        Line(stage="x", error=0.0, tolerance=math.nan, ok=True)


def test_a_line_is_as_bad_as_the_worse_of_its_two_comparisons():
    line = Line(stage="x", error=1.0, tolerance=2.0, ok=True)
    assert line.used == 0.5
    assert line.model_copy(update={"before": 3.0, "before_tolerance": 2.0}).used == 1.5
    assert line.model_copy(update={"before": None, "before_tolerance": 2.0}).used == math.inf


def test_the_worst_line_of_a_step():
    step = passing().steps[2]
    case, line = step.worst
    assert line in step.cases[case] and line.used == max(each.used for lines in step.cases.values() for each in lines)
    assert lacking().steps[-1].worst is None


def test_the_exit_code_tells_what_was_not_run_from_what_differs():
    codes = {name: make().exit_code for name, make in ALL.items()}
    assert codes == {"passing": 0, "differing": 1, "lacking": 3, "damaged": 1, "nothing": 3, "broken": 1}
    assert lacking().verdict == Verdict.SELF_CONSISTENT and lacking().missing == ("tensorrt-rtx",)


def assert_fits(value, schema: dict, root: dict | None = None) -> None:
    """The part of JSON Schema that pydantic writes for records."""
    root = root or schema
    if "$ref" in schema:
        return assert_fits(value, root["$defs"][schema["$ref"].rsplit("/", 1)[1]], root)
    if "anyOf" in schema:
        return assert_fits_one(value, schema["anyOf"], root)
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
    kind = schema["type"]
    assert value is None if kind == "null" else isinstance(value, kinds[kind]), (value, schema)
    assert value in schema.get("enum", [value])
    if kind == "array":
        for each in value:
            assert_fits(each, schema["items"], root)
    if kind == "object":
        known, others = schema.get("properties", {}), schema["additionalProperties"]
        assert value.keys() >= set(schema.get("required", ()))
        for key, each in value.items():
            assert key in known or others, key
            assert_fits(each, known.get(key) or others, root)


def assert_fits_one(value, schemas: list[dict], root: dict) -> None:
    failures = []
    for schema in schemas:
        try:
            return assert_fits(value, schema, root)
        except AssertionError as failure:
            failures.append(failure)
    raise AssertionError(failures)
