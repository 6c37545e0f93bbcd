"""Asking a run to stop: Ctrl-C and SIGTERM."""

import os
import signal
import time
from typing import Any

WATCHED = "TFVT_WATCHED"  # in the environment of a process that another one of tfvt watches: the other's id
REPEATED_SECONDS = 5.0


class Interrupted(Exception):  # noqa: N818 (no error)
    """The run was asked to stop, has saved its state and can be resumed."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


class StopRequest:
    """While entered, Ctrl-C and SIGTERM wait until `check` is called; a second one acts at once."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.previous: dict[signal.Signals, Any] = {}

    def __enter__(self):
        self.previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_):
        self._restore()

    def check(self) -> None:
        """Raise `Interrupted` if a signal has arrived."""
        if self.signal_number is not None:
            raise Interrupted(self.signal_number)

    def _note(self, number, frame):
        if WATCHED in os.environ:
            # A terminal or a scheduler signals the whole group, and the watching process passes it on as well.
            if self.signal_number is None:
                self.signal_number, self.noted = number, time.monotonic()
            elif time.monotonic() - self.noted > REPEATED_SECONDS:
                self._restore()
                os.kill(os.getpid(), number)
            return
        self.signal_number = number
        self._restore()

    def _restore(self):
        for number, handler in self.previous.items():
            signal.signal(number, handler)
