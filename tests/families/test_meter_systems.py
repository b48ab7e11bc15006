"""Plain METER, METER-EAS and METER-DAS are told apart by their keys, and each says by itself what is skipped; others are refused by name."""

from pathlib import Path

import pytest
import torch
from meter_cases import EVERY_CASE, PLAIN_CASES, MeterCase

from eas_export.core.configs.cross_encoder import Attention, CrossEncoderConfig
from eas_export.core.errors import UserError
from eas_export.core.plan import choose_plan
from eas_export.families import load_checkpoint
from eas_export.families.contract import Sources

PLAIN, DAS, SEARCHED = (
    MeterCase(f"comparators/{name}") for name in ("meter/vqa_full", "meter-das/vqa_train", "meter-das/irtr_search")
)


def load(file: Path, case: MeterCase = DAS, **options):
    return load_checkpoint(Sources(file, text_heads=case.text_heads, **options))


@pytest.mark.parametrize("name", [name for name in EVERY_CASE if name.startswith("comparators")])
def test_a_file_says_what_it_is_and_what_is_skipped(name):
    case = MeterCase(name)
    checkpoint = load(case.file, case)
    config, sizes = checkpoint.config, case.meta["sizes"]
    assert checkpoint.system == case.system
    ranks = [each and each.rank for each in (config.beside_adapter, config.behind_adapter, config.skipped_adapter)]
    assert ranks == [sizes["adapter"], sizes["adapter"], sizes["layer_adapter"]] and config.before_adapter is None
    if name in PLAIN_CASES:
        assert checkpoint.known_by == "what last.ckpt lacks: keys of any adapter"
        assert (config.site, config.classifier_token, config.has_adapters) == ("attention", False, False)
    else:
        assert checkpoint.known_by == "the key das_gate of last.ckpt"
        assert (config.site, config.classifier_token, config.sites) == ("layer", True, 12)
        assert (config.skipped_adapter.activation, config.skipped_adapter.norm_eps) == ("relu", 1e-5)
    assert choose_plan(config.sites, checkpoint.evidence).skipped == tuple(sorted(case.skip))
    assert type(config).model_validate_json(config.model_dump_json()) == config


def test_a_layer_has_both_its_attentions():
    config = load(DAS.file).config
    parts = ("attention", "cross_attention")
    assert config.attentions([4]) == {Attention("text", part, 4) for part in parts}
    assert config.attentions([6, 11]) == {Attention("image", part, layer) for part in parts for layer in (0, 5)}
    assert config.attentions(range(12)) == set(config.every_attention())


def test_a_manifest_of_an_older_version_has_two_ranks():
    """As bundles of METER-EAS up to 0.10.0 have them."""
    config = load(MeterCase("vqa_skip10").file, MeterCase("vqa_skip10")).config
    new = {"site", "classifier_token", *(f"{place}_adapter" for place in ("before", "beside", "behind", "skipped"))}
    older = {"adapter_rank": config.before_adapter.rank, "skipped_rank": config.skipped_adapter.rank}
    assert CrossEncoderConfig(**config.model_dump(exclude=new), **older) == config


