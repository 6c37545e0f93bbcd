"""A task's interface to the loop, the engines and the commands. A registered model names its task."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np

import tfvt
from tfvt.data.kinds import check_kind
from tfvt.data.loading import Samples
from tfvt.data.records import RecordSet, open_records
from tfvt.errors import UsageError
from tfvt.export import Serving
from tfvt.trainers.recipes.recipe import DataRecipe, Recipe


@dataclass(frozen=True)
class Table:
    """A table of a run's report: all cells are text."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Pictures:
    """Validation images in a run's report: their places in the split, each with a caption."""

    title: str
    note: str
    captions: dict[int, str]


class Task(Protocol):
    """Data, loss, figures and answers of one kind of learning.

    A task knows no device and no loop: `teach`, `loss` and `sums` use keras.ops and run on every engine. A class that
    derives from this one gets the methods below that have a body.

    Attributes:
        recipe_class: the recipe of such a run, with the task's own keys.
        serving_class: the class of what `serving` returns.
        columns: names of its figures, as metrics.csv has them after `train_` and `validation_`.
        train_records, validation_records: the two splits.
        by_image: whether evaluation takes images one by one, each of its own size, by `image_model` and
            `evaluate_image`, in place of batches by `loss`, `sums` and `rows`.
    """

    by_image = False

    recipe_class: type[Recipe]
    serving_class: type[Serving]
    columns: tuple[str, ...]
    train_records: RecordSet
    validation_records: RecordSet

    def samples(self, training: bool) -> Samples:
        """What a record becomes."""

    def model(self) -> keras.Model:
        """The network, from `inputs` to `outputs`."""

    def teach(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """A training batch with what `loss` needs and no gradient flows through, such as a teacher's outputs.

        Engines call it on each device before they begin to differentiate.
        """
        return batch

    def fixed_variables(self) -> Sequence[keras.Variable]:
        """What `teach` reads of Keras' variables. An engine that compiles whole steps hands them in from outside."""
        return ()

    def inputs(self, batch: Mapping[str, Any]) -> Any:
        """What of a batch the model takes in training."""
        return batch["image"]

    def loss(self, outputs: Any, batch: Mapping[str, Any], training: bool) -> Any:
        """Of each sample, float32 (B,), or a dict of such parts, which add up and are among the sums by their names."""

    def no_sums(self) -> dict[str, np.ndarray]:
        """Zeros of the shapes of `sums`."""

    def sums(self, outputs: Any, batch: Mapping[str, Any], weights: Any) -> dict[str, Any]:
        """Values that add up over batches and devices. `weights` (B,) are 0 for samples that do not count."""

    def rows(self, outputs: Any, batch: Mapping[str, Any]) -> dict[str, Any] | None:
        """Values that do not add up, such as boxes: (B, ...) by name, sent to the host; None if there are none."""

    def image_model(self, model: keras.Model) -> keras.Model:
        """What of the model `evaluate_image` calls."""
        return model

    def evaluate_image(
        self, forward: Callable[[Any], Any], sample: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """What one image adds to the loss ("loss", which may be missing) and to `sums`, and its row, if there are any.

        A row is arrays by name, of any length; `figures` gets those of all images of all processes.

        Args:
            forward: from images (N, H, W, 3) to the outputs of `image_model`.
            sample: of `samples(training=False)`.
        """

    def figures(self, sums: Mapping[str, np.ndarray], rows: list[dict[str, np.ndarray]]) -> dict[str, float]:
        """The columns, from the sums (with "images", their number, above 0) and the rows of all batches."""

    def summary(self, figures: Mapping[str, float]) -> str:
        """The figures on one line, for people."""

    def serving(self) -> Serving:
        """The steps around the model, from the bytes of an image to an answer."""

    def table(self, sums: Mapping[str, np.ndarray], rows: list[dict[str, np.ndarray]]) -> Table | None:
        """More of an evaluation than the figures, which `tfvt evaluate` prints and report.html shows."""
        return None

    def report(self, rows: Mapping[str, np.ndarray]) -> Sequence[Table | Pictures]:
        """What report.html shows of the last evaluation; `rows` of all images, in the validation split's order."""
        return ()

    def digests(self) -> dict[str, str]:
        """Of the data that the steps depend on, by name, wherever they lie. A run continues only with the same."""
        return {"training": self.train_records.digest, "validation": self.validation_records.digest}


def with_parts(losses: Any) -> dict[str, Any]:
    """The "loss" (B,), and its parts by their names if `Task.loss` has returned parts."""
    if not isinstance(losses, Mapping):
        return {"loss": losses}
    return {"loss": sum(losses.values()), **losses}


def dense_model(recipe: Recipe, num_classes: int, serving: Serving) -> keras.Model:
    """The recipe's model for images of any size, if its backbone is; otherwise for those of training.

    Args:
        recipe: of a task whose training images have the size `data.train.image_size`.
        num_classes: of its records.
        serving: the task's, which refuses a model that does not fit.

    Raises:
        UsageError: an option that the model does not take, weights that do not fit, or an evaluation with images of a
            size that the model does not take.
    """
    model = recipe.model
    build = functools.partial(
        tfvt.create_model, model.name, num_classes=num_classes, weights=model.weights, **model.options
    )
    try:
        try:
            built = build(input_shape=(None, None, 3))
        except ValueError as error:
            if "input_shape" not in str(error):
                raise
            built = build(input_shape=(*recipe.data.train.image_size, 3))
        serving.check(built)
    except (ValueError, OSError) as error:
        raise UsageError(f"model: {error}") from error
    return built


def open_split(data: DataRecipe, split: str, kind: str = "classes") -> RecordSet:
    """One split of the recipe's records.

    Args:
        data: where they are.
        split: its name.
        kind: what the task needs, one of `tfvt.data.kinds.KINDS`.

    Raises:
        UsageError: it does not exist, is not whole, or holds images of another kind.
    """
    records = open_records(data.records, split)
    check_kind(records, kind)
    return records
