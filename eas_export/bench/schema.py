"""The JSON Schema of a report, for who reads it in another language. `python -m eas_export.bench.schema` writes it anew."""

import json
from pathlib import Path
from typing import Any

from .report import SCHEMA_VERSION, BenchReport

PATH = Path(__file__).with_name("report.schema.json")


def report_schema() -> dict[str, Any]:
    """Of what `bench --json` prints."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:eas-export:bench-report:{SCHEMA_VERSION}",
        **BenchReport.model_json_schema(mode="serialization"),
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(report_schema(), indent=1) + "\n", "utf-8")
