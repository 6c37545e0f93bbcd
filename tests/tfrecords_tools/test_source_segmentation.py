"""Images with masks: pairs, the layout file, and what becomes of the masks' ids."""

import io
import shutil
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from image_files import encode, picture, read_records
from PIL import Image, ImageOps

from tfvt.data import (
    SegmentationEvaluation,
    SegmentationSamples,
    SegmentationTraining,
    StreamSettings,
    image_stream,
    open_records,
    train_stream,
)
from tfvt.data.records import VOID
from tfvt.errors import UsageError
from tfvt.tfrecords_tools.cli import main
from tfvt.tfrecords_tools.convert import convert
from tfvt.tfrecords_tools.images import RejectedImageError
from tfvt.tfrecords_tools.masks import encode_mask
from tfvt.tfrecords_tools.sources import open_source
from tfvt.tfrecords_tools.sources.layout import read_layout

LAYOUT = """
splits:
  train: {images: images/training, masks: annotations/training}
  validation: {images: images/validation, masks: annotations/validation}
void_label: [0, 255]
classes:
  7: road
  3: car
  4: car
  9: sky
"""
IDS = {0: 255, 255: 255, 7: 0, 3: 1, 4: 1, 9: 2}


def mask(seed, height=16, width=24):
    return np.random.default_rng(seed).choice(np.array(list(IDS), np.uint8), (height, width))


def write_pairs(root, counts=(3, 2)):
    """ADE20K's layout: `counts` pairs for training and validation."""
    for split, count in zip(("training", "validation"), counts, strict=True):
        for folder in ("images", "annotations"):
            (root / folder / split).mkdir(parents=True)
        for index in range(count):
            (root / "images" / split / f"{index}.jpg").write_bytes(encode(picture(index)))
            (root / "annotations" / split / f"{index}.png").write_bytes(encode(mask(index), "PNG"))
    return root


@pytest.fixture
def layout(tmp_path):
    path = tmp_path / "layout.yaml"
    path.write_text(LAYOUT)
    return path


def test_records(tmp_path, layout, capsys):
    root, output = write_pairs(tmp_path / "pairs"), tmp_path / "records"
    (root / "readme.txt").write_text("")
    (root / "images" / "test").mkdir()
    (root / "annotations" / "training" / "other.png").write_bytes(encode(mask(5), "PNG"))
    assert main(["convert", str(root), str(output), "--layout", str(layout)]) == 0
    assert (
        "left out, because the source has no place for them: images/test, readme.txt, annotations/training/other"
        in (capsys.readouterr().err)
    )
    records = read_records(output, "train")
    assert sorted(record["image/filename"] for record in records) == [b"0.jpg", b"1.jpg", b"2.jpg"]
    for record in records:
        index = int(record["image/filename"][:1])
        assert record["image/encoded"] == encode(picture(index))
        assert record["image/segmentation/class/format"] == b"png"
        stored = Image.open(io.BytesIO(record["image/segmentation/class/encoded"]))
        assert (stored.format, stored.mode, stored.size) == ("PNG", "L", (24, 16))
        np.testing.assert_array_equal(np.asarray(stored), np.vectorize(IDS.get)(mask(index)))
        assert (record["image/class/label"], record["image/class/text"]) == (-1, b"")
    assert len(read_records(output, "validation")) == 2


@pytest.mark.parity
def test_official_models_read_our_masks(tmp_path, layout):
    """TensorFlow's official segmentation decoder and parser, at the images' own size: classes, and what is void."""
    from official.vision.dataloaders.segmentation_input import Decoder, Parser

    convert(open_source(write_pairs(tmp_path / "pairs"), layout=layout), tmp_path / "records")
    parse = Parser([16, 24], preserve_aspect_ratio=False, resize_eval_groundtruth=True, ignore_label=VOID).parse_fn(
        False
    )
    records = tf.data.TFRecordDataset(str(tmp_path / "records" / "train-00000-of-00001"))
    found = [parse(Decoder().decode(serialized))[1] for serialized in records]
    masks = {labels["masks"].numpy().astype(int).tobytes() for labels in found}
    assert masks == {np.vectorize(IDS.get)(mask(index)).tobytes() for index in range(3)}
    assert all((labels["valid_masks"].numpy() == (labels["masks"].numpy() != VOID)).all() for labels in found)


