"""Batches that come again where a shared folder was away."""

from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tfvt.data.records import RecordSet, open_records
from tfvt.errors import UsageError

from .engines.engine import ServersGoneError
from .patience import is_away, patiently

DAMAGED = (tf.errors.InvalidArgumentError, tf.errors.DataLossError)  # time does not mend these


class PatientBatches:
    """Batches of records that are read again, from the first missing batch on, after their folder was away."""

    def __init__(self, make: Callable[[int], Iterator], records: RecordSet) -> None:
        """`make(n)` gives the batches of `records` from number n on, without fetching those before it."""
        self.make = make
        self.records = records
        self.fetched = 0
        self.batches = patiently(lambda: make(0))

    def __iter__(self) -> "PatientBatches":
        return self

    def __next__(self) -> Any:
        """The next batch.

        Raises:
            UsageError: a record is damaged, the folder stays away, or other records have taken the place of these.
        """
        try:
            batch = next(self.batches)
        except ServersGoneError:
            raise
        except (UsageError, OSError):
            self._wait_for_records()
            batch = patiently(self._again, may_pass=_may_pass)
        self.fetched += 1
        return batch

    def _wait_for_records(self):
        directory, split = self.records.directory, self.records.split
        found = patiently(lambda: open_records(directory, split), may_pass=lambda _: True)
        if found.digest != self.records.digest:
            raise UsageError(f"split {split!r} of {directory} was away and came back with other records: the run ends")

    def _again(self):
        self.batches = self.make(self.fetched)
        return next(self.batches)

    def iterator_for(self, count: int) -> Any:
        """The engine's own iterator, for a compiled call that takes `count` batches. It has no second try."""
        self.fetched += count
        return self.batches.iterator_for(count)


def _may_pass(error):
    cause = error.__cause__
    return is_away(error) or (isinstance(cause, tf.errors.OpError) and not isinstance(cause, DAMAGED))
