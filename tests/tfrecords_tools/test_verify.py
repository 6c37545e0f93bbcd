"""`tfvt records verify`: each kind of damage is found, named and counted; what is whole is called whole."""

import gzip
import io
import json
import struct

import numpy as np
import pytest
import tensorflow as tf
from image_files import encode, picture, write_folder
from PIL import Image
from record_sets import example, write_set

from tfvt.data.records import MASK, MASK_FORMAT, counted
from tfvt.errors import UsageError
from tfvt.tfrecords_tools.cli import main
from tfvt.tfrecords_tools.convert import convert
from tfvt.tfrecords_tools.inspect import inspect
from tfvt.tfrecords_tools.verify import verify

JPEG = encode(picture(0, 64, 48), quality=90)


def lines(found):
    return [str(finding) for finding in found]


def test_whole_set_has_no_findings(tmp_path):
    source = write_folder(tmp_path / "images")
    grey, rgba = picture(90)[..., 0], np.dstack([picture(91), picture(92)[..., 0]])
    for name, content in (("grey", encode(grey)), ("png", encode(picture(93), "PNG")), ("rgba", encode(rgba, "PNG"))):
        (source / "train" / "class0" / name).write_bytes(content)
    convert(source, tmp_path / "records", shards=3)
    verification = verify(tmp_path / "records")
    assert verification.findings == ()
    assert verification.records == {"train": 10, "validation": 7}
    assert verify(tmp_path / "records", split="validation").records == {"validation": 7}


def without(feature):
    parsed = tf.train.Example.FromString(example())
    del parsed.features.feature[feature]
    return parsed.SerializeToString()


def with_features(**features):
    parsed = tf.train.Example.FromString(example())
    for name, feature in features.items():
        parsed.features.feature[name].CopyFrom(feature)
    return parsed.SerializeToString()


