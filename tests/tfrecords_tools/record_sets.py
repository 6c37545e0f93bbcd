"""Small record sets, written straight from the schema, with what is wrong with them."""

import tensorflow as tf
from image_files import encode, picture

from tfvt.data.records import Manifest, Shard, make_example
from tfvt.tfrecords_tools.shards import crc32


def example(index=0, **changed) -> bytes:
    """A good record of class "a" or "b", except for the changes."""
    label = index % 2
    values = {
        "encoded": encode(picture(index)),
        "format": "JPEG",
        "label": label,
        "synset": "ab"[label],
        "text": "AB"[label],
        "height": 16,
        "width": 24,
        "channels": 3,
        "colorspace": "RGB",
        "filename": b"file",
    }
    return make_example(**(values | changed))


def write_set(directory, splits, label_offset=0):
    """Splits of one shard each, with a manifest that agrees with them; the folder."""
    directory.mkdir(exist_ok=True)
    shards = {}
    for split, examples in splits.items():
        path = directory / f"{split}-00000-of-00001"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for serialized in examples:
                writer.write(serialized)
        shards[split] = (Shard(path.name, len(examples), path.stat().st_size, crc32(path)),)
    (directory / "manifest.json").write_text(Manifest(("a", "b"), label_offset, shards, "").to_json())
    return directory
