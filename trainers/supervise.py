"""`tfvt train --supervise N`: a group of processes on this machine, started again together if one is lost."""

import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from tfvt.errors import UsageError
from tfvt.stores import AnyPath

from .engines.cluster import LOST_STATUS, Cluster, lost_process
from .patience import patiently
from .run.checkpoint import list_checkpoints
from .run.folder import Run
from .stop import WATCHED

MAIN = "import sys; from tfvt_cli import main; sys.exit(main())"
LOST = (LOST_STATUS, -signal.SIGKILL, -signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS)
PR_SET_PDEATHSIG = 1  # of prctl(2)
GRACE_SECONDS = 60.0  # for the processes that remain to notice
LOOK_SECONDS = 1.0  # between two looks whether the run has begun
FRUITLESS = 3  # starts in a row without a new checkpoint, after which the group stays ended


def supervise(count: int, folder: AnyPath, arguments: Sequence[str]) -> int:
    """Train with `count` processes and return their status; start them again from the last checkpoint after a loss.

    Raises:
        UsageError: `count` is not above 0, or the group is lost again and again before it saves anything.
    """
    if count < 1:
        raise UsageError(f"--supervise must be at least 1, not {count}")
    flags = _without(arguments, "--supervise")
    run, fruitless, newest = Run(folder), 0, None
    beginning = _Beginning(run, resumed="--resume" in flags)
    while True:
        status, who, asked = _run_group(count, flags, beginning.watch)
        if status not in LOST or asked:
            return status if status >= 0 else 128 - status
        if patiently(beginning.has_come):
            patiently(run.recipe.stat)  # checkpoints that are away look like none
            flags = flags if "--resume" in flags else ["--resume", "--output", str(folder)]
        saved = max(patiently(lambda: list_checkpoints(run.checkpoints)), default=None)
        fruitless, newest = (fruitless + 1 if saved == newest else 1), saved
        if fruitless >= FRUITLESS:
            raise UsageError(f"the group lost {who} {FRUITLESS} times in a row before it saved anything new")
        print(f"Lost {who}; the group starts again from {saved or 'the beginning'}", flush=True)


def run_watched(cluster: Cluster, arguments: Sequence[str]) -> int:
    """Run `tfvt train ARGUMENTS` in a process of its own and return its status.

    JAX aborts a process whose chief has gone; Python cannot prevent that, nor say what it means. This process says it.
    """
    command = [sys.executable, "-c", MAIN, "train", *arguments]
    process = subprocess.Popen(command, env=os.environ | {WATCHED: str(os.getpid())}, stderr=subprocess.PIPE)
    copying = threading.Thread(target=_copy_errors, args=(process.stderr,), daemon=True)
    copying.start()
    with _forwarded([process], []):
        status = process.wait()
    copying.join(timeout=5)
    if status == -signal.SIGABRT:
        print(f"tfvt train: error: {lost_process(cluster, 'JAX ended the process')}", file=sys.stderr)
        return LOST_STATUS
    return status if status >= 0 else 128 - status


def _copy_errors(stream):
    """What the process says, without the pages by which JAX takes leave when the chief has gone."""
    leaving = False
    for line in stream:
        leaving = leaving or re.match(rb"F\d{4} .*(coordination|client\.h)", line) is not None
        if not leaving or line.startswith(b"tfvt train:"):
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()


def end_with_parent() -> None:
    """Kill this process if the one that watches it is killed. Linux alone can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(os.environ[WATCHED]):  # it has gone before this call
            os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def _forwarded(processes: Sequence[subprocess.Popen], asked: list[int]) -> Iterator[None]:
    """Meanwhile, Ctrl-C and SIGTERM go to the processes; `asked` notes them."""

    def forward(number, frame):
        asked.append(number)
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Beginning:
    """Whether the run has begun: its recipe is there, and is not that of a run which it replaces.

    A folder that is away later looks as if nothing had begun; the group would begin once more.
    """

    def __init__(self, run: Run, resumed: bool) -> None:
        self.recipe = run.recipe
        self.before = _identity(self.recipe)
        self.seen = resumed
        self.next_look = 0.0

    def has_come(self) -> bool:
        self.seen = self.seen or _identity(self.recipe) not in (None, self.before)
        return self.seen

    def watch(self) -> None:
        """Look, about once a second: call this while the group runs."""
        if time.monotonic() >= self.next_look:
            self.next_look = time.monotonic() + LOOK_SECONDS
            with contextlib.suppress(OSError):  # the folder is away
                self.has_come()


def _identity(path):
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _run_group(count: int, flags: Sequence[str], meanwhile: Callable[[], None]) -> tuple[int, str, bool]:
    """Run the processes to their end: what `_watch` says, and whether they were asked to stop."""
    addresses = _free_addresses(count)
    group = ["--distribution.strategy=multi_worker", f"--distribution.workers=[{','.join(addresses)}]"]
    command = [sys.executable, "-c", MAIN, "train", *flags, *group]
    processes = [
        subprocess.Popen([*command, f"--worker={index}"], env=_environment(index, count)) for index in range(count)
    ]
    asked: list[int] = []
    try:
        with _forwarded(processes, asked):
            return (*_watch(processes, meanwhile), bool(asked))
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def _watch(processes, meanwhile):
    """Wait until all have ended, or until they should have: the status that says most, and whose it is."""
    deadline = float("inf")
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        if deadline == float("inf") and any(process.poll() for process in processes):
            deadline = time.monotonic() + GRACE_SECONDS
        meanwhile()
        time.sleep(0.1)
    ended = [(process.poll(), f"process {index}") for index, process in enumerate(processes) if process.poll()]
    mistakes = [end for end in ended if end[0] not in LOST]
    killed = [end for end in ended if end[0] != LOST_STATUS]
    return next(iter([*mistakes, *killed, *ended]), (0, ""))


def _free_addresses(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [f"127.0.0.1:{opened.getsockname()[1]}" for opened in sockets]


def _environment(index, count):
    """The GPUs that CUDA_VISIBLE_DEVICES names are dealt out to the processes."""
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    names = names[: len(names) // count * count]  # all processes have equally many
    own = {"CUDA_VISIBLE_DEVICES": ",".join(names[index::count])} if len(names) >= count else {}
    return os.environ | {WATCHED: str(os.getpid())} | own


def _without(arguments, flag):
    """The arguments without `flag` and its value."""
    kept, skip = [], False
    for argument in arguments:
        if not skip and argument.partition("=")[0] != flag:
            kept.append(argument)
        skip = argument == flag
    return kept
