"""Batches whose samples are mixed in pairs, and the soft targets that go with them: MixUp, CutMix, label smoothing.

The partner of sample i of B is sample B - 1 - i, as in TensorFlow official models and timm. One draw per batch decides
between MixUp and CutMix, and every sample has its own share lambda, from Beta(alpha, alpha), as in timm's mode "elem".
timm's default mode "batch", which DeiT uses, has one lambda and one box per batch.
"""

from dataclasses import dataclass

import tensorflow as tf

from tfvt.data.geometry import paste
from tfvt.data.order import WHOLE, HostShare
from tfvt.errors import UsageError


@dataclass(frozen=True)
class Mixing:
    """What mixing does, and how often.

    Attributes:
        mixup_alpha: of MixUp's Beta(alpha, alpha); 0: no MixUp (Zhang et al. 2018, "mixup: Beyond Empirical Risk
            Minimization", equation 1).
        cutmix_alpha: of CutMix' Beta(alpha, alpha); 0: no CutMix (Yun et al. 2019, "CutMix: Regularization Strategy
            to Train Strong Classifiers with Localizable Features", equation 1).
        probability: share of the batches that are mixed.
        switch_probability: share of the mixed batches that CutMix takes, where both alphas are above 0.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    probability: float = 1.0
    switch_probability: float = 0.5

    def __post_init__(self):
        for name in ("mixup_alpha", "cutmix_alpha"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be 0 (off) or above, not {getattr(self, name)}")
        for name in ("probability", "switch_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {getattr(self, name)}")

    @property
    def enabled(self) -> bool:
        """Whether mixing ever changes a batch."""
        return self.probability > 0 and (self.mixup_alpha > 0 or self.cutmix_alpha > 0)


def soft_targets(labels: tf.Tensor, num_classes: int, smoothing: float = 0.0) -> tf.Tensor:
    """One-hot rows with label smoothing: (1 - smoothing) * one_hot + smoothing / num_classes.

    Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7.

    Args:
        labels: integer tensor (B,), from 0.
        num_classes: K.
        smoothing: share of the target spread evenly over all classes, at least 0 and below 1.

    Returns:
        float32 (B, K), each row with sum 1.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be at least 0 and below 1, not {smoothing}")
    low = smoothing / num_classes
    return tf.one_hot(labels, num_classes, on_value=1.0 - smoothing + low, off_value=low)


def mix_batch(
    images: tf.Tensor,
    labels: tf.Tensor,
    num_classes: int,
    seed: tf.Tensor,
    mixing: Mixing,
    share: HostShare = WHOLE,
) -> tuple[tf.Tensor, tf.Tensor]:
    """One batch, mixed with itself reversed.

    MixUp: x = lambda x_i + (1 - lambda) x_j. CutMix: a box of x_i shows x_j; its sides are sqrt(1 - lambda) of the
    image's, its centre lies anywhere, and lambda becomes the share of the image that x_i keeps. So a box that the
    border cuts counts with its visible part. Both: y = lambda y_i + (1 - lambda) y_j.

    Args:
        images: float32 (B, H, W, C).
        labels: integer tensor (B,), from 0.
        num_classes: K.
        seed: integer tensor (2,); the result is a pure function of it and the batch.
        mixing: what to do.
        share: which rows of the batch these are. They become what they would be in the whole batch.

    Returns:
        Images as given, float32 (B, H, W, C), and targets, float32 (B, K), each row with sum 1.

    Raises:
        UsageError: one of several hosts has an odd number of rows, so that not all partners are on one host.
    """
    targets = soft_targets(labels, num_classes)
    if not mixing.enabled:
        return images, targets
    if share.count > 1 and images.shape[0] % 2:
        raise UsageError(f"mixing needs an even number of images on each host, not {images.shape[0]}")
    total = tf.shape(labels)[0] * share.count

    def of_own(draws):
        """Those of this host's rows, which are in the last axis."""
        if share.count == 1:
            return draws
        own = share.holds(tf.range(total), images.shape[0] * share.count)
        return tf.boolean_mask(draws, own, axis=draws.shape.rank - 1)

    draw_seed, mixup_seed, cutmix_seed = tf.unstack(tf.random.split(seed, 3))
    draws = tf.random.stateless_uniform((2,), draw_seed)

    def mixup():
        kept = of_own(beta(mixing.mixup_alpha, total[None], mixup_seed))
        return mixup_images(images, kept), kept

    def cutmix():
        share_seed, center_seed = tf.unstack(tf.random.split(cutmix_seed))
        kept = of_own(beta(mixing.cutmix_alpha, total[None], share_seed))
        centers = of_own(tf.random.stateless_uniform((2, total), center_seed))
        return cutmix_images(images, cutmix_boxes(kept, centers, tf.shape(images)))

    def mix():
        if not mixing.cutmix_alpha:
            mixed, kept = mixup()
        elif not mixing.mixup_alpha:
            mixed, kept = cutmix()
        else:
            mixed, kept = tf.cond(draws[1] < mixing.switch_probability, cutmix, mixup)
        kept = kept[:, None]  # (B, 1)
        return mixed, kept * targets + (1.0 - kept) * targets[::-1]

    mixed, targets = tf.cond(draws[0] < mixing.probability, mix, lambda: (images, targets))
    return tf.ensure_shape(mixed, images.shape), tf.ensure_shape(targets, (images.shape[0], num_classes))


