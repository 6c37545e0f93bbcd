"""CSV and TSV files: what is read, and that every wrong line is named."""

import csv
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import encode, picture, read_records

from tfvt.errors import UsageError
from tfvt.tfrecords_tools.convert import convert
from tfvt.tfrecords_tools.sources import open_source


def write(folder, text, name="table.csv", images=("a.jpg", "b.jpg", "c.jpg", "d.jpg")):
    for number, image in enumerate(images):
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        (folder / image).write_bytes(encode(picture(number)))
    (folder / name).write_text(text)
    return folder / name


def listed(source):
    """Split -> (file name, class)."""
    names = source.settings.class_names
    return {
        split: [(image.filename.decode(), names[image.label]) for image in images]
        for split, images in source.splits.items()
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("table.csv", "a.jpg,cat\nb.jpg,dog\n"),
        ("table.csv", "path,label\na.jpg,cat\nb.jpg,dog\n"),
        ("table.csv", "\ufeffLabel , PATH\r\n cat ,a.jpg\r\n\r\ndog,b.jpg\r\n"),
        ("table.csv", '"a.jpg","cat"\nb.jpg,dog'),
        ("TABLE.TSV", "a.jpg\tcat\nb.jpg\tdog\n"),
        ("table.tsv", "path\tlabel\tsplit\na.jpg\tcat\ttrain\nb.jpg\tdog\tTrain\n"),
    ],
)
def test_path_and_label(tmp_path, name, text):
    source = open_source(write(tmp_path, text, name))
    assert listed(source) == {"train": [("a.jpg", "cat"), ("b.jpg", "dog")]}
    assert source.settings.class_names == ("cat", "dog")
    assert source.splits["train"][0].size == (tmp_path / "a.jpg").stat().st_size


@pytest.mark.parametrize("header", ["", "path,label,split\n"])
def test_splits(tmp_path, header):
    text = f"{header}a.jpg,cat,train\nb.jpg,dog,train\nc.jpg,dog,val\nd.jpg,cat,test\n"
    assert listed(open_source(write(tmp_path, text))) == {
        "train": [("a.jpg", "cat"), ("b.jpg", "dog")],
        "validation": [("c.jpg", "dog")],
        "test": [("d.jpg", "cat")],
    }


def test_records_of_a_table_beside_its_images(tmp_path):
    """Two files of one name in different folders are two images; OUTPUT may lie beside the table."""
    absolute = tmp_path / "elsewhere" / "a.jpg"
    table = write(tmp_path / "data", f"x/a.jpg,cat\ny/a.jpg,dog\n{absolute},dog\n", images=("x/a.jpg", "y/a.jpg"))
    absolute.parent.mkdir()
    absolute.write_bytes(encode(picture(7)))
    manifest = convert(table, tmp_path / "data" / "records")
    assert manifest.class_names == ("cat", "dog")
    records = read_records(tmp_path / "data" / "records", "train")
    files = [(tmp_path / "data" / "x" / "a.jpg", 0), (tmp_path / "data" / "y" / "a.jpg", 1), (absolute, 1)]
    found = {(record["image/encoded"], record["image/class/label"]) for record in records}
    assert found == {(path.read_bytes(), label) for path, label in files}


def test_further_columns_are_left_out_and_named(tmp_path):
    source = open_source(write(tmp_path, "id,path,label,author\n1,a.jpg,cat,me\n2,b.jpg,dog,you\n"))
    assert listed(source) == {"train": [("a.jpg", "cat"), ("b.jpg", "dog")]}
    assert source.left_out == ("column id", "column author")


