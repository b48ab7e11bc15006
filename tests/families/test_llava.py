"""LLaVA-EAS checkpoints: what is refused, one line each with the place and the remedy; other skip lists; prompts and pixels."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN, TINY
from PIL import Image
from reference.files import read_folder
from synthetic_llava import LlavaShape, write_llava

from eas_export.core.configs.vit import ImageConfig
from eas_export.core.errors import UserError
from eas_export.core.limits import Limits
from eas_export.core.plan import choose_plan, make_plan
from eas_export.families import detect, get_family, load_checkpoint
from eas_export.families.contract import Sources
from eas_export.families.llava.prompt import IMAGE, SYSTEM
from eas_export.families.processing.image_processor import to_pixels
from eas_export.families.processing.question import Question
from eas_export.families.processing.tokenizer import Tokenizer
from eas_export.inputs.npz import make_inputs
from eas_export.inputs.questions import encode_question, make_prompt, require_short
from eas_export.networks.prune import prune

PROMPTS = get_family("llava").prompts
SHAPE = LlavaShape(skip=(0, 2))
HEAD_DIFFERS = (
    "lm_head.weight is used as it is: it differs from model.embed_tokens.weight, though tie_word_embeddings is true"
)
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return write_llava(tmp_path_factory.mktemp("llava") / "ckpt", SHAPE)


@pytest.fixture
def folder(written, tmp_path) -> Path:
    return shutil.copytree(written, tmp_path / "ckpt")


def config(**changes: object) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        said = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in said.items() if value != "absent"}))

    return change


def tensors(**changes: torch.Tensor | None) -> Change:
    """Tensors added, replaced or, where None, removed; "__" for "." """

    def change(folder: Path) -> None:
        held = {k: t.clone() for k, t in read_folder(folder).items()} | {
            k.replace("__", "."): t for k, t in changes.items()
        }
        torch.save({key: tensor for key, tensor in held.items() if tensor is not None}, folder / "pytorch_model.bin")

    return change


def without_tower(folder: Path) -> None:
    shutil.rmtree(folder / "vision_tower")


def elsewhere(folder: Path) -> None:
    (folder / "vision_tower").rename(folder.parent / "tower")
    config(mm_vision_tower="../tower")(folder)


REFUSED = {
    "dynamic RoPE": (config(rope_scaling={"type": "dynamic", "factor": 2.0}), r"RoPE is scaled by .dynamic"),
    "RoPE without its factors": (config(rope_parameters={"rope_type": "llama3"}), "scaled by llama3 needs factor"),
    "another activation": (config(hidden_act="relu"), "hidden_act is 'relu': only silu"),
    "a word for a boolean": (config(tie_word_embeddings="false"), "tie_word_embeddings is 'false': .*valid boolean"),
    "no biases": (config(attention_bias=True), "missing key model.layers.1.self_attn.q_proj.bias"),
    "another head size": (config(head_dim=128), r"self_attn.q_proj.weight has shape .*, expected \[512, 64\]"),
    "heads that do not divide": (config(num_key_value_heads=3), "num_key_value_heads 3 does not divide"),
    "odd heads": (config(num_attention_heads=64), "heads of even size"),
    "no size": (config(hidden_size="absent"), r"has shape .*, expected \[96, 4096\]"),
    "transformers' own layout": (config(text_config={}), "config.json has a text_config"),
    "linear projector": (config(mm_projector_type="absent"), "mm_projector_type is 'linear': only mlp2x_gelu"),
    "class token as feature": (config(mm_vision_select_feature="cls_patch"), "mm_vision_select_feature is 'cls_patch'"),
    "tokens around images": (config(mm_use_im_start_end=True), "mm_use_im_start_end is True"),
    "any resolution": (
        config(image_aspect_ratio="anyres"),
        "image_aspect_ratio is 'anyres': only pad or square or none",
    ),
    "a resampler without tensors": (config(mm_resampler_type="spatial_pool"), "mm_resampler_type is 'spatial_pool'"),
    "a tower by other names": (
        tensors(model__vision_tower__vision_model__embeddings__class_embedding=torch.zeros(64)),
        "unknown key 'model.vision_tower.vision_model.embeddings.class_embedding",
    ),
    "a flag in quotes": (
        config(unfreeze_mm_vision_tower="false"),
        "unfreeze_mm_vision_tower is 'false': Input should be a valid bool",
    ),
    "several sizes of an image": (config(s2=True, s2_scales="336,672"), "s2 is True: only False is supported"),
    "no word of the layer": (config(mm_vision_select_layer="absent"), "mm_vision_select_layer: Field required"),
    "layer that the tower has not": (
        config(mm_vision_select_layer=-5),
        "mm_vision_select_layer is -5, but the tower has 3",
    ),
    "before the first block": (config(mm_vision_select_layer=0), "mm_vision_select_layer is 0"),
    "another vocabulary": (config(vocab_size=97), "vocab_size is 97, but model.embed_tokens.weight has 96 rows"),
    "tied by mistake": (tensors(lm_head__weight=None), r"missing key lm_head.weight, expected with shape \[96, 64\]"),
    "tied, neither there": (
        lambda f: (
            config(tie_word_embeddings=True)(f),
            tensors(lm_head__weight=None, model__embed_tokens__weight=None)(f),
        ),
        "missing key model.embed_tokens.weight",
    ),
    "tied, of two shapes": (
        lambda f: (config(tie_word_embeddings=True)(f), tensors(lm_head__weight=torch.ones(95, 64))(f)),
        r"lm_head.weight has shape \[95, 64\], expected \[96, 64\]",
    ),
    "unknown key": (
        tensors(model__layers__1__mlp__bias=torch.ones(1)),
        "unknown key 'model.layers.1.mlp.bias' of shape",
    ),
    "a layer too many": (config(num_hidden_layers=3), "unknown key 'model.layers.3"),
    "a layer too few": (config(num_hidden_layers=5), "layer 4 has neither replaced_adapter nor self_attn"),
    "no adapter": (
        tensors(
            **{
                f"model__layers__1__adapter_attn__{n}": None
                for n in ("expert_weights__weight", *(f"conv_{c}__{k}" for c in "ABD" for k in ("weight", "bias")))
            }
        ),
        "layer 1 has no adapter_attn",
    ),
    "half an attention": (
        tensors(model__layers__1__self_attn__k_proj__weight=None),
        "missing key .*layers.1.self_attn.k_proj",
    ),
    "half an adapter": (tensors(model__layers__2__replaced_adapter__conv_C__bias=None), "missing key .*conv_C.bias"),
    "a shape": (tensors(model__norm__weight=torch.ones(3)), r"model.norm.weight has shape \[3\], expected \[64\]"),
    "odd rank": (
        tensors(model__layers__1__adapter_attn__conv_A__weight=torch.ones(5, 64, 1)),
        "the kept adapters have rank 5, which is not a multiple of 2 groups",
    ),
    "no tower": (
        without_tower,
        "no vision tower: config.json names 'vision_tower', which is not a folder.*download 'vision_tower' and pass --vision DIR",
    ),
    "a tower elsewhere": (elsewhere, r"names '../tower', which is outside its folder.*pass --vision .*/\.\./tower"),
    "a tower without weights": (
        lambda f: (f / "vision_tower/pytorch_model.bin").unlink(),
        "tower's folder has no weights",
    ),
    "no weights": (lambda f: (f / "pytorch_model.bin").unlink(), "the folder has no model.safetensors"),
}


@pytest.mark.parametrize("title", REFUSED)
def test_what_is_refused(folder, title, refused, tmp_path):
    change, said = REFUSED[title]
    change(folder)
    with pytest.raises(UserError, match=said) as error:
        load_checkpoint(Sources(folder))
    assert str(folder) in error.value.where and error.value.fix
    refused("build", "--ckpt", folder, "--out", tmp_path / "out.bundle", "--dry-run")


@pytest.mark.parametrize("form", ["absolute", "from the checkpoint", "from here"])
def test_a_tower_outside_is_not_followed_but_named_so_that_it_can_be_pasted(folder, form, tmp_path, monkeypatch):
    place = tmp_path / ("a folder with a rather long name" * 4)
    (folder / "vision_tower").rename(place)
    monkeypatch.chdir(tmp_path)
    config(mm_vision_tower={"absolute": str(place), "from here": place.name}.get(form, f"../{place.name}"))(folder)
    with pytest.raises(UserError) as error:
        load_checkpoint(Sources(folder))
    option, path = shlex.split(error.value.fix.removeprefix("pass "))
    assert option == "--vision" and place.samefile(path) and place.name in error.value.what
    assert load_checkpoint(Sources(folder, vision=Path(path))).config.vision


@pytest.mark.parametrize("key", ["attention_bias", "mlp_bias", "tie_word_embeddings", "mm_use_im_start_end", "s2"])
def test_a_flag_that_is_null_is_false(folder, key):
    """As in LLaVA's code and the transformers that it was written for."""
    want = load_checkpoint(Sources(folder))
    config(**{key: None})(folder)
    got = load_checkpoint(Sources(folder))
    assert got.config == want.config and got.tensors.keys() == want.tensors.keys()


