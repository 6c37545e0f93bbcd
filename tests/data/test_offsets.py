"""A host reads the records of its share alone."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from record_files import batches, encode, record, write_records

from tfvt.data.offsets import record_offsets
from tfvt.data.stream import HostShare


def expected_offsets(path):
    """By TensorFlow's reader: 12 bytes come before the data of each record, and 4 follow."""
    lengths = [len(serialized) + 16 for serialized in tf.data.TFRecordDataset(path).as_numpy_iterator()]
    return [0, *itertools.accumulate(lengths[:-1])]


def test_records_begin_where_their_lengths_say(tmp_path):
    records = write_records(tmp_path, (3, 1, 5))
    expected = [offset for path in records.shard_paths for offset in expected_offsets(path)]
    assert record_offsets(records).tolist() == expected


@pytest.mark.parametrize("cut", [4, 20])
def test_nothing_is_read_after_the_end_of_a_shard_that_is_cut_off(tmp_path, cut):
    records = write_records(tmp_path, (5,))
    whole = expected_offsets(records.shard_paths[0])
    path = Path(records.shard_paths[0])
    path.write_bytes(path.read_bytes()[: whole[3] + cut])
    assert record_offsets(records).tolist() == [*whole[:4], whole[3] + cut]


@pytest.mark.parametrize("hosts", [1, 8])
def test_a_host_reads_its_share_of_the_bytes(tmp_path, hosts):
    def bytes_read():
        line = Path("/proc/self/io").read_text().splitlines()[0]
        return int(line.removeprefix("rchar: "))

    rng = np.random.default_rng(0)
    noise = {i: record(i, encoded=encode(rng.integers(0, 256, (200, 200, 3)))) for i in range(64)}
    records = write_records(tmp_path, (32, 32), replaced=noise)
    size = sum(Path(path).stat().st_size for path in records.shard_paths)
    before = bytes_read()
    epochs = 8
    found = batches(records, 8 * epochs, batch_size=8, seed=0, block_size=16, share=HostShare(hosts, hosts - 1))
    per_epoch = (bytes_read() - before) / size / epochs
    assert len({int(id_) for batch in found[:8] for id_ in batch["id"]}) == 64 // hosts
    assert per_epoch > 1 if hosts == 1 else 1 / 8 < per_epoch < 1 / 4  # some are read ahead


def test_a_wrong_length_that_leads_to_a_later_record_is_not_followed(tmp_path):
    records = write_records(tmp_path, (5,))
    path = Path(records.shard_paths[0])
    whole, content = expected_offsets(str(path)), bytearray(path.read_bytes())
    content[whole[1] : whole[1] + 8] = (whole[3] - whole[1] - 16).to_bytes(8, "little")
    path.write_bytes(content)
    assert record_offsets(records).tolist() == [*whole[:2], *[len(content)] * 3]
