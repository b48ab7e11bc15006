"""Recipes: the same keys as the command line, which wins; and the shipped ones, dry-run on files of the real models' shapes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import SHAPES, write_checkpoint

from eas_export.demo import RECIPE
from eas_export.errors import UserError
from eas_export.recipe import BuildOptions, resolve

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return path


def test_the_command_line_wins(tmp_path):
    request = resolve(write(tmp_path, "precision: fp16\nmax_prompt: 64\nskip: 1-2\n"), {"max_prompt": 32, "fold": None})
    assert (request.options.precision, request.options.max_prompt, request.options.fold) == ("fp16", 32, None)
    assert (request.given_skip, request.recipe_skip) == (None, ("r.yaml", "1-2"))
    assert resolve(write(tmp_path, "skip: 5"), {}).options.skip == "5"
    assert resolve(write(tmp_path, "skip: [5, 6]"), {}).options.skip == "5,6"
    assert resolve(None, {"skip": [5, 6]}).given_skip == "5,6"
    assert resolve(write(tmp_path, "# nothing"), {}).options == BuildOptions()
    request = resolve(write(tmp_path, "skip: 1-2\n"), {"skip": "3"})
    assert (request.given_skip, request.recipe_skip) == ("3", None)


def test_the_command_line_has_the_recipes_keys():
    from eas_export.cli.build import build

    assert set(BuildOptions.model_fields) <= {parameter.name for parameter in build.params}


@pytest.mark.parametrize(
    "text, said",
    [
        ("precisoin: fp16", "unknown option 'precisoin'.*did you mean precision"),
        ("precision: fp12", "precision is 'fp12'"),
        ("opset: 22", "opset is 22"),
        ("max_prompt: -1", "max_prompt is -1"),
        ("max_prompt: 4096", "no room for an answer"),
        ("max_batch: 0x" + "f" * 5000, "max_batch is a number of 20000 bits"),
        ("skip: 0x" + "f" * 5000, "skip is a number of 20000 bits"),
        ("fold: lowrank\nmax_batch: 100000", "max_batch is 100000"),
        ("m: &m {x: 1}\nn: {<<: [*m, *m]}", "it has aliases"),
        ("#" * 70_000, "it is longer than 65536 bytes"),
        ("router_temperature: .nan", "router_temperature"),
        ("adapter_scale: .inf", "adapter_scale"),
        ("- a\n- b", "key: value"),
        ("a: [", "not a YAML file"),
        ("!!python/object/apply:os.system ['touch x']", "not a YAML file"),
        ("\x00", "not a YAML file"),
        ("1: 2", "key: value"),
        (
            "\n".join(
                [
                    "max_tokens: &l0 [1, 1]",
                    *(f"l{i}: &l{i} [{'*l' + str(i - 1)}, {'*l' + str(i - 1)}]" for i in range(1, 40)),
                ]
            ),
            "it has aliases",
        ),
    ],
)
def test_bad_recipes_are_refused(tmp_path, text, said):
    with pytest.raises(UserError, match=said):
        resolve(write(tmp_path, text), {})
    with pytest.raises(UserError, match="no such file"):
        resolve(tmp_path / "absent.yaml", {})


def test_the_fold_mode_is_one_of_the_networks():
    modes = ("weights", "lowrank")
    assert BuildOptions().settled(modes).fold == "weights" and BuildOptions().settled(("offline",)).fold == "offline"
    assert BuildOptions(fold="lowrank").settled(modes).limits.max_batch == 8
    with pytest.raises(UserError, match="does not fold that way: offline .*choose weights or lowrank"):
        BuildOptions(fold="offline").settled(modes)
    with pytest.raises(UserError, match="one prompt at a time, max_batch is 2.*lowrank"):
        BuildOptions(max_batch=2).settled(modes)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_run_unchanged_on_the_real_shapes(recipe, tmp_path, command):
    """Files as the real ones, but with holes for tensors: every key and shape is checked, and the plan is made."""
    name = recipe.stem.split("-")[1].upper()  # lavin-7b-scienceqa
    folder = write_checkpoint(tmp_path / "data", SHAPES[name], skeleton=True)
    code, out, err = command(
        "build", "--ckpt", folder, "--recipe", recipe, "--out", tmp_path / "out.bundle", "--dry-run", "--json"
    )
    assert code == 0, err
    said = json.loads(out)
    assert len(said["plan"]["skipped"]) == 12
    assert said["options"]["precision"] == "fp16"
    assert said["accounts"]["after"]["total_parameters"] < said["accounts"]["before"]["total_parameters"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_the_7b_recipe_knows_the_published_skip_list(tmp_path, command):
    folder = write_checkpoint(tmp_path / "data", replace(SHAPES["7B"], skip=()), skeleton=True)
    recipe = next(path for path in RECIPES if path.stem == "lavin-7b-scienceqa")
    code, out, err = command(
        "build", "--ckpt", folder, "--recipe", recipe, "--out", tmp_path / "out.bundle", "--dry-run", "--json"
    )
    assert code == 0, err
    plan = json.loads(out)["plan"]
    assert plan["skipped"] == sorted([24, 23, 19, 21, 28, 31, 22, 30, 25, 26, 29, 27])
    assert plan["origin"] == "recipe lavin-7b-scienceqa.yaml"


def test_the_demo_has_a_recipe_too():
    assert resolve(RECIPE, {}).options.fold == "weights"
