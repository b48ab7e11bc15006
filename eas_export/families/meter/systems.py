"""The published systems on METER's network: METER itself, METER-EAS and METER-DAS, told apart by their keys.

Formats, from the published training code: EAS and DAS keep the scores of a search in the buffers nas_gate and das_gate, and how many are
skipped in skip_num. DAS's files of fine-tuning have scores of zero, and their list in hyper_parameters.config.skip_module, which in its files of
a search is a default that nothing reads.
"""

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...checkpoint.eas_adapter import rank_sizes
from ...checkpoint.keys import KeyTable, require
from ...checkpoint.lazy_tensor import LazyTensor
from ...core.configs.cross_encoder import CrossEncoderConfig
from ...core.errors import UserError
from ...core.plan import SkipEvidence
from .keys import DAS_KEYS, EAS_KEYS

Tensors = Mapping[str, LazyTensor]
_LAYER = "cross_modal_text_layers.0"
DAS_NORM_EPS = 1e-5  # of the norms of its adapters


@dataclass(frozen=True)
class System:
    """marks   patterns of keys that no other system has: each tells
    keys    its rows of the key table, beside those that every METER has
    sizes   (tensors, file) -> the sizes that these rows name; raises UserError
    config  sizes -> the fields of CrossEncoderConfig that it decides
    skips   (tensors, hyper-parameters, config, file) -> the skip list that a file records; raises UserError
    """

    name: str
    marks: tuple[str, ...]
    keys: KeyTable
    sizes: Callable[[Tensors, Path], dict[str, int]]
    config: Callable[[Mapping[str, int]], dict[str, Any]]
    skips: Callable[[Tensors, Mapping[str, Any], CrossEncoderConfig, Path], SkipEvidence]


@dataclass(frozen=True)
class Unpublished:
    """A system that papers compare with, of which neither code nor a checkpoint is published: what it computes is not known.

    marks  patterns of keys that tell
    fix    what can be done
    """

    name: str
    marks: tuple[str, ...]
    fix: str


def find_system(published: Tensors, file: Path) -> tuple[System, str]:
    """The system of a file, and what told. Raises UserError for keys of two systems, and for a system that is not supported."""
    told = [(system, key) for system in (EAS, DAS) if (key := _first(published, system.marks))]
    if len(told) > 1:
        what = " and ".join(f"{key}, which only {system.name} has" for system, key in told)
        raise UserError(
            f"the checkpoint has {what}", where=file, fix="give a checkpoint that was trained as one of them"
        )
    for system, key in told:
        return system, f"the key {key} of {file.name}"
    for other in UNPUBLISHED:
        if key := _first(published, other.marks):
            what = f"the checkpoint is of {other.name} (it has {key}): no code of it is published that says what it computes"
            raise UserError(what, where=file, fix=other.fix)
    return PLAIN, f"what {file.name} lacks: keys of any adapter"


def _first(published: Tensors, marks: tuple[str, ...]) -> str | None:
    return next((key for mark in marks for key in published if fnmatch.fnmatchcase(key, mark)), None)


def _ranks(keys: Mapping[str, str], rank: int) -> Callable[[Tensors, Path], dict[str, int]]:
    """keys: size -> the key of a tensor with `rank` axes, of which it is the first"""
    return lambda published, file: {name: require(published, key, rank, str(file))[0] for name, key in keys.items()}


_eas_ranks = _ranks(
    {"before": f"{_LAYER}.attention.adapter.conv_C.weight", "skipped": f"{_LAYER}.adapter_self_attn.conv_C.weight"}, 3
)


def _eas_config(sizes: Mapping[str, int]) -> dict[str, Any]:
    return {"before_adapter": {"rank": sizes["before"]}, "skipped_adapter": {"rank": sizes["skipped"]}}


def _das_config(sizes: Mapping[str, int]) -> dict[str, Any]:
    adapters = {f"{place}_adapter": sizes[place] for place in ("beside", "behind", "skipped")}
    relu = {"activation": "relu", "norm_eps": DAS_NORM_EPS}
    return {"site": "layer"} | {name: {"rank": rank} | relu for name, rank in adapters.items()}


