"""The output of a run as it proceeds: metrics.csv, TensorBoard and the terminal."""

import contextlib
import csv
import errno
import functools
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
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

from tfvt.errors import UsageError
from tfvt.files import disk_is_full, no_room_on_the_way, write_whole
from tfvt.stores import AnyPath, StorePath
from tfvt.trainers.errors import cannot_write
from tfvt.trainers.patience import patiently
from tfvt.trainers.tasks.task import Task

from .folder import Run

CONTINUE = "continue with --resume"


@dataclass(frozen=True)
class Figures:
    """Measurements over `num_images` images: the mean loss, None where an evaluation has none, the task's figures by
    name, its rows, and the sums.
    """

    loss: float | None
    values: dict[str, float]
    num_images: int
    rows: Sequence[Mapping[str, np.ndarray]] = ()
    sums: Mapping[str, np.ndarray] = field(default_factory=dict)

    def words(self, summary: Callable[[Mapping[str, float]], str]) -> str:
        """Figures, in the words of `summary`, and the loss."""
        return summary(self.values) + ("" if self.loss is None else f", loss {self.loss:.4f}")


@dataclass(frozen=True)
class EpochRow:
    """One row of metrics.csv. A missing measurement is None (an empty field).

    Training figures are means over the epoch's steps, on augmented images with the weights of each step and with
    label smoothing in the loss. Validation figures have no augmentation and no smoothing, and use averaged weights
    if the recipe asks for them. Skipped samples are those whose record was damaged.
    """

    epoch: int
    step: int
    learning_rate: float
    train: Figures
    train_skipped: int
    validation: Figures | None
    validation_skipped: int | None
    steps_per_second: float | None
    images_per_second: float | None
    input_wait: float | None
    peak_memory_mib: float

    def cells(self) -> dict[str, float | None]:
        """Figures by the names of `metric_names`, without those of validation if there was none."""
        values = {name: value for name, value in vars(self).items() if name not in ("train", "validation")}
        for phase, figures in (("train", self.train), ("validation", self.validation)):
            if figures is not None:
                values |= {
                    f"{phase}_{name}": value for name, value in (figures.values | {"loss": figures.loss}).items()
                }
        return values

    def line(self, summary: Callable[[dict[str, float]], str]) -> str:
        """The row as text; `summary` words the task's figures."""
        text = f"epoch {self.epoch}: train {self.train.words(summary)}"
        if self.validation is not None:
            text += f"; validation {self.validation.words(summary)}"
        if self.train_skipped or self.validation_skipped:
            text += (
                f"; skipped as damaged: {self.train_skipped} in training, {self.validation_skipped or 0} in validation"
            )
        if self.images_per_second is not None:
            text += f"; {self.images_per_second:.0f} images/s{_wait(self.input_wait)}"
        return text


def metric_names(columns: Sequence[str]) -> tuple[str, ...]:
    """The columns of metrics.csv, in their order, for a task with such figures."""
    phases = [f"{phase}_{name}" for phase in ("train", "validation") for name in ("loss", *columns, "skipped")]
    speeds = ("steps_per_second", "images_per_second", "input_wait")
    return ("epoch", "step", "learning_rate", *phases, *speeds, "peak_memory_mib")


def _wait(share: float | None) -> str:
    return "" if share is None else f", input wait {share:.0%}"


class MetricsFile:
    """metrics.csv, one row per epoch; an empty field where there is no measurement."""

    def __init__(self, path: AnyPath, names: Sequence[str], epochs_done: int) -> None:
        """Keep the first `epochs_done` rows of an earlier part of the run: later epochs will run again.

        `lost` of them are not in the file.
        """
        self.path = path
        self.names = tuple(names)
        rows = self._read()[:epochs_done]
        self.lost = epochs_done - len(rows)
        self.text = _lines([self.names, *rows])
        write_whole(path, self.text.encode())

    def write(self, cells: Mapping[str, float | None]) -> None:
        """Add a row. A second try after an error does not double it: the whole file is written."""
        text = self.text + _lines([[_cell(cells.get(name)) for name in self.names]])
        try:
            write_whole(self.path, text.encode())
        except OSError as error:
            raise cannot_write(self.path, error, CONTINUE) from error
        self.text = text

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _read(self) -> list[list[str]]:
        """The whole rows, by this version's columns: an earlier version may have had fewer."""
        if not self.path.exists():
            return []
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                header, *rows = list(csv.reader(file)) or [[]]
        except (OSError, ValueError, csv.Error) as error:
            raise UsageError(
                f"{self.path} cannot be read ({error}): put the run's own back, or delete it and continue without its "
                "rows"
            ) from error
        whole = [dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header)]
        return [[row.get(name, "") for name in self.names] for row in whole if "epoch" in row]


