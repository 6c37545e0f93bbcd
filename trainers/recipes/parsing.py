"""Recipes from YAML files and flags, and back.

A flag overrides one key (`--optimizer.learning_rate 0.1`). A key that does not exist, a value of the wrong type or an
unknown choice raises an error that names the key.
"""

import dataclasses
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from tfvt.errors import UsageError
from tfvt.files import write_whole
from tfvt.stores import AnyPath
from tfvt.trainers.errors import parser_error, unknown_key
from tfvt.trainers.tasks import task_class

from .files import find_recipes, read_recipe_file, with_contents
from .plain import as_plain, flatten
from .recipe import Recipe


def recipe_parser(recipe_class: type[Recipe]) -> ArgumentParser:
    """The parser of a task's recipe: `--config FILE` and one flag a key."""
    parser = ArgumentParser(exit_on_error=False, prog="tfvt train")
    parser.add_argument(
        "--config",
        action="config",
        help="recipe: a YAML file, or a name of `tfvt recipes`; later flags override its keys",
    )
    parser.add_class_arguments(recipe_class)
    return parser


def parse_recipe(arguments: Sequence[str]) -> Recipe:
    """The recipe that `--config FILE` (or the name of a packaged one) and flags describe.

    Raises:
        UsageError: a key or file that does not exist, a wrong type, or a bad choice.
    """
    arguments = find_recipes(arguments)
    given = _given_keys(arguments)
    recipe_class = task_class(str(given.get("model.name"))).recipe_class
    known = dict(_keys(recipe_class))
    for key in given:
        below = sorted(name for name in known if name.startswith(f"{key}."))
        if below:
            raise UsageError(f"{key} takes keys such as {below[0]}, not a value of its own")
        if key not in known and not any(key.startswith(f"{name}.") for name in _mappings(known)):
            raise unknown_key(key, known)
    parser = recipe_parser(recipe_class)
    try:
        settings = parser.parse_args(with_contents(arguments))
    except ArgumentError as error:
        raise parser_error(error) from error
    except RecursionError as error:
        raise UsageError("a value is nested too deeply") from error
    except OverflowError as error:
        raise UsageError(f"a number is too large: {error}") from error
    try:
        recipe = parser.instantiate(settings)
        return recipe_class(**{part.name: recipe[part.name] for part in dataclasses.fields(recipe_class)})
    except ValueError as error:  # of the preprocessing
        raise UsageError(f"{_wrong_part(recipe_class, settings) or 'data'}: {error}") from error


def _wrong_part(part_class: type, settings: Namespace, prefix: str = "") -> str | None:
    """The first part of a recipe, such as `data.train`, whose values its class refuses."""
    hints = typing.get_type_hints(part_class)
    parts = [part.name for part in dataclasses.fields(part_class) if dataclasses.is_dataclass(hints[part.name])]
    for name in parts:
        if found := _wrong_part(hints[name], settings[name], f"{prefix}{name}."):
            return found
    if parts:  # it cannot be made of values alone
        return None
    try:
        part_class(**vars(settings))
    except ValueError:
        return prefix.rstrip(".")
    return None


def write_recipe(recipe: Recipe, path: AnyPath) -> None:
    """Write every key of `recipe` to the YAML file `path`, which `--config` reads back."""
    write_whole(path, yaml.safe_dump(as_plain(recipe), sort_keys=False).encode())


def _keys(recipe_class: type, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """The keys that can be set, `optimizer.learning_rate` and the like, with their types."""
    hints = typing.get_type_hints(recipe_class)
    for part in dataclasses.fields(recipe_class):
        if dataclasses.is_dataclass(hints[part.name]):
            yield from _keys(hints[part.name], f"{prefix}{part.name}.")
        else:
            yield f"{prefix}{part.name}", hints[part.name]


def _mappings(keys: Mapping[str, Any]) -> list[str]:
    """Keys that hold keys of the user's, such as `model.options` and `distribution.layout`."""
    return [name for name, kind in keys.items() if typing.get_origin(kind) is dict]


def _given_keys(arguments: Sequence[str]) -> dict[str, Any]:
    """The keys that flags and `--config` files set, as they are spelt there, with their values."""
    given: dict[str, Any] = {}
    words = [part for argument in arguments for part in argument.split("=", 1)]
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "--config":
            given |= flatten(read_recipe_file(following))
        elif word.startswith("--"):
            given[word.removeprefix("--")] = following
    return given
