"""report.html: what a finished run has reached, on one page that needs nothing else."""

import base64
import csv
import importlib
import io
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from html import escape
from importlib.metadata import version

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from tfvt.data.records import ENCODED, RecordSet, feature_spec, locate, read_span
from tfvt.data.stream import eval_rows
from tfvt.files import printable, write_whole
from tfvt.trainers.tasks.task import Pictures, Table, Task

from .charts import line_chart
from .folder import Run
from .log import Figures

THUMBNAIL = 160  # pixels, the longer side at most
STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1b1f24; --faint: #6a737d; --line: #d8dee4; --box: #f6f8fa;
  --first: #0b62c4; --second: #c2410c; }
@media (prefers-color-scheme: dark) { :root { --page: #15181c; --text: #e3e7eb; --faint: #98a2ad; --line: #3a424b;
  --box: #1f242a; --first: #6cb2ff; --second: #ffa657; } }
body { background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 1320px; padding: 24px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 36px 0 8px; } p { margin: 4px 0 12px; }
.note, figcaption, svg text { color: var(--faint); fill: var(--faint); }
.charts, .pictures { display: flex; flex-wrap: wrap; gap: 20px; }
figure { margin: 0; } .charts figure { width: 364px; max-width: 100%; } svg { display: block; font-size: 12px; }
figcaption { font-size: 14px; } .charts figcaption { color: var(--text); font-weight: 600; }
.grid { stroke: var(--line); } polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
.line0 { stroke: var(--first); } .line1 { stroke: var(--second); }
circle.line0 { fill: var(--first); } circle.line1 { fill: var(--second); }
.key0, .key1 { font-weight: 400; margin-left: 10px; } .key0 { color: var(--first); } .key1 { color: var(--second); }
.scroll { max-height: 520px; overflow: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: 4px 11px 4px 0; text-align: left; vertical-align: bottom; }
th { font-weight: 600; } .numbers { font-size: 13px; } .numbers td, .numbers th { text-align: right; }
.pictures figure { width: 160px; } .pictures img { display: block; height: 160px; object-fit: contain; width: 160px;
  background: var(--box); } .pictures figcaption { overflow-wrap: anywhere; }
pre { background: var(--box); border-radius: 6px; columns: 340px; font-size: 13px; overflow-x: auto;
  padding: 12px 16px; }
"""


def write_report(run: Run, task: Task, validation: Figures, num_hosts: int = 1) -> None:
    """Write RUN/report.html, whole or not at all.

    Args:
        run: a run with metrics.csv and recipe.yaml.
        task: what it learned.
        validation: the last evaluation, with its rows.
        num_hosts: that shared the evaluation.

    Raises:
        WriteError: the disk is full.
    """
    with run.metrics.open(newline="", encoding="utf-8") as file:
        epochs = list(csv.DictReader(file))
    records = task.validation_records
    rows = {}  # in the order of the records
    if validation.rows and not task.by_image:
        order = eval_rows(records.num_examples, len(validation.rows[0][next(iter(validation.rows[0]))]), num_hosts)
        rows = {name: np.concatenate([part[name] for part in validation.rows])[order] for name in validation.rows[0]}
    figures = f"{validation.words(task.summary)} on {validation.num_images:,} images"
    name = f"{task.recipe.model.name} in {printable(run.folder.absolute().name)}"
    sections = [
        f"<h1>{escape(name)}</h1>",
        f"<p>Validation: {escape(figures)}</p>",
        _section("Curves", "", f'<div class="charts">{"".join(_charts(epochs, task.columns))}</div>'),
        *(
            _rendered(part, records)
            for part in (task.table(validation.sums, validation.rows), *(task.report(rows) if rows else ()))
            if part
        ),
        _section(
            "Epochs", "The rows of metrics.csv.", _table(list(epochs[0] if epochs else ()), _cells(epochs), "numbers")
        ),
        _section("Made with", "", _table((), _origin(task, epochs))),
        _section("Recipe", "", f"<pre>{escape(run.recipe.read_text(encoding='utf-8'))}</pre>"),
    ]
    page = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(name)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body>\n" + "\n".join(sections) + "\n</body></html>\n"
    )
    write_whole(run.report, page.encode("utf-8", "backslashreplace"))


def _section(title: str, note: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>{f'<p class=note>{escape(note)}</p>' if note else ''}{content}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], style: str = "") -> str:
    head = "".join(f"<th>{escape(column).replace('_', '_<wbr>')}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table class="{style}"><tr>{head}</tr>{body}</table></div>'


def _cells(epochs: Sequence[Mapping[str, str]]) -> list[list[str]]:
    return [list(row.values()) for row in epochs]


def _charts(epochs: Sequence[Mapping[str, str]], columns: Sequence[str]) -> Iterable[str]:
    """Loss, the task's figures, learning rate and speed over the epochs."""
    wanted = {name: {phase: f"{phase}_{name}" for phase in ("train", "validation")} for name in ("loss", *columns)}
    wanted |= {"learning rate": {"": "learning_rate"}, "images per second": {"": "images_per_second"}}
    for title, lines in wanted.items():
        points = {
            # NaN is a figure of nothing, such as masks without a class.
            name: [
                (int(row["epoch"]), float(row[column])) for row in epochs if row.get(column, "nan") not in ("", "nan")
            ]
            for name, column in lines.items()
        }
        points = {name: line for name, line in points.items() if line}
        if points:
            yield line_chart(title, points)


def _rendered(part: Table | Pictures, records: RecordSet) -> str:
    """A part of the task's report as HTML."""
    if isinstance(part, Table):
        return _section(part.title, part.note, _table(part.columns, part.rows) if part.rows else "")
    pictures = "".join(
        f'<figure><img alt="" src="{_thumbnail(records, index)}"><figcaption>{escape(caption)}</figcaption></figure>'
        for index, caption in part.captions.items()
    )
    return _section(part.title, part.note if pictures else "There are none.", f'<div class="pictures">{pictures}</div>')


def _thumbnail(records: RecordSet, index: int) -> str:
    """Image number `index` of a split, as the address of an `<img>` that holds it."""
    shard, place = locate(records, tf.constant(index, tf.int64))
    ((_, serialized),) = read_span(records, shard, place, tf.constant(1, tf.int64))
    encoded = tf.io.parse_single_example(serialized, feature_spec([ENCODED]))[ENCODED].numpy()
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    small = io.BytesIO()
    image.save(small, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(small.getvalue()).decode()


def _origin(task: Task, epochs: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    """Versions, records and time, for who wants to make the run again."""
    backend = keras.backend.backend()
    versions = {"tfvt": version("tfvt"), "Keras": keras.__version__, "TensorFlow": tf.__version__}
    if backend != "tensorflow":
        versions[backend] = importlib.import_module(backend).__version__
    versions |= {"NumPy": np.__version__, "Python": platform.python_version()}
    rows = [(name, text) for name, text in versions.items()]
    records = {"training": task.train_records, "validation": task.validation_records}
    rows += [(f"Digest of {split}", split_records.digest) for split, split_records in records.items()]
    steps = np.diff([0, *(int(row["step"]) for row in epochs)])
    speeds = [float(row["steps_per_second"] or "inf") for row in epochs]
    seconds = sum(count / speed for count, speed in zip(steps, speeds, strict=True))
    return [*rows, ("Time in training steps", str(timedelta(seconds=round(seconds))))]