def _lines(rows):
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


class TensorBoard:
    """The same figures as TensorBoard scalars, by step."""

    def __init__(self, folder: AnyPath) -> None:
        self.folder = folder
        self.writer = None
        patiently(self._open)

    def _open(self):
        if self.folder.is_file():  # TensorFlow's error looks like that of a folder that is away
            raise UsageError(f"cannot write {self.folder} (it is a file): move it away, then {CONTINUE}")
        with self._reported():
            self.writer = self.writer or tf.summary.create_file_writer(str(self.folder))

    def write(self, cells: Mapping[str, float | None]) -> None:
        """Add a row."""
        self._open()
        with self._reported(), self.writer.as_default(step=cells["step"]):
            for name, value in cells.items():
                if name != "step" and value is not None:
                    tf.summary.scalar(name.replace("train_", "train/").replace("validation_", "validation/"), value)
            self.writer.flush()

    @contextlib.contextmanager
    def _reported(self):
        try:
            yield
        except tf.errors.OpError as error:
            self.writer = None  # where a shared folder was away, its files stay closed
            raise cannot_write(self.folder, self._in_short(error), CONTINUE) from error

    def _in_short(self, error):
        """The reason alone, without TensorFlow's names of files and nodes."""
        if isinstance(self.folder, StorePath) and disk_is_full(error):
            return OSError(errno.ENOSPC, no_room_on_the_way())
        return OSError(re.sub(r"\{\{.*?\}\} *| *\[Op:.*", "", error.message).rpartition("; ")[2].splitlines()[0])

    def close(self) -> None:
        """Flush and end."""
        with contextlib.suppress(tf.errors.OpError):  # `write` has flushed everything, or reported why not
            if self.writer:
                self.writer.close()


class _ImageRate(ProgressColumn):
    """Images per second over the last steps."""

    def __init__(self, batch_size: int):
        super().__init__()
        self.batch_size = batch_size

    def render(self, task):
        return Text("" if task.speed is None else f"{task.speed * self.batch_size:.0f} images/s")


class _InputWait(ProgressColumn):
    """The share of the last steps' time in which they waited for input, where it is known."""

    def render(self, task):
        share = task.fields.get("input_wait")
        return Text("" if share is None else f"input {share:.0%}")


class RunLog:
    """All three logs, over one call of `tfvt train`: a context that shows a progress bar on a terminal.

    Only the chief of a run's processes logs; in the others nothing is written or shown.
    """

    def __init__(self, run: Run, task: Task, console: Console, is_chief: bool, batch_size: int, num_steps: int) -> None:
        self.run = run
        self.task = task
        self.console = console
        self.is_chief = is_chief
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            _ImageRate(batch_size),
            _InputWait(),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=console,
            disable=not (is_chief and console.is_terminal),
        )
        self.bar = self.progress.add_task("", total=num_steps)
        self.writers: list[MetricsFile | TensorBoard] = []

    def begin(self, epochs_done: int) -> None:
        """Open the files; metrics.csv keeps the rows of the first `epochs_done` epochs."""
        if not self.is_chief:
            return
        for writer in self.writers:  # of before a roll back
            writer.close()
        names = metric_names(self.task.columns)
        metrics = patiently(lambda: MetricsFile(self.run.metrics, names, epochs_done))
        if metrics.lost:
            self.say(f"{metrics.path} lacks {metrics.lost} of the {epochs_done} epochs that the run has finished")
        self.writers = [metrics, TensorBoard(self.run.tensorboard)]

    def __enter__(self):
        self.progress.start()
        return self

    def __exit__(self, *_):
        self.progress.stop()
        for writer in self.writers:
            writer.close()

    def say(self, text: str) -> None:
        """Print a line as it is."""
        if self.is_chief:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, step: int, text: str, input_wait: float | None = None) -> None:
        """Move the bar to `step`, with `text` before it and the share of time that steps wait for input behind it."""
        self.progress.update(self.bar, completed=step, description=text, input_wait=input_wait)

    def write(self, row: EpochRow) -> None:
        """Log a finished epoch."""
        for writer in self.writers:
            patiently(functools.partial(writer.write, row.cells()))
        self.say(row.line(self.task.summary))
