"""The one exception that the command line turns into a message, and how it does."""

import sys

USAGE_STATUS = 2  # the exit status of a command that a mistake ended


class UsageError(Exception):
    """A user's mistake, or damaged input: the text says what is wrong, where, and what to do about it."""


class WriteError(OSError):
    """A file that cannot be written: the disk is full, or the folder is not writable."""


def complain(command: str, error: Exception | str) -> int:
    """Print what ended a command, and return its exit status. Of an OSError, say which file it is about."""
    if isinstance(error, OSError):  # a folder that is not writable, a full disk
        place = f"{error.filename}: " if error.filename else ""
        error = f"{'cannot write ' if isinstance(error, WriteError) else ''}{place}{error.strerror or error}"
    print(f"tfvt {command}: error: {error}", file=sys.stderr)
    return USAGE_STATUS


def one_line(error: Exception) -> str:
    """The text of `error` without its line breaks."""
    return " ".join(str(error).split())
