"""The schema, and what opening a set refuses."""

import hashlib
import json
from pathlib import Path

import pytest
import tensorflow as tf
from record_files import encode, picture, record, write_records

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
    OBJECT_LISTS,
    SOURCE_ID,
    counted,
    feature_spec,
    open_records,
    read_manifest,
    read_span,
)
from tfvt.errors import UsageError


def test_record_has_the_schema_that_other_readers_know():
    features = tf.train.Example.FromString(record(4, label_offset=1)).features.feature
    values = {name: (feature.bytes_list.value or feature.int64_list.value)[0] for name, feature in features.items()}
    assert values == {
        "image/encoded": encode(picture(4)),
        "image/format": b"PNG",
        "image/class/label": 2,
        "image/class/synset": b"dog",
        "image/class/text": b"dog",
        "image/height": 12,
        "image/width": 10,
        "image/channels": 3,
        "image/colorspace": b"RGB",
        "image/filename": b"4.png",
    }


OBJECTS = {
    BOX_YMIN: [0.25, 0.0],
    BOX_XMIN: [0.5, 0.0],
    BOX_YMAX: [0.75, 1.0],
    BOX_XMAX: [1.0, 0.125],
    BOX_LABEL: [2, 0],
    BOX_TEXT: ["emu", "cat"],
    BOX_CROWD: [0, 1],
    BOX_AREA: [7.5, 12.0],
    BOX_MASK: [encode(picture(0)), encode(picture(1))],
}


def test_objects_read_as_lists_of_their_own_length():
    """One by one as tensors; in a batch ragged, where images without objects, and those of other sets, have none."""
    some = record(4, source_id="139", objects=OBJECTS)
    none = record(5, source_id="285", objects=dict.fromkeys(OBJECTS, ()))
    spec = feature_spec((*OBJECTS, SOURCE_ID))
    read = tf.io.parse_single_example(some, spec)
    assert read[SOURCE_ID] == b"139"
    for name, values in OBJECTS.items():
        assert read[name].dtype == OBJECT_LISTS[name]
        assert [v.decode() if name == BOX_TEXT else v for v in read[name].numpy().tolist()] == values
    empty = tf.io.parse_single_example(none, spec)
    assert {tuple(empty[name].shape) for name in OBJECTS} == {(0,)}
    batch = tf.io.parse_example([some, none, record(6)], spec)
    assert batch[SOURCE_ID].numpy().tolist() == [b"139", b"285", b""]
    assert batch[BOX_XMAX].to_list() == [[1.0, 0.125], [], []]
    assert batch[BOX_LABEL].to_list() == [[2, 0], [], []]


def test_an_image_without_objects_is_told_from_one_of_another_kind():
    """Empty lists are stored: `check_kind` sees by them that the set is for detection."""
    none = record(5, source_id="285", objects=dict.fromkeys(OBJECTS, ()))
    features = tf.train.Example.FromString(none).features.feature
    kinds = {name: features[name].WhichOneof("kind") for name in OBJECTS}
    floats = dict.fromkeys((BOX_YMIN, BOX_XMIN, BOX_YMAX, BOX_XMAX, BOX_AREA), "float_list")
    assert kinds == floats | dict.fromkeys((BOX_LABEL, BOX_CROWD), "int64_list") | dict.fromkeys(
        (BOX_TEXT, BOX_MASK), "bytes_list"
    )
    assert BOX_YMIN not in tf.train.Example.FromString(record(5)).features.feature


def test_category_ids_are_of_the_set(tmp_path):
    plain = write_records(tmp_path, (3, 2))
    assert plain.category_ids is None
    assert "category_ids" not in json.loads((tmp_path / "manifest.json").read_text())  # as before there were any
    content = json.loads((tmp_path / "manifest.json").read_text())
    said = [
        content["source_sha256"],
        content["class_names"],
        0,
        *map(list, map(dict.values, content["splits"]["train"])),
    ]
    assert plain.digest == hashlib.sha256(json.dumps(said).encode()).hexdigest()  # runs of older versions continue
    _set("category_ids", [18, 1, 90])(tmp_path / "manifest.json")
    records = open_records(tmp_path, "train")
    assert records.category_ids == (18, 1, 90)
    assert records.digest != plain.digest
    manifest = read_manifest(tmp_path)
    assert json.loads(manifest.to_json())["category_ids"] == [18, 1, 90]


def test_open_records(tmp_path):
    records = write_records(tmp_path, (3, 0, 2), label_offset=1)
    assert records.directory == tmp_path
    assert (records.split, records.class_names, records.label_offset) == ("train", ("cat", "dog", "emu"), 1)
    assert records.shard_paths == tuple(str(tmp_path / f"train-0000{index}-of-00003") for index in range(3))
    assert (records.shard_counts, records.num_examples, records.num_classes) == ((3, 0, 2), 5, 3)


def test_the_digest_is_of_the_records_and_not_of_their_place(tmp_path):
    digest = write_records(tmp_path / "a", (3, 2)).digest
    assert write_records(tmp_path / "b", (3, 2)).digest == digest
    assert write_records(tmp_path / "c", (2, 3)).digest != digest
    assert write_records(tmp_path / "d", (3, 2), label_offset=1).digest != digest
    assert write_records(tmp_path / "e", (3, 2), replaced={4: record(0)}).digest != digest


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def _set(key, value):
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))


