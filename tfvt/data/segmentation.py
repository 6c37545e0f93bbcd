"""Segmentation: records become images with masks, which are resized, cropped and mirrored together."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import tensorflow as tf

from tfvt.checks import check_choice
from tfvt.data.geometry import paste
from tfvt.data.images import check_size, decode_window, is_integer, part_window, resized_part
from tfvt.data.order import HostShare
from tfvt.data.photometric import photometric_distortion
from tfvt.data.records import ENCODED, MASK, VOID, RecordSet

FILL = (123.675, 116.28, 103.53)  # ImageNet's mean colour
CROP_TRIES = 10
MAX_FACTOR = 16.0  # of a size
MAX_SIZE_MULTIPLE = 1024
BLANK_SIDE = 32  # pixels of the image that stands for a damaged one in evaluation
PNG_SIGNATURE = list(b"\x89PNG\r\n\x1a\n")
DEPTH_AND_COLOR = slice(24, 26)  # in a PNG's header
GREY_8 = [8, 0]

# Each random choice folds its own number into a sample's seed: a new choice takes a new number, the others stay.
SCALE_STREAM, CROP_STREAM, FLIP_STREAM, DISTORTION_STREAM = range(4)

SOUND, NO_MASK, NOT_GREY, OTHER_SIZE, WRONG_CLASS = range(5)  # of a mask, until the stream refuses it


@dataclass(frozen=True)
class SegmentationTraining:
    """Resize, crop, flip and distortion of an image and its mask, in this order, as mmsegmentation's recipes have them.

    Attributes:
        image_size: (height, width) of the crop in pixels. A smaller image lies in its upper left corner.
        scale: the longer and the shorter side that an image is resized to fit in, keeping its shape; None: its own
            size.
        scale_range: smallest and largest random factor of that size (uniform).
        max_class_share: largest share of one class among a crop's pixels that are not void; a crop above it is drawn
            again, ten times at most. 1: any crop will do.
        flip: mirror left and right in half of the samples; not for classes that have sides, such as a left arm.
        photometric_distortion: change brightness, contrast, saturation and hue of the image
            (`tfvt.data.photometric`).
        fill: colour around an image that is smaller than the crop; its mask is void there.

    Raises:
        ValueError: a number out of its range.
    """

    image_size: tuple[int, int] = (512, 512)
    scale: tuple[int, int] | None = (2048, 512)
    scale_range: tuple[float, float] = (0.5, 2.0)
    max_class_share: float = 0.75
    flip: bool = True
    photometric_distortion: bool = True
    fill: tuple[float, float, float] = FILL

    def __post_init__(self):
        check_size("image_size", self.image_size)
        if self.scale is not None:
            check_size("scale", self.scale)
        low, high = self.scale_range
        if not 0 < low <= high <= MAX_FACTOR:
            raise ValueError(f"scale_range must be 0 < low <= high <= {MAX_FACTOR:g}, not {self.scale_range}")
        if not 0 < self.max_class_share <= 1:
            raise ValueError(f"max_class_share must be above 0 and at most 1, not {self.max_class_share}")
        if len(self.fill) != 3 or not all(0 <= channel <= 255 for channel in self.fill):
            raise ValueError(f"fill must be red, green and blue from 0 to 255, not {self.fill}")


@dataclass(frozen=True)
class SegmentationEvaluation:
    """How a whole image becomes probabilities, in evaluation and in serving.

    Attributes:
        scale: the longer and the shorter side that an image is resized to fit in, keeping its shape; None: its own
            size.
        size_multiple: the sides are then resized up to a multiple of this (PVT: 32).
        mode: show the model the whole image, or slide a window over it.
        window: slide: (height, width) of the window in pixels.
        stride: slide: rows and columns from one window to the next; where windows overlap, logits are averaged.
        scales: factors of the size; the probabilities of several are averaged.
        flip: average with the probabilities of the mirror image, too.

    Raises:
        ValueError: a number out of its range, or another mode.
    """

    scale: tuple[int, int] | None = None
    size_multiple: int = 1
    mode: Literal["whole", "slide"] = "whole"
    window: tuple[int, int] = (512, 512)
    stride: tuple[int, int] = (341, 341)
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self):
        if self.scale is not None:
            check_size("scale", self.scale)
        if not is_integer(self.size_multiple) or not 1 <= self.size_multiple <= MAX_SIZE_MULTIPLE:
            raise ValueError(
                f"size_multiple must be an integer from 1 to {MAX_SIZE_MULTIPLE}, not {self.size_multiple}"
            )
        check_choice("mode", self.mode, ("whole", "slide"))
        check_size("window", self.window)
        check_size("stride", self.stride)
        if any(step > side for step, side in zip(self.stride, self.window, strict=True)):
            raise ValueError(f"stride must be at most window {self.window}, or pixels are left out: {self.stride}")
        if not self.scales or not all(0 < factor <= MAX_FACTOR for factor in self.scales):
            raise ValueError(
                f"scales must be one or more factors above 0 and at most {MAX_FACTOR:g}, not {self.scales}"
            )


@dataclass(frozen=True)
class SegmentationSamples:
    """Images with masks, as `tfvt.data.stream` asks for them.

    A training sample is {"image": float32 (h, w, 3) 0..255, "mask": int32 (h, w)} of the crop's size. An evaluation
    sample is {"image": uint8 (H, W, 3), "mask": uint8 (H, W)} of the record's own size; `image_stream` delivers such.
    Masks hold classes from 0, and `VOID` where a pixel has none.

    Attributes:
        num_classes: classes are below it.
        settings: augmentation in training.
    """

    num_classes: int
    settings: SegmentationTraining | SegmentationEvaluation

    features: ClassVar[tuple[str, ...]] = (ENCODED, MASK)

    @classmethod
    def of(cls, records: RecordSet, settings: SegmentationTraining | SegmentationEvaluation) -> "SegmentationSamples":
        """The samples of a set of records."""
        return cls(records.num_classes, settings)

    def decode(self, features: dict[str, tf.Tensor], seed: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """One image, its mask, and as "fault" what is wrong with the mask."""
        mask, fault = _decode_mask(features[MASK], self.num_classes)
        mask_size = tf.shape(mask)
        if seed is None:
            image, _, size = decode_window(features[ENCODED], lambda height, width: (0, 0, height, width))
        else:
            image, mask, size = _augment(features[ENCODED], mask, seed, self.settings)
        other_size = (fault != NO_MASK) & (fault != NOT_GREY) & tf.reduce_any(mask_size != size)
        return {"image": image, "mask": mask, "fault": tf.where(other_size, OTHER_SIZE, fault)}

    def blank(self) -> dict[str, tf.Tensor]:
        """An image of one colour, all of it void; in evaluation a small one."""
        training = isinstance(self.settings, SegmentationTraining)
        size = self.settings.image_size if training else (BLANK_SIDE, BLANK_SIDE)
        image = tf.broadcast_to(tf.constant(self.settings.fill if training else FILL, tf.float32), (*size, 3))
        mask = tf.fill(size, VOID)
        if not training:
            image, mask = tf.cast(image, tf.uint8), tf.cast(mask, tf.uint8)
        return {"image": image, "mask": mask, "fault": tf.constant(SOUND)}

    def faults(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Records without a mask, and masks that do not belong to the image or to the class list."""
        texts = {
            NO_MASK: "has no mask, as records of class folders have none: segmentation needs images with masks, which "
            "`tfvt records convert --layout` writes",
            NOT_GREY: "has a mask that is not a grey PNG of 8 bits",
            OTHER_SIZE: "has a mask of another size than its image",
            WRONG_CLASS: f"has a mask with a class that is not from 0 to {self.num_classes - 1}, as the manifest says, "
            f"nor {VOID} for none",
        }
        return {text: batch["fault"] == fault for fault, text in texts.items()}

    def finish(self, batch: dict[str, tf.Tensor], seed: tf.Tensor | None, share: HostShare) -> dict[str, tf.Tensor]:
        """The batch without its faults: there are none."""
        return {name: value for name, value in batch.items() if name != "fault"}


