"""Recipes: the same keys as the command line, which wins; and the shipped ones, dry-run on files of the real models' shapes."""

import json
import re
import shutil
from dataclasses import replace
from math import isqrt
from pathlib import Path

import pytest
from meter_flops import PUBLISHED as METER_LISTS
from synthetic import SHAPES, write_checkpoint
from synthetic_comparators import lavin, lavin_das, lavin_lora
from synthetic_llava import LLAVA_SHAPES, write_llava
from synthetic_meter import SHAPES as METER_SHAPES
from synthetic_meter import write_meter

from eas_export.build.recipe import resolve
from eas_export.core.errors import UserError
from eas_export.core.options import BuildOptions
from eas_export.core.plan import make_plan
from eas_export.demo import RECIPE

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))
METER_TASKS = {"meter-vqa2": "vqa", "meter-nlvr2": "nlvr2", "meter-flickr30k": "retrieval"}
COMPARED = {"lavin-plain": lavin, "lavin-das": lavin_das, "lavin-lora": lavin_lora}  # what a recipe's name begins with
SKIPPED = {"lavin-plain": 0, "lavin-das": 4, "lavin-lora": 0}  # else 12
SETS = ("lavin-plain", "lavin-das")  # q, k and v are stored twice, with biases
DAS_SKIP = (24, 27, 25, 22)  # the order of the authors' script
HUB = (
    Path(__file__).parent / "hub"
)  # config.json of these models on the Hugging Face Hub, the keys that sizes and maths depend on
# Recipe -> parameters, the tied head once: those that the Hub shows for the model's safetensors
TEXT_MODELS = {
    "llama-3.2-1b": 1_235_814_400,  # meta-llama/Llama-3.2-1B
    "qwen2.5-1.5b": 1_543_714_304,  # Qwen/Qwen2.5-1.5B
    "qwen3-0.6b": 596_049_920,  # Qwen/Qwen3-0.6B
    "smollm2-135m": 134_515_008,  # HuggingFaceTB/SmolLM2-135M
}
DECODER_RECIPES = [path for path in RECIPES if path.stem not in {*METER_TASKS, *TEXT_MODELS}]


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


def test_keys_are_written_as_the_fields_or_as_the_options(tmp_path):
    assert resolve(write(tmp_path, "max-tokens: 96\nmax_prompt: 64"), {}).options.max_tokens == 96
    for text, lines in (("max_tokens: 96\nfold: weights\nmax-tokens: 96", "1 and 3"), ("skip: 1\nskip: 2", "1 and 2")):
        with pytest.raises(UserError, match=f"is there twice, in lines {lines} .*r.yaml.: keep one"):
            resolve(write(tmp_path, text), {})


DEFAULT_LOWERED = "the default of 1024 leaves no room for an answer in 128 tokens; --max-prompt sets another"
RECIPES_LOWERED = "r.yaml's 512 leaves no room for an answer in 128 tokens; --max-prompt sets another"


@pytest.mark.parametrize(
    "recipe, given, max_prompt, note",
    [
        ("", {}, 1024, None),
        ("", {"max_tokens": 1025}, 1024, None),
        ("", {"max_tokens": 128}, 64, DEFAULT_LOWERED),
        ("", {"max_tokens": 2}, 1, "in 2 tokens; --max-prompt sets another"),
        ("max_tokens: 128", {}, 64, DEFAULT_LOWERED),
        ("max_prompt: 512", {"max_tokens": 128}, 64, RECIPES_LOWERED),
        ("max_prompt: 512\nmax_tokens: 768", {"max_tokens": 128}, 64, RECIPES_LOWERED),
        ("max_prompt: 512\nmax_tokens: 768", {"max_tokens": 600}, 512, None),
        ("max_tokens: 128", {"max_prompt": 100}, 100, None),
    ],
)
def test_fewer_tokens_lower_the_longest_prompt_that_was_not_typed(tmp_path, recipe, given, max_prompt, note):
    request = resolve(write(tmp_path, recipe or "# nothing"), given)
    assert request.options.limits.max_prompt == max_prompt == request.options.settled(("offline",)).max_prompt
    assert len(request.notes) == bool(note) and (note is None or request.notes[0].endswith(note))


@pytest.mark.parametrize(
    "recipe, given",
    [
        ("# nothing", {"max_tokens": 128, "max_prompt": 128}),
        ("max_prompt: 512\nmax_tokens: 512", {}),
        ("max_tokens: 128", {"max_prompt": 128}),
    ],
)
def test_two_limits_that_were_given_together_are_not_changed(tmp_path, recipe, given):
    with pytest.raises(UserError, match="leaves no room for an answer in max_tokens"):
        resolve(write(tmp_path, recipe), given)


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
        ("m: &m {x: 1}\nn: {<<: [*m, *m]}", "aliases are not allowed"),
        ("#" * 70_000, "longer than 65536 bytes"),
        ("router_temperature: .nan", "router_temperature"),
        ("adapter_scale: .inf", "adapter_scale"),
        ("skip: []\n? [x, y]\n: 1", "not a YAML file"),
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
            "aliases are not allowed",
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
    with pytest.raises(UserError, match=r"has no fold mode offline .*choose weights or lowrank"):
        BuildOptions(fold="offline").settled(modes)
    with pytest.raises(UserError, match=r"one prompt at a time, but max_batch is 2.*lowrank"):
        BuildOptions(max_batch=2).settled(modes, one_prompt=("weights",))


