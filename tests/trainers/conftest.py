"""Records, recipe flags and one finished run that several tests look at."""

import subprocess

import pytest
from processes import train_command
from small_records import write_small_records
from teacher_files import teacher_network, write_teachers

from tfvt.trainers.cli import main

# A network of 10,000 parameters on 32x32 pixels, with every kind of state: batch norm, dropout, stochastic depth.
SMALL_RECIPE = """
model:
  name: resnet18
  options: {width: 8, depths: [1, 1, 1, 1], stem_pool: false, dropout_rate: 0.1, drop_path_rate: 0.1}
data:
  batch_size: 8
  train: {image_size: [32, 32], area_range: [0.5, 1.0]}
  evaluation: {image_size: [32, 32], crop_ratio: 1.0}
optimizer: {name: sgd, learning_rate: 0.02, weight_decay: 4.0e-5}
schedule: {name: cosine, warmup_epochs: 1}
epochs: 25
label_smoothing: 0.1
ema_decay: 0.9
checkpoints: {every_steps: 4}
"""


@pytest.fixture(scope="session")
def records(tmp_path_factory):
    """48 training and 20 validation images: 6 steps an epoch with the recipe's batches of 8."""
    return write_small_records(tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="session")
def config(tmp_path_factory, records):
    """The small recipe as a file, its records filled in."""
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(SMALL_RECIPE.replace("data:\n", f"data:\n  records: {records}\n"), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, config):
    """The folder of the small recipe's run, trained without interruption in a process of its own."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    subprocess.run(train_command(config, folder), check=True, capture_output=True, timeout=600)
    return folder


@pytest.fixture(scope="module")
def network():
    """A teacher's network."""
    return teacher_network()


@pytest.fixture(scope="module")
def teachers(tmp_path_factory, network, records):
    """The folder of the same teacher in every form."""
    return write_teachers(tmp_path_factory.mktemp("teachers"), network, records)


@pytest.fixture
def fails(capsys):
    """Run a command that must fail with status 2 and one line on stderr; returns the line."""

    def run(*arguments):
        assert main([str(argument) for argument in arguments]) == 2
        captured = capsys.readouterr()
        (line,) = captured.err.splitlines()
        assert line.startswith(f"tfvt {arguments[0]}: error: ")
        return line

    return run
