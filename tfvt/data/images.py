"""Encoded image bytes -> float pixels: decode, crop, resize, flip, augment.

Everything is stateless TensorFlow graph code: the same bytes and the same seed give the same pixels, in the
input pipeline as well as inside an exported SavedModel. Pixels stay on the scale 0..255, models normalise them.
"""

import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import tensorflow as tf

from tfvt.data import augment
from tfvt.data.headers import is_still_webp

# Of a result, and of the resized image from which evaluation cuts its crop. Crops multiply it by a side of the source,
# at most 65,535 in a JPEG: the product fits into 32 bits.
MAX_SIDE = 2**15
MAX_RANDAUGMENT_LAYERS = 100  # the graph grows with each
INTERPOLATIONS = ("bilinear", "bicubic", "area", "nearest")
# TensorFlow's names of the kernels, and how many pixels they reach to each side.
_KERNELS = {"bilinear": ("triangle", 1.0), "bicubic": ("keyscubic", 2.0), "area": ("box", 0.5), "nearest": ("box", 0.5)}

# Each random choice folds its own number into a sample's seed: a new choice takes a new number, the others stay.
CROP_STREAM, FLIP_STREAM, COLOR_JITTER_STREAM, AUTO_AUGMENT_STREAM, RANDOM_ERASING_STREAM = range(5)


@dataclass(frozen=True)
class TrainPreprocessing:
    """Inception crop (Szegedy et al. 2015, "Going deeper with convolutions", section 6), flip, and what is asked for.

    The operations run in the order of the fields, which is that of TensorFlow official models.

    Attributes:
        image_size: (height, width) of the result in pixels.
        area_range: smallest and largest share of the image's area that a crop may have.
        aspect_range: smallest and largest width / height of a crop in source pixels.
        flip: mirror left and right in half of the samples.
        interpolation: one of `INTERPOLATIONS`.
        color_jitter: strength s of `augment.color_jitter`: brightness, contrast and saturation by factors from
            max(0, 1 - s) to 1 + s; 0: none.
        auto_augment: `augment.auto_augment` (ImageNet policy) or `augment.rand_augment`; None: neither.
        randaugment_layers: operations per image, N.
        randaugment_magnitude: level of the operations, M; most recipes stay below 10.
        randaugment_magnitude_std: standard deviation of the level.
        randaugment_probability: share of the layers that do something.
        random_erasing: share of the images that lose a box, `augment.random_erasing`.
        random_erasing_area: smallest and largest share of the image's area in the box.
    """

    image_size: tuple[int, int] = (224, 224)
    area_range: tuple[float, float] = (0.08, 1.0)
    aspect_range: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    interpolation: str = "bilinear"
    color_jitter: float = 0.0
    auto_augment: Literal["autoaugment", "randaugment"] | None = None
    randaugment_layers: int = 2
    randaugment_magnitude: float = 9.0
    randaugment_magnitude_std: float = 0.0
    randaugment_probability: float = 1.0
    random_erasing: float = 0.0
    random_erasing_area: tuple[float, float] = (0.02, 1 / 3)

    def __post_init__(self):
        _check_size_and_interpolation(self)
        low, high = self.area_range
        if not 0 < low <= high <= 1:
            raise ValueError(f"area_range must be 0 < low <= high <= 1, not {self.area_range}")
        low, high = self.aspect_range
        if not 0 < low <= high < float("inf"):
            raise ValueError(f"aspect_range must be 0 < low <= high, both finite, not {self.aspect_range}")
        if not 0 <= self.color_jitter < float("inf"):
            raise ValueError(f"color_jitter must be 0 (off) or above and finite, not {self.color_jitter}")
        if self.auto_augment not in (None, "autoaugment", "randaugment"):
            raise ValueError(f"auto_augment must be autoaugment, randaugment or null, not {self.auto_augment!r}")
        if self.auto_augment and min(self.image_size) < 3:
            raise ValueError(f"auto_augment needs at least 3x3 pixels: image_size is {self.image_size}")
        if not is_integer(self.randaugment_layers) or not 1 <= self.randaugment_layers <= MAX_RANDAUGMENT_LAYERS:
            raise ValueError(
                f"randaugment_layers must be an integer from 1 to {MAX_RANDAUGMENT_LAYERS}, "
                f"not {self.randaugment_layers}"
            )
        if not 0 <= self.randaugment_magnitude <= 30:
            raise ValueError(f"randaugment_magnitude must be from 0 to 30, not {self.randaugment_magnitude}")
        if not 0 <= self.randaugment_magnitude_std < float("inf"):
            raise ValueError(
                f"randaugment_magnitude_std must be finite and not negative: {self.randaugment_magnitude_std}"
            )
        for name in ("randaugment_probability", "random_erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, from 0 to 1, not {getattr(self, name)}")
        low, high = self.random_erasing_area
        if not 0 < low <= high <= 1:
            raise ValueError(f"random_erasing_area must be 0 < low <= high <= 1, not {self.random_erasing_area}")


