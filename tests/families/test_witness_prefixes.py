"""Transformers' models read the same numbers from files with prefixes, wrappers and entries as from the published ones."""

import shutil
from pathlib import Path

import pytest
import torch
from test_prefixes import FORMS, LAVIN, LLAVA, METER, behind, llava, rewrite

from eas_export.core.errors import UserError
from eas_export.families import get_family
from eas_export.families.contract import Sources
from eas_export.families.witnesses import Witnessed

IDS = torch.tensor([[1, 5, 9, 7, 3]])
WRAPPED, _, _ = FORMS["inside and before"]


def same(one: Witnessed, other: Witnessed) -> bool:
    pairs = [(part, other.blocks[key]) for key, part in one.blocks.items()]
    pairs += [(output, other.outputs[stage]) for stage, output in one.outputs.items()]
    return one.blocks.keys() == other.blocks.keys() and all(torch.equal(*pair) for pair in pairs)


def text_and_image(folder: Path, pixels: torch.Tensor | None) -> Witnessed:
    """What the witness of a decoder computes; an image has 4 features or takes no tokens."""
    witness = get_family("lavin" if pixels is None else "llava").witness(Sources(folder))
    index = torch.full_like(IDS, -1)
    if pixels is not None:
        index[0, 1:3] = torch.tensor([0, 1])
    return witness.read(IDS, torch.arange(5)[None], index, pixels)


def test_lavin(tmp_path):
    folder = shutil.copytree(LAVIN, tmp_path / "data")
    for shard, entry in zip(sorted(folder.glob("weights/*/*.pth")), (None, "model")):
        rewrite(shard, WRAPPED, entry)
    assert same(text_and_image(LAVIN, None), text_and_image(folder, None))


@pytest.mark.parametrize("form", ["model.", "inside and before"])
def test_llava(form, tmp_path):
    model, tower, _ = FORMS[form]
    pixels = torch.randn(1, 3, 14, 14, generator=torch.Generator().manual_seed(1))
    assert same(text_and_image(LLAVA, pixels), text_and_image(llava(tmp_path / "data", model, tower), pixels))


def test_an_entry_of_a_hugging_face_file_is_not_found_by_transformers(tmp_path):
    folder = shutil.copytree(LLAVA, tmp_path / "data")
    for file in folder.glob("*.bin"):
        rewrite(file, behind(""), "state_dict")
    with pytest.raises(UserError, match=r"transformers finds no tensor for .* with no tensors inside an entry"):
        text_and_image(folder, torch.zeros(1, 3, 14, 14))


def test_meter(tmp_path):
    file = Path(shutil.copy(METER.file, tmp_path / "last.ckpt"))
    rewrite(file, WRAPPED, "model", "state_dict")
    inputs = [torch.from_numpy(METER.arrays[name][:1]) for name in ("text_ids", "text_masks", "pixel_values")]
    given = {"text_heads": METER.text_heads}
    one, other = (get_family("meter").witness(Sources(path, **given)).read(*inputs) for path in (METER.file, file))
    assert same(one, other)
