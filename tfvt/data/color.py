"""Operations on colours, the parts of AutoAugment, RandAugment and colour jitter.

Each takes and returns one image, uint8 (H, W, 3), with the same pixels as the function of the same name in TensorFlow
official models (`official.vision.ops.augment`). The code here is written for speed: TensorFlow selects (`tf.where`),
looks up (`tf.gather`) and broadcasts pixels over channels or channels over an image ten times as slowly as it
multiplies. So masks are bytes of 0 and 255, grey is a product with ones, and channels repeat along a row.
"""

import numpy as np
import tensorflow as tf

LEVELS = np.arange(256, dtype=np.int32)


def invert(image: tf.Tensor) -> tf.Tensor:
    """255 - pixel."""
    return 255 - image


def posterize(image: tf.Tensor, bits: tf.Tensor | int) -> tf.Tensor:
    """Pixels with their `bits` (1 to 8) highest bits; 0 leaves one, as 1 does."""
    shift = tf.cast(tf.clip_by_value(8 - bits, 0, 7), tf.uint8)
    return tf.bitwise.bitwise_and(image, tf.bitwise.left_shift(tf.constant(255, tf.uint8), shift))


def solarize(image: tf.Tensor, threshold: tf.Tensor | int) -> tf.Tensor:
    """Pixels of at least `threshold` (int32, 0 to 255) inverted; 256 counts as 0, as it does in bytes."""
    bright = 255 * tf.cast(image >= tf.cast(threshold, tf.uint8), tf.uint8)
    return tf.bitwise.bitwise_xor(image, bright)


def solarize_add(image: tf.Tensor, addition: tf.Tensor | int) -> tf.Tensor:
    """Pixels below 128 made brighter by `addition` (int32, not negative)."""
    addition = tf.cast(tf.minimum(addition, 255), tf.uint8)
    added = tf.minimum(image, 255 - addition) + addition
    dark = 255 * tf.cast(image < 128, tf.uint8)
    return tf.bitwise.bitwise_xor(image, tf.bitwise.bitwise_and(tf.bitwise.bitwise_xor(image, added), dark))


def brightness(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
    """Black at `factor` 0, the image at 1."""
    return tf.cast(tf.minimum(factor * tf.cast(image, tf.float32), 255.0), tf.uint8)


def contrast(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
    """Each channel's mean at `factor` 0, the image at 1."""
    return tf.image.adjust_contrast(image, factor)


def color(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
    """Grey at `factor` 0, the image at 1: saturation."""
    grey = tf.cast(tf.reshape(tf.image.rgb_to_grayscale(image), (-1, 1)), tf.float32)
    pixels = tf.reshape(tf.cast(image, tf.float32), (-1, 3))
    return tf.reshape(_blend(tf.matmul(grey, tf.ones((1, 3))), pixels, factor), tf.shape(image))


def sharpness(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
    """Smoothed by 3x3 pixels at `factor` 0, the image at 1; the border of one pixel stays. At least 3x3 pixels."""
    pixels = tf.cast(image, tf.float32)
    kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32, (3, 3, 1, 1)) / 13.0
    smooth = tf.nn.depthwise_conv2d(pixels[None], tf.tile(kernel, (1, 1, 3, 1)), (1, 1, 1, 1), "VALID")[0]
    inside = _blend(tf.floor(tf.clip_by_value(smooth, 0.0, 255.0)), pixels[1:-1, 1:-1], factor)
    rows = tf.concat([image[1:-1, :1], inside, image[1:-1, -1:]], 1)
    return tf.concat([image[:1], rows, image[-1:]], 0)


def autocontrast(image: tf.Tensor) -> tf.Tensor:
    """Each channel stretched to 0..255, if it has two values."""
    low, high = (tf.cast(reduce(image, (0, 1)), tf.float32) for reduce in (tf.reduce_min, tf.reduce_max))
    has_range = high > low
    scale = tf.where(has_range, 255.0 / (high - low), 1.0)
    offset = tf.where(has_range, -low * scale, 0.0)
    stretched = _rows(image, tf.float32) * _along_row(scale, image) + _along_row(offset, image)
    return tf.reshape(tf.cast(tf.clip_by_value(stretched, 0.0, 255.0), tf.uint8), tf.shape(image))


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Each channel with an even histogram, as far as a table of its values allows."""
    # Three histograms and three tables in a row.
    indices = _rows(image, tf.int32) + _along_row(tf.constant((0, 256, 512)), image)
    histogram = tf.raw_ops.Bincount(arr=indices, size=768, weights=tf.constant([], tf.int32))
    histogram = tf.reshape(histogram, (3, 256))
    below = tf.cumsum(histogram, 1, exclusive=True)
    # Pixels below the highest value of the image.
    counted = tf.reduce_max(tf.where(histogram > 0, below, 0), 1, keepdims=True)
    step = counted // 255
    table = tf.minimum((below + step // 2) // tf.maximum(step, 1), 255)
    table = tf.cast(tf.where(step == 0, LEVELS, table), tf.uint8)
    # The faster of TensorFlow's two ways to look up single bytes.
    return tf.reshape(tf.gather_nd(tf.reshape(table, (-1,)), indices[:, :, None]), tf.shape(image))


def _rows(image, dtype):
    """(H, 3 W)."""
    return tf.reshape(tf.cast(image, dtype), (tf.shape(image)[0], -1))


def _along_row(channels, image):
    """(3,) as (3 W,)."""
    return tf.tile(channels, tf.shape(image)[1:2])


def _blend(degenerate, image, factor):
    """The point at `factor` on the line from `degenerate` (0) through `image` (1), cut to 0..255, fractions cut off."""
    return tf.cast(tf.clip_by_value(degenerate + factor * (image - degenerate), 0.0, 255.0), tf.uint8)
