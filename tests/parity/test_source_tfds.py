"""Datasets of TensorFlow Datasets, which the tests write themselves: bytes as they are stored."""

import io
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from image_files import contents, encode, picture, read_records

from tfvt.errors import UsageError
from tfvt.tfrecords_tools.cli import main
from tfvt.tfrecords_tools.convert import convert
from tfvt.tfrecords_tools.sources import open_source

pytestmark = pytest.mark.parity

NAMES = ("tench", "goldfish", "shark")  # not sorted: TFDS says the order
COUNTS = {"train": 7, "test": 3, "extra": 2}
# What decoding and encoding again would change.
JPEGS = [encode(picture(seed), quality=37 + seed) for seed in range(12)]


def write_dataset(folder, features=None, examples=None, num_shards=2, supervised_keys=None):
    """A prepared dataset with COUNTS examples, split over files."""
    features = features or {
        "file_name": tfds.features.Text(),
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=NAMES),
    }

    def generate(split):
        first = sum(list(COUNTS.values())[: list(COUNTS).index(split)])
        for index in range(COUNTS[split]):
            number = first + index
            yield number, {"file_name": f"{number}.jpg", "image": io.BytesIO(JPEGS[number]), "label": number % 3}

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        name = "tiny"

        def _info(self):
            described = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=described, supervised_keys=supervised_keys)

        def _split_generators(self, _):
            return {split: (examples or generate)(split) for split in COUNTS}

        def _generate_examples(self):
            raise NotImplementedError

    builder = Tiny(data_dir=folder)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=num_shards))
    return builder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("datasets"))


def test_bytes_as_they_are_stored(prepared, tmp_path, capsys):
    directory = str(prepared.data_path)
    assert main(["convert", directory, str(tmp_path / "records"), "--shards", "3"]) == 0
    assert "split extra (2 examples)" in capsys.readouterr().err
    records = read_records(tmp_path / "records", "train")
    stored = list(prepared.as_dataset("train", decoders={"image": tfds.decode.SkipDecoding()}).as_numpy_iterator())
    assert len(records) == 7
    for record, example in zip(records, stored, strict=True):
        number = int(record["image/filename"].split(b".")[0])
        assert record["image/encoded"] == JPEGS[number] == example["image"]
        assert record["image/class/label"] == number % 3 == example["label"]
        assert record["image/class/text"].decode() == NAMES[number % 3]
        assert (record["image/height"], record["image/width"], record["image/format"]) == (16, 24, b"JPEG")
    assert {record["image/filename"] for record in records} == {b"%d.jpg" % number for number in range(7)}
    assert len(read_records(tmp_path / "records", "test")) == 3


def test_shards_are_spans_in_the_stored_order(prepared, tmp_path):
    source = open_source(prepared.data_path)
    for shards in (1, 3):
        convert(source, tmp_path / str(shards), shards=shards)
    names = [[r["image/filename"] for r in read_records(tmp_path / str(shards), "train")] for shards in (1, 3)]
    assert names[0] == names[1]
    convert(source, tmp_path / "one worker", shards=3, workers=1)
    assert contents(tmp_path / "one worker") == contents(tmp_path / "3")


def test_name_and_data_dir(prepared, tmp_path):
    """The same set by its name, and wherever it lies."""
    data_dir, moved = prepared.data_path.parent.parent, tmp_path / "moved"
    shutil.copytree(data_dir, moved)
    expected = convert(open_source(prepared.data_path), tmp_path / "by folder")
    for number, (location, place) in enumerate([("tfds:tiny", data_dir), ("tfds:tiny:1.0.0", moved)]):
        assert convert(open_source(location, data_dir=place), tmp_path / str(number)) == expected
    assert open_source("tfds:tiny:1.*.*", data_dir=moved).splits == open_source(moved / "tiny" / "1.0.0").splits


def test_without_names_and_labels(tmp_path):
    """As in ImageNet's test split: label -1; a file name is made up where the set has none."""
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=3)}

    def examples(split):
        for index in range(COUNTS[split]):
            label = -1 if split == "test" else index % 3
            yield index, {"image": io.BytesIO(encode(picture(index), "PNG")), "label": label}

    builder = write_dataset(tmp_path / "data", features=features, examples=examples, num_shards=1)
    convert(open_source(builder.data_path), tmp_path / "records", label_offset=1)
    test = read_records(tmp_path / "records", "test")
    assert [record["image/filename"] for record in test] == [b"test-00000000", b"test-00000001", b"test-00000002"]
    assert [record["image/class/label"] for record in test] == [-1, -1, -1]
    train = read_records(tmp_path / "records", "train")
    assert sorted(record["image/class/label"] for record in train) == [1, 1, 1, 2, 2, 3, 3]
    assert {record["image/format"] for record in train} == {b"PNG"}
    convert(open_source(builder.data_path, jpeg=True), tmp_path / "jpegs")
    assert {record["image/format"] for record in read_records(tmp_path / "jpegs", "train")} == {b"JPEG"}


