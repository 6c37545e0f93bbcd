"""Detection: records become images with boxes and masks, which are resized, cropped and mirrored together.

A box is y1, x1, y2, x2 in pixels: the upper left pixel reaches from 0 to 1. So a box is resized by the same factors as
its image, and fits it afterwards as it did before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow as tf

from tfvt.data.geometry import paste
from tfvt.data.images import MAX_SIDE, check_size, decode_window, is_integer, part_window, resized_part
from tfvt.data.objects import FEATURES, SOUND, Objects, fault_texts
from tfvt.data.order import HostShare
from tfvt.data.records import BOX_MASK, ENCODED, SOURCE_ID, RecordSet
from tfvt.data.segmentation import BLANK_SIDE, FILL, MAX_SIZE_MULTIPLE

PADDING = -1  # the label of an empty slot
MASK_SIDE = 112  # rows and columns of a mask within its box: four a side for each of the 28 that a mask head gives
SLIVER = 0.01  # pixels: what a crop leaves of a box that is thinner is nothing, or the rounding of nothing

# Each random choice folds its own number into a sample's seed: a new choice takes a new number, the others stay.
(SCALE_STREAM, WAY_STREAM, CROP_SCALE_STREAM, CROP_STREAM, FLIP_STREAM, SLOTS_STREAM, SAMPLER_STREAM) = range(7)


@dataclass(frozen=True)
class DetectionTraining:
    """Resize, crop and flip of an image with its boxes and masks, as mmdetection's recipes have them.

    Attributes:
        image_size: (height, width) in pixels of what the model sees. The image lies in its upper left corner, and is
            made smaller than the numbers below say where it would not fit.
        short_sides: one of them at random is the image's shorter side.
        max_long_side: the longer side is at most this; the shorter one is then smaller, too.
        crop_short_sides: half of the images go a second way: their shorter side is made one of these, a part is cut
            out, and the part is resized as above. (): none of them.
        crop_range: smallest and largest side of that part, height and width each at random.
        flip: mirror left and right in half of the samples.
        max_boxes: boxes of a sample; of an image with more, its crowds and others at random. What has no slot counts
            as background.
        keep_empty: train on images without boxes, too; otherwise they add nothing to the loss.

    Raises:
        ValueError: a number out of its range.
    """

    image_size: tuple[int, int] = (1344, 1344)
    short_sides: tuple[int, ...] = (800,)
    max_long_side: int = 1333
    crop_short_sides: tuple[int, ...] = ()
    crop_range: tuple[int, int] = (384, 600)
    flip: bool = True
    max_boxes: int = 100
    keep_empty: bool = False

    def __post_init__(self):
        check_size("image_size", self.image_size)
        _check_sides("max_long_side", (self.max_long_side,))
        if not self.short_sides:
            raise ValueError("short_sides must be one or more numbers of pixels")
        for name in ("short_sides", "crop_short_sides"):
            _check_sides(name, getattr(self, name), self.max_long_side)
        check_size("crop_range", self.crop_range)
        if self.crop_range[0] > self.crop_range[1]:
            raise ValueError(f"crop_range must be the smaller number first, not {self.crop_range}")
        if not is_integer(self.max_boxes) or not 1 <= self.max_boxes <= MAX_SIDE:
            raise ValueError(f"max_boxes must be an integer from 1 to {MAX_SIDE}, not {self.max_boxes}")


@dataclass(frozen=True)
class DetectionEvaluation:
    """How a whole image becomes detections, in evaluation and in serving.

    Attributes:
        short_side: the image is resized so that its shorter side has this many pixels.
        max_long_side: the longer side is at most this; the shorter one is then smaller, too.
        size_multiple: rows and columns are added below and at the right until the sides are multiples of this.
        candidates: pairs of box and class with the best scores that a level of the pyramid, or a second stage, gives.
        score_threshold: lowest score of a detection.
        iou_threshold: of two detections of a class that overlap more, the one with the lower score goes.
        max_detections: of an image.

    Raises:
        ValueError: a number out of its range.
    """

    short_side: int = 800
    max_long_side: int = 1333
    size_multiple: int = 32
    candidates: int = 1000
    score_threshold: float = 0.05
    iou_threshold: float = 0.5
    max_detections: int = 100

    def __post_init__(self):
        _check_sides("max_long_side", (self.max_long_side,))
        _check_sides("short_side", (self.short_side,), self.max_long_side)
        for name, most in (("size_multiple", MAX_SIZE_MULTIPLE), ("candidates", 2**20), ("max_detections", 2**20)):
            value = getattr(self, name)
            if not is_integer(value) or not 1 <= value <= most:
                raise ValueError(f"{name} must be an integer from 1 to {most}, not {value}")
        for name in ("score_threshold", "iou_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {getattr(self, name)}")


def _check_sides(name: str, sides: Sequence[int], most: int = MAX_SIDE) -> None:
    limit = "max_long_side, " if most != MAX_SIDE else ""
    for side in sides:
        if not is_integer(side) or not 1 <= side <= most:
            raise ValueError(f"{name} must be pixels, integers from 1 to {limit}{most}, not {side}")


def fitted_size(size: tf.Tensor, short_side: tf.Tensor | int, max_long_side: int) -> tf.Tensor:
    """The size (height, width), int32 (2,), to which an image of `size` is resized: mmcv's rule.

    The shorter side becomes `short_side`, unless the longer one would be more than `max_long_side`; halves are rounded
    up.
    """
    sides = tf.cast(size, tf.float64)
    factor = tf.minimum(max_long_side / tf.reduce_max(sides), tf.cast(short_side, tf.float64) / tf.reduce_min(sides))
    return _scaled(sides, factor)


def _scaled(sides, factor):
    return tf.maximum(tf.cast(tf.floor(sides * factor + 0.5), tf.int32), 1)


@dataclass(frozen=True)
class DetectionSamples:
    """Images with boxes, as `tfvt.data.stream` asks for them.

    A training sample has these, of which N is `max_boxes`; slots that are not used come last.

    - "image": float32 (h, w, 3), 0..255, of `image_size`.
    - "size": int32 (2,), the (height, width) of the image in its upper left corner.
    - "boxes": float32 (N, 4), y1, x1, y2, x2 in pixels.
    - "labels": int32 (N,), from 0, and `PADDING` where there is no box.
    - "crowd": bool (N,), whether the box holds a group that is not told apart.
    - "is_empty": bool, whether the record has no object.
    - "seed": int32 (2,), for choices that a loss makes.
    - "masks", if asked for: uint8 (N, 112, 112), 0 or 1, the object within its box.

    An evaluation sample has "image", uint8 (H, W, 3) of the record's own size, and of its n objects, in its pixels,
    "boxes" (n, 4), "labels" and "crowd" as above, "area", float32 (n,), that of the object, "source_id", string, and if
    asked for "masks", string (n,): PNG files of the image's size, not 0 inside. `image_stream` delivers such.

    Attributes:
        num_classes: labels are below it.
        label_offset: the stored label of the first class.
        settings: augmentation in training.
        masks: whether samples have masks.
    """

    num_classes: int
    label_offset: int
    settings: DetectionTraining | DetectionEvaluation
    masks: bool = False

    @classmethod
    def of(
        cls, records: RecordSet, settings: DetectionTraining | DetectionEvaluation, masks: bool = False
    ) -> "DetectionSamples":
        """The samples of a set of records."""
        return cls(records.num_classes, records.label_offset, settings, masks)

    @property
    def features(self) -> tuple[str, ...]:
        """What `decode` gets of a record."""
        return (ENCODED, SOURCE_ID, *FEATURES, *([BOX_MASK] if self.masks else []))

    def decode(self, features: dict[str, tf.Tensor], seed: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """One image, its objects, and as "fault" what is wrong with them."""
        objects = Objects.of(features, self.num_classes, self.label_offset, self.masks)
        if seed is not None:
            return _augment(features[ENCODED], objects, seed, self.settings, self.masks)
        image, _, size = decode_window(features[ENCODED], lambda height, width: (0, 0, height, width))
        sample = {
            "image": image,
            "boxes": objects.boxes_of(size),
            "labels": objects.labels,
            "crowd": objects.crowd,
            "area": objects.area_of(size),
            "source_id": features[SOURCE_ID],
        }
        if self.masks:
            sample["masks"] = objects.decodable_masks(size)
        return sample | {"fault": objects.fault_in(size)}

    def blank(self) -> dict[str, tf.Tensor]:
        """An image of one colour without objects; in evaluation a small one."""
        training = isinstance(self.settings, DetectionTraining)
        size = self.settings.image_size if training else (BLANK_SIDE, BLANK_SIDE)
        count = self.settings.max_boxes if training else 0
        sample = {
            "image": tf.broadcast_to(tf.constant(FILL, tf.float32), (*size, 3)),
            "boxes": tf.zeros((count, 4)),
            "labels": tf.fill((count,), PADDING),
            "crowd": tf.zeros((count,), tf.bool),
            "fault": tf.constant(SOUND),
        }
        if training:
            sample |= {"size": tf.constant(size), "seed": tf.zeros((2,), tf.int32), "is_empty": tf.constant(True)}
        else:
            image = tf.cast(sample["image"], tf.uint8)
            sample |= {"image": image, "area": tf.zeros((0,)), "source_id": tf.constant("")}
        if self.masks:
            sample["masks"] = (
                tf.zeros((count, MASK_SIDE, MASK_SIDE), tf.uint8) if training else tf.zeros((0,), tf.string)
            )
        return sample

    def faults(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Records of another kind, and boxes or masks that do not belong to the image or to the class list."""
        return {text: batch["fault"] == fault for fault, text in fault_texts(self.num_classes).items()}

    def finish(self, batch: dict[str, tf.Tensor], seed: tf.Tensor | None, share: HostShare) -> dict[str, tf.Tensor]:
        """The batch without its faults: there are none."""
        return {name: value for name, value in batch.items() if name != "fault"}


