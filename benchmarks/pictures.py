"""Draw the README's pictures from the committed results: no figure in them is typed by hand.

python benchmarks/pictures.py
"""

import json
from collections.abc import Callable
from functools import partial
from typing import BinaryIO

from common import RESULTS

from eas_export.bench.plots import draw as draw_bench
from eas_export.bench.report import BenchReport
from eas_export.demo import CHECKPOINT
from eas_export.search.plots import draw as draw_search
from eas_export.search.report import SearchReport
from eas_export.system.files import written_whole


def _bench(name: str, file: BinaryIO) -> None:
    result = json.loads((RESULTS / f"{name}.json").read_text())
    draw_bench(BenchReport.model_validate(result["report"]), file, "svg")


def _search(file: BinaryIO) -> None:
    draw_search(SearchReport.model_validate_json((CHECKPOINT / "search.json").read_text()), file)


# File -> what draws it
PICTURES: dict[str, Callable[[BinaryIO], None]] = {
    "bench_1B_fp32.svg": partial(_bench, "bench_1B_fp32"),
    "demo_search.svg": _search,
}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        with written_whole(RESULTS / name) as file:
            draw(file)
