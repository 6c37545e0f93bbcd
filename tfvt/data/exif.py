"""Photographs upright, as the EXIF header of their JPEG says: TensorFlow graph code, for served models.

Source: Exif 2.32 (CIPA DC-008), 4.5 and 4.6.4: after the marker APP1 and "Exif" a TIFF header, whose first directory
has the orientation. Conversion turns the images of records, which need none of this.
"""

from collections.abc import Callable

import tensorflow as tf

from tfvt.data.images import decode_window

MOST_SEGMENTS = 256  # of a JPEG before the EXIF header: a file of thousands would hold a server up
_ORIENTATION, _SHORT, _LONG = 0x0112, 3, 4  # a tag and two types of TIFF
_EXIF, _START_OF_SCAN, _FILLING = 0xE1, 0xDA, 0xFF


def orientation(encoded: tf.Tensor) -> tf.Tensor:
    """How to turn an encoded image: int32 scalar, 1 (it is upright) to 8, as EXIF counts.

    1 for all but JPEG, and where the header has no such entry, or a damaged one. It never raises an error.

    Args:
        encoded: scalar string tensor, the bytes of a file.
    """
    length = tf.cast(tf.strings.length(encoded), tf.int64)

    def goes_on(position, found):
        # A marker, its length and what follows. A scan ends the header.
        marker = _number(encoded, position + 1, 1)
        return (found < 0) & (_number(encoded, position, 1) == 0xFF) & (marker != _START_OF_SCAN) & (position < length)

    def next_segment(position, found):
        marker = _number(encoded, position + 1, 1)
        is_exif = (marker == _EXIF) & (_bytes(encoded, position + 4, 6) == b"Exif\0\0")
        step = tf.where(marker == _FILLING, tf.constant(1, tf.int64), 2 + _number(encoded, position + 2, 2))
        return position + step, tf.where(is_exif, position + 10, found)

    start = tf.constant(2, tf.int64), tf.constant(-1, tf.int64)
    end, found = tf.while_loop(goes_on, next_segment, start, maximum_iterations=MOST_SEGMENTS, parallel_iterations=1)
    is_jpeg = _bytes(encoded, 0, 3) == b"\xff\xd8\xff"
    return tf.cond(
        is_jpeg & (found >= 0), lambda: _of_tiff(_bytes(encoded, found, end - found)), lambda: tf.constant(1)
    )


def _of_tiff(tiff):
    """The orientation in the first directory of a TIFF file, its bytes."""
    order = _bytes(tiff, 0, 4)
    big = order == b"MM\0\x2a"
    known = big | (order == b"II\x2a\0")
    first = _number(tiff, 4, 4, big)
    count = _number(tiff, first, 2, big)
    entries = _bytes(tiff, first + 2, 12 * count)
    whole = tf.strings.length(entries) // 12
    entries = tf.strings.substr(entries, 12 * tf.range(whole), tf.fill((whole,), 12))
    tag, kind, values = (_number(entries, at, size, big) for at, size in ((0, 2), (2, 2), (4, 4)))
    value = tf.where(kind == _SHORT, _number(entries, 8, 2, big), _number(entries, 8, 4, big))
    fits = (tag == _ORIENTATION) & (values == 1) & ((kind == _SHORT) | (kind == _LONG)) & (value >= 1) & (value <= 8)
    given = tf.boolean_mask(value, fits & known)
    return tf.cast(tf.concat([[tf.constant(1, tf.int64)], given], 0)[-1], tf.int32)


def _bytes(data, at, size):
    """`size` bytes from `at`, or as many as there are."""
    at = tf.minimum(tf.cast(at, tf.int64), tf.cast(tf.reduce_min(tf.strings.length(data)), tf.int64))
    return tf.strings.substr(data, at, tf.cast(size, tf.int64))


def _number(data, at, size, big_endian=True):
    """`size` bytes from `at` as a number, 0 where there are none: int64, of the shape of `data`."""
    found = tf.cast(tf.io.decode_raw(_bytes(data, at, size), tf.uint8, fixed_length=size), tf.int64)
    powers = [256**place for place in range(size)]
    return tf.reduce_sum(found * tf.where(big_endian, tf.constant(powers[::-1], tf.int64), powers), axis=-1)


def decode_upright(encoded: tf.Tensor, window: Callable) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """`decode_window` of the image that the EXIF header of a JPEG makes of it.

    Returns:
        The same: uint8 (h, w, 3); int32 (y, x); int32 (height, width) of the whole image. All of the upright one.

    Raises:
        tf.errors.InvalidArgumentError: the bytes are not an image, or are a JPEG that ends early.
    """
    turn = orientation(encoded)
    # Rows or columns from the other end, then an exchange of the two.
    rows, columns = (tf.reduce_any(turn == kinds) for kinds in ([3, 4, 6, 7], [2, 3, 7, 8]))
    exchanged = turn >= 5

    def upright_size(size):
        return tf.where(exchanged, tf.reverse(size, [0]), size)

    def stored(height, width):
        y, x, high, wide = window(*tf.unstack(upright_size(tf.stack([height, width]))))
        (y, x), (high, wide) = (tf.unstack(upright_size(tf.stack(pair))) for pair in ((y, x), (high, wide)))
        return tf.where(rows, height - y - high, y), tf.where(columns, width - x - wide, x), high, wide

    def turned(image):
        image = tf.raw_ops.Reverse(tensor=image, dims=tf.stack([rows, columns, False]))
        return tf.transpose(image, tf.where(exchanged, [1, 0, 2], [0, 1, 2]))

    image, _, size = decode_window(encoded, stored)
    image = tf.cond(turn == 1, lambda: image, lambda: turned(image))
    size = upright_size(size)
    y, x, _, _ = window(*tf.unstack(size))
    return tf.ensure_shape(image, (None, None, 3)), tf.stack([y, x]), size