TWO_LABELS = {"image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[0, 1]))}
TEXT_AS_NUMBER = {"image/class/text": tf.train.Feature(int64_list=tf.train.Int64List(value=[0]))}
PNG = encode(picture(0), "PNG")


@pytest.mark.parametrize(
    ("spoilt", "problem"),
    [
        (b"\x0a\xff", "it is not a tf.train.Example"),
        (b"", "it lacks image/encoded"),
        (without("image/height"), "it lacks image/height"),
        (with_features(**TWO_LABELS), "its image/class/label is not one value of type int64"),
        (with_features(**TEXT_AS_NUMBER), "its image/class/text is not one value of type bytes"),
        (example(label=2), "its label is 2, not one from 0 to 1"),
        (example(label=-1), "its label is -1, not one from 0 to 1"),
        (example(height=24, width=16), "its image has (height, width) (16, 24), the record says (24, 16)"),
        (example(encoded=PNG), "its image is a PNG, its image/format says 'JPEG'"),
        (example(format="PNG"), "its image is a JPEG, its image/format says 'PNG'"),
        (example(encoded=b"GIF89a..."), "its image is neither JPEG nor PNG: it begins with b'GIF89a..'"),
        (example(encoded=b""), "its image is neither JPEG nor PNG: it begins with b''"),
        (example(encoded=JPEG[:400], height=64, width=48), "its image does not decode: Invalid JPEG data"),
        (example(encoded=JPEG[:700], height=64, width=48), "its image does not decode: jpeg::Uncompress failed."),
        (example(encoded=PNG[:-20], format="PNG"), "its image does not decode: "),
        (example(encoded=PNG[:60] + b"x" + PNG[61:], format="PNG"), "its image does not decode: "),
    ],
)
def test_spoilt_record_is_named(tmp_path, spoilt, problem):
    directory = write_set(tmp_path, {"train": [example(1), example(2), spoilt, example(3)]})
    verification = verify(directory)
    (found,) = lines(verification.problems)
    assert found.startswith(f"record 2 of train-00000-of-00001: {problem}")
    assert "{{" not in found
    assert verification.records == {"train": 4}


@pytest.mark.parametrize(
    ("encoded", "text"),
    [
        # The file was cut off, and something put an end marker to it; a block of a bad disk is zeros.
        (
            JPEG[:700] + JPEG[-2:],
            "its image decodes with made-up pixels: Corrupt JPEG data: premature end of data segment",
        ),
        (JPEG[:700] + bytes(len(JPEG) - 702) + JPEG[-2:], "its image decodes with made-up pixels: Corrupt JPEG data"),
    ],
)
def test_what_libjpeg_only_warns_of_is_a_problem(tmp_path, encoded, text):
    tf.io.decode_jpeg(encoded)  # no error: TensorFlow's reader takes it
    spoilt = example(encoded=encoded, height=64, width=48)
    directory = write_set(tmp_path, {"train": [example(1), spoilt]})
    (found,) = lines(verify(directory).problems)
    assert found.startswith(f"record 1 of train-00000-of-00001: {text}")
    assert verify(directory, decode=False).findings == ()


def test_surplus_bytes_in_a_jpeg_are_a_warning(tmp_path):
    surplus = example(encoded=JPEG[:-2] + b"surplus" + JPEG[-2:], height=64, width=48)
    verification = verify(write_set(tmp_path, {"train": [example(1), surplus]}))
    assert verification.problems == []
    (found,) = lines(verification.warnings)
    assert found.startswith("record 1 of train-00000-of-00001: its image may be damaged: Corrupt JPEG data: ")
    assert "extraneous bytes before marker 0xd9" in found


def test_jpeg_of_unusual_sampling_is_no_problem(tmp_path):
    """The library that tells warnings refuses some files that the pipeline's decoder reads."""
    content = bytearray(encode(picture(0), subsampling=0))
    frame = content.index(b"\xff\xc0")
    content[frame + 11] = 0x31  # luma three times as wide as chroma; what is in the blocks does not matter
    content = bytes(content)
    findings = verify(write_set(tmp_path, {"train": [example(1), example(encoded=content)]})).findings
    assert not [finding for finding in findings if "subsampling" in finding.text]


def damage(directory, record, place, name="train-00000-of-00001"):
    """Flips a bit of a record: at `place` bytes from its begin, whose first 12 are its length and its checksum."""
    content, position = bytearray((directory / name).read_bytes()), 0
    for _ in range(record):
        position += struct.unpack_from("<Q", content, position)[0] + 16
    content[position + place] ^= 1
    (directory / name).write_bytes(content)


def test_damaged_records_are_all_named_and_the_others_read(tmp_path):
    directory = write_set(tmp_path, {"train": [example(index) for index in range(8)]})
    for record, place in ((1, 200), (4, 12), (5, 300), (7, 100)):
        damage(directory, record, place)
    verification = verify(directory)
    shard, *records = lines(verification.problems)
    assert shard.startswith("train-00000-of-00001: is not the file of the manifest: its CRC-32 is ")
    assert records == [
        f"record {record} of train-00000-of-00001: damaged: it cannot be read" for record in (1, 4, 5, 7)
    ]


@pytest.mark.parametrize("place", [0, 3])
def test_damaged_length_loses_the_rest_and_says_so(tmp_path, place):
    directory = write_set(tmp_path, {"train": [example(index) for index in range(8)]})
    damage(directory, 3, place)
    shard, *others = lines(verify(directory).problems)
    assert shard.startswith("train-00000-of-00001: is not the file of the manifest")
    assert others == [
        "record 3 of train-00000-of-00001: damaged or cut off, and so is all that follows it",
        "train-00000-of-00001: has 3 records, the manifest says 8",
    ]


def test_damaged_checksum_of_a_length_names_all_that_cannot_be_read(tmp_path):
    directory = write_set(tmp_path, {"train": [example(index) for index in range(8)]})
    damage(directory, 3, 9)
    shard, *others = lines(verify(directory).problems)
    assert shard.startswith("train-00000-of-00001: is not the file of the manifest")
    assert others == [f"record {record} of train-00000-of-00001: damaged: it cannot be read" for record in range(3, 8)]


@pytest.mark.parametrize("kept", [0, 5, 700])
def test_shard_that_is_cut_off(tmp_path, kept):
    directory = write_set(tmp_path, {"train": [example(index) for index in range(3)]})
    path = directory / "train-00000-of-00001"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:kept])
    found = lines(verify(directory).problems)
    assert found[0] == f"train-00000-of-00001: has {counted(kept, 'byte')}, the manifest says {size:,}"
    records = 700 // (len(example(0)) + 16) if kept == 700 else 0
    assert found[-1] == f"train-00000-of-00001: has {counted(records, 'record')}, the manifest says 3"