@pytest.mark.parametrize("key", ["rms_norm_eps", "hidden_act", "mm_vision_select_layer", "is_causal", "rope_theta"])
def test_a_null_that_has_no_meaning_is_named(folder, key):
    """In transformers, too, these are errors, or another model: is_causal null is one that looks ahead."""
    config(**{key: None})(folder)
    with pytest.raises(UserError, match=f"{key} is null: .*correct config.json") as error:
        load_checkpoint(Sources(folder))
    assert "EAS checkpoint" not in error.value.fix


def test_another_tower_is_named(folder):
    """SigLIP's keys are CLIP's."""
    path = folder / "vision_tower" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "siglip_vision_model"}))
    with pytest.raises(
        UserError, match=r"model_type is 'siglip_vision_model'.*models with other towers are not supported"
    ):
        load_checkpoint(Sources(folder))


def test_a_tower_that_is_no_folder_is_told(folder):
    for path, said in (
        (folder / "config.json", "a file, not a folder"),
        (folder / "absent", "there is no such folder"),
    ):
        with pytest.raises(UserError, match=rf"{said} .*pass --vision DIR"):
            load_checkpoint(Sources(folder, vision=path))


def own_tower(folder: Path, name: str) -> None:
    """The tower's tensors among the checkpoint's, and no folder."""
    own = {f"model.vision_tower.vision_tower.{key}": t for key, t in read_folder(folder / "vision_tower").items()}
    tensors(**own)(folder)
    without_tower(folder)
    config(mm_vision_tower=name)(folder)


