"""What goes into which shard: decided before the first byte is written, so that the writer makes no difference."""

import hashlib
from itertools import pairwise

import numpy as np

from tfvt.data.records import SCHEMA_VERSION

from .shards import ShardPlan
from .sources import Source

SHARD_BYTES = 128 * 2**20
SHUFFLE_SEED = 0  # of the order inside a split: folders are sorted by class, shards must not be


def plan_shards(source: Source, shards: int | None = None) -> list[ShardPlan]:
    """The shards of every split, in order.

    Args:
        source: the images.
        shards: files per split, at most one per image; by default what the source requires, or one per 128 MiB.
    """
    plan = []
    for split, images in source.splits.items():
        count = shards or source.shards.get(split) or -(-sum(image.size for image in images) // SHARD_BYTES)
        count = max(1, min(count, len(images)))
        ordered = images
        if not source.keeps_order:
            ordered = [images[index] for index in _permutation(len(images), SHUFFLE_SEED)]
        bounds = [len(images) * shard // count for shard in range(count + 1)]
        for shard, (begin, end) in enumerate(pairwise(bounds)):
            name = f"{split}-{shard:05d}-of-{count:05d}"
            plan.append(ShardPlan(name=name, split=split, images=tuple(ordered[begin:end])))
    return plan


def _permutation(size, seed):
    """A permutation of range(size) that depends on nothing but `seed`.

    Philox' raw output and the stable sort are the same on every platform and in every version of NumPy, which
    `Generator.permutation` does not promise.
    """
    return np.argsort(np.random.Philox(np.random.SeedSequence((seed,))).random_raw(size), kind="stable").tolist()


def source_digest(source: Source, plan: list[ShardPlan], label_offset: int) -> str:
    """Hash of all that decides the shards' bytes, except for the contents of files whose size stayed the same."""
    digest = hashlib.sha256(repr((SCHEMA_VERSION, label_offset, source.settings)).encode())
    if source.settings.objects:
        digest.update(repr(source.settings.objects).encode())
    for shard in plan:
        digest.update(f"\n{shard.name}\n".encode())
        for image in shard.images:
            digest.update(image.identity(source.root) + b"\n")
    return digest.hexdigest()
