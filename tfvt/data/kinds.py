"""What a set of records can train: images with classes, with masks, or with boxes."""

import tensorflow as tf
from google.protobuf.message import DecodeError

from tfvt.data.records import BOX_LABEL, BOX_MASK, LABEL, MASK, UNLABELLED, RecordSet
from tfvt.errors import UsageError

KINDS = {  # kind -> the models that need it, and how to get it
    "classes": ("classification needs a class for each", "class folders (`tfvt records convert`)"),
    "masks": ("segmentation needs a mask for each", "images with masks (`tfvt records convert --layout`)"),
    "boxes": ("detection needs boxes", "images with boxes (`tfvt records convert --format coco`, voc or boxes)"),
    "instance masks": (
        "this model needs a mask for each box",
        "COCO's polygons or RLE (`tfvt records convert --format coco`)",
    ),
}


def check_kind(records: RecordSet, kind: str) -> None:
    """Look at the set's first record, so that the wrong kind of set is refused before anything starts.

    Nothing happens if that record cannot be read: whoever reads the set names it.

    Args:
        records: the set.
        kind: one of `KINDS`.

    Raises:
        UsageError: the record is of other kinds only.
    """
    filled = [path for path, count in zip(records.shard_paths, records.shard_counts, strict=True) if count]
    try:
        serialized = next(iter(tf.data.TFRecordDataset(filled[:1]).take(1)))
        features = tf.train.Example.FromString(serialized.numpy()).features.feature
    except (tf.errors.OpError, StopIteration, DecodeError):
        return
    held = [
        name
        for name, feature in (("masks", MASK), ("boxes", BOX_LABEL), ("instance masks", BOX_MASK))
        if feature in features
    ]
    if LABEL in features and list(features[LABEL].int64_list.value) != [UNLABELLED]:
        held.insert(0, "classes")
    if kind in held or (kind == "classes" and not held):  # images of the split test have no class
        return
    need, remedy = KINDS[kind]
    having = f"with {' and '.join(held)} and " if held else ""
    raise UsageError(
        f"{records.directory} holds images {having}without {kind}, and {need}: convert {remedy}, or choose a model for "
        "what it holds (`tfvt models`)"
    )
