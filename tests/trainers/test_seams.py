"""Another task and another engine take the loop, the commands and the run's folder as they are."""

import csv
import os
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from mean_colour import MeanColour
from rich.console import Console
from small_records import tinted_image
from tensorflow.python import pywrap_tfe as tfe
from test_resume import logged, newest

from tfvt import registry
from tfvt.data.stream import WHOLE
from tfvt.trainers.cli import main
from tfvt.trainers.engines.engine import Engine
from tfvt.trainers.engines.optimizer import Schedule, make_optimizer, regularize
from tfvt.trainers.engines.tensorflow import TensorFlowDevices, TensorFlowEngine
from tfvt.trainers.loop import Loop
from tfvt.trainers.recipes.parsing import parse_recipe
from tfvt.trainers.run.checkpoint import assign_arrays, list_checkpoints, name_arrays
from tfvt.trainers.run.folder import Run, start_run
from tfvt.trainers.stop import Interrupted
from tfvt.trainers.tasks import TASKS
from tfvt.trainers.tasks.classification import Classification


def state_of(folder):
    """All arrays of the newest checkpoint, in order: their names count the layers that a process has made."""
    arrays = newest(folder).arrays
    return [arrays[name].tobytes() for name in sorted(arrays)]


@pytest.fixture
def colour_net(monkeypatch):
    """A registered model of a task that tfvt does not have."""
    monkeypatch.setitem(TASKS, "mean_colour", MeanColour)
    variant = registry.get_variant("resnet18")
    monkeypatch.setitem(registry._VARIANTS, "colour_net", registry.Variant(variant.builder, variant.row, "mean_colour"))


def stop_in_step(monkeypatch, step):
    """Ctrl-C comes while that update runs."""
    count = 0
    original = TensorFlowEngine.train_steps

    def train_steps(engine, batches, number):
        nonlocal count
        original(engine, batches, number)
        count += number
        if count >= step > count - number:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(TensorFlowEngine, "train_steps", train_steps)


def test_another_task_trains_resumes_evaluates_and_serves(colour_net, config, tmp_path, monkeypatch, capsys):
    flags = ["--config", str(config), "--model.name=colour_net", "--epochs=6"]
    flags += ["--optimizer.name=adam", "--optimizer.learning_rate=0.003"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main(["train", *flags, "--output", str(whole)]) == 0
    with monkeypatch.context() as patch:
        stop_in_step(patch, 9)
        assert main(["train", *flags, "--output", str(stopped)]) == 130
    assert newest(stopped).step == 9
    assert main(["train", "--resume", "--output", str(stopped)]) == 0
    assert state_of(stopped) == state_of(whole)
    with (whole / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["train_error"]) for row in rows][-1] < 0.4 * float(rows[0]["train_error"])
    assert all(float(row["validation_worst"]) >= float(row["validation_error"]) > 0 for row in rows)

    capsys.readouterr()
    assert main(["evaluate", str(whole)]) == 0
    assert f"error {float(rows[-1]['validation_error']):.4f}" in capsys.readouterr().out
    image = tmp_path / "green.png"
    image.write_bytes(tinted_image(1, np.random.default_rng(0), size=32))
    assert main(["predict", str(whole), str(image)]) == 0
    assert main(["export", str(whole), str(tmp_path / "served")]) == 0
    printed = capsys.readouterr().out.partition("rgb ")[2].split()[:3]
    served = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"]
    (colour,) = served(image=tf.constant([image.read_bytes()]))["colour"].numpy()
    assert [f"{value:.2f}" for value in colour] == printed


class EagerEngine:
    """`Engine` without devices or compiled functions."""

    is_chief = True

    def __init__(self, recipe, task, steps_per_epoch, devices):
        self.recipe, self.task = recipe, task
        self.model = task.model()
        self.schedule = Schedule(recipe, steps_per_epoch)
        self.optimizer = make_optimizer(recipe.optimizer, self.schedule, self.model.trainable_variables)
        self.sums = {}
        self.reset_sums("train")

    def train_batches(self, make, check_stop):
        return iter(make(WHOLE))

    def eval_batches(self, make):
        return make(WHOLE)

    def train_steps(self, batches, count):
        for _ in range(count):
            batch = self.task.teach(next(batches))
            with tf.GradientTape() as tape:
                outputs = self.model(batch["image"], training=True)
                losses = self.task.loss(outputs, batch, training=True)
                loss = tf.reduce_mean(losses)
            self._add("train", losses, batch | {"weight": tf.ones_like(losses)}, outputs)
            variables = self.model.trainable_variables
            self.optimizer.apply(regularize(tape.gradient(loss, variables), variables, self.recipe.optimizer))

    def eval_step(self, batch):
        outputs = self.model(batch["image"], training=False)
        self._add("validation", self.task.loss(outputs, batch, training=False), batch, outputs)
        rows = self.task.rows(outputs, batch)
        return [{name: np.asarray(value) for name, value in rows.items()}] if rows else []

    def _add(self, phase, losses, batch, outputs):
        weights = batch["weight"]
        added = {"loss": tf.tensordot(losses, weights, 1), "images": tf.reduce_sum(weights)}
        for name, value in (added | self.task.sums(outputs, batch, weights)).items():
            self.sums[phase][name] += np.float64(value)

    def read_sums(self, phase):
        return dict(self.sums[phase])

    def reset_sums(self, phase):
        self.sums[phase] = {"loss": np.float64(0), "images": np.float64(0)} | self.task.no_sums()

    def trained_model(self):
        return self.model

    def learning_rate(self, step):
        return float(self.schedule(step))

    def state(self):
        sums = {f"sums/{name}": np.asarray(value) for name, value in self.sums["train"].items()}
        return name_arrays("model", self.model.variables) | name_arrays("optimizer", self.optimizer.variables) | sums

    def restore(self, arrays):
        assign_arrays("model", self.model.variables, arrays)
        assign_arrays("optimizer", self.optimizer.variables, arrays)
        self.sums["train"] = {name: arrays[f"sums/{name}"] for name in self.sums["train"]}

    def peak_memory(self):
        return 0.0

    def from_chief(self, text):
        return text

    def agree(self, stop):
        return stop


