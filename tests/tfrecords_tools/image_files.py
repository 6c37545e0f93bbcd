"""Image folders for the tests of conversion."""

import io
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image


def encode(pixels, kind="JPEG", mode=None, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels), mode).save(file, kind, **options)
    return file.getvalue()


def picture(seed, height=16, width=24):
    coarse = np.random.default_rng(seed).integers(0, 256, (2, 3, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))


def write_folder(root, counts=(4, 3), splits=("train", "val")) -> Path:
    """`<split>/class<i>/<k>.jpg`, `counts[i]` images of class i in each split."""
    root = Path(root)
    for number, split in enumerate(splits):
        for label, count in enumerate(counts):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                (folder / f"{index}.jpg").write_bytes(encode(picture(1000 * number + 100 * label + index)))
    return root


def read_records(output, split) -> list[dict]:
    """The features of every record, in order."""
    records = []
    for path in sorted(Path(output).glob(f"{split}-*")):
        for serialized in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            features = tf.train.Example.FromString(serialized).features.feature
            records.append(
                {
                    name: next(iter(getattr(value, value.WhichOneof("kind")).value), None)
                    for name, value in features.items()
                }
            )
    return records


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}
