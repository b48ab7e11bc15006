"""Pairs of texts and images: parts of them, batches of them, and answers that do not depend on either."""

import pytest
import torch
from conftest import max_error
from meter_cases import MeterCase

from eas_export.backends.opening import open_runtime
from eas_export.generation.encode import encode
from eas_export.inputs.pairs import make_pairs
from eas_export.networks.cross_encoder.pairs import Pairs, join_pairs


def numbered(texts: int, images: int, index: list[tuple[int, int]], first: int = 0) -> Pairs:
    """Text i is all i, image i too; `index` says which goes with which."""
    ids = torch.arange(first, first + texts)[:, None].expand(texts, 4)
    pixels = torch.arange(first, first + images)[:, None, None, None].expand(images, 3, 2, 2).float()
    text_index, image_index = torch.tensor(index).T
    return Pairs(ids, ids % 2, (pixels, -pixels), text_index, image_index)


def contents(pairs: Pairs) -> list[tuple[int, ...]]:
    """Of each pair: its text, its mask, its images."""
    rows = zip(pairs.text_index.tolist(), pairs.image_index.tolist())
    images = lambda i: (int(each[i, 0, 0, 0]) for each in pairs.pixels)
    return [(int(pairs.text_ids[t, 0]), int(pairs.text_masks[t, 0]), *images(i)) for t, i in rows]


def test_a_part_has_the_texts_and_images_that_are_in_it_once():
    pairs = numbered(5, 3, [(4, 0), (2, 2), (4, 2), (0, 1)])
    part = pairs.part(0, 3)
    assert contents(part) == contents(pairs)[:3] == [(4, 0, 0, 0), (2, 0, 2, -2), (4, 0, 2, -2)]
    assert (len(part), len(part.text_ids), len(part.pixels[0]), len(part.pixels[1])) == (3, 2, 2, 2)
    assert contents(pairs.part(3, 9)) == [(0, 0, 1, -1)]


def test_joined_pairs_are_those_of_each_in_turn():
    batches = [
        numbered(2, 1, [(0, 0), (1, 0)]),
        numbered(1, 3, [(0, 2), (0, 1)], first=10),
        numbered(2, 2, [(1, 1)], first=20),
    ]
    joined = join_pairs(batches)
    assert contents(joined) == [pair for batch in batches for pair in contents(batch)]
    assert (len(joined), len(joined.text_ids), len(joined.pixels[0])) == (5, 5, 6)
    assert contents(join_pairs([joined.part(i, i + 1) for i in range(5)])) == contents(joined)


@pytest.mark.parametrize("name", ["nlvr2_skip10", "irtr_skip10"])
def test_one_by_one_two_at_once_and_in_any_order(meter_bundle_of, name):
    """The graph gives each pair the same answer."""
    case = MeterCase(name)
    runtime = open_runtime(meter_bundle_of(case), "onnxruntime")
    pairs, told = make_pairs(case.arrays, runtime.config, name), []
    rows = len(pairs)
    mixed = join_pairs([pairs.part(row, row + 1) for row in (rows - 1, 0, *range(rows))])
    got = encode(runtime, mixed, told.append)
    assert told == [2] * (len(mixed) // 2) + [1] * (len(mixed) % 2)  # as many as the bundle takes at once
    assert list(got) == [case.head, "cls_feats"]
    for each, value in got.items():
        want = case.golden[each]
        assert value.dtype == torch.float32 and max_error(value, want[[rows - 1, 0, *range(rows)]]) < 1e-4
        alone = torch.cat([encode(runtime, mixed.part(row, row + 1))[each] for row in range(len(mixed))])
        assert max_error(value, alone.numpy()) < 1e-5
