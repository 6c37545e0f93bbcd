"""Records with objects: what `verify` finds, what `inspect` counts and draws."""

import io

import numpy as np
import pytest
import tensorflow as tf
from box_files import CATEGORIES, annotation, coco_json, write_coco
from image_files import encode, picture
from PIL import Image
from record_sets import example, write_set

from tfvt.data.mask_pictures import palette
from tfvt.data.records import (
    BOX_AREA,
    BOX_CROWD,
    BOX_LABEL,
    BOX_MASK,
    BOX_TEXT,
    BOX_XMAX,
    BOX_XMIN,
    BOX_YMAX,
    BOX_YMIN,
)
from tfvt.errors import UsageError
from tfvt.tfrecords_tools.cli import main
from tfvt.tfrecords_tools.contact_sheet import contact_sheet
from tfvt.tfrecords_tools.convert import convert
from tfvt.tfrecords_tools.inspect import inspect
from tfvt.tfrecords_tools.verify import verify


def one_bit(height=16, width=24, mode="1"):
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, "PNG")
    return file.getvalue()


OBJECTS = {
    BOX_YMIN: [0.0, 0.25],
    BOX_XMIN: [0.0, 0.5],
    BOX_YMAX: [0.5, 1.0],
    BOX_XMAX: [1.0, 0.75],
    BOX_LABEL: [1, 2],
    BOX_TEXT: ["a", "b"],
    BOX_CROWD: [0, 1],
    BOX_AREA: [192.0, 40.5],
    BOX_MASK: [one_bit(), one_bit()],
}


def boxed(source_id="7", image=0, **changed):
    objects = {name: changed.get(name.rpartition("/")[2], values) for name, values in OBJECTS.items()}
    return example(
        image,
        label=-1,
        synset="",
        text="",
        source_id=source_id,
        objects={n: v for n, v in objects.items() if v is not None},
    )


def without(feature):
    parsed = tf.train.Example.FromString(boxed())
    del parsed.features.feature[feature]
    return parsed.SerializeToString()


EMPTY = {name.rpartition("/")[2]: () for name in OBJECTS}


def test_whole_sets_have_no_findings(tmp_path):
    convert(write_coco(tmp_path / "coco"), tmp_path / "records", label_offset=1)
    assert verify(tmp_path / "records").findings == ()
    sound = [boxed(), boxed("8", 1, **EMPTY), boxed("9", 2, mask=None, area=None, is_crowd=None, text=None)]
    assert verify(write_set(tmp_path / "set", {"train": sound}, label_offset=1)).findings == ()


@pytest.mark.parametrize(
    ("spoilt", "problem"),
    [
        (boxed(label=[1]), "its image/object/class/label has 1 value, its image/object/bbox/ymin 2"),
        (boxed(xmax=[0.5, 0.6, 0.7]), "its image/object/bbox/xmax has 3 values, its image/object/bbox/ymin 2"),
        (boxed(mask=[one_bit()]), "its image/object/mask has 1 value, its image/object/bbox/ymin 2"),
        (without(BOX_XMAX), "it has objects and lacks image/object/bbox/xmax"),
        (boxed(source_id=None), "it has objects and lacks image/source_id"),
        (boxed(xmax=[1.0, 1.5]), "object 2 has a side that is not from 0 to 1"),
        (boxed(ymin=[-0.1, -0.1]), "object 1 has a side that is not from 0 to 1 (and so have 1 more)"),
        (boxed(ymin=[float("nan"), 0.1]), "object 1 has a side that is not from 0 to 1"),
        (boxed(xmax=[0.0, 0.75]), "object 1 has a box that is inverted or of no area"),
        (boxed(xmax=[1.0, 0.25]), "object 2 has a box that is inverted or of no area"),
        (boxed(label=[0, 2]), "object 1 has a label that is not from 1 to 2"),
        (boxed(label=[1, 3]), "object 2 has a label that is not from 1 to 2"),
        (boxed(is_crowd=[0, 2]), "object 2 has an is_crowd that is neither 0 nor 1"),
        (boxed(area=[-1.0, 5.0]), "object 1 has an area that is not a number from 0"),
        (boxed(area=[5.0, float("inf")]), "object 2 has an area that is not a number from 0"),
        (
            boxed(mask=[one_bit(), one_bit(24, 16)]),
            "object 2 has a mask of (height, width) (24, 16), its",
        ),
        (boxed(mask=[one_bit(), one_bit(mode="L")]), "object 2 has a mask that is not a grey PNG of 1 bit"),
        (boxed(mask=[b"", one_bit()]), "object 1 has a mask that is not a grey PNG of 1 bit"),
        (boxed(mask=[one_bit()[:40], one_bit()]), "object 1 has a mask that does not decode"),
    ],
)
def test_spoilt_objects_are_named(tmp_path, spoilt, problem):
    write_set(tmp_path, {"train": [boxed("6", 1), spoilt]}, label_offset=1)
    (finding,) = map(str, verify(tmp_path).problems)
    assert finding.startswith(f"record 1 of train-00000-of-00001: {problem}")


