"""Where in a tar the bytes of each member are: tars are read in place, never unpacked."""

import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tfvt.data.records import counted
from tfvt.errors import UsageError
from tfvt.files import printable

HINT = "download or copy it again, and compare its checksum with the published one"


@dataclass(frozen=True)
class Member:
    """A file in a tar: its name, and its place in the outermost file, in bytes."""

    name: str
    offset: int
    size: int

    @property
    def basename(self) -> str:
        return os.path.basename(self.name)


class TarIndex:
    """The members of an uncompressed tar, and of tars that are members of it.

    Raises:
        UsageError: the tar is missing, compressed, cut off or damaged, or two members have the same name.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = path
        self.left_out = []  # names of links, devices, hidden files and files with holes
        try:
            self._file = open(path, "rb")  # noqa: SIM115 - closed by `__exit__`
        except OSError as error:
            raise UsageError(f"{printable(path)} cannot be read: {error.strerror}") from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def members(self, inside: Member | None = None) -> list[Member]:
        """The files of the tar, or of the tar that `inside` is, in their order."""
        begin = inside.offset if inside else 0
        span = _Span(self._file, begin, inside.size if inside else os.fstat(self._file.fileno()).st_size)
        name = printable(f"{self.path}:{inside.name}" if inside else self.path)
        found = {}
        try:
            with tarfile.open(fileobj=span, mode="r:") as tar:
                for info in tar:
                    if info.isdir():
                        continue
                    if not info.isreg() or info.issparse() or os.path.basename(info.name).startswith("."):
                        self.left_out.append(printable(f"{os.path.basename(self.path)}:{info.name}"))
                        continue
                    if info.name in found:
                        raise UsageError(
                            f"{name} holds {printable(info.name)} twice, and it is unclear which one is right; {HINT}"
                        )
                    found[info.name] = Member(info.name, begin + info.offset_data, info.size)
                end = tar.offset
        except tarfile.ReadError as error:
            span.seek(0)
            if span.read(2) == b"\x1f\x8b":
                raise UsageError(f"{name} is compressed: images are read in place, so gunzip it first") from None
            raise UsageError(f"{name} is cut off or not a tar ({error}): {HINT}") from error
        # The index also ends, without an error, where a header is damaged, or where the file ends between members.
        span.seek(end)
        if span.read(tarfile.BLOCKSIZE) != b"\0" * tarfile.BLOCKSIZE:
            raise UsageError(
                f"{name} is cut off or damaged at byte {end:,}, after {counted(len(found), 'file')}: {HINT}"
            )
        return list(found.values())


class _Span:
    """A part of a file as a file."""

    def __init__(self, file, begin, size):
        self._file, self._begin, self._size, self._position = file, begin, size, 0

    def seek(self, position):
        self._position = position

    def tell(self):
        return self._position

    def read(self, count):
        self._file.seek(self._begin + self._position)
        data = self._file.read(max(0, min(count, self._size - self._position)))
        self._position += len(data)
        return data