def changed(tmp_path: Path, case: MeterCase, change) -> Path:
    """The case's file after `change(state dict, hyper_parameters.config)`."""
    saved = torch.load(case.file, weights_only=True)
    change(saved["state_dict"], saved["hyper_parameters"]["config"])
    torch.save(saved, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def put(**values):
    return lambda state, config: state.update({key.replace("__", "."): value for key, value in values.items()})


def drop(*keys):
    return lambda state, config: [part.pop(key, None) for part in (state, config) for key in keys]


def say(value):
    return lambda state, config: config.update(skip_module=value)


LISTS = [  # change -> the list, or what is said of it
    (say((9, 1)), (1, 9)),
    (drop("das_gate", "skip_num"), (1, 4, 6, 9)),  # adapter_list_* tells
    (put(das_gate=torch.arange(12.0), skip_num=torch.tensor([2.4])), (10, 11)),
    (put(das_gate=torch.arange(12.0), skip_num=torch.tensor([0.0])), ()),
    (drop("skip_module"), "the checkpoint does not say which layers are skipped"),
    (say([3, 12]), "12 is out of range: the model has layers 0-11"),
    (say([3, 3]), "names index 3 twice"),
    (say(["a"]), "invalid part 'a'"),
    (say(4), "invalid part 'of type int'"),
]


@pytest.mark.parametrize("change, said", LISTS, ids=lambda each: each if isinstance(each, str) else "")
def test_the_list_of_das(tmp_path, change, said):
    checkpoint = load(changed(tmp_path, DAS, change))
    if isinstance(said, tuple):
        assert choose_plan(12, checkpoint.evidence, site="layer").skipped == said
    else:
        with pytest.raises(UserError, match=said) as raised:
            choose_plan(12, checkpoint.evidence, site=checkpoint.config.site)
        assert "skip_module of last.ckpt" in raised.value.where and raised.value.fix.startswith("pass --skip")
        assert choose_plan(12, checkpoint.evidence, explicit="2").skipped == (2,)


ADAPTER = "cross_modal_text_layers__2__output__adapter__down_proj__weight"
LORA = "cross_modal_text_layers__2__attention__self__query__lora_A__weight"
REFUSED = [
    (DAS, put(nas_gate=torch.zeros(24)), "nas_gate, which only METER-EAS has and das_gate, which only METER-DAS has"),
    (DAS, put(das_gate=torch.zeros(24)), r"das_gate has shape \[24\] and skip_num \[1\], expected \[12\]"),
    (SEARCHED, put(skip_num=torch.tensor([13.0])), "and skip_num 13.0"),
    (SEARCHED, put(das_gate=torch.full((12,), float("nan"))), "das_gate is .*nan"),
    (DAS, drop("token4classifier"), "missing key token4classifier"),
    (DAS, drop("adapter_list_v.3.0.up_proj.bias"), r"missing key adapter_list_v\.3\.0\.up_proj\.bias"),
    (DAS, put(adapter_list_l__6__0__up_proj__bias=torch.zeros(32)), r"unknown key 'adapter_list_l\.6\.0\.up_proj"),
    (PLAIN, put(token4classifier=torch.zeros(1, 1, 32)), "unknown key 'token4classifier'"),
    (PLAIN, put(**{LORA: torch.zeros(4, 32)}), "METER with LoRA .*the result is a plain METER"),
    (PLAIN, put(prompt_embeddings=torch.zeros(12, 200, 32)), "METER with prompts .*no code of it is published"),
    (PLAIN, put(**{ADAPTER: torch.zeros(4, 32)}), r"METER with bottleneck adapters \(Adapter, Scaled PA\)"),
]


@pytest.mark.parametrize("case, change, said", REFUSED, ids=lambda each: each if isinstance(each, str) else "")
def test_what_does_not_fit_is_refused(tmp_path, case, change, said):
    with pytest.raises(UserError, match=said) as raised:
        load(changed(tmp_path, case, change))
    assert "last.ckpt" in raised.value.where and raised.value.fix


@pytest.mark.parametrize("case", [PLAIN, DAS], ids=["METER", "METER-DAS"])
def test_only_eas_has_indices_that_are_read_in_two_ways(case, refused):
    said = refused("inspect", case.file, "--text-heads", case.text_heads, "--image-cross-reading", "paper")
    assert f"{case.system} has no indices of attentions that could be read in two ways" in said
    load(case.file, case, image_cross_reading="published")


def test_nothing_can_be_skipped_of_a_plain_meter(tmp_path, refused):
    said = refused("build", "--ckpt", PLAIN.file, "--text-heads", 2, "--out", tmp_path / "b", "--skip", 3)
    assert "lacks text_layers.3.skipped_attention_adapter.*, which this skip list needs" in said


def test_another_list_has_adapters_that_nobody_trained(command):
    _, text, _ = command("inspect", DAS.file, "--text-heads", 2, "--skip", "1,2")
    assert "note: adapters in layers that training skipped are untrained: 4, 6, 9" in text
    assert "note: adapters replacing layers that training kept are untrained: 2" in text


def test_inspect_says_what_a_layer_is_replaced_by(command):
    code, text, _ = command("inspect", DAS.file, "--text-heads", 2)
    assert code == 0 and "METER-DAS, known by the key das_gate of last.ckpt" in text
    for row in (
        "rank 4 beside each kept attention (relu, norm)",
        "rank 4 behind each kept feed-forward network (relu, norm)",
        "rank 12 in place of each skipped layer (relu, norm)",
        "adapters of skipped layers",
        "4 of 12: 1, 4, 6, 9  (from hyper_parameters: skip_module of last.ckpt)",
    ):
        assert row in text, row
    assert "layer skipped" in text and "layer kept" in text
    assert "sites 18-23" not in text and "adapters that fold" not in text
    code, text, _ = command("inspect", PLAIN.file, "--text-heads", 2)
    assert code == 0 and "system: METER, known by what last.ckpt lacks: keys of any adapter" in text
    assert "adapters of" not in text
