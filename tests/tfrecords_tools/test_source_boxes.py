"""Tables of boxes: which lines are read, and what is said of those that are wrong."""

import json

import pytest
from box_files import pixels, read_objects
from image_files import contents, encode, picture

from tfvt.data.records import open_records
from tfvt.errors import UsageError
from tfvt.tfrecords_tools.cli import main
from tfvt.tfrecords_tools.convert import convert
from tfvt.tfrecords_tools.sources import open_source

HEADER = "path,xmin,ymin,xmax,ymax,label,split\n"
LINES = """photos/0.jpg,0,0,24,16,dog,train
photos/0.jpg,2.5,3,10,8,cat,train
photos/1.jpg,,,,,,train
photos/2.jpg,1,1,5,5,dog,val
"""


def write_table(folder, text, name="boxes.csv"):
    """With four images in photos/."""
    (folder / "photos").mkdir(parents=True)
    for index in range(4):
        (folder / "photos" / f"{index}.jpg").write_bytes(encode(picture(index)))
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (HEADER + LINES, "boxes.csv"),
        (LINES, "boxes.csv"),
        ((HEADER + LINES).replace(",", "\t"), "boxes.tsv"),
    ],
)
def test_records(tmp_path, text, name):
    table = write_table(tmp_path, text, name)
    assert main(["convert", str(table), str(tmp_path / "records")]) == 0
    found = read_objects(tmp_path / "records", "train")
    assert pixels(found["photos/0.jpg"]) == [[0, 0, 24, 16], [2.5, 3, 10, 8]]
    assert found["photos/0.jpg"]["class/label"] == [1, 0]
    assert found["photos/0.jpg"]["class/text"] == [b"dog", b"cat"]
    assert found["photos/0.jpg"]["area"] == [384, 37.5]
    assert found["photos/0.jpg"]["is_crowd"] == [0, 0]
    assert found["photos/1.jpg"]["bbox/xmin"] == []
    assert set(read_objects(tmp_path / "records", "validation")) == {"photos/2.jpg"}
    records = open_records(tmp_path / "records", "train")
    assert (records.class_names, records.category_ids) == (("cat", "dog"), None)


def test_columns_in_another_order_and_without_splits(tmp_path):
    text = "label,xmax,ymax,xmin,ymin,path,who\ncat,4,5,1,2,photos/3.jpg,me\n"
    source = open_source(write_table(tmp_path, text))
    assert source.left_out == ("column who",)
    (image,) = source.splits["train"]
    assert json.loads(image.annotations)["objects"] == [["line 2", 0, 1, 2, 4, 5, 0]]


def test_a_spreadsheet_s_utf16(tmp_path):
    table = write_table(tmp_path, "")
    table.write_bytes((HEADER + LINES).encode("utf-16"))
    assert len(open_source(table).splits["train"]) == 2


def test_boxes_of_no_area_are_left_out(tmp_path):
    source = open_source(write_table(tmp_path, HEADER + LINES + "photos/3.jpg,4,4,4,9,dog,train\n"))
    assert source.left_out == ("line 6 of boxes.csv, a box of no area",)
    assert len(source.splits["train"]) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("photos/3.jpg,1,1,5,5,dog", r"line 6: it has 6 columns, the first line has 7"),
        (",1,1,5,5,dog,train", r"line 6: the path is empty"),
        ("photos/9.jpg,1,1,5,5,dog,train", r"line 6: .*photos/9.jpg: No such file or directory"),
        ("photos/3.jpg,1,1,5,5,dog,training", r"line 6: the split is 'training': expected train"),
        ("photos/3.jpg,1,1,5,5,,train", r"line 6: the box has an empty label"),
        ("photos/3.jpg,1,1,,5,dog,train", r"line 6: xmax is '', not a number"),
        ("photos/3.jpg,1,1,5,five,dog,train", r"line 6: ymax is 'five', not a number"),
        ("photos/3.jpg,,,,,dog,train", r"line 6: xmin is '', not a number"),
        (
            "photos/0.jpg,1,1,5,5,dog,val",
            r"line 6: .*photos/0.jpg is of the split train in an earlier line, validation here",
        ),
        ("photos/0.jpg,,,,,,train", r"line 6: .*photos/0.jpg has a line without a box, and another line"),
        ("photos/1.jpg,1,1,5,5,dog,train", r"line 6: .*photos/1.jpg has a line without a box, and another line"),
        ("photos/1.jpg,,,,,,train", r"line 6: .*photos/1.jpg has a line without a box, and another line"),
    ],
)
def test_wrong_lines_are_named(tmp_path, line, message):
    with pytest.raises(UsageError, match=rf"boxes.csv has 1 mistake:\n  {message}"):
        open_source(write_table(tmp_path, f"{HEADER}{LINES}{line}\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"is empty: expected a line of path, xmin, ymin, xmax, ymax, label for each image"),
        (HEADER, r"has no boxes at all"),
        (f"{HEADER}photos/1.jpg,,,,,,train\n", r"has no boxes at all"),
        (
            f"{HEADER}photos/1.jpg,0.1,0.2,0.9,1.0,dog,train\n",
            r"lie within one pixel: they look like parts of the image",
        ),
        (
            "path,xmin,ymin,xmax,ymax\nphotos/1.jpg,0,0,1,1\n",
            r"has 5 columns .*: expected path, xmin, .*label and perhaps",
        ),
        ("path,xmin,ymin,xmax,ymax,label,xmin\n", r"line 1 of .*boxes.csv names the column xmin twice"),
        (HEADER + 'photos/1.jpg,"1,2,3,4,dog\n', r"line 2 of .*boxes.csv cannot be read: unexpected end of data"),
        (HEADER + LINES.replace("5,dog,val", "5,emu,val"), r"has classes in validation that are not in train: emu"),
    ],
)
def test_other_tables_are_refused(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        open_source(write_table(tmp_path, text), format="boxes")


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ("nan,1,5,5", "line 2 has a box with a number that is not finite"),
        ("1,-inf,5,5", "line 2 has a box with a number that is not finite"),
        ("9,1,5,5", "line 2 has an inverted box: x 9 to 5, y 1 to 5"),
        ("-2,1,5,5", "line 2 has a box that reaches 2 pixels out of the image of 24x16"),
        ("1,1,5,1e300", "pixels out of the image of 24x16"),
    ],
)
def test_a_wrong_box_puts_its_image_on_the_rejects_list(tmp_path, box, reason):
    table = write_table(tmp_path, f"{HEADER}photos/3.jpg,{box},cat,train\n{LINES}")
    with pytest.raises(UsageError, match="1 image cannot be converted"):
        convert(table, tmp_path / "records")
    (reject,) = json.loads((tmp_path / "records" / "rejects.json").read_text())
    assert reject["file"].endswith("3.jpg")
    assert reason in reject["reason"]


def test_a_rotated_image_does_not_tell_how_its_boxes_lie(tmp_path):
    """Without boxes it may be turned."""
    from PIL import Image

    table = write_table(tmp_path, HEADER + LINES)
    block = Image.Exif()
    block[0x0112] = 6
    for index in (1, 2):
        (tmp_path / "photos" / f"{index}.jpg").write_bytes(encode(picture(index), exif=block))
    with pytest.raises(UsageError, match=r"(?s)1 image cannot.*2.jpg: EXIF says that it is rotated, and its boxes"):
        convert(table, tmp_path / "records")


def test_any_number_of_workers_writes_the_same_files(tmp_path):
    table = write_table(tmp_path / "images", HEADER + LINES)
    for workers in (1, 3):
        convert(table, tmp_path / str(workers), shards=2, workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")