def test_shards_and_manifest_differ(tmp_path):
    directory = write_set(tmp_path, {"train": [example(0)], "validation": [example(1)], "test": []})
    (directory / "train-00000-of-00001").unlink()
    (directory / "train-00003-of-00004").write_bytes(b"")
    (directory / "train").mkdir()
    (directory / "train" / "train-00000-of-00001").write_bytes(b"")
    assert lines(verify(directory).problems) == [
        "train-00000-of-00001: is missing",
        "train/train-00000-of-00001: is not in the manifest: nothing reads it",
        "train-00003-of-00004: is not in the manifest: nothing reads it",
    ]
    assert verify(directory, split="validation").findings == ()


def test_record_too_many(tmp_path):
    directory = write_set(tmp_path, {"train": [example(0), example(1)]})
    manifest = directory / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"records": 2', '"records": 1'))
    assert lines(verify(directory).problems) == ["train-00000-of-00001: has 2 records, the manifest says 1"]


def test_unlabelled_records_belong_to_the_test_split(tmp_path):
    unlabelled = example(label=-1, synset="", text="")
    assert verify(write_set(tmp_path, {"train": [example(1)], "test": [unlabelled]})).findings == ()


def test_class_lists_of_splits_differ(tmp_path):
    """Validation was written with its classes in another order."""
    swapped = [example(2, synset="b", text="B"), example(3, synset="a", text="A")]
    directory = write_set(tmp_path, {"train": [example(0), example(1)], "validation": swapped})
    found = lines(verify(directory).problems)
    first, second = "record 0 of train-00000-of-00001", "record 0 of validation-00000-of-00001"
    assert f"manifest.json: label 0 has synset 'a' in {first}, and 'b' in {second}" in found
    assert f"manifest.json: class 'a' of the manifest is 'b' in {second}" in found


def test_duplicates_are_warnings(tmp_path):
    same = encode(picture(50))
    directory = write_set(
        tmp_path,
        {
            "train": [example(0, encoded=same), example(1), example(2, encoded=same), example(3, encoded=same)],
            "validation": [example(4), example(6, encoded=same)],
        },
    )
    verification = verify(directory)
    assert verification.problems == []
    same_as = "holds the same image as record 0 of train-00000-of-00001"
    assert lines(verification.warnings) == [
        f"record 2 of train-00000-of-00001: {same_as}",
        f"record 3 of train-00000-of-00001: {same_as}, under label 1 instead of 0",
        f"record 1 of validation-00000-of-00001: {same_as}, which is in another split",
    ]
    assert verify(directory, split="validation").warnings == []


def mask(pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(file, "PNG")
    return file.getvalue()


GOOD_MASK = np.resize([0, 1, 255], (16, 24))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (mask(GOOD_MASK), None),
        (mask(GOOD_MASK[:8]), "its mask has the shape (8, 24, 1), its image (16, 24)"),
        (mask(GOOD_MASK + (GOOD_MASK == 1)), "its mask has class 2, not one from 0 to 1 or 255 for none"),
        (mask(np.zeros((16, 24, 3))), "its mask has the shape (16, 24, 3), its image (16, 24)"),
        (mask(GOOD_MASK)[:-20], "its mask does not decode: "),
        (b"", "its mask does not decode: "),
    ],
)
def test_masks(tmp_path, content, problem):
    directory = write_set(tmp_path, {"train": [example(label=-1, synset="", text="", mask=content)]})
    found = lines(verify(directory).problems)
    assert len(found) == (problem is not None)
    assert not found or found[0].startswith(f"record 0 of train-00000-of-00001: {problem}")


def test_mask_format(tmp_path):
    parsed = tf.train.Example.FromString(example(mask=mask(GOOD_MASK)))
    del parsed.features.feature[MASK_FORMAT]
    assert MASK in parsed.features.feature
    found = lines(verify(write_set(tmp_path, {"train": [parsed.SerializeToString()]})).problems)
    assert found == ["record 0 of train-00000-of-00001: its image/segmentation/class/format is None, not b'png'"]


