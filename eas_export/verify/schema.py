"""The JSON Schema of a report, for who reads it in another language. `python -m eas_export.verify.schema` writes it anew."""

import json
from pathlib import Path
from typing import Any

from .report import SCHEMA_VERSION, ParityReport

PATH = Path(__file__).with_name("report.schema.json")


def report_schema() -> dict[str, Any]:
    """Of what `verify --json` prints and what lies in a bundle as reports/verify.json."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:eas-export:parity-report:{SCHEMA_VERSION}",
        **ParityReport.model_json_schema(mode="serialization"),
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(report_schema(), indent=1) + "\n", "utf-8")
