"""A CSV or TSV file of image paths and labels."""

import codecs
import csv
import io
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfvt.data.records import counted
from tfvt.errors import UsageError
from tfvt.files import printable

from .source import RecordSettings, Source, SourceImage, refuse, some

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
COLUMNS = ("path", "label", "split")


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    size: int
    label: str
    split: str


class WrongLineError(Exception):
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
    lines, columns, width, left_out = read_table(path)
    rows, problems = {}, []  # rows by their file
    for line, cells in lines:
        try:
            row = _row(os.path.dirname(path), line, cells, columns, width)
            earlier = rows.setdefault(os.path.abspath(row.path), row)
            if earlier is not row:
                raise WrongLineError(f"{printable(row.path)} is also in line {earlier.line}")
        except WrongLineError as error:
            problems.append(f"line {line}: {error}")
    refuse(path, problems)
    if not rows:
        raise UsageError(f"{path} names no images")
    return _source(path, list(rows.values()), left_out)


def read_table(
    path: str, known: Sequence[str] = COLUMNS
) -> tuple[Iterator[tuple[int, list[str]]], dict[str, int], int, tuple[str, ...]]:
    """(number and cells of each line; place of each column; how many columns; names of those without meaning).

    Args:
        path: of the table.
        known: columns that have a meaning, in the order that they have without names; the last may be missing.

    Raises:
        UsageError: the file is empty or cannot be read, or its first line has columns that do not fit. The lines raise
            it where one cannot be read.
    """
    lines = _lines(path)
    line, first = next(lines, (0, None))
    if first is None:
        raise UsageError(f"{path} is empty: expected a line of {', '.join(known[:-1])} for each image")
    columns, left_out = _columns(path, line, first, known)
    if not columns.pop("header"):
        lines = itertools.chain([(line, first)], lines)
    return lines, columns, len(first), left_out


def _lines(path) -> Iterator[tuple[int, list[str]]]:
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
        yield from ((reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} begins like UTF-16 but is not ({error}): save it as UTF-8") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except csv.Error as error:
        raise UsageError(f"line {reader.line_num} of {path} cannot be read: {error}") from error


def _columns(path, line, first, known):
    """(name -> index, and under "header" whether the first line names them; names of columns without meaning)."""
    names, needed = [cell.strip().lower() for cell in first], known[:-1]
    header = set(needed) <= set(names)
    if not header:
        names = list(known[: len(first)]) + ["?"] * (len(first) - len(known))
    twice = [name for name in known if names.count(name) > 1]
    if twice:
        raise UsageError(f"line {line} of {path} names the column {twice[0]} twice")
    if "?" in names or needed[-1] not in names:
        separator = "tabs" if path.lower().endswith(".tsv") else "commas"
        raise UsageError(
            f"line {line} of {path} has {counted(len(first), 'column')} separated by {separator}: expected "
            f"{', '.join(needed)} and perhaps {known[-1]}; if there are more, let the first line name them"
        )
    columns = {name: names.index(name) for name in known if name in names}
    return columns | {"header": header}, tuple(f"column {printable(name)}" for name in names if name not in known)


def _row(folder, line, cells, columns, width) -> _Row:
    path, size, label, split = read_cells(folder, line, cells, columns, width)
    if not label:
        raise WrongLineError(f"{printable(path)} has an empty label")
    return _Row(line, path, size, label, split)


def read_cells(
    folder: str, line: int, cells: Sequence[str], columns: Mapping[str, int], width: int
) -> tuple[str, int, str, str]:
    """(path, size of the file, label, split) of a line.

    Raises:
        WrongLineError: it has another number of columns, or one of them is wrong.
    """
    if len(cells) != width:
        raise WrongLineError(f"it has {counted(len(cells), 'column')}, the first line has {width}")
    path = os.path.join(folder, cells[columns["path"]])
    label = cells[columns["label"]].strip()
    split = cells[columns["split"]].strip() if "split" in columns else "train"
    if not cells[columns["path"]]:
        raise WrongLineError("the path is empty")
    if printable(label) != label:
        raise WrongLineError(f"the label {printable(label)} is not UTF-8")
    if split.lower() not in SPLITS:
        raise WrongLineError(f"the split is {printable(split)!r}: expected train, validation (or val) or test")
    try:
        size = os.stat(path).st_size
    except (OSError, ValueError) as error:
        hint = " (the first line counts as column names if it has path and label)" if line == 1 else ""
        raise WrongLineError(f"{printable(path)}: {getattr(error, 'strerror', error)}{hint}") from error
    return path, size, label, SPLITS[split.lower()]


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
