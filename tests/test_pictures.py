"""Pictures: the README's show what the committed results say, as text, and labels do not overlap."""

from io import BytesIO
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from pictures import PICTURES, RESULTS

from eas_export.system.pictures import spaced


def texts(svg: bytes) -> list[str]:
    return ["".join(each.itertext()) for each in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("name", PICTURES)
def test_committed_pictures_come_from_the_results(name):
    file = BytesIO()
    PICTURES[name](file)
    assert texts(file.getvalue()) == texts((RESULTS / name).read_bytes()), "run python benchmarks/pictures.py"


def test_the_bench_picture_has_each_name_and_time_and_plain_rows():
    shown = texts((RESULTS / "bench_1B_fp32.svg").read_bytes())
    assert {"onnxruntime-weights", "168 ms", "pytorch-unskipped", "359 ms", "12.4 s"} <= {*shown}
    assert {"1", "2", "4", "8", "onnxruntime-lowrank 19.1", "pytorch-unskipped 11.3"} <= {*shown}


@pytest.mark.parametrize("values", [[], [3.0], [1.0, 1.1, 1.2, 5.0], [0.0, 0.0, 0.0], [1.0, 3.0, 5.0]])
def test_labels_keep_a_gap_and_move_no_more_than_they_have_to(values):
    placed = spaced(values, 0.5)
    assert all(upper - lower >= 0.5 - 1e-9 for lower, upper in pairwise(placed))
    assert sum(placed) == pytest.approx(sum(values)) and (placed == values or min(placed) < min(values))
