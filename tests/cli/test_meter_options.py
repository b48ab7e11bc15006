"""What the command line says of METER's checkpoints and bundles, and which options belong to them."""

import json

import pytest
from conftest import GOLDEN
from meter_cases import MeterCase

from eas_export.bundle.manifest import WEIGHTS

CASE = MeterCase("vqa_skip10")
SKIP = ",".join(map(str, CASE.skip))
HEADS = ("--text-heads", CASE.text_heads)


def said_of(command, *arguments: object) -> dict:
    code, out, err = command("inspect", *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_inspect_counts_what_skipping_saves(meter_bundle_of, command):
    """Nine attentions for ten indices: 23 is 17 once more. A checkpoint is counted in fp16, a bundle in its own precision."""
    said, dim = said_of(command, CASE.file, *HEADS, "--skip", SKIP), 48
    assert (said["kind"], said["config"]["kind"], said["config"]["task"]) == ("checkpoint", "cross-encoder", "vqa")
    assert said["plan"]["skipped"] == sorted(CASE.skip) and said["plan"]["sites"] == 24
    before, after = (said["accounts"][when] for when in ("before", "after"))
    attention = 4 * (dim + 1) * dim  # q, k, v and o with their biases
    assert before["parameters"]["attention"] == 24 * attention and after["parameters"]["attention"] == 15 * attention
    assert (before["parameters"]["adapters that fold"] > 0) and after["parameters"]["adapters that fold"] == 0
    stand_ins = [each["parameters"]["adapters of skipped attentions"] for each in (before, after)]
    assert stand_ins[1] * 24 == stand_ins[0] * 9
    assert before["flops"] > after["flops"] > 0 and before["kv_bytes_per_token"] == 0
    assert after["total_bytes"] == 2 * after["total_parameters"] and said["requests"] == {}
    _, note, _ = said["notes"]
    assert note.startswith(
        "indices [23] were read as the image stream's self-attentions [17], as published; [23] are the same"
    )

    bundle = meter_bundle_of(CASE)
    of_bundle = said_of(command, bundle.path, "--check")
    assert of_bundle["kind"] == "bundle" and of_bundle["notes"] == said["notes"]
    assert of_bundle["accounts"]["after"]["parameters"] == after["parameters"]
    assert of_bundle["accounts"]["after"]["total_bytes"] == 4 * after["total_parameters"]
    assert of_bundle["files"][WEIGHTS] == (bundle.path / WEIGHTS).stat().st_size
    assert (of_bundle["fold"], of_bundle["limits"]) == ("offline", {"max_batch": 2})


def test_inspect_reads_the_last_sites_as_it_is_told(command):
    said = said_of(command, CASE.file, *HEADS, "--skip", SKIP, "--image-cross-reading", "paper")
    parameters = [said["accounts"][when]["parameters"]["attention"] for when in ("before", "after")]
    assert parameters[1] * 24 == parameters[0] * 14
    _, note, _ = said["notes"]
    assert (
        note == "indices [23] were read as the image stream's cross-attentions; the published code reads them as self"
    )


def test_inspect_shows_tables(meter_bundle_of, command, refused):
    code, out, _ = command("inspect", CASE.file, *HEADS)
    assert code == 0 and "shown without skipping" in " ".join(out.split()) and "as published" in out
    path = meter_bundle_of(CASE).path
    code, out, _ = command("inspect", path)
    assert code == 0
    shown = (
        "vqa, answers chosen among 31",
        "GFLOPs per pass",
        "10 of 24: 0, 1, 2, 4, 6, 8, 12, 13, 17, 23",
        "rank 8 before each kept attention and feed-forward network, folded into its weights",
        "rank 12 in place of each skipped attention",
        "the image stream's self-attentions again, as published",
        "encode.onnx",
        "note: indices [23]",
    )
    for part in shown:
        assert part in out, part
    assert "KV cache" not in out
    assert "these options are for checkpoints" in refused("inspect", path, *HEADS)


REFUSED = {  # option -> what is said
    ("--fold", "weights"): "has no fold mode weights (--fold): leave --fold out, or choose offline",
    ("--fold", "none"): "has no fold mode none",
    ("--adapters", "drop"): "a cross-encoder cannot be built without its adapters (--adapters drop): leave it out",
    ("--weights", "x"): "a meter checkpoint does not take --weights",
    ("--base-weights", "x"): "a meter checkpoint does not take --base-weights",
    ("--vision", "x"): "a meter checkpoint does not take --vision",
    ("--router-temperature", "10"): "a meter checkpoint does not take --router-temperature",
    ("--adapter-scale", "1"): "a meter checkpoint does not take --adapter-scale",
    ("--skip", "3,24"): "the model has attentions 0-23",
    ("--text-heads", "5"): "--text-heads is 5, which does not divide the width 48",
    ("--text-heads", "0"): "text_heads is 0",
}


@pytest.mark.parametrize("options", REFUSED, ids=" ".join)
def test_options_that_are_not_for_it_are_refused(options, tmp_path, refused):
    given = ("--skip", SKIP, *HEADS, *options)  # the last one of a name counts
    assert REFUSED[options] in refused("build", "--ckpt", CASE.file, "--out", tmp_path / "o", *given)
    assert not list(tmp_path.iterdir())


def test_what_the_file_does_not_say_is_asked_for(tmp_path, refused):
    build = ("build", "--ckpt", CASE.file, "--out", tmp_path / "o")
    assert "pass --text-heads N" in refused(*build, "--skip", SKIP)
    assert "does not say which attentions are skipped" in refused(*build, *HEADS)


@pytest.mark.parametrize("folder", ["lavin/first", "llava/a"])
@pytest.mark.parametrize("options", [("--text-heads", "4"), ("--image-cross-reading", "paper")], ids=" ".join)
def test_its_own_options_are_for_no_other_family(folder, options, tmp_path, refused):
    family = folder.split("/")[0]
    said = f"a {family} checkpoint does not take {options[0]} ({options[0]}): leave {options[0]} out"
    assert said in refused("build", "--ckpt", GOLDEN / folder, "--out", tmp_path / "o", *options)
    assert said in refused("inspect", GOLDEN / folder, *options)


@pytest.mark.parametrize(
    "ckpt, recipe, said",
    [
        (GOLDEN / "llava" / "a", "text_length: 50", "text_length: a llava checkpoint does not take --text-length"),
        (CASE.file, "max-prompt: 64", "max_prompt: --max-prompt does not apply to this kind of network"),
    ],
)
def test_a_recipe_for_another_model_is_named_not_an_option_that_nobody_typed(ckpt, recipe, said, tmp_path, refused):
    path, option = tmp_path / "r.yaml", said.split()[-1] if "llava" in said else "--max-prompt"
    path.write_text(recipe)
    heads = HEADS if ckpt == CASE.file else ()
    build = ("build", "--ckpt", ckpt, "--out", tmp_path / "o", *heads, "--recipe", path)
    fix = "give a recipe for this model, or leave --recipe out"
    assert f"the recipe sets {said} ({path}): {fix}" in refused(*build)
    assert f"leave {option} out" in refused(*build, option, 60)


def test_a_dry_run_checks_and_writes_nothing(tmp_path, command):
    build = ("build", "--ckpt", CASE.file, "--out", tmp_path / "o", "--skip", SKIP, *HEADS, "--dry-run")
    code, out, err = command(*build)
    assert code == 0 and "dry run, nothing written" in out and "comparing with PyTorch" in out, err
    code, out, _ = command(*build, "--json")
    said = json.loads(out)
    assert (said["bundle"], said["options"]["fold"], len(said["plan"]["skipped"])) == (None, "offline", 10)
    assert all(need["memory_bytes"] < 1e9 for need in said["needs"])
    assert not list(tmp_path.iterdir())


def test_a_build_ends_with_its_ledger_and_is_not_done_twice(tmp_path, command, refused):
    """Checked where it is named again."""
    build = (
        "build",
        "--ckpt",
        CASE.file,
        "--out",
        tmp_path / "o",
        "--skip",
        SKIP,
        *HEADS,
        "--max-batch",
        "2",
        "--json",
    )
    code, out, err = command(*build)
    said = json.loads(out)
    assert code == 0 and said["report"]["verdict"] == "same as the checkpoint" and not said["reused"], err
    code, out, _ = command(*build)
    assert code == 0 and json.loads(out)["reused"]
    assert "image_cross_reading is paper, the bundle's published" in refused(
        *build[:-1], "--image-cross-reading", "paper"
    )
