"""Optimizers and learning-rate schedules of the papers, as keras objects that run on every backend."""

import math
import re
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfvt.errors import UsageError
from tfvt.models.base import HEAD_LAYERS
from tfvt.models.blocks import BLOCK
from tfvt.trainers.recipes.recipe import OptimizerRecipe, Recipe

OPTIMIZERS = {
    "sgd": keras.optimizers.SGD,
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "rmsprop": keras.optimizers.RMSprop,
    "lamb": keras.optimizers.Lamb,
    "lion": keras.optimizers.Lion,
    "muon": keras.optimizers.Muon,
}
DECOUPLED = ("adamw", "lamb", "lion", "muon")  # they decay weights in their own update
# Muon is for matrices between features: not for the classifier, nor for tables and other weights that are no kernels.
NOT_FOR_MUON = [rf"^({'|'.join(HEAD_LAYERS)})/", r"(?<!kernel)$"]


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate as a function of the global step (the number of updates done before it).

    Warm-up is linear per step from `warmup_learning_rate` and reaches the peak at the first step after it.
    step: peak * decay_factor ** (epoch // decay_epochs), epochs counted from the start of training,
    or by the number of `decay_steps` that are past;
    exponential: peak * decay_factor ** (whole epochs after the warm-up);
    cosine: half a period from the peak at the end of the warm-up to `final_learning_rate`, which
    the step after the last one would have;
    poly: from the peak at step 0 to `final_learning_rate` there as well; a warm-up is a growing share of it.
    """

    def __init__(self, recipe: Recipe, steps_per_epoch: int) -> None:
        self.recipe = recipe.schedule
        self.peak = recipe.optimizer.learning_rate
        self.steps_per_epoch = steps_per_epoch
        duration = recipe.duration(steps_per_epoch)
        self.warmup_steps, self.total_steps = duration.warmup_steps, duration.steps
        # What roll backs have left of the rate: part of the state, since a resumed run keeps it.
        lowers = recipe.divergence.roll_backs > 0
        self.factor = keras.Variable(1.0, trainable=False, name="rate_factor") if lowers else None

    def __call__(self, step):
        """The rate (float32, the shape of `step`) of the update number `step`, counted from 0."""
        step = ops.cast(step, "int32")
        rate = ops.cast(self._after_warmup(step), "float32")
        if self.warmup_steps:
            start = self.recipe.warmup_learning_rate
            share = ops.cast(step, "float32") / self.warmup_steps
            peak = rate if self.recipe.name == "poly" else self.peak
            rate = ops.where(step < self.warmup_steps, start + (peak - start) * share, rate)
        return rate if self.factor is None else rate * ops.convert_to_tensor(self.factor)

    def _after_warmup(self, step):
        since_warmup = step - self.warmup_steps
        match self.recipe.name:
            case "constant":
                return ops.full(ops.shape(step), self.peak)
            case "step":
                drops = step // (self.steps_per_epoch * self.recipe.decay_epochs)
                if self.recipe.decay_steps:
                    drops = sum(ops.cast(step >= at, "int32") for at in self.recipe.decay_steps)
                return self.peak * self.recipe.decay_factor ** ops.cast(drops, "float32")
            case "exponential":
                epochs = ops.maximum(since_warmup, 0) // self.steps_per_epoch
                return self.peak * self.recipe.decay_factor ** ops.cast(epochs, "float32")
            case "cosine":
                share = ops.cast(since_warmup, "float32") / (self.total_steps - self.warmup_steps)
                final = self.recipe.final_learning_rate
                return final + (self.peak - final) * 0.5 * (1 + ops.cos(math.pi * ops.clip(share, 0, 1)))
            case "poly":
                left = ops.clip(1 - ops.cast(step, "float32") / self.total_steps, 0, 1)
                final = self.recipe.final_learning_rate
                return final + (self.peak - final) * left**self.recipe.power


def make_optimizer(
    settings: OptimizerRecipe, schedule: Schedule, variables: Sequence[keras.Variable]
) -> keras.Optimizer:
    """The recipe's optimizer, built for `variables`, its learning rate on `schedule`.

    Only the `DECOUPLED` ones decay weights here; `regularize` does it for the others, and clips for all.
    """
    options = dict(settings.options)
    if settings.name in DECOUPLED:
        options["weight_decay"] = settings.weight_decay
    if settings.name == "muon":
        options |= {f"adam_{beta}": options.pop(beta) for beta in ("beta_1", "beta_2")}
        options |= {"adam_weight_decay": settings.weight_decay, "exclude_layers": NOT_FOR_MUON}
    optimizer = OPTIMIZERS[settings.name](learning_rate=schedule, **options)
    if settings.name in DECOUPLED:
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


def regularize(gradients: Sequence[Any], variables: Sequence[keras.Variable], settings: OptimizerRecipe) -> list[Any]:
    """Gradients as the update takes them: clipped by their global norm, then with the L2 term added.

    `gradients` are sums over all devices, so that the norm is that of the whole batch. Clipping comes first,
    as with PyTorch's `clip_grad_norm_` before an optimizer with `weight_decay`. The `DECOUPLED` optimizers decay
    weights in their own update.
    """
    gradients = list(gradients)
    if settings.clip_global_norm is not None:
        norm = ops.sqrt(sum(ops.sum(ops.square(gradient)) for gradient in gradients))
        scale = settings.clip_global_norm / ops.maximum(norm, settings.clip_global_norm)
        gradients = [gradient * scale for gradient in gradients]
    if settings.name in DECOUPLED or settings.weight_decay == 0:
        return gradients
    return [
        gradient + settings.weight_decay * ops.convert_to_tensor(variable) if decays(variable, settings) else gradient
        for gradient, variable in zip(gradients, variables, strict=True)
    ]


def layer_scales(variables: Sequence, decay: float | None) -> list[float]:
    """The share of the learning rate that each of a model's variables has.

    Layer-wise decay (Clark et al. 2020, ELECTRA, section 3.2; Bao et al. 2022, BEiT): decay ** (layers after this one).
    A layer is an encoder layer, a residual block or a token module. What stands before the first is one layer, and so
    is what stands after the last, the head among it, which has the full rate. What stands between two goes with the
    first of them.
    """
    if decay is None:
        return [1.0] * len(variables)
    found = [BLOCK.match(variable.path) for variable in variables]
    names = list(dict.fromkeys(match[0] for match in found if match))
    last = max((index for index, match in enumerate(found) if match), default=-1)
    scales, depth = [], 0
    for index, match in enumerate(found):
        depth = names.index(match[0]) + 1 if match else depth
        scales.append(decay ** (0 if index > last else len(names) + 1 - depth))
    return scales


def apply_scaled(optimizer: keras.Optimizer, gradients: Sequence, variables: Sequence, scales: Sequence[float]) -> None:
    """Update `variables`; each moves by its share of `scales`, as if the learning rate were so much smaller for it."""
    slower = [(v, ops.copy(v), scale) for v, scale in zip(variables, scales, strict=True) if scale != 1]
    optimizer.apply(gradients)
    for variable, before, scale in slower:
        variable.assign(before + scale * (variable - before))


def freeze(model: keras.Model, patterns: Sequence[str]) -> None:
    """Keep the layers whose names match one of the regular expressions as they are.

    Raises:
        UsageError: a pattern that is no regular expression or that no layer matches, or nothing is left to train.
    """
    layers = [layer for layer in model.layers if layer.weights]
    for pattern in patterns:
        try:
            matching = [layer for layer in layers if re.fullmatch(pattern, layer.name)]
        except re.error as error:
            raise UsageError(f"model.frozen: {pattern!r} is no regular expression ({error})") from error
        if not matching:
            names = ", ".join([layer.name for layer in layers][:5])
            raise UsageError(f"model.frozen: no layer of {model.name} is called {pattern!r}; the first are {names}")
        for layer in matching:
            layer.trainable = False
    if not model.trainable_variables:
        raise UsageError("model.frozen leaves no layer to train")
