"""COCO's JSON: what becomes of its objects, and what is said of files that are wrong."""

import json
import sys

import numpy as np
import pytest
import tensorflow as tf
from box_files import CATEGORIES, annotation, coco_json, pixels, read_objects, write_coco
from image_files import contents, encode, picture, read_records

from tfvt.data.kinds import check_kind
from tfvt.data.records import open_records
from tfvt.errors import UsageError
from tfvt.tfrecords_tools.cli import main
from tfvt.tfrecords_tools.convert import convert
from tfvt.tfrecords_tools.sources import open_source


def test_records(tmp_path, capsys):
    root = write_coco(tmp_path / "coco")
    (root / "annotations" / "captions_val2017.json").write_text("{}")
    (root / "readme.txt").write_text("")
    assert main(["convert", str(root), str(tmp_path / "records")]) == 0
    printed = capsys.readouterr()
    assert "3 classes" in printed.out
    assert "the source has no place for them: readme.txt, annotations/captions_val2017.json (" in printed.err
    found = read_objects(tmp_path / "records", "train")
    assert set(found) == {"139", "285", "632", "724"}
    assert {name: values for name, values in found["139"].items() if name not in ("mask", "class/text")} == {
        "bbox/ymin": [0.1875, 0.0],
        "bbox/xmin": pytest.approx([2 / 24, 0.0]),
        "bbox/ymax": [0.5625, 1.0],
        "bbox/xmax": [0.5, 1.0],
        "class/label": [1, 2],
        "is_crowd": [0, 0],
        "area": [60.0, 60.0],
    }
    assert found["139"]["class/text"] == [b"dog", b"toothbrush"]
    assert found["285"] == found["632"] == {name: [] for name in found["139"]}
    assert found["724"]["is_crowd"] == [1]
    assert found["724"]["area"] == [49.0]
    mask = tf.io.decode_png(found["139"]["mask"][0]).numpy()
    expected = np.zeros((16, 24, 1), np.uint8)
    expected[3:9, 2:12] = 255
    np.testing.assert_array_equal(mask, expected)
    mask = tf.io.decode_png(found["724"]["mask"][0]).numpy()[..., 0] > 0
    np.testing.assert_array_equal(np.flatnonzero(mask.T), np.arange(16, 65))  # column by column
    for record in read_records(tmp_path / "records", "validation"):
        assert (record["image/class/label"], record["image/class/text"]) == (-1, b"")
        number = int(record["image/source_id"])
        assert record["image/encoded"] == encode(picture(number))
        assert record["image/filename"] == b"%012d.jpg" % number
    records = open_records(tmp_path / "records", "train")
    assert (records.class_names, records.category_ids) == (("person", "dog", "toothbrush"), (1, 18, 90))
    for kind in ("boxes", "instance masks"):
        check_kind(records, kind)


