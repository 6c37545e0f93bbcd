"""How a model sees an image: at a working size, whole or through windows, perhaps mirrored.

Places of pixels are computed in whole numbers, so that they are exact for images of any size.
"""

from dataclasses import dataclass

import tensorflow as tf

from tfvt.data.segmentation import SegmentationEvaluation


def exchanged(x: tf.Tensor) -> tf.Tensor:
    """(w, h, ...) -> (h, w, ...)."""
    return tf.transpose(x, (1, 0, *range(2, x.shape.rank)))


def neighbours(places: tf.Tensor, size: tf.Tensor, source: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Of places among `size` pixels the two of `source` pixels around each, and the share of the second.

    Bilinear with half-pixel centres, in whole numbers: (2 place + 1) / (2 size) of the way through the source. Places
    and sizes are int64, shares float32.
    """
    double = tf.maximum((2 * places + 1) * source - size, 0)
    low, rest = double // (2 * size), double % (2 * size)
    high = tf.minimum(low + tf.cast(rest > 0, tf.int64), source - 1)
    return low, high, tf.cast(rest / (2 * size), tf.float32)


def between(x: tf.Tensor, low: tf.Tensor, high: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """Of the rows of x those a share of the way from `low` to `high`, float32; all three of one shape."""
    lower, upper = (tf.cast(tf.gather(x, index), tf.float32) for index in (low, high))
    return lower + (upper - lower) * share[(..., *[None] * (x.shape.rank - 1))]


@dataclass(frozen=True)
class Axis:
    """Rows or columns of an image at a working size; all int64.

    Attributes:
        own: how many the image has.
        work: how many it has at its working size.
        window: how many of these a window has.
        starts: where the windows begin, (n,).
    """

    own: tf.Tensor
    work: tf.Tensor
    window: tf.Tensor
    starts: tf.Tensor

    def read(self, start: tf.Tensor, stop: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Working pixels from .. to that the image's own pixels `start` to `stop` are between."""
        low, high, _ = neighbours(tf.stack([start, stop - 1]), self.own, self.work)
        return low[0], high[1] + 1

    def windows(self, first: tf.Tensor, end: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Windows from .. to that hold one of the working pixels `first` to `end`."""
        begin = tf.searchsorted(self.starts + self.window, first[None], "right", tf.int64)[0]
        return begin, tf.searchsorted(self.starts, end[None], "left", tf.int64)[0]


@dataclass(frozen=True)
class View:
    """An image at one working size, perhaps mirrored: what the model sees.

    Attributes:
        image: at its own size, uint8 (H, W, 3), mirrored if `flipped`.
        rows, columns: its geometry. A view without windows has one as large as the working size.
        flipped: left and right are exchanged.
        has_windows: the model sees it through windows.
        is_resized: the working size may be another than the own.
    """

    image: tf.Tensor
    rows: Axis
    columns: Axis
    flipped: bool
    has_windows: bool
    is_resized: bool

    @classmethod
    def of(cls, image: tf.Tensor, evaluation: SegmentationEvaluation, factor: float, flipped: bool) -> "View":
        """The view of an image, uint8 (H, W, 3), at `factor` times the size that the evaluation asks for."""
        own = tf.shape(image, tf.int64)[:2]
        work = working_size(own, evaluation, factor)
        window, stride = work, tf.ones(2, tf.int64)
        if evaluation.mode == "slide":
            window, stride = tf.minimum(work, evaluation.window), tf.constant(evaluation.stride, tf.int64)
        last = work - window
        axes = [
            Axis(own[axis], work[axis], window[axis], tf.minimum(tf.range(number) * stride[axis], last[axis]))
            for axis, number in enumerate(tf.unstack((last + stride - 1) // stride + 1))
        ]
        is_resized = bool(evaluation.scale) or evaluation.size_multiple > 1 or factor != 1
        return cls(image[:, ::-1] if flipped else image, *axes, flipped, evaluation.mode == "slide", is_resized)

    def pixels(self, top: tf.Tensor, bottom: tf.Tensor, left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
        """Working pixels, float32 (bottom - top, right - left, 3)."""
        x = self.image
        for axis, places in ((self.rows, tf.range(top, bottom)), (self.columns, tf.range(left, right))):
            low, high, share = neighbours(places, axis.work, axis.own)
            x = exchanged(between(x, low, high, share))
        return x


def working_size(own: tf.Tensor, evaluation: SegmentationEvaluation, factor: float) -> tf.Tensor:
    """(height, width) at which the model sees an image of the size `own`, both int64 (2,); mmcv's rule."""
    sides = tf.cast(own, tf.float64)
    zoom = tf.constant(factor, tf.float64)
    if evaluation.scale:
        longer, shorter = (max(int(of(evaluation.scale) * factor), 1) for of in (max, min))
        zoom = tf.minimum(longer / tf.reduce_max(sides), shorter / tf.reduce_min(sides))
    work = tf.maximum(tf.cast(tf.floor(sides * zoom + 0.5), tf.int64), 1)
    multiple = evaluation.size_multiple
    return (work + multiple - 1) // multiple * multiple
