"""What becomes of single files: copied, re-encoded or rejected."""

import errno
import io
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import encode, picture
from PIL import Image

from tfvt.data.records import ENCODED, FORMAT, HEIGHT, WIDTH
from tfvt.tfrecords_tools import images, verify
from tfvt.tfrecords_tools.images import RejectedImageError, read_file, read_image


def pixels(image):
    return np.asarray(Image.open(io.BytesIO(image.encoded)))


def exif(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    return block


@pytest.mark.parametrize(
    ("content", "format", "channels", "colorspace"),
    [
        (encode(picture(0)), "JPEG", 3, "RGB"),
        (encode(picture(0), progressive=True), "JPEG", 3, "RGB"),
        (encode(picture(0)[..., 0]), "JPEG", 1, "Grayscale"),
        (encode(picture(0)) + b"\0\0 what some cameras append", "JPEG", 3, "RGB"),
        (encode(picture(0), exif=exif(1)), "JPEG", 3, "RGB"),
        (encode(picture(0), exif=b"Exif\0\0 damaged"), "JPEG", 3, "RGB"),
        (encode(picture(0), "PNG"), "PNG", 3, "RGB"),
        (encode(picture(0)[..., 0], "PNG"), "PNG", 1, "Grayscale"),
        (encode(np.dstack([picture(0), picture(1)[..., 0]]), "PNG"), "PNG", 4, "RGB"),
    ],
)
def test_good_files_are_copied_byte_for_byte(content, format, channels, colorspace):
    image = read_image(content)
    assert image.encoded == content
    assert (image.format, image.height, image.width) == (format, 16, 24)
    assert (image.channels, image.colorspace) == (channels, colorspace)


def test_palette_png_is_copied():
    file = io.BytesIO()
    Image.fromarray(picture(0)).convert("P").save(file, "PNG")
    image = read_image(file.getvalue())
    assert image.encoded == file.getvalue()
    assert (image.channels, image.colorspace) == (3, "RGB")


def test_cmyk_jpeg_is_re_encoded_as_rgb():
    ink = np.zeros((16, 24, 4), np.uint8)
    ink[:, :8, 0] = 255  # cyan: red 0, green and blue 255
    ink[:, 8:16, 3] = 128  # half black
    ink[:, 16:, 1:3] = 255  # magenta and yellow: red
    image = read_image(encode(ink, mode="CMYK", quality=100))
    assert (image.format, image.channels, image.colorspace) == ("JPEG", 3, "RGB")
    colours = pixels(image)[:, 4::8].astype(int)
    np.testing.assert_allclose(
        colours, np.broadcast_to([[0, 255, 255], [127, 127, 127], [255, 0, 0]], (16, 3, 3)), atol=6
    )


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (2, lambda image: image[:, ::-1]),
        (3, lambda image: image[::-1, ::-1]),
        (6, lambda image: np.rot90(image, -1)),
        (8, lambda image: np.rot90(image)),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_rotation_is_applied(kind, orientation, upright):
    content = encode(picture(0), kind, exif=exif(orientation))
    image = read_image(content)
    expected = upright(np.asarray(Image.open(io.BytesIO(content))).astype(int))
    assert (image.height, image.width, image.format) == (*expected.shape[:2], kind)
    np.testing.assert_allclose(pixels(image), expected, atol=12 if kind == "JPEG" else 0)
    assert Image.open(io.BytesIO(image.encoded)).getexif().get(0x0112, 1) == 1


def test_16_bit_png_keeps_its_high_bytes():
    grey = picture(0)[..., 0]
    image = read_image(encode(grey.astype(np.uint16) * 256 + 200, "PNG"))
    assert (image.format, image.channels, image.encoded[24]) == ("PNG", 1, 8)
    np.testing.assert_array_equal(pixels(image), grey)


JPEG = encode(picture(0, 64, 64), quality=95)
PNG = encode(picture(0, 64, 64), "PNG")


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_truncated_jpeg_is_rejected(kept):
    with pytest.raises(RejectedImageError, match="JPEG is cut off: it has no end-of-image marker"):
        read_image(JPEG[: max(int(len(JPEG) * kept), 700)])


@pytest.mark.parametrize("padding", [b"", b"\0" * 500])
def test_jpeg_without_its_last_two_bytes_is_rejected(padding):
    with pytest.raises(RejectedImageError, match="cut off"):
        read_image(JPEG[:-2] + padding)


def test_end_marker_of_a_thumbnail_does_not_count():
    """A camera's preview sits in a header segment, and is itself a JPEG with an end marker."""
    thumbnail = encode(picture(1, 8, 8))
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    content = JPEG[:2] + segment + JPEG[2:]
    assert read_image(content).encoded == content
    with pytest.raises(RejectedImageError, match="cut off"):
        read_image(content[:-100])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"hello, world", "neither JPEG nor PNG: it begins with b'hello, w'"),
        (encode(picture(0), "TIFF"), "neither JPEG nor PNG: it begins with b'II"),
        (encode(picture(0), "GIF"), "^GIF file: `tfvt records convert --jpeg` makes a JPEG of it$"),
        (encode(picture(0), "WEBP"), "^WebP file: `tfvt records convert --jpeg` makes a JPEG of it$"),
        (encode(picture(0), "BMP"), "^BMP file: `tfvt records convert --jpeg` makes a JPEG of it$"),
        (JPEG[:3], "JPEG is cut off or damaged: its header cannot be read"),
        (JPEG[:20], "JPEG is cut off"),
        (PNG[:8], "PNG is cut off or damaged: its header cannot be read"),
        (PNG[:-30], "PNG is cut off or damaged: Truncated"),
        (PNG[:100] + b"x" + PNG[101:], "PNG is cut off or damaged: .*checksum|broken"),
    ],
)
def test_what_is_no_image_is_rejected_with_its_reason(content, reason):
    with pytest.raises(RejectedImageError, match=reason):
        read_image(content)