def _decode_mask(encoded, num_classes):
    """uint8 (H, W) and what is wrong with it, int32; one void pixel in place of a mask that cannot be read.

    Raises:
        tf.errors.InvalidArgumentError: a grey PNG that does not decode.
    """
    head = tf.io.decode_raw(encoded, tf.uint8, fixed_length=DEPTH_AND_COLOR.stop)
    is_grey = tf.reduce_all(head[: len(PNG_SIGNATURE)] == PNG_SIGNATURE) & tf.reduce_all(
        head[DEPTH_AND_COLOR] == GREY_8
    )
    mask = tf.cond(
        is_grey,
        lambda: tf.io.decode_png(encoded, channels=1)[..., 0],
        lambda: tf.fill((1, 1), tf.constant(VOID, tf.uint8)),
    )
    highest = tf.cast(tf.reduce_max(mask + 1), tf.int32) - 1  # bytes: `VOID` + 1 is 0
    fault = tf.where(highest >= num_classes, WRONG_CLASS, SOUND)
    fault = tf.where(is_grey, fault, NOT_GREY)
    return mask, tf.where(encoded == "", NO_MASK, fault)


def _augment(encoded, mask, seed, settings):
    """Image float32 (h, w, 3) and mask int32 (h, w) of the crop's size, and the size of the image in the record.

    Only the part of the image that the crop shows is decoded and resized.
    """
    size = tf.shape(mask)
    resized = _resized(size, tf.random.fold_in(seed, SCALE_STREAM), settings)
    mask, corner = _crop(mask, resized, tf.random.fold_in(seed, CROP_STREAM), settings)
    image, image_size = _decode_crop(encoded, size, resized, corner, tf.shape(mask))
    if settings.flip:
        flips = tf.random.stateless_uniform((), tf.random.fold_in(seed, FLIP_STREAM)) < 0.5
        image, mask = tf.cond(  # `[:, ::-1]` would take ten times as long
            flips, lambda: (tf.reverse(image, (1,)), tf.reverse(mask, (1,))), lambda: (image, mask)
        )
    if settings.photometric_distortion:
        image = photometric_distortion(image, tf.random.fold_in(seed, DISTORTION_STREAM))
    is_whole = tf.reduce_all(tf.shape(mask) == settings.image_size)
    image, mask = tf.cond(is_whole, lambda: (image, mask), lambda: _fill(image, mask, settings))
    return (
        tf.ensure_shape(image, (*settings.image_size, 3)),
        tf.ensure_shape(tf.cast(mask, tf.int32), settings.image_size),
        image_size,
    )


