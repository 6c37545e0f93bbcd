"""AutoAugment, RandAugment, colour jitter and random erasing: random operations, drawn from a seed.

Every function is a pure function of image and seed. Operations and magnitudes are those of TensorFlow official models.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfvt.data import color, geometry

MAX_LEVEL = 10.0
IMAGENET_MEAN = np.array((123.675, 116.28, 103.53), np.float32)
IMAGENET_STD = np.array((58.395, 57.12, 57.375), np.float32)


class Operation(NamedTuple):
    """An operation and what a level from 0 to 10 means to it: `scale * level / 10 + offset`.

    Attributes:
        apply: (image, argument, center) -> image; `center` is a random place, float32 (2,) in [0, 1).
        scale: of the argument.
        offset: the argument at level 0.
        whole: the argument is a whole number, rounded down.
        signed: the argument is negative in half of the cases.
    """

    apply: Callable
    scale: float = 0.0
    offset: float = 0.0
    whole: bool = False
    signed: bool = False


def operations(translate_pixels: float) -> dict[str, Operation]:
    """The operations of Cubuk et al. 2020, section 3.1, and SolarizeAdd; level 10 moves by `translate_pixels`."""
    enhance = {"scale": 1.8, "offset": 0.1}
    translate = {"scale": translate_pixels, "signed": True}
    return {
        "AutoContrast": Operation(lambda image, _, __: color.autocontrast(image)),
        "Equalize": Operation(lambda image, _, __: color.equalize(image)),
        "Invert": Operation(lambda image, _, __: color.invert(image)),
        "Rotate": Operation(lambda image, degrees, _: geometry.rotate(image, degrees), 30.0, signed=True),
        "Posterize": Operation(lambda image, bits, _: color.posterize(image, _whole(bits)), 4.0, whole=True),
        "Solarize": Operation(lambda image, least, _: color.solarize(image, _whole(least)), 256.0, whole=True),
        "Color": Operation(lambda image, factor, _: color.color(image, factor), **enhance),
        "Contrast": Operation(lambda image, factor, _: color.contrast(image, factor), **enhance),
        "Brightness": Operation(lambda image, factor, _: color.brightness(image, factor), **enhance),
        "Sharpness": Operation(lambda image, factor, _: color.sharpness(image, factor), **enhance),
        "ShearX": Operation(lambda image, level, _: geometry.shear_x(image, level), 0.3, signed=True),
        "ShearY": Operation(lambda image, level, _: geometry.shear_y(image, level), 0.3, signed=True),
        "TranslateX": Operation(lambda image, pixels, _: geometry.translate_x(image, pixels), **translate),
        "TranslateY": Operation(lambda image, pixels, _: geometry.translate_y(image, pixels), **translate),
        "Cutout": Operation(lambda image, half, center: geometry.cutout(image, _whole(half), center), 40.0, whole=True),
        "SolarizeAdd": Operation(lambda image, added, _: color.solarize_add(image, _whole(added)), 110.0, whole=True),
    }


def _whole(argument):
    return tf.cast(argument, tf.int32)


# The ImageNet policy of AutoAugment as released ("v0"): sub-policies of (operation, probability, level).
IMAGENET_POLICY = (
    (("Equalize", 0.8, 1), ("ShearY", 0.8, 4)),
    (("Color", 0.4, 9), ("Equalize", 0.6, 3)),
    (("Color", 0.4, 1), ("Rotate", 0.6, 8)),
    (("Solarize", 0.8, 3), ("Equalize", 0.4, 7)),
    (("Solarize", 0.4, 2), ("Solarize", 0.6, 2)),
    (("Color", 0.2, 0), ("Equalize", 0.8, 8)),
    (("Equalize", 0.4, 8), ("SolarizeAdd", 0.8, 3)),
    (("ShearX", 0.2, 9), ("Rotate", 0.6, 8)),
    (("Color", 0.6, 1), ("Equalize", 1.0, 2)),
    (("Invert", 0.4, 9), ("Rotate", 0.6, 0)),
    (("Equalize", 1.0, 9), ("ShearY", 0.6, 3)),
    (("Color", 0.4, 7), ("Equalize", 0.6, 0)),
    (("Posterize", 0.4, 6), ("AutoContrast", 0.4, 7)),
    (("Solarize", 0.6, 8), ("Color", 0.6, 9)),
    (("Solarize", 0.2, 4), ("Rotate", 0.8, 9)),
    (("Rotate", 1.0, 7), ("TranslateY", 0.8, 9)),
    (("ShearX", 0.0, 0), ("Solarize", 0.8, 4)),
    (("ShearY", 0.8, 0), ("Color", 0.6, 4)),
    (("Color", 1.0, 0), ("Rotate", 0.6, 2)),
    (("Equalize", 0.8, 4), ("Equalize", 0.0, 8)),
    (("Equalize", 1.0, 4), ("AutoContrast", 0.6, 2)),
    (("ShearY", 0.4, 7), ("SolarizeAdd", 0.6, 7)),
    (("Posterize", 0.8, 2), ("Solarize", 0.6, 10)),
    (("Solarize", 0.6, 8), ("Equalize", 0.6, 1)),
    (("Color", 0.8, 6), ("Rotate", 0.4, 5)),
)


RANDAUGMENT_OPERATIONS = operations(translate_pixels=100.0)
AUTOAUGMENT_OPERATIONS = {
    name: operation
    for name, operation in operations(translate_pixels=250.0).items()
    if name in {name for policy in IMAGENET_POLICY for name, _, _ in policy}
}

# What a seed draws, see `apply_drawn`: operations, their arguments, and places in the image.
Drawn = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


def auto_augment(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """AutoAugment with the ImageNet policy (Cubuk et al. 2019, arXiv:1805.09501; the released policy "v0").

    The seed draws one of 25 sub-policies and applies each of its two operations with its own probability.

    Args:
        image: uint8 (H, W, 3), at least 3x3.
        seed: integer tensor (2,).

    Returns:
        uint8 (H, W, 3).
    """
    return apply_drawn(image, list(AUTOAUGMENT_OPERATIONS.values()), draw_auto_augment(seed), layers=2)


def rand_augment(
    image: tf.Tensor,
    seed: tf.Tensor,
    *,
    layers: int = 2,
    magnitude: float = 9.0,
    magnitude_std: float = 0.0,
    probability: float = 1.0,
) -> tf.Tensor:
    """RandAugment (Cubuk et al. 2020, arXiv:1909.13719): each layer draws one of 17 operations, one of them identity.

    Args:
        image: uint8 (H, W, 3), at least 3x3.
        seed: integer tensor (2,).
        layers: operations one after the other, the paper's N.
        magnitude: level of all operations, the paper's M; the ranges of arguments are made for 10.
        magnitude_std: standard deviation of the level, drawn for each operation; levels then stay in 0..10, or below
            `magnitude` if that is higher.
        probability: share of the layers that do something.

    Returns:
        uint8 (H, W, 3).
    """
    drawn = draw_rand_augment(seed, layers, magnitude, magnitude_std, probability)
    return apply_drawn(image, list(RANDAUGMENT_OPERATIONS.values()), drawn, layers)


def draw_auto_augment(seed: tf.Tensor) -> Drawn:
    """What `apply_drawn` takes, of AUTOAUGMENT_OPERATIONS in two layers."""
    known, names = list(AUTOAUGMENT_OPERATIONS.values()), list(AUTOAUGMENT_OPERATIONS)
    index = np.array([[names.index(name) for name, _, _ in policy] for policy in IMAGENET_POLICY])  # (25, 2)
    chance = np.array([[chance for _, chance, _ in policy] for policy in IMAGENET_POLICY], np.float32)
    level = np.array([[level for _, _, level in policy] for policy in IMAGENET_POLICY])  # (25, 2)
    applied, choice, sign, *center = tf.unstack(tf.random.stateless_uniform((5, 2), seed))  # (2,) each
    chosen = tf.cast(choice[0] * len(IMAGENET_POLICY), tf.int32)
    argument, negative = (tf.gather(table, chosen) for table in arguments(known, index, level))  # (2,) each
    index = tf.where(applied < tf.gather(chance, chosen), tf.gather(index.astype(np.int32), chosen), len(known))
    return index, tf.where(sign < negative, -argument, argument), tf.stack(center, 1)


def draw_rand_augment(
    seed: tf.Tensor, layers: int, magnitude: float, magnitude_std: float, probability: float
) -> Drawn:
    """What `apply_drawn` takes, of RANDAUGMENT_OPERATIONS."""
    known = list(RANDAUGMENT_OPERATIONS.values())
    applied, choice, sign, *center = tf.unstack(tf.random.stateless_uniform((5, layers), tf.random.fold_in(seed, 0)))
    index = tf.cast(choice * (len(known) + 1), tf.int32)  # (layers,)
    level = np.full((layers, 1), magnitude)
    if magnitude_std:
        noise = tf.random.stateless_normal((layers, 1), tf.random.fold_in(seed, 1), dtype=tf.float64)
        level = tf.clip_by_value(level + magnitude_std * noise, 0.0, max(magnitude, MAX_LEVEL))
    argument, negative = arguments(known, np.arange(len(known) + 1), level)  # (layers, n + 1), (n + 1,)
    argument = tf.gather(argument, index, batch_dims=1)  # (layers,)
    index = tf.where(applied < probability, index, len(known))
    return index, tf.where(sign < tf.gather(negative, index), -argument, argument), tf.stack(center, 1)


def arguments(
    known: Sequence[Operation], index: np.ndarray, level: np.ndarray | tf.Tensor
) -> tuple[tf.Tensor, np.ndarray]:
    """What levels (float64) mean to the operations of an index, and how often that is negative, both float32."""
    scale, offset = (np.array([getattr(op, part) for op in known] + [0.0])[index] for part in ("scale", "offset"))
    whole, signed = (np.array([getattr(op, part) for op in known] + [False])[index] for part in ("whole", "signed"))
    # In double precision, as in Python: 0.7 * 110 must not become 76 when its fraction is cut off.
    argument = level / MAX_LEVEL * scale + offset
    argument = tf.where(whole, tf.floor(argument), argument)
    return tf.cast(argument, tf.float32), np.float32(0.5) * signed.astype(np.float32)


def apply_drawn(image: tf.Tensor, known: Sequence[Operation], drawn: Drawn, layers: int) -> tf.Tensor:
    """One known operation after the other.

    Args:
        image: uint8 (H, W, 3).
        known: list of `Operation`.
        drawn: for each layer the place of its operation in the list (past its end: none), int32 (layers,); its
            argument, float32 (layers,); a place in the image, float32 (layers, 2) in [0, 1).
        layers: how many.
    """
    for index, argument, center in zip(*(tf.unstack(part, layers) for part in drawn), strict=True):
        branches = [partial(operation.apply, image, argument, center) for operation in known]
        image = tf.ensure_shape(
            tf.switch_case(index, branches, default=partial(tf.identity, image)), (*image.shape[:2], 3)
        )
    return image


def color_jitter(image: tf.Tensor, seed: tf.Tensor, strength: float) -> tf.Tensor:
    """Brightness, contrast and saturation, in this order, each by a factor from max(0, 1 - s) to 1 + s.

    Args:
        image: uint8 (H, W, 3).
        seed: integer tensor (2,).
        strength: s, the same for all three (0.4 is customary).

    Returns:
        uint8 (H, W, 3).
    """
    factors = tf.random.stateless_uniform((3,), seed, max(0.0, 1.0 - strength), 1.0 + strength)
    image = color.brightness(image, factors[0])
    image = color.contrast(image, factors[1])
    return color.color(image, factors[2])


def random_erasing(
    image: tf.Tensor,
    seed: tf.Tensor,
    *,
    probability: float,
    area_range: tuple[float, float] = (0.02, 1 / 3),
    aspect_range: tuple[float, float] = (0.3, 1 / 0.3),
) -> tf.Tensor:
    """A box of noise (Zhong et al. 2020, "Random Erasing Data Augmentation", algorithm 1).

    The noise is normal, with the mean and the standard deviation of ImageNet's colours. For a model that normalises by
    them, this is standard normal noise, as official models and timm add it. It may leave 0..255.

    Args:
        image: float32 (H, W, 3), 0..255.
        seed: integer tensor (2,).
        probability: share of the images that lose a box.
        area_range: smallest and largest share of the image's area in a box.
        aspect_range: smallest and largest height / width of a box, uniform in its logarithm.

    Returns:
        float32 (H, W, 3).
    """
    draws = tf.random.stateless_uniform((), tf.random.fold_in(seed, 0))

    def erase():
        top, left, height, width = erased_box(tf.shape(image), tf.random.fold_in(seed, 1), area_range, aspect_range)
        noise = tf.random.stateless_normal(tf.stack([height, width, 3]), tf.random.fold_in(seed, 2))
        return geometry.paste(image, IMAGENET_MEAN + IMAGENET_STD * noise, top, left)

    return tf.cond(draws < probability, erase, lambda: image)


def erased_box(
    image_shape: tf.Tensor,
    seed: tf.Tensor,
    area_range: tuple[float, float],
    aspect_range: tuple[float, float],
    trials: int = 10,
) -> list[tf.Tensor]:
    """(top, left, height, width) of the first of `trials` draws that is smaller than the image; none: all zero."""
    draws = tf.random.stateless_uniform((4, trials), seed)
    size = tf.cast(image_shape[:2, None], tf.float32)  # (2, 1)
    area = size[0] * size[1] * (area_range[0] + (area_range[1] - area_range[0]) * draws[0])  # (trials,)
    low, high = math.log(aspect_range[0]), math.log(aspect_range[1])
    aspect = tf.exp(low + (high - low) * draws[1])
    box = tf.round(tf.sqrt(tf.stack([area * aspect, area / aspect])))  # (2, trials)
    fits = tf.reduce_all(box < size, 0)  # (trials,)
    corner = tf.floor(draws[2:] * (size - box + 1.0))  # (2, trials)
    boxes = tf.where(fits, tf.concat([corner, box], 0), 0.0)  # (4, trials)
    return tf.unstack(tf.cast(boxes[:, tf.argmax(tf.cast(fits, tf.int32))], tf.int32))