def test_numbers_keep_their_value(tmp_path):
    images = [f"{number}.jpg" for number in range(11)]
    text = "".join(f"{number}.jpg,{number}\n" for number in reversed(range(11)))
    source = open_source(write(tmp_path, text, images=images))
    assert [image.label for image in source.splits["train"]] == list(reversed(range(11))), "10 is not between 1 and 2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"table.csv is empty: expected a line of path, label"),
        ("path,label\n", r"table.csv names no images"),
        ("a.jpg\nb.jpg\n", r"line 1 of .*table.csv has 1 column separated by commas: expected path, label and"),
        ("a.jpg\tcat\n", r"line 1 of .* has 1 column separated by commas"),
        ("a.jpg,cat,train,me\n", r"line 1 of .* has 4 columns .* let the first line name them"),
        ("path,label,path\na.jpg,cat,b.jpg\n", r"line 1 of .* names the column path twice"),
        (
            "image,class\na.jpg,cat\nb.jpg,dog\n",
            r"line 1: .*/image: No such file.*first line counts as column names",
        ),
        ("a.jpg,cat\n\nb.jpg,dog,train\n", r"line 3: it has 3 columns, the first line has 2"),
        ("path,label,split\na.jpg,cat\nb.jpg,dog\n", r"line 2: it has 2 columns, the first line has 3"),
        ("a.jpg,cat\nnone.jpg,dog\n", r"has 1 mistake:\n  line 2: .*none.jpg: No such file or directory"),
        ("a.jpg,cat\n,dog\n", r"line 2: the path is empty"),
        ("a.jpg,cat\nb.jpg,  \n", r"line 2: .*b.jpg has an empty label"),
        (
            "path,label,split\na.jpg,cat,train\nb.jpg,dog,dev\n",
            r"line 3: the split is 'dev': expected train, valid",
        ),
        ("a.jpg,cat\nb.jpg,dog\n./a.jpg,dog\n", r"line 3: .*a.jpg is also in line 1"),
        (
            "a.jpg,cat\na.jpg,cat\nnone.jpg,dog\n",
            r"2 mistakes:\n  line 2: .* also in line 1\n  line 3: .*No such file",
        ),
        ('a.jpg,"cat\nb.jpg,dog\n', r"line 2 of .*table.csv cannot be read: unexpected end of data"),
        ("a.jpg,cat\nb.jpg,cat\n", r"has one class only \(cat\)"),
        ("a.jpg,0\nb.jpg,2\n", r"labels of .* are numbers, but not 0, 1, 2, ... without gaps \(0, 2\)"),
        ("a.jpg,1\nb.jpg,2\n", r"are numbers, but not 0, 1, 2"),
        ("a.jpg,cat,train\nb.jpg,dog,val\n", r"has classes in validation that are not in train: dog"),
    ],
)
def test_wrong_lines_are_named(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        open_source(write(tmp_path, text))


def test_many_wrong_lines_are_counted(tmp_path):
    text = "a.jpg,cat\n" + "".join(f"none{n}.jpg,dog\n" for n in range(50))
    with pytest.raises(UsageError, match=r"(?s)table.csv has 50 mistakes:.*none19.jpg.*and 30 more$") as raised:
        open_source(write(tmp_path, text))
    assert "none20" not in str(raised.value)


def test_labels_that_are_not_utf8_are_named(tmp_path):
    table = write(tmp_path, "")
    table.write_bytes(b"a.jpg,cat\nb.jpg,\xff\n")
    with pytest.raises(UsageError, match=r"line 2: the label \\xff is not UTF-8"):
        open_source(table)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf_16_is_read_by_its_mark(tmp_path, encoding):
    table = write(tmp_path, "", images=("ä.jpg", "b.jpg"))
    mark = "\ufeff" if encoding == "utf-16-be" else ""  # the other codec writes its own
    table.write_bytes(f"{mark}path,label\r\nä.jpg,Kätzchen\r\nb.jpg,dog\r\n".encode(encoding))
    assert listed(open_source(table)) == {"train": [("ä.jpg", "Kätzchen"), ("b.jpg", "dog")]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "a.jpg,cat\nb.jpg,dog\n".encode("utf-16-le"),
            "is neither UTF-8 nor UTF-16 with a byte order mark: save it as",
        ),
        (b"\xff\xfea", r"begins like UTF-16 but is not \(.*\): save it as UTF-8"),
    ],
)
def test_other_encodings_are_named_in_one_line(tmp_path, content, message):
    table = write(tmp_path, "")
    table.write_bytes(content)
    with pytest.raises(UsageError, match=message) as raised:
        open_source(table)
    assert "\n" not in str(raised.value)


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none.csv cannot be read: No such file"):
        open_source(tmp_path / "none.csv")
    with pytest.raises(UsageError, match=r"table.txt must end in .csv or .tsv"):
        open_source(tmp_path / "table.txt", "table")


PATHS = st.binary(min_size=1, max_size=8).filter(lambda name: not set(name) & set(b"\0/.\r\n")).map(os.fsdecode)
LABELS = st.text(st.characters(codec="utf-8", categories=["L", "P", "S"]), min_size=1, max_size=6)


@settings(max_examples=30, deadline=None)
@given(rows=st.dictionaries(PATHS, LABELS, min_size=2, max_size=8), suffix=st.sampled_from([".csv", ".tsv"]))
def test_any_table_is_read_as_it_was_written(rows, suffix):
    """Also names that are not UTF-8, and labels with commas and quotes."""
    if len(set(rows.values())) < 2:
        rows[next(iter(rows))] = "another label"
    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)
        for path in rows:
            (directory / path).write_bytes(b"")
        table = directory / f"table.{suffix}{suffix}"
        with open(table, "w", newline="", errors="surrogateescape", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="," if suffix == ".csv" else "\t")
            writer.writerows([("path", "label"), *rows.items()])
        source = open_source(table)
        assert {os.fsdecode(i.filename): source.settings.class_names[i.label] for i in source.splits["train"]} == rows