def test_every_file_is_accounted_for(tmp_path):
    """Images may lie in folders, or beside the annotations; a folder without any is one line."""
    root = write_coco(tmp_path / "coco")
    for name in ("train2017/other.jpg", "train2017/deep/1.jpg", "train2017/deep/2.jpg", "more/3.jpg", "4.jpg"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(encode(picture(0)))
    source = open_source(root)
    assert source.left_out == ("4.jpg", "more", "train2017/deep", "train2017/other.jpg")
    content = coco_json((1, 2), [annotation(1, 1)])
    content["images"][0]["file_name"] = "train2017/deep/1.jpg"
    content["images"][1]["file_name"] = "./4.jpg"
    (root / "all.json").write_text(json.dumps(content))
    layout = tmp_path / "layout.yaml"
    layout.write_text("splits:\n  train: {images: ., annotations: all.json}\n")
    source = open_source(root, layout=layout)
    assert [image.size > 0 for image in source.splits["train"]] == [True, True]
    left = {"annotations", "val2017", "more", "train2017/deep/2.jpg", "train2017/other.jpg"}
    assert set(source.left_out) == left | {f"train2017/{number:012d}.jpg" for number in (139, 285, 632, 724)}


def test_labels_may_count_from_one(tmp_path):
    convert(write_coco(tmp_path / "coco"), tmp_path / "records", label_offset=1)
    assert read_objects(tmp_path / "records", "train")["139"]["class/label"] == [2, 3]


def test_masks_are_for_all_objects_or_for_none(tmp_path, capsys):
    some = coco_json((139, 285, 632, 724), [annotation(1, 139), annotation(2, 285, segmentation=None)])
    convert(write_coco(tmp_path / "coco", some), tmp_path / "records")
    said = "all masks, because 1 annotation of annotations/instances_train2017.json have none, such as 2"
    assert said in capsys.readouterr().err
    assert "mask" not in read_objects(tmp_path / "records", "validation")["776"]
    with pytest.raises(UsageError, match="with boxes and without instance masks"):
        check_kind(open_records(tmp_path / "records", "train"), "instance masks")


def test_masks_need_pycocotools_and_boxes_do_not(tmp_path, monkeypatch):
    root = write_coco(tmp_path / "coco")
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(UsageError, match=r"^the masks of .* need pycocotools: pip install 'tfvt\[detection\]'$"):
        open_source(root)
    plain = coco_json((139, 285, 632, 724), [annotation(1, 139, segmentation=[])])
    convert(write_coco(tmp_path / "plain", plain, coco_json((776, 785), [])), tmp_path / "records")
    assert pixels(read_objects(tmp_path / "records", "train")["139"]) == [[2, 3, 12, 9]]


def test_a_layout_names_other_places(tmp_path):
    root = write_coco(tmp_path / "coco")
    (root / "train2017").rename(root / "pictures")
    (root / "annotations" / "instances_train2017.json").rename(root / "boxes.json")
    layout = tmp_path / "layout.yaml"
    layout.write_text("splits:\n  train: {images: pictures, annotations: boxes.json}\n")
    source = open_source(root, layout=layout)
    assert {split: len(images) for split, images in source.splits.items()} == {"train": 4}
    assert source.left_out == ("annotations", "val2017")
    layout.write_text("splits:\n  train: {images: pictures, annotations: [boxes.json]}\n")
    with pytest.raises(UsageError, match="train must have the keys images and annotations, each with a path"):
        open_source(root, format="coco", layout=layout)


def test_test_images_need_no_annotations(tmp_path):
    root = write_coco(tmp_path / "coco")
    content = coco_json((776, 785), [])
    del content["annotations"]
    (root / "annotations" / "image_info.json").write_text(json.dumps(content))
    layout = tmp_path / "layout.yaml"
    lines = "splits:\n  {}: {{images: val2017, annotations: annotations/image_info.json}}\n"
    layout.write_text(lines.format("test"))
    assert len(open_source(root, layout=layout).splits["test"]) == 2
    layout.write_text(lines.format("validation"))
    with pytest.raises(UsageError, match=r"image_info.json is not of COCO's form: it has no annotations$"):
        open_source(root, layout=layout)


def test_boxes_of_no_area_are_left_out_and_listed(tmp_path, capsys):
    """COCO's own training images have two."""
    listed = [
        annotation(7, 139, box=(3, 3, 0, 5)),
        annotation(8, 139, box=(3, 3, 4, 5)),
        annotation(9, 285, box=(3, 3, 4, 0.0)),
    ]
    convert(write_coco(tmp_path / "coco", coco_json((139, 285, 632, 724), listed)), tmp_path / "records")
    said = capsys.readouterr().err
    for number in (7, 9):
        assert f"annotation {number} of annotations/instances_train2017.json, a box of no area" in said
    left_out = json.loads((tmp_path / "records" / "left_out.json").read_text())
    assert [line.partition(" of ")[0] for line in left_out] == ["annotation 7", "annotation 9"]
    found = read_objects(tmp_path / "records", "train")
    assert pixels(found["139"]) == [[3, 3, 7, 8]]
    assert found["285"]["bbox/ymin"] == []


def test_boxes_reach_a_pixel_out_by_rounding_and_are_cut_off(tmp_path):
    some = [annotation(1, 139, box=(-1, -0.5, 26, 17.5), segmentation=[[-1, -1, 25, -1, 25, 17, -1, 17]])]
    convert(write_coco(tmp_path / "coco", coco_json((139, 285, 632, 724), some)), tmp_path / "records")
    record = read_objects(tmp_path / "records", "train")["139"]
    assert pixels(record) == [[0, 0, 24, 16]]
    assert tf.io.decode_png(record["mask"][0]).numpy().all()


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"box": (3, 3, -2, 4)}, "annotation 41 has an inverted box: x 3 to 1, y 3 to 7"),
        ({"box": (20, 3, 6, 4)}, "annotation 41 has a box that reaches 2 pixels out of the image of 24x16: x 20 to 26"),
        ({"box": (24.5, 3, 0.25, 4)}, "annotation 41 has a box of no area within the image"),
        ({"box": (3, float("nan"), 2, 4)}, "annotation 41 has a box with a number that is not finite"),
        ({"box": (3, 3, float("inf"), 4)}, "annotation 41 has a box with a number that is not finite"),
        ({"box": (3, 3, 2)}, "annotation 41 has the bbox [3, 3, 2], not four numbers"),
        ({"bbox": None}, "annotation 41 has the bbox None, not four numbers"),
        ({"area": "large"}, "annotation 41 has the area large, not a number from 0"),
        ({"area": float("nan")}, "annotation 41 has the area nan, not a number from 0"),
        ({"iscrowd": 2}, "annotation 41 has iscrowd 2, not 0 or 1"),
        (
            {"segmentation": {"counts": [0, 5], "size": [4, 5]}},
            "mask that does not fit its image: its size is [4, 5], the",
        ),
        ({"segmentation": {"counts": [9], "size": [16, 24]}}, "its run lengths cover 9 pixels, the image has 384"),
        ({"segmentation": {"counts": "04", "size": [16, 24]}}, "its run lengths cover 4 pixels, the image has 384"),
        ({"segmentation": {"counts": "é", "size": [16, 24]}}, "run lengths that are neither numbers nor COCO's"),
        (
            {"segmentation": {"counts": "o" * 100_000, "size": [16, 24]}},
            "run lengths that are neither numbers nor COCO's",
        ),
        ({"segmentation": {"counts": [390, -6], "size": [16, 24]}}, "run lengths that are neither numbers nor COCO's"),
        ({"segmentation": [[0, 0, 9, 9]]}, "annotation 41 has no polygon of three points or more"),
        ({"segmentation": [[0, 0, 9, 9, 5, float("nan")]]}, "polygon that is not a list of pairs of numbers"),
        ({"segmentation": [[0, 0, 9, 9, 5, 5, 5]]}, "polygon that is not a list of pairs of numbers"),
        ({"segmentation": [[0, 0, 9, "9", 5, 5]]}, "polygon that is not a list of pairs of numbers"),
        ({"segmentation": [[0, 0, 1e9, 9, 5, 5]]}, "mask that does not fit its image: a polygon reaches 1e+09 pixels"),
        ({"segmentation": "yes"}, "annotation 41 has a segmentation that is neither polygons nor run lengths"),
    ],
)
def test_one_wrong_object_puts_its_image_on_the_rejects_list(tmp_path, capsys, broken, reason):
    root = write_coco(
        tmp_path / "coco", coco_json((139, 285, 632, 724), [annotation(5, 139), annotation(41, 632, **broken)])
    )
    with pytest.raises(UsageError, match=r"1 image cannot be converted"):
        convert(root, tmp_path / "records")
    (reject,) = json.loads((tmp_path / "records" / "rejects.json").read_text())
    assert reject["file"].endswith("000000000632.jpg")
    assert reason in reject["reason"]
    assert len(reject["reason"]) < 300
    convert(root, tmp_path / "records", max_rejects=1)
    assert set(read_objects(tmp_path / "records", "train")) == {"139", "285", "724"}