@pytest.mark.parametrize("name", ["openai/clip-vit-large-patch14-336", "laion/CLIP-ViT-L-14-laion2B-s32B-b82K"])
def test_only_openais_tower_is_known_by_its_shapes(folder, name):
    """laion's of the same shapes have another activation."""
    own_tower(folder, name)
    if name.startswith("openai"):
        assert load_checkpoint(Sources(folder)).config.vision.activation == "quick_gelu"
    else:
        with pytest.raises(UserError, match=f"no config.json, and '{name[:9]}.* is not OpenAI's CLIP.*--vision DIR"):
            load_checkpoint(Sources(folder))


@pytest.mark.parametrize(
    "name, said",
    [
        (
            "google/siglip-so400m-patch14-384",
            "'google/siglip.*(siglip): only CLIP's ViT is supported.*with a CLIP tower",
        ),
        ("/data/of/training/clip-vit-large", "copy '/data/of/training/clip-vit-large' here and pass --vision DIR"),
        ("/convnext/runs/clip-vit-large", "copy '/convnext/runs/clip-vit-large' here and pass --vision DIR"),
    ],
)
def test_a_tower_that_cannot_be_downloaded_is_not_to_be(folder, name, said):
    config(mm_vision_tower=name)(folder)
    with pytest.raises(UserError, match=said.replace("(", r"\(").replace(")", r"\)")):
        load_checkpoint(Sources(folder))


