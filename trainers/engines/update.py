"""From gradients to the next weights, on Keras variables: both engines do it with this."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfvt.trainers.recipes.recipe import Recipe
from tfvt.trainers.run.checkpoint import assign_arrays, name_arrays

from .loss_scale import LossScale
from .optimizer import Schedule, apply_scaled, layer_scales, make_optimizer, regularize


class Update:
    """One update of a model: clipping, weight decay, the optimizer's step, averaged weights.

    Args:
        recipe: of the run.
        model: what is trained.
        steps_per_epoch: for the schedule.

    Attributes:
        schedule: the learning rate by step.
        optimizer: the recipe's.
        average: a model with the averaged weights, if the recipe asks for it.
        variables: what the next step depends on, by kind.
    """

    def __init__(self, recipe: Recipe, model: keras.Model, steps_per_epoch: int) -> None:
        self.recipe = recipe
        self.model = model
        self.trainable = model.trainable_variables
        self.scales = layer_scales(self.trainable, recipe.optimizer.layer_decay)
        self.schedule = Schedule(recipe, steps_per_epoch)
        self.optimizer = make_optimizer(recipe.optimizer, self.schedule, self.trainable)
        self.average = _copy(model) if recipe.ema_decay is not None else None
        # `variables`, not `weights`: only the former include the seed generators' states.
        self.variables = {"model": model.variables, "optimizer": self.optimizer.variables}
        self.variables["average"] = self.average.weights if self.average else []
        self.loss_scale = LossScale() if recipe.precision == "mixed_float16" else None
        self.variables["rate"] = [] if self.schedule.factor is None else [self.schedule.factor]
        self.variables["scale"] = self.loss_scale.variables if self.loss_scale else []

    @property
    def trained_model(self) -> keras.Model:
        """The model to evaluate and to keep."""
        return self.average or self.model

    def state(self) -> dict[str, np.ndarray]:
        """All variables, by names that keep their order."""
        return {
            name: array
            for prefix, variables in self.variables.items()
            for name, array in name_arrays(prefix, variables).items()
        }

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Assign what `state` returned.

        Raises:
            UsageError: it is the state of another model or optimizer.
        """
        for prefix, variables in self.variables.items():
            assign_arrays(prefix, variables, arrays)

    def scaled(self, loss: Any) -> Any:
        """The loss to differentiate."""
        return loss * ops.convert_to_tensor(self.loss_scale.factor) if self.loss_scale else loss

    def __call__(self, gradients: Sequence[Any]) -> None:
        """Update all variables from the gradients of the whole batch's mean loss, `scaled`."""
        if not self.loss_scale:
            self._update(gradients)
            return
        # The schedule counts all steps, also one whose update does not happen.
        slots = [v for v in self.optimizer.variables if v is not self.optimizer.iterations]
        self.loss_scale.apply(self._update, gradients, [*self.trainable, *slots, *self.variables["average"]])

    def _update(self, gradients):
        gradients = regularize(gradients, self.trainable, self.recipe.optimizer)
        apply_scaled(self.optimizer, gradients, self.trainable, self.scales)
        if self.average:
            self._update_average()

    def _update_average(self):
        """Early on this is a running mean, like TensorFlow's ExponentialMovingAverage."""
        updates = ops.cast(self.optimizer.iterations, "float32")
        decay = ops.minimum(self.recipe.ema_decay, (1 + updates) / (10 + updates))
        for average, weight in zip(self.average.weights, self.model.weights, strict=True):
            average.assign(average + (1 - decay) * (ops.convert_to_tensor(weight) - ops.convert_to_tensor(average)))


def _copy(model: keras.Model) -> keras.Model:
    copy = type(model).from_config(model.get_config())  # Keras' clone_model forgets which inputs are optional
    copy.set_weights(model.get_weights())
    return copy