@dataclass(frozen=True)
class EvalPreprocessing:
    """The customary evaluation crop: resize to `image_size / crop_ratio`, keep the centre.

    Attributes:
        image_size: (height, width) of the result in pixels.
        crop_ratio: share of the resized image's shorter side that the crop keeps (224 of 256 is 0.875).
        interpolation: one of `INTERPOLATIONS`.
    """

    image_size: tuple[int, int] = (224, 224)
    crop_ratio: float = 0.875
    interpolation: str = "bilinear"

    def __post_init__(self):
        _check_size_and_interpolation(self)
        if not 0 < self.crop_ratio <= 1:
            raise ValueError(f"crop_ratio must be above 0 and at most 1, not {self.crop_ratio}")
        if max(self.image_size) / self.crop_ratio > MAX_SIDE:
            raise ValueError(
                f"image_size / crop_ratio must be at most {MAX_SIDE} pixels a side, not "
                f"{self.image_size} / {self.crop_ratio}"
            )


def decode_and_augment(encoded: tf.Tensor, seed: tf.Tensor, preprocessing: TrainPreprocessing) -> tf.Tensor:
    """Random resized crop, flip and the other augmentations of one encoded image.

    Crops more than twice as high or wide as the result are resized with antialiasing, smaller ones without.

    Args:
        encoded: scalar string tensor, a JPEG, PNG, GIF (first frame), BMP or WebP file.
        seed: integer tensor (2,); the result is a pure function of it and of `encoded`.
        preprocessing: what to do.

    Returns:
        float32 (H, W, 3), 0..255 except for the noise of random erasing.

    Raises:
        tf.errors.InvalidArgumentError: the bytes are not an image, or are a JPEG that ends early.
    """

    def window(height, width):
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.stack([height, width, 3]),
            bounding_boxes=tf.zeros((0, 1, 4)),  # no objects: any part of the image will do
            seed=tf.random.fold_in(seed, CROP_STREAM),
            min_object_covered=0.0,
            aspect_ratio_range=preprocessing.aspect_range,
            area_range=preprocessing.area_range,
            max_attempts=100,  # then the whole image
            use_image_if_no_bounding_boxes=True,
        )
        return begin[0], begin[1], size[0], size[1]

    image, _, _ = decode_window(encoded, window)
    # Antialiasing takes seven times as long as plain resizing (1.3 against 0.2 ms of a core). Down to half the size,
    # interpolation does not need it: it still reads every pixel.
    shrinks_much = tf.reduce_any(tf.shape(image)[:2] > 2 * tf.constant(preprocessing.image_size))
    image = tf.cond(
        shrinks_much,
        lambda: _resize(image, preprocessing, antialias=True),
        lambda: _resize(image, preprocessing, antialias=False),
    )
    if preprocessing.flip:
        image = tf.image.stateless_random_flip_left_right(image, tf.random.fold_in(seed, FLIP_STREAM))
    if preprocessing.color_jitter or preprocessing.auto_augment:
        image = tf.cast(_augment_bytes(tf.cast(tf.round(image), tf.uint8), seed, preprocessing), tf.float32)
    if preprocessing.random_erasing:
        image = augment.random_erasing(
            image,
            tf.random.fold_in(seed, RANDOM_ERASING_STREAM),
            probability=preprocessing.random_erasing,
            area_range=preprocessing.random_erasing_area,
        )
    return image


def _augment_bytes(image, seed, preprocessing):
    """The operations on whole numbers: uint8 (H, W, 3) to the same."""
    if preprocessing.color_jitter:
        jitter_seed = tf.random.fold_in(seed, COLOR_JITTER_STREAM)
        image = augment.color_jitter(image, jitter_seed, preprocessing.color_jitter)
    auto_seed = tf.random.fold_in(seed, AUTO_AUGMENT_STREAM)
    if preprocessing.auto_augment == "autoaugment":
        image = augment.auto_augment(image, auto_seed)
    elif preprocessing.auto_augment == "randaugment":
        image = augment.rand_augment(
            image,
            auto_seed,
            layers=preprocessing.randaugment_layers,
            magnitude=preprocessing.randaugment_magnitude,
            magnitude_std=preprocessing.randaugment_magnitude_std,
            probability=preprocessing.randaugment_probability,
        )
    return image