def _resized(size, seed, settings):
    """(height, width) that the image is resized to, int32: mmcv's rule, halves rounded up."""
    low, high = settings.scale_range
    sides = tf.cast(size, tf.float32)
    factor = low + (high - low) * tf.random.stateless_uniform((), seed)
    if settings.scale:
        fits_longer = max(settings.scale) / tf.reduce_max(sides)
        fits_shorter = min(settings.scale) / tf.reduce_min(sides)
        factor *= tf.minimum(fits_longer, fits_shorter)
    return tf.maximum(tf.cast(tf.floor(sides * factor + 0.5), tf.int32), 1)


def _crop(mask, resized, seed, settings):
    """A random crop of the resized mask, no larger than it, and its upper left corner (y, x), int32."""
    size = tf.minimum(resized, settings.image_size)
    draws = tf.random.stateless_uniform((CROP_TRIES, 2), seed)
    corners = tf.cast(tf.floor(draws * tf.cast(resized - size + 1, tf.float32)), tf.int32)  # (tries, 2)

    def cut(corner):
        """The nearest pixels, in whole numbers: that in which the middle of a resized pixel lies."""
        found = mask
        for axis in range(2):
            middle = 2 * tf.range(corner[axis], corner[axis] + size[axis], dtype=tf.int64) + 1
            nearest = middle * tf.cast(tf.shape(mask)[axis], tf.int64) // (2 * tf.cast(resized[axis], tf.int64))
            found = tf.gather(found, nearest, axis=axis)
        return tf.ensure_shape(found, (None, None))

    def is_one_sided(crop):
        values = tf.reshape(tf.cast(crop, tf.int32), (-1,))
        counts = tf.raw_ops.Bincount(arr=values, size=VOID + 1, weights=tf.constant([], tf.int32))[:VOID]
        largest, total = (tf.cast(reduce(counts), tf.float32) for reduce in (tf.reduce_max, tf.reduce_sum))
        return (total == 0) | (largest > settings.max_class_share * total)

    crop = cut(corners[0])
    if settings.max_class_share == 1:
        return crop, corners[0]
    _, crop, corner = tf.while_loop(
        lambda tried, crop, _: (tried < CROP_TRIES) & is_one_sided(crop),
        lambda tried, _, __: (tried + 1, cut(corners[tried]), corners[tried]),
        (1, crop, corners[0]),
    )
    return crop, corner


def _decode_crop(encoded, size, resized, corner, crop_size):
    """Bilinearly resized pixels, float32 (h, w, 3), in the geometry of the mask, and the size of the whole image."""
    per_pixel = tf.cast(size, tf.float32) / tf.cast(resized, tf.float32)  # of the source, on each axis
    begin = tf.cast(corner, tf.float32)

    def window(height, width):
        return part_window(tf.stack([height, width]), per_pixel, begin, crop_size)

    pixels, origin, image_size = decode_window(encoded, window)
    return resized_part(pixels, origin, per_pixel, begin, crop_size), image_size


def _fill(image, mask, settings):
    """Image and mask in the upper left corner of the crop."""
    canvas = tf.broadcast_to(tf.constant(settings.fill, tf.float32), (*settings.image_size, 3))
    void = tf.fill((*settings.image_size, 1), tf.constant(VOID, mask.dtype))
    return paste(canvas, image, 0, 0), paste(void, mask[..., None], 0, 0)[..., 0]
