"""What the process of the tests holds, and how it gives some of it back."""

import ctypes
import os
import resource
from pathlib import Path

import keras

# For programs that tests start: what getrusage says begins with the peak of the process that started them.
OWN_PEAK = """
from pathlib import Path

def own_peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**20  # GB
"""


def resident_gigabytes() -> float:
    """What this process holds now; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**30 if statm.exists() else 0.0


def peak_gigabytes() -> float:
    """The most that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def give_up_caches() -> None:
    """JAX keeps every compiled program, and the C library what was freed: let go of both."""
    if keras.backend.backend() == "jax":
        import jax

        jax.clear_caches()
    ctypes.CDLL(None).malloc_trim(0)
