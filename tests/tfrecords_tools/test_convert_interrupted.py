"""Conversions that are killed, that meet, and that find no room: no broken shard, no trace, and words that help."""

import errno
import fcntl
import hashlib
import json
import os
import random
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from image_files import contents, write_folder

from tfvt.errors import UsageError
from tfvt.tfrecords_tools import convert as convert_module
from tfvt.tfrecords_tools import shards, workers
from tfvt.tfrecords_tools.convert import convert


def convert_and_die(*arguments):
    """Run interrupted.py with these arguments; whether it died as it should, before it was done."""
    command = [sys.executable, Path(__file__).with_name("interrupted.py"), *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
    return ended.returncode != 0


def ends(pid, seconds=60):
    """Whether a process, not necessarily a child, ends in time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    with os.fdopen(descriptor):
        return bool(select.select([descriptor], [], [], seconds)[0])


def hashes(folder):
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents(folder).items()}


def assert_whole(output, expected):
    """What has a shard's name is a whole shard."""
    found = hashes(output)
    assert {name: expected[name] for name in found} == found


@pytest.fixture
def source(tmp_path):
    return write_folder(tmp_path / "images", counts=(20, 10))  # 30 images in train, 30 in validation


@pytest.fixture
def expected(source, tmp_path):
    convert(source, tmp_path / "expected", shards=5)
    return hashes(tmp_path / "expected")


def test_killed_conversion_goes_on_where_it_was(source, expected, tmp_path, monkeypatch):
    """One thread takes the shards in order, so it is known what is there: shards of 6, killed at the 33rd image."""
    output = tmp_path / "records"
    assert convert_and_die(source, output, 5, 1, 33)
    assert_whole(output, expected)
    assert sorted(contents(output)) == [f"train-0000{shard}-of-00005" for shard in range(5)]

    (output / "train-00001-of-00005").write_bytes(b"damaged since")
    (output / ".partial" / "train-00003-of-00005.json").write_text('{"shard"')
    rewritten = []
    monkeypatch.setattr(
        workers,
        "write_shard",
        lambda *arguments: rewritten.append(arguments[-1].name) or shards.write_shard(*arguments),
    )
    convert(source, output, shards=5)
    assert hashes(output) == expected
    assert not (output / ".partial").exists()
    assert sorted(rewritten) == [
        "train-00001-of-00005",
        "train-00003-of-00005",
        *(f"validation-0000{shard}-of-00005" for shard in range(5)),
    ]


def test_killed_overwrite_continues_where_it_was(source, expected, tmp_path, monkeypatch):
    output = tmp_path / "records"
    convert(write_folder(tmp_path / "other", counts=(3, 2)), output)
    assert convert_and_die(source, output, 5, 1, 33, "--overwrite")
    assert_whole(output, expected)
    rewritten = []
    monkeypatch.setattr(
        workers,
        "write_shard",
        lambda *arguments: rewritten.append(arguments[-1].name) or shards.write_shard(*arguments),
    )
    convert(source, output, shards=5, overwrite=True)
    assert hashes(output) == expected
    assert not (output / ".partial").exists()
    assert sorted(rewritten) == [f"validation-0000{shard}-of-00005" for shard in range(5)]
    rewritten.clear()
    convert(source, output, shards=5, overwrite=True)
    assert len(rewritten) == 10, "what is complete is replaced"


def test_overwrite_begins_anew_what_was_not_begun_with_it_and_what_ended_with_rejects(source, tmp_path):
    """A file that is repaired and keeps its size does not show in what is known of the source."""
    path, output = source / "train" / "class0" / "3.jpg", tmp_path / "records"
    good = path.read_bytes()
    convert(source, tmp_path / "expected", shards=5)
    for overwrite in (False, True, True):
        path.write_bytes(bytes(len(good)))
        with pytest.raises(UsageError, match="1 image cannot be converted, and 0 are allowed"):
            convert(source, output, shards=5, overwrite=overwrite)
    path.write_bytes(good)
    convert(source, output, shards=5, overwrite=True)
    assert contents(output) == contents(tmp_path / "expected")


class Killed(BaseException):
    """A process that is gone."""


@pytest.fixture
def kill_at(monkeypatch):
    """`kill_at(n)` makes the n-th change of a folder, and all that follow it, `Killed` in their place; None: none."""
    state = {"left": None}

    def patched(name):
        change = getattr(Path, name)

        def change_or_die(*arguments, **options):
            if state["left"] is not None:
                state["left"] -= 1
                if state["left"] < 1:
                    raise Killed
            return change(*arguments, **options)

        return change_or_die

    for name in ("mkdir", "rename", "replace", "unlink", "rmdir"):
        monkeypatch.setattr(Path, name, patched(name))
    return lambda number: state.update(left=number)


@pytest.mark.parametrize("before", ["complete", "unfinished"])
def test_killed_before_any_change_of_the_folder_a_conversion_continues(tmp_path, kill_at, before):
    """Begun with --overwrite over whatever there is, killed before each change in turn, and run again."""
    source = write_folder(tmp_path / "images", counts=(2, 1), splits=("train",))
    (source / "train" / "class0" / ".hidden").write_text("goes to left_out.json")
    convert(source, tmp_path / "expected", shards=2)
    other = write_folder(tmp_path / "other", counts=(1, 1), splits=("train",))
    (other / "more").mkdir()
    for number in range(1, 100):
        output = tmp_path / f"records{number}"
        convert(other, output, shards=2)
        if before == "unfinished":
            (output / "manifest.json").unlink()
            (output / ".partial").mkdir()
            (output / ".partial" / "source_sha256").write_text("of another")
        kill_at(number)
        try:
            convert(source, output, shards=2, workers=1, overwrite=True)
            break
        except Killed:
            pass
        kill_at(None)
        convert(source, output, shards=2, workers=1, overwrite=True)
        assert contents(output) == contents(tmp_path / "expected"), number
        assert not (output / ".partial").exists(), number
    assert 15 < number < 99


@pytest.mark.slow
def test_overwrite_killed_again_and_again_leaves_no_trace(source, expected, tmp_path):
    output, random_numbers = tmp_path / "records", random.Random(1)
    convert(write_folder(tmp_path / "other", counts=(3, 2)), output)
    for _ in range(3):
        threads, images = random_numbers.choice((1, 2, 5)), random_numbers.randint(5, 20)
        assert convert_and_die(source, output, 5, threads, images, "--overwrite")
        assert_whole(output, expected)
    convert(source, output, shards=5, workers=3, overwrite=True)
    assert hashes(output) == expected
    assert sorted(path.name for path in output.iterdir()) == sorted(expected), "no temporary file is left"


@pytest.mark.slow
def test_conversion_killed_again_and_again_leaves_no_trace(source, expected, tmp_path):
    output, random_numbers = tmp_path / "records", random.Random(0)
    for _ in range(3):
        threads, images = random_numbers.choice((1, 2, 5)), random_numbers.randint(5, 25)
        assert convert_and_die(source, output, 5, threads, images)
        assert_whole(output, expected)
    convert(source, output, shards=5, workers=3)
    assert hashes(output) == expected
    assert sorted(path.name for path in output.iterdir()) == sorted(expected), "no temporary file is left"


@pytest.mark.slow
def test_worker_processes_end_with_their_killed_parent(source, expected, tmp_path):
    output, pids = tmp_path / "records", tmp_path / "pids"
    assert convert_and_die(source, output, 5, 2, 10, pids)
    found = [int(pid) for pid in pids.read_text().split()]
    assert len(found) == 2
    assert all(ends(pid) for pid in found)
    assert_whole(output, expected)
    convert(source, output, shards=5)
    assert hashes(output) == expected


def test_what_a_run_killed_behind_its_manifest_leaves_is_removed(source, expected, tmp_path, monkeypatch):
    output = tmp_path / "records"
    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "clear_partial", lambda _: None)
        convert(source, output, shards=5)
    assert (output / ".partial").exists()
    convert(source, output, shards=5)
    assert not (output / ".partial").exists()
    assert hashes(output) == expected


