"""Non-maximum suppression against NumPy, pair by pair."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings

from tests.layers.box_sets import arrays_of, box_sets, iou, on_arrays
from tfvt.layers.nms import class_nms, greedy_nms, top_k

SCORES = [0.0, 0.05, 0.1, 0.5, 0.5, 0.9, 1.0]


def greedy(boxes, scores, score_threshold, iou_threshold, candidates, most):
    """[(n, class)] of one image by the description: boxes (N, K, 4), scores (N, K)."""
    pairs = [(n, c) for n, c in np.ndindex(*scores.shape) if scores[n, c] > score_threshold]
    taken = []
    for n, c in sorted(pairs, key=lambda pair: -scores[pair])[:candidates]:  # stable
        if all(c != other or iou(boxes[n, c], boxes[m, other]) <= iou_threshold for m, other in taken):
            taken.append((n, c))
    return taken[:most]


@pytest.mark.parametrize(("candidates", "most"), [(40, 5), (6, 9)])
@settings(max_examples=20, deadline=None)
@given(boxes=box_sets((2, 7, 3)), scores=arrays_of(SCORES, (2, 7, 3), "float32"))
def test_of_each_class(candidates, most, boxes, scores):
    """Ties, boxes without area, images without detections, and fewer pairs than candidates."""
    settings = {"score_threshold": 0.05, "iou_threshold": 0.5, "candidates": candidates, "max_detections": most}
    for of_classes in (True, False):
        given_boxes = boxes if of_classes else boxes[:, :, 0]
        found = on_arrays(class_nms, **settings)(given_boxes, scores)
        assert {name: (value.dtype.name, value.shape[1:]) for name, value in found.items()} == {
            "boxes": ("float32", (most, 4)), "scores": ("float32", (most,)),
            "labels": ("int32", (most,)), "sources": ("int32", (most,)),
        }  # fmt: skip
        for image in range(2):
            by_class = boxes[image] if of_classes else np.repeat(boxes[image, :, :1], 3, axis=1)
            taken = greedy(by_class, scores[image], *settings.values())
            empty = most - len(taken)
            rows, classes = [n for n, _ in taken], [c for _, c in taken]
            np.testing.assert_array_equal(found["labels"][image], classes + [-1] * empty)
            np.testing.assert_array_equal(found["sources"][image], rows + [0] * empty)
            np.testing.assert_array_equal(found["scores"][image], [scores[image][p] for p in taken] + [0] * empty)
            expected = [by_class[p] for p in taken] + [np.zeros(4)] * empty
            np.testing.assert_array_equal(found["boxes"][image], expected)


@settings(max_examples=25, deadline=None)
@given(boxes=box_sets((2, 12)), alive=arrays_of([True, True, False], (2, 12), bool))
def test_without_classes(boxes, alive):
    expected = np.zeros_like(alive)
    for image in range(2):
        for n in np.flatnonzero(alive[image]):
            better = np.flatnonzero(expected[image, :n])
            expected[image, n] = all(iou(boxes[image, n], boxes[image, m]) <= 0.25 for m in better)
    np.testing.assert_array_equal(on_arrays(greedy_nms, iou_threshold=0.25)(boxes, alive), expected)


def test_a_long_chain_takes_as_many_rounds_as_it_needs():
    """Each box overlaps the next one alone: every second stays."""
    starts = np.arange(40, dtype="float32") * 4
    boxes = np.stack([starts * 0, starts, starts * 0 + 10, starts + 6], axis=-1)[None]
    kept = on_arrays(greedy_nms, iou_threshold=0.1)(boxes, np.ones((1, 40), bool))
    np.testing.assert_array_equal(kept[0], np.arange(40) % 2 == 0)


def test_the_best_scores_in_order():
    scores = np.array([[3, 5, 5, 1, 5], [0, 0, 0, 0, 9]], "float32")
    values, indices = on_arrays(top_k, k=4)(scores)
    np.testing.assert_array_equal(indices, [[1, 2, 4, 0], [4, 0, 1, 2]])
    np.testing.assert_array_equal(values, [[5, 5, 5, 3], [9, 0, 0, 0]])
    values, indices = on_arrays(top_k, k=4)(scores[:, :2])
    np.testing.assert_array_equal(indices, [[1, 0, 1, 1], [0, 1, 1, 1]])
    np.testing.assert_array_equal(values, [[5, 3, -np.inf, -np.inf], [0, 0, -np.inf, -np.inf]])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="its graphs can leave sizes open")
def test_in_a_graph_for_any_number_of_boxes():
    """Also with nothing to keep, and equal to TensorFlow's own where no scores are tied."""
    tf = pytest.importorskip("tensorflow")
    settings = {"score_threshold": 0.05, "iou_threshold": 0.5, "candidates": 60, "max_detections": 12}
    signature = [tf.TensorSpec((None, None, 4)), tf.TensorSpec((None, None, 3))]
    compiled = tf.function(lambda *given: class_nms(*given, **settings), input_signature=signature)
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 20, (2, 30, 2)).astype("float32")
    boxes = np.concatenate([corners, corners + rng.uniform(5, 20, (2, 30, 2))], axis=-1).astype("float32")
    scores = rng.uniform(size=(2, 30, 3)).astype("float32")
    found = {name: value.numpy() for name, value in compiled(boxes, scores).items()}
    expected = tf.image.combined_non_max_suppression(
        boxes[:, :, None], scores, 60, 12, iou_threshold=0.5, score_threshold=0.05, clip_boxes=False
    )
    np.testing.assert_array_equal(found["scores"], expected.nmsed_scores)
    np.testing.assert_array_equal(found["boxes"], expected.nmsed_boxes)
    np.testing.assert_array_equal(found["labels"], expected.nmsed_classes)
    assert (compiled(boxes[:, :1], scores[:, :1] * 0)["labels"].numpy() == -1).all()
