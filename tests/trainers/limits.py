"""A limit on the size of files, which stands for a disk that is full."""

import contextlib
import resource
import signal


@contextlib.contextmanager
def largest_file(size: int):
    """While entered, a write beyond `size` bytes of a file fails, in this process, with "File too large"."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead of ending the process
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