def test_processes_write_the_same_bytes(source, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "IMAGES_WORTH_PROCESSES", 0)
    (source / "train" / "class0" / "3.jpg").write_text("no image")
    with pytest.raises(UsageError, match="1 image cannot be converted, and 0 are allowed"):
        convert(source, tmp_path / "records", shards=5, workers=2)
    convert(source, tmp_path / "records", shards=5, workers=2, max_rejects=1)
    convert(source, tmp_path / "threads", shards=5, workers=1, max_rejects=1)
    assert contents(tmp_path / "records") == contents(tmp_path / "threads")


def test_two_conversions_into_one_folder_are_refused(source, expected, tmp_path):
    output = tmp_path / "records"
    (output / ".partial").mkdir(parents=True)
    with open(output / ".partial" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for overwrite in (False, True):
            with pytest.raises(UsageError, match=r"another conversion is writing into .*records: wait until it"):
                convert(source, output, shards=5, overwrite=overwrite)
    assert contents(output) == {}
    convert(source, output, shards=5)
    assert hashes(output) == expected


def test_conversion_that_ended_since_the_first_look_is_not_overwritten(source, expected, tmp_path, monkeypatch):
    """It began and ended between the look into the folder and the lock."""
    output, other = tmp_path / "records", write_folder(tmp_path / "other", counts=(3, 2))
    writer = convert_module._writer

    def convert_other(*arguments):
        monkeypatch.setattr(convert_module, "_writer", writer)
        convert(other, output)
        return writer(*arguments)

    monkeypatch.setattr(convert_module, "_writer", convert_other)
    with pytest.raises(UsageError, match=r"records holds another conversion .*--overwrite"):
        convert(source, output, shards=5)
    convert(other, tmp_path / "fresh")
    assert contents(output) == contents(tmp_path / "fresh")
    assert not (output / ".partial").exists()


def test_lock_of_a_conversion_that_has_just_ended_is_none(source, expected, tmp_path, monkeypatch):
    """It removes its lock between another's opening and locking of it: a third would lock a new file."""
    output, flock, locked = tmp_path / "records", fcntl.flock, []

    def end_then_lock(file, operation):
        if not locked:
            (output / ".partial" / "lock").unlink()
            (output / ".partial").rmdir()
        flock(file, operation)
        locked.append(os.path.exists(output / ".partial" / "lock"))

    monkeypatch.setattr(fcntl, "flock", end_then_lock)
    convert(source, output, shards=5)
    assert locked == [False, True]
    assert hashes(output) == expected


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["left_out.json", "rejects.json", "manifest.json", ".partial/thesis.tex"])
def test_files_that_no_conversion_wrote_are_not_touched(source, expected, tmp_path, name, overwrite):
    output = tmp_path / "records"
    (output / name).parent.mkdir(parents=True)
    (output / name).write_text("precious")
    with pytest.raises(UsageError, match=rf"no conversion wrote .*records/{name}, and this one would delete it: mov"):
        convert(source, output, shards=5, overwrite=overwrite)
    assert [path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()] == [name]
    assert (output / name).read_text() == "precious"


