"""The objects of a record: their boxes, classes and masks, and what is wrong with them. TensorFlow graph code."""

from dataclasses import dataclass

import tensorflow as tf

from tfvt.data.records import (
    BOX_AREA,
    BOX_CROWD,
    BOX_LABEL,
    BOX_MASK,
    BOX_XMAX,
    BOX_XMIN,
    BOX_YMAX,
    BOX_YMIN,
    LABEL,
    MASK,
)

FEATURES = (BOX_YMIN, BOX_XMIN, BOX_YMAX, BOX_XMAX, BOX_LABEL, BOX_CROWD, BOX_AREA, LABEL, MASK)
EDGE = 1e-5  # of the image's side: a corner that lies outside by less does so by rounding
PNG_SIGNATURE = list(b"\x89PNG\r\n\x1a\n")
PNG_HEADER = 26  # bytes, up to the kind of its colours
PNG_WIDTH, PNG_HEIGHT, PNG_COLOR = 16, 20, 25
GREY = 0

SOUND, OUTSIDE, INVERTED, NO_AREA, WRONG_CLASS, NOT_GREY, OTHER_SIZE, UNEQUAL, NO_MASKS, OTHER_KIND = range(10)
WRONG_AREA = 10


def fault_texts(num_classes: int) -> dict[int, str]:
    """What a record's fault is, as the end of the sentence "record 7 of ... <fault>"."""
    return {
        OUTSIDE: "has a box that reaches out of its image",
        INVERTED: "has a box whose end comes before its begin",
        NO_AREA: "has a box without area",
        WRONG_AREA: "has an object whose area is not a number from 0",
        WRONG_CLASS: f"has a box of a class that is not from 0 to {num_classes - 1}, as the manifest says",
        NOT_GREY: "has an object's mask that is not a grey PNG",
        OTHER_SIZE: "has an object's mask of another size than its image",
        UNEQUAL: "has not as many corners, classes and masks as it has boxes",
        NO_MASKS: "has no masks of its objects, which this model learns: convert a source with masks "
        "(`tfvt records convert --format coco`), or choose a model of boxes alone",
        OTHER_KIND: "is of an image with a class or a mask, not of one with boxes, which "
        "`tfvt records convert --format` writes",
    }


@dataclass(frozen=True)
class Objects:
    """The n objects of a record; where its lists are not of one length, those that all of them have.

    Attributes:
        corners: shares of the image's height and width, (ymin, xmin, ymax, xmax), float32 (n, 4).
        labels: int32 (n,), from 0.
        crowd: whether it is a group that is not told apart, bool (n,).
        area: in pixels, float32 (n,), or (0,) where the record does not tell.
        masks: PNG files of the image's size, string (n,); (0,) where none are asked for.
        fault: the first part of what is wrong, int32; `SOUND` if nothing is.
    """

    corners: tf.Tensor
    labels: tf.Tensor
    crowd: tf.Tensor
    area: tf.Tensor
    masks: tf.Tensor
    fault: tf.Tensor

    @classmethod
    def of(cls, features: dict[str, tf.Tensor], num_classes: int, label_offset: int, masks: bool) -> "Objects":
        """The objects in a record's features."""
        wanted = [features[name] for name in (BOX_YMIN, BOX_XMIN, BOX_YMAX, BOX_XMAX, BOX_LABEL)]
        sizes = [tf.size(values) for values in wanted]
        encoded = features[BOX_MASK] if masks else tf.zeros((0,), tf.string)
        if masks:
            sizes.append(tf.size(encoded))
        count = tf.reduce_min(sizes)
        optional = [features[name] for name in (BOX_CROWD, BOX_AREA)]
        is_equal = tf.reduce_all(tf.stack(sizes) == sizes[0])
        for values in optional:
            is_equal &= (tf.size(values) == 0) | (tf.size(values) == sizes[0])
        crowd, area = optional
        corners = tf.stack([values[:count] for values in wanted[:4]], 1)
        labels = wanted[4][:count] - label_offset  # int64: in 32 bits, large ones would become classes
        crowd = tf.pad(crowd[:count], [[0, tf.maximum(count - tf.size(crowd), 0)]]) > 0
        fault = tf.where(tf.reduce_all((area >= 0) & tf.math.is_finite(area)), SOUND, WRONG_AREA)
        fault = tf.where(tf.reduce_all((labels >= 0) & (labels < num_classes)), fault, WRONG_CLASS)
        fault = _wrong_corners(corners, fault)
        fault = tf.where(is_equal, fault, UNEQUAL)
        if masks:
            fault = tf.where((tf.size(encoded) == 0) & (sizes[0] > 0), NO_MASKS, fault)
        is_other = (sizes[0] == 0) & ((features[MASK] != "") | (features[LABEL] >= 0))
        fault = tf.where(is_other, OTHER_KIND, fault)
        labels = tf.cast(labels, tf.int32)
        return cls(tf.clip_by_value(corners, 0.0, 1.0), labels, crowd, area[:count], encoded[:count], fault)

    def boxes_of(self, size: tf.Tensor) -> tf.Tensor:
        """Boxes in pixels of an image of a size (height, width), float32 (n, 4)."""
        return self.corners * tf.cast(tf.tile(size, (2,)), tf.float32)

    def area_of(self, size: tf.Tensor) -> tf.Tensor:
        """Areas in pixels, float32 (n,): of the boxes where the record does not tell those of the objects."""
        boxes = self.boxes_of(size)
        of_boxes = tf.reduce_prod(boxes[:, 2:] - boxes[:, :2], 1)
        return tf.cond(tf.size(self.area) == tf.size(of_boxes), lambda: self.area, lambda: of_boxes)

    def fault_in(self, size: tf.Tensor) -> tf.Tensor:
        """What is wrong with the objects of an image of that size, int32."""
        head = tf.cast(tf.io.decode_raw(self.masks, tf.uint8, fixed_length=PNG_HEADER), tf.int32)  # (n, 26)
        powers = tf.constant([2**24, 2**16, 2**8, 1])
        height, width = (tf.reduce_sum(head[:, begin : begin + 4] * powers, 1) for begin in (PNG_HEIGHT, PNG_WIDTH))
        is_grey = tf.reduce_all(head[:, : len(PNG_SIGNATURE)] == PNG_SIGNATURE, 1) & (head[:, PNG_COLOR] == GREY)
        fits = (height == size[0]) & (width == size[1])
        of_masks = tf.where(tf.reduce_all(fits), SOUND, OTHER_SIZE)
        of_masks = tf.where(tf.reduce_all(is_grey), of_masks, NOT_GREY)
        return tf.where(self.fault == SOUND, of_masks, self.fault)

    def decodable_masks(self, size: tf.Tensor) -> tf.Tensor:
        """`masks`, after a try to decode them, one after the other, so that a damaged one raises an error here.

        None where something is wrong with the objects of an image of that size.
        """

        def tried(png):  # a result that nobody used would not be computed
            return tf.where(tf.size(tf.io.decode_png(png, channels=1)) > 0, png, "")

        readable = tf.where(self.fault_in(size) == SOUND, tf.size(self.masks), 0)
        return tf.map_fn(tried, self.masks[:readable], parallel_iterations=1)


def _wrong_corners(corners, fault):
    begin, end = corners[:, :2], corners[:, 2:]
    inside = (corners >= -EDGE) & (corners <= 1 + EDGE)  # a number that is none is not
    fault = tf.where(tf.reduce_any(begin == end), NO_AREA, fault)
    fault = tf.where(tf.reduce_any(begin > end), INVERTED, fault)
    return tf.where(tf.reduce_all(inside), fault, OUTSIDE)
