"""Paths of object stores behave as pathlib's do, and their errors are Python's."""

import contextlib
import errno
import os
import pickle
import tempfile
from pathlib import Path, PurePosixPath

import pytest

from tfvt.errors import UsageError, WriteError
from tfvt.files import is_temporary, local_file, printable, remove, whole_file, write_whole
from tfvt.stores import StorePath, as_path


@pytest.mark.parametrize(
    "text", ["runs/x", "/data/gs:/x", "C:\\x", "C://x", "aa:/x", "a-b://x", "tfds:mnist", "", "./a://b"]
)
def test_local_paths_stay_pathlibs(text):
    assert as_path(text) == Path(text)
    assert isinstance(as_path(Path(text)), Path)


@pytest.mark.parametrize("path", ["gs:/bucket/x", "gs:/", "ram:/x", "file:/tmp/x", Path("gs://bucket/x")], ids=str)
def test_an_address_that_has_lost_a_slash_is_refused(path):
    scheme = str(path).partition(":")[0]
    with pytest.raises(UsageError, match=rf"^{path}: an address begins with {scheme}://, and a local folder"):
        as_path(path)


def test_addresses_of_local_files_are_local():
    assert as_path("file:///tmp/x") == Path("/tmp/x")


def test_names_and_folders_are_parts_of_the_address():
    path = as_path("gs://bucket/runs//new run/final.keras/")
    assert (str(path), os.fspath(path), printable(path)) == ("gs://bucket/runs//new run/final.keras",) * 3
    assert (path.name, path.suffix, str(path.parent)) == ("final.keras", ".keras", "gs://bucket/runs//new run")
    assert path.with_name("lock") == as_path("gs://bucket/runs//new run/lock")
    assert as_path("gs://bucket").parent == as_path("gs://bucket") == as_path("gs://bucket/")
    assert str(as_path("hdfs:///data") / "x") == "hdfs:///data/x"
    assert str(as_path("ram://") / "x") == "ram://x"
    assert (path.absolute(), path.resolve(), pickle.loads(pickle.dumps(path))) == (path, path, path)
    assert sorted([path / "b", path / "a"]) == [path / "a", path / "b"]
    assert path.relative_to(as_path("gs://bucket/runs")) == PurePosixPath("new run/final.keras")
    assert path.is_relative_to(path)
    assert path.is_relative_to(as_path("gs://bucket"))
    assert not path.is_relative_to(as_path("gs://buck"))
    assert not path.is_relative_to(Path("gs://bucket"))
    assert not Path("/gs:/bucket/x").is_relative_to(as_path("gs://bucket"))


def test_a_store_answers_as_a_disk_does(store, tmp_path):
    store, tmp_path = store / "[1]*", tmp_path / "[1]*"  # no pattern
    for folder in (store, tmp_path):
        (folder / "a" / "b").mkdir(parents=True, exist_ok=True)
        write_whole(folder / "a" / "x-1.txt", b"\xc3\xa4\n\r\n")
        write_whole(folder / "a" / "x-1.txt", b"\xc3\xb6\n")  # shorter: nothing of the old one stays
        write_whole(folder / "a" / "b" / "x-2.txt", bytes(range(256)))
        write_whole(folder / "a" / "table.csv", b"epoch\r\n1\r\n")

    def seen(folder):
        file, below = folder / "a" / "x-1.txt", folder / "a" / "b" / "x-2.txt"
        with below.open("rb") as opened:
            opened.seek(250)
            part = (opened.read(3), opened.read(9), opened.read(1))
        with (folder / "a" / "table.csv").open(newline="", encoding="utf-8") as opened:
            lines = list(opened)
        kinds = [
            (path.exists(), path.is_file(), path.is_dir(), path.is_symlink())
            for path in (file, file.parent, folder / "none", file / "none")
        ]
        lists = [file.parent.iterdir(), folder.glob("a/x-?.txt"), folder.glob("*/*/x*"), folder.rglob("x*")]
        lists += [file.glob("*"), (folder / "none").glob("*")]
        names = [sorted(path.relative_to(folder).as_posix() for path in found) for found in lists]
        return file.read_bytes(), file.read_text(encoding="utf-8"), below.stat().st_size, part, lines, kinds, names

    assert seen(store) == seen(tmp_path)
    for folder in (store, tmp_path):
        with pytest.raises(OSError):
            (folder / "a").rmdir()
        with pytest.raises(FileNotFoundError) as error:
            (folder / "none").unlink()
        assert (error.value.errno, error.value.filename) == (errno.ENOENT, str(folder / "none"))
        assert error.value.strerror == os.strerror(errno.ENOENT)
        (folder / "none").unlink(missing_ok=True)
        with pytest.raises(FileNotFoundError):
            (folder / "none").read_bytes()
        remove(folder / "a" / "b" / "x-2.txt")
        (folder / "a" / "b").rmdir()
        assert sorted(path.name for path in (folder / "a").iterdir()) == ["table.csv", "x-1.txt"]
        remove(folder / "a")
        assert not (folder / "a").exists()


