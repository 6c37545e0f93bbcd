"""Options of models, typed by their builders' signatures. Free of TensorFlow: `tfvt profile` uses it."""

from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from tfvt import registry
from tfvt.errors import UsageError
from tfvt.trainers.errors import parser_error, unknown_key


def add_options(parser: ArgumentParser, name: str) -> None:
    """Add a flag to `parser` for every option of the model `name`, with the model's default."""
    variant = registry.get_variant(name)
    parser.add_function_arguments(variant.builder, skip=set(registry.COMMON_ARGUMENTS), as_group=False)
    parser.set_defaults(variant.row)
    for action in parser._actions:  # what the builder requires and the model's row gives
        action.required = action.required and action.dest not in variant.row


def check_options(name: str, options: Mapping[str, Any], part: str = "model") -> dict[str, Any]:
    """`options` of the model `name` as values of their types. `part` is the recipe's part that holds them.

    Raises:
        UsageError: an unknown model, a name that is not one of its options, or a value of another type.
    """
    try:
        known = registry.option_names(name)
    except ValueError as error:
        raise UsageError(f"model.name: {error}") from error
    for option in options:
        if option not in known:
            raise unknown_key(f"{part}.options.{option}", [f"{part}.options.{known_name}" for known_name in known])
    parser = ArgumentParser(exit_on_error=False)
    add_options(parser, name)
    try:
        checked = parser.parse_object(dict(options)).as_dict()
    except ArgumentError as error:
        raise UsageError(str(parser_error(error)).replace('key "', f'key "{part}.options.')) from error
    return {option: _plain(checked[option]) for option in options}


def _plain(value: Any) -> Any:
    """`value` with dicts in place of namespaces, which represent dataclasses inside a tuple."""
    if isinstance(value, Namespace):
        return value.as_dict()
    return tuple(_plain(entry) for entry in value) if isinstance(value, tuple) else value