def test_unreadable_files_are_rejected(tmp_path, monkeypatch):
    file = tmp_path / "image.jpg"
    file.write_bytes(b"")
    with pytest.raises(RejectedImageError, match="empty file"):
        read_file(str(file))
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RejectedImageError, match="cannot be read: No such file"):
        read_file(str(tmp_path / "link.jpg"))
    with pytest.raises(RejectedImageError, match="not a regular file"):
        read_file("/dev/null")

    def refuse(path, *_, **__):  # root may read everything: the system's answer to others is given by hand
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(RejectedImageError, match="cannot be read: Permission denied"):
        read_file(str(file))


def test_part_of_a_file(tmp_path):
    file = tmp_path / "files.tar"
    file.write_bytes(b"0123456789")
    assert read_file(str(file), offset=3, size=4) == b"3456"
    with pytest.raises(RejectedImageError, match=r"files.tar ends 2 bytes before the image does"):
        read_file(str(file), offset=8, size=4)


def transparent(mode):
    """Left half opaque, right half fully transparent, over black."""
    colours = picture(0, 32, 64).copy()
    colours[:, 32:] = 0
    alpha = np.full((32, 64), 255, np.uint8)
    alpha[:, 32:] = 0
    image = Image.fromarray(np.dstack([colours, alpha]), "RGBA")
    if mode == "P":
        return image.quantize(64), colours
    if mode == "RGB":  # a colour that counts as transparent
        image = image.convert("RGB")
        image.info["transparency"] = (0, 0, 0)
        return image, colours
    return image.convert(mode), np.asarray(Image.fromarray(colours).convert("L")) if mode == "LA" else colours


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 3), ("LA", 1), ("P", 3), ("RGB", 3)])
def test_jpeg_of_a_transparent_png_is_white_behind(mode, channels):
    png, colours = transparent(mode)
    file = io.BytesIO()
    png.save(file, "PNG")
    assert read_image(file.getvalue()).format == "PNG"
    image = read_image(file.getvalue(), jpeg=True)
    assert (image.format, image.channels, image.encoded[:2]) == ("JPEG", channels, b"\xff\xd8")
    assert (image.height, image.width) == (32, 64)
    found = pixels(image).astype(int)
    np.testing.assert_allclose(found[:, :28], colours[:, :28], atol=40 if mode == "P" else 12)
    np.testing.assert_allclose(found[:, 36:], 255, atol=6)


@pytest.mark.parametrize(
    ("png", "channels"),
    [
        (encode(picture(0, 64, 96), "PNG"), 3),
        (encode(picture(0, 64, 96)[..., 0], "PNG"), 1),
        (encode(picture(0, 64, 96)[..., 0].astype(np.uint16) * 256, "PNG"), 1),
        (encode(picture(0, 64, 96), "PNG", exif=exif(6)), 3),
    ],
)
def test_jpeg_of_a_png(png, channels):
    image = read_image(png, jpeg=True)
    assert (image.format, image.channels) == ("JPEG", channels)
    np.testing.assert_allclose(pixels(image), pixels(read_image(png)).astype(int), atol=12)


def test_jpegs_are_copied_where_pngs_are_not():
    assert read_image(JPEG, jpeg=True).encoded == JPEG


@pytest.mark.parametrize(("kind", "tolerance"), [("WEBP", 40), ("BMP", 12), ("GIF", 60)])
def test_jpeg_of_other_formats(kind, tolerance):
    image = read_image(encode(picture(0, 32, 64), kind), jpeg=True)
    assert (image.format, image.height, image.width, image.channels) == ("JPEG", 32, 64, 3)
    assert Image.open(io.BytesIO(image.encoded)).format == "JPEG"
    np.testing.assert_allclose(pixels(image), picture(0, 32, 64).astype(int), atol=tolerance)


