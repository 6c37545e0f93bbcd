"""The loop of a training run: epochs, evaluation, log, checkpoints, resume, stop.

The loop decides what happens when. The task knows what the model learns; the engine knows how a step runs on devices.
"""

import dataclasses
import errno
import math
import time
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf
from rich.console import Console

from tfvt.data.order import HostShare
from tfvt.data.stream import StreamSettings, eval_stream, image_stream, steps_per_epoch, train_stream
from tfvt.errors import UsageError
from tfvt.stores import AnyPath

from .batches import PatientBatches
from .engines.by_image import ByImage
from .engines.engine import DIVERGED, Engine, Evaluator, ServersGoneError
from .pace import Rate, TimedBatches
from .patience import patiently
from .recipes.recipe import Recipe
from .run.checkpoint import Checkpoint, check_finite, list_checkpoints, load_checkpoint, save_checkpoint
from .run.folder import Run, check_checkpoint_recipe, plain_recipe
from .run.log import EpochRow, Figures, RunLog
from .run.model import write_diverged, write_model, write_serving
from .run.report import write_report
from .stop import Interrupted, StopRequest
from .tasks.task import Task

RATE_FACTOR = "rate/0000/rate_factor"  # in the state
MOST_STEPS = 999_999_999  # the nine digits in the names of checkpoints


class DivergedError(UsageError):
    """Loss, weights or state are no longer finite."""


def stream_settings(recipe: Recipe) -> StreamSettings:
    """How the recipe's records become batches."""
    data = recipe.data
    return StreamSettings(data.batch_size, recipe.seed, data.repeats, data.skip_damaged, data.servers, data.block_size)


def epoch_steps(task: Task, recipe: Recipe) -> int:
    """Steps of an epoch: the whole batches of the training records.

    Raises:
        UsageError: there are no records, not enough for one batch, or more steps than checkpoint names can hold.
    """
    _ = task.validation_records  # check this before building a model for a run that cannot evaluate
    steps = steps_per_epoch(task.train_records, recipe.data.batch_size)
    planned = recipe.duration(steps).steps
    if planned > MOST_STEPS:
        key = "epochs" if recipe.steps is None else "steps"
        raise UsageError(f"{key} {getattr(recipe, key)}: the run would have {planned} steps, {MOST_STEPS} at most")
    return steps


def evaluator_of(evaluator: Evaluator, task: Task) -> Evaluator:
    """What `evaluate` takes, from an engine or an evaluator."""
    return ByImage(evaluator, task) if task.by_image else evaluator


def validation_stream(task: Task, settings: StreamSettings, share: HostShare) -> tf.data.Dataset:
    """A host's share of the validation split: batches, or images one by one."""
    stream = image_stream if task.by_image else eval_stream
    return stream(task.validation_records, task.samples(False), settings, share)


def evaluate(evaluator: Evaluator, task: Task, batches: Iterable, check_stop: Callable[[], None]) -> Figures:
    """The task's figures over `batches` of `evaluator.eval_batches`; `check_stop` is called after each."""
    evaluator.reset_sums("validation")
    rows = []
    for batch in batches:
        rows += evaluator.eval_step(batch)
        check_stop()
    return _figures(task, evaluator.read_sums("validation"), rows)


def check_images(split: str, figures: Figures) -> None:
    """Refuse figures of no image.

    Raises:
        UsageError: all records of the split are damaged.
    """
    if figures.num_images == 0:
        raise UsageError(f"none of the {split} images can be read: `tfvt records verify` lists the damaged records")


def _figures(task: Task, sums: dict[str, np.ndarray], rows: list[dict[str, np.ndarray]]) -> Figures:
    images = int(sums["images"])
    loss = None
    if "loss" in sums:
        loss = float(sums["loss"]) / images if images else math.nan
    values = task.figures(sums, rows) if images else dict.fromkeys(task.columns, math.nan)
    return Figures(loss, values, images, rows, sums)


