"""`tfvt records`: what inspection reports and refuses, and the command line around both commands."""

from pathlib import Path

import pytest
from image_files import encode, picture, write_folder

from tfvt.data.records import RecordsError
from tfvt.tfrecords_tools.cli import main
from tfvt.tfrecords_tools.convert import convert
from tfvt.tfrecords_tools.inspect import inspect


@pytest.fixture
def output(tmp_path):
    """Two splits of 4 + 3 images in two shards each, one of them a larger PNG."""
    source = write_folder(tmp_path / "images")
    (source / "train" / "class0" / "0.jpg").write_bytes(encode(picture(0, 40, 30), "PNG"))
    convert(source, tmp_path / "records", shards=2, label_offset=1)
    return tmp_path / "records"


def test_report(output):
    train, validation = inspect(output)
    assert (train.split, train.num_examples, train.shards) == ("train", 7, 2)
    assert train.bytes == sum(path.stat().st_size for path in output.glob("train-*"))
    assert train.class_counts.tolist() == [4, 3]
    assert train.formats == {"JPEG": 6, "PNG": 1}
    assert sorted(train.heights.tolist()) == [16] * 6 + [40]
    assert sorted(train.widths.tolist()) == [24] * 6 + [30]
    assert (validation.split, validation.formats) == ("validation", {"JPEG": 7})


def test_every_damaged_shard_is_named(output):
    for name in ("train-00001-of-00002", "validation-00000-of-00002"):
        content = bytearray((output / name).read_bytes())
        content[-20] ^= 1  # in the last record
        (output / name).write_bytes(content)
    with pytest.raises(RecordsError) as raised:
        inspect(output)
    lines = str(raised.value).splitlines()
    assert lines[0] == f"2 damaged shards in {output}:"
    assert lines[1] == f"record 3 of {output / 'train-00001-of-00002'} is damaged or cut off"
    assert lines[2] == f"record 2 of {output / 'validation-00000-of-00002'} is damaged or cut off"


def edit_manifest(output, old, new):
    text = (output / "manifest.json").read_text()
    assert old in text
    (output / "manifest.json").write_text(text.replace(old, new))


def test_manifest_of_other_labels_is_refused(output):
    edit_manifest(output, '"label_offset": 1', '"label_offset": 0')
    with pytest.raises(RecordsError, match=r"record \d of .*train-00000-of-00002 has label 2, not one from 0 to 1"):
        inspect(output)


def test_manifest_of_fewer_records_is_refused(output):
    edit_manifest(output, '"records": 3', '"records": 2')
    with pytest.raises(RecordsError, match=r"train-00000-of-00002 has 3 records, the manifest says 2"):
        inspect(output)


def test_command_line(tmp_path, capsys):
    source, output = write_folder(tmp_path / "images", counts=(4, 2)), tmp_path / "records"
    (source / "test").mkdir()
    assert main(["convert", str(source), str(output), "--shards", "3"]) == 0
    printed = capsys.readouterr()
    assert "train: 6 images in 3 shards" in printed.out
    assert "left out, because the source has no place for them: test" in printed.err
    assert "12/12" in printed.err

    assert main(["inspect", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "16 / 16 / 16" in printed
    rows = [line.split() for line in printed.splitlines() if "class" in line and "█" in line]
    assert [(row[0], row[2], len(row[4])) for row in rows] == [("class0", "4", 30), ("class1", "2", 15)] * 2

    Path(output, "train-00002-of-00003").unlink()
    assert main(["inspect", str(output)]) == 1
    assert "train-00002-of-00003 is missing" in capsys.readouterr().err
    assert main(["convert", str(source), str(output)]) == 1
    error = capsys.readouterr().err
    assert "error:" in error
    assert "--overwrite" in error
    assert "Traceback" not in error


def test_many_classes_are_shortened(tmp_path, capsys):
    source = write_folder(tmp_path / "images", counts=(2, *[1] * 49), splits=("train",))
    assert main(["convert", str(source), str(tmp_path / "records")]) == 0
    assert main(["inspect", str(tmp_path / "records")]) == 0
    printed = capsys.readouterr().out
    assert "The 20 classes with the most and the 20 with the fewest images" in printed
    assert sum("█" in line for line in printed.splitlines()) == 40


def test_no_command_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as raised:
        main([])
    assert raised.value.code == 2
    assert "convert" in capsys.readouterr().err
