"""Boxes: overlaps, their code against anchors, clipping, and which anchor belongs to which box.

A box is y1, x1, y2, x2 in pixels, with y1 <= y2 and x1 <= x2. Sources: Faster R-CNN (Ren et al. 2015) for the code and
the assignment, in the forms of mmdetection; where torchvision's differ, an argument says so.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

MAX_LOG_RATIO = abs(math.log(16 / 1000))  # a decoded side is at most 62.5 times its anchor's, and at least 1/62.5
LEAST_SIDE = 1e-6  # of a box and an anchor that are coded, in pixels: without sides the code would not be finite


def box_area(boxes: Any) -> Any:
    """Areas (...) of boxes (..., 4)."""
    y1, x1, y2, x2 = ops.unstack(boxes, 4, axis=-1)
    return (y2 - y1) * (x2 - x1)


def box_intersection(a: Any, b: Any) -> Any:
    """Areas (..., N, M) that each box of a (..., N, 4) shares with each of b (..., M, 4)."""
    # One coordinate at a time: a last axis of 2 makes TensorFlow three times as slow.
    a = [ops.expand_dims(side, -1) for side in ops.unstack(a, 4, axis=-1)]
    b = [ops.expand_dims(side, -2) for side in ops.unstack(b, 4, axis=-1)]
    height = ops.maximum(ops.minimum(a[2], b[2]) - ops.maximum(a[0], b[0]), 0)
    width = ops.maximum(ops.minimum(a[3], b[3]) - ops.maximum(a[1], b[1]), 0)
    return height * width


def box_iou(a: Any, b: Any) -> Any:
    """Intersection over union (..., N, M) of boxes a (..., N, 4) and b (..., M, 4); 0 of two boxes without area."""
    shared = box_intersection(a, b)
    union = ops.expand_dims(box_area(a), -1) + ops.expand_dims(box_area(b), -2) - shared
    return ops.divide_no_nan(shared, union)


def encode_boxes(boxes: Any, anchors: Any, std: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Any:
    """Deltas (..., 4) that lead from anchors to boxes, both (..., 4): dy, dx, dh, dw, each divided by its `std`."""
    (y, x, h, w), (anchor_y, anchor_x, anchor_h, anchor_w) = _centres(boxes), _centres(anchors)
    h, w, anchor_h, anchor_w = (ops.maximum(side, LEAST_SIDE) for side in (h, w, anchor_h, anchor_w))
    deltas = [(y - anchor_y) / anchor_h, (x - anchor_x) / anchor_w, ops.log(h / anchor_h), ops.log(w / anchor_w)]
    return ops.stack([delta / s for delta, s in zip(deltas, std, strict=True)], axis=-1)


def decode_boxes(deltas: Any, anchors: Any, std: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Any:
    """Boxes (..., 4) of deltas and anchors, both (..., 4): see `encode_boxes`; dh and dw within `MAX_LOG_RATIO`."""
    dy, dx, dh, dw = (delta * s for delta, s in zip(ops.unstack(deltas, 4, axis=-1), std, strict=True))
    anchor_y, anchor_x, anchor_h, anchor_w = _centres(anchors)
    y, x = anchor_y + dy * anchor_h, anchor_x + dx * anchor_w
    half_h = anchor_h * ops.exp(ops.clip(dh, -MAX_LOG_RATIO, MAX_LOG_RATIO)) / 2
    half_w = anchor_w * ops.exp(ops.clip(dw, -MAX_LOG_RATIO, MAX_LOG_RATIO)) / 2
    return ops.stack([y - half_h, x - half_w, y + half_h, x + half_w], axis=-1)


def _centres(boxes):
    """Centre (y, x), height and width."""
    y1, x1, y2, x2 = ops.unstack(boxes, 4, axis=-1)
    return (y1 + y2) / 2, (x1 + x2) / 2, y2 - y1, x2 - x1


def clip_boxes(boxes: Any, sizes: Any) -> Any:
    """Boxes (B, ..., 4) cut at the borders of images of `sizes` (B, 2), each height, width."""
    sizes = ops.cast(sizes, boxes.dtype)
    limits = ops.reshape(ops.concatenate([sizes, sizes], axis=-1), (-1, *[1] * (len(boxes.shape) - 2), 4))
    return ops.maximum(ops.minimum(boxes, limits), 0)


def assign_boxes(
    anchors: Any,
    boxes: Any,
    labels: Any,
    crowd: Any,
    positive: float = 0.5,
    negative: float = 0.4,
    keep_best: bool = True,
    crowd_overlap: float = 0.5,
    reassign_best: bool = True,
    least_best: float = 0.0,
) -> tuple[Any, Any]:
    """The box that each anchor belongs to, and whether it counts.

    Args:
        anchors: (B, A, 4), of anchors or of proposals.
        boxes: (B, N, 4), the true ones.
        labels: (B, N); a slot with -1 holds no box.
        crowd: (B, N) bool; no anchor belongs to a crowd.
        positive: least overlap (IoU) of an anchor with a box that makes it positive.
        negative: an anchor that overlaps every box less is negative.
        keep_best: also the anchors that overlap a box most are positive, however little that is; all of them in ties.
        crowd_overlap: an anchor with at least this share of its area in one crowd is not negative.
        reassign_best: an anchor that `keep_best` makes positive belongs to the box that it is the best for, in doubt to
            the last such box, as in mmdetection; False: to the box that it overlaps most, as in torchvision.
        least_best: a box whose best anchors overlap it less keeps none of them by `keep_best`.

    Returns:
        matched: int32 (B, A), the index of the box; of the first in ties.
        state: int32 (B, A): 1 positive, 0 negative, -1 neither.
    """

    def assign(image):
        anchors, boxes, real, crowd = image
        overlap = ops.where(real[:, None], box_iou(boxes, anchors), -1.0)  # (N, A)
        best = ops.max(overlap, axis=0)
        matched = ops.cast(ops.argmax(overlap, axis=0), "int32")
        state = ops.where(best >= positive, 1, ops.where(best < negative, 0, -1))
        if keep_best:
            top = ops.max(overlap, axis=1, keepdims=True)
            # XLA may compute two equal overlaps with different last bits.
            kept = ops.logical_and(overlap >= top * (1 - 1e-5), ops.logical_and(top > 0, top >= least_best))
            indices = ops.arange(ops.shape(overlap)[0], dtype="int32")[:, None]
            keeper = ops.max(ops.where(kept, indices, -1), axis=0)
            state = ops.where(keeper >= 0, 1, state)
            if reassign_best:
                matched = ops.where(keeper >= 0, keeper, matched)
        shared = ops.max(ops.where(crowd[:, None], box_intersection(boxes, anchors), 0.0), axis=0)
        in_crowd = ops.logical_and(shared > 0, shared >= crowd_overlap * box_area(anchors))
        return matched, ops.cast(ops.where(ops.logical_and(in_crowd, state == 0), -1, state), "int32")

    there = labels >= 0
    crowd = ops.cast(crowd, "bool")
    real = ops.logical_and(there, ops.logical_not(crowd))
    # One image after the other: 201,600 anchors x 100 boxes take 80 MB a matrix. XLA fuses them and needs none, and
    # JAX would not split a loop over the devices that share a batch.
    each = ops.vectorized_map if keras.backend.backend() == "jax" else ops.map
    return each(assign, (anchors, boxes, real, ops.logical_and(there, crowd)))
