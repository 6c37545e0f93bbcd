"""Batches from tf.data to the devices, and steps, with TensorFlow's pages of errors shortened to one line."""

import contextlib
import queue
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

import tensorflow as tf

from tfvt.data.service import check_answer
from tfvt.errors import UsageError, one_line

from .engine import ServersGoneError

UNREADABLE = (
    *(tf.errors.InvalidArgumentError, tf.errors.DataLossError, tf.errors.NotFoundError, tf.errors.UnknownError),
    tf.errors.PermissionDeniedError,
)
# The node that fetches a batch, in a call of its own or of a compiled function.
FETCHING = re.compile(r"__wrapped__\w*GetNext|\[\[(\{\{node )?[\w/]*IteratorGetNext")
SIGN_OF_LIFE_SECONDS = 1.0  # between two checks of the servers while a batch is due


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """Report in one line a damaged record, or a file that cannot be read.

    Raises:
        UsageError: the message names the record or file.
    """
    try:
        yield
    except tf.errors.OpError as error:
        # Others, such as UnavailableError, come from the other processes too, unless fetching itself failed.
        fetching = FETCHING.search(error.message) and "Collective" not in error.message
        if not isinstance(error, UNREADABLE) and not fetching:
            raise
        assertion = re.search(r"assertion failed: \[(.*?)\]\s*(\[\[|$)", error.message, re.DOTALL)
        raise UsageError(assertion[1] if assertion else _reason(error.message)) from error


def _reason(message):
    """What went wrong, without the names of TensorFlow's nodes. Of a compiled call, the line before the first."""
    in_graph = re.search(r"([^\n]+)\n\s*\[\[\{\{node", message)
    reason = re.sub(r"\{\{.*?\}\} *| *\[Op:.*", "", in_graph[1] if in_graph else message)
    return re.sub(r"^\s*\(\d+\) [A-Z_]+: |Error in user-defined function .*Iterator::\S+: ", "", reason)


@contextlib.contextmanager
def compilable() -> Iterator[None]:
    """Report in one line a step that XLA cannot compile.

    Raises:
        UsageError: the message says why, and which keys to change.
    """
    try:
        yield
    except tf.errors.UnimplementedError as error:
        reason = one_line(error).partition(" [[")[0]
        raise UsageError(
            f"jit_compile: XLA cannot compile a step of this model here ({reason[:300]}): leave jit_compile out, or "
            "try deterministic: false"
        ) from error


class BatchIterator:
    """An iterator whose errors are readable."""

    def __init__(self, iterator: Iterator) -> None:
        self.iterator = iterator

    def __iter__(self) -> "BatchIterator":
        return self

    def __next__(self):
        with readable():
            return next(self.iterator)

    def iterator_for(self, count: int) -> Iterator:
        """TensorFlow's own iterator, for a compiled function that takes `count` batches."""
        return self.iterator


class Batches:
    """A dataset whose errors are readable, however often it is read."""

    def __init__(self, dataset: Iterable) -> None:
        self.dataset = dataset

    def __iter__(self) -> BatchIterator:
        return BatchIterator(iter(self.dataset))


def served_batches(batches: Iterable, servers: Sequence[str], check_stop: Callable[[], None]) -> Iterator:
    """`batches`, which `servers` (`data.servers`) prepare, without an endless wait for servers that have gone.

    TensorFlow tries to reach a server for an hour, and nothing can interrupt it: so a thread fetches the next batch.

    Args:
        check_stop: called during the wait; it raises an exception to end the wait.

    Raises:
        ServersGoneError: a server has stopped or restarted; the message names it.
        tf.errors.InvalidArgumentError, tf.errors.DataLossError: a record cannot be read.
    """
    fetched: queue.Queue = queue.Queue(maxsize=1)

    def fetch():
        try:
            for batch in batches:
                fetched.put(batch)
        except Exception as error:
            fetched.put(error)

    threading.Thread(target=fetch, daemon=True).start()
    while True:
        try:
            batch = fetched.get(timeout=SIGN_OF_LIFE_SECONDS)
        except queue.Empty:
            check_stop()
            _check_servers(servers)
            continue
        if isinstance(batch, tf.errors.InvalidArgumentError | tf.errors.DataLossError):
            raise batch
        if isinstance(batch, Exception):
            _check_servers(servers)
            text = one_line(batch)[:200]
            raise ServersGoneError(f"data.servers: {', '.join(servers)} gave no more batches: {text}") from batch
        yield batch


def _check_servers(servers: Sequence[str]) -> None:
    for server in servers:
        try:
            check_answer(server)
        except ValueError as error:
            raise ServersGoneError(f"data.servers: {error}, then continue with --resume") from error
