"""Large JSON files, a piece at a time: COCO's annotations take 450 MB, and ten times that as Python's objects."""

import codecs
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tfvt.errors import UsageError
from tfvt.files import printable

CHUNK = 2**20  # bytes read at a time
LARGEST = 2**26  # bytes of one element: a damaged file must not be searched to its end for a missing bracket
_SPACE = re.compile(r"[ \t\n\r]*")


class Element(NamedTuple):
    """One value of the file's object, or one element of a list in it.

    Attributes:
        key: of the object.
        value: parsed, but with the bytes of its texts as characters of Latin-1; None where a list begins.
        offset: where it begins in the file, in bytes.
        source: its bytes, as characters of Latin-1; empty where a list begins.
    """

    key: str
    value: Any
    offset: int
    source: str


class JsonStream:
    """A JSON file that is one object. Iterate over it once; then `sha256` is the hash of the file."""

    def __init__(self, path: Path | str) -> None:
        self.path = path
        self.hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self.hash.hexdigest()

    def __iter__(self) -> Iterator[Element]:
        """The elements of the object's lists, one by one, after an element with None for each list; its other values.

        Raises:
            UsageError: the file cannot be read, or is not JSON, or no object; the message names the byte.
        """
        try:
            with open(self.path, "rb") as file:
                self._file, self._ended = file, False
                self._text, self._base, self._at = "", 0, 0  # of the file from byte `_base`; the next character
                self._read()
                self._at = 3 if self._text.startswith(codecs.BOM_UTF8.decode("latin-1")) else 0
                yield from self._members()
        except OSError as error:
            raise UsageError(f"{printable(self.path)} cannot be read: {error.strerror}") from error

    def _members(self):
        self._expect("{")
        if self._next() == "}":
            self._at += 1
        else:
            more = True
            while more:
                key = self._value().value
                if not isinstance(key, str):
                    self._fail("a key that is no text")
                self._expect(":")
                if self._next() == "[":
                    yield Element(key, None, self._base + self._at, "")
                    yield from self._list(key)
                else:
                    yield self._value()._replace(key=key)
                more = self._expect(",}") == ","
        if self._next():
            self._fail("more after the end")

    def _list(self, key):
        self._expect("[")
        if self._next() == "]":
            self._at += 1
            return
        more = True
        while more:
            yield self._value()._replace(key=key)
            more = self._expect(",]") == ","

    def _value(self) -> Element:
        """The value that begins here. One at the end of what has been read is parsed again with more."""
        self._next()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
                if end < len(self._text) or not self._read():
                    break
            except RecursionError:
                self._fail("values in values, too deep")
            except ValueError as error:
                place = self._base + getattr(error, "pos", self._at)
                if len(self._text) - self._at > LARGEST or not self._read():
                    self._fail(getattr(error, "msg", str(error)), place)
        element = Element("", value, self._base + self._at, self._text[self._at : end])
        self._at = end
        return element

    def _next(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read():
                return ""

    def _expect(self, characters):
        found = self._next()
        if not found or found not in characters:
            self._fail(f"expected {' or '.join(characters)}")
        self._at += 1
        return found

    def _read(self) -> bool:
        """Reads as much again as is waiting, so that a long element takes few attempts; False at the end."""
        data = self._file.read(max(CHUNK, len(self._text) - self._at))
        self.hash.update(data)
        self._text = self._text[self._at :] + data.decode("latin-1")
        self._base, self._at = self._base + self._at, 0
        return bool(data)

    def _fail(self, problem, place=None):
        place = self._base + self._at if place is None else place
        raise UsageError(f"{printable(self.path)} is damaged, or not JSON of COCO's form: {problem}, at byte {place:,}")


_DECODER = json.JSONDecoder()