@dataclass(frozen=True)
class _Placement:
    """How the pixels of a source become those of a sample, before it is mirrored.

    Attributes:
        per_pixel: pixels of the source per pixel of the sample on each axis, float32 (2,).
        begin: the upper left corner of the part that is shown (y, x), in pixels of the sample, float32 (2,).
        size: (height, width) of that part, int32 (2,).
        is_whole: the part is all of it, bool.
    """

    per_pixel: tf.Tensor
    begin: tf.Tensor
    size: tf.Tensor
    is_whole: tf.Tensor

    @classmethod
    def drawn(cls, whole, seed, settings):
        """For an image of the size `whole`, int32 (2,)."""
        short_side = _choice(settings.short_sides, tf.random.fold_in(seed, SCALE_STREAM))

        def fitted(size):
            wanted = fitted_size(size, short_side, settings.max_long_side)
            sides = tf.cast(size, tf.float64)
            fits = tf.reduce_min(settings.image_size / sides)
            return tf.where(tf.reduce_any(wanted > settings.image_size), _scaled(sides, fits), wanted)

        resized, part, corner, is_cut = whole, whole, tf.zeros((2,), tf.int32), tf.constant(False)
        if settings.crop_short_sides:
            draws = tf.random.stateless_uniform((2, 2), tf.random.fold_in(seed, CROP_STREAM))
            is_cut = tf.random.stateless_uniform((), tf.random.fold_in(seed, WAY_STREAM)) < 0.5
            short_side_before = _choice(settings.crop_short_sides, tf.random.fold_in(seed, CROP_SCALE_STREAM))
            smaller = fitted_size(whole, short_side_before, settings.max_long_side)
            least, most = (tf.minimum(smaller, side) for side in settings.crop_range)
            cut = least + _index(draws[0], most - least + 1)
            resized = tf.where(is_cut, smaller, whole)
            part = tf.where(is_cut, cut, whole)
            corner = tf.where(is_cut, _index(draws[1], smaller - cut + 1), 0)
        size = fitted(part)
        resized, part_sides, corner = (tf.cast(value, tf.float64) for value in (resized, part, corner))
        zoom = tf.cast(size, tf.float64) / part_sides
        per_pixel = tf.cast(whole, tf.float64) / (resized * zoom)
        return cls(tf.cast(per_pixel, tf.float32), tf.cast(corner * zoom, tf.float32), size, ~is_cut)

    def boxes(self, boxes):
        """Boxes of the source (n, 4) in pixels of the sample, cut to it, before it is mirrored."""
        size = tf.cast(self.size, tf.float32)
        moved = tf.reshape(boxes, (-1, 2, 2)) / self.per_pixel - self.begin
        return tf.reshape(tf.clip_by_value(moved, 0.0, size), (-1, 4))

    def source_places(self, begin, end, axis):
        """The source's pixels, int32 (`MASK_SIDE`,), in which the middles of a box's equal parts on an axis lie."""
        middles = begin + (end - begin) * ((tf.range(MASK_SIDE, dtype=tf.float32) + 0.5) / MASK_SIDE)
        return tf.cast(tf.floor((middles + self.begin[axis]) * self.per_pixel[axis]), tf.int32)


