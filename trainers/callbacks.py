"""What a run tells while it goes: metrics.csv, TensorBoard and the terminal."""

import contextlib
import csv
import dataclasses
import io
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from .checkpoint import write_text
from .errors import UsageError
from .run import Run


@dataclass(frozen=True)
class EpochRow:
    """One row of metrics.csv. Shares are in 0..1; what was not measured is None (an empty field).

    Training figures are means over the epoch's steps, on augmented images with the weights of each step and with
    label smoothing in the loss. Validation figures are without either, with averaged weights where they are on.
    Skipped are samples whose record was damaged.
    """

    epoch: int
    step: int
    learning_rate: float
    train_loss: float
    train_top1: float
    train_top5: float
    train_skipped: int
    validation_loss: float | None
    validation_top1: float | None
    validation_top5: float | None
    validation_skipped: int | None
    steps_per_second: float | None
    images_per_second: float | None
    peak_memory_mib: float

    def __str__(self):
        text = f"epoch {self.epoch}: train loss {self.train_loss:.4f}, top-1 {self.train_top1:.2%}"
        if self.validation_loss is not None:
            text += f"; validation loss {self.validation_loss:.4f}, top-1 {self.validation_top1:.2%}"
        if self.train_skipped or self.validation_skipped:
            text += (
                f"; skipped as damaged: {self.train_skipped} in training, {self.validation_skipped or 0} in validation"
            )
        if self.images_per_second is not None:
            text += f"; {self.images_per_second:.0f} images/s"
        return text


FIELDS = tuple(part.name for part in dataclasses.fields(EpochRow))


class MetricsFile:
    """metrics.csv, a row an epoch."""

    def __init__(self, path: Path, epochs_done: int):
        """Keep the first `epochs_done` rows of an earlier part of the run: later ones will be run again."""
        self.path = path
        rows = _read_rows(path)[:epochs_done]
        text = io.StringIO()
        csv.writer(text).writerows([FIELDS, *rows])
        write_text(path, text.getvalue())

    def write(self, row: EpochRow) -> None:
        try:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow([_cell(value) for value in dataclasses.astuple(row)])
        except OSError as error:
            raise UsageError(_disk_full(self.path, str(error.strerror))) from error


def _disk_full(path: Path, reason: str) -> str:
    return f"cannot write {path} ({reason}): make room, then continue with --resume"


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _read_rows(path: Path) -> list[list[str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.reader(file) if len(row) == len(FIELDS)][1:]


class TensorBoard:
    """The same figures as TensorBoard scalars, by step."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.writer = tf.summary.create_file_writer(str(folder))

    def write(self, row: EpochRow) -> None:
        try:
            with self.writer.as_default(step=row.step):
                for name, value in dataclasses.asdict(row).items():
                    if name != "step" and value is not None:
                        tf.summary.scalar(name.replace("train_", "train/").replace("validation_", "validation/"), value)
            self.writer.flush()
        except tf.errors.OpError as error:
            reason = error.message.rpartition("; ")[2].splitlines()[0]
            raise UsageError(_disk_full(self.folder, reason)) from error

    def close(self) -> None:
        with contextlib.suppress(tf.errors.OpError):  # `write` has flushed all, or has said why not
            self.writer.close()


class _ImageRate(ProgressColumn):
    """Images per second over the last steps."""

    def __init__(self, batch_size: int):
        super().__init__()
        self.batch_size = batch_size

    def render(self, task):
        return Text("" if task.speed is None else f"{task.speed * self.batch_size:.0f} images/s")


class RunLog:
    """All three, over one call of `tfvt train`: a context that shows a progress bar on a terminal."""

    def __init__(self, run: Run, console: Console, batch_size: int, num_steps: int, epochs_done: int):
        self.console = console
        self.metrics_file = MetricsFile(run.metrics, epochs_done)
        self.tensorboard = TensorBoard(run.tensorboard)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            _ImageRate(batch_size),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.progress.add_task("", total=num_steps)

    def __enter__(self):
        self.progress.start()
        return self

    def __exit__(self, *_):
        self.progress.stop()
        self.tensorboard.close()

    def show(self, step: int, text: str) -> None:
        """Move the bar to `step`, with `text` before it."""
        self.progress.update(self.task, completed=step, description=text)

    def write(self, row: EpochRow) -> None:
        """Log a finished epoch."""
        self.metrics_file.write(row)
        self.tensorboard.write(row)
        self.console.print(str(row), highlight=False, markup=False, soft_wrap=True)
