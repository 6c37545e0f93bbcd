"""Sources whose boxes are known before any worker starts."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfvt.data.records import UNLABELLED
from tfvt.errors import UsageError
from tfvt.files import printable

from .source import ObjectSettings, RecordSettings, Source, SourceImage, file_size, some


def boxed_source(
    root: Path | str,
    splits: Mapping[str, Sequence[str]],
    found: Mapping[str, tuple[str, dict[str, Any]]],
    left_out: Iterable[str],
) -> Source:
    """A source of images with boxes that are known before any worker starts.

    Args:
        root: what names are relative to.
        splits: split -> keys of `found`.
        found: key -> (path of the image, what `SourceImage.annotations` holds, with class names for labels).
        left_out: names of what the source leaves out.

    Raises:
        UsageError: there are no boxes, or a split has a class that train does not have.
    """
    classes = {split: {row[1] for key in keys for row in found[key][1]["objects"]} for split, keys in splits.items()}
    names = tuple(sorted(set().union(*classes.values())))
    if not names:
        raise UsageError(f"{printable(root)} has no boxes at all: there is nothing to learn")
    for split in classes:
        if "train" in classes and (strange := sorted(classes[split] - classes["train"])):
            raise UsageError(f"{printable(root)} has classes in {split} that are not in train: {some(strange)}")
    labels = {name: label for label, name in enumerate(names)}

    def image(key):
        path, described = found[key]
        rows = [[row[0], labels[row[1]], *row[2:]] for row in described["objects"]]
        return SourceImage(path, file_size(path), UNLABELLED, annotations=json.dumps(described | {"objects": rows}))

    return Source(
        root=root,
        settings=RecordSettings(names, names, objects=ObjectSettings()),
        splits={split: tuple(map(image, keys)) for split, keys in splits.items()},
        left_out=tuple(left_out),
    )


def twice(names: Iterable[str]) -> list[str]:
    """Those that are there more than once, sorted."""
    seen = set()
    return sorted({name for name in names if name in seen or seen.add(name)})
