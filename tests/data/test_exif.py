"""Photographs upright: the orientation in a JPEG's header, against Pillow."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tfvt.data import exif
from tfvt.data.exif import MOST_SEGMENTS, decode_upright, orientation
from tfvt.data.images import decode_window

PIXELS = np.kron(np.random.default_rng(0).integers(0, 256, (5, 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8))[:37, :61]
TURNS = range(1, 9)


def tiff(value, order="MM", kind=3, count=1, entries=(), magic=42):
    """A TIFF header whose first directory holds the orientation after other entries."""
    sign = ">" if order == "MM" else "<"
    packed = struct.pack(sign + {3: "Hxx", 4: "L", 1: "Bxxx"}[kind], value)
    rows = [*entries, struct.pack(sign + "HHL", 0x0112, kind, count) + packed]
    other = struct.pack(sign + "HHLL", 0x0100, 4, 1, 6)
    directory = struct.pack(sign + "H", len(rows) + 1) + other + b"".join(rows) + bytes(4)
    return order.encode() + struct.pack(sign + "HL", magic, 12) + b"fill" + directory


def segment(marker, payload):
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def photograph(*segments, **options):
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG", quality=95, **options)
    data = file.getvalue()
    return data[:2] + b"".join(segments) + data[2:]


def turned(value, *before, **kwargs):
    return photograph(*before, segment(0xE1, b"Exif\0\0" + tiff(value, **kwargs)))


read = tf.function(orientation, input_signature=[tf.TensorSpec((), tf.string)])


@tf.function(input_signature=[tf.TensorSpec((), tf.string), tf.TensorSpec((4,), tf.float32)])
def part(encoded, shares):
    """The part of an upright image from and to these shares of its sides."""
    return decode_upright(encoded, lambda height, width: window_of(height, width, shares))


def window_of(height, width, shares):
    sides = tf.cast(tf.stack([height, width] * 2), tf.float32)
    y, x, bottom, right = tf.unstack(tf.cast(shares * sides, tf.int32))
    return y, x, bottom - y, right - x


def pillow(data):
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


@pytest.mark.parametrize("order", ["MM", "II"])
@pytest.mark.parametrize("value", TURNS)
def test_every_orientation_is_that_of_pillow(value, order):
    for kind in (3, 4):
        data = turned(value, order=order, kind=kind)
        assert read(data).numpy() == Image.open(io.BytesIO(data)).getexif()[0x0112] == value
    image, origin, size = part(data, [0, 0, 1, 1])
    expected = pillow(data)
    np.testing.assert_array_equal(image, expected)
    assert (origin.numpy().tolist(), tuple(size)) == ([0, 0], expected.shape[:2])
    assert expected.shape[0] == (61 if value >= 5 else 37)


@pytest.mark.parametrize("value", TURNS)
def test_a_part_is_that_of_the_upright_image(value):
    """The borders of a part may differ by what the decoder knows of the colours beside it."""
    data = photograph(segment(0xE1, b"Exif\0\0" + tiff(value)), subsampling="4:4:4")
    expected = pillow(data)
    image, origin, size = part(data, [0.2, 0.5, 0.9, 0.75])
    y, x, high, wide = (int(v) for v in window_of(*expected.shape[:2], tf.constant([0.2, 0.5, 0.9, 0.75])))
    assert (origin.numpy().tolist(), tuple(size)) == ([y, x], expected.shape[:2])
    assert image.shape == (high, wide, 3)
    difference = np.abs(image.numpy().astype(int) - expected[y : y + high, x : x + wide])
    assert difference[1:-1, 1:-1].max() == 0


HARMLESS = {
    "after a profile": turned(6, segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(60_000))),
    "after XMP": turned(6, segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"<x/>" * 100)),
    "after filling": turned(6, b"\xff\xff\xff"),
    "entries of other kinds": turned(6, entries=[struct.pack(">HHLL", 0x010F, 2, 9, 200)] * 40),
}
UPRIGHT = {
    "no header": photograph(),
    "value 0": turned(0),
    "value 9": turned(9),
    "two values": turned(6, count=2),
    "a byte": turned(6, kind=1),
    "another kind of file": turned(6, magic=43),
    "not EXIF": photograph(segment(0xE1, b"Exif\0\1" + tiff(6))),
    "after the picture": photograph() + segment(0xE1, b"Exif\0\0" + tiff(6)),
    "a directory outside": photograph(segment(0xE1, b"Exif\0\0MM\0\x2a\xff\xff\xff\xff")),
    "empty": b"",
    "two bytes": b"\xff\xd8",
    "png": b"\x89PNG\r\n\x1a\n" + turned(6)[8:],
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_stands_before_the_header_is_passed_over(name):
    assert read(HARMLESS[name]).numpy() == Image.open(io.BytesIO(HARMLESS[name])).getexif()[0x0112] == 6


@pytest.mark.parametrize("name", UPRIGHT)
def test_what_says_nothing_leaves_the_image_as_it_is(name):
    assert read(UPRIGHT[name]).numpy() == 1


def test_a_file_of_thousands_of_segments_is_not_searched_through():
    empty = segment(0xE3, b"")
    assert read(turned(6, empty * (MOST_SEGMENTS - 1))).numpy() == 6
    assert read(turned(6, empty * MOST_SEGMENTS)).numpy() == 1


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.sampled_from([turned(value, order=order) for value in (3, 6) for order in ("MM", "II")]),
    st.integers(0, 120),
    st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255)), max_size=4),
)
def test_a_damaged_header_raises_no_error(data, end, changes):
    header, rest = bytearray(data[:100]), data[100:]
    for place, value in changes:
        header[place] = value
    assert 1 <= int(read(bytes(header[:end]))) <= 8
    assert 1 <= int(read(bytes(header) + rest)) <= 8


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_any_bytes_as_a_header_raise_no_error(payload):
    assert 1 <= int(read(photograph(segment(0xE1, b"Exif\0\0" + payload)))) <= 8
    assert 1 <= int(read(b"\xff\xd8" + payload)) <= 8
    assert 1 <= int(read(b"\xff\xd8\xff" + payload)) <= 8


def test_an_upright_image_is_decoded_as_ever():
    data = photograph()
    for actual, expected in zip(
        part(data, [0.1, 0.1, 0.8, 0.7]),
        decode_window(data, lambda height, width: window_of(height, width, tf.constant([0.1, 0.1, 0.8, 0.7]))),
        strict=True,
    ):
        np.testing.assert_array_equal(actual, expected)
    assert exif.orientation(tf.constant(data)).dtype == tf.int32
