"""Losses of detectors, of single numbers or boxes: no sums and no means, which are the caller's."""

from typing import Any

from keras import ops

from tfvt.layers.boxes import box_area


def sigmoid_focal_loss(logits: Any, targets: Any, gamma: float = 2.0, alpha: float = 0.25) -> Any:
    """Focal loss of each logit (...), float32: Lin et al. 2017, https://arxiv.org/abs/1708.02002, eq. 5.

    Keras' `binary_focal_crossentropy` takes the logarithm of a probability: its gradients are NaN for logits from 20
    on, or cut off. This one is finite for all.

    Args:
        logits: (...).
        targets: (...), 0 or 1.
        gamma: how much less what is easy counts.
        alpha: weight of the ones; the zeros have 1 - alpha.
    """
    targets = ops.cast(targets, "float32")
    z = ops.cast(logits, "float32") * (2 * targets - 1)
    loss = ops.softplus(-z)  # -log(p)
    weight = targets * alpha + (1 - targets) * (1 - alpha)
    return weight * ops.exp(-gamma * (z + loss)) * loss  # log(1 - p) = -softplus(z)


def smooth_l1(errors: Any, beta: float = 0.0) -> Any:
    """|error| of each (...), less beta / 2, and a parabola where it is below beta; Keras' Huber loss over beta."""
    size = ops.abs(errors)
    if not beta:
        return size
    return ops.where(size < beta, size * size / (2 * beta), size - beta / 2)


def giou_loss(a: Any, b: Any) -> Any:
    """1 - generalised IoU of pairs of boxes, both (..., 4) -> (...), 0 to 2.

    Source: Rezatofighi et al. 2019, https://arxiv.org/abs/1902.09630; Keras has none.
    """
    least = 1e-6  # square pixels
    top, bottom = ops.minimum(a, b), ops.maximum(a, b)
    shared = box_area(ops.concatenate([bottom[..., :2], ops.maximum(top[..., 2:], bottom[..., :2])], axis=-1))
    around = ops.maximum(box_area(ops.concatenate([top[..., :2], bottom[..., 2:]], axis=-1)), least)
    union = ops.maximum(box_area(a) + box_area(b) - shared, least)
    return 1 - shared / union + (around - union) / around
