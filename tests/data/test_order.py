"""The order of training, checked against a simulation that moves one record at a time."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from host_rows import rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from tfvt.data.order import HostShare, Order, Share, permutation

SHARDS = st.lists(st.integers(0, 12), min_size=1, max_size=9).filter(sum)
ORDERS = st.builds(
    Order,
    shard_counts=SHARDS.map(tuple),
    seed=st.integers(0, 2**63 - 1),
    batch_size=st.just(1),
    block_size=st.integers(4, 40),
    group_size=st.integers(1, 4),
)
few = settings(max_examples=20, deadline=None)


def seed_of(*key):
    return tf.constant(key, tf.int64)


def block_ids(order, epoch, index):
    """The ids of a block in the order of training."""
    return order.block_ids(epoch, index, order.parts(epoch, tf.constant(index, tf.int64))).numpy()


def stream(order, share, steps):
    """(id, copy) of what `share` gets of global steps 0 to `steps`."""
    end = -(-steps // order.steps_per_epoch) * order.blocks_per_epoch
    samples = []
    for number in range(order.first_block(share.start_step), end):
        _, ids, copies, _ = order.samples(tf.constant(number, tf.int64), share)
        samples += zip(ids.numpy().tolist(), copies.numpy().tolist(), strict=True)
    return samples


def simulated_reading(order, epoch):
    """Ids in the order of reading: groups of shuffled shards, one record of each shard in turn."""
    first_ids = np.cumsum((0, *order.shard_counts))
    shards = permutation(len(order.shard_counts), order._seed(epoch, 0)).numpy().tolist()
    reading = []
    for begin in range(0, len(shards), order.group_size):
        queues = [
            list(range(first_ids[shard], first_ids[shard + 1])) for shard in shards[begin : begin + order.group_size]
        ]
        while any(queues):
            reading += [queue.pop(0) for queue in queues if queue]
    return reading


@few
@given(ORDERS, st.integers(0, 10**6))
def test_blocks_cut_the_round_robin_reading(order, epoch):
    reading = simulated_reading(order, epoch)
    assert sorted(reading) == list(range(sum(order.shard_counts)))
    for index in range(order.blocks_per_epoch):
        expected = reading[index * order.block_size : (index + 1) * order.block_size]
        assert sorted(block_ids(order, epoch, index).tolist()) == sorted(expected)
        read = order.parts(epoch, tf.constant(index, tf.int64))
        assert sum(read[2].numpy()) == len(expected), "nothing is read that is not in the block"
        assert all(read[2].numpy() > 0)


@few
@given(ORDERS, st.integers(1, 4), st.data())
def test_the_shares_of_all_readers_are_the_stream(order, repeats, data):
    """For any number of hosts that divides the batch, any number of servers, entered at any step, with repetitions."""
    total = sum(order.shard_counts)
    hosts = data.draw(st.integers(1, min(3, total)), "hosts")
    rows = data.draw(st.integers(1, total // hosts), "rows")
    batch_size = rows * hosts
    order = dataclasses.replace(order, batch_size=batch_size, repeats=repeats)
    steps = 2 * order.steps_per_epoch
    start_step = data.draw(st.integers(0, steps), "start_step")
    stride = data.draw(st.integers(1, 3), "stride")

    whole = stream(order, Share(), steps)
    assert len(whole) == steps * batch_size
    found = np.full((steps, batch_size, 2), -1)
    for turn in range(stride):
        for host in range(hosts):
            share = Share(start_step + turn, stride, HostShare(hosts, host))
            part = stream(order, share, steps)
            taken = range(start_step + turn, steps, stride)
            own = rows_of(host, hosts, batch_size)
            found[np.ix_(taken, own)] = np.reshape(part, (len(taken), rows, 2))
    assert found[start_step:].reshape(-1, 2).tolist() == [list(s) for s in whole[start_step * batch_size :]]
    assert (found[:start_step] == -1).all()


def test_the_rows_of_hosts():
    assert [rows_of(host, 2, 8) for host in range(2)] == [[0, 1, 6, 7], [2, 3, 4, 5]]
    assert [rows_of(host, 2, 6) for host in range(2)] == [[0, 2, 5], [1, 3, 4]]


@few
@given(ORDERS, st.integers(1, 4), st.data())
def test_each_drawn_record_is_repeated(order, repeats, data):
    batch_size = data.draw(st.integers(1, sum(order.shard_counts)), "batch_size")
    order = dataclasses.replace(order, batch_size=batch_size, repeats=repeats)
    steps = order.steps_per_epoch
    for epoch in np.reshape(stream(order, Share(), 2 * steps), (2, -1, 2)).tolist():
        records, cut_off = divmod(len(epoch), repeats)
        assert [copy for _, copy in epoch] == [*range(repeats)] * records + [*range(cut_off)]
        drawn = [record_id for record_id, copy in epoch if copy == 0]
        assert len(set(drawn)) == len(drawn)
        assert all(record_id == drawn[place // repeats] for place, (record_id, _) in enumerate(epoch))


def test_block_that_nothing_is_trained_on_is_not_read():
    """Batches of 9 use one batch of 10 records, so the second block of 9 would hold only what is left over."""
    assert Order((4, 6), seed=0, batch_size=9, block_size=9).blocks_per_epoch == 1
    assert Order((4, 6), seed=0, batch_size=5, block_size=9).blocks_per_epoch == 2
    assert Order((4, 6), seed=0, batch_size=5, block_size=5, repeats=2).blocks_per_epoch == 1


@few
@given(SHARDS, st.integers(0, 2**63 - 1))
def test_set_of_one_block_is_permuted_whatever_its_shards(shard_counts, seed):
    total = sum(shard_counts)
    in_shards, in_one = Order(tuple(shard_counts), seed, 1), Order((total,), seed, 1)
    assert block_ids(in_shards, 3, 0).tolist() == block_ids(in_one, 3, 0).tolist()


@few
@given(st.integers(0, 300), st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 2))
def test_permutation_is_one(size, key):
    assert sorted(permutation(size, seed_of(*key)).numpy().tolist()) == list(range(size))


def test_permutations_are_unlike():
    """No seed, epoch or block repeats another's, and positions are uncorrelated."""
    seeds = [Order((1,), seed, 1)._seed(epoch, number) for seed in (0, 1) for epoch in (0, 1) for number in (0, 1, 2)]
    drawn = [permutation(1000, seed).numpy() for seed in seeds]
    correlations = np.corrcoef(drawn) - np.eye(len(seeds))
    assert np.abs(correlations).max() < 0.15  # a correlation of 1000 pairs has a standard deviation of 0.032