def test_of_several_features_the_supervised_ones(tmp_path):
    """As in oxford_iiit_pet, which has a breed, a species, an image and a mask."""
    features = {
        "image": tfds.features.Image(),
        "label": tfds.features.ClassLabel(names=NAMES),
        "mask": tfds.features.Image(shape=(None, None, 1)),
        "species": tfds.features.ClassLabel(num_classes=2),
    }

    def examples(split):
        for index in range(COUNTS[split]):
            mask = np.full((16, 24, 1), index, np.uint8)
            yield index, {"image": io.BytesIO(JPEGS[index]), "label": index % 3, "mask": mask, "species": 1}

    builder = write_dataset(tmp_path / "data", features, examples, supervised_keys=("image", "label"))
    convert(open_source(builder.data_path), tmp_path / "records")
    found = {
        record["image/encoded"]: record["image/class/label"] for record in read_records(tmp_path / "records", "train")
    }
    assert found == {JPEGS[index]: index % 3 for index in range(7)}


def test_bad_images_are_rejected(tmp_path):
    def examples(split):
        for index in range(COUNTS[split]):
            content = JPEGS[index][:-30] if index == 1 else JPEGS[index]
            yield index, {"file_name": f"{index}.jpg", "image": io.BytesIO(content), "label": 0}

    builder = write_dataset(tmp_path / "data", examples=examples)
    with pytest.raises(UsageError, match=r"tiny/1.0.0/train:1.jpg: JPEG is cut off: it has no end-of-image marker"):
        convert(open_source(builder.data_path), tmp_path / "records")
    manifest = convert(open_source(builder.data_path), tmp_path / "records", max_rejects=2)
    assert {split: sum(shard.records for shard in shards) for split, shards in manifest.splits.items()} == {
        "train": 6,
        "test": 2,
    }


def test_images_without_a_label_are_rejected_but_for_the_test_split(tmp_path):
    def examples(split):
        for index in range(COUNTS[split]):
            label = -1 if split == "test" or index == 2 else index % 3
            yield index, {"file_name": f"{index}.jpg", "image": io.BytesIO(JPEGS[index]), "label": label}

    builder = write_dataset(tmp_path / "data", examples=examples)
    with pytest.raises(UsageError, match=r"(?s)1 image cannot be .*tiny/1.0.0/train:2.jpg: it has no label \(-1\)"):
        convert(open_source(builder.data_path), tmp_path / "records")
    convert(open_source(builder.data_path), tmp_path / "records", max_rejects=1)
    assert len(read_records(tmp_path / "records", "train")) == COUNTS["train"] - 1


def test_damaged_files_are_named(prepared, tmp_path):
    shutil.copytree(prepared.data_path, tmp_path / "tiny" / "1.0.0")
    file = next((tmp_path / "tiny" / "1.0.0").glob("tiny-train.tfrecord-00001*"))
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    message = r"example 6 of tiny/1.0.0, split train, or one before it, cannot be read: prepare the dataset again"
    with pytest.raises(UsageError, match=message):
        convert(open_source(tmp_path / "tiny" / "1.0.0"), tmp_path / "records")
    assert not (tmp_path / "records" / "manifest.json").exists()


def test_a_label_outside_the_classes_is_named(prepared, tmp_path):
    shutil.copytree(prepared.data_path, tmp_path / "tiny" / "1.0.0")
    (tmp_path / "tiny" / "1.0.0" / "label.labels.txt").write_text("tench\ngoldfish\n")
    with pytest.raises(UsageError, match=r"tiny/1.0.0/\w+:\d.jpg has label 2: there are 2 classes"):
        convert(open_source(tmp_path / "tiny" / "1.0.0"), tmp_path / "records")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (
            {"image": tfds.features.Image()},
            r"has 0 features of the kind ClassLabel: it must have one, .* Its features: image",
        ),
        (
            {"a": tfds.features.Image(), "b": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=2)},
            r"has 2 features of the kind Image: it must have one, .* Its features: a, b, label",
        ),
        (
            {"image": tfds.features.Image(dtype=np.uint16), "label": tfds.features.ClassLabel(num_classes=2)},
            "pixels of tiny/1.0.0 are uint16, not uint8",
        ),
    ],
)
def test_other_datasets_are_refused(tmp_path, features, message):
    def examples(split):
        values = {"label": 0}
        pixels = np.zeros((4, 4, 3), features.get("image", tfds.features.Image()).np_dtype)
        yield 0, {name: values.get(name, pixels) for name in features}

    builder = write_dataset(tmp_path, features=features, examples=examples, num_shards=1)
    with pytest.raises(UsageError, match=message):
        open_source(builder.data_path)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("tfds:no_such_dataset", r"cannot open tfds:no_such_dataset: Dataset no_such_dataset not found.$"),
        ("tfds:mnist:99.0.0", r"cannot open tfds:mnist:99.0.0: .*cannot be loaded at version 99.0.0, only"),
        ("tfds:", r"cannot open tfds:"),
        (
            "tfds:mnist",
            r"mnist:[\d.]+ is not in .*: give its folder with --data-dir, or prepare it with `tfds build",
        ),
    ],
)
def test_what_is_not_there_is_named(tmp_path, location, message):
    with pytest.raises(UsageError, match=message):
        open_source(location, data_dir=tmp_path)


def test_a_folder_without_a_dataset_is_named(tmp_path):
    with pytest.raises(UsageError, match="TensorFlow Datasets cannot open"):
        open_source(tmp_path, "tfds")


def test_without_tfds_it_says_what_to_install(prepared, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'tfvt\[tfds\]'"):
        open_source(prepared.data_path)
