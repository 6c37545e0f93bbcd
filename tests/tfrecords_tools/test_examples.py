"""The one function that every writer of shards calls: a record or a reason for each image, wherever its bytes lie."""

import json
import os
import pickle
import tempfile
from pathlib import Path

import pytest
import tensorflow as tf
from hypothesis import event, given, settings
from hypothesis import strategies as st
from image_files import encode, picture, read_records, write_folder
from imagenet_files import write_tars

from tfvt.errors import UsageError
from tfvt.files import printable
from tfvt.tfrecords_tools.convert import convert
from tfvt.tfrecords_tools.examples import Reject, shard_examples
from tfvt.tfrecords_tools.sources import image_folder, open_source


def features(serialized):
    found = tf.train.Example.FromString(serialized).features.feature
    return {name: (value.bytes_list.value or value.int64_list.value)[0] for name, value in found.items()}


def test_one_entry_for_each_image_in_order(tmp_path):
    root = write_folder(tmp_path, splits=("train",))
    (root / "train" / "class0" / "2.jpg").write_bytes(b"")
    source = image_folder(root)
    found = list(shard_examples(source.settings, source.splits["train"], 1))
    assert found[2] == Reject(file=f"{root}/train/class0/2.jpg", reason="empty file")
    for index, (example, image) in enumerate(zip(found, source.splits["train"], strict=True)):
        if index != 2:
            record = features(example)
            assert record["image/encoded"] == Path(image.path).read_bytes()
            assert record["image/class/label"] == image.label + 1
            assert record["image/filename"] == os.path.basename(image.path).encode()


@pytest.mark.parametrize("write", [write_folder, write_tars])
def test_what_a_worker_gets_can_be_pickled(tmp_path, write):
    source = open_source(write(tmp_path))
    images = source.splits["train"]
    copied = pickle.loads(pickle.dumps((source.settings, images, 1)))
    assert list(shard_examples(*copied)) == list(shard_examples(source.settings, images, 1))


def test_a_tar_that_shrinks_in_the_meantime_is_named(tmp_path):
    root = write_tars(tmp_path)
    source = open_source(root)
    path = root / "ILSVRC2012_img_val.tar"
    last = source.splits["validation"][-1]
    os.truncate(path, last.offset + 100)
    found = list(shard_examples(source.settings, source.splits["validation"], 0))
    assert isinstance(found[0], bytes)
    assert found[-1] == Reject(
        file=f"{path}:{last.member}", reason=f"{path} ends {last.size - 100} bytes before the image does"
    )


@pytest.mark.parametrize(("jpeg", "format"), [(False, b"PNG"), (True, b"JPEG")])
def test_jpeg_is_an_option_of_every_source(tmp_path, jpeg, format):
    root = write_folder(tmp_path, counts=(1, 1), splits=("train",))
    (root / "train" / "class0" / "0.jpg").write_bytes(encode(picture(0), "PNG"))
    source = open_source(root, jpeg=jpeg)
    records = [features(example) for example in shard_examples(source.settings, source.splits["train"], 0)]
    assert [record["image/format"] for record in records] == [format, b"JPEG"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "folders"}, "format 'folders' is none of auto, folder, imagenet, table, tfds, segmentation"),
        (
            {"layout": "lip", "format": "folder"},
            "--layout is for the format segmentation or coco, and .* is read as folder",
        ),
        ({"data_dir": "/data"}, "--data-dir is for the format tfds, and .* is read as folder"),
        ({"ground_truth": "kit"}, "--ground-truth is for the format imagenet, and .* is read as folder"),
    ],
)
def test_options_of_another_source_are_refused(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        open_source(write_folder(tmp_path), **options)


BYTES = st.sampled_from([byte for byte in range(1, 256) if byte != ord("/")])
NAMES = st.lists(BYTES, min_size=1, max_size=6).map(bytes).map(os.fsdecode).filter(lambda name: name not in (".", ".."))
GOOD = encode(picture(0, 8, 8))
FILES = st.sampled_from(
    [GOOD, encode(picture(1, 8, 8), "PNG"), GOOD[:-5], GOOD[:40], b"", b"text", encode(picture(2, 8, 8), "GIF")]
)
FILES_AND_LINKS = st.one_of(FILES, st.none())  # None: a link to nowhere
CLASSES = st.dictionaries(NAMES, st.dictionaries(NAMES, FILES_AND_LINKS, max_size=5), min_size=2, max_size=3)
TREES = st.recursive(FILES_AND_LINKS, lambda inner: st.dictionaries(NAMES, inner, max_size=4), max_leaves=8)
PLACES = st.sampled_from(["", ".", "train/", "train/.", "train/{}/", "train/{}/.", "val/{}/.", "val/.", "test-"])


def plant(path, tree):
    if tree is None:
        path.symlink_to("nowhere")
    elif isinstance(tree, bytes):
        path.write_bytes(tree)
    else:
        path.mkdir(exist_ok=True)
        for name, inner in tree.items():
            if name not in (".", ".."):
                plant(path / name, inner)


def every_file(root):
    return {printable(os.path.join(folder, name)) for folder, _, names in os.walk(root) for name in names}


def accounted(root, output, source):
    """Where the files went: into records by their bytes and names, rejected, or left out with what is below."""
    rejects = set()
    for images in source.splits.values():
        found = shard_examples(source.settings, images, 0)
        rejects |= {entry.file for entry in found if isinstance(entry, Reject)}
    listed = [image for images in source.splits.values() for image in images]
    kept = {image.printable for image in listed} - rejects
    records = sorted(r["image/filename"] for split in source.splits for r in read_records(output, split))
    assert records == sorted(image.filename for image in listed if image.printable in kept)
    left_out = [printable(os.path.join(root, "")) + name for name in source.left_out]
    below = {path for path in every_file(root) for name in left_out if path == name or path.startswith(f"{name}/")}
    return kept | rejects | below, (kept, rejects, below)


@settings(max_examples=30, deadline=None)
@given(
    classes=CLASSES,
    splits=st.sampled_from([("train",), ("val",), ("train", "val")]),
    strangers=st.lists(st.tuples(PLACES, NAMES, TREES), max_size=3),
)
def test_no_file_of_any_tree_is_lost(classes, splits, strangers):
    """Each is in a record, among the rejects or below a name that is said to be left out; or the tree is refused."""
    with tempfile.TemporaryDirectory() as directory:
        root, output = Path(directory, "images"), Path(directory, "records")
        root.mkdir()
        for split in splits:
            plant(root / split, {name: {"good": GOOD, **files} for name, files in classes.items()})
        for place, name, tree in strangers:  # such as train/<class>/.<name>
            path = root / (place.format(next(iter(classes))) + name)
            if path.parent.is_dir() and not os.path.lexists(path):
                plant(path, tree)
        try:
            source = image_folder(root)
        except UsageError:
            event("refused")
            return
        event("left out something" if source.left_out else "left out nothing")
        try:
            convert(source, output, max_rejects=1000)
        except UsageError as error:
            if "can be converted" not in str(error):  # a stranger is a class, and none of its files an image
                raise
            event("a class without images")
            return
        listed = output / "left_out.json"
        assert (json.loads(listed.read_text()) if source.left_out else []) == list(source.left_out)
        assert listed.exists() == bool(source.left_out)
        found, parts = accounted(root, output, source)
        assert found == every_file(root)
        assert sum(map(len, parts)) == len(found), "none is in two places"
