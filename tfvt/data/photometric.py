"""Photometric distortion: brightness, contrast, saturation and hue of a training image, drawn from a seed."""

from typing import NamedTuple

import tensorflow as tf

BRIGHTNESS = 32.0  # at most added or taken away, in pixel units
LOWEST_FACTOR, HIGHEST_FACTOR = 0.5, 1.5  # of contrast and of saturation
HUE = 18 / 180  # of a turn, to either side: OpenCV counts hue in 180 steps, and these are 18 of them


class Distortion(NamedTuple):
    """What a seed draws, scalar float32 tensors, in the order in which they are applied.

    Attributes:
        brightness: is added, -32 to 32; 0: this step is left out.
        contrast_before: factor of the pixels, 0.5 to 1.5; 1: left out.
        saturation: factor of HSV's saturation, 0.5 to 1.5; 1: left out.
        hue: turn of HSV's hue, -0.1 to 0.1 (36 degrees); 0: left out.
        contrast_after: as `contrast_before`; at most one of them is not 1.
    """

    brightness: tf.Tensor
    contrast_before: tf.Tensor
    saturation: tf.Tensor
    hue: tf.Tensor
    contrast_after: tf.Tensor


def photometric_distortion(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """`distort` by what `draw` gives.

    Args:
        image: float32 (H, W, 3), 0..255.
        seed: integer tensor (2,).

    Returns:
        float32 (H, W, 3), 0..255.
    """
    return distort(image, draw(seed))


def draw(seed: tf.Tensor) -> Distortion:
    """The distortion of mmsegmentation's recipes (`PhotoMetricDistortion`; SSD, Liu et al. 2016, arXiv:1512.02325).

    Brightness, contrast, saturation and hue each change in half of the samples; in half of these contrast comes first.
    """
    coins, values = tf.unstack(tf.random.stateless_uniform((2, 5), seed))
    happens, first = coins < 0.5, coins[4] < 0.5
    brightness, hue = (tf.where(happens[i], most * (2 * values[i] - 1), 0.0) for i, most in ((0, BRIGHTNESS), (1, HUE)))
    contrast, saturation = (
        tf.where(happens[i], LOWEST_FACTOR + (HIGHEST_FACTOR - LOWEST_FACTOR) * values[i], 1.0) for i in (2, 3)
    )
    return Distortion(brightness, tf.where(first, contrast, 1.0), saturation, hue, tf.where(first, 1.0, contrast))


def distort(image: tf.Tensor, drawn: Distortion) -> tf.Tensor:
    """The image, float32 (H, W, 3), after all steps. After each of them, pixels are cut off at 0 and 255.

    Pixels stay floats, where mmsegmentation also cuts off their fractions after each step.
    """
    image = _unless(drawn.brightness == 0, lambda x: tf.clip_by_value(x + drawn.brightness, 0.0, 255.0), image)
    image = _unless(drawn.contrast_before == 1, lambda x: tf.minimum(x * drawn.contrast_before, 255.0), image)
    image = _unless(drawn.saturation == 1, lambda x: tf.image.adjust_saturation(x, drawn.saturation), image)
    image = _unless(drawn.hue == 0, lambda x: tf.image.adjust_hue(x, drawn.hue), image)
    return _unless(drawn.contrast_after == 1, lambda x: tf.minimum(x * drawn.contrast_after, 255.0), image)


def _unless(left_out, step, image):
    return tf.cond(left_out, lambda: image, lambda: step(image))
