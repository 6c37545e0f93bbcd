"""Files that exist whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from tfvt.files import write_whole


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
def test_an_error_names_the_file_and_not_its_temporary_one(tmp_path, monkeypatch, number):
    def refuse(path, *_, **__):
        raise OSError(number, os.strerror(number), *([str(path)] if number == errno.EROFS else []))

    (tmp_path / "x").write_bytes(b"old")
    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)  # as a read-only disk refuses it, even where no such file is
    with pytest.raises(OSError) as error:
        write_whole(tmp_path / "x", b"new")
    assert (error.value.errno, error.value.filename) == (number, str(tmp_path / "x"))
    assert (tmp_path / "x").read_bytes() == b"old"
