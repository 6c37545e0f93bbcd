"""The order of training, checked against a simulation that moves one record at a time."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfvt.data.order import Order, permutation

SHARDS = st.lists(st.integers(0, 12), min_size=1, max_size=9).filter(sum)
ORDERS = st.builds(
    Order,
    shard_counts=SHARDS.map(tuple),
    seed=st.integers(0, 2**63 - 1),
    batch_size=st.just(1),
    block_size=st.integers(1, 40),
    group_size=st.integers(1, 4),
)


def block_ids(order, epoch, index):
    """The ids of a block in the order of training."""
    return ids_of(order, order.block(epoch, index))


def ids_of(order, block):
    first_ids = np.cumsum((0, *order.shard_counts))
    parts = [
        np.arange(first_ids[shard] + start, first_ids[shard] + start + count)
        for shard, start, count in zip(block.shards, block.starts, block.counts, strict=True)
    ]
    return np.sort(np.concatenate(parts or [[]]).astype(np.int64))[block.permutation]


def stream_ids(order, start_step, steps):
    """The ids that are trained on in `steps` batches from `start_step` on."""
    ids, number = [], order.first_block(start_step)
    while len(ids) < steps * order.batch_size:
        ids += ids_of(order, order.training_block(number, start_step)[1]).tolist()
        number += 1
    return ids[: steps * order.batch_size]


def simulated_reading(order, epoch):
    """Ids in the order of reading: groups of shuffled shards, one record of each shard in turn."""
    first_ids = np.cumsum((0, *order.shard_counts))
    shards = permutation(len(order.shard_counts), order.seed, epoch, 0).tolist()
    reading = []
    for begin in range(0, len(shards), order.group_size):
        queues = [
            list(range(first_ids[shard], first_ids[shard + 1])) for shard in shards[begin : begin + order.group_size]
        ]
        while any(queues):
            reading += [queue.pop(0) for queue in queues if queue]
    return reading


@given(ORDERS, st.integers(0, 10**6))
def test_epoch_holds_every_record_once(order, epoch):
    ids = np.concatenate([block_ids(order, epoch, index) for index in range(order.blocks_per_epoch)])
    assert sorted(ids.tolist()) == list(range(sum(order.shard_counts)))


@given(ORDERS, st.integers(0, 10**6))
def test_blocks_cut_the_round_robin_reading(order, epoch):
    reading = simulated_reading(order, epoch)
    for index in range(order.blocks_per_epoch):
        expected = reading[index * order.block_size : (index + 1) * order.block_size]
        assert sorted(block_ids(order, epoch, index).tolist()) == sorted(expected)


@settings(max_examples=300)
@given(ORDERS, st.data())
def test_stream_can_be_entered_at_any_step(order, data):
    batch_size = data.draw(st.integers(1, sum(order.shard_counts)), "batch_size")
    order = dataclasses.replace(order, batch_size=batch_size)
    start_step = data.draw(st.integers(0, 3 * order.steps_per_epoch), "start_step")
    whole = stream_ids(order, 0, 4 * order.steps_per_epoch)
    left = 4 * order.steps_per_epoch - start_step
    assert stream_ids(order, start_step, left) == whole[start_step * batch_size :]
    for epoch in np.reshape(whole, (4, -1)).tolist():
        assert len(epoch) == order.steps_per_epoch * batch_size
        assert len(set(epoch)) == len(epoch)


def test_block_that_nothing_is_trained_on_is_not_read():
    """Batches of 9 use one batch of 10 records, so the second block of 9 holds only what is left over."""
    order = Order((4, 6), seed=0, batch_size=9, block_size=9)
    assert len(order.training_block(1, 0)[1].shards) == 0
    assert len(order.training_block(0, 0)[1].permutation) == 9


@given(SHARDS, st.integers(0, 2**63 - 1))
def test_set_of_one_block_is_permuted_whatever_its_shards(shard_counts, seed):
    total = sum(shard_counts)
    in_shards, in_one = Order(tuple(shard_counts), seed, 1), Order((total,), seed, 1)
    assert block_ids(in_shards, 3, 0).tolist() == block_ids(in_one, 3, 0).tolist()


@given(st.integers(0, 300), st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4))
def test_permutation_is_one(size, key):
    assert sorted(permutation(size, *key).tolist()) == list(range(size))


def test_permutations_are_unlike():
    """No epoch, seed or block repeats another's: 0 of 15 pairs equal, and positions are uncorrelated."""
    keys = [(0, 0, 1, 0), (0, 0, 1, 1), (0, 1, 1, 0), (1, 0, 1, 0), (0, 0, 0), (1, 1, 1, 1)]
    drawn = [permutation(1000, *key) for key in keys]
    correlations = np.corrcoef(drawn) - np.eye(len(keys))
    assert np.abs(correlations).max() < 0.12  # a correlation of 1000 pairs has a standard deviation of 0.032


def test_permutation_stays_what_it_was():
    """A run that is resumed with a later version must go on in the same order."""
    assert permutation(10, 7, 3, 1, 0).tolist() == [8, 6, 4, 1, 9, 2, 3, 5, 0, 7]


def test_epochs_blocks_and_seeds_are_permuted_unequally():
    order = Order((40, 40), seed=5, batch_size=1, block_size=40)
    others = (order, 0, 1), (order, 1, 0), (dataclasses.replace(order, seed=6), 0, 0)
    first = order.block(0, 0).permutation.tolist()
    assert all(one.block(epoch, index).permutation.tolist() != first for one, epoch, index in others)


@pytest.mark.parametrize("group_size", [1, 16])
def test_order_of_a_large_set(group_size):
    """ImageNet's size: every record once, and a block draws on `group_size` shards or a few more."""
    order = Order((1251,) * 1024, seed=0, batch_size=256, group_size=group_size)
    blocks = [order.block(2, index) for index in range(order.blocks_per_epoch)]
    read = np.zeros(1024, np.int64)
    for block in blocks:
        assert (block.starts == read[block.shards]).all()
        read[block.shards] += block.counts
    assert (read == 1251).all()
    assert max(len(block.shards) for block in blocks) <= 32
