"""JSON Schemas of reports, for readers in other languages. `python -m eas_export.cli.schemas` rewrites them."""

import inspect
import json
from pathlib import Path
from typing import Any

from ..bench.report import BenchReport
from ..core.record import Record
from ..verify.report import ParityReport

# Name -> the record that `verify --json` prints (reports/verify.json in a bundle), and the one that `bench --json` prints
REPORTS: dict[str, type[Record]] = {"parity-report": ParityReport, "bench-report": BenchReport}


def report_schema(name: str) -> dict[str, Any]:
    """The schema of one of REPORTS."""
    report = REPORTS[name]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:eas-export:{name}:{report.model_fields['schema_version'].default}",
        **report.model_json_schema(mode="serialization"),
    }


def schema_file(name: str) -> Path:
    """The committed schema, beside the report's module."""
    return Path(inspect.getfile(REPORTS[name])).with_name("report.schema.json")


if __name__ == "__main__":
    for name in REPORTS:
        schema_file(name).write_text(json.dumps(report_schema(name), indent=1) + "\n", "utf-8")
