"""The JSON Schemas of reports, for who reads them in another language. `python -m eas_export.cli.schemas` writes them anew."""

import inspect
import json
from pathlib import Path
from typing import Any

from ..bench.report import BenchReport
from ..core.record import Record
from ..verify.report import ParityReport

# Name -> what `verify --json` prints, and lies in a bundle as reports/verify.json; and what `bench --json` prints
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
    """Where it is committed: beside the report."""
    return Path(inspect.getfile(REPORTS[name])).with_name("report.schema.json")


if __name__ == "__main__":
    for name in REPORTS:
        schema_file(name).write_text(json.dumps(report_schema(name), indent=1) + "\n", "utf-8")
