"""Skip lists: their text forms, validation, and who decides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eas_export.core.errors import UserError
from eas_export.core.plan import SkipEvidence, choose_plan, disagreement, make_plan, parse_skip


@pytest.mark.parametrize(
    "text, layers",
    [
        ("20-31,5", (5, *range(20, 32))),
        ("none", ()),
        (" NONE ", ()),
        ("[24, 23, 19]", (19, 23, 24)),
        ("0", (0,)),
        ("3 - 4", (3, 4)),
    ],
)
def test_text_forms(text, layers):
    assert parse_skip(text, "--skip") == layers


@pytest.mark.parametrize(
    "text", ["", "[]", "a", "1-", "-1", "1,,2", "5-3", "1,1", "3-5,4", "1.5", "0-9999999", "٣", "1;2"]
)
def test_everything_else_is_refused(text):
    with pytest.raises(UserError):
        parse_skip(text, "--skip")


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text):
    try:
        layers = parse_skip(text, "--skip")
    except UserError:
        return
    assert list(layers) == sorted(set(layers))


@given(st.sets(st.integers(0, 50)))
def test_what_is_written_is_read(layers):
    assert parse_skip(str(sorted(layers, reverse=True)) if layers else "none", "x") == tuple(sorted(layers))


def test_index_out_of_range_names_it():
    with pytest.raises(UserError, match=r"skip index 32 is out of range: the model has attentions 0-31 \(--skip\)"):
        make_plan(32, "31,32", "--skip")


FILE = "args.skip_list of checkpoint-19.pth"


def plan(evidence: str | None, explicit: str | None = None, recipe: str | None = None):
    return choose_plan(32, SkipEvidence(text=evidence, origin=FILE), explicit, recipe and ("r.yaml", recipe))


def test_an_explicit_list_wins():
    assert (plan("[1]", explicit="2").skipped, plan("[1]", explicit="2").origin) == ((2,), "--skip")
    assert plan("[1]", explicit="none", recipe="3").skipped == ()


def test_else_the_checkpoint_decides():
    assert (plan("[2, 1]").skipped, plan("[2, 1]").origin) == ((1, 2), FILE)
    assert plan("[2, 1]", recipe="1-2").origin == FILE


@pytest.mark.parametrize("silent", [None, "", "[]"])
def test_a_recipe_fills_in_where_the_checkpoint_is_silent(silent):
    assert (plan(silent, recipe="4").skipped, plan(silent, recipe="4").origin) == ((4,), "recipe r.yaml")
    with pytest.raises(UserError, match=r"does not say which attentions are skipped.*pass --skip"):
        plan(silent)


def test_a_recipe_never_overrides_a_record():
    with pytest.raises(UserError, match=r"recipe skips 4, but the checkpoint was trained with \[5, 6\].*--skip 5,6"):
        plan("[5, 6]", recipe="4")


@pytest.mark.parametrize("text", ["[40]", "all"])
def test_a_record_that_is_no_list_of_this_model_can_be_overridden(text):
    """Only by --skip, which the message names: nobody edits a checkpoint, and a recipe does not override a record."""
    for recipe in (None, "4"):
        with pytest.raises(
            UserError, match=r"skip (index|list).*\(args.skip_list.*\): pass --skip with the attentions"
        ):
            plan(text, recipe=recipe)
    mine = plan(text, explicit="2")
    evidence = SkipEvidence(text=text, origin=FILE)
    (note,) = disagreement(mine, evidence, frozenset)
    assert mine.skipped == (2,) and note.startswith(f"{FILE} is not used: skip ")


def test_kept_and_skipped_make_the_whole():
    p = make_plan(5, "3,1", "x")
    assert (p.skipped, p.kept) == ((1, 3), (0, 2, 4))
