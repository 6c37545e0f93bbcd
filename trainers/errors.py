"""The one exception that the command line turns into one line, and how its text is made."""

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """A mistake of the user's making: the message says what is wrong, where, and what to do about it."""


def unknown_key(key: str, known: Iterable[str]) -> UsageError:
    """An error that names `key` and those of the `known` keys that look like it."""
    near = difflib.get_close_matches(key, sorted(known), n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(sorted(known))}"
    return UsageError(f"there is no key {key}; {hint}")


def one_line(error: Exception) -> str:
    """The text of `error` without its line breaks."""
    return " ".join(str(error).split())
