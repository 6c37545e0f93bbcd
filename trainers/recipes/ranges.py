"""The rule for all numbers of a recipe, and the range of each key that does not take every number."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tfvt.errors import UsageError

LARGEST_INTEGER = 2**31 - 1  # TensorFlow's shapes and counts
LARGEST_FLOAT = float(np.finfo(np.float32).max)  # steps compute in float32

AT_LEAST_1 = (lambda value: value >= 1, "at least 1")
NOT_NEGATIVE = (lambda value: value >= 0, "at least 0")
POSITIVE = (lambda value: np.float32(value) > 0, "above 0 (in float32)")
SEED = (lambda value: 0 <= value < 2**32, "from 0 to 4294967295")
SHARE = (lambda value: 0 <= value < 1, "at least 0 and below 1")
UP_TO_100 = (lambda value: 0 <= value <= 100, "from 0 to 100")
UP_TO_1000 = (lambda value: 0 <= value <= 1000, "from 0 to 1000")
# Of a list, each entry. `tfvt/data`, which uses sizes, shares and probabilities of `data`, checks them itself.
RANGES = {
    "data.batch_size": AT_LEAST_1,
    "data.repeats": AT_LEAST_1,
    "data.block_size": AT_LEAST_1,
    "data.train.aspect_range": (lambda value: 0.001 <= value <= 1000, "from 0.001 to 1000"),
    "data.train.color_jitter": UP_TO_100,
    "data.train.randaugment_magnitude_std": UP_TO_100,
    "data.mixing.mixup_alpha": UP_TO_1000,
    "data.mixing.cutmix_alpha": UP_TO_1000,
    "optimizer.learning_rate": POSITIVE,
    "optimizer.weight_decay": NOT_NEGATIVE,
    "optimizer.layer_decay": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "optimizer.clip_global_norm": POSITIVE,
    "optimizer.momentum": SHARE,
    "optimizer.rho": SHARE,
    "optimizer.beta_1": SHARE,
    "optimizer.beta_2": SHARE,
    "optimizer.epsilon": POSITIVE,
    "schedule.warmup_epochs": NOT_NEGATIVE,
    "schedule.warmup_steps": NOT_NEGATIVE,
    "schedule.power": POSITIVE,
    "schedule.warmup_learning_rate": NOT_NEGATIVE,
    "schedule.decay_factor": POSITIVE,
    "schedule.decay_epochs": AT_LEAST_1,
    "schedule.decay_steps": AT_LEAST_1,
    "schedule.final_learning_rate": NOT_NEGATIVE,
    "distillation.image_size": (lambda value: 1 <= value <= 2**15, "from 1 to 32768"),
    "distillation.pixel_std": POSITIVE,
    "distillation.temperature": POSITIVE,
    "distillation.teacher_share": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "auxiliary_weight": NOT_NEGATIVE,
    "epochs": AT_LEAST_1,
    "steps": AT_LEAST_1,
    "seed": SEED,
    "label_smoothing": SHARE,
    "ema_decay": SHARE,
    "accumulation_steps": AT_LEAST_1,
    "steps_per_call": AT_LEAST_1,
    "evaluate_every": AT_LEAST_1,
    "divergence.roll_backs": NOT_NEGATIVE,
    "divergence.rate_factor": (lambda value: 0 < value < 1, "above 0 and below 1"),
    "checkpoints.every_steps": AT_LEAST_1,
    "checkpoints.keep": AT_LEAST_1,
}


def check_numbers(values: Mapping[str, Any]) -> None:
    """Check every number in `values`, a recipe with its keys on one level (`optimizer.learning_rate`).

    Integers must fit 32 bits, floats must be finite in float32, and both must lie in their key's range.

    Raises:
        UsageError: one does not; the message names its key.
    """
    for key, value in values.items():
        holds, words = RANGES.get(key, (lambda _: True, ""))
        for number in _numbers(value):
            if isinstance(number, int) and abs(number) > LARGEST_INTEGER and key != "seed":
                raise UsageError(f"{key} must be at most {LARGEST_INTEGER}, not {number}")
            if isinstance(number, float) and not abs(number) <= LARGEST_FLOAT:  # NaN compares false
                bound = "" if math.isinf(number) or math.isnan(number) else f" and at most {LARGEST_FLOAT:.2g}"
                raise UsageError(f"{key} must be finite{bound}, not {number}")
            if not holds(number):
                raise UsageError(f"{key} must be {words}, not {number}")


def _numbers(value: Any) -> Iterable[int | float]:
    """The numbers in `value`, a scalar or lists and dicts of such."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for entry in value:
            yield from _numbers(entry)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value
