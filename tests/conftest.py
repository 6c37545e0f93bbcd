"""Seeds, and which tests a backend runs: what needs TensorFlow itself is left out on the others."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is loaded: no pages about the processor

import keras
import pytest

NEEDS_TENSORFLOW = ("data", "trainers", "tfrecords_tools", "test_export.py", "test_readme.py", "test_demo.py")
collect_ignore = [] if keras.backend.backend() == "tensorflow" else list(NEEDS_TENSORFLOW)


@pytest.fixture(autouse=True)
def fixed_seed():
    """Every test draws from its own start, whatever ran before it."""
    keras.utils.set_random_seed(0)