class Loop:
    """One training run: `train` runs it to its end.

    Args:
        recipe: of the run.
        run: its folder.
        task: what is learned.
        engine: how a step runs.
        console: where lines are printed.
        saved: the checkpoint to continue from; None: from the start.

    Attributes:
        step: updates done.
        epoch: epochs trained, evaluated and logged.
        last_row: what the last epoch of this call logged.
    """

    def __init__(
        self, recipe: Recipe, run: Run, task: Task, engine: Engine, console: Console, saved: AnyPath | None = None
    ) -> None:
        self.recipe = recipe
        self.run = run
        self.task = task
        self.engine = engine
        self.saved = saved
        self.steps_per_epoch = epoch_steps(task, recipe)
        duration = recipe.duration(self.steps_per_epoch)
        self.num_steps, self.num_epochs = duration.steps, duration.epochs
        self.settings = stream_settings(recipe)
        self.num_hosts = 1
        self.evaluator = evaluator_of(engine, task)
        self.validation_batches = self.evaluator.eval_batches(self._eval_stream)
        self.log = RunLog(run, task, console, engine.is_chief, recipe.data.batch_size, self.num_steps)
        self.step = 0
        self.epoch = 0
        self.last_row: EpochRow | None = None
        self.first_step = 0  # where this call began
        self.factor: np.ndarray | None = None  # what roll backs of this call have left of the learning rate

    def train(self) -> None:
        """Train to the end and keep the model.

        Raises:
            Interrupted: after Ctrl-C or SIGTERM, once the current step is done and the state is saved.
            UsageError: loss, weights or state are not finite, a record is damaged, or the disk is full.
        """
        self._resume()
        if self.engine.is_chief:
            patiently(lambda: write_serving(self.run, self.task.serving()))
        self.log.begin(self.epoch)
        with self.log, StopRequest() as stop:
            try:
                while self.epoch < self.num_epochs:
                    try:
                        self._train_epochs(stop)
                    except DivergedError as error:
                        self._roll_back(error)
            except (Interrupted, ServersGoneError) as stopped:
                try:
                    self._save(self._finite_state())
                except DivergedError:
                    if self.recipe.divergence.roll_backs:  # the last checkpoint is what it would return to
                        raise stopped from None
                    raise
                raise
            self._finite_state()  # also that of a run that had already ended when this call began
            model = self.engine.trained_model()
            if self.engine.is_chief:
                patiently(lambda: write_model(self.run, model))
            # None when the run had already ended as this call began: only the report was missing, or the model.
            validation = self.last_row.validation if self.last_row else self._evaluate(stop)
            if self.engine.is_chief:
                patiently(lambda: write_report(self.run, self.task, validation, self.num_hosts))

    def _train_epochs(self, stop: StopRequest) -> None:
        """Train from the current step to the end of the run."""
        if self.step == 0 and self.recipe.divergence.roll_backs:  # something to return to
            self._save(self.engine.state())
        batches = self.train_batches(lambda: self._check_stop(stop))
        while self.epoch < self.num_epochs:
            rate = self._train_epoch(batches, stop)
            self._finish_epoch(rate, stop)

    def train_batches(self, check_stop: Callable[[], None]) -> TimedBatches:
        """Training batches from the current step on; `check_stop` is called during a long wait for one."""
        first = self.step

        def make(fetched):
            return self.engine.train_batches(lambda share: self._train_stream(share, first + fetched), check_stop)

        return TimedBatches(PatientBatches(make, self.task.train_records))

    def _end(self, epoch: int) -> int:
        """The step at which an epoch ends."""
        return min((epoch + 1) * self.steps_per_epoch, self.num_steps)

    def _train_epoch(self, batches: TimedBatches, stop: StopRequest) -> Rate:
        """Train from the current step to the end of its epoch."""
        end = self._end(self.epoch)
        every = self.recipe.checkpoints.every_steps
        rate = Rate()
        while self.step < end:
            self.log.show(self.step, f"epoch {self.epoch + 1}/{self.num_epochs}", rate.recent_input_wait)
            # A call ends where the state is saved, so that a resumed run makes the same calls from there.
            next_save = min(end, (self.step // every + 1) * every) if every else end
            count = min(self.recipe.steps_per_call, next_save - self.step)
            started = time.perf_counter()
            self.engine.train_steps(batches, count)
            waited = batches.take_wait(count)
            if self.step > self.first_step:  # the first step of a call builds its graph
                rate.add(count, started, waited)
            self.step += count
            self._check_stop(stop)
            if self.step == next_save < end:
                self._wait_for_devices(rate)
                self._save(self._finite_state())
        return rate

    def _finish_epoch(self, rate: Rate, stop: StopRequest) -> None:
        """Evaluate, log and save at the end of an epoch."""
        self._wait_for_devices(rate)
        train = _figures(self.task, self.engine.read_sums("train"), [])
        self._check("training", train)
        validation = None
        if self.epoch + 1 == self.num_epochs or (self.epoch + 1) % self.recipe.evaluate_every == 0:
            validation = self._evaluate(stop)
            self._check("validation", validation)
        self.engine.reset_sums("train")
        state = self._finite_state()
        self.epoch += 1
        self.last_row = self._row(train, validation, rate)
        self.log.write(self.last_row)
        self._save(state)

    def _evaluate(self, stop: StopRequest) -> Figures:
        self.log.show(self.step, "evaluation")
        batches = PatientBatches(self._validation_from, self.task.validation_records)
        return evaluate(self.evaluator, self.task, batches, lambda: self._check_stop(stop))

    def _validation_from(self, first):
        """Validation batches from number `first` on."""
        if not first:
            return iter(self.validation_batches)
        # Skipped before they are distributed: several processes agree on each batch that they are given.
        return iter(self.evaluator.eval_batches(lambda share: self._eval_stream(share).skip(first)))

    def _wait_for_devices(self, rate: Rate) -> None:
        """Count the time of the steps that the devices have not finished."""
        started = time.perf_counter()
        self.engine.read_sums("train")
        rate.add(0, since=started)

    def _check_stop(self, stop: StopRequest) -> None:
        signal_number = self.engine.agree(stop.signal_number)
        if signal_number is not None:
            raise Interrupted(signal_number)

    def _row(self, train: Figures, validation: Figures | None, rate: Rate) -> EpochRow:
        steps_per_second = rate.steps_per_second
        steps = self._end(self.epoch - 1) - (self.epoch - 1) * self.steps_per_epoch
        drawn, validated = steps * self.recipe.data.batch_size, self.task.validation_records.num_examples
        return EpochRow(
            epoch=self.epoch,
            step=self.step,
            learning_rate=self.engine.learning_rate(self.step - 1),
            train=train,
            train_skipped=drawn - train.num_images,
            validation=validation,
            validation_skipped=validated - validation.num_images if validation else None,
            steps_per_second=steps_per_second,
            images_per_second=steps_per_second and steps_per_second * self.recipe.data.batch_size,
            input_wait=rate.input_wait,
            peak_memory_mib=self.engine.peak_memory(),
        )

    def _train_stream(self, share: HostShare, start_step: int = 0):
        return train_stream(self.task.train_records, self.task.samples(True), self.settings, share, start_step)

    def _eval_stream(self, share: HostShare):
        self.num_hosts = share.count
        return validation_stream(self.task, self.settings, share)

    def _finite_state(self) -> dict[str, np.ndarray]:
        """The state to save; never one that has diverged, since that would replace the good ones."""
        figures = _figures(self.task, self.engine.read_sums("train"), [])
        if figures.num_images:  # otherwise this would be the mean of nothing
            self._check("training", figures)
        state = self.engine.state()
        try:
            check_finite(state)
        except UsageError as error:
            raise self._diverged(str(error)) from error
        return state

    def _save(self, state: dict[str, np.ndarray]) -> None:
        if self.engine.is_chief:
            checkpoint = Checkpoint(self.step, self.epoch, state, self.task.digests(), plain_recipe(self.recipe))
            patiently(lambda: save_checkpoint(self.run.checkpoints, checkpoint, self.recipe.checkpoints.keep))

    def _resume(self) -> None:
        """Continue from the checkpoint, if there is one."""
        if self.saved is None:
            return
        saved = self.saved
        checkpoint = patiently(lambda: load_checkpoint(saved))  # another host may see the shared folder later
        for name, digest in self.task.digests().items():
            began = checkpoint.digests.get(name)
            if began != digest:
                raise UsageError(
                    f"--resume: this run began with other {name} data: their digest is {digest}, and {began} in "
                    f"{self.saved}"
                )
        if checkpoint.recipe is not None:
            check_checkpoint_recipe(self.run, checkpoint.recipe, self.recipe)
        self.engine.restore(checkpoint.arrays)
        self.step, self.epoch = checkpoint.step, checkpoint.epoch
        self.first_step = self.step
        self.log.say(f"Resuming from {self.saved}: step {self.step} of {self.num_steps}")

    def _check(self, split: str, figures: Figures) -> None:
        check_images(split, figures)
        if figures.loss is not None and not math.isfinite(figures.loss):
            raise self._diverged(f"the {split} loss is {figures.loss}")

    def _diverged(self, what: str) -> DivergedError:
        step = self.step - math.ceil(self.engine.read_sums("train")[DIVERGED] - 1e-3)
        # The update of the step before may have made the weights infinite.
        ids = {number: self._ids(number) for number in range(max(step - 1, 0), min(step + 1, self.step))}
        if self.engine.is_chief:
            patiently(lambda: write_diverged(self.run, what, ids))
        return DivergedError(
            f"{what} at step {self.step} (epoch {math.ceil(self.step / self.steps_per_epoch)}): start again with a "
            "lower optimizer.learning_rate, a longer schedule.warmup_epochs or optimizer.clip_global_norm, or let the "
            f"run return to a checkpoint by itself (divergence.roll_backs). {self.run.diverged} names the records of "
            "the steps where it began"
        )

    def _newest_checkpoint(self) -> AnyPath:
        """The last one of a run that has saved some: none are in a folder that is away."""
        found = list_checkpoints(self.run.checkpoints)
        if not found:
            raise FileNotFoundError(errno.ENOENT, "there is no checkpoint to return to", str(self.run.checkpoints))
        return found[-1]

    def _ids(self, step: int) -> list[int]:
        """The records of a step."""
        settings = dataclasses.replace(self.settings, servers=())

        def read():
            stream = train_stream(self.task.train_records, self.task.samples(True), settings, start_step=step)
            return next(iter(stream))["id"].numpy().tolist()

        return patiently(read)

    def _roll_back(self, error: DivergedError) -> None:
        """Return to the last checkpoint, with a lower learning rate.

        Raises:
            DivergedError: `error`; the recipe asks for no roll back, or no further one.
        """
        settings = self.recipe.divergence
        if not settings.roll_backs:
            raise error
        newest = patiently(self._newest_checkpoint).name if self.engine.is_chief else ""
        saved = self.run.checkpoints / self.engine.from_chief(newest)
        checkpoint = patiently(lambda: load_checkpoint(saved))
        factor = checkpoint.arrays[RATE_FACTOR] * np.float32(settings.rate_factor)
        if self.factor is not None:  # several in a row, from one checkpoint
            factor = self.factor * np.float32(settings.rate_factor)
        if factor < settings.rate_factor ** (settings.roll_backs + 0.5):
            raise error
        self.factor = factor
        self.engine.restore(checkpoint.arrays | {RATE_FACTOR: factor})
        self.step, self.epoch = checkpoint.step, checkpoint.epoch
        self.first_step = self.step
        self.log.begin(self.epoch)
        self.log.say(
            f"{str(error).partition(': start')[0]}: back to step {self.step}, with {factor:.3g} of the learning rate"
        )