def decode_and_center_crop(encoded: tf.Tensor, preprocessing: EvalPreprocessing) -> tf.Tensor:
    """Centre crop of one encoded image, see `center_crop`. EXIF rotation is ignored: conversion has applied it.

    Args:
        encoded: scalar string tensor, a JPEG (also grey or CMYK), PNG, GIF (first frame), BMP or WebP file.
        preprocessing: what to do.

    Returns:
        float32 (H, W, 3), 0..255.

    Raises:
        tf.errors.InvalidArgumentError: the bytes are not an image, or are a JPEG that ends early.
    """
    return center_crop(lambda window: decode_window(encoded, window), preprocessing)


def center_crop(read: Callable, preprocessing: EvalPreprocessing) -> tf.Tensor:
    """Centre crop of one image: deterministic, for evaluation and serving.

    This is how published numbers are measured: resize the image so that it just covers `image_size / crop_ratio`
    (rounded down), the other side rounded down too, with the antialiasing of Pillow; then cut out the centre. The code
    reads and resizes only the part of the source that the crop shows.

    Args:
        read: gives the part of the image that a window shows: `decode_window` of its bytes, or `pixel_window` of it.
        preprocessing: what to do.

    Returns:
        float32 (H, W, 3), 0..255.
    """
    target = tf.constant(preprocessing.image_size)
    kernel, reach = _KERNELS[preprocessing.interpolation]

    def window(height, width):
        """The part of the source that the crop's pixels and the kernel around them read."""
        begin, per_pixel = crop_of(tf.stack([height, width]))
        margin = reach * tf.maximum(per_pixel, 1.0) + 1.0
        first = tf.cast(tf.floor(begin * per_pixel - margin), tf.int32)
        last = tf.cast(tf.math.ceil((begin + tf.cast(target, tf.float32)) * per_pixel + margin), tf.int32)
        y, x = tf.unstack(tf.maximum(first, 0))
        return y, x, tf.minimum(last[0], height) - y, tf.minimum(last[1], width) - x

    def crop_of(size):
        """Where the crop begins in the resized image (y, x), and source pixels per resized one on each axis."""
        covered = tf.constant([int(side / preprocessing.crop_ratio + 1e-6) for side in preprocessing.image_size])
        by_height = covered[0] * size[1] >= covered[1] * size[0]
        side, of = tf.where(by_height, covered[0], covered[1]), tf.where(by_height, size[0], size[1])
        resized = size * side // of
        begin = tf.round(tf.cast(resized - target, tf.float32) / 2)
        return begin, tf.cast(size, tf.float32) / tf.cast(resized, tf.float32)

    image, origin, size = read(window)
    begin, per_pixel = crop_of(size)
    origin = tf.cast(origin, tf.float32)
    if preprocessing.interpolation == "nearest":
        for axis, side in enumerate(preprocessing.image_size):
            places = (begin[axis] + tf.range(side, dtype=tf.float32) + 0.5) * per_pixel[axis] - origin[axis]
            image = tf.gather(image, tf.cast(tf.floor(places), tf.int32), axis=axis)
        return tf.ensure_shape(tf.cast(image, tf.float32), (*preprocessing.image_size, 3))
    resized = tf.raw_ops.ScaleAndTranslate(
        images=image[None],  # bytes: as floats they would take four times the memory
        size=target,
        scale=1 / per_pixel,
        translation=origin / per_pixel - begin,
        kernel_type=kernel,
        antialias=True,
    )
    return tf.ensure_shape(
        tf.clip_by_value(resized[0], 0.0, 255.0), (*preprocessing.image_size, 3)
    )  # bicubic overshoots


