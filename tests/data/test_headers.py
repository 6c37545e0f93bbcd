"""What image files may be decoded, by their first bytes."""

import contextlib
import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfvt.data.headers import checked_images, is_still_webp
from tfvt.data.images import EvalPreprocessing, decode_and_center_crop

HEIGHT, WIDTH = 30, 41
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
RGB, RGBA = Image.fromarray(PIXELS[..., :3]), Image.fromarray(PIXELS)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def with_bytes(data, at, new):
    return data[:at] + new + data[at + len(new) :]


BMP = encoded(RGB, "BMP")
ANIMATION = encoded(RGB, "WEBP", save_all=True, append_images=[RGB.rotate(180)])
ACCEPTED = {
    "jpeg": encoded(RGB, "JPEG"),
    "progressive jpeg": encoded(RGB, "JPEG", progressive=True),
    "grey jpeg": encoded(RGB.convert("L"), "JPEG"),
    "jpeg with a long header": encoded(RGB, "JPEG", icc_profile=bytes(200_000)),
    "png": encoded(RGB, "PNG"),
    "png with transparency": encoded(RGBA, "PNG"),
    "bmp": BMP,
    "bmp of 32 bits": encoded(RGBA, "BMP"),
    "bmp from the top": with_bytes(BMP, 22, struct.pack("<i", -HEIGHT)),
    "lossy webp": encoded(RGB, "WEBP"),
    "lossless webp": encoded(RGB, "WEBP", lossless=True),
    "lossy webp with transparency": encoded(RGBA, "WEBP"),
    "lossless webp with transparency": encoded(RGBA, "WEBP", lossless=True),
    "webp with a profile": encoded(RGB, "WEBP", icc_profile=bytes(200)),
}
REFUSED = {
    "": "is not JPEG, PNG, BMP or WebP",
    "text": "is not JPEG, PNG, BMP or WebP",
    b"RIFF\4\0\0\0WAVEfmt ": "is not JPEG, PNG, BMP or WebP",
    b"RIFF\4\0\0\0WEBPnone": "is not JPEG, PNG, BMP or WebP",
    encoded(RGB, "GIF"): "is a GIF, which may hold any number of pictures",
    ANIMATION: "is an animated WebP",
    encoded(RGB.convert("P"), "BMP"): "is a BMP that is not of 24 or 32 bits a pixel",
    with_bytes(BMP, 30, b"\1"): "is a BMP that is not of 24 or 32 bits a pixel, uncompressed",
    with_bytes(BMP, 14, b"\14"): "is a BMP that is not",  # OS/2's header has the size elsewhere
    ACCEPTED["png"][:18]: "is cut off or damaged: its header has no size",
    ACCEPTED["lossy webp"][:26]: "is cut off or damaged: its header has no size",
    with_bytes(ACCEPTED["png"], 16, b"\xff" * 8): "has 4294967295 x 4294967295 pixels: the limit is 1230",
    with_bytes(BMP, 18, b"\0\0\0\x80\0\0\0\x80"): "has 2147483648 x 2147483648 pixels: the limit is 1230",
}


@tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
def at_most_1230(images):
    return checked_images(images, HEIGHT * WIDTH)


@tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
def at_most_1229(images):
    return checked_images(images, HEIGHT * WIDTH - 1)


def refusal(check, *images):
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        check(tf.constant(images))
    return error.value.message


@pytest.mark.parametrize("data", ACCEPTED.values(), ids=ACCEPTED)
def test_an_image_passes_up_to_the_limit(data):
    assert at_most_1230(tf.constant([data])).numpy().tolist() == [data]
    assert "[image 0 of the request has 41 x 30 pixels: the limit is 1229]" in refusal(at_most_1229, data)


@pytest.mark.parametrize("data", ACCEPTED.values(), ids=ACCEPTED)
def test_what_passes_is_decoded_to_the_pixels_of_pillow(data):
    crop = decode_and_center_crop(data, EvalPreprocessing((HEIGHT, WIDTH), 1.0)).numpy()
    np.testing.assert_array_equal(crop, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize(("data", "reason"), REFUSED.items())
def test_what_must_not_be_decoded_is_refused_by_number_and_reason(data, reason):
    good = ACCEPTED["png"]
    assert f"[image 2 of the request {reason}" in refusal(at_most_1230, good, good, data, good, "other")


def test_a_jpeg_without_a_header_is_refused():
    for size in (3, 20, 100):
        assert "Invalid JPEG data" in refusal(at_most_1230, ACCEPTED["jpeg"][:size])


def test_a_request_of_nothing_is_refused():
    assert "the request holds no image" in refusal(lambda images: at_most_1230(tf.zeros((0,), tf.string)))


def test_a_webp_cannot_lie_about_its_size():
    """The decoder compares the canvas, which is read here, with the picture in it."""
    honest = ACCEPTED["webp with a profile"]
    small = with_bytes(honest, 24, bytes(6))
    assert at_most_1230(tf.constant([small])).numpy().tolist() == [small]
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_and_center_crop(small, EvalPreprocessing((8, 8)))


def test_an_animated_webp_raises_when_it_is_decoded():
    """With four channels TensorFlow would write outside its memory."""
    images = tf.constant([ANIMATION, *ACCEPTED.values()])
    assert is_still_webp(images).numpy().tolist() == [False] + ["webp" in name for name in ACCEPTED]
    with pytest.raises(tf.errors.InvalidArgumentError, match="Animation"):
        decode_and_center_crop(ANIMATION, EvalPreprocessing((8, 8)))


def test_damaged_headers_give_an_answer_or_an_error():
    rng = np.random.default_rng(0)
    answers = 0
    for data in ACCEPTED.values():
        for _ in range(20):
            damaged = np.frombuffer(data[: rng.integers(len(data) + 1)], np.uint8).copy()
            places = rng.integers(0, 40, 3)
            damaged[places[places < len(damaged)]] = rng.integers(256)
            with contextlib.suppress(tf.errors.InvalidArgumentError):
                answers += len(at_most_1230(tf.constant([damaged.tobytes()])))
    assert 30 < answers < 250