def test_limits_that_mean_nothing_to_a_network_are_refused_where_they_are_given():
    assert BuildOptions(max_batch=2).settled(("offline",), ("max_prompt",)).limits.max_prompt == 1024
    with pytest.raises(
        UserError, match=r"does not apply to this kind of network \(--max-prompt\): leave --max-prompt out"
    ):
        BuildOptions(max_prompt=64).settled(("offline",), ("max_prompt",))


def write_skeleton(folder: Path, recipe: Path, search: bool = False, **changes: object) -> Path:
    """A checkpoint of the recipe's model, with holes for tensors. search: before a search has ended, as LLaVA-EAS's and DAS's keys show."""
    if recipe.stem in METER_TASKS:
        return write_meter(folder, METER_SHAPES[METER_TASKS[recipe.stem]], skeleton=True)
    system, size, _ = recipe.stem.rsplit("-", 2)  # lavin-7b-scienceqa, lavin-das-7b-scienceqa, llava-1.5-7b-slake
    if system == "llava-1.5":
        skip = make_plan(32, resolve(recipe, {}).options.skip, "recipe").skipped
        shape = replace(LLAVA_SHAPES["7B"], **{"skip": skip, "search": search} | changes)
        return write_llava(folder, shape, skeleton=True)
    shape = replace(SHAPES[size.upper()], **changes)
    if system not in COMPARED:
        return write_checkpoint(folder, shape, skeleton=True)
    shape = replace(shape, skip=DAS_SKIP)
    trained = lavin_das(shape, search=True) if search else COMPARED[system](shape)
    return write_checkpoint(folder, shape, skeleton=True, trained=trained)


