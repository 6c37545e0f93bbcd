"""Batches that come again where a shared folder was away."""

from collections.abc import Callable, Iterator
from typing import Any

from tfvt.data.records import RecordSet, open_records
from tfvt.errors import UsageError

from .engines.engine import ServersGoneError
from .patience import patiently


class PatientBatches:
    """Batches of records that are read again, from the first missing batch on, after their folder was away."""

    def __init__(self, make: Callable[[int], Iterator], records: RecordSet) -> None:
        """`make(n)` gives the batches of `records` from number n on."""
        self.make = make
        self.records = records
        self.fetched = 0
        self.batches = make(0)

    def __iter__(self) -> "PatientBatches":
        return self

    def __next__(self) -> Any:
        try:
            batch = next(self.batches)
        except ServersGoneError:
            raise
        except UsageError:
            patiently(lambda: open_records(self.records.directory, self.records.split), may_pass=lambda _: True)
            self.batches = self.make(self.fetched)
            batch = next(self.batches)  # fails again where the record is damaged
        self.fetched += 1
        return batch

    @property
    def iterator(self) -> Any:
        """The engine's own iterator, for a compiled call of several steps. That call has no second try."""
        return self.batches.iterator
