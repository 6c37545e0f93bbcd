"""Conversion of whole folders: what is written, what is refused, and that it can be killed."""

import collections
import io
import json
import os
import tempfile
import zlib
from pathlib import Path

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import contents, encode, picture, read_records, write_folder

from tfvt.data.records import open_records
from tfvt.errors import UsageError
from tfvt.tfrecords_tools import plan
from tfvt.tfrecords_tools.convert import convert
from tfvt.tfrecords_tools.shards import RecordWriter


def test_records_hold_the_files(tmp_path):
    source = write_folder(tmp_path / "images")
    convert(source, tmp_path / "records", shards=2, label_offset=1)
    names = {f"{split}-0000{shard}-of-00002" for split in ("train", "validation") for shard in (0, 1)}
    assert {path.name for path in (tmp_path / "records").iterdir()} == {"manifest.json", *names}
    records = read_records(tmp_path / "records", "validation")
    assert len(records) == 7
    for record in records:
        class_name, filename = record["image/class/synset"].decode(), record["image/filename"].decode()
        assert record["image/encoded"] == (source / "val" / class_name / filename).read_bytes()
        assert record["image/class/label"] == int(class_name[-1]) + 1
        assert (record["image/height"], record["image/width"], record["image/format"]) == (16, 24, b"JPEG")
    opened = open_records(tmp_path / "records", "train")
    assert (opened.num_examples, opened.shard_counts, opened.label_offset) == (7, (3, 4), 1)
    assert opened.class_names == ("class0", "class1")


def test_shards_are_not_sorted_by_class(tmp_path):
    source = write_folder(tmp_path / "images", counts=(20, 20), splits=("train",))
    convert(source, tmp_path / "records", shards=2)
    labels = [record["image/class/label"] for record in read_records(tmp_path / "records", "train")]
    assert 4 <= sum(labels[:20]) <= 16


def test_default_is_a_shard_for_128_mib(tmp_path, monkeypatch):
    source = write_folder(tmp_path / "images", counts=(6, 4), splits=("train",))
    size = sum(path.stat().st_size for path in source.rglob("*.jpg"))
    convert(source, tmp_path / "one")
    assert open_records(tmp_path / "one", "train").shard_counts == (10,)
    monkeypatch.setattr(plan, "SHARD_BYTES", size // 3)
    convert(source, tmp_path / "four")
    assert open_records(tmp_path / "four", "train").shard_counts == (2, 3, 2, 3)
    convert(source, tmp_path / "many", shards=100)
    assert open_records(tmp_path / "many", "train").shard_counts == (1,) * 10


FILE_NAMES = st.binary(min_size=1, max_size=12).filter(lambda name: not set(name) & set(b"\0/.")).map(os.fsdecode)
JPEGS = [encode(picture(seed, 8, 8 + seed)) for seed in range(5)]


@settings(max_examples=15, deadline=None)
@given(
    classes=st.dictionaries(
        FILE_NAMES, st.lists(FILE_NAMES, min_size=1, max_size=5, unique=True), min_size=2, max_size=4
    ),
    shards=st.integers(1, 4),
)
def test_any_folder_gives_each_file_once_and_the_same_bytes_on_any_number_of_workers(classes, shards):
    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)
        expected = collections.Counter()
        for class_name, files in classes.items():
            (directory / "images" / "train" / class_name).mkdir(parents=True)
            for index, name in enumerate(files):
                jpeg = JPEGS[(index + len(name)) % len(JPEGS)]
                (directory / "images" / "train" / class_name / name).write_bytes(jpeg)
                expected[os.fsencode(class_name), os.fsencode(name), jpeg] += 1
        convert(directory / "images", directory / "one", shards=shards, workers=1)
        convert(directory / "images", directory / "three", shards=shards, workers=3)
        assert contents(directory / "one") == contents(directory / "three")
        folders = sorted(classes, key=lambda name: os.fsencode(name).decode("utf-8", "backslashreplace"))
        found = collections.Counter(
            (os.fsencode(folders[r["image/class/label"]]), r["image/filename"], r["image/encoded"])
            for r in read_records(directory / "one", "train")
        )
    assert found == expected


def test_bad_files_fail_the_conversion_and_are_listed(tmp_path):
    source = write_folder(tmp_path / "images")
    (source / "train" / "class0" / "0.jpg").write_text("a text file")
    jpeg = source / "val" / "class1" / "2.jpg"
    jpeg.write_bytes(jpeg.read_bytes()[:-30])
    (source / "val" / "class1" / "1.jpg").write_bytes(encode(picture(5), "PNG"))  # not bad
    message = (
        r"(?s)2 images cannot be converted, and 1 are allowed:.*class0/0.jpg: neither JPEG nor PNG.*"
        r"class1/2.jpg: JPEG is cut off.*rejects.json has the whole list.*--overwrite.*--max-rejects 2"
    )
    output = tmp_path / "records"
    with pytest.raises(UsageError, match=message):
        convert(source, output, max_rejects=1)
    rejects = json.loads((output / "rejects.json").read_text())
    assert [Path(reject["file"]).relative_to(source).as_posix() for reject in rejects] == [
        "train/class0/0.jpg",
        "val/class1/2.jpg",
    ]
    with pytest.raises(UsageError, match=r"no manifest.json"):
        open_records(output, "train")
    convert(source, output, max_rejects=2)
    assert [open_records(output, split).num_examples for split in ("train", "validation")] == [6, 6]
    formats = collections.Counter(record["image/format"] for record in read_records(output, "validation"))
    assert formats == {b"JPEG": 5, b"PNG": 1}


