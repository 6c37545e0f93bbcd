"""A CSV or TSV file of image paths and labels."""

import codecs
import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path

from tfvt.data.records import counted
from tfvt.errors import UsageError
from tfvt.files import printable

from .source import RecordSettings, Source, SourceImage, some

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
COLUMNS = ("path", "label", "split")
PROBLEMS_SHOWN = 20


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    size: int
    label: str
    split: str


class _WrongLineError(Exception):
    """The text says what is wrong with it."""


def image_table(path: Path | str) -> Source:
    """The images that a table names.

    The first line may name the columns `path` and `label`, and perhaps `split`, in any order; other columns do not
    count. Without it the columns are path, label and, if there is a third, split. Paths are relative to the table's
    folder. Without splits every image is for training. Labels are class names, sorted; labels that are all numbers must
    be 0, 1, 2, ...

    Raises:
        UsageError: lines with another number of columns, a missing file, an empty label, an unknown split or a file
            that an earlier line has (the message names up to 20 of them); or classes that do not match.
    """
    path = os.fspath(path)
    if os.path.splitext(path)[1].lower() not in DELIMITERS:
        raise UsageError(f"{path} must end in {' or '.join(DELIMITERS)}, which says what separates its columns")
    lines = _lines(path)
    if not lines:
        raise UsageError(f"{path} is empty: expected a line of path and label for each image")
    columns, left_out = _columns(path, *lines[0])
    width = len(lines[0][1])
    if columns.pop("header"):
        lines = lines[1:]
    rows, problems = {}, []  # rows by their file
    for line, cells in lines:
        try:
            row = _row(os.path.dirname(path), line, cells, columns, width)
            earlier = rows.setdefault(os.path.abspath(row.path), row)
            if earlier is not row:
                raise _WrongLineError(f"{printable(row.path)} is also in line {earlier.line}")
        except _WrongLineError as error:
            problems.append(f"  line {line}: {error}")
    if problems:
        more = [f"  and {len(problems) - PROBLEMS_SHOWN} more"] if len(problems) > PROBLEMS_SHOWN else []
        shown = "\n".join(problems[:PROBLEMS_SHOWN] + more)
        raise UsageError(f"lines of {path} that are wrong, {len(problems)} in all:\n{shown}")
    if not rows:
        raise UsageError(f"{path} names no images")
    return _source(path, list(rows.values()), left_out)


def _lines(path) -> list[tuple[int, list[str]]]:
    """(line number, cells) of every line that is not blank."""
    delimiter = DELIMITERS[os.path.splitext(path)[1].lower()]
    try:
        with open(path, "rb") as file:
            content = file.read()
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # spreadsheets write it
            text = content.decode("utf-16")
        else:  # file names need not be UTF-8: their bytes pass through
            text = content.decode("utf-8-sig", "surrogateescape")
        if "\0" in text:
            raise UsageError(f"{path} is neither UTF-8 nor UTF-16 with a byte order mark: save it as UTF-8")
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} begins like UTF-16 but is not ({error}): save it as UTF-8") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except csv.Error as error:
        raise UsageError(f"line {reader.line_num} of {path} cannot be read: {error}") from error


def _columns(path, line, first):
    """(name -> index, and under "header" whether the first line names them; names of columns without meaning)."""
    names = [cell.strip().lower() for cell in first]
    header = "path" in names and "label" in names
    if not header:
        names = list(COLUMNS[: len(first)]) + ["?"] * (len(first) - len(COLUMNS))
    twice = [name for name in COLUMNS if names.count(name) > 1]
    if twice:
        raise UsageError(f"line {line} of {path} names the column {twice[0]} twice")
    if "?" in names or "label" not in names:
        separator = "tabs" if path.lower().endswith(".tsv") else "commas"
        raise UsageError(
            f"line {line} of {path} has {counted(len(first), 'column')} separated by {separator}: expected path, label "
            "and perhaps split; if there are more, let the first line name them"
        )
    columns = {name: names.index(name) for name in COLUMNS if name in names}
    return columns | {"header": header}, tuple(f"column {printable(name)}" for name in names if name not in COLUMNS)


def _row(folder, line, cells, columns, width) -> _Row:
    if len(cells) != width:
        raise _WrongLineError(f"it has {counted(len(cells), 'column')}, the first line has {width}")
    path = os.path.join(folder, cells[columns["path"]])
    label = cells[columns["label"]].strip()
    split = cells[columns["split"]].strip() if "split" in columns else "train"
    if not cells[columns["path"]]:
        raise _WrongLineError("the path is empty")
    if not label:
        raise _WrongLineError(f"{printable(path)} has an empty label")
    if printable(label) != label:
        raise _WrongLineError(f"the label {printable(label)} is not UTF-8")
    if split.lower() not in SPLITS:
        raise _WrongLineError(f"the split is {printable(split)!r}: expected train, validation (or val) or test")
    try:
        size = os.stat(path).st_size
    except (OSError, ValueError) as error:
        hint = " (the first line counts as column names if it has path and label)" if line == 1 else ""
        raise _WrongLineError(f"{printable(path)}: {getattr(error, 'strerror', error)}{hint}") from error
    return _Row(line, path, size, label, SPLITS[split.lower()])


def _source(path, rows, left_out) -> Source:
    splits = [split for split in ("train", "validation", "test") if any(row.split == split for row in rows)]
    classes = {split: {row.label for row in rows if row.split == split} for split in splits}
    names = sorted(set().union(*classes.values()))
    if all(name.isascii() and name.isdigit() for name in names):
        names.sort(key=int)
        if names != [str(number) for number in range(len(names))]:
            raise UsageError(
                f"the labels of {path} are numbers, but not 0, 1, 2, ... without gaps ({some(names)}): number them so, "
                "or write names in their place"
            )
    for split in splits[1:]:
        strange = sorted(classes[split] - classes[splits[0]])
        if splits[0] == "train" and strange:
            raise UsageError(f"{path} has classes in {split} that are not in train: {some(strange)}")
    if len(names) < 2:
        raise UsageError(f"{path} has one class only ({names[0]}): classification needs at least two")
    labels = {name: label for label, name in enumerate(names)}
    return Source(
        root=path,
        settings=RecordSettings(class_names=tuple(names), class_texts=tuple(names)),
        splits={
            split: tuple(SourceImage(row.path, row.size, labels[row.label]) for row in rows if row.split == split)
            for split in splits
        },
        left_out=left_out,
    )
