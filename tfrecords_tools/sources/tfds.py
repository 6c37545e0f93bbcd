"""Any prepared dataset of TensorFlow Datasets: the images' bytes as stored, never decoded on the way."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tfvt.data.records import UNLABELLED, counted
from tfvt.errors import UsageError

from .source import RecordSettings, Source, SourceImage, TfdsFeatures, some

PREFIX = "tfds:"
SPLITS = ("train", "validation", "test")
FILENAMES = ("file_name", "filename", "image/filename")


def tfds_dataset(location: Path | str, data_dir: Path | str | None = None) -> Source:
    """A dataset of TFDS that is prepared on this disk; nothing is downloaded.

    Its records allow only reading in sequence, so shards are spans of the splits in the order in which TFDS has them.

    Args:
        location: `tfds:NAME[/CONFIG][:VERSION]`, or the folder of a dataset's version.
        data_dir: where TFDS keeps its datasets, by default `~/tensorflow_datasets`.

    Raises:
        UsageError: TensorFlow Datasets is not installed, the dataset is not prepared, or it does not hold images with
            one label each.
    """
    tfds = _import()
    builder = _builder(tfds, os.fspath(location), data_dir)
    directory, features = os.fspath(builder.data_path), builder.info.features
    image = _feature(builder, tfds.features.Image, place=0)
    label = _feature(builder, tfds.features.ClassLabel, place=1)
    if features[image].np_dtype != np.uint8:
        raise UsageError(f"pixels of {builder.info.full_name} are {np.dtype(features[image].np_dtype)}, not uint8")
    filename = next((name for name in FILENAMES if name in features), None)
    splits, left_out = {}, []
    for name, split in builder.info.splits.items():
        if name not in SPLITS or not split.num_examples:
            left_out.append(f"split {name} ({counted(split.num_examples, 'example')})")
            continue
        size = split.num_bytes // split.num_examples  # the average: only reading would tell the size of each
        path = os.path.join(directory, name)
        splits[name] = tuple(SourceImage(path, size, UNLABELLED, index) for index in range(split.num_examples))
    if not splits:
        raise UsageError(f"{builder.info.full_name} has none of the splits {', '.join(SPLITS)}: {some(left_out)}")
    names = tuple(features[label].names)
    described = TfdsFeatures(directory, builder.info.full_name, image, label, filename)
    return Source(
        root=directory,
        settings=RecordSettings(names, names, tfds=described),
        splits={name: splits[name] for name in SPLITS if name in splits},
        left_out=tuple(left_out),
        keeps_order=True,
    )


def read_span(described: TfdsFeatures, images: Sequence[SourceImage]) -> Iterator[tuple[SourceImage, bytes]]:
    """(image with its label and file name, bytes) of images that follow one another in a split.

    Raises:
        UsageError: fewer can be read, or a label is not one of the dataset's classes.
    """
    tfds = _import()
    split, first, count = os.path.basename(images[0].path), images[0].offset, len(images)
    builder = tfds.builder_from_directory(described.directory)
    pictures = [name for name, feature in builder.info.features.items() if isinstance(feature, tfds.features.Image)]
    dataset = builder.as_dataset(
        split=tfds.core.ReadInstruction(split, from_=first, to=first + count, unit="abs"),
        decoders={name: tfds.decode.SkipDecoding() for name in pictures},
        read_config=tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1),
    )
    examples = dataset.as_numpy_iterator()
    for image in images:
        try:
            example = next(examples, None)
        except Exception as error:  # of TensorFlow, for damaged files
            raise UsageError(
                f"example {image.offset} of {described.name}, split {split}, or one before it, cannot be read: prepare "
                f"the dataset again ({error})"
            ) from error
        if example is None:
            raise UsageError(f"{described.name} ends at example {image.offset} of split {split}: prepare it again")
        filename = example[described.filename] if described.filename else b"%b-%08d" % (split.encode(), image.offset)
        label = int(example[described.label])
        yield dataclasses.replace(image, member=os.fsdecode(filename), label=label), example[described.image]


def _import():
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UsageError("this source needs TensorFlow Datasets: pip install 'tfvt[tfds]'") from error
    return tfds


def _builder(tfds, location, data_dir):
    try:
        if not location.startswith(PREFIX):
            return tfds.builder_from_directory(location)
        builder = tfds.builder(location.removeprefix(PREFIX), **({"data_dir": data_dir} if data_dir else {}))
    except Exception as error:  # TFDS has many errors for names, versions and folders that it does not know
        summary = str(error).strip().split("\n")[0]  # the rest may list every dataset that exists
        raise UsageError(f"TensorFlow Datasets cannot open {location}: {summary}") from error
    if not builder.is_prepared():
        raise UsageError(
            f"{builder.name}:{builder.version} is not in {builder.data_path}: give its folder with --data-dir, or "
            f"prepare it with `tfds build {builder.name}`"
        )
    return builder


def _feature(builder, kind, place):
    """The name of the only feature of a kind; of several, the one that the dataset names for supervised training."""
    names = [name for name, feature in builder.info.features.items() if isinstance(feature, kind)]
    keys = builder.info.supervised_keys or ()
    if len(names) > 1 and len(keys) == 2 and keys[place] in names:
        return keys[place]
    if len(names) != 1:
        raise UsageError(
            f"{builder.info.full_name} has {counted(len(names), 'feature')} of the kind {kind.__name__}: it must have "
            f"one, or name one as supervised key. Its features: {', '.join(sorted(builder.info.features))}"
        )
    return names[0]