def _eas_skips(published: Tensors, settings: Mapping[str, Any], config: CrossEncoderConfig, file: Path) -> SkipEvidence:
    return _top("nas_gate", published, config, file) or SkipEvidence(text=None, origin=f"state_dict of {file.name}")


def _das_skips(published: Tensors, settings: Mapping[str, Any], config: CrossEncoderConfig, file: Path) -> SkipEvidence:
    searched = _top("das_gate", published, config, file)
    if searched and published["das_gate"].read().any():
        return searched
    name, listed = "skip_module", settings.get("skip_module")
    if isinstance(listed, list | tuple):
        listed = ",".join(map(str, listed)) or "none"  # fine-tuning writes [] where nothing was skipped
    text = listed if listed is None or isinstance(listed, str) else f"of type {type(listed).__name__}"
    return SkipEvidence(text=text, origin=f"hyper_parameters: {name} of {file.name}")


def _nothing_skipped(
    published: Tensors, settings: Mapping[str, Any], config: CrossEncoderConfig, file: Path
) -> SkipEvidence:
    return SkipEvidence(text="none", origin=f"{file.name}, which has no adapters in place of attentions")


def _top(name: str, published: Tensors, config: CrossEncoderConfig, file: Path) -> SkipEvidence | None:
    """The list of a search: the skip_num sites with the highest scores; None where a file does not have both."""
    if name not in published or "skip_num" not in published:
        return None
    gate, number = published[name], published["skip_num"]
    if gate.shape != (config.sites,) or number.numel != 1:
        raise UserError(
            f"{name} has shape {list(gate.shape)} and skip_num {list(number.shape)}, expected [{config.sites}] and [1]",
            where=file,
            fix="check that the file belongs to this model",
        )
    scores, count = gate.read().float(), float(number.read().float())
    if not torch.isfinite(scores).all() or not 0 <= count <= config.sites:
        what = f"{name} is {scores.tolist()} and skip_num {count}"
        fix = f"give a file with finite scores and 0 to {config.sites} skips, or remove both and pass --skip"
        raise UserError(what, where=file, fix=fix)
    top = scores.sort(descending=True, stable=True).indices[: round(count)].sort().values.tolist()
    return SkipEvidence(text=",".join(map(str, top)) or "none", origin=f"{name} and skip_num of {file.name}")


EAS = System(
    name="METER-EAS",
    marks=("nas_gate", "*.adapter_self_attn.*", "*.adapter.conv_?.*"),
    keys=EAS_KEYS,
    sizes=lambda published, file: rank_sizes(_eas_ranks(published, file), file),
    config=_eas_config,
    skips=_eas_skips,
)
DAS = System(
    name="METER-DAS",
    marks=("das_gate", "adapter_list_[lv].*"),
    keys=DAS_KEYS,
    sizes=_ranks(
        {
            "beside": f"{_LAYER}.attention.output.adapter.down_proj.weight",
            "behind": f"{_LAYER}.adapter.down_proj.weight",
            "skipped": "adapter_list_l.0.0.down_proj.weight",
        },
        2,
    ),
    config=_das_config,
    skips=_das_skips,
)
PLAIN = System(
    name="METER",
    marks=(),
    keys={},
    sizes=lambda published, file: {},
    config=lambda sizes: {"classifier_token": False},
    skips=_nothing_skipped,
)
AS_PLAIN = "give a METER that was fine-tuned as a whole or in its classifier alone, METER-EAS or METER-DAS"
UNPUBLISHED = (
    Unpublished(
        "METER with LoRA",
        ("*.lora_*",),
        "add each product, scaled as in training, to the weight that it belongs to: the result is a plain METER, which is supported",
    ),
    Unpublished("METER with prompts", ("*prompt*",), AS_PLAIN),
    Unpublished("METER with bottleneck adapters (Adapter, Scaled PA)", ("*adapter*",), AS_PLAIN),
)
