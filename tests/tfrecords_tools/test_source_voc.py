"""Pascal VOC's XML: what becomes of its objects, and what is said of files that are wrong."""

import shutil

import pytest
from box_files import pixels, read_objects, voc_xml, write_voc
from image_files import contents, read_records

from tfvt.data.records import open_records
from tfvt.errors import UsageError
from tfvt.tfrecords_tools.cli import main
from tfvt.tfrecords_tools.convert import convert
from tfvt.tfrecords_tools.sources import open_source


@pytest.mark.parametrize("folder", ["VOC2012", "."])
def test_records(tmp_path, folder):
    """Pixels 1 to 24 are all of an image that is 24 wide; what is difficult counts as a crowd; parts do not count."""
    write_voc(tmp_path / "VOCdevkit" / "VOC2012")
    assert main(["convert", str(tmp_path / "VOCdevkit" / folder), str(tmp_path / "records"), "--shards=1"]) == 0
    found = read_objects(tmp_path / "records", "train")
    assert pixels(found["2007_01"]) == [[0, 0, 24, 16], [2, 3, 10.5, 8]]
    assert found["2007_01"]["class/text"] == [b"dog", b"cat"]
    assert found["2007_01"]["class/label"] == [1, 0]
    assert found["2007_01"]["is_crowd"] == [0, 1]
    assert found["2007_01"]["area"] == [384.0, 42.5]
    assert pixels(found["2007_03"]) == [[4, 4, 6, 6]]
    assert set(found["2007_02"].values() and map(len, found["2007_02"].values())) == {0}
    assert "mask" not in found["2007_01"]
    assert set(read_objects(tmp_path / "records", "validation")) == {"2007_04"}
    records = open_records(tmp_path / "records", "train")
    assert (records.class_names, records.category_ids) == (("cat", "dog"), None)
    names = {
        record["image/source_id"]: record["image/filename"] for record in read_records(tmp_path / "records", "train")
    }
    assert names[b"2007_01"] == b"2007_01.jpg"


def test_without_lists_all_images_are_for_training(tmp_path):
    root = write_voc(tmp_path / "VOC", {"b": voc_xml(("cat", 1, 1, 5, 5)), "a": voc_xml()})
    shutil.rmtree(root / "ImageSets")
    source = open_source(root)
    assert [image.path.rpartition("/")[2] for image in source.splits["train"]] == ["a.jpg", "b.jpg"]


def test_what_no_list_names_is_left_out_and_so_are_test_images_without_annotations(tmp_path):
    root = write_voc(tmp_path / "VOC")
    shutil.copy(root / "JPEGImages" / "2007_01.jpg", root / "JPEGImages" / "2008_01.jpg")
    (root / "ImageSets/Main/test.txt").write_text("2008_01\n")
    (root / "SegmentationClass").mkdir()
    source = open_source(root)
    assert list(source.splits) == ["train", "validation"]
    said = "ImageSets/Main/test.txt, whose images have no annotations"
    assert source.left_out == (said, "SegmentationClass", "JPEGImages/2008_01")


def test_boxes_of_no_area_are_left_out(tmp_path):
    root = write_voc(tmp_path / "VOC", {"a": voc_xml(("cat", 3, 3, 2, 9), ("dog", 1, 1, 5, 5))}, {"train": ["a"]})
    source = open_source(root)
    assert source.left_out == ("object 1 (cat) of a.xml, a box of no area",)
    assert source.settings.class_names == ("dog",)


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("", r"a.xml is damaged, or not XML: no element found: line 1, column 0"),
        (voc_xml()[:-9], r"a.xml is damaged, or not XML: unclosed token"),
        (voc_xml().replace("size>", "sise>", 1), r"a.xml is damaged, or not XML: mismatched tag"),
        (voc_xml().replace("annotation>", "note>"), r"a.xml is not of VOC's form: it begins with <note>"),
        ("<a>" * 100_000, r"a.xml is damaged, or not XML"),
        ("<a>" * 100_000 + "</a>" * 100_000, r"a.xml is not of VOC's form: it begins with <a>"),
        (
            '<!DOCTYPE a [<!ENTITY b "c">]>' + voc_xml(("&b;", 1, 1, 2, 2)),
            r"a.xml declares a document type, .*: remove",
        ),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd">' + voc_xml(), r"a.xml declares a document type"),
        ('<?xml version="1.0" encoding="nonsense"?>' + voc_xml(), r"a.xml is damaged, or not XML: unknown encoding"),
        (voc_xml(("", 1, 1, 2, 2)), r"a.xml has no name in object 1"),
        (
            voc_xml(("cat", 1, 1, 2, 2), ("dog", 1, "x", 2, 2)),
            r"a.xml has 'x' as ymin of object 2 \(dog\), not a number",
        ),
        (
            voc_xml(("cat", 1, 1, 2, 2)).replace("bndbox", "box"),
            r"a.xml has '' as xmin of object 1 \(cat\), not a number",
        ),
        (voc_xml(width=""), r"a.xml has the image size ' x 16', not two whole numbers above 0"),
        (voc_xml(width="9" * 40), r"a.xml has the image size '9+ x 16', not two whole numbers above 0"),
        (None, r"JPEGImages/a has no Annotations/a.xml"),
    ],
)
def test_wrong_files_are_refused(tmp_path, xml, message):
    root = write_voc(tmp_path / "VOC", {"a": xml or "", "b": voc_xml(("dog", 1, 1, 5, 5))}, {"train": ["a", "b"]})
    if xml is None:
        (root / "Annotations" / "a.xml").unlink()
    with pytest.raises(UsageError, match=rf"VOC has 1 mistake:\n  .*{message}"):
        open_source(root)


