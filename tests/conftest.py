"""Seeds, which tests a backend runs, and the memory that all of them together may take."""

import ctypes
import gc
import os
import resource
import signal
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is loaded: no pages about the processor

# JAX compiles whole models for one call each: quick compilation counts, not quick code.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests press Ctrl-C

import keras
import pytest

MEMORY_LIMIT = 3  # GB, of the run on TensorFlow in one process; JAX takes 4 for the gradients of a SAN alone
LARGE = 1.5  # GB, from which on caches are given up
over_the_limit: list[float] = []  # one entry once a test has failed for it

# What needs TensorFlow itself; and what would say the same: the fidelity page, and a benchmark that always takes JAX.
ONLY_ON_TENSORFLOW = [
    "data",
    "trainers",
    "tfrecords_tools",
    "test_accelerator.py",
    "test_demo.py",
    "test_export.py",
    "test_fidelity.py",
    "test_readme.py",
]
collect_ignore = [] if keras.backend.backend() == "tensorflow" else ONLY_ON_TENSORFLOW


@pytest.fixture(autouse=True)
def fixed_seed():
    """Every test draws from its own seed, whatever ran before it."""
    keras.utils.set_random_seed(0)


def resident_gigabytes() -> float:
    """What this process holds now; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**30 if statm.exists() else 0.0


@pytest.fixture(autouse=True)
def nothing_left_behind(request):
    """Models are cycles: uncollected, those of many tests stand side by side.

    TensorFlow's allocator for oneDNN never gives back the most that they took together. JAX keeps every compiled
    program, and the C library what was freed: both are let go of when they grow large. The test that takes the process
    over the limit fails, once.
    """
    yield
    gc.collect()
    if resident_gigabytes() > LARGE:
        if keras.backend.backend() == "jax":
            import jax

            jax.clear_caches()
        ctypes.CDLL(None).malloc_trim(0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    default_run = keras.backend.backend() == "tensorflow" and "not slow" in request.config.option.markexpr
    if default_run and peak > max([MEMORY_LIMIT, *over_the_limit]):
        over_the_limit.append(float("inf"))
        pytest.fail(f"the tests took {peak:.2f} GB of memory, the limit is {MEMORY_LIMIT} GB (tests/conftest.py)")


@pytest.fixture(autouse=True, scope="module")
def quick_collections():
    """What imports and earlier modules made stays, and later collections do not look through it again."""
    gc.collect()
    gc.freeze()