def test_temporary_files_of_others_are_not_touched(source, expected, tmp_path):
    output = tmp_path / "records"
    output.mkdir()
    (output / ".thesis.new").write_text("precious")
    (output / f".thesis.{0:032x}.new").write_text("precious")
    (output / f".manifest.json.{0:032x}.new").write_text("of a killed run")
    convert(source, output, shards=5)
    assert {name for name in contents(output) if name.startswith(".")} == {".thesis.new", f".thesis.{0:032x}.new"}


def test_files_have_the_permissions_that_the_umask_leaves(source, tmp_path):
    (source / "train" / "class0" / "0.jpg").write_text("no image")
    (source / "train" / "class0" / ".hidden").write_text("")
    umask = os.umask(0o027)
    try:
        convert(source, tmp_path / "records", shards=5, max_rejects=1)
    finally:
        os.umask(umask)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "records").iterdir()}
    assert modes.keys() >= {"manifest.json", "rejects.json", "left_out.json", "train-00004-of-00005"}
    assert set(modes.values()) == {0o640}


def test_folder_that_cannot_be_locked_is_noted(source, expected, tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    convert(source, tmp_path / "records", shards=5)
    assert "cannot be locked (No locks available): make sure that no other" in capsys.readouterr().err
    assert hashes(tmp_path / "records") == expected


@pytest.mark.parametrize("number", [1, 3])
def test_full_disk_leaves_no_broken_shard(source, expected, tmp_path, monkeypatch, number):
    """/dev/full takes no byte: the error is the kernel's own."""
    output, names = tmp_path / "records", []

    def temporary_name(name):
        names.append(shards_name := f".{name}.{len(names)}.new")
        if len(names) == number:
            (output / ".partial" / shards_name).symlink_to("/dev/full")
        return shards_name

    monkeypatch.setattr(shards, "temporary_name", temporary_name)
    with pytest.raises(UsageError, match=r"records is full \([\d,]+ MiB free\): make room and run the same command"):
        convert(source, output, shards=5, workers=1)
    assert_whole(output, expected)
    found = contents(output)  # the thread may take further shards before it is stopped
    assert f"train-0000{number - 1}-of-00005" not in found
    assert {f"train-0000{shard}-of-00005" for shard in range(number - 1)} <= set(found)
    assert not list((output / ".partial").glob(".*")), "what was begun gives its space back"
    convert(source, output, shards=5)
    assert hashes(output) == expected


def test_full_disk_is_named_at_the_manifest_too(source, expected, tmp_path, monkeypatch):
    write_whole = convert_module.write_whole

    def write(path, content):
        if Path(path).name == "manifest.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_whole(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "write_whole", write)
        with pytest.raises(UsageError, match="records is full"):
            convert(source, tmp_path / "records", shards=5)
    convert(source, tmp_path / "records", shards=5)
    assert hashes(tmp_path / "records") == expected


def test_what_cannot_fit_is_refused_before_the_first_byte(source, expected, tmp_path, monkeypatch):
    output = tmp_path / "records"
    convert(source, output, shards=5)
    size = sum(path.stat().st_size for path in source.rglob("*.jpg"))
    usage = convert_module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(convert_module.shutil, "disk_usage", lambda _: usage._replace(free=size - 1))
    with pytest.raises(UsageError, match=r"other has 0 MiB free, and 10 shards to be written take about 0 MiB"):
        convert(source, tmp_path / "other", shards=5)
    assert contents(tmp_path / "other") == {}
    before = contents(output)
    monkeypatch.setattr(convert_module.shutil, "disk_usage", lambda _: usage._replace(free=0))
    write_folder(tmp_path / "more", counts=(60, 20))
    with pytest.raises(UsageError, match="MiB free"):
        convert(tmp_path / "more", output, shards=5, overwrite=True)
    assert contents(output) == before, "what was to be replaced is still there"
    convert(source, output, shards=4, overwrite=True)  # fits in the place of the old shards
    assert "train-00000-of-00004" in contents(output)


def test_other_errors_of_writing_name_the_file(source, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "temporary_name", lambda name: f"nowhere/{name}")
    with pytest.raises(FileNotFoundError, match=r"records/.partial/nowhere/train-0000\d-of-00005"):
        convert(source, tmp_path / "records", shards=5)
    assert not list((tmp_path / "records").glob("train*"))


def test_rejects_of_an_earlier_run_are_listed_too(source, tmp_path, monkeypatch):
    (source / "train" / "class0" / "0.jpg").write_text("no image")
    for _ in range(2):
        with pytest.raises(UsageError, match=r"(?s)1 image cannot be converted.*class0/0.jpg: neither JPEG nor PNG"):
            convert(source, tmp_path / "records", shards=5)
        (reject,) = json.loads((tmp_path / "records" / "rejects.json").read_text())
        assert Path(reject["file"]) == source / "train" / "class0" / "0.jpg"
        monkeypatch.setattr(workers, "write_shard", lambda *_: pytest.fail("every shard is there"))
