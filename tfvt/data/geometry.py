"""Operations that move pixels or cover them, which AutoAugment, RandAugment and random erasing are made of.

Rotation, shear and translation take and give one image, uint8 (H, W, 3), and have the pixels that the function of the
same name in TensorFlow official models (`official.vision.ops.augment`) gives: the nearest source pixel, and the image
reflected at its border where the source would lie outside. (The published AutoAugment fills with grey there.)
"""

import math

import tensorflow as tf


def rotate(image, degrees):
    """Counter-clockwise around the centre."""
    radians = degrees * (math.pi / 180.0)
    height, width = (tf.cast(size - 1, tf.float32) for size in tf.unstack(tf.shape(image)[:2]))
    cos, sin = tf.cos(radians), tf.sin(radians)
    x_offset = (width - (cos * width - sin * height)) / 2.0
    y_offset = (height - (sin * width + cos * height)) / 2.0
    return _transform(image, cos, -sin, x_offset, sin, cos, y_offset)


def shear_x(image, level):
    """Each row moved left by `level` times its distance from the top."""
    return _transform(image, 1.0, level, 0.0, 0.0, 1.0, 0.0)


def shear_y(image, level):
    """Each column moved up by `level` times its distance from the left."""
    return _transform(image, 1.0, 0.0, 0.0, level, 1.0, 0.0)


def translate_x(image, pixels):
    """Moved left by `pixels`."""
    return _transform(image, 1.0, 0.0, pixels, 0.0, 1.0, 0.0)


def translate_y(image, pixels):
    """Moved up by `pixels`."""
    return _transform(image, 1.0, 0.0, 0.0, 0.0, 1.0, pixels)


def paste(image, patch, top, left):
    """`image` (H, W, C) with `patch` (h, w, C) over it, its upper left pixel at row `top` and column `left`."""
    bottom, right = top + tf.shape(patch)[0], left + tf.shape(patch)[1]
    rows = tf.concat([image[top:bottom, :left], patch, image[top:bottom, right:]], 1)
    return tf.ensure_shape(tf.concat([image[:top], rows, image[bottom:]], 0), image.shape)


def cutout(image, half_size, center):
    """A grey square of twice `half_size` pixels (DeVries and Taylor 2017), cut off at the image's border.

    Args:
        image: uint8 (H, W, 3).
        half_size: int32 scalar.
        center: float32 (2,) in [0, 1), of height and width.
    """
    size = tf.shape(image)[:2]
    pixel = tf.cast(center * tf.cast(size, tf.float32), tf.int32)
    begin, end = tf.maximum(pixel - half_size, 0), tf.minimum(pixel + half_size, size)
    patch = tf.fill(tf.concat([end - begin, [3]], 0), tf.constant(128, image.dtype))
    return paste(image, patch, begin[0], begin[1])


def _transform(image, x_of_x, x_of_y, x_offset, y_of_x, y_of_y, y_offset):
    """Output pixel (x, y) is the source's (x_of_x x + x_of_y y + x_offset, y_of_x x + y_of_y y + y_offset)."""
    # The kernel works out the source of every number, not of every pixel: three bytes and a spare one in one integer.
    packed = tf.bitcast(tf.pad(image, ((0, 0), (0, 0), (0, 1))), tf.int32)
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=packed[None, :, :, None],
        transforms=tf.stack([[x_of_x, x_of_y, x_offset, y_of_x, y_of_y, y_offset, 0.0, 0.0]]),
        output_shape=tf.shape(image)[:2],
        fill_value=0.0,
        interpolation="NEAREST",
        fill_mode="REFLECT",
    )
    moved = tf.bitcast(moved[0, :, :, 0], tf.uint8)[:, :, :3]
    return tf.ensure_shape(moved, image.shape)