def test_the_folder_of_training_runs_names_the_checkpoint_inside(folder, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(folder, runs / "checkpoint-500")
    with pytest.raises(UserError, match=r"a folder of checkpoints, not one of them .*give \S+/runs/checkpoint-500$"):
        load_checkpoint(Sources(runs))
    shutil.copytree(folder, runs / "checkpoint-600")
    with pytest.raises(UserError, match=r"give \S+/runs/checkpoint-600, or another of 2$"):
        load_checkpoint(Sources(runs))


def test_keys_of_another_model_are_shown(folder):
    """So many of them are LLaVA's that no prefix is looked for."""
    own = read_folder(folder)
    tensors(**(dict.fromkeys(own) | {key.replace(".layers.", ".blocks."): t for key, t in own.items()}))(folder)
    with pytest.raises(UserError, match=r"layer 0 has neither .*; the first key that is not LLaVA's is 'model.blocks"):
        load_checkpoint(Sources(folder))


def test_a_wider_tower_has_heads_that_no_shape_tells(tmp_path):
    """laion's ViT-H/14 is 1280 wide and has 16 heads of 80."""
    shape = LlavaShape(clip_width=1280, clip_heads=16, clip_mlp=64, clip_blocks=2)
    folder = write_llava(tmp_path / "ckpt", shape)
    assert load_checkpoint(Sources(folder)).config.vision.heads == 16
    own_tower(folder, "clip-vit-huge")
    with pytest.raises(UserError, match="'clip-vit-huge' of width 1280 with 5 positions is not OpenAI's CLIP"):
        load_checkpoint(Sources(folder))


def test_a_tower_elsewhere_can_be_named(folder):
    elsewhere(folder)
    moved = load_checkpoint(Sources(folder, vision=folder.parent / "tower"))
    assert moved.config.vision.blocks == SHAPE.clip_blocks - 1
    assert moved.files[-1].parent == folder.parent / "tower"


def test_options_of_other_families_are_refused(folder):
    with pytest.raises(UserError, match=r"llava checkpoint does not take --weights \(--weights"):
        load_checkpoint(Sources(folder, weights=folder))


def test_what_looks_like_one(folder, tmp_path):
    assert detect(folder).name == "llava"
    for text in ("{", "[]", '{"model_type": "t5"}'):
        (folder / "config.json").write_text(text)
        with pytest.raises(UserError, match="not a checkpoint of a known family"):
            detect(folder)


def test_skip_lists_come_from_the_keys(folder, tmp_path):
    assert load_checkpoint(Sources(folder)).evidence.text == "[0, 2]"
    assert load_checkpoint(Sources(write_llava(tmp_path / "none", LlavaShape()))).evidence.text == "none"
    search = load_checkpoint(Sources(write_llava(tmp_path / "search", LlavaShape(search=True))))
    with pytest.raises(UserError, match=r"does not say .*layers 0, 1, 2, 3 have self_attn and replaced_adapter"):
        choose_plan(4, search.evidence)
    prune(search, choose_plan(4, search.evidence, explicit="1-3"))


def test_a_folder_is_named_however_it_is_given(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert load_checkpoint(Sources(Path("."))).evidence.origin == "the layers with replaced_adapter in ckpt"


def test_another_list_needs_what_fine_tuning_removed(folder):
    checkpoint = load_checkpoint(Sources(folder))
    said = r"lacks model\.layers\.0\.self_attn\.q_proj\.weight, model\.layers\.0\.adapter_attn.*, model\.layers\.2.* --base-weights DIR"
    with pytest.raises(UserError, match=said):
        prune(checkpoint, make_plan(4, "none", "--skip"))
    with pytest.raises(
        UserError, match=r"lacks model\.layers\.1\.replaced_adapter\..*pass --skip 0,2, as it was trained"
    ):
        prune(checkpoint, make_plan(4, "0-2", "--skip"))


def test_the_original_model_has_the_attentions_that_fine_tuning_removed(folder, tmp_path):
    base = write_llava(tmp_path / "base", LlavaShape(), seed=5)
    checkpoint = load_checkpoint(Sources(folder, base_weights=base))
    assert checkpoint.notes == (
        "layers 0, 2, where kept, have the attention of base; adapters before it have no effect",
    )
    assert {base / "config.json", base / "pytorch_model.bin"} < {*checkpoint.files}
    plan = make_plan(4, "none", "--skip")
    kept, theirs = prune(checkpoint, plan).tensors, read_folder(base)
    for i in (0, 2):
        assert torch.equal(
            kept[f"layers.{i}.attention.q.weight"].read(), theirs[f"model.layers.{i}.self_attn.q_proj.weight"]
        )
        assert not any(t.read().any() for name, t in kept.items() if name.startswith(f"layers.{i}.kept_adapter."))
    config(tie_word_embeddings=True)(folder)
    assert load_checkpoint(Sources(folder, base_weights=base)).notes == (HEAD_DIFFERS, *checkpoint.notes)
    same = load_checkpoint(Sources(folder, base_weights=folder.parent / "base"))
    assert same.evidence.text == "[0, 2]"


def test_scale_and_temperature_are_the_published_ones_unless_given(folder):
    published = load_checkpoint(Sources(folder)).config.kept_adapter
    assert (published.scale, published.temperature) == (1.0, 10.0)
    given = load_checkpoint(Sources(folder, adapter_scale=0.5, router_temperature=1.0)).config.skipped_adapter
    assert (given.scale, given.temperature) == (0.5, 1.0)


CONFIG = load_checkpoint(Sources(GOLDEN / "llava" / "a")).config
TOKENIZER = Tokenizer(TINY.checkpoint.tokenizer, 1 << 20)


def test_the_published_prompt_of_scienceqa():
    question = Question(question="Which?", context="Look up.", options=("the sun", "the moon"), image="a.png")
    assert PROMPTS.format(question) == (
        f"{SYSTEM} USER: <image>\nContext: Look up.\nWhich?\nA. the sun\nB. the moon\n"
        "Answer with the option's letter from the given choices directly. ASSISTANT:"
    )
    assert PROMPTS.format(Question(question="Why?")) == f"{SYSTEM} USER: Why? ASSISTANT:"


def test_text_between_images_is_encoded_on_its_own():
    encode = lambda text, images: PROMPTS.encode(CONFIG, TOKENIZER, text, images)
    a, b, c = (TOKENIZER.encode(text) for text in ("one ", " two ", " three"))
    assert encode("one <image> two <image> three", 2) == [TOKENIZER.bos, *a, IMAGE, *b, IMAGE, *c]
    assert encode("three", 1) == [TOKENIZER.bos, IMAGE, *TOKENIZER.encode("\nthree")]
    assert encode("three", 0) == [TOKENIZER.bos, *TOKENIZER.encode("three")]
    with pytest.raises(UserError, match=r"image placeholders in the prompt .*: 1, images given: 0"):
        encode("<image>", 0)


def test_images_take_as_many_tokens_as_they_have_features():
    ids, positions = PROMPTS.place_images(CONFIG, [1, IMAGE, 5, IMAGE, IMAGE, 6], 3)
    assert ids == [1, 0, 0, 0, 0, 5, *[0] * 8, 6]
    assert positions == [1, 2, 3, 4, *range(6, 14)]
    with pytest.raises(UserError, match=r"a prompt with 1 images has 2 image placeholders \(-200\)"):
        PROMPTS.place_images(CONFIG, [IMAGE, IMAGE], 1)


def test_a_row_without_its_image_is_refused():
    arrays = {"input_ids": np.array([[1, 5, 6], [1, IMAGE, 6]])}
    with pytest.raises(UserError, match=r"a prompt with 0 images has 1 image placeholders.*input_ids, row 1"):
        make_inputs(arrays, CONFIG, get_family("llava"), "x.npz")
    with pytest.raises(UserError, match="token id -201 is out of range"):
        make_inputs({"input_ids": np.array([[1, -201]])}, CONFIG, get_family("llava"), "x.npz")


def test_a_prompts_length_counts_the_images_features(tmp_path):
    Image.new("RGB", (9, 5)).save(tmp_path / "a.png")
    question, family = Question(prompt="Hi", image=str(tmp_path / "a.png")), get_family("llava")
    wide = CONFIG.model_copy(update={"vocab_size": TOKENIZER.size})
    length = len(encode_question(question, wide, family, TOKENIZER)) - 1 + wide.vision.tokens
    assert make_prompt(question, wide, family, TOKENIZER, "here").prompt_lengths.tolist() == [length]
    require_short(question, wide, family, TOKENIZER, Limits(max_prompt=length), "here")
    with pytest.raises(UserError, match=f"{length} prompt tokens, the bundle takes {length - 1}"):
        require_short(question, wide, family, TOKENIZER, Limits(max_prompt=length - 1), "here")
    two = Question(prompt="Hi", image=[tmp_path / "a.png"] * 2)
    with pytest.raises(
        UserError, match=r"2 images in a prompt, the bundle takes 1 \(here\): build with --max-images 2"
    ):
        require_short(two, wide, family, TOKENIZER, Limits(), "here")


@pytest.mark.parametrize("square", ["pad", "crop"])
@pytest.mark.parametrize("size", [(40, 23), (17, 33), (14, 14), (101, 100)])
def test_pixels_are_transformers(square, size):
    """CLIPImageProcessor's; "pad" after LLaVA's own padding."""
    from transformers import CLIPImageProcessorPil

    mean, std = CONFIG.vision.image.mean, CONFIG.vision.image.std
    values = np.random.default_rng(sum(size)).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = padded = Image.fromarray(values)
    if square == "pad":
        padded = Image.new("RGB", (max(size),) * 2, tuple(int(x * 255) for x in mean))
        padded.paste(image, (0, (size[0] - size[1]) // 2) if size[0] > size[1] else ((size[1] - size[0]) // 2, 0))
    processor = CLIPImageProcessorPil(size={"shortest_edge": 14}, crop_size=14, image_mean=mean, image_std=std)
    want = processor(padded, return_tensors="np")["pixel_values"][0]
    got = to_pixels(image, 14, ImageConfig(square=square, mean=mean, std=std))
    assert np.abs(got.numpy() - want).max() < 1e-5


@pytest.mark.parametrize(
    "option, value", [("--router-temperature", "0"), ("--router-temperature", "nan"), ("--adapter-scale", "inf")]
)
def test_inspect_takes_no_other_settings_than_build(llava_case, refused, option, value):
    assert option.removeprefix("--").replace("-", "_") in refused("inspect", llava_case.folder, option, value)
