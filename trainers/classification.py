"""The host loop that trains a classifier: epochs, evaluation, logs, checkpoints, resume.

It decides what happens when; the step engine knows how a step runs on the devices.
"""

import dataclasses
import math
import signal
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console

from tfvt.data.classification import ClassificationSamples
from tfvt.data.order import HostShare
from tfvt.data.records import RecordsError, RecordSet, open_records
from tfvt.data.service import check_answer
from tfvt.data.stream import StreamSettings, eval_stream, steps_per_epoch, train_stream

from .callbacks import EpochRow, RunLog
from .checkpoint import Checkpoint, check_finite, list_checkpoints, load_checkpoint, save_checkpoint
from .distribution import Metrics, ServersGoneError, TensorFlowEngine, readable_batches, served_batches
from .errors import UsageError
from .recipe import Recipe
from .run import Run, Serving, check_checkpoint_recipe, plain_recipe, write_model, write_serving

MOST_STEPS = 999_999_999  # the nine digits in the names of checkpoints


class Interrupted(Exception):  # noqa: N818 (no error)
    """The run was asked to stop, has saved its state and can be resumed."""

    def __init__(self, signal_number: int):
        super().__init__(signal_number)
        self.signal_number = signal_number


class StopRequest:
    """While entered, Ctrl-C and SIGTERM wait until `check` is called; a second one acts at once."""

    def __init__(self):
        self.signal_number: int | None = None
        self.previous: dict[signal.Signals, Any] = {}

    def __enter__(self):
        self.previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_):
        self._restore()

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self.signal_number is not None:
            raise Interrupted(self.signal_number)

    def _note(self, number, frame):
        self.signal_number = number
        self._restore()

    def _restore(self):
        for number, handler in self.previous.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Splits:
    """The records that a recipe names."""

    train: RecordSet
    validation: RecordSet

    @property
    def digests(self) -> dict[str, str]:
        """Of each split's records, wherever they lie."""
        return {"training": self.train.digest, "validation": self.validation.digest}


def open_splits(recipe: Recipe) -> Splits:
    """Open both splits.

    Raises:
        UsageError: records that do not exist or are not whole.
    """
    data = recipe.data
    try:
        splits = Splits(open_records(data.records, data.train_split), open_records(data.records, data.validation_split))
        steps_per_epoch(splits.train, data.batch_size)
        for server in data.servers:
            check_answer(server)
    except (RecordsError, ValueError) as error:
        raise UsageError(f"data: {error}") from error
    return splits


def stream_settings(recipe: Recipe) -> StreamSettings:
    """How the recipe's records become batches."""
    data = recipe.data
    return StreamSettings(data.batch_size, recipe.seed, data.repeats, data.skip_damaged, data.servers, data.block_size)


class Rate:
    """Steps per second over the time spent in training steps alone."""

    def __init__(self):
        self.steps = 0
        self.seconds = 0.0

    def add(self, steps: int, since: float) -> None:
        """Count `steps` steps that began at the time `since` (of `time.perf_counter`) and end now."""
        self.steps += steps
        self.seconds += time.perf_counter() - since

    @property
    def steps_per_second(self) -> float | None:
        """None when nothing was counted."""
        return self.steps / self.seconds if self.steps else None


