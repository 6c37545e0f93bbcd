"""What a converted set holds, from reading every record of it."""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tfvt.data.records import (
    BOX_LABEL,
    FORMAT,
    HEIGHT,
    LABEL,
    MASK,
    SOURCE_ID,
    UNLABELLED,
    WIDTH,
    Manifest,
    Shard,
    check_shards,
    counted,
    feature_spec,
    read_manifest,
)
from tfvt.errors import UsageError
from tfvt.stores import AnyPath, as_path

from .progress import image_progress
from .reading import read_features

FEATURES = feature_spec((LABEL, HEIGHT, WIDTH, FORMAT, MASK, SOURCE_ID, BOX_LABEL))
CLASSES_SHOWN = 40  # of more classes, the largest and the smallest


@dataclass(frozen=True)
class SplitReport:
    """One split.

    Attributes:
        split: its name.
        shards: number of files.
        bytes: their size together.
        class_names: in the order of `class_counts`.
        class_counts: records of each class, (number of classes,); test images and those with masks or boxes have none.
        object_counts: objects of each class, (number of classes,).
        objects: number of them in each record, (number of records,); None in sets without boxes.
        heights, widths: of each record in pixels, (number of records,).
        formats: image format -> records.
    """

    split: str
    shards: int
    bytes: int
    class_names: tuple[str, ...]
    class_counts: np.ndarray
    object_counts: np.ndarray
    objects: np.ndarray | None
    heights: np.ndarray
    widths: np.ndarray
    formats: dict[str, int]

    @property
    def num_examples(self) -> int:
        return len(self.heights)


def inspect(directory: AnyPath | str, *, workers: int | None = None) -> list[SplitReport]:
    """Reads every record of every split except for its image, and checks checksums and labels on the way.

    Args:
        directory: of the shards and the manifest.
        workers: shards read at a time, by default one per processor.

    Raises:
        UsageError: no such set; or damaged shards, all of which the message names.
    """
    manifest, directory = read_manifest(directory), as_path(directory)
    if workers is not None and workers < 1:
        raise UsageError(f"workers must be at least 1, not {workers}")
    for shards in manifest.splits.values():
        check_shards(directory, shards)
    reports, problems = [], []
    with image_progress() as progress, ThreadPoolExecutor(workers or os.cpu_count()) as pool:

        def read(shard):
            try:
                return _read_shard(directory, manifest, split, shard)
            except UsageError as error:
                return error
            finally:
                progress.advance(task, shard.records)

        for split, shards in manifest.splits.items():
            task = progress.add_task(f"reading {split}", total=sum(shard.records for shard in shards))
            results = list(pool.map(read, shards))
            problems += [str(result) for result in results if isinstance(result, UsageError)]
            if not problems:
                reports.append(_report(split, shards, manifest, results))
    if problems:
        raise UsageError("\n".join([f"{counted(len(problems), 'damaged shard')} in {directory}:", *problems]))
    return reports


def _read_shard(directory, manifest: Manifest, split, shard: Shard) -> dict[str, np.ndarray]:
    """Feature name -> values of the shard's records."""
    path = directory / shard.name
    values = read_features(path, FEATURES)
    count = len(values[LABEL])
    if count != shard.records:
        raise UsageError(f"{path} has {counted(count, 'record')}, the manifest says {shard.records:,}")
    first, last = manifest.label_offset, manifest.label_offset + len(manifest.class_names) - 1
    labels, masks = values[LABEL], values.pop(MASK)
    unlabelled = (labels == UNLABELLED) & ((split == "test") | (masks != b"") | (values[SOURCE_ID] != b""))
    for number, (label, objects, without) in enumerate(zip(labels, values[BOX_LABEL], unlabelled, strict=True)):
        outside = objects[(objects < first) | (objects > last)]
        if not (without or first <= label <= last):
            raise UsageError(f"record {number} of {path} has label {label}, not one from {first} to {last}")
        if len(outside):
            raise UsageError(
                f"record {number} of {path} has an object of label {outside[0]}, not one from {first} to {last}"
            )
    return values


def _report(split, shards, manifest, results) -> SplitReport:
    names = (LABEL, HEIGHT, WIDTH, FORMAT, SOURCE_ID, BOX_LABEL)
    none = [np.zeros(0, np.int64)]
    values = {name: np.concatenate([result[name] for result in results] or none) for name in names}
    labels = values[LABEL][values[LABEL] != UNLABELLED]
    listed = np.concatenate([*values[BOX_LABEL], np.zeros(0, np.int64)])
    boxed = (values[SOURCE_ID].astype(object) != b"").any()
    return SplitReport(
        split=split,
        shards=len(shards),
        bytes=sum(shard.bytes for shard in shards),
        class_names=manifest.class_names,
        class_counts=np.bincount(labels - manifest.label_offset, minlength=len(manifest.class_names)),
        object_counts=np.bincount(listed - manifest.label_offset, minlength=len(manifest.class_names)),
        objects=np.array(list(map(len, values[BOX_LABEL]))) if boxed else None,
        heights=values[HEIGHT],
        widths=values[WIDTH],
        formats={
            name.decode("utf-8", "backslashreplace"): count
            for name, count in sorted(Counter(values[FORMAT].tolist()).items())
        },
    )


def print_report(report: SplitReport, console: Console) -> None:
    """A split as two tables: what it holds, and how many images each class has."""
    summary = Table(title=report.split, title_justify="left", title_style="bold", show_header=False)
    summary.add_row("records", f"{report.num_examples:,}")
    summary.add_row("shards", f"{report.shards:,}")
    summary.add_row("size", f"{report.bytes / 2**20:,.1f} MiB")
    summary.add_row("classes", f"{len(report.class_names):,}")
    if report.objects is not None:
        summary.add_row("objects", f"{report.objects.sum():,}")
        summary.add_row("images without objects", f"{(report.objects == 0).sum():,}")
    elif unlabelled := report.num_examples - report.class_counts.sum():
        summary.add_row("without label", f"{unlabelled:,}")
    summary.add_row("formats", ", ".join(f"{escape(name)} {count:,}" for name, count in report.formats.items()))
    for name, values in (("height", report.heights), ("width", report.widths), ("objects", report.objects)):
        if values is not None and len(values):
            spread = f"{values.min()} / {np.median(values):g} / {values.max()}"
            summary.add_row(f"{name}, min / median / max", spread)
    console.print(summary)
    for noun, counts in (("images", report.class_counts), ("objects", report.object_counts)):
        if counts.any():
            _print_histogram(report.class_names, counts, noun, console)


def _print_histogram(class_names, counts, noun, console):
    histogram = Table("class", noun, "", show_edge=False)
    shown = np.arange(len(class_names))
    if len(shown) > CLASSES_SHOWN:
        half = CLASSES_SHOWN // 2
        by_count = np.argsort(-counts, kind="stable")
        shown = np.concatenate([by_count[:half], by_count[-half:]])
        console.print(f"The {half} classes with the most and the {half} with the fewest {noun}:")
    largest = counts.max()
    for label in shown:
        count = counts[label]
        histogram.add_row(escape(class_names[label]), f"{count:,}", "█" * round(30 * count / largest))
    console.print(histogram)
