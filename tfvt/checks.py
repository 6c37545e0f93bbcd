"""Checks of arguments: errors that name the argument and the allowed values."""

import math
import numbers
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


def check_choice(argument: str, value: Any, allowed: Iterable[Any]) -> None:
    """Raise a ValueError that names `argument` and the allowed values unless `value` is one of them."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise ValueError(f"{argument}={value!r}: expected one of {', '.join(map(repr, allowed))}")


def _integers(least: int, most: int):
    return numbers.Integral, least, most, f"an integer of at least {least} and at most {most}"


# The range of every number of a builder or a layer, by the last words of its argument's name: its type, the smallest
# and the largest value, and both in words. The largest values are far beyond what anybody builds: they stop a typing
# mistake before it takes all memory. NaN lies in no range.
RANGES = {
    ("rate", "momentum"): (numbers.Real, 0, math.nextafter(1, 0), "a number of at least 0 and below 1"),
    ("epsilon",): (numbers.Real, 1e-30, 0.1, "a number of at least 1e-30 and at most 0.1"),  # in float32 not yet zero
    ("stddev",): (numbers.Real, 0, 10, "a number of at least 0 and at most 10"),
    ("pixel_mean",): (numbers.Real, -1e6, 1e6, "a number of at least -1e6 and at most 1e6"),
    ("pixel_std",): (numbers.Real, 1e-6, 1e6, "a number of at least 1e-6 and at most 1e6"),
    ("num_classes",): _integers(1, 10_000_000),
    ("depths", "tower_depth", "layers", "num_modules", "num_relations"): _integers(1, 1000),
    ("max_pixels",): _integers(1, 2**40),
    ("iterations", "extra_levels"): _integers(0, 1000),
    ("weights", "weight", "beta"): (numbers.Real, 0, 1000, "a number of at least 0 and at most 1000"),
    ("sampled_proposals",): _integers(4, 2**20),  # one positive among four
    ("samples",): _integers(1, 64),
    ("candidates", "max_detections", "proposals", "sampled_anchors"): _integers(1, 2**20),
    ("prior",): (numbers.Real, 1e-6, 1 - 1e-6, "a number of at least 1e-6 and below 1"),
    ("threshold", "overlap", "overlaps", "fraction"): (numbers.Real, 0, 1, "a number of at least 0 and at most 1"),
    ("kernel_size", "window_size"): _integers(1, 255),
    ("shift_size",): _integers(0, 254),
    ("input_shape", "positions_shape"): _integers(1, 16384),
    ("grid", "window"): _integers(1, 2**20),
    ("filters", "units", "width", "dim", "channels"): _integers(1, 65536),
    ("heads", "tokens", "groups", "share", "ratio", "per_pixel"): _integers(1, 65536),
    ("patch_size", "strides", "stride", "reduction", "factor"): _integers(1, 65536),
}
SEQUENCES = (
    *("depths", "grid", "pool_grid", "window", "input_shape", "positions_shape", "pixel_mean", "pixel_std"),
    *("stage_overlaps", "stage_weights"),
)


def plain(value: Any) -> Any:
    """`value` with Python's own numbers in place of NumPy's, which Keras refuses in many places; also in a sequence."""
    if isinstance(value, np.generic):
        return value.item()
    return type(value)(map(plain, value)) if type(value) in (list, tuple) else value


def check_arguments(hints: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Raise a ValueError that names the first of `arguments` outside what its type and its range allow.

    Args:
        hints: name -> type, of a signature. `Literal` gives the choices.
        arguments: name -> value. The check skips those without a type.
    """
    for argument, value in arguments.items():
        if argument in hints:
            _check_type(argument, value, hints[argument])
    check_numbers(arguments)


def _check_type(argument, value, hint):
    kinds = (hint, *typing.get_args(hint))
    choices = next((typing.get_args(kind) for kind in kinds if typing.get_origin(kind) is typing.Literal), None)
    if value is None:
        if type(None) not in kinds:
            raise ValueError(f"{argument}=None: expected a value")
    elif choices:
        check_choice(argument, value, choices)
    elif bool in kinds and not isinstance(value, bool):
        raise ValueError(f"{argument}={value!r}: expected True or False")
    elif tuple in map(typing.get_origin, kinds) and not isinstance(value, tuple | list):
        example = " of levels such as ('P3', 'P4')" if argument == "features" else ""
        raise ValueError(f"{argument}={value!r}: expected a sequence{example}")


def check_numbers(arguments: Mapping[str, Any], prefix: str = "") -> None:
    """Raise a ValueError that names the first of `arguments` outside its range, and the range.

    Args:
        arguments: name -> value. The check skips what `RANGES` does not name, and None. It looks into a dict, such as
            the options of a norm, as if its entries were arguments themselves.
        prefix: in front of the names in the message.
    """
    for name, value in arguments.items():
        if isinstance(value, Mapping):
            check_numbers(value, f"{prefix}{name}.")
            continue
        allowed = next((r for words, r in RANGES.items() if any(f"_{name}".endswith(f"_{w}") for w in words)), None)
        if allowed is None or value is None:
            continue
        several = name in SEQUENCES and isinstance(value, list | tuple)
        unknown = (None,) if name == "input_shape" else ()  # a height or width
        if not all(number in unknown or _in_range(number, allowed) for number in (value if several else [value])):
            expected = f"every value to be {allowed[-1]}" if several else allowed[-1]
            raise ValueError(f"{prefix}{name}={value!r}: expected {expected}")


def _in_range(value, allowed):
    kind, least, most, _ = allowed
    return isinstance(value, kind) and not isinstance(value, bool) and least <= value <= most
