"""Layers of heads on regions: convolutions of many small maps of each image, and the losses of boxes and masks."""

from typing import Any, Literal

import keras
from keras import ops

from tfvt.layers.boxes import decode_boxes
from tfvt.layers.losses import giou_loss, smooth_l1
from tfvt.layers.nms import take_rows
from tfvt.layers.registration import register_layer
from tfvt.layers.rois import STD, indicators, of_class


@keras.saving.register_keras_serializable(package="tfvt")
class RoIConv2D(keras.layers.Conv2D):
    """A convolution of each of many maps of an image: (B, R, h, w, C) -> (B, R, h, w, filters)."""

    def call(self, inputs):
        return _each_map(super().call, inputs)

    def compute_output_shape(self, input_shape):
        *outer, _, _, _ = input_shape
        return (*outer, *super().compute_output_shape((None, *input_shape[2:]))[1:])


@keras.saving.register_keras_serializable(package="tfvt")
class RoIConv2DTranspose(keras.layers.Conv2DTranspose):
    """A transposed convolution of each of many maps of an image: (B, R, h, w, C) -> (B, R, h', w', filters)."""

    def call(self, inputs):
        return _each_map(super().call, inputs)

    def compute_output_shape(self, input_shape):
        *outer, _, _, _ = input_shape
        return (*outer, *super().compute_output_shape((None, *input_shape[2:]))[1:])

    def macs(self, inputs):
        """Each pixel of each map with the whole kernel."""
        _, maps, height, width, channels = inputs.shape
        return maps * height * width * channels * self.filters * self.kernel_size[0] * self.kernel_size[1]


def _each_map(convolve, x):
    y = convolve(ops.reshape(x, (-1, *x.shape[2:])))
    return ops.reshape(y, (*ops.shape(x)[:2], *y.shape[1:]))


@register_layer
class BoxLosses(keras.layers.Layer):
    """How far the second stage is from the truth.

    Args:
        box: "l1", of the deltas, or "giou", of the boxes.
        beta: of `smooth_l1`; 0 for L1.
        std: of the deltas.
        class_weight, box_weight: of the two sums.

    Shapes: logits (B, R, classes and background), deltas (B, R, classes, 4), and proposals, states, classes and targets
    as `ProposalSamples` gives them [, boxes (B, N, 4), the true ones] -> a dict of "class" and "box", the sums of the
    losses of an image, and "count", of its proposals, each (B,); zeros without boxes.
    """

    def __init__(
        self,
        box: Literal["l1", "giou"] = "l1",
        beta: float = 0.0,
        std: tuple[float, ...] = STD,
        class_weight: float = 1.0,
        box_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32"} | kwargs)
        self.box, self.beta, self.std = box, beta, tuple(std)
        self.class_weight, self.box_weight = class_weight, box_weight

    def call(self, logits, deltas, proposals, states, classes, targets, boxes=None):
        if boxes is None:
            return dict.fromkeys(("class", "box", "count"), ops.zeros_like(logits[:, 0, 0]))
        counts, positive = ops.cast(states >= 0, "float32"), ops.cast(states == 1, "float32")
        truth = indicators(classes, logits.shape[-1])
        entropy = ops.logsumexp(logits, axis=-1) - ops.sum(logits * truth, axis=-1)
        deltas = of_class(deltas, classes)
        if self.box == "giou":
            found, true = (decode_boxes(x, proposals, self.std) for x in (deltas, targets))
            distance = giou_loss(found, true)
        else:
            distance = ops.sum(smooth_l1(deltas - targets, self.beta), axis=-1)
        return {
            "class": self.class_weight * ops.sum(entropy * counts, axis=1),
            "box": self.box_weight * ops.sum(distance * positive, axis=1),
            "count": ops.sum(counts, axis=1),
        }

    def compute_output_spec(self, logits: keras.KerasTensor, *args: Any, **kwargs: Any) -> dict[str, keras.KerasTensor]:
        """Keras' shapes and types."""
        return {name: keras.KerasTensor(logits.shape[:1], "float32") for name in ("class", "box", "count")}


@register_layer
class MaskLosses(keras.layers.Layer):
    """How far the masks of positives are from the truth: binary cross-entropy of the true class, mean over pixels.

    Args:
        binary: the truth is 0 or 1, cut at one half, as in mmdetection; False: the covered share, as in torchvision.
        weight: of the sum.

    Shapes: logits (B, P, s, s, classes), rois (B, P, 4), and states, classes and matched (B, R) as `ProposalSamples`
    gives them, of which the first P belong to the rois [, boxes (B, N, 4), masks (B, N, m, m), 0 or 1 within the boxes]
    -> a dict of "mask", the sum of the losses of an image, and "count", of its positives, each (B,); zeros without
    masks.
    """

    def __init__(self, binary: bool = True, weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32"} | kwargs)
        self.binary, self.weight = binary, weight

    def call(self, logits, rois, states, classes, matched, boxes=None, masks=None):
        if boxes is None or masks is None:
            return dict.fromkeys(("mask", "count"), ops.zeros_like(rois[:, 0, 0]))
        states, classes, matched = (x[:, : ops.shape(rois)[1]] for x in (states, classes, matched))
        targets = mask_targets(rois, take_rows(boxes, matched), take_rows(masks, matched), logits.shape[2])
        targets = ops.cast(targets >= 0.5, "float32") if self.binary else targets
        truth = indicators(classes, logits.shape[-1])
        logits = ops.einsum("bphwk,bpk->bphw", logits, truth)
        # -(t log p + (1 - t) log(1 - p))
        entropy = ops.mean(ops.softplus(logits) - targets * logits, axis=(2, 3))
        positive = ops.cast(states == 1, "float32")
        return {"mask": self.weight * ops.sum(entropy * positive, axis=1), "count": ops.sum(positive, axis=1)}

    def compute_output_spec(self, logits: keras.KerasTensor, *args: Any, **kwargs: Any) -> dict[str, keras.KerasTensor]:
        """Keras' shapes and types."""
        return {name: keras.KerasTensor(logits.shape[:1], "float32") for name in ("mask", "count")}


def mask_targets(rois: Any, boxes: Any, masks: Any, size: int) -> Any:
    """The share of each cell of a region that its object covers, by four points of each cell.

    Args:
        rois: (B, P, 4).
        boxes: (B, P, 4), of the objects.
        masks: (B, P, m, m), 0 or 1 within the boxes.
        size: cells of a region along a side.

    Returns:
        (B, P, size, size), float32.
    """
    pixels = masks.shape[-1]
    steps = (ops.arange(2 * size, dtype="float32") + 0.5) / (2 * size)

    def weights(axis):
        """(B, P, size, m): of the mask's rows or columns in each cell."""
        first, last = boxes[..., axis, None], boxes[..., axis + 2, None]
        at = rois[..., axis, None] + (rois[..., axis + 2, None] - rois[..., axis, None]) * steps
        at = ops.divide_no_nan(at - first, last - first) * pixels
        inside = ops.logical_and(at >= 0, at <= pixels)
        at = ops.clip(at - 0.5, 0, pixels - 1)[..., None]
        shares = ops.maximum(1 - ops.abs(at - ops.arange(pixels, dtype="float32")), 0)
        shares = ops.where(inside[..., None], shares, 0.0)
        return ops.mean(ops.reshape(shares, (*ops.shape(rois)[:2], size, 2, pixels)), axis=3)

    return ops.matmul(ops.matmul(weights(0), ops.cast(masks, "float32")), ops.swapaxes(weights(1), -1, -2))
