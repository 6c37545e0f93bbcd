"""Seeds, which tests a backend runs, and the memory that all of them together may take."""

import gc
import os
import signal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is loaded: no pages about the processor

# TensorFlow's own allocator for oneDNN never gives back the most that all models together took.
os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")

# JAX compiles whole models for one call each: quick compilation counts, not quick code.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests press Ctrl-C

import keras
import pytest
from hypothesis import settings

from tests.memory import give_up_caches, peak_gigabytes, resident_gigabytes
from tfvt.stores import as_path

MEMORY_LIMIT = 3  # GB, of all tests in one process; `make test` starts new ones for tests/trainers
LARGE = 1.5  # GB, from which on caches are given up
over_the_limit: list[float] = []  # one entry once a test has failed for it

# The same examples in each run. `--hypothesis-profile=default` draws others.
settings.register_profile("same_examples", derandomize=True)
settings.load_profile("same_examples")

# What needs TensorFlow itself; and what would say the same: pages, and a benchmark that always takes JAX.
ONLY_ON_TENSORFLOW = [
    "data",
    "export",
    "trainers",
    "tfrecords_tools",
    "test_accelerator.py",
    "test_demo.py",
    "test_fidelity.py",
    "test_readme.py",
    "test_segmentation_page.py",
]
collect_ignore = [] if keras.backend.backend() == "tensorflow" else ONLY_ON_TENSORFLOW


@pytest.fixture(autouse=True)
def fixed_seed():
    """Every test draws from its own seed, whatever ran before it."""
    keras.utils.set_random_seed(0)


@pytest.fixture
def store(tmp_path):
    """A folder in `ram://`, TensorFlow's store in the memory of this process."""
    folder = as_path(f"ram://{tmp_path.parent.name}/{tmp_path.name}")
    yield folder
    folder.mkdir()  # perhaps it holds nothing
    folder.rmtree()


@pytest.fixture(autouse=True)
def nothing_left_behind(request):
    """Models are cycles: uncollected, those of many tests stand side by side.

    The test that takes the process over the limit fails, once.
    """
    yield
    gc.collect()
    if resident_gigabytes() > LARGE:
        give_up_caches()
    peak = peak_gigabytes()
    default_run = "not slow" in request.config.option.markexpr
    if default_run and peak > max([MEMORY_LIMIT, *over_the_limit]):
        over_the_limit.append(float("inf"))
        pytest.fail(f"the tests took {peak:.2f} GB of memory, the limit is {MEMORY_LIMIT} GB (tests/conftest.py)")


@pytest.fixture(autouse=True, scope="module")
def quick_collections():
    """What imports and earlier modules made stays, and later collections do not look through it again."""
    gc.collect()
    gc.freeze()
