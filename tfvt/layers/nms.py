"""Non-maximum suppression: of boxes that overlap much, the one with the best score stays.

Operations of Keras alone, with static shapes: a SavedModel and an ONNX file can hold them. No gradient passes.
"""

from typing import Any

import keras
from keras import ops

from tfvt.layers.boxes import box_iou


def top_k(scores: Any, k: int) -> tuple[Any, Any]:
    """The k best of `scores` (B, N) in order, and their int32 indices, both (B, k); in ties the smaller index first.

    Where N is below k, the last ones have scores of -inf and the index N - 1.
    """
    length = ops.shape(scores)[1]
    short = not isinstance(length, int) or length < k
    if short:  # or nobody knows
        scores = ops.pad(scores, ((0, 0), (0, k)), constant_values=-float("inf"))
    if keras.backend.backend() == "torch":  # its own form puts ties in any order
        indices = ops.argsort(-scores, axis=-1)[:, :k]
        values = ops.take_along_axis(scores, indices, axis=-1)
    else:
        values, indices = ops.top_k(scores, k)
    indices = ops.cast(indices, "int32")
    return values, ops.minimum(indices, length - 1) if short else indices


def take_rows(x: Any, indices: Any) -> Any:
    """Of x (B, N, ...) the rows (B, K, ...) that `indices` (B, K) name, image by image."""
    if keras.backend.backend() == "jax":  # leaves each image on its device
        return ops.vectorized_map(lambda image: ops.take(*image, axis=0), (x, indices))
    batch, length = ops.shape(x)[:2]
    first = ops.arange(batch, dtype="int32")[:, None] * length
    return ops.take(ops.reshape(x, (-1, *x.shape[2:])), indices + first, axis=0)


def class_nms(
    boxes: Any, scores: Any, *, score_threshold: float, iou_threshold: float, candidates: int, max_detections: int
) -> dict[str, Any]:
    """The best boxes of each image, where those of one class do not overlap much.

    Exact up to the cut to `candidates`: the pairs of a box and a class are taken from the best score downwards, in ties
    from the smaller box and class upwards, each unless it overlaps one of the same class that was taken.

    Args:
        boxes: (B, N, 4), or (B, N, K, 4) with a box for each class.
        scores: (B, N, K), for K classes.
        score_threshold: pairs with a higher score take part.
        iou_threshold: a pair that overlaps a better one more than that falls away.
        candidates: pairs that take part at most, the best ones of all classes together.
        max_detections: D.

    Returns:
        "boxes" (B, D, 4), "scores" (B, D), "labels" (B, D), int32, -1 where there is no detection, and "sources"
        (B, D), int32: n of the box, from 0 to N - 1. Best scores first; all but the labels are 0 in empty places.
    """
    boxes, scores = ops.stop_gradient(boxes), ops.stop_gradient(scores)
    classes = scores.shape[2]
    flat = ops.reshape(scores, (-1, ops.shape(scores)[1] * classes))
    scores, pairs = top_k(ops.where(flat > score_threshold, flat, -float("inf")), candidates)
    sources, labels = pairs // classes, pairs % classes
    if len(boxes.shape) == 3:
        boxes = take_rows(boxes, sources)
    else:
        boxes = take_rows(ops.reshape(boxes, (-1, ops.shape(boxes)[1] * classes, 4)), pairs)
    alive = scores > score_threshold
    # What takes no part has no infinite score: ONNX makes `where` with zeros a product.
    scores = ops.maximum(scores, 0)

    def pick(step, alive, picks):
        place = ops.argmax(ops.cast(alive, "int32"), axis=1, keepdims=True)  # the first that is alive
        place = ops.cast(place, "int32")
        picked = take_rows(alive, place)  # False in images where none is left
        picks = ops.where(ops.logical_and(ops.arange(max_detections) == step, picked), place, picks)
        overlap = box_iou(take_rows(boxes, place), boxes)[:, 0]
        same = labels == take_rows(labels, place)
        beaten = ops.logical_and(same, overlap > iou_threshold)
        # A box without area does not overlap itself.
        beaten = ops.logical_or(beaten, ops.arange(candidates, dtype="int32") == place)
        return step + 1, ops.logical_and(alive, ops.logical_not(beaten)), picks

    def goes_on(step, alive, picks):
        return ops.logical_and(step < max_detections, ops.any(alive))

    none = ops.full_like(labels[:, :1], -1)
    start = ops.convert_to_tensor(0, "int32"), alive, ops.repeat(none, max_detections, axis=1)
    _, _, picks = ops.while_loop(goes_on, pick, start)
    there, picks = picks >= 0, ops.maximum(picks, 0)
    return {
        "boxes": ops.where(there[..., None], take_rows(boxes, picks), 0.0),
        "scores": ops.where(there, take_rows(scores, picks), 0.0),
        "labels": ops.where(there, take_rows(labels, picks), -1),
        "sources": ops.where(there, take_rows(sources, picks), 0),
    }


def greedy_nms(boxes: Any, alive: Any, iou_threshold: float) -> Any:
    """Which boxes stay of those of one class, or of none, in the order of their scores.

    Args:
        boxes: (B, N, 4), the best first.
        alive: bool (B, N): those that take part.
        iou_threshold: a box that overlaps a better one that stays more than that falls away.

    Returns:
        bool (B, N).
    """
    boxes = ops.stop_gradient(boxes)
    better = ops.triu(ops.ones((boxes.shape[1], boxes.shape[1]), "bool"), 1)  # (the better one, the other)
    beats = ops.cast(ops.logical_and(box_iou(boxes, boxes) > iou_threshold, better), "float32")

    # A box stays unless one that stays beats it: after n rounds this is right for the n best ones, and mostly for all
    # after five. A loop over the boxes would take N.
    def fall(_, keep):
        beaten = ops.matmul(ops.cast(keep, "float32")[:, None], beats)[:, 0] > 0.5
        return keep, ops.logical_and(alive, ops.logical_not(beaten))

    def changes(before, keep):
        return ops.any(before != keep)

    _, keep = ops.while_loop(changes, fall, fall(None, alive))
    return keep
