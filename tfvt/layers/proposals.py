"""What follows the convolutions of a region proposal network: its proposals, from scores and deltas, and its losses.

Sources: Faster R-CNN (Ren et al. 2015), https://arxiv.org/abs/1506.01497, section 3.1, over a pyramid (Lin et al.
2017), https://arxiv.org/abs/1612.03144, section 4.1, in the form of mmdetection.
"""

from typing import Any

import keras
from keras import ops

from tfvt.layers.anchors import anchors_within
from tfvt.layers.boxes import assign_boxes, clip_boxes, decode_boxes, encode_boxes
from tfvt.layers.losses import smooth_l1
from tfvt.layers.nms import greedy_nms, take_rows, top_k
from tfvt.layers.registration import register_layer
from tfvt.layers.sampling import sample

LEAST_SIDE = 1e-3  # pixels; a proposal below that lies outside the image


@register_layer
class TrueSizes(keras.layers.Layer):
    """Height and width of what images hold in their upper left corners: as given, or all.

    Shapes: image (B, H, W, any) [, size (B, 2)] -> (B, 2), int32.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", "autocast": False} | kwargs)

    def call(self, image, size=None):
        if size is not None:
            return ops.cast(size, "int32")
        batch, height, width = ops.shape(image)[:3]
        sides = ops.stack([ops.convert_to_tensor(side, "int32") for side in (height, width)])
        return ops.broadcast_to(sides, (batch, 2))

    def compute_output_spec(self, image: keras.KerasTensor, size: keras.KerasTensor | None = None) -> keras.KerasTensor:
        """Keras' shape and type."""
        return keras.KerasTensor((image.shape[0], 2), "int32")


@register_layer
class Proposals(keras.layers.Layer):
    """The boxes that a network takes for objects: the best of each level, without those that overlap a better one.

    Args:
        per_pixel: anchors of a pixel.
        candidates: anchors of each level that take part, the best ones.
        number: P, of boxes that are left, the best of all levels.
        training_candidates, training_number: the same in training.
        nms_threshold: a box falls away that overlaps a better one of its level more than that.

    Shapes: list of maps (B, h, w, any), whose sizes alone are read, true sizes of the images (B, 2), logits (B, A, 1),
    deltas and anchors (B, A, 4) -> a dict of "boxes" (B, P, 4) and "scores" (B, P), -1 where there is no box. No
    gradient passes.
    """

    def __init__(
        self,
        per_pixel: int,
        candidates: int = 1000,
        number: int = 1000,
        training_candidates: int = 2000,
        training_number: int = 1000,
        nms_threshold: float = 0.7,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32", "autocast": False} | kwargs)
        self.per_pixel, self.nms_threshold = per_pixel, nms_threshold
        self.candidates, self.number = candidates, number
        self.training_candidates, self.training_number = training_candidates, training_number

    def call(self, maps, size, logits, deltas, anchors, training=None):
        logits, deltas = ops.stop_gradient(logits[..., 0]), ops.stop_gradient(deltas)
        candidates, number = self.candidates, self.number
        if training:
            candidates, number = self.training_candidates, self.training_number
        found, first = [], 0
        for x in maps:
            count = ops.shape(x)[1] * ops.shape(x)[2] * self.per_pixel
            level = [of_all[:, first : first + count] for of_all in (logits, deltas, anchors)]
            best, rows = top_k(level[0], min(candidates, count) if isinstance(count, int) else candidates)
            boxes = clip_boxes(decode_boxes(*(take_rows(values, rows) for values in level[1:])), size)
            there = ops.all(boxes[..., 2:] - boxes[..., :2] >= LEAST_SIDE, axis=-1)
            there = ops.logical_and(there, best > -float("inf"))
            kept = greedy_nms(boxes, there, self.nms_threshold)
            found.append((ops.where(kept, ops.sigmoid(best), -1.0), boxes))
            first = first + count
        scores, boxes = (ops.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        scores, rows = top_k(scores, number)
        return {"boxes": take_rows(boxes, rows), "scores": ops.maximum(scores, -1.0)}

    def compute_output_spec(
        self, maps: list[keras.KerasTensor], size: keras.KerasTensor, *args: Any, **kwargs: Any
    ) -> dict[str, keras.KerasTensor]:
        """Keras' shapes and types."""
        shape = (size.shape[0], self.number if self.number == self.training_number else None)
        return {"boxes": keras.KerasTensor((*shape, 4), "float32"), "scores": keras.KerasTensor(shape, "float32")}


@register_layer
class ProposalLosses(keras.layers.Layer):
    """How far a proposal network is from the truth, over a sample of the anchors of each image.

    Args:
        number: of anchors that are drawn.
        positive_fraction: of positives among them at most.
        positive_overlap, negative_overlap: see `tfvt.layers.boxes.assign_boxes`; so is
        reassign_best, least_best.
        beta: of `smooth_l1`; 0 for L1.

    Shapes: true sizes of the images (B, 2), logits (B, A, 1), deltas and anchors (B, A, 4) [, boxes (B, N, 4), labels
    and crowd (B, N), seed (B, 2)] -> a dict of "class" and "box", the sums of the
    losses of an image, and "count", of its anchors drawn, each (B,); zeros without boxes.
    """

    def __init__(
        self,
        number: int = 256,
        positive_fraction: float = 0.5,
        positive_overlap: float = 0.7,
        negative_overlap: float = 0.3,
        reassign_best: bool = True,
        beta: float = 0.0,
        least_best: float = 0.3,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32"} | kwargs)
        self.number, self.positive_fraction, self.beta = number, positive_fraction, beta
        self.overlaps, self.reassign_best = (positive_overlap, negative_overlap), reassign_best
        self.least_best = least_best

    def call(self, size, logits, deltas, anchors, boxes=None, labels=None, crowd=None, seed=None):
        if boxes is None:
            return dict.fromkeys(("class", "box", "count"), ops.zeros_like(size[:, 0], "float32"))
        kept = {"reassign_best": self.reassign_best, "least_best": self.least_best}
        matched, state = assign_boxes(anchors, boxes, labels, crowd, *self.overlaps, **kept)
        state = ops.where(anchors_within(anchors, size), state, -1)
        rows, drawn = sample(state, seed, self.number, self.positive_fraction)
        positive, counts = ops.cast(drawn == 1, "float32"), ops.cast(drawn >= 0, "float32")
        logits, deltas, anchors = (take_rows(x, rows) for x in (logits[..., 0], deltas, anchors))
        targets = encode_boxes(take_rows(boxes, take_rows(matched, rows)), anchors)
        # -log of the probability of what is true.
        entropy = ops.softplus(logits * (1 - 2 * positive))
        distance = ops.sum(smooth_l1(deltas - ops.where(positive[..., None] > 0, targets, 0.0), self.beta), axis=-1)
        return {
            "class": ops.sum(entropy * counts, axis=1),
            "box": ops.sum(distance * positive, axis=1),
            "count": ops.sum(counts, axis=1),
        }

    def compute_output_spec(self, size: keras.KerasTensor, *args: Any, **kwargs: Any) -> dict[str, keras.KerasTensor]:
        """Keras' shapes and types."""
        return {name: keras.KerasTensor(size.shape[:1], "float32") for name in ("class", "box", "count")}