def beta(alpha: float, shape: tf.Tensor | tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
    """Draws from Beta(alpha, alpha), float32 of `shape`: the share of one of two gamma draws in their sum."""
    # In double precision: for small alphas both gamma draws would often be 0 in single precision.
    gammas = tf.random.stateless_gamma(tf.concat([[2], shape], 0), seed, alpha, dtype=tf.float64)  # (2, *shape)
    return tf.cast(tf.math.divide_no_nan(gammas[0], gammas[0] + gammas[1]), tf.float32)


def mixup_images(images: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """`share` (B,) of each image of (B, H, W, C) and the rest of its partner from the other end of the batch."""
    share = tf.reshape(share, (-1, 1, 1, 1))
    return share * images + (1.0 - share) * tf.reverse(images, [0])


def cutmix_boxes(share: tf.Tensor, centers: tf.Tensor, image_shape: tf.Tensor) -> tf.Tensor:
    """Boxes (top, left, bottom, right), int32 (4, B), in pixels; bottom and right lie just outside.

    Args:
        share: float32 (B,), what each image would keep if its box lay inside it.
        centers: float32 (2, B) in [0, 1): the boxes' centres as shares of height and width.
        image_shape: int32 (4,) of the batch.
    """
    size = tf.cast(image_shape[1:3, None], tf.float32)  # (2, 1)
    center = tf.cast(centers * size, tf.int32)  # (2, B)
    half = tf.cast(tf.sqrt(1.0 - share) * size, tf.int32) // 2  # (2, B)
    return tf.concat([tf.maximum(center - half, 0), tf.minimum(center + half, image_shape[1:3, None])], 0)


def cutmix_images(images: tf.Tensor, boxes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Each image of (B, H, W, C) with its partner's pixels in its box, int32 (4, B), and the share (B,) it keeps."""

    def cut_and_paste(sample):
        image, partner, (top, left, bottom, right) = sample[0], sample[1], tf.unstack(sample[2])
        return paste(image, partner[top:bottom, left:right], top, left)

    # Copies of rows, several times as fast as a choice for every pixel.
    mixed = tf.map_fn(
        cut_and_paste,
        (images, tf.reverse(images, [0]), tf.transpose(boxes)),  # twice (B, H, W, C), and (B, 4)
        fn_output_signature=tf.TensorSpec(images.shape[1:], images.dtype),
    )
    area = (boxes[2] - boxes[0]) * (boxes[3] - boxes[1])  # (B,)
    return mixed, 1.0 - tf.cast(area, tf.float32) / tf.cast(tf.reduce_prod(tf.shape(images)[1:3]), tf.float32)
