"""The one engine that renames the tensors of every source: a source adds a table of rows (their name, our path).

    ("layer{stage}.{block}.bn1.*", "stage{stage}_block{block}_1_norm/*")
    (("q_proj.*", "k_proj.*", "v_proj.*"), "qkv/*")                          parts of one weight
    ("pos_embed", ("class_position", "patch_positions"), token_and_patches)  one tensor that holds two weights

A name is a regular expression in which a dot is a dot, `{stage}` is a number, and `*` is any tensor: of a norm where
our layer's name ends so, or else of a dense layer or a convolution. In our path `{stage}` counts from 1, `*` is what
Keras calls the tensor, and another named group stands as it is. A third column is the tensor's layout where the
table's does not hold.
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tfvt.checkpoints.layouts import torch_layout

NORM_TENSORS = {
    "weight": "gamma",
    "scale": "gamma",
    "gamma": "gamma",
    "bias": "beta",
    "beta": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
DENSE_TENSORS = {"weight": "kernel", "kernel": "kernel", "bias": "bias"}


class Tensor(NamedTuple):
    """One weight in our layout, and the names of the source's tensors that make it up."""

    names: tuple[str, ...]
    array: np.ndarray


class Row(NamedTuple):
    """A row of a table, compiled: the patterns of the parts, our paths, their tensors by the source's names."""

    patterns: tuple[re.Pattern, ...]
    paths: tuple[str, ...]
    tensors: Mapping[str, str]
    layout: Callable


@dataclass(frozen=True)
class Table:
    """How one source names the weights of one family.

    Attributes:
        rows: (name, path) or (name, path, layout), see above. Several names are parts of one weight, laid side by
            side on the last axis once all are there; several paths are the weights that the layout makes of one tensor.
        layout: of the rows without their own; gives a tensor in our layout.
        first: where the source's numbers start, by what the rows call them; 0 if not listed here.
        prefix, suffix: of every name, such as "(vit.)?" where a part of the source's models lacks it.
    """

    rows: tuple[tuple, ...]
    layout: Callable[[np.ndarray], np.ndarray] = torch_layout
    first: Mapping[str, int] = field(default_factory=dict)
    prefix: str = ""
    suffix: str = ""

    def convert(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """{our weight's path: Tensor} of the source's arrays, without names that no row has."""
        parts_by_paths = {}
        for name, array in arrays.items():
            for row, part, match in self.matches(name):
                paths = tuple(self._our_path(path, match, row.tensors) for path in row.paths)
                parts = parts_by_paths.setdefault(paths, [None] * len(row.patterns))
                parts[part] = Tensor((name,), row.layout(array))
        weights = {}
        for paths, parts in parts_by_paths.items():
            if all(parts):
                weights |= _split(paths, _join(parts))
        return weights

    def matches(self, name: str) -> list[tuple[Row, int, re.Match]]:
        """(row, number of the part, match) of every row that has the name: one at most, in a table without mistakes."""
        found = ((row, part, p.fullmatch(name)) for row in self.compiled_rows for part, p in enumerate(row.patterns))
        return [(row, part, match) for row, part, match in found if match]

    def has(self, pattern: str, names: Iterable[str]) -> bool:
        """Whether one of the names is `pattern`, written like the rows' and with the same prefix and suffix."""
        return any(map(self._compile(pattern).fullmatch, names))

    @functools.cached_property
    def compiled_rows(self) -> tuple[Row, ...]:
        """The rows, in order."""
        rows = []
        for names, paths, *layout in self.rows:
            paths = _tuple(paths)
            tensors = NORM_TENSORS if paths[0].removesuffix("/*").endswith("norm") else DENSE_TENSORS
            patterns = tuple(self._compile(name, tensors) for name in _tuple(names))
            rows.append(Row(patterns, paths, tensors, *(layout or [self.layout])))
        return tuple(rows)

    def _compile(self, name, tensors=()):
        pattern = f"{self.prefix}{name}{self.suffix}".replace(".", r"\.")
        pattern = pattern.replace("*", f"(?P<tensor>{'|'.join(tensors)})")
        return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[0-9]+)", pattern))

    def _our_path(self, path, match, tensors):
        groups = match.groupdict()
        tensor = tensors.get(groups.pop("tensor", None), "")
        for key, text in groups.items():
            if text.isdigit():
                groups[key] = int(text) + 1 - self.first.get(key, 0)
        return path.format(**groups).replace("*", tensor)


def below(theirs: str, ours: str, rows: tuple[tuple, ...]) -> tuple[tuple, ...]:
    """The rows of a module as rows of a network that holds it: `theirs` begins their names, `ours` our paths."""
    return tuple(
        (tuple(theirs + name for name in _tuple(names)), tuple(ours + path for path in _tuple(paths)), *layout)
        for names, paths, *layout in rows
    )


def _tuple(texts):
    return (texts,) if isinstance(texts, str) else texts


def _join(parts):
    """Queries, keys and values as one matrix or bias."""
    if len(parts) == 1:
        return parts[0]
    names = sum((part.names for part in parts), ())
    return Tensor(names, np.concatenate([part.array for part in parts], axis=-1))


def _split(paths, tensor):
    """{path: Tensor} of what a layout gave: one array, or one for each of several paths."""
    arrays = (tensor.array,) if len(paths) == 1 else tensor.array
    return {path: Tensor(tensor.names, array) for path, array in zip(paths, arrays, strict=True)}