def test_boxes_without_classes_are_nobodys(tmp_path):
    """As slim has them for ImageNet; its images have a class of their own."""
    parsed = tf.train.Example.FromString(boxed(xmax=[7.0]))
    for name in (BOX_LABEL, BOX_TEXT):
        del parsed.features.feature[name]
    parsed.features.feature["image/class/label"].int64_list.value[:] = [1]
    write_set(tmp_path, {"train": [parsed.SerializeToString()]}, label_offset=1)
    assert verify(tmp_path).findings == ()
    contact_sheet(tmp_path, tmp_path / "sheet.png")


def test_a_list_of_another_type_is_named(tmp_path):
    parsed = tf.train.Example.FromString(boxed())
    parsed.features.feature[BOX_YMIN].CopyFrom(tf.train.Feature(int64_list=tf.train.Int64List(value=[0, 1])))
    write_set(tmp_path, {"train": [parsed.SerializeToString()]}, label_offset=1)
    problem = "its image/object/bbox/ymin is not a list of values of type float"
    assert [finding.text for finding in verify(tmp_path).problems] == [problem]


def test_classes_of_objects_that_are_called_otherwise_are_found(tmp_path):
    write_set(tmp_path, {"train": [boxed(), boxed("8", 1, text=["a", "a"])]}, label_offset=1)
    found = [finding.text for finding in verify(tmp_path).problems]
    assert any("label 2 has text 'b' in record 0" in text and "'a' in record 1" in text for text in found)


def test_ids_that_two_images_have_are_found(tmp_path):
    """Splits count by themselves; images of classes have no ids."""
    splits = {"train": [boxed("7"), boxed("8", 1), boxed("7", 2)], "validation": [boxed("8", 3)]}
    write_set(tmp_path, splits, label_offset=1)
    said = "record 2 of train-00000-of-00001: has the image/source_id of record 0 of train-00000-of-00001, '7'"
    assert [str(finding) for finding in verify(tmp_path).findings] == [said]


def test_inspect_counts_objects(tmp_path, capsys):
    write_set(tmp_path, {"train": [boxed(), boxed("8", 1, **EMPTY), boxed("9", 2)]}, label_offset=1)
    (report,) = inspect(tmp_path)
    assert report.object_counts.tolist() == [2, 2]
    assert report.objects.tolist() == [2, 0, 2]
    assert main(["inspect", str(tmp_path)]) == 0
    rows = [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]
    assert "objects 4" in rows
    assert "images without objects 1" in rows
    assert "objects, min / median / max 0 / 2 / 2" in rows
    assert "without label 3" not in rows
    assert [row.split("█")[0].split() for row in rows if "█" in row] == [["a", "2"], ["b", "2"]]


