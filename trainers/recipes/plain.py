"""Recipes as plain values, which YAML and JSON can hold."""

import dataclasses
from collections.abc import Mapping
from typing import Any


def as_plain(value: Any) -> Any:
    """`value` (a dataclass, a tuple, ...) as plain values: dicts, lists and scalars."""
    if dataclasses.is_dataclass(value):
        return {part.name: as_plain(getattr(value, part.name)) for part in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [as_plain(entry) for entry in value]
    return value


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as one level: `{"optimizer": {"name": "sgd"}}` becomes `{"optimizer.name": "sgd"}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
