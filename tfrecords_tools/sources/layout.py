"""The small YAML file that says where the images and masks of a segmentation set are, and what their ids mean."""

import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from tfvt.data.records import VOID, counted
from tfvt.errors import UsageError

from .source import some

LAYOUTS = Path(__file__).parent.parent / "layouts"
SPLITS = ("train", "validation", "test")
KINDS = {"masks": "folder", "annotations": "path"}


@dataclass(frozen=True)
class Layout:
    """Where images and masks are, and what the ids in the masks mean.

    Attributes:
        splits: split -> (folder of the images, folder of the masks), relative to the source.
        class_names: in the order of the classes 0, 1, ...
        mask_ids: stored id -> class, `VOID` for none.
    """

    splits: dict[str, tuple[str, str]]
    class_names: tuple[str, ...]
    mask_ids: dict[int, int]


def read_layout(layout: Path | str) -> Layout:
    """A layout from a YAML file, or by the name of one that comes with tfvt, such as `ade20k`.

    Raises:
        UsageError: there is no such file, or one of its keys is wrong.
    """
    path, content = _read(layout, "splits", "classes", "void_label")
    splits = _splits(path, content, ("images", "masks"))
    classes = content.get("classes")
    _require(
        path,
        isinstance(classes, dict) and all(_is_id(number) and isinstance(name, str) for number, name in classes.items()),
        "classes must map ids of the masks to names, such as 1: wall",
    )
    void = content.get("void_label", [])
    void = void if isinstance(void, list) else [void]
    _require(path, all(map(_is_id, void)), "void_label must be an id of the masks, or a list of them")
    both = [str(number) for number in void if number in classes]
    _require(path, not both, f"the id {some(both)} is both a class and void_label")
    names = tuple(dict.fromkeys(classes.values()))  # ids of one name are one class
    _require(path, 2 <= len(names) <= VOID, f"{counted(len(names), 'class')}: a mask of 8 bits holds 2 to {VOID}")
    return Layout(
        splits=splits,
        class_names=names,
        mask_ids={number: names.index(name) for number, name in classes.items()} | dict.fromkeys(void, VOID),
    )


def read_box_layout(layout: Path | str) -> dict[str, tuple[str, str]]:
    """Split -> (folder of the images, COCO's JSON file), relative to the source, from a YAML file.

    Raises:
        UsageError: there is no such file, or one of its keys is wrong.
    """
    path, content = _read(layout, "splits")
    return _splits(path, content, ("images", "annotations"))


def is_box_layout(layout: Path | str) -> bool:
    """Whether a layout names annotations in the place of masks; False also if it cannot be told."""
    try:
        splits = _read(layout, "splits", "classes", "void_label")[1]["splits"]
        return any("annotations" in folders for folders in splits.values())
    except (UsageError, KeyError, TypeError, AttributeError):
        return False


def _read(layout, *keys):
    """(path, content) of a YAML file with these keys, of which the last may be missing if there are several."""
    ready = {path.stem: path for path in sorted(LAYOUTS.glob("*.yaml"))}
    path = ready.get(os.fspath(layout), Path(layout))
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader)  # a SafeLoader
    except OSError as error:
        raise UsageError(
            f"layout {layout} cannot be read ({error.strerror}): give a YAML file, or one of {', '.join(ready)}"
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UsageError(f"layout {path} is not YAML: {error.problem}{place}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"layout {path} is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise UsageError(f"layout {path} is nested too deeply: expected the keys {', '.join(keys)}") from None
    expected = " and perhaps ".join(filter(None, (", ".join(keys[:-1]), keys[-1])))
    _require(path, isinstance(content, dict), f"expected the keys {expected}")
    strange = [str(key) for key in content if key not in keys]
    _require(path, not strange, f"unknown key {some(strange)}; expected {expected}")
    return path, content


def _splits(path, content, places):
    """Split -> its two places."""
    splits = content.get("splits")
    _require(
        path,
        isinstance(splits, dict) and splits and set(splits) <= set(SPLITS),
        f"splits must have one or more of the keys {', '.join(SPLITS)}",
    )
    for split, named in splits.items():
        _require(
            path,
            isinstance(named, dict)
            and set(named) == set(places)
            and all(isinstance(place, str) for place in named.values()),
            f"splits: {split} must have the keys {' and '.join(places)}, each with a {KINDS[places[1]]}",
        )
    return {split: tuple(splits[split][place] for place in places) for split in SPLITS if split in splits}


def _require(path, condition, problem):
    if not condition:
        raise UsageError(f"layout {path}: {problem}")


def _is_id(number):
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses equal keys, of which PyYAML takes the last; an id that is given twice is a mistake."""

    def construct_mapping(self, node, deep=False):
        keys = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in keys:
                line = key.start_mark.line + 1
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice, again in line {line}")
            keys.add(key.value)
        return super().construct_mapping(node, deep)
