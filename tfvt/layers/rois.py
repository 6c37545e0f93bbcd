"""The second stage of a detector: which proposals it learns from, what it finds in them, and better proposals.

Sources: Faster R-CNN (Ren et al. 2015) and Cascade R-CNN (Cai and Vasconcelos 2018), https://arxiv.org/abs/1712.00726,
in the form of mmdetection. A slot of proposals holds one where its state is 0 or 1.
"""

from typing import Any

import keras
from keras import ops

from tfvt.layers.boxes import assign_boxes, clip_boxes, decode_boxes, encode_boxes
from tfvt.layers.nms import class_nms, take_rows
from tfvt.layers.registration import register_layer
from tfvt.layers.sampling import sample

STD = (0.1, 0.1, 0.2, 0.2)  # of the deltas of proposals


@register_layer
class ProposalSamples(keras.layers.Layer):
    """The proposals that a stage reads: all of them, or, with the true boxes, a sample of both with what is true there.

    Args:
        num_classes: K.
        number: R, of proposals that are drawn.
        positive_fraction: of positives among them at most.
        overlap: least overlap (IoU) of a positive with its box.
        std: of the deltas.
        background_first: the background is class 0, not K, and the others follow.
        reassign_best: a positive that is the best proposal of a box belongs to that box, even if it overlaps another
            more, as in mmdetection's Mask R-CNN; False: as in its cascade and in torchvision.
        stream: see `tfvt.layers.sampling.sample`.

    Shapes: proposals (B, P, 4), scores (B, P), below 0 where there is none [, boxes (B, N, 4), labels and crowd (B, N),
    seed (B, 2)] -> a dict of "proposals" (B, R, 4), positives first; "states" (B, R), 1 positive, 0 negative, -1 none;
    "matched" (B, R), the index of a positive's box; "classes" (B, R), what is there, the background too; "targets"
    (B, R, 4), deltas to the box; "true" (B, R), whether it is a true box itself.
    """

    def __init__(
        self,
        num_classes: int,
        number: int = 512,
        positive_fraction: float = 0.25,
        overlap: float = 0.5,
        std: tuple[float, ...] = STD,
        background_first: bool = False,
        reassign_best: bool = False,
        stream: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32"} | kwargs)
        self.number, self.positive_fraction, self.overlap, self.std = number, positive_fraction, overlap, tuple(std)
        self.first, self.background = int(background_first), 0 if background_first else num_classes
        self.reassign_best, self.stream = reassign_best, stream

    def call(self, proposals, scores, boxes=None, labels=None, crowd=None, seed=None):
        if boxes is None:
            states = ops.where(scores >= 0, 0, -1)
            none = ops.zeros_like(states)
            return self._outputs(proposals, states, none, none, ops.zeros_like(proposals), none)
        is_real = ops.logical_and(labels >= 0, ops.logical_not(ops.cast(crowd, "bool")))
        proposals = ops.where((scores >= 0)[..., None], proposals, 0.0)  # what is none is no box's best
        best = {"keep_best": self.reassign_best, "least_best": self.overlap}
        matched, states = assign_boxes(proposals, boxes, labels, crowd, self.overlap, self.overlap, **best)
        there = ops.concatenate([is_real, scores >= 0], axis=1)
        proposals = ops.concatenate([ops.cast(boxes, proposals.dtype), proposals], axis=1)
        own = ops.zeros_like(labels, dtype="int32") + ops.arange(ops.shape(labels)[1], dtype="int32")
        matched = ops.concatenate([own, matched], axis=1)
        states = ops.concatenate([ops.ones_like(own), states], axis=1)
        rows, states = sample(ops.where(there, states, -1), seed, self.number, self.positive_fraction, self.stream)
        proposals, matched = take_rows(proposals, rows), take_rows(matched, rows)
        positive = states == 1
        classes = ops.where(positive, ops.cast(take_rows(labels, matched), "int32") + self.first, self.background)
        targets = encode_boxes(take_rows(boxes, matched), proposals, self.std)
        targets = ops.where(positive[..., None], targets, 0.0)
        return self._outputs(proposals, states, matched, classes, targets, rows < ops.shape(boxes)[1])

    def _outputs(self, proposals, states, matched, classes, targets, true):
        numbers = {"states": states, "matched": matched, "classes": classes, "true": true}
        numbers = {name: ops.cast(value, "int32") for name, value in numbers.items()}
        return numbers | {"proposals": proposals, "targets": targets}

    def compute_output_spec(
        self, proposals: keras.KerasTensor, scores: keras.KerasTensor, **truth: Any
    ) -> dict[str, keras.KerasTensor]:
        """Keras' shapes and types."""
        shape = (proposals.shape[0], None)
        numbers = {name: keras.KerasTensor(shape, "int32") for name in ("states", "matched", "classes", "true")}
        return numbers | {name: keras.KerasTensor((*shape, 4), "float32") for name in ("proposals", "targets")}


@register_layer
class RoIDetections(keras.layers.Layer):
    """The boxes that the second stage finds.

    Args:
        std: of the deltas.
        background_first: see `ProposalSamples`.
        score_threshold, iou_threshold, candidates, max_detections: see `tfvt.layers.nms.class_nms`.

    Shapes: true sizes of the images (B, 2), proposals (B, R, 4), states (B, R), logits (B, R, classes and background),
    deltas (B, R, classes, 4) [, boxes (B, N, 4)] -> a dict of "boxes" (B, D, 4), "scores"
    (B, D) and "labels" (B, D), -1 where there is no box, which is everywhere with the true boxes.
    """

    def __init__(
        self,
        std: tuple[float, ...] = STD,
        background_first: bool = False,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.5,
        candidates: int = 5000,
        max_detections: int = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32"} | kwargs)
        self.std, self.background_first = tuple(std), background_first
        self.nms = {
            "score_threshold": score_threshold,
            "iou_threshold": iou_threshold,
            "candidates": candidates,
            "max_detections": max_detections,
        }

    def call(self, size, proposals, states, logits, deltas, boxes=None):
        if boxes is not None:
            empty = ops.zeros((ops.shape(size)[0], self.nms["max_detections"], 4))
            return {"boxes": empty, "scores": empty[..., 0], "labels": ops.cast(empty[..., 0], "int32") - 1}
        scores = ops.softmax(logits, axis=-1)
        scores = scores[..., 1:] if self.background_first else scores[..., :-1]
        deltas = deltas[:, :, 1:] if self.background_first else deltas
        proposals = ops.broadcast_to(proposals[:, :, None], ops.shape(deltas))
        found = clip_boxes(decode_boxes(deltas, proposals, self.std), size)
        scores = ops.where(states[..., None] >= 0, scores, 0.0)
        found = class_nms(found, scores, **self.nms)
        return {name: found[name] for name in ("boxes", "scores", "labels")}

    def compute_output_spec(self, size: keras.KerasTensor, *args: Any, **kwargs: Any) -> dict[str, keras.KerasTensor]:
        """Keras' shapes and types."""
        shape = (size.shape[0], self.nms["max_detections"])
        return {
            "boxes": keras.KerasTensor((*shape, 4), "float32"),
            "scores": keras.KerasTensor(shape, "float32"),
            "labels": keras.KerasTensor(shape, "int32"),
        }


@register_layer
class RefinedProposals(keras.layers.Layer):
    """The proposals of the next stage: the boxes that a stage gives for the true class, else for the likeliest.

    Args:
        std: of the deltas.
        background_first: see `ProposalSamples`.

    Shapes: true sizes of the images (B, 2), proposals (B, R, 4), states, classes and true (B, R), logits and deltas as
    in `RoIDetections` -> a dict of "boxes" (B, R, 4) and "scores" (B, R), 0 or, where
    there is none, -1: no true box is left. No gradient passes.
    """

    def __init__(self, std: tuple[float, ...] = STD, background_first: bool = False, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32"} | kwargs)
        self.std, self.background_first = tuple(std), background_first

    def call(self, size, proposals, states, classes, true, logits, deltas):
        logits, deltas = ops.stop_gradient(logits), ops.stop_gradient(deltas)
        first = int(self.background_first)
        likeliest = ops.argmax(logits[..., first : logits.shape[-1] - 1 + first], axis=-1) + first
        chosen = ops.where(states == 1, classes, ops.cast(likeliest, "int32"))
        boxes = decode_boxes(of_class(deltas, chosen), proposals, self.std)
        left = ops.logical_and(states >= 0, true == 0)
        return {"boxes": clip_boxes(boxes, size), "scores": ops.where(left, 0.0, -1.0)}

    def compute_output_spec(
        self, size: keras.KerasTensor, proposals: keras.KerasTensor, *args: Any, **kwargs: Any
    ) -> dict[str, keras.KerasTensor]:
        """Keras' shapes and types."""
        shape = proposals.shape[:2]
        return {"boxes": keras.KerasTensor((*shape, 4), "float32"), "scores": keras.KerasTensor(shape, "float32")}


@register_layer
class MaskRegions(keras.layers.Layer):
    """The boxes that masks are of: those found, or, with the truth, the first proposals, where the positives are.

    Args:
        number: of proposals.

    Shapes: found (B, D, 4), proposals (B, R, 4) [, true boxes (B, N, 4)] -> (B, D, 4) or (B, number, 4).
    """

    def __init__(self, number: int, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32"} | kwargs)
        self.number = number

    def call(self, found, proposals, true_boxes=None):
        return found if true_boxes is None else proposals[:, : self.number]

    def compute_output_spec(
        self, found: keras.KerasTensor, proposals: keras.KerasTensor, true_boxes: keras.KerasTensor | None = None
    ) -> keras.KerasTensor:
        """Keras' shape and type."""
        return keras.KerasTensor((found.shape[0], None, 4), "float32")


@register_layer
class MaskProbabilities(keras.layers.Layer):
    """Of each box the mask of its class, the mean of several heads.

    Args:
        background_first: see `ProposalSamples`.

    Shapes: list of logits (B, D, s, s, classes), labels (B, D) -> (B, D, s, s); zeros where the label is -1.
    """

    def __init__(self, background_first: bool = False, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32"} | kwargs)
        self.first = int(background_first)

    def call(self, logits, labels):
        chosen = indicators(labels + self.first, logits[0].shape[-1]) * ops.cast(labels >= 0, "float32")[..., None]
        return sum(ops.einsum("bdhwk,bdk->bdhw", ops.sigmoid(x), chosen) for x in logits) / len(logits)

    def compute_output_shape(self, logits_shape, labels_shape):
        return logits_shape[0][:-1]


def of_class(deltas: Any, classes: Any) -> Any:
    """Of deltas (B, R, classes, 4) those of one class each, `classes` (B, R) -> (B, R, 4); zeros beyond the last."""
    return ops.einsum("brkc,brk->brc", deltas, indicators(classes, deltas.shape[2]))


def indicators(classes: Any, number: int) -> Any:
    """float32 (..., number): 1 at the class, zeros beyond the last, which PyTorch's one-hot refuses."""
    return ops.cast(classes[..., None] == ops.arange(number, dtype="int32"), "float32")