def test_a_file_appears_when_it_is_whole_and_the_old_one_stays_where_writing_fails(store, monkeypatch):
    path = store / "final.keras"
    with whole_file(path, ".keras") as written:
        written.write_bytes(b"first")
        assert written.suffix == ".keras"
        assert is_temporary(written, ["final.keras"])
        assert not path.exists()
        assert list(store.iterdir()) == []
    assert not written.exists()
    with contextlib.suppress(ZeroDivisionError), whole_file(path) as written:
        written.write_bytes(b"second")
        raise ZeroDivisionError
    assert path.read_bytes() == b"first"

    import tensorflow as tf

    def refuse(*_, **__):
        raise tf.errors.PermissionDeniedError(None, None, "no storage.objects.create\naccess")

    monkeypatch.setattr(tf.io.gfile, "copy", refuse)
    monkeypatch.setattr(tf.io.gfile, "remove", lambda path: None)
    with pytest.raises(WriteError) as error:
        write_whole(path, b"third")
    assert (error.value.errno, error.value.filename) == (errno.EACCES, str(path))
    assert error.value.strerror == "no storage.objects.create access"
    assert path.read_bytes() == b"first"


def test_a_full_disk_of_this_machine_is_not_that_of_the_store(store, monkeypatch):
    import tensorflow as tf

    write_whole(store / "old", b"old")
    full = os.strerror(errno.ENOSPC)
    internal = tf.errors.InternalError(None, None, "Could not append to the internal temporary file.")
    on_the_way = tf.errors.ResourceExhaustedError(None, None, f"/tmp/tfvt-1/x; {full}")

    def refuse(error):
        def copy(*_, **__):
            raise error

        monkeypatch.setattr(tf.io.gfile, "copy", copy)

    def write(error):
        with whole_file(store / "x"):
            raise error

    def upload():
        refuse(internal)
        write_whole(store / "x", b"new")

    def download():
        refuse(on_the_way)
        with local_file(store / "old"):
            pass

    attempts = {
        lambda: write(OSError(errno.ENOSPC, full)): "x",
        lambda: write(OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), f"{tempfile.gettempdir()}/x")): "x",
        lambda: write(ValueError(f"Error while serializing: I/O error: {full} (os error 28)")): "x",
        upload: "x",
        download: "old",
    }
    for attempt, name in attempts.items():
        with pytest.raises(OSError, match=f"{tempfile.gettempdir()} of this machine is full, through which") as error:
            attempt()
        assert (error.value.errno, error.value.filename) == (errno.ENOSPC, f"{store}/{name}")
        assert isinstance(error.value, WriteError) == (name == "x")
    with pytest.raises(ValueError, match=r"^other$"):
        write(ValueError("other"))


def test_libraries_that_read_disks_get_a_copy_of_that_name(store, tmp_path):
    for folder in (store, tmp_path):
        write_whole(folder / "weights.npz", b"content")
        with local_file(folder / "weights.npz") as path:
            assert (path.name, path.read_bytes()) == ("weights.npz", b"content")
        assert path.exists() == (folder is tmp_path)  # the copy goes, the file itself does not
    with pytest.raises(FileNotFoundError, match=f"{store}/none"), local_file(store / "none"):
        pass


def test_an_unknown_store_is_named():
    uses = (StorePath.exists, StorePath.is_dir, StorePath.read_bytes, StorePath.mkdir, StorePath.unlink)
    for use in (*uses, lambda path: list(path.iterdir()), lambda path: write_whole(path, b"x")):
        with pytest.raises(OSError, match=r"TensorFlow has no file system for s3:// \(it has gs://, ram://\)") as error:
            use(as_path("s3://bucket/x"))
        assert (error.value.errno, error.value.filename) == (errno.ENOTSUP, "s3://bucket/x")
