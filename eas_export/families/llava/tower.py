"""LLaVA's vision tower: which of two is built, the checkpoint's own tensors or those of a folder.

Format, from the published training code: config.json's mm_vision_tower is a folder, relative to the checkpoint, or a name on the Hugging Face
Hub. Training saves the tower's tensors with the model's whether or not they were trained (unfreeze_mm_vision_tower). The published code loads
the folder's tower over them, unless they were trained.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from ...checkpoint.hf_clip import (
    ClipVisionConfig,
    Preprocessing,
    guess_config,
    read_preprocessing,
    read_tower,
    towers_differ,
)
from ...checkpoint.hf_files import CONFIG_FILE
from ...checkpoint.hugging_face import left_over, stays_inside
from ...checkpoint.lazy_tensor import LazyTensor
from ...core.errors import UserError
from ...core.record import quoted
from ..contract import Sources
from .files import OWN_TOWER, LlavaConfig

Tensors = dict[str, LazyTensor]
OTHER_TOWERS = ("siglip", "dinov2", "convnext", "internvit")  # in the names of towers that are no CLIP


@dataclass(frozen=True)
class Tower:
    """CLIP's tower: `blocks` of its blocks are run; `where` names it in messages, notes say which of two it is."""

    config: ClipVisionConfig
    preprocessing: Preprocessing
    blocks: int
    tensors: Tensors
    where: str
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def find_tower(config: LlavaConfig, sources: Sources, published: Tensors) -> Tower:
    """The tower of --vision, else of the folder that config.json names inside the checkpoint's, else of the checkpoint's own tensors. Own
    tensors that were trained, or that a folder without weights lacks, get the folder's config and preprocessing.

    Raises UserError where there is none, or its config and preprocessing do not fit. Where there are two and the folder's is built, both
    are read, to note that they differ.
    """
    named = config.mm_vision_tower
    folder = sources.vision or (sources.ckpt / named if named and stays_inside(named) else None)
    if folder != sources.vision and not os.path.isdir(folder):  # a name on the hub
        folder = None
    own = {key.removeprefix(OWN_TOWER): tensor for key, tensor in published.items() if key.startswith(OWN_TOWER)}
    where = str(folder or sources.ckpt)
    if folder is None and not own:
        raise _no_tower(named, sources.ckpt)
    clip, tensors, files = (
        read_tower(folder) if folder else (guess_config(own, named, where, _place(named, sources.ckpt)), {}, ())
    )
    if not tensors and not own:
        raise UserError("the vision tower's folder has no weights", where=where, fix="copy it with all its files")
    preprocessing, file = read_preprocessing(folder) if folder else (Preprocessing(), None)
    if file:
        preprocessing.require_size(clip.image_size, config.square == "pad", file)
    blocks = config.tower_blocks(clip.num_hidden_layers)
    if blocks is None:
        raise UserError(
            f"mm_vision_select_layer is {config.mm_vision_select_layer}, but the tower has {clip.num_hidden_layers} blocks",
            where=sources.ckpt / CONFIG_FILE,
            fix="give the tower that the model was trained with: --vision DIR",
        )
    notes: tuple[str, ...] = ()
    of_folder = left_over(folder) if folder else ()
    if own and config.unfreeze_mm_vision_tower and tensors:
        notes = (f"the vision tower was trained: the checkpoint's own is built, not that of {folder.resolve().name}",)
        tensors, files, where = {}, files[:1], str(sources.ckpt)  # the config stays
    elif own and tensors and towers_differ(own, tensors, blocks):
        notes = (
            f"the vision tower of {folder.resolve().name} is built, not the checkpoint's own ({OWN_TOWER}*), which differs: "
            f"{CONFIG_FILE} does not say that it was trained (unfreeze_mm_vision_tower)",
        )
    return Tower(
        clip, preprocessing, blocks, tensors or own, where, (*files, *([file] if file else ())), (*of_folder, *notes)
    )


def _place(named: str | None, ckpt: Path) -> str:
    """What to pass to --vision: a folder that config.json names, as the published code finds it or from the checkpoint's. A folder outside the
    checkpoint's is never read because a file names it, so the user has to pass it."""
    places = (ckpt / named, Path(named)) if named else ()
    return next((quote(str(path)) for path in places if os.path.isdir(path)), "DIR")


def _no_tower(named: str | None, ckpt: Path) -> UserError:
    place, tower = _place(named, ckpt), quoted(named) if named else "the tower"
    if named and (other := next((kind for kind in OTHER_TOWERS if kind in Path(named).name.lower()), None)):
        what = f"the vision tower is {tower} ({other}): only CLIP's ViT is supported"
        return UserError(what, where=ckpt / CONFIG_FILE, fix="give a model that was trained with a CLIP tower")
    get = f"copy {tower} here" if named and Path(named).is_absolute() else f"download {tower}"
    fix = f"pass --vision {place}" if place != "DIR" else f"{get} and pass --vision DIR"
    found = "is outside its folder" if place != "DIR" else "is not a folder there"
    said = f"names {tower}, which {found}" if named else "names none"
    what = f"the checkpoint contains no vision tower: {CONFIG_FILE} {said}"
    return UserError(what, where=ckpt / CONFIG_FILE, fix=fix)