class ClassificationTrainer:
    """One training run: `train` takes it to its end, with `resume` from the newest checkpoint in its folder."""

    def __init__(self, recipe: Recipe, run: Run, console: Console, resume: bool = False):
        self.recipe = recipe
        self.run = run
        self.console = console
        self.splits = open_splits(recipe)
        self.steps_per_epoch = steps_per_epoch(self.splits.train, recipe.data.batch_size)
        self.num_steps = recipe.epochs * self.steps_per_epoch
        if self.num_steps > MOST_STEPS:
            raise UsageError(f"epochs {recipe.epochs}: the run would have {self.num_steps} steps, {MOST_STEPS} at most")
        # Without `resume` the folder may hold another run, which is replaced before training begins.
        self.saved = max(list_checkpoints(run.checkpoints), default=None) if resume else None
        if self.saved:  # it holds all weights: the file that the run began with may be gone
            recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, weights=None))
        self.engine = TensorFlowEngine(recipe, self.splits.train.num_classes, self.steps_per_epoch)
        self.validation_batches = self.engine.distribute(self._eval_stream)
        self.step = 0  # updates done
        self.epoch = 0  # epochs trained, evaluated and logged
        self.last_row: EpochRow | None = None
        self.first_step = 0  # where this call began

    def say(self, text: str) -> None:
        """Print a line as it is."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def train(self) -> None:
        """Train to the end and keep the model.

        Raises:
            Interrupted: after Ctrl-C or SIGTERM, when the step at hand is done and the state is saved.
            UsageError: loss, weights or state are not finite, or a record is damaged.
        """
        self._resume()
        write_serving(self.run, Serving(self.splits.train.class_names, self.recipe.data.evaluation))
        log = RunLog(self.run, self.console, self.recipe.data.batch_size, self.num_steps, self.epoch)
        with log, StopRequest() as stop:
            try:
                batches = self.engine.distribute(self._train_stream)
                if self.recipe.data.servers:
                    batches = served_batches(batches, self.recipe.data.servers, stop.check)
                batches = readable_batches(batches)
                while self.epoch < self.recipe.epochs:
                    rate = self._train_epoch(batches, stop, log)
                    self._finish_epoch(rate, stop, log)
            except (Interrupted, ServersGoneError):
                self._save(self._finite_state())
                raise
            self._finite_state()  # also that of a run which was at its end when this call began
            write_model(self.run, self.engine.inference_model)

    def _train_epoch(self, batches, stop: StopRequest, log: RunLog) -> Rate:
        """Train from the current step to the end of its epoch."""
        end = (self.epoch + 1) * self.steps_per_epoch
        every = self.recipe.checkpoints.every_steps
        rate = Rate()
        while self.step < end:
            log.show(self.step, f"epoch {self.epoch + 1}/{self.recipe.epochs}")
            started = time.perf_counter()
            self.engine.train_step(next(batches))
            if self.step > self.first_step:  # the first step of a call builds its graph
                rate.add(1, since=started)
            self.step += 1
            stop.check()
            if every and self.step % every == 0 and self.step < end:
                self._save(self._finite_state())
        return rate

    def _finish_epoch(self, rate: Rate, stop: StopRequest, log: RunLog) -> None:
        """Evaluate, log and save at the end of an epoch."""
        started = time.perf_counter()
        train = self.engine.train_metrics()
        rate.add(0, since=started)  # reading waits for the steps that the devices have yet to finish
        self._check_finite("training", train)
        is_last = self.epoch + 1 == self.recipe.epochs
        validation = None
        if is_last or (self.epoch + 1) % self.recipe.evaluate_every == 0:
            log.show(self.step, "evaluation")
            validation = self._evaluate(stop)
            self._check_finite("validation", validation)
        self.engine.reset_train_metrics()
        state = self._finite_state()
        self.epoch += 1
        self.last_row = self._row(train, validation, rate)
        log.write(self.last_row)
        self._save(state)

    def _evaluate(self, stop: StopRequest) -> Metrics:
        self.engine.evaluator.reset()
        for batch in readable_batches(self.validation_batches):
            self.engine.evaluator.step(batch)
            stop.check()
        return self.engine.evaluator.metrics()

    def _row(self, train: Metrics, validation: Metrics | None, rate: Rate) -> EpochRow:
        steps_per_second = rate.steps_per_second
        return EpochRow(
            epoch=self.epoch,
            step=self.step,
            learning_rate=self.engine.learning_rate(self.step - 1),
            train_loss=train.loss,
            train_top1=train.top1,
            train_top5=train.top5,
            train_skipped=self.steps_per_epoch * self.recipe.data.batch_size - train.num_images,
            validation_loss=validation.loss if validation else None,
            validation_top1=validation.top1 if validation else None,
            validation_top5=validation.top5 if validation else None,
            validation_skipped=self.splits.validation.num_examples - validation.num_images if validation else None,
            steps_per_second=steps_per_second,
            images_per_second=steps_per_second and steps_per_second * self.recipe.data.batch_size,
            peak_memory_mib=self.engine.peak_memory(),
        )

    def _train_stream(self, share: HostShare):
        data, records = self.recipe.data, self.splits.train
        samples = ClassificationSamples.of(records, data.train, data.mixing)
        return train_stream(records, samples, stream_settings(self.recipe), share, self.step)

    def _eval_stream(self, share: HostShare):
        records = self.splits.validation
        samples = ClassificationSamples.of(records, self.recipe.data.evaluation)
        return eval_stream(records, samples, stream_settings(self.recipe), share)

    def _finite_state(self) -> dict[str, np.ndarray]:
        """The state to save; never one that has diverged, which would push the good ones out."""
        metrics = self.engine.train_metrics()
        if metrics.num_images:  # else the mean of nothing
            self._check_finite("training", metrics)
        state = self.engine.state()
        try:
            check_finite(state)
        except UsageError as error:
            raise self._diverged(str(error)) from error
        return state

    def _save(self, state: dict[str, np.ndarray]) -> None:
        checkpoint = Checkpoint(self.step, self.epoch, state, self.splits.digests, plain_recipe(self.recipe))
        save_checkpoint(self.run.checkpoints, checkpoint, self.recipe.checkpoints.keep)

    def _resume(self) -> None:
        """Take up the checkpoint, if there is one."""
        if self.saved is None:
            return
        checkpoint = load_checkpoint(self.saved)
        for split, digest in self.splits.digests.items():
            began = checkpoint.records.get(split)
            if began != digest:
                raise UsageError(
                    f"{self.recipe.data.records} is not what this run began with: the {split} records have the digest "
                    f"{digest}, those of {self.saved} had {began}"
                )
        if checkpoint.recipe is not None:
            check_checkpoint_recipe(self.run, checkpoint.recipe, self.recipe)
        self.engine.restore(checkpoint.arrays)
        self.step, self.epoch = checkpoint.step, checkpoint.epoch
        self.first_step = self.step
        self.say(f"Resuming from {self.saved}: step {self.step} of {self.num_steps}")

    def _check_finite(self, split: str, metrics: Metrics) -> None:
        if metrics.num_images == 0:
            raise UsageError(f"none of the {split} images can be read: `tfvt records verify` lists the damaged records")
        if not math.isfinite(metrics.loss):
            raise self._diverged(f"the {split} loss is {metrics.loss}")

    def _diverged(self, what: str) -> UsageError:
        return UsageError(
            f"{what} at step {self.step} (epoch {math.ceil(self.step / self.steps_per_epoch)}): start again with a "
            "lower optimizer.learning_rate, a longer schedule.warmup_epochs or optimizer.clip_global_norm"
        )
