"""What every kind of source gives: images, listed but not opened, and what their records have in common."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tfvt.data.records import counted
from tfvt.errors import UsageError
from tfvt.files import printable

PROBLEMS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image, by the place of its bytes.

    Attributes:
        path: the file: the image itself, or a tar that holds it.
        size: its bytes.
        label: index of its class, or `UNLABELLED`.
        offset: where in the file its bytes begin.
        member: its name in the tar; empty when the file is the image.
        mask: segmentation: the file with the class of every pixel.
        mask_size: its bytes.
        annotations: detection: what `objects.py` has to know to describe the image's objects, as JSON.
    """

    path: str
    size: int
    label: int
    offset: int = 0
    member: str = ""
    mask: str | None = None
    mask_size: int = 0
    annotations: str = ""

    @property
    def filename(self) -> bytes:
        return os.fsencode(os.path.basename(self.member or self.path))

    @property
    def printable(self) -> str:
        """Its name in messages."""
        return printable(f"{self.path}:{self.member}" if self.member else self.path)

    def identity(self, root: Path | str) -> bytes:
        """All that is known without opening the file, the same wherever the source folder lies."""
        names = [os.fsencode(os.path.relpath(path, root)) for path in (self.path, self.mask) if path]
        numbers = b"%d %d %d %d" % (self.size, self.label, self.offset, self.mask_size)
        annotations = [self.annotations.encode()] if self.annotations else []
        return b"\0".join([*names, os.fsencode(self.member), numbers, *annotations])


@dataclass(frozen=True)
class TfdsFeatures:
    """A prepared TFDS dataset, and the names of its features.

    Attributes:
        directory: of the dataset's version; not compared, since it may move.
        name: `name/config:version`, as in `imagenet2012:5.1.0`.
        image, label: features.
        filename: feature with the file's name, None if the dataset has none.
    """

    directory: str = field(compare=False, repr=False)
    name: str
    image: str
    label: str
    filename: str | None


@dataclass(frozen=True)
class AnnotationFile:
    """A file that describes the objects of many images; its path is not in the source's hash, since it may move."""

    path: str = field(compare=False, repr=False)
    sha256: str


@dataclass(frozen=True)
class ObjectSettings:
    """What the records of a set for detection have in common.

    Attributes:
        masks: whether every object gets a mask.
        category_ids: COCO's numbers of the classes, in the order of the labels; None for other sources.
        files: that workers read annotations from; empty if the `SourceImage`s hold them.
    """

    masks: bool = False
    category_ids: tuple[int, ...] | None = None
    files: tuple[AnnotationFile, ...] = ()


@dataclass(frozen=True)
class RecordSettings:
    """What the records of a set have in common: small, since it travels to every worker.

    Attributes:
        class_names: in the order of the labels; of the pixels' classes if the set has masks.
        class_texts: the classes for human readers, in the same order.
        jpeg: whether PNG, WebP, BMP and GIF files become JPEGs.
        mask_ids: segmentation: stored id -> class of a pixel, `VOID` for none; None without masks.
        tfds: the dataset that holds the images, if they are not files of their own.
        objects: detection: None without boxes. Not in the text of the settings, which is part of every source's hash.
    """

    class_names: tuple[str, ...]
    class_texts: tuple[str, ...]
    jpeg: bool = False
    mask_ids: dict[int, int] | None = None
    tfds: TfdsFeatures | None = None
    objects: ObjectSettings | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Source:
    """Images by split.

    Attributes:
        root: the location given; names in the source's hash are relative to it.
        settings: what the records have in common.
        splits: split name -> images, in a fixed order.
        left_out: names of files and folders below the root that are not part of it.
        shards: split name -> its number of files, where custom sets one.
        keeps_order: whether shards are spans of the splits as they are, for sources that allow only reading in
            sequence; otherwise the images are shuffled.
    """

    root: str
    settings: RecordSettings
    splits: dict[str, tuple[SourceImage, ...]]
    left_out: tuple[str, ...] = ()
    shards: dict[str, int] = field(default_factory=dict)
    keeps_order: bool = False


def some(names: Iterable[str]) -> str:
    """The first of many names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def refuse(path: Path | str, problems: Sequence[str]) -> None:
    """Say what is wrong in a file of annotations, if anything is.

    Raises:
        UsageError: there are problems; the message has the first 20 of them.
    """
    if problems:
        more = [f"and {len(problems) - PROBLEMS_SHOWN:,} more"] if len(problems) > PROBLEMS_SHOWN else []
        shown = "\n".join(f"  {problem}" for problem in [*problems[:PROBLEMS_SHOWN], *more])
        raise UsageError(f"{printable(path)} has {counted(len(problems), 'mistake')}:\n{shown}")


def entries(folder: Path | str) -> list[os.DirEntry]:
    """What a folder holds, sorted by the bytes of the names.

    Raises:
        UsageError: it cannot be listed.
    """
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise UsageError(f"{printable(folder)} cannot be listed: {error.strerror}") from error


def is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder; a symbolic link that leads in a circle is not one, and raises no error here."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def file_size(path: Path | str) -> int:
    """In bytes; 0 for a file that does not exist: reading it later reports that and puts it on the rejects list."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def by_stem(root: Path | str, folder: str, left_out: list[str]) -> dict[str, str]:
    """File name up to the suffix -> path, of a folder below the root; folders and hidden files go to `left_out`.

    Raises:
        UsageError: two files have one such name.
    """
    files = {}
    for entry in entries(os.path.join(root, folder)):
        stem = os.path.splitext(entry.name)[0]
        if entry.name.startswith(".") or is_folder(entry):
            left_out.append(relative(root, entry.path))
        elif stem in files:
            raise UsageError(
                f"{relative(root, files[stem])} and {relative(root, entry.path)} differ only in their suffix: keep "
                "the right one"
            )
        else:
            files[stem] = entry.path
    return files


def relative(root: Path | str, path: Path | str) -> str:
    """A path below the root, for messages."""
    return printable(os.path.relpath(path, root))
