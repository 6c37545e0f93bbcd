"""One shard of a conversion: written under a temporary name, and named when it is whole and on the disk."""

import dataclasses
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from tfvt.data.offsets import masked_crc32c
from tfvt.data.records import Shard
from tfvt.files import named_later, temporary_name, write_whole
from tfvt.stores import AnyPath, as_path

from .examples import Reject, shard_examples
from .sources import RecordSettings, SourceImage

PARTIAL = ".partial"  # below the output: what an unfinished conversion leaves for the next run


@dataclass(frozen=True)
class ShardPlan:
    """A shard's file name and split, and the images that go into it, in order."""

    name: str
    split: str
    images: tuple[SourceImage, ...]


@dataclass(frozen=True)
class Finished:
    """A written shard, and the images that gave no record."""

    shard: Shard
    rejects: tuple[Reject, ...]


class RecordWriter:
    """Writes records in TFRecord's framing: length, its checksum, the record, its checksum.

    It writes the same bytes as `tf.io.TFRecordWriter`, and computes the CRC-32 of the whole file on the way. To read
    the file again for it would take an eighth of a conversion's time. Failures are `OSError`s with their number.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.crc32 = 0

    def write(self, record: bytes) -> None:
        length = struct.pack("<Q", len(record))
        for part in (length + masked_crc32c(length), record, masked_crc32c(record)):
            self.file.write(part)
            self.crc32 = zlib.crc32(part, self.crc32)


def crc32(path: AnyPath | str) -> int:
    """CRC-32 (zlib's) of the whole file."""
    checksum = 0
    with as_path(path).open("rb") as file:
        while chunk := file.read(2**20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def write_shard(
    settings: RecordSettings, output: AnyPath | str, label_offset: int, advance: Callable[[], None], planned: ShardPlan
) -> Finished:
    """Write a shard, and beside it in `.partial` a report for the run that ends or resumes the conversion.

    Any number of processes may write one shard at the same time, as Beam's runners do: each has a temporary file of
    its own, and renames the same bytes.

    Args:
        settings: of the source.
        output: folder of the conversion, with its `.partial`.
        label_offset: stored label of the first class.
        advance: called after every image; what it raises ends the writing.
        planned: the shard.

    Raises:
        OSError: the shard cannot be written; nothing of it stays.
    """
    output = as_path(output)
    rejects, records = [], 0
    with named_later(output / planned.name, output / PARTIAL / temporary_name(planned.name)) as temporary:
        with open(temporary, "wb", buffering=2**20) as file:
            writer = RecordWriter(file)
            for example in shard_examples(settings, planned.images, label_offset):
                if isinstance(example, Reject):
                    rejects.append(example)
                else:
                    writer.write(example)
                    records += 1
                advance()
            shard = Shard(name=planned.name, records=records, bytes=file.tell(), crc32=writer.crc32)
        finished = Finished(shard=shard, rejects=tuple(rejects))
        write_whole(_report(output, planned), json.dumps(dataclasses.asdict(finished)).encode())
    return finished


def read_finished(output: AnyPath, planned: ShardPlan, *, checksum: bool = True) -> Finished | None:
    """What `write_shard` wrote, if it exists and is whole: checks its size and, if asked, its checksum."""
    report, path = _report(output, planned), output / planned.name
    if not (report.exists() and path.exists()):
        return None
    try:
        content = json.loads(report.read_text(encoding="utf-8"))
        shard = Shard(**content["shard"])
        rejects = tuple(Reject(**reject) for reject in content["rejects"])
    except (ValueError, KeyError, TypeError):  # damaged since: the shard is written again
        return None
    if path.stat().st_size != shard.bytes or (checksum and crc32(path) != shard.crc32):
        return None
    return Finished(shard=shard, rejects=rejects)


def _report(output, planned):
    return output / PARTIAL / f"{planned.name}.json"
