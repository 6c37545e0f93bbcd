"""Where records begin in their shards, so that a host that needs few of them reads only these."""

import functools
import os
import struct
from concurrent.futures import ThreadPoolExecutor

import google_crc32c
import numpy as np

from tfvt.data.records import RecordSet

LENGTH, CHECKSUM = struct.Struct("<Q"), struct.Struct("<I")  # a record: length, checksum of that, data, checksum
HEADER_BYTES = LENGTH.size + CHECKSUM.size
THREADS = 16  # each waits for a disk or a server


@functools.lru_cache(maxsize=4)
def record_offsets(records: RecordSet) -> np.ndarray | None:
    """The byte at which each record begins in its shard, int64 (records,); None where the shards are in a store.

    TFRecord files have no index, so this reads 12 bytes of each record: its length, which leads to the next one. In a
    store that would be a request each. Records behind a damaged length get a place where no record can be read.
    """
    if any("://" in path for path in records.shard_paths):
        return None
    with ThreadPoolExecutor(THREADS) as threads:
        return np.concatenate([*threads.map(_offsets, records.shard_paths, records.shard_counts)], dtype=np.int64)


def _offsets(path, count):
    offsets = np.empty(count, np.int64)
    file = os.open(path, os.O_RDONLY)
    try:
        end, place = os.fstat(file).st_size, 0
        for index in range(count):
            offsets[index] = place
            header = os.pread(file, HEADER_BYTES, place) if place < end else b""
            length = header[: LENGTH.size]
            intact = len(length) == LENGTH.size and masked_crc32c(length) == header[LENGTH.size :]
            place = min(place + HEADER_BYTES + LENGTH.unpack(length)[0] + CHECKSUM.size, end) if intact else end
    finally:
        os.close(file)
    return offsets


def masked_crc32c(data: bytes) -> bytes:
    """TFRecord's checksum: rotated and offset, so that it differs from any plain checksum inside the data."""
    checksum = google_crc32c.value(data)
    return CHECKSUM.pack(((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)