def test_order_stays_what_it_was():
    """A run that is resumed with a later version must continue in the same order."""
    order = Order((3, 4, 3), seed=7, batch_size=5, block_size=6, group_size=2)
    assert [record_id for record_id, _ in stream(order, Share(), 4)] == [
        9,
        2,
        8,
        1,
        7,
        0,
        4,
        6,
        3,
        5,
        4,
        7,
        5,
        3,
        9,
        8,
        1,
        6,
        2,
        0,
    ]


@pytest.mark.parametrize("group_size", [1, 16])
def test_order_of_a_large_set(group_size):
    """ImageNet's size: every record once, and a block draws on `group_size` shards or a few more."""
    order = Order((1251,) * 1024, seed=0, batch_size=256, group_size=group_size)
    read = np.zeros(1024, np.int64)
    most = 0
    for index in range(order.blocks_per_epoch):
        shards, starts, counts = (part.numpy() for part in order.parts(2, tf.constant(index, tf.int64)))
        assert (starts == read[shards]).all()
        read[shards] += counts
        most = max(most, len(shards))
    assert (read == 1251).all()
    assert most <= 32


def test_shards_are_read_from_their_beginning_as_often_as_the_page_says():
    """A store's shards are read whole up to where a block ends: docs/object_stores.md, about ImageNet's 1024 shards."""
    order = Order((1251,) * 1024, seed=0, batch_size=1024)
    parts = tf.function(order.parts)
    read = 0
    for block in range(order.blocks_per_epoch):
        _, starts, counts = parts(tf.constant(0, tf.int64), tf.constant(block, tf.int64))
        read += int(tf.reduce_sum(starts + counts))
    page = (Path(__file__).parents[2] / "docs" / "object_stores.md").read_text(encoding="utf-8")
    assert f"{read / sum(order.shard_counts):.1f} times the records an epoch" in " ".join(page.split())
