"""Images -> serialized records: every writer of shards calls this, on one machine or on many."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tfvt.data.records import UNLABELLED, counted, make_example
from tfvt.errors import UsageError
from tfvt.files import printable

from .images import RejectedImageError, read_file, read_image
from .masks import encode_mask
from .objects import read_objects
from .sources import RecordSettings, SourceImage
from .sources.tfds import read_span


@dataclass(frozen=True)
class Reject:
    """An image that gives no record, and why."""

    file: str
    reason: str


def shard_examples(
    settings: RecordSettings, images: Sequence[SourceImage], label_offset: int
) -> Iterator[bytes | Reject]:
    """For each image of a shard, in order, its serialized record or what is wrong with it.

    Args:
        settings: of the source.
        images: its `SourceImage`s.
        label_offset: stored label of the first class, 0 or 1; unlabelled images get -1 and empty class names.

    Raises:
        UsageError: a label is not one of the classes, or a file that holds many images cannot be read further.
    """
    found = read_span(settings.tfds, images) if settings.tfds else ((image, None) for image in images)
    for image, data in found:
        try:
            yield _example(settings, image, data, label_offset)
        except RejectedImageError as error:
            yield Reject(file=image.printable, reason=str(error))


def _example(settings, image, data, label_offset):
    if data is None:
        data = read_file(image.path, image.offset, image.size if image.member else None)
    if settings.tfds and image.label == UNLABELLED and os.path.basename(image.path) != "test":
        raise RejectedImageError("it has no label (-1), which only images of the split test may lack")
    encoded = read_image(data, settings.jpeg)
    mask = None
    if settings.mask_ids:
        mask = encode_mask(_read_mask(image.mask), settings.mask_ids, data)
    classes = _class_features(settings, image, label_offset)
    objects = read_objects(settings, image, data, encoded, label_offset) if settings.objects else {}
    return make_example(**vars(encoded), **classes, filename=image.filename, mask=mask, **objects)


def _class_features(settings, image, label_offset):
    """The arguments of `make_example` that say which class the image shows."""
    if image.label == UNLABELLED:
        return {"label": UNLABELLED, "synset": "", "text": ""}
    if not 0 <= image.label < len(settings.class_names):
        raise UsageError(
            f"{image.printable} has label {image.label}: there are {counted(len(settings.class_names), 'class')}"
        )
    names = {"synset": settings.class_names[image.label], "text": settings.class_texts[image.label]}
    return names | {"label": image.label + label_offset}


def _read_mask(path):
    try:
        return read_file(path)
    except RejectedImageError as error:
        raise RejectedImageError(f"its mask {printable(path)}: {error}") from error
