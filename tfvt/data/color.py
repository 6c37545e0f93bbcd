"""Operations on colours, which AutoAugment, RandAugment and colour jitter are made of.

Each takes and gives one image, uint8 (H, W, 3), and has the pixels that the function of the same name in TensorFlow
official models (`official.vision.ops.augment`) gives. Most are tables of 256 entries, looked up for every pixel, where
official models computes every pixel.
"""

import numpy as np
import tensorflow as tf

LEVELS = np.arange(256, dtype=np.int32)
CHANNEL_OFFSETS = (0, 256, 512)  # of the three channels' tables, which stand one after the other


def invert(image):
    """255 - pixel."""
    return 255 - image


def posterize(image, bits):
    """Pixels with their `bits` (1 to 8) highest bits; 0 leaves one, as 1 does."""
    shift = tf.cast(tf.clip_by_value(8 - bits, 0, 7), tf.uint8)
    return tf.bitwise.bitwise_and(image, tf.bitwise.left_shift(tf.constant(255, tf.uint8), shift))


def solarize(image, threshold):
    """Pixels of at least `threshold` (0 to 256) inverted."""
    return _look_up(tf.where(threshold > LEVELS, LEVELS, 255 - LEVELS), image)


def solarize_add(image, addition, threshold=128):
    """Pixels below `threshold` made brighter by `addition`."""
    return _look_up(tf.where(threshold > LEVELS, tf.clip_by_value(LEVELS + addition, 0, 255), LEVELS), image)


def brightness(image, factor):
    """Black at `factor` 0, the image at 1."""
    levels = LEVELS.astype(np.float32)
    return _look_up(tf.clip_by_value(factor * levels, 0.0, 255.0), image)


def contrast(image, factor):
    """Each channel's mean at `factor` 0, the image at 1."""
    return tf.image.adjust_contrast(image, factor)


def color(image, factor):
    """Grey at `factor` 0, the image at 1: saturation."""
    return _blend(tf.image.rgb_to_grayscale(image), image, factor)


def sharpness(image, factor):
    """Smoothed by 3x3 pixels at `factor` 0, the image at 1; the border of one pixel stays. At least 3x3 pixels."""
    kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32, (3, 3, 1, 1)) / 13.0
    smooth = tf.nn.depthwise_conv2d(
        tf.cast(image, tf.float32)[None], tf.tile(kernel, (1, 1, 3, 1)), (1, 1, 1, 1), "VALID"
    )
    smooth = tf.cast(tf.clip_by_value(smooth[0], 0.0, 255.0), tf.uint8)
    inside = _blend(smooth, image[1:-1, 1:-1], factor)
    rows = tf.concat([image[1:-1, :1], inside, image[1:-1, -1:]], 1)
    return tf.concat([image[:1], rows, image[-1:]], 0)


def autocontrast(image):
    """Each channel stretched to 0..255."""
    indices, histogram = _histogram(image)
    present = histogram > 0
    low = tf.cast(tf.reduce_min(tf.where(present, LEVELS, 255), 1, keepdims=True), tf.float32)
    high = tf.cast(tf.reduce_max(tf.where(present, LEVELS, 0), 1, keepdims=True), tf.float32)
    scale = 255.0 / (high - low)
    levels = LEVELS.astype(np.float32)
    stretched = tf.clip_by_value(levels * scale - low * scale, 0.0, 255.0)
    return _look_up(tf.where(high > low, stretched, levels), indices)


def equalize(image):
    """Each channel with an even histogram, as far as a table of its values allows."""
    indices, histogram = _histogram(image)
    highest = tf.reduce_max(tf.where(histogram > 0, LEVELS, 0), 1)
    counted = tf.reduce_sum(histogram, 1) - tf.gather(histogram, highest, batch_dims=1)
    step = counted[:, None] // 255
    below = tf.cumsum(histogram, 1, exclusive=True)
    table = tf.minimum((below + step // 2) // tf.maximum(step, 1), 255)
    return _look_up(tf.where(step == 0, LEVELS, table), indices)


def _histogram(image):
    """Pixels as indices into three tables in a row, int32 (H, W, 3), and how often each is there, int32 (3, 256)."""
    indices = tf.cast(image, tf.int32) + CHANNEL_OFFSETS
    counts = tf.raw_ops.Bincount(arr=indices, size=768, weights=tf.constant([], tf.int32))
    return indices, tf.reshape(counts, (3, 256))


def _look_up(table, indices):
    """The table's entries, fractions cut off, at the indices: uint8 (H, W, 3)."""
    return tf.gather(tf.reshape(tf.cast(table, tf.uint8), (-1,)), tf.cast(indices, tf.int32))


def _blend(degenerate, image, factor):
    """The point at `factor` on the line from `degenerate` (0) through `image` (1), cut to 0..255, fractions cut off."""
    degenerate = tf.cast(degenerate, tf.float32)
    mixed = degenerate + factor * (tf.cast(image, tf.float32) - degenerate)
    return tf.cast(tf.clip_by_value(mixed, 0.0, 255.0), tf.uint8)
