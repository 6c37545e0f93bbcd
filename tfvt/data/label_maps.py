"""Images of any size -> the class of each pixel, from a model's coarse logits, in bounded memory.

An image is resized to its working size, and the model sees it whole or through windows. Its logits, coarser than the
image, are resized to the window's size (bilinear, half-pixel centres), averaged where windows overlap, and resized to
the image's own size, as mmsegmentation does. Soft-max and the mean over sizes and mirror images follow.

At the image's own size, 150 classes of 4000 x 6000 pixels take 14 GB. So this works tile by tile: it keeps the coarse
logits of a tile and makes the rest from them, a strip of rows at a time. No pixel depends on where tiles and strips
end. All of it are TensorFlow operations, which run one by one or in a graph.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfvt.data.segmentation import FILL, SegmentationEvaluation
from tfvt.data.views import View, between, exchanged, neighbours

# Pixels that the model has seen whose logits are kept at a time: with 150 classes at stride 4, 0.6 GB.
KEPT_PIXELS = 2**24
STRIP_BYTES = 2**26  # of a strip's probabilities; several such arrays are in use at a time
MOST_TILES = 64  # along a side

Forward = Callable[[tf.Tensor], Any]


@dataclass(frozen=True)
class LabelMaps:
    """The classes of an image's pixels. Called on an image, uint8 (H, W, 3), it gives its label map, uint8 (H, W).

    What a tile needs of the model is computed once, and an image of usual size is one tile. Of a large one, in mode
    "whole" with several sizes or mirror images, the model sees all of it again for each tile; in mode "slide" it sees
    the windows over the border of two tiles once for each.

    Attributes:
        forward: the model, from pixels float32 (1, h, w, 3) in 0..255 to logits (1, h', w', C), an array of any
            library. Memory is bounded if they are coarse, as those of `coarse_model` are.
        evaluation: sizes, windows, mirror images.
    """

    forward: Forward
    evaluation: SegmentationEvaluation

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        """The most probable class of each pixel, uint8 (H, W); also in a graph."""
        return self._joined(image, lambda p: tf.cast(tf.argmax(p, -1, tf.int32), tf.uint8), tf.uint8, rank=2)

    def probabilities(self, image: tf.Tensor) -> tf.Tensor:
        """float32 (H, W, C), which may be large; also in a graph."""
        return self._joined(image, tf.identity, tf.float32, rank=3)

    def blocks(self, image: tf.Tensor) -> Iterator[tuple[int, int, tf.Tensor]]:
        """(y, x, probabilities float32 (h, w, C)) of blocks that cover the image; pixel (y, x) is their upper left."""
        grid = _Grid.of(self.forward, self.evaluation, tf.convert_to_tensor(image))
        for row, column in itertools.product(*(range(int(count)) for count in grid.tiles)):
            tile = grid.tile(row, column)
            for number in range(int(tile.strips)):
                yield int(tile.top(number)), int(tile.left), exchanged(tile.strip(number))

    def _joined(self, image, answer, dtype, rank):
        """answer(probabilities (w, h, C)) of rank `rank`, (w, h, ...), of all strips as one (H, W, ...)."""
        grid = _Grid.of(self.forward, self.evaluation, tf.convert_to_tensor(image))

        def answers(row, column):
            tile = grid.tile(row, column)
            return _concatenated(tile.strips, lambda number: exchanged(answer(tile.strip(number))), dtype, rank)

        def row_of_tiles(row):
            if self.evaluation.mode == "whole":  # there is one, perhaps a large one
                return answers(row, 0)
            columns = _concatenated(grid.tiles[1], lambda column: exchanged(answers(row, column)), dtype, rank)
            return exchanged(columns)

        return _concatenated(grid.tiles[0], row_of_tiles, dtype, rank)


def coarse_model(model: keras.Model) -> keras.Model:
    """A segmentation model without the last upsampling of its logits, and without its auxiliary head.

    Raises:
        ValueError: it has no classifier named "head", as tfvt's models have.
    """
    return keras.Model(model.inputs, model.get_layer("head").output)


def padded(forward: Forward, size: tuple[int | None, int | None]) -> Forward:
    """`forward` for any image up to the (height, width) of the model's input; where both are None, `forward` itself.

    A smaller image lies in the upper left corner, with `FILL` around it, and its part of the logits counts.
    """
    if None in size:
        return forward

    def fitted(images):
        sides = tf.shape(images)[1:3]
        missing = tf.concat([[[0, 0]], tf.stack([tf.zeros_like(sides), size - sides], 1), [[0, 0]]], 0)
        images = tf.pad(images - FILL, missing) + FILL
        logits = tf.convert_to_tensor(forward(tf.ensure_shape(images, (None, *size, 3))))
        height, width = tf.unstack((sides * tf.shape(logits)[1:3] + size - 1) // size)
        return logits[:, :height, :width]

    return fitted


def _concatenated(count, function, dtype, rank):
    """function(0), function(1), ... up to `count`, one after the other along the first axis."""
    count = tf.cast(count, tf.int32)
    parts = tf.TensorArray(dtype, count, infer_shape=False, element_shape=(None,) * rank)
    _, parts = tf.while_loop(
        lambda number, _: number < count,
        lambda number, parts: (number + 1, parts.write(number, function(tf.cast(number, tf.int64)))),
        (tf.constant(0), parts),
        parallel_iterations=1,  # several would need the memory of several
    )
    return parts.concat()


@dataclass(frozen=True)
class _Kept:
    """The logits of a view that a tile needs.

    Attributes:
        view: the view.
        logits: rows of windows, one row of windows below the other: (rows, windows side by side, w', C).
        first: the number of the first of these rows.
        window_rows: rows of a window, h'.
        starts: where the windows side by side begin, (windows,).
        left, right: the tile's columns from .. to, as the view shows them.
    """

    view: View
    logits: tf.Tensor
    first: tf.Tensor
    window_rows: tf.Tensor
    starts: tf.Tensor
    left: tf.Tensor
    right: tf.Tensor

    @classmethod
    def whole(cls, forward, view: View, top, bottom, is_part):
        """For rows `top` to `bottom`, all or `is_part` of them, of a model that sees the image at once."""
        rows, columns = view.rows, view.columns
        logits = _logits(forward, tf.image.resize(view.image, _int32(rows.work, columns.work)))
        window_rows = tf.shape(logits, tf.int64)[0]
        kept, number = logits, tf.zeros((), tf.int64)
        if is_part:
            first, end = rows.read(top, bottom)
            low, high, _ = neighbours(tf.stack([first, end - 1]), rows.work, window_rows)
            kept, number = tf.gather(logits, tf.range(low[0], high[1] + 1)), low[0]  # a slice would hold on to all
        return cls(view, kept[:, None], number, window_rows, columns.starts, tf.zeros((), tf.int64), columns.own)

    @classmethod
    def windows(cls, forward, view: View, top, bottom, left, right):
        """For the pixels from (top, left) to (bottom, right), of a model that sees windows."""
        rows, columns = view.rows, view.columns
        if view.flipped:
            left, right = columns.own - right, columns.own - left
        first, end = columns.windows(*columns.read(left, right))
        starts = columns.starts[first:end]
        first, end = rows.windows(*rows.read(top, bottom))

        def row_of_windows(y):
            strip = view.pixels(y, y + rows.window, starts[0], starts[-1] + columns.window)
            windows = _mapped(lambda x: _logits(forward, strip[:, x : x + columns.window]), starts - starts[0])
            return exchanged(windows)

        logits = _mapped(row_of_windows, rows.starts[first:end])  # (rows of windows, h', windows, w', C)
        shape = tf.shape(logits, tf.int64)
        logits = tf.reshape(logits, tf.concat([[shape[0] * shape[1]], shape[2:]], 0))
        return cls(view, logits, first * shape[1], shape[1], starts, left, right)

    def probabilities(self, top, bottom):
        """Of the image's own rows `top` to `bottom`: (columns, rows, C)."""
        view, columns = self.view, self.view.columns
        x = tf.transpose(self._rows(top, bottom), (1, 2, 0, 3))  # (windows, w', rows, C)
        x = tf.image.resize(x, _int32(columns.window, bottom - top))
        begin = self.starts[0]
        x = _overlaid(x, self.starts - begin) if view.has_windows else x[0]
        if view.is_resized:
            places = tf.range(self.left, self.right)
            low, high, share = neighbours(places, columns.own, columns.work)
            x = between(x, low - begin, high - begin, share)
        else:
            x = x[self.left - begin : self.right - begin]
        return _softmax(tf.reverse(x, [0]) if view.flipped else x)

    def _rows(self, top, bottom):
        """Logits of own rows `top` to `bottom`, (rows, windows, w', C): the mean over windows below one another."""
        axis = self.view.rows
        first, end = axis.read(top, bottom)
        begin, stop = axis.windows(first, end)
        places = tf.range(first, end) - axis.starts[begin:stop, None]  # (rows of windows, working rows)
        inside = (places >= 0) & (places < axis.window)
        low, high, share = neighbours(tf.clip_by_value(places, 0, axis.window - 1), axis.window, self.window_rows)
        offset = tf.range(begin, stop)[:, None] * self.window_rows - self.first
        x = between(self.logits, low + offset, high + offset, share)
        weight = tf.cast(inside, tf.float32) / tf.reduce_sum(tf.cast(inside, tf.float32), 0)
        x = tf.reduce_sum(x * weight[..., None, None, None], 0)
        low, high, share = neighbours(tf.range(top, bottom), axis.own, axis.work)
        return between(x, low - first, high - first, share)


def _softmax(x):
    """Soft-max over the last axis, whose bits do not depend on how large `x` is.

    TensorFlow computes the last elements of an array, which do not fill a vector of the processor, by another `exp`.
    """
    x -= tf.reduce_max(x, -1, keepdims=True)
    size = tf.size(x)
    x = tf.reshape(tf.exp(tf.pad(tf.reshape(x, [-1]), [[0, -size % 16]]))[:size], tf.shape(x))
    return x / tf.reduce_sum(x, -1, keepdims=True)


def _logits(forward, image):
    """float32 (h', w', C) of an image, float32 (h, w, 3)."""
    return tf.cast(tf.convert_to_tensor(forward(image[None]))[0], tf.float32)


def _mapped(function, places):
    """function(place) of all places, one after the other, along a new first axis."""
    function = tf.autograph.experimental.do_not_convert(function)  # it would rewrite `forward`, which may be anything
    return tf.map_fn(function, places, fn_output_signature=tf.float32, parallel_iterations=1)


def _int32(*sides):
    return tf.cast(tf.stack(sides), tf.int32)


def _overlaid(x, starts):
    """Windows (n, w, rows, C) that begin at `starts` (n,), the first at 0, as one map (W, rows, C): means."""
    places = starts[:, None] + tf.range(tf.shape(x, tf.int64)[1])
    width = places[-1, -1] + 1
    counts = tf.math.unsorted_segment_sum(tf.ones_like(places, tf.float32), places, width)
    return tf.math.unsorted_segment_sum(x, places, width) / counts[:, None, None]


@dataclass(frozen=True)
class _Tile:
    """A part of the image, with the logits of all views for it.

    Attributes:
        kept: those logits.
        first, end: its own rows from .. to.
        left: its first column.
        height: rows of a strip.
    """

    kept: Sequence[_Kept]
    first: tf.Tensor
    end: tf.Tensor
    left: tf.Tensor
    height: tf.Tensor

    @property
    def strips(self):
        """How many there are."""
        return (self.end - self.first + self.height - 1) // self.height

    def top(self, number):
        """The first row of a strip."""
        return self.first + number * self.height

    def strip(self, number):
        """Probabilities, (columns, rows, C), the mean over the views."""
        top = self.top(number)
        bottom = tf.minimum(top + self.height, self.end)
        total = self.kept[0].probabilities(top, bottom)
        for kept in self.kept[1:]:
            with tf.control_dependencies([total]):  # a graph would make all at a time
                total += kept.probabilities(tf.identity(top), bottom)
        return total * np.float32(1 / len(self.kept))


@dataclass(frozen=True)
class _Grid:
    """An image's views, and the tiles that it is divided into: their (height, width) and (rows, columns) of them."""

    forward: Callable
    views: Sequence[View]
    size: tf.Tensor
    tiles: tf.Tensor

    @classmethod
    def of(cls, forward, evaluation, image):
        flips = (False, True) if evaluation.flip else (False,)
        views = [View.of(image, evaluation, factor, flip) for factor in evaluation.scales for flip in flips]
        own = tf.shape(image, tf.int64)[:2]
        wanted = _tiles_by_windows(views) if views[0].has_windows else _tiles_of_rows(views)
        size = (own + wanted - 1) // wanted
        return cls(forward, views, size, (own + size - 1) // size)

    def tile(self, row, column):
        """The tile in that row and column of tiles."""
        rows, columns = self.views[0].rows, self.views[0].columns
        top, left = row * self.size[0], column * self.size[1]
        bottom, right = tf.minimum(top + self.size[0], rows.own), tf.minimum(left + self.size[1], columns.own)
        kept = []
        for view in self.views:
            with tf.control_dependencies([kept[-1].logits] if kept else []):  # as in `strip`
                if view.has_windows:
                    kept.append(_Kept.windows(self.forward, view, top, bottom, left, right))
                else:
                    kept.append(_Kept.whole(self.forward, view, top, bottom, is_part=len(self.views) > 1))
        # A strip is that large at its own size or at a working size, whichever is larger.
        width, height = (
            tf.reduce_max([tf.constant(1.0, tf.float64)] + [axis.work / axis.own for axis in axes])
            for axes in ([view.columns for view in self.views], [view.rows for view in self.views])
        )
        row_bytes = 4 * tf.shape(kept[0].logits, tf.int64)[-1] * (right - left)
        strip = tf.cast(STRIP_BYTES / (tf.cast(row_bytes, tf.float64) * width * height), tf.int64)
        return _Tile(kept, top, bottom, left, tf.maximum(strip, 1))


def _tiles_of_rows(views):
    """(rows, 1) of tiles: the logits of one view are there at once in any case, those of several are kept by tiles."""
    if len(views) == 1:
        return tf.ones(2, tf.int64)
    pixels = tf.add_n([view.rows.work * view.columns.work for view in views])
    tiles = 1 + pixels // (KEPT_PIXELS // 2)  # half: all logits of one view are there at the same time
    return tf.stack([tf.minimum(tiles, tf.minimum(views[0].rows.own, MOST_TILES)), 1])


def _tiles_by_windows(views):
    """(rows, columns) of tiles, as many of one as of the other: the fewest whose windows are kept.

    But no tile of the largest view is smaller than a window, because then most windows would count for several tiles.
    """
    number = tf.range(1, MOST_TILES + 1, dtype=tf.int64)
    kept, most = tf.zeros(MOST_TILES, tf.float64), tf.ones((), tf.int64)
    for view in views:
        pixels, largest = tf.ones((), tf.float64), tf.constant(MOST_TILES, tf.int64)
        for axis in (view.rows, view.columns):
            count, window = tf.size(axis.starts, tf.int64), axis.window
            step = (axis.work - window) / tf.maximum(count - 1, 1)  # 0 if there is one window
            touched = (axis.work / number + tf.cast(window, tf.float64)) / step + 1
            pixels *= tf.minimum(touched, tf.cast(count, tf.float64)) * tf.cast(window, tf.float64)
            largest = tf.minimum(largest, axis.work // window)
        kept, most = kept + pixels, tf.maximum(most, largest)
    fits = kept <= KEPT_PIXELS
    fewest = tf.where(tf.reduce_any(fits), tf.argmax(tf.cast(fits, tf.int32)) + 1, MOST_TILES)
    return tf.fill((2,), tf.minimum(fewest, most))
