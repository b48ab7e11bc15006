"""The page: whole, self-contained, and it says what was found."""

import re
from html.parser import HTMLParser

import pytest
from sample_reports import ALL, broken, damaged, differing, lacking, nothing, passing

from eas_export.verify.html import render
from eas_export.verify.plots import Point, Series, log_plot
from eas_export.verify.report import ParityReport, Verdict

VOID = {"meta", "path", "circle", "polygon"}


class Reader(HTMLParser):
    """Checks that every element is closed; collects the text and the tags."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def read(report: ParityReport, bundle: str = "lavin-7b.bundle") -> Reader:
    return Reader(render(report, bundle))


@pytest.mark.parametrize("name", ALL)
def test_a_page_is_whole_and_asks_for_nothing(name):
    text = render(ALL[name](), "lavin-7b.bundle")
    page = Reader(text)
    assert not {"script", "link", "img", "iframe", "object", "image", "use"} & set(page.tags)
    assert not [
        each for each in page.attributes if each[1] in ("src", "href", "xlink:href") or each[1].startswith("on")
    ]
    assert "url(" not in text and "@import" not in text and "http://" not in text and "https://" not in text
    assert "default-src 'none'" in text and "prefers-color-scheme: dark" in text and "@media print" in text
    assert "None" not in page.text and "nan" not in page.text.split() and "inf" not in page.text.split()


@pytest.mark.parametrize("name", ALL)
def test_a_plot_has_a_name(name):
    page = read(ALL[name]())
    labels = [value for tag, attribute, value in page.attributes if (tag, attribute) == ("svg", "aria-label")]
    assert len(labels) == page.attributes.count(("svg", "role", "img"))
    assert all(label in page.text for label in labels)


def test_passing():
    text = read(passing()).text
    assert "all 236 outputs are within the tolerances of fp16" in text
    assert "90.0 %, within tolerance" in text and "DIFFERS" not in text and "First divergence" not in text
    assert "Exact match on 120 questions" in text and "99.2 %" in text and "one fold for all prompts" in text


@pytest.mark.parametrize("name", ALL)
def test_the_verdict_stands_at_the_top_and_at_the_end_in_the_same_words(name):
    text, verdict = read(ALL[name]()).text, f"Verdict: {ALL[name]().verdict} (exit {ALL[name]().exit_code}: "
    page = text[text.index("Verdict") :]  # behind the title
    words = page[: page.index(")") + 1]
    assert words.startswith(verdict) and text.rstrip().endswith(words)


def test_what_is_no_part_of_the_verdict_stands_apart():
    parts = render(differing().model_copy(update={"accuracy": passing().accuracy}), "b").split("<section")
    apart = [part for part in parts if part.startswith(' class="apart"')]
    assert len(apart) == 2 and apart == parts[-2:]  # nothing but the verdict follows
    for part in apart:
        told = part.partition("<footer")[0]
        assert "For information: " in told and "(not part of the verdict)" in told
        assert "badge" not in told and "differ" not in told.lower() and "bad" not in told


def test_differing():
    page = read(differing())
    assert "First divergence: layer 7, stage down of the prefill graph, on onnxruntime, prompt image" in page.text
    assert "44 of 177 outputs are not within the tolerances" in page.text and "70.0 %, DIFFERS" in page.text
    assert "times its tolerance" in page.text and "more than allowed" in page.text
    assert "not run: no NVIDIA GPU was found here" in page.text
    # only what differs lies open
    opened = [name for tag, name, _ in page.attributes if tag == "details"]
    assert (opened, page.tags.count("details")) == (["open"] * 2, 5)


def test_a_block_alone_may_differ():
    report = passing().model_copy(update={"verdict": Verdict.DIFFERS, "blocks": differing().blocks})
    page = read(report)
    assert "all 236 outputs are within the tolerances of fp16 with fold weights, but 25 blocks are not." in page.text


def test_what_is_required_and_not_run_is_said():
    text = read(lacking()).text
    assert "Required but not run: tensorrt-rtx: no NVIDIA GPU was found here" in text
    assert "No checkpoint was given" in text and "For information" not in text


def test_damaged():
    page = read(damaged())
    assert "1 of 6 files of lavin-7b.bundle is damaged" in page.text
    assert "Damaged file fold.onnx: its sha256 is not the manifest's" in page.text and "--force" in page.text
    assert "svg" not in page.tags


def test_nothing():
    page = read(nothing())
    assert "Verdict: not run" in page.text and "No step was reached" in page.text
    assert not {"svg", "details", "table"} & set(page.tags)


def test_no_number_and_zero_have_places_of_their_own():
    text = read(broken()).text
    assert "no number" in text and "n/a" in text and "not finite" in text


def test_names_are_text():
    evil = "<script>alert('\"&')</script>"
    named = ParityReport.model_validate(replace_texts(differing().model_dump(), evil))
    page = read(named, evil)
    assert "script" not in page.tags and evil in page.text
    assert read(passing(), evil).tags == read(passing()).tags


def replace_texts(value, text: str):
    """Every text in a dumped report, but for the verdict and what the page's structure goes by."""
    if isinstance(value, dict):
        kept = ("verdict", "stage", "kind")
        return {
            key if key != "image" else text: each if key in kept else replace_texts(each, text)
            for key, each in value.items()
        }
    if isinstance(value, tuple | list):
        return [replace_texts(each, text) for each in value]
    return text if isinstance(value, str) and value else value


def test_a_plot_puts_numbers_where_they_belong():
    points = [Point(x, y, 1e-2, y == 1e-3, "") for x, y in enumerate((1e-3, 1e-1, 0.0, None, 1e-3))]
    svg = log_plot("t", "x", "y", list("abcde"), [Series("s", 0, tuple(points))])
    heights = [float(y) for y in re.findall(r'<circle class="solid" cx="[\d.]+" cy="([\d.]+)"', svg)]
    assert heights[3] < heights[1] < heights[0] == heights[4] < heights[2]
    assert svg.count('class="ring"') == 3
    line = re.search(r'class="line" d="([^"]+)"', svg)[1]
    assert line.count("M") == 2 and line.count("L") == 2  # broken where there is no number


def test_a_long_plot_names_some_of_its_ticks():
    points = tuple(Point(x, 1.0, None, True, "") for x in range(200))
    svg = log_plot("t", "x", "y", [str(x) for x in range(200)], [Series("s", 0, points)])
    assert svg.count('class="tick"') == 10
