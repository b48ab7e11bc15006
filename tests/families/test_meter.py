"""METER's checkpoints: what is read from the file, what must be given, and what is refused."""

import argparse
import json
import sys
import types
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from meter_cases import MeterCase, opened
from synthetic_meter import MeterShape, meter_shapes

from eas_export.build.recipe import resolve
from eas_export.core.configs.cross_encoder import Attention
from eas_export.core.errors import UserError
from eas_export.core.plan import SkipEvidence, choose_plan, disagreement, make_plan
from eas_export.families import detect, get_family, load_checkpoint
from eas_export.families.contract import Sources
from eas_export.families.meter import METER
from eas_export.families.numbers import Number, settle
from eas_export.networks.prune import prune

CASE = MeterCase("vqa_skip10")
RECIPES = Path(__file__).parents[2] / "recipes"


def changed(tmp_path: Path, change) -> Path:
    """A golden case's file after `change(state dict, hyper_parameters.config)`."""
    saved = torch.load(CASE.file, weights_only=True)
    change(saved["state_dict"], saved["hyper_parameters"]["config"])
    torch.save(saved, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def load(file: Path, **options):
    return load_checkpoint(Sources(file, **({"text_heads": 4} | options)))


def test_what_a_file_says(tmp_path):
    config = load(CASE.file).config
    sizes = CASE.meta["sizes"]
    assert (config.family, config.kind, config.task) == ("meter", "cross-encoder", "vqa")
    assert (config.dim, config.heads, config.layers, config.sites) == (sizes["hidden"], sizes["heads"], 6, 24)
    ranks = (config.before_adapter.rank, config.skipped_adapter.rank)
    assert ranks == (sizes["ffn_adapter_dim"], sizes["attn_adapter_dim"])
    assert (config.text_length, config.answers) == (sizes["text_len"], 31)
    assert (config.image.image_size, config.image.blocks, config.image.heads) == (32, sizes["vit_blocks"], 1)
    assert (config.text.layers, config.text.vocab_size) == (sizes["text_layers"], sizes["vocab"])
    assert type(config).model_validate_json(config.model_dump_json()) == config
    assert detect(CASE.file.parent) is get_family("meter")  # a folder with one file


PUBLISHED = {"vqa": ("vqa2", 3129, 50), "nlvr2": ("nlvr2", 2, 50), "retrieval": ("flickr30k", 1, 40)}


@pytest.mark.parametrize("task", PUBLISHED)
def test_the_published_sizes_need_no_option(monkeypatch, task):
    """Of RoBERTa base, and of a file that records nothing beside a recipe; no tensor is read."""
    from eas_export.checkpoint.lazy_tensor import LazyTensor

    def unread():
        raise AssertionError("a tensor was read")

    recipe, answers, length = PUBLISHED[task]
    shapes = meter_shapes(MeterShape(task=task, answers=answers))
    tensors = {key: LazyTensor(size, torch.float32, key, unread) for key, size in shapes.items()}
    settings = {"num_heads": 12, "max_text_len": length}
    monkeypatch.setattr(
        sys.modules["eas_export.families.meter.load"], "read_lightning", lambda file, table: (tensors, settings)
    )
    config = METER.load(Sources(CASE.file)).config
    assert (config.text.heads, config.answers, config.task, config.image_tokens) == (12, answers, task, 577)
    assert (config.heads, config.text_length) == (12, length)
    given = resolve(RECIPES / f"meter-{recipe}.yaml", {}).options.settings
    assert METER.load(Sources(CASE.file, **given)).config == config
    settings.clear()
    assert METER.load(Sources(CASE.file, **given)).config == config


def test_inspect_says_which_system_it_is_first(command):
    _, text, _ = command("inspect", CASE.file, "--text-heads", 4)
    first, second, *_ = text.splitlines()
    assert first == f"{CASE.file}: checkpoint, meter"
    told = "the key cross_modal_image_layers.0.adapter_self_attn.conv_A.weight of last.ckpt"
    assert second == f"system: METER-EAS, known by {told}"
    said = json.loads(command("inspect", CASE.file, "--text-heads", 4, "--json")[1])
    assert (said["system"], said["known_by"]) == ("METER-EAS", told)


def test_every_tensor_of_the_network_is_there_and_no_other():
    checkpoint = load(CASE.file)
    plan = make_plan(24, ",".join(map(str, CASE.skip)), "--skip")
    pruned = prune(checkpoint, plan)
    for each in checkpoint.config.attentions(plan.skipped):
        place = f"{each.stream}_layers.{each.layer}."
        assert not [name for name in pruned.tensors if name.startswith(f"{place}{each.part}.")]
        assert [name for name in pruned.tensors if name.startswith(f"{place}skipped_{each.part}_adapter.")]
    kept = [name for name in pruned.tensors if ".q.weight" in name and not name.startswith("text.")]
    assert len(kept) == 24 - 9
    assert not [name for name in checkpoint.tensors if "conv_" in name or name.endswith((".D", ".d", ".E", ".e"))]


def test_files_of_the_search_say_what_is_skipped(tmp_path):
    gate = torch.randn(24, generator=torch.Generator().manual_seed(1))

    def search(number):
        return lambda state, config: state.update(nas_gate=gate, skip_num=torch.tensor([number]))

    evidence = load(changed(tmp_path, search(9.7))).evidence
    assert choose_plan(24, evidence).skipped == tuple(sorted(gate.topk(10).indices.tolist()))
    assert "nas_gate and skip_num of last.ckpt" in evidence.origin
    assert choose_plan(24, load(changed(tmp_path, search(0.0))).evidence).skipped == ()
    assert len(choose_plan(24, load(changed(tmp_path, search(24.0))).evidence).skipped) == 24


def test_other_files_say_nothing(tmp_path):
    assert (
        load(changed(tmp_path, put("nas_gate", torch.ones(24)))).evidence.text is None
    )  # half of what a search leaves
    evidence = load(CASE.file).evidence
    with pytest.raises(UserError, match="does not say which attentions are skipped"):
        choose_plan(24, evidence)
    assert choose_plan(24, evidence, explicit="0,23").skipped == (0, 23)


def drop(key):
    return lambda state, config: state.pop(key)


def put(key, value):
    return lambda state, config: state.update({key: value})


def say(name, value):
    return lambda state, config: config.update({name: value})


def rename_head(state, config):
    for key in [key for key in state if key.startswith("vqa_classifier")]:
        state.pop(key)


def odd_rank(state, config):
    for key in [key for key in state if "adapter_self_attn.conv_C" in key]:
        state[key] = state[key][:11]


CROSS = "cross_modal_image_layers.2."


REFUSED = [
    (
        drop(CROSS + "crossattention.self.key.bias"),
        r"missing key cross_modal_image_layers\.2\.crossattention\.self\.key\.bias",
    ),
    (drop(CROSS + "adapter_cross_attn.conv_A.weight"), r"missing key .*adapter_cross_attn\.conv_A\.weight"),
    (drop("vit_model.visual.ln_post.weight"), r"missing key vit_model\.visual\.ln_post\.weight"),
    (drop("token4classifier"), "missing key token4classifier"),
    (drop("text_transformer.embeddings.word_embeddings.weight"), "missing key text_transformer"),
    (
        put("cross_modal_text_layers.0.attention.adapter.conv_E.weight", torch.ones(2)),
        "unknown key 'cross_modal_text_layers",
    ),
    (put("text_transformer.lm_head.weight", torch.ones(2)), r"unknown key 'text_transformer\.lm_head"),
    (put("vit_model.extra", torch.ones(2)), r"unknown key 'vit_model\.extra"),
    (put("snli_classifier.0.weight", torch.ones(2)), "unknown key 'snli_classifier"),
    (put("cross_modal_text_layers.6.output.dense.bias", torch.ones(48)), r"missing key cross_modal_text_layers\.6"),
    (put(CROSS + "intermediate.dense.weight", torch.ones(90, 48)), r"has shape \[90, 48\], expected \[96, 48\]"),
    (put("token_type_embeddings.weight", torch.ones(3, 48)), r"has shape \[3, 48\], expected \[2, 48\]"),
    (put("vit_model.visual.positional_embedding", torch.ones(18, 64)), "18 positions do not fit METER"),
    (put("rank_output.weight", torch.ones(1, 96)), "heads for vqa and retrieval"),
    (rename_head, "no task head"),
    (odd_rank, "rank 11, which is not a multiple of 2 groups"),
    (say("max_text_len", 23), "max_text_len is 23, but RoBERTa's position table has room for 22"),
    (say("max_text_len", None), r"does not record how long its texts were padded \(last.ckpt|--text-length N"),
    (say("max_text_len", "10"), "max_text_len is not an integer"),
    (say("tokenizer", "bert-base-uncased"), "tokenizer is 'bert-base-uncased': only RoBERTa"),
    (say("tokenizer", 3), "tokenizer is of type int"),
    (say("image_size", 40), "image_size is 40, but the tensors are those of 32"),
    (say("num_top_layer", 3), "num_top_layer is 3, but the tensors are those of 6"),
    (say("num_heads", 5), "num_heads is 5, which does not divide the width 48"),
]


@pytest.mark.parametrize("change, said", REFUSED, ids=[said for _, said in REFUSED])
def test_what_does_not_fit_is_refused(tmp_path, change, said):
    file = changed(tmp_path, change)
    with pytest.raises(UserError, match=said) as caught:
        load(file)
    assert "last.ckpt" in caught.value.where and caught.value.fix


@pytest.mark.parametrize(
    "gate, number", [(torch.ones(12), 3.0), (torch.full((24,), float("nan")), 3.0), (torch.ones(24), 25.0)]
)
def test_a_gate_that_does_not_fit_is_refused(tmp_path, gate, number):
    change = lambda state, config: state.update(nas_gate=gate, skip_num=torch.tensor([number]))
    with pytest.raises(UserError, match="nas_gate"):
        load(changed(tmp_path, change))


def test_heads_that_no_file_tells_must_be_given():
    with pytest.raises(UserError, match=r"how many heads its text encoder of width 48 has .*--text-heads N"):
        load(CASE.file, text_heads=None)
    with pytest.raises(UserError, match="--text-heads is 7, which does not divide the width 48"):
        load(CASE.file, text_heads=7)


class Omega:
    """OmegaConf's DictConfig and nodes as they are pickled: by class and attributes, with metadata of further classes and the parent."""

    def __init__(self, monkeypatch):
        self.classes = {}
        names = {"omegaconf.dictconfig": ["DictConfig"], "omegaconf.base": ["ContainerMetadata", "Metadata"]}
        names["omegaconf.nodes"] = ["AnyNode", "IntegerNode", "StringNode", "FloatNode"]
        for module in ("omegaconf", *names):
            monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
            for name in names.get(module, ()):
                self.classes[name] = type(name, (), {"__module__": module})
                setattr(sys.modules[module], name, self.classes[name])

    def make(self, name: str, **state):
        made = self.classes[name]()
        vars(made).update(state)
        return made

    def config(self, values: dict, parent=None):
        cache = defaultdict(dict)
        about = self.make("ContainerMetadata", ref_type=Any, object_type=dict, key_type=Any, resolver_cache=cache)
        config = self.make("DictConfig", _metadata=about, _parent=parent, _content={})
        kinds = {int: "IntegerNode", str: "StringNode", float: "FloatNode"}
        for key, value in values.items():
            kind = "AnyNode" if key == "num_heads" else kinds.get(type(value), "AnyNode")
            node = self.make(kind, _metadata=self.make("Metadata", key=key), _parent=config, _val=value)
            config._content[key] = self.config(value, config) if isinstance(value, dict) else node
        return config


class ReadOnlyDict(dict):
    """Sacred's."""


FORMS = {  # of hyper_parameters
    "flat": lambda said, omega: said,
    "a Namespace": lambda said, omega: argparse.Namespace(**said),
    "a Namespace as config": lambda said, omega: {"config": argparse.Namespace(**said)},
    "sacred's": lambda said, omega: {"config": ReadOnlyDict(said, loss_names=ReadOnlyDict(vqa=1))},
    "OmegaConf": lambda said, omega: omega.config(said),
    "OmegaConf as config": lambda said, omega: {"config": omega.config(said)},
    "OmegaConf with config": lambda said, omega: omega.config({"config": said, "seed": 1}),
    "a config before others": lambda said, omega: said | {"max_text_len": 3, "config": said},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_hyper_parameters_is_read(form, tmp_path, monkeypatch):
    saved = torch.load(CASE.file, weights_only=True)
    saved["hyper_parameters"] = FORMS[form](saved["hyper_parameters"]["config"], Omega(monkeypatch))
    saved["hparams_type"] = type(saved["hyper_parameters"])
    monkeypatch.setattr(ReadOnlyDict, "__module__", "sacred.config.custom_containers")
    sacred = types.ModuleType("sacred.config.custom_containers")
    sacred.ReadOnlyDict = ReadOnlyDict
    for name in ("sacred", "sacred.config", "sacred.config.custom_containers"):
        monkeypatch.setitem(sys.modules, name, sacred)
    torch.save(saved, tmp_path / "last.ckpt")
    monkeypatch.undo()
    assert "omegaconf" not in sys.modules and "sacred" not in sys.modules
    assert load(tmp_path / "last.ckpt").config == load(CASE.file).config


def without(*names: str):
    return lambda state, config: [config.pop(name) for name in names]


def test_all_that_is_missing_is_named_at_once(tmp_path):
    file = changed(tmp_path, without("max_text_len", "num_heads"))
    with pytest.raises(UserError) as raised:
        load(file, text_heads=None)
    assert str(raised.value) == (
        "the checkpoint does not record how long its texts were padded, how many heads its cross-modal layers have and how many heads its "
        f"text encoder of width 48 has ({file}): pass --text-length N (VQA and NLVR2: 50, retrieval: 40), --cross-heads N (published: 12) and "
        "--text-heads N (RoBERTa base: 12, large: 16)"
    )
    given = {"text_length": 10, "cross_heads": 4}
    assert load(file, **given).config == load(CASE.file).config == load(CASE.file, **given).config
    assert load(changed(tmp_path, say("num_heads", "4")), cross_heads=4).config == load(CASE.file).config


GIVEN = [
    (dict(text_length=9), r"text_length is 9, but in the checkpoint max_text_len is 10 .*pass --text-length 10"),
    (
        dict(text_length=50, cross_heads=12),
        r"text_length is 50 and cross_heads is 12, but in the checkpoint max_text_len is 10 and num_heads is 4 "
        r".*pass --text-length 10 and --cross-heads 4",
    ),
]


@pytest.mark.parametrize("given, said", GIVEN, ids=str)
def test_options_do_not_contradict_the_file(given, said, tmp_path):
    with pytest.raises(UserError, match=said):
        load(CASE.file, **given)


def test_options_must_fit_the_tensors(tmp_path):
    file = changed(tmp_path, without("max_text_len", "num_heads"))
    with pytest.raises(UserError, match="--text-length is 23, but RoBERTa's position table has room for 22 tokens"):
        load(file, text_length=23, cross_heads=4)
    with pytest.raises(UserError, match="--cross-heads is 7, which does not divide the width 48"):
        load(file, text_length=10, cross_heads=7)


def test_bert_is_known_by_its_token_types(tmp_path):
    """Where no tokenizer is named: its tensors have the names that RoBERTa's have."""

    def bert(state, config):
        config.pop("tokenizer")
        key = "text_transformer.embeddings.token_type_embeddings.weight"
        state[key] = state[key].repeat(2, 1)

    with pytest.raises(UserError, match="the text encoder has 2 token types, as BERT has: only RoBERTa"):
        load(changed(tmp_path, bert))
    assert load(changed(tmp_path, without("tokenizer"))).config == load(CASE.file).config


def test_a_folder_has_one_checkpoint(tmp_path):
    for name in ("epoch=1.ckpt", "last.ckpt"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"the folder has 2 files that match \*\.ckpt \(epoch=1\.ckpt, last\.ckpt\)"):
        load(tmp_path)
    with pytest.raises(UserError, match="not a checkpoint of a known family"):
        detect(CASE.file.parent / "golden.npz")


def test_sites_are_attentions_and_what_is_said_of_them():
    published = load(CASE.file).config
    paper = load(CASE.file, image_cross_reading="paper").config
    assert published.attentions([4]) == {Attention("text", "attention", 4)}
    assert published.attentions([11]) == {Attention("text", "cross_attention", 5)}
    assert published.attentions([12]) == published.attentions([18]) == {Attention("image", "attention", 0)}
    assert paper.attentions([23]) == {Attention("image", "cross_attention", 5)}
    assert len(published.attentions(range(24))) == 18 and len(paper.attentions(range(24))) == 24
    assert published.notes([0, 17]) == paper.notes([0, 17]) == ()
    (note,) = published.notes([12, 18, 23])
    assert note.endswith("self-attentions [12, 17], as published; [18] are the same attentions as [12]")
    assert "read as the image stream's cross-attentions" in paper.notes([18])[0]
    assert published.structure() != paper.structure()


def test_two_indices_of_one_attention_are_one():
    """Read as published, 18 is 12 once more: who skips either has what who skips both was trained with."""
    config = opened(CASE.file, [12], 4)[0].config
    both = SkipEvidence(text="12,18", origin="nas_gate")
    plan = make_plan(config.sites, "12", "--skip")
    assert disagreement(plan, both, config.attentions) == ()
    assert disagreement(make_plan(config.sites, "13", "--skip"), both, config.attentions) != ()
    paper = config.model_copy(update={"image_cross_reading": "paper"})
    assert "that training skipped are untrained: 18" in disagreement(plan, both, paper.attentions)[1]


def test_too_many_layers_are_no_bug_of_ours(tmp_path, refused):
    file = changed(tmp_path, lambda state, _: state.update({"cross_modal_text_layers.300.x": torch.zeros(1)}))
    assert "layers is 301" in refused("inspect", file, "--text-heads", 4)
    assert "text_heads" in refused("inspect", CASE.file, "--text-heads", -3)


@pytest.mark.parametrize(
    "said, transform",
    [
        (["clip"], "clip"),
        (("pixelbert",), "pixelbert"),
        (["clip", "clip_randaug"], "clip, clip_randaug"),
        ([], ""),
        ([7], "7"),
        (None, "clip"),
        ({}, "clip"),
    ],
)
def test_the_image_transform_is_what_the_file_says(said, transform, tmp_path):
    change = lambda state, config: config.update(val_transform_keys=said)
    assert load(changed(tmp_path, change)).config.image_transform == transform


def test_a_number_that_no_file_records_is_not_looked_for_under_no_name():
    names = {"text_heads": Number("how many heads it has", "published: 12")}
    assert settle(names, {None: 8}, Sources(Path("x")), Path("x"), text_heads=12) == {"text_heads": 12}
