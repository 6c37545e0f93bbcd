"""The order of training records: a pure function of (seed, epoch), without reading a record.

TFRecord files allow reading in sequence only, so a permutation of all records would cost a seek each. The following
costs nothing: shuffle the shards, read groups of them in a fixed round-robin, cut that reading order into blocks, and
permute each block. A block knows which part of which shard it needs, so a resumed run opens no earlier shard. A set
of at most one block is permuted as a whole.

All of it is stateless TensorFlow graph code: it runs inside the input pipeline, on any machine.
"""

from dataclasses import dataclass

import tensorflow as tf

BLOCK_SIZE = 16_384
GROUP_SIZE = 16

# Each use pairs the run's seed with its own number: a new use takes a new number, the others stay.
AUGMENTATION_STREAM, ORDER_STREAM, MIXING_STREAM = 0, 1, 2

Parts = tuple[tf.Tensor, tf.Tensor, tf.Tensor]  # of shards: (shards, starts, counts), each int64 (parts,)


@dataclass(frozen=True)
class HostShare:
    """Which rows of each global batch one host delivers: part `index`, counted from 0, of `count` equal ones.

    A part is a slice of the batch's first half and the slice of the second half that mirrors it: row i and row
    B - 1 - i, which are mixed with each other (`tfvt.data.mixing`), are on one host. Where parts have an odd number of
    rows, each also has one of the `count` rows in the middle.

    Raises:
        ValueError: `index` is not below `count`.
    """

    count: int = 1
    index: int = 0

    def __post_init__(self):
        if not 0 <= self.index < self.count:
            raise ValueError(f"the host's index must be from 0 to count - 1: {self.index} of {self.count}")

    def rows(self, batch_size: int) -> int:
        """Samples of a batch that the host delivers.

        Raises:
            ValueError: the hosts cannot share the batch equally.
        """
        if batch_size % self.count:
            raise ValueError(f"batch_size ({batch_size}) must divide by the number of hosts ({self.count})")
        return batch_size // self.count

    def holds(self, rows: tf.Tensor, batch_size: int) -> tf.Tensor:
        """Whether this host delivers these rows (integer tensor, 0 .. `batch_size` - 1): bool of the same shape."""
        half = self.rows(batch_size) // 2
        from_the_end = tf.minimum(rows, batch_size - 1 - rows)
        in_middle = from_the_end >= half * self.count
        return tf.where(in_middle, rows - half * self.count, from_the_end // max(half, 1)) == self.index


WHOLE = HostShare()


@dataclass(frozen=True)
class Share:
    """Which samples of the stream one reader gets.

    Attributes:
        start_step: the global step at which the reader begins.
        step_stride: distance between the reader's steps: 1 takes every step, 2 every second one.
        host: the rows of each batch.
    """

    start_step: int = 0
    step_stride: int = 1
    host: HostShare = WHOLE

    @property
    def is_whole(self) -> bool:
        """Whether the reader gets every sample from its first step on."""
        return self.step_stride == 1 and self.host.count == 1


@dataclass(frozen=True)
class Order:
    """The training order over shards of `shard_counts` records.

    A record's id is its place in the split: the records in all shards before its own, plus its place there. The
    repetitions of a record follow it. They do not lengthen the epoch, so it uses fewer records.

    Attributes:
        shard_counts: records in each shard.
        seed: non-negative.
        batch_size: samples of a step, over all hosts.
        repeats: samples of each record, one after the other.
        block_size: records permuted together.
        group_size: shards read in turn.
    """

    shard_counts: tuple[int, ...]
    seed: int
    batch_size: int
    repeats: int = 1
    block_size: int = BLOCK_SIZE
    group_size: int = GROUP_SIZE

    @property
    def steps_per_epoch(self) -> int:
        return sum(self.shard_counts) // self.batch_size

    @property
    def samples_per_epoch(self) -> int:
        """The samples that fill whole batches; the epoch leaves out the rest of the order."""
        return self.steps_per_epoch * self.batch_size

    @property
    def blocks_per_epoch(self) -> int:
        """Blocks of which an epoch uses at least one record."""
        return -(-self.samples_per_epoch // (self.block_size * self.repeats))

    def first_block(self, start_step: int) -> int:
        """The number, counted over all epochs, of the block in which global step `start_step` begins."""
        epoch, step = divmod(start_step, self.steps_per_epoch)
        return epoch * self.blocks_per_epoch + step * self.batch_size // (self.block_size * self.repeats)

    def _belongs(self, epoch, places, share):
        """Whether `share` gets the samples at these places of an epoch."""
        step = epoch * self.steps_per_epoch + places // self.batch_size
        row = places % self.batch_size
        wanted = (step >= share.start_step) & ((step - share.start_step) % share.step_stride == 0)
        return wanted & share.host.holds(row, self.batch_size)

    def samples(self, number: tf.Tensor, share: Share) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, Parts]:
        """What `share` gets of block `number` (scalar int64 tensor, counted over all epochs).

        Returns:
            epoch: scalar int64.
            ids, copies: int64 (samples,), in the order of training; `copies` counts a record's repetitions from 0.
            parts: (shards, starts, counts), each int64 (parts,): what to read is `counts[i]` records of shard
                `shards[i]` from its record `starts[i]`. This is the whole block, even records that nobody uses.
        """
        epoch, index = number // self.blocks_per_epoch, number % self.blocks_per_epoch
        parts = self.parts(epoch, index)
        samples = tf.reduce_sum(parts[2]) * self.repeats
        begin = index * self.block_size * self.repeats
        places = tf.range(begin, tf.minimum(begin + samples, self.samples_per_epoch))
        places = tf.boolean_mask(places, self._belongs(epoch, places, share))
        ids = tf.gather(self.block_ids(epoch, index, parts), (places - begin) // self.repeats)
        return epoch, ids, places % self.repeats, parts

    def block_ids(self, epoch: tf.Tensor | int, index: tf.Tensor | int, parts: Parts) -> tf.Tensor:
        """The records of block `index` of an epoch, int64 (records,), in the order of training."""
        shards, starts, counts = parts
        first_ids = tf.gather(tf.cumsum(tf.constant(self.shard_counts, tf.int64), exclusive=True), shards) + starts
        ends = tf.cumsum(counts)
        within = tf.range(tf.reduce_sum(counts)) - tf.repeat(ends - counts, counts)
        ids = tf.sort(tf.repeat(first_ids, counts) + within)
        return tf.gather(ids, permutation(tf.size(ids), self._seed(epoch, 1 + index)))

    def parts(self, epoch: tf.Tensor | int, index: tf.Tensor) -> Parts:
        """The parts (shards, starts, counts) of shards that block `index` (from 0) of an epoch consists of."""
        shards = permutation(len(self.shard_counts), self._seed(epoch, 0))
        counts = tf.gather(tf.constant(self.shard_counts, tf.int64), shards)
        begin = index * self.block_size
        starts = _taken(counts, self.group_size, begin)
        taken = _taken(counts, self.group_size, tf.minimum(begin + self.block_size, sum(self.shard_counts))) - starts
        return tuple(tf.boolean_mask(values, taken > 0) for values in (shards, starts, taken))

    def _seed(self, epoch, number):
        """Of the epoch's permutation `number`: 0 is that of the shards, 1, 2, ... those of the blocks."""
        seed = tf.constant([self.seed, ORDER_STREAM], tf.int64)
        for value in (epoch, number):
            seed = tf.random.fold_in(seed, tf.cast(value, tf.int64))
        return seed


def permutation(size: tf.Tensor | int, seed: tf.Tensor) -> tf.Tensor:
    """A permutation of range(size), int64 (size,), that depends on nothing but `seed` (integer tensor (2,))."""
    bits = tf.random.stateless_uniform([size], seed, None, None, tf.int64, alg="philox")
    return tf.cast(tf.argsort(bits, stable=True), tf.int64)


def _taken(counts, group_size, records):
    """How many records of each shard are among the first `records` of the reading order, int64 like `counts`."""
    groups = tf.reshape(tf.pad(counts, [[0, -len(counts) % group_size]]), (-1, group_size))
    totals = tf.reduce_sum(groups, axis=1)
    ends = tf.cumsum(totals)
    current = tf.minimum(tf.searchsorted(ends, records[None], side="right")[0], len(totals) - 1)
    in_current = _taken_round_robin(groups[current], records - (ends[current] - totals[current]))
    earlier = tf.range(len(totals)) < current
    taken = tf.tensor_scatter_nd_update(tf.where(earlier[:, None], groups, 0), [[current]], in_current[None])
    return tf.reshape(taken, [-1])[: len(counts)]


def _taken_round_robin(counts, records):
    """The same inside one group: one record of each shard in turn; a shard that has no more drops out."""
    rounds = tf.range(tf.reduce_max(counts) + 1)
    after_rounds = tf.reduce_sum(tf.minimum(counts[:, None], rounds), axis=0)
    whole = tf.searchsorted(after_rounds, records[None], side="right")[0] - 1
    in_next = counts > tf.cast(whole, tf.int64)
    is_read = in_next & (tf.cumsum(tf.cast(in_next, tf.int64)) <= records - after_rounds[whole])
    return tf.minimum(counts, tf.cast(whole, tf.int64)) + tf.cast(is_read, tf.int64)
