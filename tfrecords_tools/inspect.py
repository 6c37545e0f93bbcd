"""What a converted set holds, from reading every record of it."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from tfvt.data.records import (
    FORMAT,
    HEIGHT,
    LABEL,
    WIDTH,
    Manifest,
    RecordsError,
    Shard,
    check_shards,
    feature_spec,
    read_manifest,
)

from .progress import image_progress

CLASSES_SHOWN = 40  # of more classes, the fullest and the emptiest


@dataclass(frozen=True)
class SplitReport:
    """One split.

    Attributes:
        split: its name.
        shards: number of files.
        bytes: their size together.
        class_names: in the order of `class_counts`.
        class_counts: records of each class, (number of classes,).
        heights, widths: of each record in pixels, (number of records,).
        formats: image format -> records.
    """

    split: str
    shards: int
    bytes: int
    class_names: tuple[str, ...]
    class_counts: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    formats: dict[str, int]

    @property
    def num_examples(self) -> int:
        return len(self.heights)


def inspect(directory) -> list[SplitReport]:
    """Reads every record of every split, and checks checksums and labels on the way.

    Raises:
        RecordsError: no such set; or damaged shards, all of which are named.
    """
    manifest = read_manifest(directory)
    directory = Path(directory)
    for shards in manifest.splits.values():
        check_shards(directory, shards)
    reports, problems = [], []
    with image_progress() as progress:
        for split, shards in manifest.splits.items():
            task = progress.add_task(f"reading {split}", total=sum(shard.records for shard in shards))
            read = []
            for shard in shards:
                try:
                    read.append(_read_shard(directory, shard, manifest))
                except RecordsError as error:
                    problems.append(str(error))
                progress.advance(task, shard.records)
            reports.append(_report(split, shards, manifest, read))
    if problems:
        raise RecordsError("\n".join([f"{len(problems)} damaged shards in {directory}:", *problems]))
    return reports


def _read_shard(directory, shard: Shard, manifest: Manifest) -> dict[str, np.ndarray]:
    """Feature name -> values of the shard's records."""
    path = directory / shard.name
    names = (LABEL, HEIGHT, WIDTH, FORMAT)
    parts = []
    # An unreadable record ends the shard early, and the count tells which one it was.
    for batch in tf.data.TFRecordDataset(str(path)).ignore_errors().batch(1024):
        try:
            parts.append(tf.io.parse_example(batch, feature_spec(names)))
        except tf.errors.InvalidArgumentError as error:
            raise RecordsError(f"{path} holds records of another schema: {error.message}") from error
    values = {name: np.concatenate([part[name].numpy() for part in parts] or [[]]) for name in names}
    count = len(values[LABEL])
    if count < shard.records:
        raise RecordsError(f"record {count} of {path} is damaged or cut off")
    if count > shard.records:
        raise RecordsError(f"{path} has {count} records, the manifest says {shard.records}")
    labels = values[LABEL] - manifest.label_offset
    outside = np.flatnonzero((labels < 0) | (labels >= len(manifest.class_names)))
    if len(outside):
        last = manifest.label_offset + len(manifest.class_names) - 1
        raise RecordsError(
            f"record {outside[0]} of {path} has label {values[LABEL][outside[0]]}, "
            f"not one from {manifest.label_offset} to {last}"
        )
    return values


def _report(split, shards, manifest, read) -> SplitReport:
    values = {
        name: np.concatenate([part[name] for part in read if len(part[name])] or [np.zeros(0, np.int64)])
        for name in (LABEL, HEIGHT, WIDTH, FORMAT)
    }
    return SplitReport(
        split=split,
        shards=len(shards),
        bytes=sum(shard.bytes for shard in shards),
        class_names=manifest.class_names,
        class_counts=np.bincount(values[LABEL] - manifest.label_offset, minlength=len(manifest.class_names)),
        heights=values[HEIGHT],
        widths=values[WIDTH],
        formats={name.decode(): count for name, count in sorted(Counter(values[FORMAT].tolist()).items())},
    )


def print_report(report: SplitReport, console: Console):
    """A split as two tables: what it holds, and how many images each class has."""
    summary = Table(title=report.split, title_justify="left", title_style="bold", show_header=False)
    summary.add_row("records", f"{report.num_examples:,}")
    summary.add_row("shards", f"{report.shards:,}")
    summary.add_row("size", f"{report.bytes / 2**20:,.1f} MiB")
    summary.add_row("classes", f"{len(report.class_names):,}")
    summary.add_row("formats", ", ".join(f"{name} {count:,}" for name, count in report.formats.items()))
    for name, values in (("height", report.heights), ("width", report.widths)):
        if len(values):
            spread = f"{values.min()} / {np.median(values):g} / {values.max()}"
            summary.add_row(f"{name}, min / median / max", spread)
    console.print(summary)

    histogram = Table("class", "images", "", show_edge=False)
    shown = np.arange(len(report.class_names))
    if len(shown) > CLASSES_SHOWN:
        half = CLASSES_SHOWN // 2
        by_count = np.argsort(-report.class_counts, kind="stable")
        shown = np.concatenate([by_count[:half], by_count[-half:]])
        console.print(f"The {half} classes with the most and the {half} with the fewest images:")
    largest = max(1, report.class_counts.max())
    for label in shown:
        count = report.class_counts[label]
        histogram.add_row(report.class_names[label], f"{count:,}", "█" * round(30 * count / largest))
    console.print(histogram)
