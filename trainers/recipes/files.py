"""Recipe files: those that come with tfvt, by name, and YAML in which every key occurs once."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from tfvt.errors import UsageError, one_line
from tfvt.stores import StorePath, as_path


def packaged_recipes() -> dict[str, Path]:
    """The recipes that come with tfvt, by name."""
    found = (Path(str(file)) for file in files("tfvt.configs").iterdir())
    return {path.stem: path for path in sorted(found) if path.suffix == ".yaml"}


def find_recipes(arguments: Sequence[str]) -> list[str]:
    """`arguments` with a path in place of the name of a packaged recipe after `--config`.

    An existing file of that name comes first.

    Raises:
        UsageError: neither a file nor a packaged recipe; the message names recipes like it.
    """
    found = list(arguments)
    for position, argument in enumerate(found):
        flag, equals, name = argument.partition("=")
        if flag != "--config":
            continue
        if equals:
            found[position] = f"--config={_find(name)}"
        else:
            found[position + 1 : position + 2] = [_find(*found[position + 1 : position + 2] or [""])]
    return found


def with_contents(arguments: Sequence[str]) -> list[str]:
    """`arguments` with the text of recipes in stores in place of their addresses: the parser reads only disks."""
    found = list(arguments)
    for position, argument in enumerate(found):
        flag, equals, name = argument.partition("=")
        if flag == "--config":
            place = position if equals else position + 1
            path = as_path(name if equals else found[place])
            if isinstance(path, StorePath):
                found[place] = f"{flag}{equals}{path.read_text()}" if equals else path.read_text()
    return found


def _find(name: str) -> str:
    if not name:
        raise UsageError("--config: expected a file, or a name of `tfvt recipes`")
    packaged, stem = packaged_recipes(), name.removesuffix(".yaml")
    path = as_path(name)
    if path.is_file() or (stem not in packaged and (path.exists() or "/" in name)):
        return name
    if stem in packaged:
        return str(packaged[stem])
    near = get_close_matches(stem, packaged, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`tfvt recipes` lists the recipes that come with tfvt"
    raise UsageError(f"--config: there is no file and no recipe {name!r}; {hint}")


class _PlainLoader(yaml.SafeLoader):
    """YAML without repeated keys (plain YAML would silently take the last one) and without aliases.

    A few lines of aliases can refer to themselves, or stand for more values than any memory holds.
    """

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise UsageError(f"line {event.start_mark.line + 1} has the alias *{event.anchor}: write its value there")
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        keys: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in keys:
                raise UsageError(f"the key {key.value} is given twice, again in line {key.start_mark.line + 1}")
            keys.add(str(key.value))
        return node


def read_recipe_file(path: str) -> Mapping[str, Any]:
    """The YAML file `path` as nested keys.

    Raises:
        UsageError: the file does not exist or is not such YAML; the message names it.
    """
    try:
        tree = yaml.load(as_path(path).read_text(encoding="utf-8"), _PlainLoader)
    except OSError as error:
        raise UsageError(f"--config: cannot read {path!r}: {error.strerror}") from error
    except UsageError as error:
        raise UsageError(f"--config: {path}: {error}") from error
    except RecursionError as error:
        raise UsageError(f"--config: {path} is nested too deeply") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:  # ValueError: a date such as 2026-99-99
        raise UsageError(f"--config: {path} is not YAML: {one_line(error)}") from error
    if not isinstance(tree, Mapping):
        raise UsageError(f"--config: {path} holds no keys; a recipe is a mapping such as `epochs: 90`")
    return tree
