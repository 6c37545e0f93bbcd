"""Optimizers and learning-rate schedules of the papers, as keras objects that run on every backend."""

import math
from collections.abc import Sequence

import keras
from keras import ops

from tfvt.trainers.recipes.recipe import OptimizerRecipe, Recipe

OPTIMIZERS = {
    "sgd": keras.optimizers.SGD,
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "rmsprop": keras.optimizers.RMSprop,
}


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate as a function of the global step (the number of updates done before it).

    Warm-up is linear per step from `warmup_learning_rate` and reaches the peak at the first step after it.
    step: peak * decay_factor ** (epoch // decay_epochs), epochs counted from the start of training;
    exponential: peak * decay_factor ** (whole epochs after the warm-up);
    cosine: half a period from the peak at the end of the warm-up to `final_learning_rate`, which
    the step after the last one would have.
    """

    def __init__(self, recipe: Recipe, steps_per_epoch: int) -> None:
        self.recipe = recipe.schedule
        self.peak = recipe.optimizer.learning_rate
        self.steps_per_epoch = steps_per_epoch
        self.warmup_steps = round(recipe.schedule.warmup_epochs * steps_per_epoch)
        self.total_steps = recipe.epochs * steps_per_epoch

    def __call__(self, step):
        """The rate (float32, the shape of `step`) of the update number `step`, counted from 0."""
        step = ops.cast(step, "int32")
        rate = ops.cast(self._after_warmup(step), "float32")
        if not self.warmup_steps:
            return rate
        start = self.recipe.warmup_learning_rate
        share = ops.cast(step, "float32") / self.warmup_steps
        return ops.where(step < self.warmup_steps, start + (self.peak - start) * share, rate)

    def _after_warmup(self, step):
        since_warmup = step - self.warmup_steps
        match self.recipe.name:
            case "constant":
                return ops.full(ops.shape(step), self.peak)
            case "step":
                drops = step // (self.steps_per_epoch * self.recipe.decay_epochs)
                return self.peak * self.recipe.decay_factor ** ops.cast(drops, "float32")
            case "exponential":
                epochs = ops.maximum(since_warmup, 0) // self.steps_per_epoch
                return self.peak * self.recipe.decay_factor ** ops.cast(epochs, "float32")
            case "cosine":
                share = ops.cast(since_warmup, "float32") / (self.total_steps - self.warmup_steps)
                final = self.recipe.final_learning_rate
                return final + (self.peak - final) * 0.5 * (1 + ops.cos(math.pi * ops.clip(share, 0, 1)))


def make_optimizer(settings: OptimizerRecipe, schedule: Schedule, variables: Sequence) -> keras.Optimizer:
    """The recipe's optimizer, built for `variables`, its learning rate on `schedule`.

    Only adamw decays weights here; `regularize` does it for the others, and clips for all.
    """
    options = dict(settings.options)
    if settings.name == "adamw":
        options["weight_decay"] = settings.weight_decay
    optimizer = OPTIMIZERS[settings.name](learning_rate=schedule, **options)
    if settings.name == "adamw":
        optimizer.exclude_from_weight_decay([v for v in variables if not decays(v, settings)])
    optimizer.build(variables)
    return optimizer


def decays(variable: keras.Variable, settings: OptimizerRecipe) -> bool:
    """Whether weight decay acts on `variable`: on all variables, or only on kernels.

    A layer marks its kernels by name, `kernel` or `..._kernel`: matrices that multiply features. The others are norms'
    scales and offsets, biases, ACmix's rates, class tokens, tables of positions
    (a Swin's bias tables too), a graph's adjacency and W_A of the filter tokenizer. DeiT and Swin spare the same
    (their `no_weight_decay`), so do TensorFlow official models (`include_in_weight_decay`: kernels); PVT's code spares
    the class token, and remarks that sparing positions may be better. There is no published choice for W_A: its columns
    are learned vectors that the layer compares with pixels, and it is the only linear of a VT without a norm after it.
    """
    return settings.decay_norms_and_biases or variable.name.endswith("kernel")


def regularize(gradients: Sequence, variables: Sequence, settings: OptimizerRecipe) -> list:
    """Gradients as the update takes them: clipped by their global norm, then with the L2 term added.

    `gradients` are sums over all devices, so that the norm is that of the whole batch. Clipping comes first,
    as with PyTorch's `clip_grad_norm_` before an optimizer with `weight_decay`. adamw decays
    weights in its own update.
    """
    gradients = list(gradients)
    if settings.clip_global_norm is not None:
        norm = ops.sqrt(sum(ops.sum(ops.square(gradient)) for gradient in gradients))
        scale = settings.clip_global_norm / ops.maximum(norm, settings.clip_global_norm)
        gradients = [gradient * scale for gradient in gradients]
    if settings.name == "adamw" or settings.weight_decay == 0:
        return gradients
    return [
        gradient + settings.weight_decay * ops.convert_to_tensor(variable) if decays(variable, settings) else gradient
        for gradient, variable in zip(gradients, variables, strict=True)
    ]