def _set_shard(**values):
    def change(path):
        content = json.loads(path.read_text())
        content["splits"]["train"][0] |= values
        path.write_text(json.dumps(content))

    return change


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("train-00001-of-00002", lambda path: path.unlink(), r"shard .*train-00001-of-00002 is missing"),
        (
            "train-00001-of-00002",
            _truncate,
            r"shard .*train-00001-of-00002 is cut off: it has [\d,]+ bytes, the manifest says [\d,]+",
        ),
        ("manifest.json", lambda path: path.unlink(), r"no manifest.json in .*tfvt records convert"),
        ("manifest.json", lambda path: path.write_text("{"), r"manifest.json is damaged .*convert"),
        ("manifest.json", lambda path: path.write_text("[]"), r"manifest.json is damaged"),
        ("manifest.json", lambda path: path.write_text('{"schema": 1}'), r"manifest.json is damaged .*'splits'"),
        ("manifest.json", _set("schema", 99), r"schema version 99, this tfvt reads 1"),
        ("manifest.json", _set("label_offset", 2), r"manifest.json is damaged \(label_offset is 2, not 0 or 1\)"),
        ("manifest.json", _set("label_offset", True), r"manifest.json is damaged \(label_offset is True"),
        ("manifest.json", _set("class_names", ["cat", 1]), r"manifest.json is damaged \(class_names are not all texts"),
        ("manifest.json", _set("category_ids", [1, 2]), r"manifest.json is damaged \(category_ids are not one number"),
        ("manifest.json", _set("category_ids", [1, 2, 2]), r"damaged \(category_ids are not one number for each class"),
        ("manifest.json", _set("category_ids", [1, 2, "3"]), r"damaged \(category_ids are not one number for each"),
        ("manifest.json", _set("category_ids", 7), r"manifest.json is damaged \('int' object is not iterable"),
        ("manifest.json", _set("class_names", "cat"), r"manifest.json is damaged \(class_names is not a list\)"),
        (
            "manifest.json",
            _set("class_names", ["a", "b", "a"]),
            r"manifest.json is damaged \(class_names has 'a' twice\)",
        ),
        ("manifest.json", lambda path: path.write_text("[" * 50_000), r"manifest.json is damaged"),
        ("manifest.json", _set_shard(records=1.5), r"\(records of shard train-00000-of-00002 is 1.5\)"),
        ("manifest.json", _set_shard(bytes=-1), r"\(bytes of shard train-00000-of-00002 is -1\)"),
        ("manifest.json", _set_shard(crc32=None), r"\(crc32 of shard train-00000-of-00002 is None\)"),
        ("manifest.json", _set_shard(name="../train"), r"\(shard '../train' lies outside the folder\)"),
        ("manifest.json", _set_shard(name="/train"), r"\(shard '/train' lies outside the folder\)"),
        ("manifest.json", _set_shard(name="train-00001-of-00002"), r"\(shard train-00001-of-00002 is listed twice\)"),
    ],
)
def test_damaged_set_is_refused(tmp_path, file, damage, message):
    write_records(tmp_path, (3, 2))
    damage(tmp_path / file)
    with pytest.raises(UsageError, match=message):
        open_records(tmp_path, "train")


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [(0, "image", "0 images"), (1, "image", "1 image"), (1000, "class", "1,000 classes"), (1, "class", "1 class")],
)
def test_counted(number, noun, text):
    assert counted(number, noun) == text


def test_missing_folder_and_split_are_named(records):
    with pytest.raises(UsageError, match=r"no folder .*nowhere: .*tfvt records convert INPUT"):
        open_records(records.directory / "nowhere", "train")
    with pytest.raises(UsageError, match="has no split 'validation'; it has: train"):
        open_records(records.directory, "validation")


def test_reading_a_span_needs_no_python(records):
    """The graph can be sent to other machines, where this process's functions are not."""
    span = read_span(records, tf.constant(2, tf.int64), tf.constant(4, tf.int64), tf.constant(3, tf.int64))
    assert [(int(i), bytes(s)) for i, s in span.as_numpy_iterator()] == [(i, record(i)) for i in (11, 12, 13)]
    graph = tf.raw_ops.DatasetToGraphV2(input_dataset=tf.data.experimental.to_variant(span))
    graph = tf.compat.v1.GraphDef.FromString(graph.numpy())
    functions = [function.node_def for function in graph.library.function]
    operations = {node.op for nodes in (graph.node, *functions) for node in nodes}
    assert "TFRecordDataset" in operations
    assert not {operation for operation in operations if "PyFunc" in operation}


@pytest.mark.parametrize("replace", [Path.unlink, lambda path: (path.unlink(), path.mkdir())])
def test_span_of_a_shard_that_cannot_be_read_ends_and_names_it(records, replace):
    replace(Path(records.shard_paths[2]))
    with pytest.raises(tf.errors.OpError, match=r"train-00002-of-00004"):
        list(read_span(records, tf.constant(2, tf.int64), tf.constant(0, tf.int64), tf.constant(3, tf.int64)))
