"""Seeds, and which tests a backend runs."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is loaded: no pages about the processor

# JAX compiles whole models for one call each: quick compilation counts, not quick code.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import keras
import pytest

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
    """Every test draws from its own start, whatever ran before it."""
    keras.utils.set_random_seed(0)