def decode_window(encoded: tf.Tensor, window: Callable) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The part `window(height, width) -> (y, x, height, width)` of an encoded image, all scalar int32 tensors.

    Returns:
        uint8 (h, w, 3); int32 (y, x); int32 (height, width) of the whole image.

    Raises:
        tf.errors.InvalidArgumentError: the bytes are not an image, or are a JPEG that ends early.
    """

    def jpeg():
        # Decoding only the window saves most of the time for small crops. Grey and CMYK files come out as RGB.
        # The accurate transform gives Pillow's pixels; the default is off by 1 on average, by up to 18.
        height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(encoded))
        crop = tf.stack(window(height, width))
        image = tf.io.decode_and_crop_jpeg(encoded, crop, channels=3, dct_method="INTEGER_ACCURATE")
        return image, crop[:2], tf.stack([height, width])

    image, origin, size = tf.cond(tf.io.is_jpeg(encoded), jpeg, lambda: pixel_window(_decode_other(encoded), window))
    image.set_shape((None, None, 3))
    return image, origin, size


def pixel_window(image: tf.Tensor, window: Callable) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """As `decode_window`, of an image that is decoded: uint8 (H, W, 3), or with further channels, which are dropped."""
    height, width, _ = tf.unstack(tf.shape(image))
    y, x, high, wide = window(height, width)
    part = tf.ensure_shape(image[y : y + high, x : x + wide, :3], (None, None, 3))
    return part, tf.stack([y, x]), tf.stack([height, width])


def part_window(whole: tf.Tensor, per_pixel: tf.Tensor, begin: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """What of an image `resized_part` reads, as `decode_window` asks for it.

    Args:
        whole: (height, width) of the image, int32 (2,).
        per_pixel, begin, size: as for `resized_part`. Of a part that lies outside, anything inside is given.
    """
    margin = 2.0  # one pixel for the kernel, one for rounding
    first = tf.cast(tf.floor(begin * per_pixel - margin), tf.int32)
    last = tf.cast(tf.math.ceil((begin + tf.cast(size, tf.float32)) * per_pixel + margin), tf.int32)
    first = tf.clip_by_value(first, 0, whole - 1)
    last = tf.clip_by_value(last, first + 1, whole)
    return *tf.unstack(first), *tf.unstack(last - first)


def resized_part(
    pixels: tf.Tensor, origin: tf.Tensor, per_pixel: tf.Tensor, begin: tf.Tensor, size: tf.Tensor
) -> tf.Tensor:
    """A part of a resized image, of which only what it shows is resized: bilinear, half-pixel centres.

    Args:
        pixels: of the source around the part, uint8 (H, W, 3).
        origin: their upper left corner (y, x) in the source, int32 (2,).
        per_pixel: pixels of the source per resized one on each axis, float32 (2,).
        begin: where the part begins in the resized image (y, x), float32 (2,).
        size: (height, width) of the part, int32 (2,).

    Returns:
        float32 (h, w, 3), 0..255.
    """
    image = tf.raw_ops.ScaleAndTranslate(
        images=pixels[None],  # bytes: as floats they would take four times the memory
        size=size,
        scale=1 / per_pixel,
        translation=tf.cast(origin, tf.float32) / per_pixel - begin,
        kernel_type="triangle",
        antialias=False,
    )[0]
    return tf.ensure_shape(image, (None, None, 3))


def _decode_other(encoded):
    """A file in any format except JPEG: uint8 (H, W, 3 or 4)."""
    return tf.cond(
        is_still_webp(tf.stack([encoded]))[0],
        # For WebP, TensorFlow returns the channels that the file has, or fails.
        lambda: tf.io.decode_image(encoded, channels=0, expand_animations=False),
        lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
    )


def _resize(image, preprocessing, antialias):
    """float32 (H, W, 3), 0..255."""
    image = tf.image.resize(image, preprocessing.image_size, preprocessing.interpolation, antialias=antialias)
    image = tf.clip_by_value(tf.cast(image, tf.float32), 0.0, 255.0)  # bicubic overshoots
    return tf.ensure_shape(image, (*preprocessing.image_size, 3))


def is_integer(value: Any) -> bool:
    """Whether `value` is a whole number, True and False aside."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_size(name: str, size: Sequence[int]) -> None:
    """Raise a ValueError that says `name` unless `size` is two numbers of pixels."""
    if len(size) != 2 or not all(is_integer(side) and 1 <= side <= MAX_SIDE for side in size):
        raise ValueError(f"{name} must be two numbers of pixels, integers from 1 to {MAX_SIDE}, not {size}")


def _check_size_and_interpolation(preprocessing):
    check_size("image_size", preprocessing.image_size)
    if preprocessing.interpolation not in INTERPOLATIONS:
        raise ValueError(
            f"interpolation must be one of {', '.join(INTERPOLATIONS)}, not {preprocessing.interpolation!r}"
        )