def test_what_is_no_set_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no manifest\.json"):
        verify(tmp_path)
    write_set(tmp_path, {"train": [example()]})
    with pytest.raises(UsageError, match="has no split 'val'; it has: train"):
        verify(tmp_path, split="val")
    with pytest.raises(UsageError, match="workers must be at least 1, not 0"):
        verify(tmp_path, workers=0)


def test_mistakes_leave_another_status_than_findings(tmp_path, capsys):
    assert main(["verify", str(tmp_path / "nowhere")]) == 2
    assert main(["convert", str(tmp_path / "nowhere"), str(tmp_path / "records")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:2] for line in errors] == [
        [f"tfvt records {name}", "error"] for name in ("verify", "convert")
    ]


def test_compressed_shard_is_named(tmp_path):
    write_set(tmp_path, {"train": [example()]})
    path = tmp_path / "train-00000-of-00001"
    path.write_bytes(gzip.compress(path.read_bytes()))
    texts = [finding.text for finding in verify(tmp_path).problems]
    assert any(
        text.startswith("is gzip-compressed TFRecord, which tfvt does not read: uncompress it") for text in texts
    )


def test_record_whose_length_begins_like_gzip_is_read(tmp_path):
    filler = b"\xff\xd8" + bytes(0x88B1F)
    length = len(example(encoded=filler, format="JPEG"))
    serialized = example(encoded=filler[: len(filler) - (length - 0x88B1F)], format="JPEG")
    assert len(serialized) == 0x88B1F
    directory = write_set(tmp_path, {"train": [serialized]})
    assert (directory / "train-00000-of-00001").read_bytes().startswith(b"\x1f\x8b\x08")
    (report,) = inspect(directory)
    assert report.num_examples == 1


def test_command_line(tmp_path, capsys):
    directory = write_set(tmp_path / "set", {"train": [example(0), example(1), example(0)]})
    assert main(["verify", str(directory)]) == 0
    assert main(["verify", str(directory), "--strict"]) == 1
    printed = capsys.readouterr()
    warning = "record 2 of train-00000-of-00001: holds the same image as record 0 of train-00000-of-00001"
    assert printed.out == 2 * f"warning: {warning}\ntrain: 3 records read\n0 problems, 1 warning\n"
    assert "3/3" in printed.err

    many = [example(2 * index + 1, label=index) for index in range(2, 62)]
    directory = write_set(tmp_path / "other", {"train": many})
    assert main(["verify", str(directory), "--no-decode", "--json", str(tmp_path / "findings.json")]) == 1
    *problems, more, read, total = capsys.readouterr().out.splitlines()
    assert problems == [
        f"problem: record {index} of train-00000-of-00001: its label is {index + 2}, not one from 0 to 1"
        for index in range(50)
    ]
    assert (more, read, total) == ("... and 10 more problems", "train: 60 records read", "60 problems, 0 warnings")
    content = json.loads((tmp_path / "findings.json").read_text())
    assert content["records"] == {"train": 60}
    assert content["problems"][59] == {
        "file": "train-00000-of-00001",
        "record": 59,
        "text": "its label is 61, not one from 0 to 1",
    }
    assert (len(content["problems"]), content["warnings"]) == (60, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "--json", "nowhere/findings.json"], "nowhere/findings.json cannot be written: name a file"),
        (["inspect", "--contact-sheet", "nowhere/sheet.png"], "nowhere/sheet.png cannot be written: name a file"),
        (["inspect", "--contact-sheet", "sheet.jpg"], "sheet.jpg must end in .png"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_read(tmp_path, capsys, arguments, message):
    command, *options = arguments
    with pytest.raises(SystemExit) as raised:
        main([command, str(tmp_path / "no set"), *options])
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


def test_workers_find_the_same(tmp_path):
    source = write_folder(tmp_path / "images", counts=(6, 6))
    convert(source, tmp_path / "records", shards=6)
    for name in ("train-00001-of-00006", "validation-00004-of-00006"):
        damage(tmp_path / "records", 1, 50, name)
    expected = verify(tmp_path / "records", workers=1)
    assert len(expected.problems) == 4
    assert verify(tmp_path / "records", workers=5) == expected