def test_masks_have_no_label_offset(tmp_path, layout):
    source = open_source(write_pairs(tmp_path / "pairs"), layout=layout)
    with pytest.raises(UsageError, match="the classes of a mask's pixels begin with 0"):
        convert(source, tmp_path / "records", label_offset=1)


def test_classes_are_the_names_in_the_order_of_the_layout(tmp_path, layout):
    settings = open_source(write_pairs(tmp_path / "pairs"), layout=layout).settings
    assert settings.class_names == ("road", "car", "sky")
    assert settings.mask_ids == IDS


@pytest.mark.parametrize(
    ("name", "classes", "ids"),
    [
        ("ade20k", 150, {0: 255, 1: "wall", 13: "person", 150: "flag"}),
        ("coco_stuff", 171, {255: 255, 0: "person", 10: "fire hydrant", 12: "stop sign", 91: "banner", 181: "wood"}),
        ("lip", 20, {0: "Background", 5: "UpperClothes", 19: "Right-shoe"}),
    ],
)
def test_layouts_that_come_with_tfvt(tmp_path, name, classes, ids):
    layout = read_layout(name)
    assert len(set(layout.class_names)) == classes == len(layout.mask_ids) - (name != "lip")
    for stored, meaning in ids.items():
        label = layout.mask_ids[stored]
        assert meaning == (label if label == 255 else layout.class_names[label])
    for images, masks in layout.splits.values():
        for folder in (images, masks):
            (tmp_path / folder).mkdir(parents=True)
        (tmp_path / images / "a.jpg").write_bytes(encode(picture(0)))
        (tmp_path / masks / "a.png").write_bytes(encode(np.full((16, 24), 1, np.uint8), "PNG"))
    manifest = convert(open_source(tmp_path, layout=name), tmp_path.parent / f"{name} records")
    assert list(manifest.splits) == ["train", "validation"]


@pytest.mark.parametrize(
    ("name", "ids"),
    [("ade20k", {0: 255, 1: 0, 150: 149}), ("coco_stuff", {0: 0, 181: 170, 255: 255}), ("lip", {0: 0, 19: 19})],
)
def test_ids_are_shifted_once_from_files_to_samples(tmp_path, name, ids):
    """A mask of one id after the other, at the end of conversion and reading; training sees the same classes."""
    layout, stored = read_layout(name), np.repeat(np.array([*ids], np.uint8), 4)[None].repeat(16, 0)
    for images, masks in layout.splits.values():
        for folder, data in ((images, encode(picture(0, *stored.shape))), (masks, encode(stored, "PNG"))):
            (tmp_path / folder).mkdir(parents=True)
            (tmp_path / folder / ("a.jpg" if folder == images else "a.png")).write_bytes(data)
    output = tmp_path.parent / f"{name} samples"
    convert(open_source(tmp_path, layout=name), output)
    records = open_records(output, "train")
    samples = SegmentationSamples.of(records, SegmentationEvaluation())
    (found,) = image_stream(records, samples, StreamSettings(1)).as_numpy_iterator()
    np.testing.assert_array_equal(found["mask"][0], np.vectorize(ids.get)(stored))
    plain = SegmentationTraining(stored.shape, None, (1.0, 1.0), flip=False)
    (found,) = train_stream(records, SegmentationSamples.of(records, plain), StreamSettings(1)).take(1)
    np.testing.assert_array_equal(found["mask"][0], np.vectorize(ids.get)(stored))


def test_coco_stuff_leaves_out_what_was_never_drawn():
    """README and labels.txt of COCO-Stuff: 11 of the 91 things have no segmentation; ids in the PNGs are one less."""
    ids = set(read_layout("coco_stuff").mask_ids)
    assert set(range(182)) - ids == {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}


def rotated(orientation, height=16, width=24):
    block = Image.Exif()
    block[0x0112] = orientation
    return encode(picture(0, height, width), exif=block)


def decode(data):
    return np.asarray(Image.open(io.BytesIO(data)))


