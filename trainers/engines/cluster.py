"""The processes of one training: who they are, what they tell each other, and which of them has gone."""

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import numpy as np

from tfvt.errors import UsageError, one_line
from tfvt.trainers.recipes.recipe import DistributionRecipe

LOST_STATUS = 75  # EX_TEMPFAIL: another process has gone, and the same command with --resume continues
PROBE_SECONDS = 2.0
MOST_CALLS = 16.0  # between two questions whether to stop: an evaluation's batches may take longer than steps
TEXT_BYTES = 2000  # of a message between processes


class LostProcessError(UsageError):
    """Another process of the training has gone, and a step needs all of them."""


@dataclass(frozen=True)
class Cluster:
    """The processes' addresses (host:port), the chief's first, and the place of this one."""

    addresses: tuple[str, ...]
    index: int

    def missing(self) -> list[int]:
        """The processes at whose addresses nothing listens any more."""
        return [index for index, address in enumerate(self.addresses) if index != self.index and not _listens(address)]


def find_cluster(recipe: DistributionRecipe, worker: int | None) -> Cluster | None:
    """The processes that the recipe, the flag `--worker` or TF_CONFIG name; None: there is only this one, or the engine
    finds them itself.

    Raises:
        UsageError: they contradict each other, or something is missing.
    """
    if recipe.strategy != "multi_worker":
        if worker is not None:
            raise UsageError(f"--worker is for distribution.strategy multi_worker, not {recipe.strategy}")
        return None
    try:
        config = json.loads(os.environ.get("TF_CONFIG") or "{}")
        named = config.get("cluster", {})
        addresses = recipe.workers or tuple(
            str(address) for kind in ("chief", "worker") for address in named.get(kind, ())
        )
        task = config.get("task", {})
        offset = len(named.get("chief", ())) if task.get("type") == "worker" else 0
        index = int(task["index"]) + offset if worker is None and task else worker
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"TF_CONFIG cannot be read ({error!r})") from error
    if not addresses:
        if index is not None:
            raise UsageError("--worker needs the addresses of all processes: distribution.workers or TF_CONFIG")
        return None
    if index is None:
        raise UsageError(f"which of the {len(addresses)} processes is this one? Say --worker 0 to {len(addresses) - 1}")
    if not 0 <= index < len(addresses):
        raise UsageError(f"--worker {index}: there are {len(addresses)} processes, 0 to {len(addresses) - 1}")
    if len(set(addresses)) < len(addresses):
        raise UsageError("distribution.workers names an address twice")
    for address in addresses:
        _host_and_port(address)
    return Cluster(tuple(addresses), index)


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"distribution.workers: {address!r} is not host:port")
    return host.strip("[]"), int(port)


def _listens(address: str) -> bool:
    try:
        socket.create_connection(_host_and_port(address), timeout=PROBE_SECONDS).close()
    except OSError:
        return False
    return True


class Processes(Protocol):
    """All processes of a training. They call `gather` together."""

    index: int
    count: int

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Each process's `values` (float32 (K,)), in order: (processes, K)."""


class Alone:
    """The only process."""

    index, count = 0, 1

    def gather(self, values: np.ndarray) -> np.ndarray:
        """The process's own values."""
        return np.asarray(values)[None]


class Agreement:
    """Whether any process has been asked to stop: all get the same answer in the same call.

    Asking costs milliseconds, and a step may take as few. So the processes ask about once a second, after a number of
    calls on which they agree as well.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.calls = 0
        self.calls_to_wait = 1
        self.last = time.perf_counter()

    def __call__(self, signal_number: int | None) -> int | None:
        """The signal that a process has received, the largest number if several have; None: no process has, or none
        has asked yet.
        """
        if self.processes.count == 1:
            return signal_number
        self.calls += 1
        if self.calls < self.calls_to_wait:
            return None
        now = time.perf_counter()
        rate = min(self.calls / max(now - self.last, 1e-3), MOST_CALLS)
        signals, rates = self.processes.gather(np.array([signal_number or 0, rate], np.float32)).T
        self.calls, self.calls_to_wait, self.last = 0, max(1, int(rates.min())), now
        return int(signals.max()) or None


def describe(count: int, kinds: Iterable[str], processes: int, deterministic: bool) -> str:
    """The devices of a run, in words: "2 CPU devices of 2 processes, deterministic operations"."""
    devices = f"{count} {' and '.join(sorted(kinds)) or 'CPU'} device{'s' if count > 1 else ''}"
    of = f" of {processes} processes" if processes > 1 else ""
    return f"{devices}{of}, {'' if deterministic else 'not '}deterministic operations"


def from_chief(processes: Processes, text: str) -> str:
    """The chief's `text` in all processes, up to 2000 bytes of it."""
    if processes.count == 1:
        return text
    values = np.zeros(TEXT_BYTES, np.float32)
    if processes.index == 0:
        encoded = text.encode("utf-8", "backslashreplace")[:TEXT_BYTES]
        values[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    received = processes.gather(values)[0].astype(np.uint8).tobytes().rstrip(b"\0")
    return received.decode("utf-8", "ignore")


def on_chief(processes: Processes, action: Callable[[], Any]) -> None:
    """Let the chief do something that may fail; then all processes fail alike.

    Raises:
        UsageError: what `action` raised in the chief.
    """
    error: Exception | None = None
    if processes.index == 0:
        try:
            action()
        except (UsageError, OSError) as raised:
            error = raised
    text = from_chief(processes, one_line(error) if error else "")
    if error:
        raise error
    if text:
        raise UsageError(text)


def end(status: int) -> NoReturn:
    """End this process at once: the runtimes would wait for processes that wait for this one, or are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def lost_process(cluster: Cluster | None, reason: str) -> LostProcessError:
    """The error for a step that failed because another process has gone."""
    missing = missing_now(cluster)
    who = _named(cluster, missing) if missing else "another process"
    return LostProcessError(
        f"{who} of this training has gone, and a step needs all of them ({reason}): start all of them again with "
        "--resume"
    )


def missing_now(cluster: Cluster | None) -> list[int]:
    """The processes that have gone; the system is perhaps still closing their sockets."""
    missing = cluster.missing() if cluster else []
    deadline = time.monotonic() + PROBE_SECONDS
    while cluster and not missing and time.monotonic() < deadline:
        time.sleep(0.05)  # a queue of connections that nobody accepts would fill up
        missing = cluster.missing()
    return missing


def _named(cluster: Cluster, missing: Sequence[int]) -> str:
    names = ", ".join(f"{index} ({cluster.addresses[index]})" for index in missing)
    return f"process {names}" if len(missing) == 1 else f"processes {names}"