def run_loop(engine_class, recipe, run, saved=None, stop_at=None):
    """Train with an engine; with `stop_at`, Ctrl-C comes in that step."""
    keras.utils.set_random_seed(recipe.seed)
    task = Classification(recipe)
    engine: Engine = engine_class(recipe, task, 6, TensorFlowDevices(recipe.distribution))
    loop = Loop(recipe, run, task, engine, Console(quiet=True), saved)
    original = engine.train_steps

    def train_steps(batches, count):
        original(batches, count)
        if loop.step + count == stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    engine.train_steps = train_steps
    if saved is None:
        run.folder.mkdir()
        start_run(run, recipe)
    if stop_at:
        with pytest.raises(Interrupted):
            loop.train()
    else:
        loop.train()
    return run.folder


class Brightening(Classification):
    """The class of an image, with its brightness as what a teacher says of it."""

    def teach(self, batch):
        assert tfe.TFE_Py_TapeSetIsEmpty()  # nothing is kept for gradients
        return batch | {"teacher": tf.reduce_mean(batch["image"], axis=(1, 2, 3))}

    def loss(self, outputs, batch, training):
        assert ("teacher" in batch) == training
        assert training != tfe.TFE_Py_TapeSetIsEmpty()
        return batch["teacher"] + 0 * outputs[:, 0] if training else super().loss(outputs, batch, training)


@pytest.mark.parametrize("flags", [[], ["--jit_compile=true"], ["--accumulation_steps=2"]])
def test_a_task_may_ask_a_teacher_before_the_gradient(flags, config):
    recipe = parse_recipe(["--config", str(config), *flags])
    engine = TensorFlowEngine(recipe, Brightening(recipe), 6, TensorFlowDevices(recipe.distribution))
    images = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype("float32")
    batch = {"image": tf.constant(images), "label": tf.zeros(8, tf.int32)}
    engine.train_steps(iter([batch]), 1)
    np.testing.assert_allclose(engine.read_sums("train")["loss"], images.mean((1, 2, 3)).sum(), rtol=1e-5)
    engine.eval_step(batch | {"weight": tf.ones(8)})
    assert engine.read_sums("validation")["images"] == 8


def test_another_engine_runs_the_same_loop(config, tmp_path):
    """It resumes bit-equal, and logs what TensorFlow's engine logs, except for rounding."""
    flags = ["--epochs=2", "--ema_decay=null", "--model.options.dropout_rate=0", "--model.options.drop_path_rate=0"]
    recipe = parse_recipe(["--config", str(config), *flags])
    eager = run_loop(EagerEngine, recipe, Run(tmp_path / "eager"))
    stopped = Run(tmp_path / "stopped")
    run_loop(EagerEngine, recipe, stopped, stop_at=9)
    run_loop(EagerEngine, recipe, stopped, saved=list_checkpoints(stopped.checkpoints)[-1])
    assert state_of(stopped.folder) == state_of(eager)
    assert logged(stopped.folder) == logged(eager)
    for row, other in zip(logged(eager), logged(run_loop(TensorFlowEngine, recipe, Run(tmp_path / "tf"))), strict=True):
        for name in ("train_loss", "validation_loss"):
            assert float(row[name]) == pytest.approx(float(other[name]), rel=1e-3)


def input_waits(run):
    with (run / "metrics.csv").open(newline="") as file:
        return [row["input_wait"] for row in csv.DictReader(file)]


def test_several_steps_in_a_call_are_the_same_steps(config, tmp_path):
    """Calls of four end at epochs of six, at checkpoints every five steps, and where a run was stopped."""
    flags = ["--epochs=3", "--checkpoints.every_steps=5", "--checkpoints.keep=9"]
    single = parse_recipe(["--config", str(config), *flags])
    four = parse_recipe(["--config", str(config), *flags, "--steps_per_call=4"])
    one = run_loop(TensorFlowEngine, single, Run(tmp_path / "one"))
    several = run_loop(TensorFlowEngine, four, Run(tmp_path / "several"))
    steps = [int(path.stem.partition("-")[2]) for path in list_checkpoints(several / "checkpoints")]
    assert steps == [5, 6, 10, 12, 15, 18]
    assert state_of(several) == state_of(one)
    assert logged(several) == logged(one)
    assert all(0 < float(wait) < 1 for wait in input_waits(one))
    assert input_waits(several)[1:] == ["", ""]  # a compiled call fetches its batches itself
    stopped = Run(tmp_path / "stopped")
    run_loop(TensorFlowEngine, four, stopped, stop_at=10)
    run_loop(TensorFlowEngine, four, stopped, saved=list_checkpoints(stopped.checkpoints)[0])  # in the middle of one
    assert state_of(stopped.folder) == state_of(one)
    assert logged(stopped.folder) == logged(one)