IDENTITY = {number: number for number in range(256)}


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_mask_is_turned_as_its_image_is(orientation):
    """Pillow's own turning of a picture with that tag says how; a mask of the upright size stays as it is."""
    upright = mask(0, 24, 16)
    np.testing.assert_array_equal(decode(encode_mask(encode(upright, "PNG"), IDENTITY, rotated(orientation))), upright)
    block = Image.Exif()
    block[0x0112] = orientation
    tagged = Image.open(io.BytesIO(encode(mask(0), "PNG", exif=block)))
    expected = np.asarray(ImageOps.exif_transpose(tagged))
    np.testing.assert_array_equal(decode(encode_mask(encode(mask(0), "PNG"), IDENTITY, rotated(orientation))), expected)


@pytest.mark.parametrize("image", [rotated(3), rotated(2), rotated(6, 16, 16)])
def test_mask_that_does_not_tell_how_it_lies_is_rejected(image):
    size = Image.open(io.BytesIO(image)).size
    with pytest.raises(RejectedImageError, match="does not show whether that is too: turn the image"):
        encode_mask(encode(mask(0, *size[::-1]), "PNG"), IDENTITY, image)


def palette_png(indices):
    image = Image.fromarray(indices, "P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("png", "ids"),
    [
        (palette_png(mask(1)), mask(1)),
        (encode(mask(1), "PNG"), mask(1)),
        (encode(mask(1).astype(np.uint16) + 300, "PNG"), mask(1).astype(int) + 300),
        (encode(mask(1) > 4, "PNG"), (mask(1) > 4).astype(int)),
    ],
)
def test_indices_count_whatever_the_png_is(png, ids):
    mapping = {number: place for place, number in enumerate(np.unique(ids).tolist())}
    found = decode(encode_mask(png, mapping, encode(picture(1))))
    np.testing.assert_array_equal(found, np.vectorize(mapping.get)(ids))


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_ids_of_few_bits(depth):
    """A PNG of 1, 2 or 4 bits a pixel, as tools that make PNGs small write it; Pillow writes none such."""
    ids = np.random.default_rng(depth).integers(0, 2**depth, (16, 24), np.uint8)
    bits = np.unpackbits(ids[..., None], axis=-1)[..., -depth:].reshape(16, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(bits, axis=-1))
    chunks = {b"IHDR": struct.pack(">IIBBBBB", 24, 16, depth, 0, 0, 0, 0), b"IDAT": zlib.compress(rows), b"IEND": b""}
    png = b"\x89PNG\r\n\x1a\n"
    for name, content in chunks.items():
        png += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    np.testing.assert_array_equal(decode(encode_mask(png, IDENTITY, encode(picture(0)))), ids)


PNG = encode(mask(1), "PNG")


