"""Arguments that are wrong: errors that name the argument and the allowed values."""

import numbers
from collections.abc import Iterable
from typing import Any


def check_choice(argument: str, value: Any, allowed: Iterable[Any]) -> None:
    """Raise a ValueError that names `argument` and the allowed values unless `value` is one of them."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise ValueError(f"{argument}={value!r}: expected one of {', '.join(map(repr, allowed))}")


def check_at_least(argument: str, value: Any, least: int) -> None:
    """Raise a ValueError that names `argument` unless `value` is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{argument}={value!r}: expected an integer of at least {least}")


def check_share(argument: str, value: Any) -> None:
    """Raise a ValueError that names `argument` unless `value` is a number of at least 0 and below 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value < 1:
        raise ValueError(f"{argument}={value!r}: expected a number of at least 0 and below 1")