def test_an_annotation_without_its_image_and_doubles_are_refused(tmp_path):
    root = write_voc(tmp_path / "VOC")
    (root / "JPEGImages" / "2007_03.jpg").unlink()
    with pytest.raises(UsageError, match=r"has 1 mistake:\n  Annotations/2007_03.xml has no image of its name in JPEG"):
        open_source(root)
    root = write_voc(tmp_path / "twice", dict.fromkeys("ab", voc_xml()), {"train": "aba", "val": "b"})
    with pytest.raises(UsageError, match=r"2 mistakes:\n  a is in two lists, or twice in one\n  b is in two lists, or"):
        open_source(root)
    shutil.copy(root / "JPEGImages" / "a.jpg", root / "JPEGImages" / "a.png")
    with pytest.raises(UsageError, match=r"JPEGImages/a.jpg and JPEGImages/a.png differ only in their suffix"):
        open_source(root)


def test_sets_without_boxes_or_with_other_classes_in_validation_are_refused(tmp_path):
    root = write_voc(tmp_path / "none", {"a": voc_xml()}, {"train": ["a"]})
    with pytest.raises(UsageError, match=r"has no boxes at all: there is nothing to learn"):
        open_source(root)
    xmls = {"a": voc_xml(("cat", 1, 1, 5, 5)), "b": voc_xml(("dog", 1, 1, 5, 5))}
    with pytest.raises(UsageError, match=r"has classes in validation that are not in train: dog"):
        open_source(write_voc(tmp_path / "other", xmls, {"train": ["a"], "val": ["b"]}))


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"is not one year of Pascal VOC: expected a folder such as VOC2012 with JPEG"):
        open_source(tmp_path, format="voc")
    for year in ("VOC2007", "VOC2012"):
        write_voc(tmp_path / year)
    with pytest.raises(UsageError, match=r"it has several: .*/VOC2007, .*/VOC2012; give one of them"):
        open_source(tmp_path, format="voc")


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((0, 1, 5, 5), None),  # some tools count from 0
        (("nan", 1, 5, 5), "object 1 (cat) has a box with a number that is not finite"),
        ((9, 1, 5, 5), "object 1 (cat) has an inverted box: x 8 to 5, y 0 to 5"),
        ((20, 1, 27, 5), "object 1 (cat) has a box that reaches 3 pixels out of the image of 24x16"),
    ],
)
def test_a_wrong_box_puts_its_image_on_the_rejects_list(tmp_path, box, reason):
    xmls = {"a": voc_xml(("cat", *box)), "b": voc_xml(("cat", 1, 1, 5, 5))}
    root = write_voc(tmp_path / "VOC", xmls, {"train": "ab"})
    manifest = convert(root, tmp_path / "records", max_rejects=1)
    found = (tmp_path / "records" / "rejects.json").read_text() if reason else ""
    assert manifest.splits["train"][0].records == 2 - bool(reason)
    assert (reason or "") in found
    if not reason:
        assert pixels(read_objects(tmp_path / "records", "train")["a"]) == [[0, 0, 5, 5]]


def test_any_number_of_workers_writes_the_same_files(tmp_path):
    root = write_voc(tmp_path / "VOC")
    for workers in (1, 3):
        convert(root, tmp_path / str(workers), shards=3, workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")
