"""Records in an object store: conversion, its interruption, checks and the index, as on a disk."""

import contextlib
import errno
import json
import os
import tempfile

import pytest
from foreign_shards import CLASSES, serialize, slim_features, write_shards
from image_files import contents, write_folder
from store_files import upload

from tfvt.data.records import open_records
from tfvt.errors import UsageError
from tfvt.files import write_whole
from tfvt.tfrecords_tools import examples, shards, workers
from tfvt.tfrecords_tools.cli import main


def stored(folder):
    """What a store's folder holds, without folders."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """10 images in train, 10 in validation."""
    return write_folder(tmp_path_factory.mktemp("source") / "images", counts=(6, 4))


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory):
    """The folder of their records, on a disk."""
    folder = tmp_path_factory.mktemp("expected") / "records"
    assert main(["convert", str(source), str(folder), "--shards", "5"]) == 0
    return folder


def convert(source, output, *flags):
    return main(["convert", str(source), str(output), "--shards", "5", *flags])


def test_a_conversion_writes_the_same_files_into_a_store(source, expected, store, capsys):
    output = store / "records"
    capsys.readouterr()
    assert convert(source, output) == 0
    found, said = stored(output), capsys.readouterr()
    assert found == contents(expected)
    assert [path.name for path in output.iterdir() if path.is_dir()] == []  # .partial has gone
    assert f"note: {output} cannot be locked (object stores have no locks): make sure that no other" in said.err
    assert f"; {output} ready in " in said.out
    assert convert(source, f"{output}/") == 0
    assert f"{output} already holds this conversion, complete; nothing to do" in capsys.readouterr().err
    assert main(["convert", str(source), str(output), "--shards", "2"]) == 2
    assert "holds another conversion" in capsys.readouterr().err
    assert main(["convert", str(source), str(output), "--shards", "2", "--overwrite"]) == 0
    assert sorted(stored(output)) == [
        "manifest.json",
        *(f"{split}-0000{shard}-of-00002" for split in ("train", "validation") for shard in (0, 1)),
    ]
    assert convert(source, output, "--overwrite") == 0
    assert stored(output) == found


def test_an_interrupted_conversion_continues_in_a_store(source, expected, store, monkeypatch, capsys):
    """It stops at the 6th image, in the third shard of train; one thread takes the shards in order."""
    output, made, whole = store / "records", [], contents(expected)
    make_example = examples.make_example

    def stop(**features):
        made.append(1)
        if len(made) > 5:
            raise KeyboardInterrupt
        return make_example(**features)

    with monkeypatch.context() as patch:
        patch.setattr(examples, "make_example", stop)
        assert convert(source, output, "--workers", "1") == 130
    left = stored(output)
    assert sorted(left) == ["train-00000-of-00005", "train-00001-of-00005"]  # no part of the third
    assert {name: whole[name] for name in left} == left
    with pytest.raises(UsageError, match=rf"no manifest.json in {output}: .* their conversion did not finish"):
        open_records(str(output), "train")
    assert main(["index", str(output)]) == 2
    assert "holds an unfinished conversion" in capsys.readouterr().err

    write_whole(output / "train-00001-of-00005", left["train-00001-of-00005"][:-1] + b"?")  # damaged since
    written = []
    with monkeypatch.context() as patch:
        patch.setattr(
            workers, "write_shard", lambda *given: written.append(given[-1].name) or shards.write_shard(*given)
        )
        assert convert(source, output) == 0
    assert sorted(written) == sorted(set(whole) - {"manifest.json", "train-00000-of-00005"})
    assert stored(output) == whole


def test_a_set_in_a_store_opens_and_damage_is_named(expected, store):
    output = upload(expected, store / "records")
    records = open_records(str(output), "validation")
    local = open_records(expected, "validation")
    assert (records.directory, records.shard_counts, records.digest) == (output, local.shard_counts, local.digest)
    assert records.shard_paths[0] == f"{output}/validation-00000-of-00005"
    shard = output / "train-00002-of-00005"
    content = shard.read_bytes()
    write_whole(shard, content[:-9])
    with pytest.raises(UsageError, match=rf"shard {shard} is cut off: it has {len(content) - 9:,} bytes, the manifest"):
        open_records(output, "train")
    shard.unlink()
    with pytest.raises(UsageError, match=rf"shard {shard} is missing"):
        open_records(output, "train")
    with pytest.raises(UsageError, match=rf"no folder {store}/none: write it with `tfvt records convert"):
        open_records(f"{store}/none", "train")


def test_inspect_and_verify_read_a_store(expected, store, tmp_path, capsys):
    output = upload(expected, store / "records")
    answers = []
    for place, folder in ((expected, tmp_path), (output, store)):
        capsys.readouterr()
        sheet, findings = folder / "sheet.png", folder / "findings.json"
        assert main(["inspect", str(place), "--contact-sheet", str(sheet), "-n", "5"]) == 0
        assert main(["verify", str(place), "--json", str(findings)]) == 0
        answers.append((capsys.readouterr().out, sheet.read_bytes(), findings.read_text()))
    assert answers[0] == answers[1]

    shard = output / "train-00001-of-00005"
    content = shard.read_bytes()
    write_whole(shard, content[:60] + bytes([content[60] ^ 1]) + content[61:])  # a bit of the first record
    write_whole(output / "test-00000-of-00001", content)
    (output / "validation-00000-of-00005").unlink()
    capsys.readouterr()
    assert main(["verify", str(output), "--json", str(tmp_path / "found.json")]) == 1
    problems = json.loads((tmp_path / "found.json").read_text())["problems"]
    found = {(problem["file"], problem["record"], problem["text"].split(":")[0]) for problem in problems}
    assert found == {
        ("train-00001-of-00005", None, "is not the file of the manifest"),
        ("train-00001-of-00005", 0, "damaged"),
        ("validation-00000-of-00005", None, "is missing"),
        ("test-00000-of-00001", None, "is not in the manifest"),
    }
    (output / "validation-00000-of-00005").upload(expected / "validation-00000-of-00005")
    capsys.readouterr()
    assert main(["inspect", str(output)]) == 2
    assert f"record 0 of {shard} is damaged or cut off" in capsys.readouterr().err


def test_foreign_shards_in_a_store_get_their_manifest(store, tmp_path, capsys):
    for split, numbers in (("train", range(10)), ("validation", range(4))):
        write_shards(tmp_path / "slim" / split, split, [serialize(slim_features(n, 1)) for n in numbers])
    output = upload(tmp_path / "slim", store / "slim")
    write_whole(store / "names.txt", "".join(f"{synset}\n" for synset, _ in CLASSES).encode())
    flags = ("--label-offset", "1", "--class-names", f"{store}/names.txt")
    capsys.readouterr()
    assert main(["index", str(output), *flags]) == 0, capsys.readouterr().err
    write_whole(tmp_path / "names.txt", (store / "names.txt").read_bytes())
    assert main(["index", str(tmp_path / "slim"), *flags[:3], str(tmp_path / "names.txt")]) == 0
    assert (output / "manifest.json").read_bytes() == (tmp_path / "slim" / "manifest.json").read_bytes()
    assert open_records(output, "train").num_examples == 10
    assert main(["index", str(output), *flags]) == 2
    assert f"{output} has a manifest.json already" in capsys.readouterr().err


def test_no_room_for_the_shard_that_waits_to_be_uploaded_is_told(source, store, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shards.RecordWriter, "write", full)
    assert convert(source, store / "records") == 2
    assert f"error: {tempfile.gettempdir()} is full (" in capsys.readouterr().err.splitlines()[-1]
    assert stored(store / "records") == {}


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "{}"),
        ("verify", "{}"),
        ("index", "{}"),
        ("convert", "SOURCE", "{}"),
        ("inspect", "RECORDS", "--contact-sheet", "{}/x.png"),
    ],
    ids=" ".join,
)
def test_an_unknown_store_is_one_line(source, expected, capsys, arguments):
    places = {"SOURCE": source, "RECORDS": expected}
    with contextlib.suppress(SystemExit):  # of argparse, after the lines of usage
        assert main([str(places.get(part, part)).format("s3://bucket/records") for part in arguments]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"tfvt records {arguments[0]}: error: ")
    assert line.endswith("TensorFlow has no file system for s3:// (it has gs://, ram://)")


@pytest.mark.parametrize("arguments", [("inspect", "{}"), ("convert", "SOURCE", "{}"), ("convert", "{}", "records")])
def test_an_address_that_has_lost_a_slash_is_refused(source, tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    places = {"SOURCE": source}
    assert main([str(places.get(part, part)).format("gs:/bucket/records") for part in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"tfvt records {arguments[0]}: error: gs:/bucket/records: an address begins with gs://" in line
    assert list(tmp_path.iterdir()) == []


def test_images_in_a_store_are_refused(store, tmp_path, capsys):
    assert main(["convert", f"{store}/images", str(tmp_path / "records")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{store}/images is in an object store, and a conversion reads images from this machine's disks" in line
    assert not (tmp_path / "records").exists()
