"""Files that exist whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from tfvt.errors import WriteError, complain
from tfvt.files import write_whole


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
def test_an_error_names_the_file_and_not_its_temporary_one(tmp_path, monkeypatch, capsys, number):
    def refuse(path, *_, **__):
        raise OSError(number, os.strerror(number), *([str(path)] if number == errno.EROFS else []))

    (tmp_path / "x").write_bytes(b"old")
    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)  # as a read-only disk refuses it, even where no such file is
    with pytest.raises(WriteError) as error:
        write_whole(tmp_path / "x", b"new")
    assert (error.value.errno, error.value.filename) == (number, str(tmp_path / "x"))
    assert (tmp_path / "x").read_bytes() == b"old"
    complain("train", error.value)
    complain("train", OSError(number, os.strerror(number), f"{tmp_path}/y"))
    words = [f"cannot write {tmp_path}/x", f"{tmp_path}/y"]  # the second may have been read
    assert capsys.readouterr().err == "".join(f"tfvt train: error: {w}: {os.strerror(number)}\n" for w in words)