@pytest.mark.parametrize("recipe", DECODER_RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_run_unchanged_on_the_real_shapes(recipe, tmp_path, command):
    """Files as the real ones, but with holes for tensors: every key and shape is checked, and the plan is made."""
    folder = write_skeleton(tmp_path / "data", recipe)
    code, out, err = command(
        "build", "--ckpt", folder, "--recipe", recipe, "--out", tmp_path / "out.bundle", "--dry-run", "--json"
    )
    assert code == 0, err
    said = json.loads(out)
    system = recipe.stem.rsplit("-", 2)[0]
    skipped = SKIPPED.get(system, 12)
    assert len(said["plan"]["skipped"]) == skipped
    assert said["options"]["precision"] == "fp16"
    before, after = (said["accounts"][when]["parameters"]["attention"] for when in ("before", "after"))
    layers = said["plan"]["sites"]
    each = before // layers  # fine-tuning may have removed some from the file already
    if system in SETS:
        each = each // 4 * 7 + 2 * 3 * isqrt(each // 4)
    assert after == each * (layers - skipped)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


@pytest.mark.parametrize("stem", TEXT_MODELS)
def test_text_models_need_no_weights_for_a_dry_run(stem, tmp_path, command):
    """config.json alone: the numbers are those computed by hand from its sizes."""
    folder, recipe = tmp_path / stem, RECIPES[0].with_name(f"{stem}.yaml")
    folder.mkdir()
    shutil.copyfile(HUB / f"{stem}.json", folder / "config.json")
    build = ("build", "--ckpt", folder, "--recipe", recipe, "--out", tmp_path / "out.bundle")
    code, out, err = command(*build, "--dry-run", "--json")
    assert code == 0, err
    said, c = json.loads(out), json.loads((folder / "config.json").read_text())
    dim, ffn, layers, vocab = (c[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"))
    head = c.get("head_dim", dim // c["num_attention_heads"])
    q, kv = head * c["num_attention_heads"], head * c["num_key_value_heads"]
    has_bias, has_norms = c["model_type"] == "qwen2", c["model_type"] == "qwen3"
    attention = 2 * dim * (q + kv) + has_bias * (q + 2 * kv) + has_norms * 2 * head
    account = said["accounts"]["before"]
    assert account == said["accounts"]["after"]
    assert account["parameters"]["attention"] == layers * attention
    assert account["parameters"]["feed-forward"] == layers * 3 * dim * ffn
    assert account["parameters"]["other"] == vocab * dim + (2 * layers + 1) * dim
    assert account["total_parameters"] == TEXT_MODELS[stem]
    assert account["total_bytes"] == 2 * TEXT_MODELS[stem]
    assert account["kv_bytes_per_token"] == 2 * 2 * layers * kv
    tables = 2 * 4 * 4096 * head // 2  # cosines and sines of every position, float32
    needed = {each["step"]: each["disk_bytes"] for each in said["needs"]}
    assert 0 <= needed["writing weights"] - 2 * TEXT_MODELS[stem] <= tables
    options = said["options"]
    assert (options["precision"], options["fold"], options["max_tokens"]) == ("bf16", "none", 4096)
    assert options["max_tokens"] <= c["max_position_embeddings"]
    assert (said["plan"]["skipped"], said["plan"]["sites"]) == ([], layers)
    assert f"{TEXT_MODELS[stem]:,} parameters" in recipe.read_text()
    kv_bytes = account["kv_bytes_per_token"]
    assert (
        f"{kv_bytes:,} bytes per token and row, {kv_bytes * 4096 / 1e6:.0f} MB for a row of 4096" in recipe.read_text()
    )
    code, _, err = command(*build)
    assert code == 2 and "error: the folder has no model.safetensors, pytorch_model.bin or index of shards" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == [stem]


def test_a_dry_run_without_weights_still_refuses_what_cannot_be_built(tmp_path, command):
    config = json.loads((HUB / "llama-3.2-1b.json").read_text())
    build = ("build", "--ckpt", tmp_path, "--out", tmp_path / "out.bundle", "--dry-run")
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    code, _, err = command(*build)
    assert code == 2 and "the weights are quantised (GPTQ)" in err
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    code, out, err = command(*build, "--json")
    assert code == 0, err
    untied = TEXT_MODELS["llama-3.2-1b"] + config["vocab_size"] * config["hidden_size"]
    assert json.loads(out)["accounts"]["after"]["total_parameters"] == untied
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    code, _, err = command(*build)
    assert code == 2 and "GGUF" in err


PUBLISHED = {
    "lavin-7b-scienceqa": [24, 23, 19, 21, 28, 31, 22, 30, 25, 26, 29, 27],
    "lavin-das-7b-scienceqa": list(DAS_SKIP),
    "llava-1.5-7b-scienceqa": [31, 29, 21, 23, 24, 20, 22, 30, 26, 28, 25, 27],
    "llava-1.5-7b-slake": [5, 8, 21, 23, 30, 26, 27, 6, 19, 24, 28, 25],
    "llava-1.5-7b-aid": [28, 3, 13, 19, 12, 5, 24, 22, 4, 10, 30, 26],
}


@pytest.mark.parametrize("stem", PUBLISHED)
def test_recipes_know_the_published_skip_lists(stem, tmp_path, command):
    """Where the checkpoint records none."""
    recipe = next(path for path in RECIPES if path.stem == stem)
    silent = {"skip": ()} if stem == "lavin-7b-scienceqa" else {"search": True}
    folder = write_skeleton(tmp_path / "data", recipe, **silent)
    code, out, err = command(
        "build", "--ckpt", folder, "--recipe", recipe, "--out", tmp_path / "out.bundle", "--dry-run", "--json"
    )
    assert code == 0, err
    plan = json.loads(out)["plan"]
    assert plan["skipped"] == sorted(PUBLISHED[stem])
    assert plan["origin"] == f"recipe {stem}.yaml"


@pytest.mark.parametrize("stem, attentions", [("meter-vqa2", 9), ("meter-nlvr2", 9), ("meter-flickr30k", 7)])
def test_meters_recipes_run_unchanged_and_know_the_published_lists(stem, attentions, tmp_path, command):
    """On files as the real ones, which say nothing of skips."""
    recipe, task = next(path for path in RECIPES if path.stem == stem), METER_TASKS[stem]
    folder = write_skeleton(tmp_path / "data", recipe)
    build = ("build", "--ckpt", folder, "--recipe", recipe, "--out", tmp_path / "out.bundle", "--dry-run", "--json")
    code, out, err = command(*build)
    assert code == 0, err
    said = json.loads(out)
    published = METER_LISTS[task]
    assert (said["plan"]["skipped"], said["plan"]["origin"]) == (sorted(published["10"]), f"recipe {stem}.yaml")
    assert (said["options"]["precision"], said["options"]["fold"]) == ("fp16", "offline")
    assert said["options"]["image_cross_reading"] is None
    before, after = (said["accounts"][when]["parameters"] for when in ("before", "after"))
    assert after["attention"] * 24 == before["attention"] * (24 - attentions)
    assert after["adapters that fold"] == 0 < before["adapters that fold"]
    assert after["adapters of skipped attentions"] * 24 == before["adapters of skipped attentions"] * attentions
    assert any("as published" in note for note in said["notes"])
    text = recipe.read_text()
    lists = {each.strip(" .,#;") for each in re.findall(r"\d+(?:-\d+)?(?:,\d+(?:-\d+)?)+", text)}
    assert {make_plan(24, each, stem).skipped for each in lists} == {tuple(sorted(each)) for each in published.values()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    # the paper's reading of the same list: as many attentions as indices
    code, out, err = command(*build, "--image-cross-reading", "paper")
    assert code == 0, err
    after = json.loads(out)["accounts"]["after"]["parameters"]
    assert after["attention"] * 24 == before["attention"] * (24 - 10)


def test_the_demo_has_a_recipe_too():
    assert resolve(RECIPE, {}).options.fold == "weights"
