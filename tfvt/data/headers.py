"""Format and size of image files from their first bytes, before anything is decoded; TensorFlow graph code.

A file of 164 kB can hold 13,000 x 13,000 pixels. Code that takes files from strangers checks them here first.
"""

import tensorflow as tf

_HEADER_BYTES = 34  # up to the last field that is read; shorter files count as padded with zeros
_WEBP_ANIMATION = 0x02  # in the flags of VP8X


def checked_images(encoded: tf.Tensor, max_pixels: int) -> tf.Tensor:
    """The same images, after a check that every one may be decoded.

    JPEG, PNG, BMP and WebP files pass if they have at least 1 and at most `max_pixels` pixels. The check also refuses:

    - GIF and animated WebP: the size in their header is not that of their frames.
    - BMP files other than those of 24 or 32 bits a pixel without compression: TensorFlow's decoder takes the numbers
      of a palette for grey values.

    Args:
        encoded: string (B,), the bytes of image files.
        max_pixels: the most pixels, height times width, that an image may have.

    Returns:
        `encoded`; operations that decode it wait for the check.

    Raises:
        tf.errors.InvalidArgumentError: there is no image, or one did not pass; the message says which, counted from
            0, and why.
    """
    problems = _problems(encoded, max_pixels)
    first = tf.where(problems != "")[:1]
    words = ["image ", tf.strings.as_string(first), " of the request ", tf.gather(problems, first)]
    message = tf.strings.reduce_join(tf.strings.join(words))
    checks = [
        tf.debugging.Assert(tf.size(encoded) > 0, ["the request holds no image"]),
        tf.debugging.Assert(tf.size(first) == 0, [message]),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(encoded)


def checked_pixels(images: tf.Tensor, max_pixels: int) -> tf.Tensor:
    """The same images, decoded ones of one size, after a check of their number and size.

    Args:
        images: uint8 (B, H, W, 3).
        max_pixels: the most pixels, height times width, that an image may have.

    Raises:
        tf.errors.InvalidArgumentError: there is no image or pixel, or there are more pixels.
    """
    shape = tf.shape(images, tf.int64)
    pixels = shape[1] * shape[2]
    checks = [
        tf.debugging.Assert(shape[0] * pixels > 0, ["the request holds no image"]),
        tf.debugging.Assert(pixels <= max_pixels, ["images of", pixels, f"pixels: the limit is {max_pixels}"]),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(images)


def _problems(encoded, max_pixels):
    """What is wrong with each image: string (B,), empty where nothing is."""
    head = _head(encoded)
    is_jpeg, is_png, is_bmp = (_has(head, magic) for magic in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM"))
    lossy, lossless, extended = (_is_webp(head, kind) for kind in (b"VP8 ", b"VP8L", b"VP8X"))
    bits = _number(head, 21, 4)  # of a lossless WebP: twice 14 bits, each one less than a side
    bmp_height = _number(head, 22, 4)  # counted from the top where it is negative
    height, width = tf.unstack(_jpeg_sizes(encoded), axis=1)
    for chosen, format_height, format_width in (
        (is_png, _number(head, 20, 4, big_endian=True), _number(head, 16, 4, big_endian=True)),
        (is_bmp, tf.where(bmp_height < 2**31, bmp_height, 2**32 - bmp_height), _number(head, 18, 4)),
        (lossy, _number(head, 28, 2) % 2**14, _number(head, 26, 2) % 2**14),
        (lossless, bits // 2**14 % 2**14 + 1, bits % 2**14 + 1),
        (extended, _number(head, 27, 3) + 1, _number(head, 24, 3) + 1),
    ):
        height, width = tf.where(chosen, format_height, height), tf.where(chosen, format_width, width)
    size = tf.strings.join([tf.strings.as_string(width), " x ", tf.strings.as_string(height), " pixels"])
    bmp_header, bmp_bits, bmp_compression = _number(head, 14, 4), _number(head, 28, 2), _number(head, 30, 4)
    plain_bmp = (bmp_header >= 40) & ((bmp_bits == 24) | (bmp_bits == 32)) & (bmp_compression == 0)
    problems = tf.zeros_like(encoded)
    for wrong, text in (  # the last fault that applies is the one reported
        # Two sides below 2**32: their product cannot overflow.
        (
            width * tf.minimum(height, 2**31) > max_pixels,
            tf.strings.join(["has ", size, f": the limit is {max_pixels}"]),
        ),
        ((height < 1) | (width < 1), "is cut off or damaged: its header has no size"),
        (is_bmp & ~plain_bmp, "is a BMP that is not of 24 or 32 bits a pixel, uncompressed: send it as PNG"),
        (_is_animated_webp(head), "is an animated WebP: send one picture"),
        (~(is_jpeg | is_png | is_bmp | lossy | lossless | extended), "is not JPEG, PNG, BMP or WebP"),
        (_has(head, b"GIF8"), "is a GIF, which may hold any number of pictures: send one picture as PNG"),
    ):
        problems = tf.where(wrong, text, problems)
    return problems


def is_still_webp(encoded: tf.Tensor) -> tf.Tensor:
    """Which of the image files (B,) are WebP without animation: bool (B,).

    TensorFlow 2.20 writes outside its memory when it decodes an animation to four channels.
    """
    head = _head(encoded)
    return _has(head, b"RIFF") & _has(head, b"WEBP", 8) & ~_is_animated_webp(head)


def _head(encoded):
    """The first bytes of every file: int64 (B, 34)."""
    return tf.cast(tf.io.decode_raw(encoded, tf.uint8, fixed_length=_HEADER_BYTES), tf.int64)


def _has(head, magic, at=0):
    return tf.reduce_all(head[:, at : at + len(magic)] == list(magic), axis=1)


def _is_webp(head, kind):
    return _has(head, b"RIFF") & _has(head, b"WEBP" + kind, 8)


def _is_animated_webp(head):
    return _is_webp(head, b"VP8X") & (head[:, 20] // _WEBP_ANIMATION % 2 == 1)


def _number(head, begin, length, big_endian=False):
    """`length` bytes of every header as one number: int64 (B,)."""
    powers = [256**place for place in range(length)]
    return tf.reduce_sum(head[:, begin : begin + length] * powers[:: -1 if big_endian else 1], axis=1)


def _jpeg_sizes(encoded):
    """Height and width: int64 (B, 2), 0 where a file is not a JPEG."""
    return tf.map_fn(
        lambda image: tf.cond(
            tf.io.is_jpeg(image),
            lambda: tf.io.extract_jpeg_shape(image, tf.int64)[:2],
            lambda: tf.zeros((2,), tf.int64),
        ),
        encoded,
        fn_output_signature=tf.TensorSpec((2,), tf.int64),
    )
