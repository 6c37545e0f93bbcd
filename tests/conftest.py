"""Seeds, which tests a backend runs, and the memory that all of them together may take."""

import gc
import os
import resource

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is loaded: no pages about the processor

# JAX compiles whole models for one call each: quick compilation counts, not quick code.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import keras
import pytest

MEMORY_LIMIT = 3  # GB, of one process for all tests

# What needs TensorFlow itself; and the fidelity page, which builds every model and would say the same.
ONLY_ON_TENSORFLOW = [
    "data",
    "trainers",
    "tfrecords_tools",
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


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """Models are cycles: uncollected, those of many tests stand side by side, and TensorFlow keeps that memory."""
    yield
    gc.collect()


@pytest.fixture(autouse=True, scope="module")
def quick_collections():
    """What imports and earlier modules made stays, and is not looked through again; JAX forgets compiled programs."""
    gc.collect()
    gc.freeze()
    yield
    if keras.backend.backend() == "jax":
        import jax

        jax.clear_caches()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session):
    """The default tests fail as a whole where they took more memory than a small machine has."""
    yield
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if "not slow" in session.config.option.markexpr and gigabytes > MEMORY_LIMIT:
        message = f"The tests took {gigabytes:.2f} GB of memory, the limit is {MEMORY_LIMIT} GB (tests/conftest.py)"
        session.config.get_terminal_writer().line("\n" + message, red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
