"""The order in which records are trained on: a pure function of (seed, epoch), without reading a record.

TFRecord files are read in sequence, so a permutation of all records would cost a seek each. What is free: shuffle
the shards, read groups of them in a fixed round-robin, cut that reading order into blocks, and permute each block.
A block knows which part of which shard it needs, so a resumed run opens no shard that lies before it. A set of at
most one block is permuted wholly.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

BLOCK_SIZE = 16_384
GROUP_SIZE = 16

# Which of an epoch's permutations a key is for; what follows in the key tells shards and blocks apart.
_SHARDS, _BLOCKS = 0, 1


@dataclass(frozen=True)
class Block:
    """What one block reads and how it is permuted.

    Attributes:
        shards, starts, counts: parts of shards; the i-th is `counts[i]` records of shard `shards[i]`, from its
            record `starts[i]` on.
        permutation: position k of the block holds the record that is `permutation[k]`-th by id.
    """

    shards: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    permutation: np.ndarray


@dataclass(frozen=True)
class Order:
    """The training order over shards of `shard_counts` records.

    A record's id is its place in the split: the records in all shards before its own, plus its place there.
    """

    shard_counts: tuple[int, ...]
    seed: int
    batch_size: int
    block_size: int = BLOCK_SIZE
    group_size: int = GROUP_SIZE

    @property
    def blocks_per_epoch(self) -> int:
        return -(-sum(self.shard_counts) // self.block_size)

    @property
    def steps_per_epoch(self) -> int:
        return sum(self.shard_counts) // self.batch_size

    def first_block(self, start_step: int) -> int:
        """The number, counted over all epochs, of the block that global step `start_step` begins in."""
        epoch, step = divmod(start_step, self.steps_per_epoch)
        return epoch * self.blocks_per_epoch + step * self.batch_size // self.block_size

    def training_block(self, number: int, start_step: int) -> tuple[int, Block]:
        """Epoch and block of that number, without what is not trained on.

        Left out are the positions before `start_step` and those of the epoch's incomplete batch.
        """
        epoch, index = divmod(number, self.blocks_per_epoch)
        start_epoch, step = divmod(start_step, self.steps_per_epoch)
        begin = index * self.block_size
        skipped = max(0, step * self.batch_size - begin) if epoch == start_epoch else 0
        used = max(0, self.steps_per_epoch * self.batch_size - begin)
        block = self.block(epoch, index)
        kept = block.permutation[skipped:used]
        if not len(kept):
            return epoch, Block(shards=kept, starts=kept, counts=kept, permutation=kept)  # nothing to read
        return epoch, dataclasses.replace(block, permutation=kept)

    def block(self, epoch: int, index: int) -> Block:
        """Block number `index` (from 0) of an epoch."""
        shards = permutation(len(self.shard_counts), self.seed, epoch, _SHARDS)
        counts = np.asarray(self.shard_counts, np.int64)[shards]
        begin = index * self.block_size
        end = min(begin + self.block_size, sum(self.shard_counts))
        starts = _taken(counts, self.group_size, begin)
        taken = _taken(counts, self.group_size, end) - starts
        read = np.flatnonzero(taken)
        return Block(
            shards=shards[read],
            starts=starts[read],
            counts=taken[read],
            permutation=permutation(end - begin, self.seed, epoch, _BLOCKS, index),
        )


def permutation(size: int, *key: int) -> np.ndarray:
    """A permutation of range(size), int64, that depends on nothing but the key (non-negative integers).

    Philox' raw output and the stable sort are the same on every platform and in every version of NumPy, which
    `Generator.permutation` does not promise.
    """
    bits = np.random.Philox(np.random.SeedSequence(key)).random_raw(size)
    return np.argsort(bits, kind="stable").astype(np.int64)


def _taken(counts, group_size, records):
    """How many records of each shard are among the first `records` of the reading order, as int64."""
    taken = np.zeros_like(counts)
    for begin in range(0, len(counts), group_size):
        group = slice(begin, begin + group_size)
        taken[group] = _taken_round_robin(counts[group], records)
        records -= taken[group].sum()
    return taken


def _taken_round_robin(counts, records):
    """The same inside one group: one record of each shard in turn; a shard that has no more drops out."""
    if records >= counts.sum():
        return counts
    after_rounds = np.minimum(counts[:, None], np.arange(counts.max() + 1)).sum(axis=0)
    rounds = np.searchsorted(after_rounds, records, side="right") - 1
    taken = np.minimum(counts, rounds)
    in_last_round = np.flatnonzero(counts > rounds)[: records - after_rounds[rounds]]
    taken[in_last_round] += 1
    return taken
