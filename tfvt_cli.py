"""Start of the command `tfvt`; the command itself is `trainers/cli.py`.

A module of its own because importing anything below `tfvt` loads Keras and its backend, and TensorFlow reads these
settings when it is loaded.
"""

import os
import signal
import sys


def main() -> int:
    # Ctrl-C during the seconds of imports: extension modules would turn a KeyboardInterrupt into all sorts of errors.
    before = signal.signal(signal.SIGINT, _leave)
    # TensorFlow's C++ side logs pages about the processor and the missing GPU; real errors raise exceptions anyway.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # TensorFlow reads 64 MiB of a gs:// file ahead, and training has up to 32 of them open.
    os.environ.setdefault("GCS_READAHEAD_BUFFER_SIZE_BYTES", str(2**23))
    from tfvt.trainers.cli import main

    signal.signal(signal.SIGINT, before)
    return main()


def _leave(number, frame):
    print(f"{' '.join(['tfvt', *sys.argv[1:2]])}: interrupted", file=sys.stderr, flush=True)
    os._exit(130)