@pytest.mark.parametrize(
    ("png", "message"),
    [
        (encode(picture(0)), r"its mask is not a PNG: it begins with b'\\xff\\xd8"),
        (encode(picture(0), "PNG"), r"its mask has colours \(RGB\) instead of one id a pixel"),
        (encode(mask(0, 15, 24), "PNG"), r"its mask has 24x15 pixels, the image 24x16"),
        (encode(mask(0, 24, 16), "PNG"), r"its mask has 16x24 pixels, the image 24x16"),
        (encode(mask(0) // 9 + 100, "PNG"), r"its mask has ids to which the layout gives no class, 100, .*add them"),
        (PNG[:-20], r"its mask: PNG is cut off"),
        (PNG[:60] + b"x" + PNG[61:], r"its mask: .*(PNG is cut off or damaged|broken)"),
    ],
)
def test_other_masks_are_rejected(png, message):
    with pytest.raises(RejectedImageError, match=message):
        encode_mask(png, IDS, encode(picture(0)))


def test_bad_pairs_fail_the_conversion_and_are_listed(tmp_path, layout, capsys):
    root = write_pairs(tmp_path / "pairs", counts=(7, 1))
    masks = root / "annotations" / "training"
    (masks / "1.png").unlink()
    (masks / "2.png").write_bytes(encode(mask(0, 8, 8), "PNG"))
    (masks / "3.png").write_bytes(b"")
    (root / "images" / "training" / "4.jpg").write_bytes(b"")
    (masks / "5.png").write_bytes(encode(picture(5), "PNG"))
    (masks / "6.png").write_bytes(encode(np.full((16, 24), 8, np.uint8), "PNG"))
    arguments = ["convert", str(root), str(tmp_path / "records"), "--layout", str(layout)]
    assert main([*arguments, "--max-rejects", "5"]) == 2
    error = capsys.readouterr().err
    assert "6 images cannot be converted, and 5 are allowed" in error
    for name, reason in {
        "1.jpg": f"its mask {masks}/1.png: cannot be read: No such file",
        "2.jpg": "its mask has 8x8 pixels, the image 24x16",
        "3.jpg": f"its mask {masks}/3.png: empty file",
        "4.jpg": "empty file",
        "5.jpg": "its mask has colours (RGB) instead of one id a pixel",
        "6.jpg": "its mask has ids to which the layout gives no class, 8: add them to its classes or to void_label",
    }.items():
        assert f"training/{name}: {reason}" in error
    assert main([*arguments, "--max-rejects", "6"]) == 0
    assert [record["image/filename"] for record in read_records(tmp_path / "records", "train")] == [b"0.jpg"]


def test_other_folders_are_refused(tmp_path, layout):
    root = write_pairs(tmp_path / "pairs")
    (root / "images" / "training" / "0.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"training/0.jpg and images/training/0.png differ only in their suffix"):
        open_source(root, layout=layout)
    (root / "images" / "training" / "0.png").unlink()
    shutil.rmtree(root / "annotations" / "validation")
    with pytest.raises(UsageError, match=r"annotations/validation cannot be listed: No such file"):
        open_source(root, layout=layout)
    (root / "annotations" / "validation").mkdir()
    message = r"validation of .*: no image in images/validation \(2 files\) has a mask of its name in .* \(0 files\)"
    with pytest.raises(UsageError, match=message):
        open_source(root, layout=layout)
    with pytest.raises(UsageError, match=r"nowhere is not a folder"):
        open_source(tmp_path / "nowhere", layout=layout)
    with pytest.raises(UsageError, match=r"the format segmentation needs --layout"):
        open_source(root, "segmentation")


SPLITS = "splits: {train: {images: a, masks: b}}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", r"layout.yaml is not YAML: expected .* in line 1, column 5$"),
        ("splits:\n\ttrain: 1", r"layout.yaml is not YAML: found character .* in line 2, column 1$"),
        ("a: \x07", r"layout.yaml is not YAML: unacceptable character #x0007"),
        ("[" * 5000, r"layout.yaml is nested too deeply"),
        ("- a", r"expected the keys splits, classes and perhaps void_label"),
        ("clases: {}", r"unknown key clases; expected splits"),
        ("classes: {1: a, 2: b}", r"splits must have one or more of the keys train, validation, test"),
        ("splits: {val: {images: a, masks: b}}", r"splits must have one or more of the keys train, validation"),
        ("splits: {train: {images: a}}", r"splits: train must have the keys images and masks"),
        (SPLITS, r"classes must map ids of the masks to names"),
        (SPLITS + "classes: [a, b]", r"classes must map ids"),
        (SPLITS + "classes: {one: a, 2: b}", r"classes must map ids"),
        (SPLITS + "classes: {1: a, 2: no}", r"classes must map ids of the masks to names"),
        (SPLITS + "classes: {1: a, 1: b}", r"1 is given twice, again in line 2"),
        (SPLITS + "classes: {1: a, 2: b}\nvoid_label: 2", r"the id 2 is both a class and void_label"),
        (SPLITS + "classes: {1: a, 2: b}\nvoid_label: none", r"void_label must be an id of the masks, or a list"),
        (SPLITS + "classes: {1: a}", r"1 class: a mask of 8 bits holds 2 to 255"),
        (SPLITS + "classes: {" + ", ".join(f"{n}: c{n}" for n in range(256)) + "}", r"256 classes: a mask of 8 bits"),
    ],
)
def test_wrong_layouts_are_refused(tmp_path, text, message):
    path = tmp_path / "layout.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as raised:
        read_layout(path)
    assert "\n" not in str(raised.value)


def test_a_layout_that_is_not_there_is_named():
    with pytest.raises(UsageError, match=r"layout ade cannot be read .*: give a YAML file, or one of ade20k, coco"):
        read_layout("ade")
