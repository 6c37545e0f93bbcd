"""Shards written at the same time by workers of this machine: processes for many images, threads for few."""

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for_object

from tfvt.errors import UsageError
from tfvt.stores import AnyPath

from .shards import Finished, ShardPlan, write_shard
from .sources import RecordSettings

# A worker process has to import TensorFlow, which takes as long as one thread takes for half as many JPEGs. Threads
# start at once, but share Python's lock: they help where disks are slow and where images are re-encoded.
IMAGES_WORTH_PROCESSES = 100_000
SECONDS_BETWEEN_REPORTS = 0.1


@dataclass(frozen=True)
class Shared:
    """What workers and their parent share: how many images are done, and whether to stop."""

    done: object  # multiprocessing's Value: a function, not a type
    stop: object

    def advance(self) -> None:
        """One more image.

        Raises:
            InterruptedError: the parent has asked to stop.
        """
        if self.stop.value:
            raise InterruptedError("stopped before the shard was finished")
        with self.done.get_lock():
            self.done.value += 1


def write_shards(
    settings: RecordSettings,
    plan: list[ShardPlan],
    output: AnyPath | str,
    label_offset: int,
    workers: int,
    report: Callable[[int], None],
) -> list[Finished]:
    """Write the planned shards; returns them in any order.

    Args:
        settings: of the source.
        plan: the shards.
        output: folder of the conversion.
        label_offset: stored label of the first class.
        workers: shards at a time.
        report: called now and then with the number of finished images.

    Raises:
        OSError: a shard cannot be written.
        UsageError: a worker was killed.
    """
    context = multiprocessing.get_context("spawn")  # a process that has imported TensorFlow does not survive a fork
    shared = Shared(done=context.Value("q", 0), stop=context.Value("b", False, lock=False))
    if workers == 1 or sum(len(planned.images) for planned in plan) < IMAGES_WORTH_PROCESSES:
        pool = ThreadPoolExecutor(workers)
        write = functools.partial(write_shard, settings, output, label_offset, shared.advance)
    else:
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(shared,))
        write = functools.partial(_write_in_process, settings, output, label_offset)
    try:
        futures = waiting = {pool.submit(write, planned) for planned in plan}
        while waiting:
            finished, waiting = wait(waiting, SECONDS_BETWEEN_REPORTS, return_when=FIRST_COMPLETED)
            report(shared.done.value)
            for future in finished:
                future.result()  # raises what the worker raised
    except BrokenProcessPool:
        raise UsageError(
            "a worker process was killed, perhaps because memory ran out: run the same command again, which continues "
            f"from here, with fewer than {workers} workers"
        ) from None
    finally:  # also Ctrl-C: shards in progress stay unfinished, and their temporary files go
        shared.stop.value = True
        pool.shutdown(cancel_futures=True)
    return [future.result() for future in futures]


_shared: Shared  # of a worker process


def _begin(shared):
    global _shared
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which stops its workers
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # each worker would take a share of the GPU's memory
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    """A parent that was killed cannot stop its workers, and their queue would keep them waiting for ever."""
    wait_for_object([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _write_in_process(settings, output, label_offset, planned):
    return write_shard(settings, output, label_offset, _shared.advance, planned)
