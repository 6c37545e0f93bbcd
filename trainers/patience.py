"""Patience with a shared folder: what fails while it is away is tried again for a minute."""

import errno
import re
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import tensorflow as tf

from tfvt.errors import UsageError, one_line
from tfvt.files import disk_is_full

T = TypeVar("T")

WAITS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)  # seconds before each further try
# What network file systems say while their server cannot be reached, or restarts.
AWAY = {
    number
    for name in (
        *("ENOENT", "ENOTDIR", "EIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "ECONNRESET", "ECONNABORTED", "EREMOTEIO"),
        *("EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "EAGAIN", "ENODEV", "ENXIO"),
    )
    if (number := getattr(errno, name, None)) is not None
}
# What TensorFlow makes of these, where it reads or writes.
AWAY_IN_TENSORFLOW = (
    *(tf.errors.NotFoundError, tf.errors.UnknownError, tf.errors.UnavailableError, tf.errors.FailedPreconditionError),
    tf.errors.DeadlineExceededError,
)


def is_away(error: BaseException | None) -> bool:
    """Whether a folder that cannot be reached explains the error, or what it came from."""
    if disk_is_full(error):  # stores and libraries say other things on top of it
        return False
    while error is not None:
        in_text = re.search(r"\(os error (\d+)\)", str(error))  # of libraries in Rust
        number = error.errno if isinstance(error, OSError) else in_text and int(in_text[1])
        # A library raises FileNotFoundError without a number.
        if number in AWAY or isinstance(error, (FileNotFoundError, *AWAY_IN_TENSORFLOW)):
            return True
        error = error.__cause__
    return False


def patiently(action: Callable[[], T], may_pass: Callable[[Exception], bool] = is_away) -> T:
    """What `action` gives. It is called again while it fails with an OSError or UsageError that may pass.

    Raises:
        Exception: of the last try, or one that time does not change, such as that of a full disk.
    """
    for wait in WAITS:
        try:
            return action()
        except (OSError, UsageError) as error:
            if not may_pass(error):
                raise
            if wait == WAITS[0]:
                seconds = sum(WAITS)
                print(f"tfvt train: {one_line(error)}: trying again for {seconds:.0f} s", file=sys.stderr, flush=True)
        time.sleep(wait)
    return action()