def _choice(values, seed):
    """One of the numbers, each as likely."""
    draw = tf.random.stateless_uniform((), seed)
    return tf.gather(tf.constant(values, tf.int32), _index(draw, len(values)))


def _index(draw, count):
    """A draw from 0 to 1 as a whole number from 0 to count - 1, int32."""
    return tf.cast(tf.floor(draw * tf.cast(count, tf.float32)), tf.int32)


def _augment(encoded, objects, seed, settings, masks):
    """A training sample."""

    def window(height, width):
        whole = tf.stack([height, width])
        placement = _Placement.drawn(whole, seed, settings)
        return part_window(whole, placement.per_pixel, placement.begin, placement.size)

    pixels, origin, whole = decode_window(encoded, window)
    placement = _Placement.drawn(whole, seed, settings)
    image = tf.cond(  # the same pixels, where it will do in a quarter of the time
        placement.is_whole,
        lambda: tf.image.resize(pixels, placement.size),
        lambda: resized_part(pixels, origin, placement.per_pixel, placement.begin, placement.size),
    )
    boxes = placement.boxes(objects.boxes_of(whole))
    kept = _kept(boxes, objects.crowd, tf.random.fold_in(seed, SLOTS_STREAM), settings.max_boxes)
    boxes, fault = tf.gather(boxes, kept), objects.fault_in(whole)
    masks_of = tf.zeros((0, MASK_SIDE, MASK_SIDE), tf.uint8)
    if masks:
        readable = tf.where(fault == SOUND, tf.size(kept), 0)
        masks_of = _masks(tf.gather(objects.masks, kept)[:readable], boxes, placement)
    if settings.flip:
        flips = tf.random.stateless_uniform((), tf.random.fold_in(seed, FLIP_STREAM)) < 0.5
        found = image, boxes, masks_of
        image, boxes, masks_of = tf.cond(flips, lambda: _mirrored(*found), lambda: found)
    sample = {
        "image": _on_canvas(image, settings.image_size),
        "size": tf.ensure_shape(placement.size, (2,)),
        "boxes": _slots(boxes, settings.max_boxes, 0.0),
        "labels": _slots(tf.gather(objects.labels, kept), settings.max_boxes, PADDING),
        "crowd": _slots(tf.gather(objects.crowd, kept), settings.max_boxes, False),
        "seed": tf.random.stateless_uniform(
            (2,), tf.random.fold_in(seed, SAMPLER_STREAM), minval=None, maxval=None, dtype=tf.int32
        ),
        "is_empty": tf.size(objects.labels) == 0,
        "fault": fault,
    }
    if masks:
        sample["masks"] = _slots(masks_of, settings.max_boxes, 0)
    return sample


