"""Damaged bytes anywhere: an error that names file and record, or all records, never a crash and never fewer."""

import itertools
import re
import shutil

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import encode, picture
from record_sets import example, write_set

from tfvt.data import ClassificationSamples, EvalPreprocessing, StreamSettings, eval_stream, open_records
from tfvt.errors import UsageError
from tfvt.tfrecords_tools.inspect import inspect
from tfvt.tfrecords_tools.verify import verify

SHARD = "train-00000-of-00001"
RECORDS = [
    example(0, encoded=encode(picture(0), "PNG"), format="PNG"),
    *(example(number) for number in range(1, 4)),
    example(4, encoded=encode(picture(4), progressive=True)),
    example(5, encoded=encode(picture(5)[..., 0])),
]
BEGINS = [*itertools.accumulate((len(record) + 16 for record in RECORDS), initial=0)]  # in the shard


class Fuzzed:
    """A set whose one shard is rewritten for each example; the graph that reads it is built once."""

    def __init__(self, directory):
        self.directory = write_set(directory, {"train": RECORDS})
        self.whole = (directory / SHARD).read_bytes()
        records = open_records(directory, "train")
        samples = ClassificationSamples.of(records, EvalPreprocessing((8, 8)))
        self.dataset = eval_stream(records, samples, StreamSettings(batch_size=6))

    def labels(self):
        """What evaluation reads."""
        labels = []
        for batch in self.dataset:
            labels += batch["label"][batch["weight"] == 1].numpy().tolist()
        return labels


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    return Fuzzed(tmp_path_factory.mktemp("fuzzed"))


@st.composite
def damaged(draw, content):
    """The bytes after one or two accidents."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.integers(1, 40))
        match draw(st.sampled_from(("flip", "overwrite", "truncate", "insert", "remove", "swap"))):
            case "flip" if content:
                content[place] ^= 1 << draw(st.integers(0, 7))
            case "overwrite":
                content[place : place + length] = draw(st.binary(min_size=length, max_size=length))
            case "truncate":
                del content[place:]
            case "insert":
                content[place:place] = draw(st.binary(min_size=1, max_size=length))
            case "remove":
                del content[place : place + length]
            case "swap":
                other = draw(st.integers(0, max(0, len(content) - 1)))
                one, two = content[place : place + length], content[other : other + length]
                content[place : place + length], content[other : other + length] = two, one
    return bytes(content)


def outcome(error, call, *arguments, **options):
    """What the call returns, or the error of that kind that it raises."""
    try:
        return call(*arguments, **options)
    except error as raised:
        return raised


def first_difference(one, other):
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def check_damaged_shard(fuzzed, content):
    path = fuzzed.directory / SHARD
    path.write_bytes(content)
    if content == fuzzed.whole:
        return
    touched = sum(begin <= first_difference(content, fuzzed.whole) for begin in BEGINS) - 1  # the first record that is

    verification = verify(fuzzed.directory, workers=1)
    assert verification.problems, "the shard's checksum alone tells"
    assert {finding.file for finding in verification.findings} == {SHARD}
    assert all(finding.record is None or finding.record >= touched for finding in verification.findings)

    inspected = outcome(UsageError, inspect, fuzzed.directory, workers=1)
    if isinstance(inspected, UsageError):
        assert SHARD in str(inspected)
    else:  # the records are whole, if in another order
        assert inspected[0].class_counts.tolist() == [3, 3]

    labels = outcome(tf.errors.InvalidArgumentError, fuzzed.labels)
    if isinstance(labels, list):
        assert sorted(labels) == [0, 0, 0, 1, 1, 1]
    else:
        number = int(re.search(rf"record (\d+) of \S*{SHARD} ", str(labels))[1])
        assert touched <= number < len(RECORDS)


def check_damaged_record(fuzzed, number, serialized):
    """What is damaged before it is written has the right checksums: only its content can tell."""
    shutil.rmtree(fuzzed.directory)
    write_set(fuzzed.directory, {"train": [*RECORDS[:number], serialized, *RECORDS[number + 1 :]]})
    verification = verify(fuzzed.directory, workers=1)
    assert {finding.record for finding in verification.findings} <= {None, number}
    labels = outcome(tf.errors.InvalidArgumentError, fuzzed.labels)
    if isinstance(labels, list):
        assert len(labels) == len(RECORDS)
        assert [label for i, label in enumerate(labels) if i != number] == [i % 2 for i in range(6) if i != number]
    else:
        assert re.search(rf"record {number} of \S*{SHARD} ", str(labels))
        assert verification.problems, "what training stumbles over, verify finds"
    inspected = outcome(UsageError, inspect, fuzzed.directory, workers=1)
    if isinstance(inspected, UsageError):
        assert f"record {number} of {fuzzed.directory / SHARD}" in str(inspected)
        assert verification.problems


def check_damaged_image(fuzzed, number, data):
    features = tf.train.Example.FromString(RECORDS[number])
    image = features.features.feature["image/encoded"].bytes_list
    image.value[0] = data.draw(damaged(image.value[0]))
    check_damaged_record(fuzzed, number, features.SerializeToString())


FEW, MANY = settings(max_examples=12, deadline=None), settings(max_examples=300, deadline=None)
numbers = st.integers(0, len(RECORDS) - 1)


@FEW
@given(data=st.data())
def test_damaged_shard(fuzzed, data):
    check_damaged_shard(fuzzed, data.draw(damaged(fuzzed.whole)))


@FEW
@given(number=numbers, data=st.data())
def test_damaged_record(fuzzed, number, data):
    check_damaged_record(fuzzed, number, data.draw(damaged(RECORDS[number])))


@FEW
@given(number=numbers, data=st.data())
def test_damaged_image(fuzzed, number, data):
    check_damaged_image(fuzzed, number, data)


def test_record_without_bytes(fuzzed):
    """Its checksum is right, and it is not taken for the end of what can be read."""
    for number in (0, 3, 5):
        check_damaged_record(fuzzed, number, b"")


@pytest.mark.slow
@MANY
@given(data=st.data())
def test_damaged_shard_at_length(fuzzed, data):
    check_damaged_shard(fuzzed, data.draw(damaged(fuzzed.whole)))


@pytest.mark.slow
@MANY
@given(number=numbers, data=st.data())
def test_damaged_record_at_length(fuzzed, number, data):
    check_damaged_record(fuzzed, number, data.draw(damaged(RECORDS[number])))


@pytest.mark.slow
@MANY
@given(number=numbers, data=st.data())
def test_damaged_image_at_length(fuzzed, number, data):
    check_damaged_image(fuzzed, number, data)