def test_inspect_refuses_objects_of_other_labels(tmp_path):
    write_set(tmp_path, {"train": [boxed(), boxed(label=[1, 3])]}, label_offset=1)
    with pytest.raises(UsageError, match=r"record 1 of .*00000-of-00001 has an object of label 3, not one from 1 to 2"):
        inspect(tmp_path)


def test_contact_sheet_draws_boxes_in_the_colours_of_their_classes(tmp_path):
    """A grey image, 40 wide and 20 high, in a cell of 400: boxes grow with it, and names stand in the caption."""
    values = {"encoded": encode(np.full((20, 40, 3), 128, np.uint8), "PNG"), "format": "PNG", "height": 20, "width": 40}
    objects = {name: OBJECTS[name] for name in OBJECTS if name != BOX_MASK}
    one = example(label=-1, synset="", text="", source_id="1", objects=objects, **values)
    write_set(tmp_path, {"train": [one]}, label_offset=1)
    contact_sheet(tmp_path, tmp_path / "sheet.png")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert pixels.shape == (8 + 400 + 8 + 30, 416, 3)
    image = pixels[108:308, 8:408]
    for label, (top, left, bottom, right) in enumerate([(0, 0, 100, 400), (50, 200, 200, 300)]):
        rows, columns = np.nonzero((image == palette()[label]).all(-1))
        assert (columns.min(), columns.max() + 1) == (left, right)
        assert rows.max() + 1 == bottom
        assert rows.min() <= top
    caption = pixels[408:425].reshape(-1, 3)
    for label in (0, 1):
        assert (caption == palette()[label]).all(-1).sum() == 49


def test_contact_sheet_lays_masks_of_objects_over_their_image(tmp_path):
    polygon = [[6, 4, 18, 4, 18, 12, 6, 12]]
    some = [annotation(1, 139, box=(6, 4, 12, 8), segmentation=polygon)]
    root = write_coco(tmp_path / "coco", coco_json((139,), some), coco_json((776, 785), []))
    for path in (root / "train2017").glob("*[!9].jpg"):
        path.unlink()
    (root / "train2017" / f"{139:012d}.jpg").write_bytes(encode(np.zeros((16, 24, 3), np.uint8)))
    (root / "annotations" / "instances_val2017.json").unlink()
    convert(root, tmp_path / "records")
    contact_sheet(tmp_path / "records", tmp_path / "sheet.png")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)
    half = np.argwhere((abs(pixels - palette()[1] // 2) <= 1).all(-1))  # of the class dog over black
    middle = pixels[8 + 200 - 20 : 8 + 200 + 20, 8 + 180 : 8 + 220]
    assert (abs(middle - palette()[1] // 2) <= 1).all()
    assert CATEGORIES[0]["name"] == "dog"
    assert len(half) > 0.7 * 200 * 133


@pytest.mark.parametrize("changed", [{"label": [1]}, {"label": [1, 3]}, {"label": [0, 1]}, {"xmax": [1.0]}])
def test_objects_that_cannot_be_shown_are_named(tmp_path, changed):
    write_set(tmp_path, {"train": [boxed(**changed)]}, label_offset=1)
    with pytest.raises(UsageError, match=r"record 0 of .* cannot be shown: "):
        contact_sheet(tmp_path, tmp_path / "sheet.png")


def test_a_thousand_boxes_are_drawn(tmp_path):
    rng = np.random.default_rng(0)
    begin, size = rng.uniform(0, 0.9, (2, 1000)), rng.uniform(0.02, 0.1, (2, 1000))
    sides = dict(zip(("ymin", "xmin", "ymax", "xmax"), (*begin, *(begin + size)), strict=True))
    many = boxed(**sides, label=[1] * 1000, text=["a"] * 1000, is_crowd=[0] * 1000, area=[1.0] * 1000, mask=None)
    write_set(tmp_path, {"train": [many]}, label_offset=1)
    assert verify(tmp_path).findings == ()
    contact_sheet(tmp_path, tmp_path / "sheet.png")
    assert picture(0).shape == (16, 24, 3)