def _kept(boxes, crowd, seed, slots):
    """The numbers of boxes that a crop leaves something of, in order, at most `slots`, crowds first, int32 (n,)."""
    sides = boxes[:, 2:] - boxes[:, :2]
    kept = tf.cast(tf.where(tf.reduce_all(sides > SLIVER, -1))[:, 0], tf.int32)
    rank = tf.random.stateless_uniform(tf.shape(kept), seed) - tf.cast(tf.gather(crowd, kept), tf.float32)
    drawn = tf.argsort(rank)[:slots]
    return tf.gather(kept, tf.sort(drawn))


def _masks(encoded, boxes, placement):
    """The masks, PNG files (n,) of the source, within boxes (n, 4) of the sample: uint8 (n, 112, 112)."""

    def cut(png_and_box):
        png, (top, left, bottom, right) = png_and_box[0], tf.unstack(png_and_box[1])
        mask = tf.io.decode_png(png, channels=1)[..., 0]
        for axis, (begin, end) in enumerate(((top, bottom), (left, right))):
            places = placement.source_places(begin, end, axis)
            mask = tf.gather(mask, tf.clip_by_value(places, 0, tf.shape(mask)[axis] - 1), axis=axis)
        return tf.cast(mask > 0, tf.uint8)

    spec = tf.TensorSpec((MASK_SIDE, MASK_SIDE), tf.uint8)
    # One after the other: each takes as many bytes as the source has pixels.
    return tf.map_fn(cut, (encoded, boxes[: tf.size(encoded)]), fn_output_signature=spec, parallel_iterations=1)


def _mirrored(image, boxes, masks):
    top, left, bottom, right = tf.unstack(boxes, axis=1)
    width = tf.cast(tf.shape(image)[1], tf.float32)
    boxes = tf.stack([top, width - right, bottom, width - left], 1)
    return tf.reverse(image, (1,)), boxes, tf.reverse(masks, (2,))  # `[:, ::-1]` would take ten times as long


def _on_canvas(image, size):
    """The image in the upper left corner of one of `size`."""
    canvas = tf.broadcast_to(tf.constant(FILL, tf.float32), (*size, 3))
    return tf.ensure_shape(paste(canvas, image, 0, 0), (*size, 3))


def _slots(values, count, fill):
    """`values` (n, ...) with `fill` behind them: (count, ...)."""
    missing = [[0, count - tf.shape(values)[0]]] + [[0, 0]] * (values.shape.rank - 1)
    padded = tf.pad(values, missing, constant_values=tf.constant(fill, values.dtype))
    return tf.ensure_shape(padded, (count, *values.shape[1:]))