def test_jpeg_of_a_moving_gif_is_its_first_frame():
    frames = [Image.fromarray(np.full((16, 24, 3), value, np.uint8)) for value in (200, 10)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(pixels(read_image(file.getvalue(), jpeg=True)), 200, atol=2)


def test_re_encoded_jpegs_keep_their_colours_whole():
    """Red and blue columns, one pixel wide: chroma subsampling would mix them to purple."""
    columns = np.zeros((16, 16, 3), np.uint8)
    columns[:, ::2, 0] = columns[:, 1::2, 2] = 255
    content = encode(columns, quality=100, subsampling=0, exif=exif(3))
    np.testing.assert_allclose(pixels(read_image(content)), columns[:, ::-1].astype(int), atol=12)
    np.testing.assert_allclose(pixels(read_image(encode(columns, "PNG"), jpeg=True)), columns.astype(int), atol=12)


def flipped_bytes(content, count, seed):
    """Copies with one bit changed between the header of the (first) scan and the end marker."""
    numbers = np.random.default_rng(seed)
    begin = content.index(b"\xff\xda") + 2 + int.from_bytes(content[content.index(b"\xff\xda") + 2 :][:2])
    for _ in range(count):
        damaged = bytearray(content)
        damaged[numbers.integers(begin, len(content) - 2)] ^= 1 << int(numbers.integers(8))
        yield bytes(damaged)


def findings(content):
    """What `verify` says of these bytes in a record of the right size."""
    values = {ENCODED: content, FORMAT: b"JPEG", HEIGHT: 24, WIDTH: 40}
    return [text for text, _ in verify._image_findings(values, decode=True) if "(height, width)" not in text]


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_damage_is_not_hidden_by_re_encoding(mode, progressive):
    """What becomes a new JPEG is rejected wherever `verify` would have found something in the original."""
    noise = np.random.default_rng(5).integers(0, 256, (24, 40, {"L": 1, "RGB": 3, "CMYK": 4}[mode]), np.uint8)
    content = encode(noise.squeeze(), mode=mode, progressive=progressive, exif=exif(1 if mode == "CMYK" else 6))
    assert read_image(content).encoded != content
    rejected = 0
    for damaged in flipped_bytes(content, 150, seed=7):
        try:
            made = read_image(damaged).encoded
        except RejectedImageError as error:
            rejected += 1
            assert "no end-of-image marker" in str(error) or findings(damaged), str(error)  # noqa: PT017 - a loop
        else:
            assert not findings(damaged)
            assert not findings(made)
    assert rejected > 20


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("factor", [1.5, 3])  # Pillow warns of the first, and refuses the second
def test_images_of_too_many_pixels_are_rejected(monkeypatch, kind, factor):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(64 * 64 / factor))
    with pytest.raises(RejectedImageError, match=r"^too large: it has more than [\d,]+ pixels; scale it down$"):
        read_image(PNG if kind == "PNG" else JPEG)


SEEDS = [
    *(encode(picture(0, 8, 12), kind) for kind in ("WEBP", "BMP", "GIF")),
    JPEG,
    PNG,
    encode(picture(0), exif=exif(6)),
    encode(picture(0)[..., 0].astype(np.uint16) * 256, "PNG"),
]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of EXIF
@settings(max_examples=300, deadline=None)
@given(
    content=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=4)), min_size=1, max_size=4),
    jpeg=st.booleans(),
)
def test_any_damaged_file_is_an_image_or_rejected(content, edits, jpeg):
    """Each edit puts bytes in the place of others; most are near the beginning, where the headers are."""
    for place, removed, inserted in edits:
        begin = int(place**3 * len(content))
        content = content[:begin] + inserted + content[begin + removed :]
    try:
        image = read_image(content, jpeg)
    except RejectedImageError:
        return
    assert min(image.height, image.width) > 0
    assert image.format in (("JPEG",) if jpeg else ("JPEG", "PNG"))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("rotated", [False, True])
def test_plain_jpegs_are_read_as_pillow_reads_them(monkeypatch, progressive, mode, rotated):
    bands = {"L": 1, "RGB": 3, "CMYK": 4}[mode]
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, bands), np.uint8).squeeze()
    content = encode(pixels, mode=mode, progressive=progressive, exif=exif(6 if rotated else 1))
    plain = encode(pixels, mode=mode, progressive=progressive)
    assert images._plain_jpeg(plain) == (None if mode == "CMYK" else (16, 24, bands))
    assert images._plain_jpeg(content) is None, "EXIF is for Pillow to read"
    found = read_image(plain)
    monkeypatch.setattr(images, "_plain_jpeg", lambda _: None)
    assert read_image(plain) == found


@given(st.data())
def test_damaged_headers_are_no_plain_jpegs_with_other_sizes(data):
    """Cut anywhere, or with a byte changed before the compressed data: None or an honest answer, never an error."""
    content = bytearray(JPEG[: data.draw(st.integers(0, len(JPEG)))])
    if content and data.draw(st.booleans()):
        content[data.draw(st.integers(0, min(len(content), 600) - 1))] = data.draw(st.integers(0, 255))
    found = images._plain_jpeg(bytes(content))
    assert found is None or (found[2] in (1, 3) and content.endswith(b"\xff\xd9"))