@pytest.mark.parametrize(("split", "class_name"), [("train", "class1"), ("val", "class0")])
def test_rejects_that_empty_a_class_are_refused(tmp_path, split, class_name):
    source = write_folder(tmp_path / "images", counts=(3, 3))
    for path in (source / split / class_name).iterdir():
        path.write_text("no image")
    place = f"class '{class_name}' in split {'validation' if split == 'val' else split}"
    with pytest.raises(UsageError, match=rf"no image of {place} can be converted: repair some .*rejects.json"):
        convert(source, tmp_path / "records", max_rejects=5)
    with pytest.raises(UsageError, match=r"no manifest.json"):
        open_records(tmp_path / "records", "train")


def test_rejects_that_empty_a_split_are_refused(tmp_path):
    source = write_folder(tmp_path / "images", counts=(1, 1))
    for path in (source / "val").rglob("*.jpg"):
        path.write_text("no image")
    with pytest.raises(UsageError, match=r"no image of split validation can be converted"):
        convert(source, tmp_path / "records", max_rejects=5)


def test_conversion_without_rejects_leaves_no_old_list(tmp_path):
    source = write_folder(tmp_path / "images")
    bad = source / "train" / "class0" / "0.jpg"
    bad.write_text("a text file")
    with pytest.raises(UsageError, match="--overwrite"):
        convert(source, tmp_path / "records")
    bad.unlink()
    with pytest.raises(UsageError, match=r"unfinished conversion of other images .*--overwrite"):
        convert(source, tmp_path / "records")
    convert(source, tmp_path / "records", overwrite=True)
    convert(source, tmp_path / "fresh")
    assert contents(tmp_path / "records") == contents(tmp_path / "fresh")


def test_output_of_another_conversion_is_refused(tmp_path):
    first, second = write_folder(tmp_path / "first"), write_folder(tmp_path / "second", counts=(2, 2))
    output = tmp_path / "records"
    manifest = convert(first, output)
    before = contents(output)
    for source, options in ((second, {}), (first, {"label_offset": 1}), (first, {"shards": 2})):
        with pytest.raises(UsageError, match=r"records holds another conversion .*--overwrite"):
            convert(source, output, **options)
    assert contents(output) == before
    assert convert(first, output) == manifest, "the same conversion, complete, is left as it is"
    convert(second, output, shards=2, overwrite=True)
    convert(second, tmp_path / "fresh", shards=2)
    assert contents(output) == contents(tmp_path / "fresh")


def test_shards_of_unknown_origin_are_refused(tmp_path):
    source = write_folder(tmp_path / "images")
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "train-00000-of-00007").write_text("precious")
    with pytest.raises(UsageError, match=r"shards without a manifest, such as train-00000-of-00007"):
        convert(source, tmp_path / "records")
    assert (tmp_path / "records" / "train-00000-of-00007").read_text() == "precious"


def test_damaged_finished_conversion_is_named(tmp_path):
    source = write_folder(tmp_path / "images")
    convert(source, tmp_path / "records")
    shard = tmp_path / "records" / "train-00000-of-00001"
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(UsageError, match=r"train-00000-of-00001 is cut off.*--overwrite"):
        convert(source, tmp_path / "records")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shards": 0}, "shards must be at least 1, not 0"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"max_rejects": -1}, "max_rejects must be at least 0"),
        ({"label_offset": 2}, "label_offset must be 0 or 1, not 2"),
        ({"workers": 2, "beam": []}, "workers are of this machine: set the number of Beam's workers in the options"),
    ],
)
def test_bad_settings_are_named(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        convert(write_folder(tmp_path / "images"), tmp_path / "records", **options)


@pytest.mark.parametrize("overwrite", [False, True])
def test_output_that_is_a_file_is_refused(tmp_path, overwrite):
    (tmp_path / "records").write_text("precious")
    with pytest.raises(UsageError, match="records is a file: choose a folder"):
        convert(write_folder(tmp_path / "images"), tmp_path / "records", overwrite=overwrite)
    assert (tmp_path / "records").read_text() == "precious"


def test_loops_of_symbolic_links(tmp_path):
    source = write_folder(tmp_path / "images")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UsageError, match=r"loop is a symbolic link that leads nowhere: remove it"):
        convert(source, tmp_path / "loop")
    with pytest.raises(UsageError, match=r"loop is not a folder"):
        convert(tmp_path / "loop", tmp_path / "records")
    image = source / "train" / "class0" / "loop.jpg"
    image.symlink_to(image)
    with pytest.raises(UsageError, match=r"(?s)class0/loop.jpg: cannot be read: Too many levels of symbolic links"):
        convert(source, tmp_path / "records")
    (source / "train" / "class2").symlink_to("class2")
    with pytest.raises(UsageError, match=r"train holds files outside class folders: class2"):
        convert(source, tmp_path / "records")


def test_output_inside_the_source_is_refused(tmp_path):
    source = write_folder(tmp_path / "images")
    with pytest.raises(UsageError, match="lies inside the source"):
        convert(source, source / "records")


@settings(max_examples=25, deadline=None)
@given(records=st.lists(st.binary(max_size=300), max_size=5))
def test_framing_is_tensorflows(records):
    file = io.BytesIO()
    writer = RecordWriter(file)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "records")
        with tf.io.TFRecordWriter(str(path)) as expected:
            for record in records:
                writer.write(record)
                expected.write(record)
        assert file.getvalue() == path.read_bytes()
    assert writer.crc32 == zlib.crc32(file.getvalue())