def drop(key):
    return lambda content: content.pop(key)


def change(key, place, **values):
    return lambda content: content[key][place].update(values)


def append(key, value):
    return lambda content: content[key].append(value)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (append("annotations", annotation(7, 99)), r"image 99 has annotations and is not in the file's images"),
        (append("annotations", annotation(7, 139, 4)), r"annotation 7 has category 4, which the file does not define"),
        (append("annotations", annotation(1, 139)), r"annotation 1 is there more than once"),
        (append("annotations", annotation("a", 139)), r"annotation at byte [\d,]+ has the id 'a', no whole number"),
        (append("annotations", annotation(True, 139)), r"annotation at byte [\d,]+ has the id True, no whole number"),
        (append("annotations", annotation(7, "139")), r"annotation 7 has no whole numbers as image_id and category_id"),
        (append("annotations", [7]), r"an element of annotations at byte [\d,]+ is no object"),
        (change("images", 1, id=139), r"two images have the id 139"),
        (change("images", 1, id=10**30), r"image at byte [\d,]+ has the id 10{30}, which is no whole number"),
        (
            change("images", 1, file_name="./000000000139.jpg"),
            r"image 285 has the file_name of image 139",
        ),
        (
            change("images", 1, file_name="../a.jpg"),
            r"image 285 has the file_name '../a.jpg', not one below the",
        ),
        (
            change("images", 1, file_name="a\0.jpg"),
            r"image 285 has the file_name 'a\\x00.jpg', not one below",
        ),
        (change("images", 1, file_name="\ud800"), r"image 285 has the file_name '\\ud800', not one below the folder"),
        (
            change("images", 1, width=24.5),
            r"image 285 has width and height \(24.5, 16\), not two whole numbers above 0",
        ),
        (change("categories", 0, id=1), r"two categories have the id 1 or the name 'person'"),
        (change("categories", 0, name="person"), r"two categories have the id 1 or the name 'person'"),
        (change("categories", 0, name=""), r"a category at byte [\d,]+ lacks a whole number as id, or a name"),
        (drop("images"), r"is not of COCO's form: it has no images$"),
        (drop("categories"), r"is not of COCO's form: it has no categories$"),
        (lambda content: content.update(images={}), r"is not of COCO's form: images is no list"),
        (lambda content: content.update(images=[], annotations=[]), r"it lists no images"),
        (lambda content: content.update(categories=[], annotations=[]), r"it defines no categories"),
    ],
)
def test_files_that_contradict_themselves_are_refused(tmp_path, spoil, message):
    content = json.loads(json.dumps(coco_json((139, 285, 632, 724), [annotation(1, 139)])))
    spoil(content)
    root = write_coco(tmp_path / "coco", content)
    with pytest.raises(UsageError, match=rf"(?s)annotations/instances_train2017.json .*{message}"):
        open_source(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"expected \{, at byte 0"),
        ("[]", r"expected \{, at byte 0"),
        ('{"images": [{"id": 1}, {"id"', r"at byte 28"),
        ('{"images": [{"id": 1} {"id": 2}]}', r"expected , or \], at byte 22"),
        ('{"images": [' + "[" * 100_000, r"values in values, too deep, at byte 12"),
        ('{"a": ' * 100_000, r"values in values, too deep, at byte 6"),
        ('{"images": []} {', r"more after the end, at byte 15"),
        ('{"images": [' + "9" * 5000 + "]}", r"at byte 12"),
        ("\ufeff{5: 6}", r"a key that is no text, at byte 5"),
    ],
)
def test_damaged_json_is_refused_at_its_byte(tmp_path, text, message):
    root = write_coco(tmp_path / "coco", text)
    with pytest.raises(UsageError, match=rf"train2017.json is damaged, or not JSON of COCO's form: .*{message}$"):
        open_source(root)


