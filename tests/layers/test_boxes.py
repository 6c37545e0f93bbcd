"""Boxes against NumPy, box by box."""

import math

import numpy as np
import pytest
from hypothesis import given, settings

from tests.layers.box_sets import arrays_of, box_sets, iou, on_arrays
from tfvt.layers.boxes import assign_boxes, box_iou, clip_boxes, decode_boxes, encode_boxes


def random_boxes(shape, seed=0, side=100):
    corners = np.random.default_rng(seed).uniform(0, side, (*shape, 2, 2)).astype("float32")
    return np.sort(corners, axis=-2).reshape(*shape, 4)


@settings(max_examples=25, deadline=None)
@given(box_sets((2, 3)), box_sets((2, 4)))
def test_overlaps(a, b):
    expected = [[[iou(x, y) for y in others] for x in boxes] for boxes, others in zip(a, b, strict=True)]
    np.testing.assert_allclose(on_arrays(box_iou)(a, b), expected, rtol=1e-6)


def test_deltas_against_numbers_by_hand():
    """Half an anchor down, a quarter to the left, twice as high, as wide."""
    anchor = np.array([[10, 20, 30, 60]], "float32")  # centre (20, 40), 20 x 40
    box = np.array([[10, 10, 50, 50]], "float32")  # centre (30, 30), 40 x 40
    std = (0.1, 0.1, 0.2, 0.5)
    np.testing.assert_allclose(on_arrays(encode_boxes)(box, anchor), [[0.5, -0.25, math.log(2), 0]], atol=1e-6)
    expected = [[5, -2.5, 5 * math.log(2), 0]]
    np.testing.assert_allclose(on_arrays(encode_boxes, std=std)(box, anchor), expected, atol=1e-5)
    np.testing.assert_allclose(on_arrays(decode_boxes, std=std)(np.array(expected, "float32"), anchor), box, atol=1e-4)


def test_boxes_survive_their_code():
    """Also those without sides, and against anchors without: nothing infinite enters a loss."""
    boxes, anchors = random_boxes((3, 50)), random_boxes((3, 50), seed=1) + np.array([0, 0, 8, 8], "float32")
    boxes += np.array([0, 0, 8, 8], "float32")
    std = (0.1, 0.1, 0.2, 0.2)
    deltas = on_arrays(encode_boxes, std=std)(boxes, anchors)
    np.testing.assert_allclose(on_arrays(decode_boxes, std=std)(deltas, anchors), boxes, atol=1e-3)
    flat = np.full((3, 50, 4), 7, "float32")
    for pair in ((flat, anchors), (boxes, flat), (flat, flat)):
        assert np.isfinite(on_arrays(encode_boxes)(*pair)).all()


def test_decoded_sides_are_limited():
    anchor = np.array([[0, 0, 16, 16]], "float32")
    for delta, side in ((50, 1000), (-50, 16 * 16 / 1000)):
        box = on_arrays(decode_boxes)(np.array([[0, 0, delta, delta]], "float32"), anchor)
        np.testing.assert_allclose(box[0, 2:] - box[0, :2], [side, side], rtol=1e-4)


def test_boxes_are_cut_at_the_image():
    boxes = np.array([[[-5, 3, 40, 90], [60, 2, 70, 4]], [[0, 0, 10, 10], [-9, -9, -1, -1]]], "float32")
    sizes = np.array([[50, 80], [8, 20]], "int32")
    expected = [[[0, 3, 40, 80], [50, 2, 50, 4]], [[0, 0, 8, 10], [0, 0, 0, 0]]]
    np.testing.assert_array_equal(on_arrays(clip_boxes)(boxes, sizes), expected)
    by_class = on_arrays(clip_boxes)(boxes[:, :, None], sizes)
    np.testing.assert_array_equal(by_class, np.array(expected)[:, :, None])


def assigned(anchors, boxes, labels, crowd, positive, negative, keep_best, reassign):
    """What `assign_boxes` gives of one image, from its description, anchor by anchor."""
    real = [n for n in range(len(boxes)) if labels[n] >= 0 and not crowd[n]]
    overlaps = {(n, a): iou(boxes[n], anchor) for n in real for a, anchor in enumerate(anchors)}
    top = {n: max(overlaps[n, a] for a in range(len(anchors))) for n in real}
    matched, state = [], []
    for a, anchor in enumerate(anchors):
        own = [overlaps[n, a] for n in real]
        best = max(own, default=-1)
        match = real[own.index(best)] if real else 0
        verdict = 1 if best >= positive else 0 if best < negative else -1
        keepers = [n for n in real if keep_best and overlaps[n, a] == top[n] > 0]
        if keepers:
            verdict = 1
            match = keepers[-1] if reassign else match
        height, width = anchor[2] - anchor[0], anchor[3] - anchor[1]
        for box in boxes[(labels >= 0) & crowd]:
            shared_height = min(box[2], anchor[2]) - max(box[0], anchor[0])
            shared_width = min(box[3], anchor[3]) - max(box[1], anchor[1])
            shared = max(shared_height, 0) * max(shared_width, 0)
            if verdict == 0 and shared > 0 and shared >= 0.5 * height * width:
                verdict = -1
        matched.append(match)
        state.append(verdict)
    return matched, state


@pytest.mark.parametrize(
    ("positive", "negative", "keep_best", "reassign"),
    [(0.5, 0.4, True, True), (0.5, 0.5, False, True), (0.75, 0.25, True, False)],
)
@settings(max_examples=25, deadline=None)
@given(
    anchors=box_sets((2, 8)),
    boxes=box_sets((2, 4)),
    labels=arrays_of([-1, 0, 3], (2, 4), "int32"),
    crowd=arrays_of([False, False, True], (2, 4), bool),
)
def test_assignment(positive, negative, keep_best, reassign, anchors, boxes, labels, crowd):
    """Ties, empty slots, images without boxes, crowds, boxes without area."""
    arguments = {"positive": positive, "negative": negative, "keep_best": keep_best, "reassign_best": reassign}
    matched, state = on_arrays(assign_boxes, **arguments)(anchors, boxes, labels, crowd)
    assert (matched.dtype, state.dtype) == (np.int32, np.int32)
    for image in range(2):
        given = anchors[image], boxes[image], labels[image], crowd[image]
        expected = assigned(*given, *arguments.values())
        np.testing.assert_array_equal(state[image], expected[1])
        np.testing.assert_array_equal(matched[image], expected[0])


def test_an_image_without_boxes_has_negatives_alone():
    """Empty slots are no boxes, although they overlap every anchor equally."""
    anchors = random_boxes((1, 20))
    labels = np.full((1, 3), -1)
    _, state = on_arrays(assign_boxes)(anchors, np.zeros((1, 3, 4), "float32"), labels, np.zeros((1, 3), bool))
    assert (state == 0).all()
