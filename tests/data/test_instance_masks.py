"""Masks of objects at their image's own size."""

import numpy as np
from box_records import one_bit
from hypothesis import given, settings
from hypothesis import strategies as st

from tfvt.data.instance_masks import opened, pasted, run_lengths

CORNER = st.floats(-30, 130, width=32)


def grid_sample(image, y, x):
    """torch.nn.functional.grid_sample, bilinear, zeros outside, align_corners=False, on an outer product of places."""
    height, width = image.shape
    y, x = ((y + 1) * height - 1) / 2, ((x + 1) * width - 1) / 2
    found = np.zeros((len(y), len(x)))
    for dy in (0, 1):
        for dx in (0, 1):
            row, column = np.floor(y).astype(int) + dy, np.floor(x).astype(int) + dx
            share = (1 - np.abs(y - row))[:, None] * (1 - np.abs(x - column))[None]
            inside = ((row >= 0) & (row < height))[:, None] & ((column >= 0) & (column < width))[None]
            values = image[np.clip(row, 0, height - 1)][:, np.clip(column, 0, width - 1)]
            found += np.where(inside, values * share, 0)
    return found


def mmdetection_paste(mask, box, size):
    """Detectron2's and mmdetection's _do_paste_mask, on all pixels, in double precision: probabilities."""
    y0, x0, y1, x1 = (float(value) for value in box)
    img_y = (np.arange(size[0]) + 0.5 - y0) / (y1 - y0) * 2 - 1
    img_x = (np.arange(size[1]) + 0.5 - x0) / (x1 - x0) * 2 - 1
    return grid_sample(mask, img_y, img_x)


@settings(max_examples=80, deadline=None)
@given(
    y=st.tuples(CORNER, CORNER),
    x=st.tuples(CORNER, CORNER),
    seed=st.integers(0, 9999),
    side=st.sampled_from([1, 5, 28]),
)
def test_a_mask_is_pasted_as_mmdetection_does(y, x, seed, side):
    (y1, y2), (x1, x2) = sorted(y), sorted(x)
    y2, x2 = max(y2, y1 + 0.5), max(x2, x1 + 0.5)
    mask = np.random.default_rng(seed).uniform(0, 1, (side, side)) ** 0.5
    expected = mmdetection_paste(mask, (y1, x1, y2, x2), (90, 110))
    found = pasted(mask, np.array([y1, x1, y2, x2]), (90, 110))
    clear = np.abs(expected - 0.5) > 1e-5
    np.testing.assert_array_equal(found[clear], expected[clear] >= 0.5)


def test_a_full_mask_fills_its_box():
    found = pasted(np.ones((28, 28), np.float32), np.array([2.0, 3.0, 12.0, 30.0]), (20, 30))
    expected = np.zeros((20, 30), bool)
    expected[2:12, 3:30] = True
    np.testing.assert_array_equal(found, expected)
    assert not pasted(np.ones((28, 28)), np.array([5.0, 40.0, 9.0, 50.0]), (20, 30)).any()


def test_codes_are_those_of_coco():
    from pycocotools import mask

    pixels = np.random.default_rng(0).uniform(size=(13, 17)) > 0.4
    code = run_lengths(pixels)
    assert isinstance(code, bytes)
    np.testing.assert_array_equal(mask.decode({"size": [13, 17], "counts": code}), pixels)


def test_masks_of_records_are_opened():
    pixels = np.random.default_rng(0).uniform(size=(13, 17)) > 0.4
    np.testing.assert_array_equal(opened(one_bit(pixels)), pixels)