def test_many_mistakes_are_named_at_once(tmp_path):
    wrong = [annotation(number, 1000 + number) for number in range(50)]
    root = write_coco(tmp_path / "coco", coco_json((139, 285, 632, 724), wrong))
    with pytest.raises(UsageError, match=r"(?s)has 50 mistakes:\n  image 1000 has .*image 1019.*and 30 more$"):
        open_source(root)


def test_splits_define_the_same_categories(tmp_path):
    other = coco_json((776, 785), [], categories=CATEGORIES[:2])
    with pytest.raises(UsageError, match=r"define different categories \(90 'toothbrush'\): labels would not mean"):
        open_source(write_coco(tmp_path / "coco", None, other))


def test_folders_that_lack_something_are_named(tmp_path):
    root = write_coco(tmp_path / "coco")
    (root / "annotations" / "instances_train2014.json").write_text("{}")
    with pytest.raises(UsageError, match=r"has train twice, instances_train2014.json and instances_train2017.json"):
        open_source(root)
    (root / "annotations" / "instances_train2014.json").unlink()
    for path in (root / "val2017").iterdir():
        path.unlink()
    with pytest.raises(UsageError, match=r"val2017 holds none of the images that its annotations name; expected"):
        open_source(root)
    (root / "val2017").rmdir()
    with pytest.raises(UsageError, match=r"has no folder val2017 with the images of annotations/instances_val"):
        open_source(root)
    with pytest.raises(UsageError, match=r"has no annotations of objects; expected annotations/instances_"):
        open_source(tmp_path, format="coco")


