"""A conversion that dies: `python interrupted.py SOURCE OUTPUT SHARDS WORKERS IMAGES [--overwrite | PIDS]`.

It kills itself, as kill -9 does, before it makes the record of the IMAGES-th image. With PIDS its workers are
processes; it then dies when IMAGES are done, and leaves the pids of its workers in that file.
"""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

from tfvt.tfrecords_tools import examples, workers
from tfvt.tfrecords_tools.convert import convert


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def main(source, output, shards, count, images, pids=None):
    images, overwrite = int(images), pids == "--overwrite"
    if pids and not overwrite:
        workers.IMAGES_WORTH_PROCESSES = 0
        workers.SECONDS_BETWEEN_REPORTS = 0.001
        write_shards = workers.write_shards

        def write_and_die(*arguments, report, **options):
            def report_or_die(done):
                report(done)
                if done >= images:
                    Path(pids).write_text(" ".join(str(child.pid) for child in multiprocessing.active_children()))
                    die()

            return write_shards(*arguments, report=report_or_die, **options)

        workers.write_shards = write_and_die
    else:
        make_example, made = examples.make_example, []

        def make_or_die(**features):
            made.append(1)
            if len(made) == images:
                die()
            return make_example(**features)

        examples.make_example = make_or_die
    convert(source, output, shards=int(shards), workers=int(count), overwrite=overwrite)


if __name__ == "__main__":
    main(*sys.argv[1:])
