"""A run whose numbers are no longer finite: which records it names, and how it returns."""

import csv
import json

import numpy as np
import pytest
from test_resume import newest
from test_seams import state_of, stop_in_step

from tfvt.data.stream import train_stream
from tfvt.trainers.cli import main
from tfvt.trainers.engines.tensorflow import TensorFlowEngine
from tfvt.trainers.loop import stream_settings
from tfvt.trainers.recipes.parsing import parse_recipe
from tfvt.trainers.tasks.classification import Classification

HERE = ("--deterministic", "false", "--epochs", "3", "--ema_decay", "null")
BAD_STEP = 8  # in the second epoch of six steps each


def make_bad(monkeypatch, times=1):
    """The weights become infinite before the loss of step `BAD_STEP` is computed, for so many visits."""
    visits, train_steps = [], TensorFlowEngine.train_steps

    def poisoned(engine, batches, count):
        if int(engine.update.optimizer.iterations) == BAD_STEP and len(visits) < times:
            visits.append(engine.learning_rate(BAD_STEP))
            engine.model.trainable_variables[0].assign(engine.model.trainable_variables[0] * np.inf)
        train_steps(engine, batches, count)

    monkeypatch.setattr(TensorFlowEngine, "train_steps", poisoned)
    return visits


def ids_of(config, step):
    recipe = parse_recipe(["--config", str(config), *HERE])
    task = Classification(recipe)
    stream = train_stream(task.train_records, task.samples(True), stream_settings(recipe))
    return [batch["id"].tolist() for batch in stream.take(step + 1).as_numpy_iterator()][step]


def test_the_records_of_the_first_bad_step_are_kept(config, tmp_path, monkeypatch, fails):
    make_bad(monkeypatch)
    line = fails("train", "--config", config, *HERE, "--checkpoints.every_steps", "null", "--output", tmp_path / "run")
    assert "the training loss is nan at step 12 (epoch 2)" in line
    assert str(tmp_path / "run" / "diverged.json") in line
    kept = json.loads((tmp_path / "run" / "diverged.json").read_text())
    assert kept["what"] == "the training loss is nan"
    assert kept["records_by_step"] == {str(step): ids_of(config, step) for step in (BAD_STEP - 1, BAD_STEP)}
    assert newest(tmp_path / "run").step == 6


def test_a_run_returns_to_its_checkpoint_with_a_lower_rate(config, tmp_path, monkeypatch, capsys):
    rates = make_bad(monkeypatch, times=2)
    flags = [*HERE, "--divergence.roll_backs=3", "--divergence.rate_factor=0.1", "--checkpoints.every_steps=4"]
    assert main(["train", "--config", str(config), *flags, "--output", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert said.count("back to step 8, with 0.1 of the learning rate") == 1
    assert said.count("back to step 8, with 0.01 of the learning rate") == 1
    assert rates == pytest.approx([rates[0], rates[0] / 10])
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        logged = {int(row["epoch"]): row for row in csv.DictReader(file)}
    assert sorted(logged) == [1, 2, 3]
    assert newest(tmp_path / "run").arrays["rate/0000/rate_factor"] == np.float32(0.1) * np.float32(0.1)


def test_a_run_that_returned_resumes_bit_equal(config, tmp_path, monkeypatch):
    flags = ["--config", str(config), *HERE, "--divergence.roll_backs=1"]
    with monkeypatch.context() as patch:
        make_bad(patch)
        assert main(["train", *flags, "--output", str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        make_bad(patch)
        stop_in_step(patch, 14)
        assert main(["train", *flags, "--output", str(tmp_path / "stopped")]) == 130
    assert main(["train", "--resume", "--output", str(tmp_path / "stopped")]) == 0
    assert state_of(tmp_path / "stopped") == state_of(tmp_path / "whole")


def test_a_run_that_diverges_again_and_again_stops(config, tmp_path, monkeypatch, fails):
    rates = make_bad(monkeypatch, times=100)
    flags = [*HERE, "--divergence.roll_backs=2"]
    assert "is nan at step" in fails("train", "--config", config, *flags, "--output", tmp_path / "run")
    assert rates == pytest.approx([rates[0], rates[0] / 2, rates[0] / 4])


def test_a_run_that_is_stopped_while_it_diverges_continues_from_its_checkpoint(config, tmp_path, monkeypatch, capsys):
    """The signal arrives in the bad step, before anything has noticed the loss."""
    flags = ["--config", str(config), *HERE, "--checkpoints.every_steps=4", "--output", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        make_bad(patch)
        stop_in_step(patch, BAD_STEP + 1)
        assert main(["train", *flags, "--divergence.roll_backs=1"]) == 130
    assert "Continue with: tfvt train --resume" in capsys.readouterr().out
    assert newest(tmp_path / "run").step == BAD_STEP
    assert main(["train", "--resume", "--output", str(tmp_path / "run")]) == 0