def test_an_image_that_is_missing_is_rejected(tmp_path):
    root = write_coco(tmp_path / "coco")
    (root / "val2017" / "000000000776.jpg").unlink()
    with pytest.raises(UsageError, match=r"val2017/000000000776.jpg: cannot be read: No such file"):
        convert(root, tmp_path / "records")


def test_an_image_of_another_size_than_its_annotations_say_is_rejected(tmp_path):
    root = write_coco(tmp_path / "coco")
    (root / "train2017" / "000000000139.jpg").write_bytes(encode(picture(1, 24, 16)))
    with pytest.raises(UsageError, match=r"its image in the annotations has 24x16 pixels, the image 16x24"):
        convert(root, tmp_path / "records")


def test_names_that_are_not_ascii_and_pieces_of_any_size(tmp_path, monkeypatch):
    """Bytes are counted, not characters; escapes and UTF-8 mean the same. Elements end where pieces do."""
    names, found = ["höhe.jpg", "ä\u4e2d.jpg", "plain.jpg", "e\u0301.jpg"], []
    content = coco_json((139, 285, 632, 724), [annotation(1, 139, note="中文"), annotation(2, 724, 90)], version=10**12)
    for image, name in zip(content["images"], names, strict=True):
        image["file_name"] = name
    content["categories"] = [{"id": 18, "name": "Hünd"}, *CATEGORIES[1:]]
    for ascii_only in (True, False):
        root = write_coco(tmp_path / str(ascii_only), json.dumps(content, ensure_ascii=ascii_only, indent=2))
        (root / "annotations" / "instances_val2017.json").unlink()
        for number, name in zip((139, 285, 632, 724), names, strict=True):
            (root / "train2017" / f"{number:012d}.jpg").rename(root / "train2017" / name)
        for chunk in (2**20, 7):
            monkeypatch.setattr("tfvt.tfrecords_tools.sources.json_stream.CHUNK", chunk)
            output = tmp_path / f"records {ascii_only} {chunk}"
            convert(root, output, shards=1)
            found.append((output / "train-00000-of-00001").read_bytes())
    assert set(found) == {found[0]}
    assert open_records(output, "train").class_names == ("person", "Hünd", "toothbrush")
    assert {record["image/filename"].decode() for record in read_records(output, "train")} == set(names)


def test_a_thousand_boxes_in_one_image(tmp_path):
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.uniform(0, 12, (1000, 2)), rng.uniform(0.5, 4, (1000, 2))], 1)
    some = [annotation(number, 139, box=box, segmentation=None) for number, box in enumerate(boxes.tolist())]
    root = write_coco(tmp_path / "coco", coco_json((139, 285, 632, 724), some), coco_json((776, 785), []))
    convert(root, tmp_path / "records")
    found = np.array(pixels(read_objects(tmp_path / "records", "train")["139"]))
    np.testing.assert_allclose(found, np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1), atol=1e-3)


def test_any_number_of_workers_writes_the_same_files(tmp_path):
    root = write_coco(tmp_path / "coco")
    for workers in (1, 3):
        convert(root, tmp_path / str(workers), shards=3, workers=workers)
    root.rename(tmp_path / "moved")
    convert(tmp_path / "moved", tmp_path / "later", shards=3)
    assert contents(tmp_path / "1") == contents(tmp_path / "3") == contents(tmp_path / "later")


def test_another_box_is_another_conversion(tmp_path):
    """A file of the same size counts as changed too, unlike an image."""
    root = write_coco(tmp_path / "coco")
    convert(root, tmp_path / "records")
    path = root / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text().replace("2.0, 3.0, 10.0, 6.0", "2.0, 3.0, 10.0, 7.0"))
    with pytest.raises(UsageError, match="--overwrite"):
        convert(root, tmp_path / "records")


def test_a_file_that_changes_during_the_conversion_is_named(tmp_path):
    root = write_coco(tmp_path / "coco")
    source = open_source(root)
    (root / "annotations" / "instances_train2017.json").write_text("{}")
    with pytest.raises(UsageError, match=r"instances_train2017.json has changed since this conversion began"):
        convert(source, tmp_path / "records")
