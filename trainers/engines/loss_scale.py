"""Loss scaling: gradients in half precision that neither vanish nor overflow."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

START = 2.0**15
STEPS_TO_DOUBLE = 2000


class LossScale:
    """The factor of the loss while gradients are computed in float16 (Micikevicius et al. 2018, "Mixed Precision
    Training", section 3.2).

    It doubles after 2000 updates in a row, and halves when a gradient is not finite. Such an update does not happen.
    TensorFlow's and PyTorch's loss scalers do the same.

    Attributes:
        variables: its state.
    """

    def __init__(self) -> None:
        self.factor = keras.Variable(START, trainable=False, name="loss_scale")
        self.good_steps = keras.Variable(0, trainable=False, dtype="int32", name="good_steps")
        self.variables = [self.factor, self.good_steps]

    def apply(
        self, update: Callable[[list[Any]], None], gradients: Sequence[Any], changed: Sequence[keras.Variable]
    ) -> None:
        """Call `update` with the gradients of the loss itself; where they are not finite, undo what it changed.

        Args:
            update: changes `changed` and nothing else.
            gradients: of the scaled loss.
            changed: Keras variables.
        """
        finite = ops.all(ops.stack([ops.all(ops.isfinite(gradient)) for gradient in gradients]))
        factor = ops.convert_to_tensor(self.factor)
        before = [ops.copy(variable) for variable in changed]
        update([ops.where(finite, gradient / factor, ops.zeros_like(gradient)) for gradient in gradients])
        for variable, value in zip(changed, before, strict=True):
            variable.assign(ops.where(finite, ops.convert_to_tensor(variable), value))
        good_steps = ops.where(finite, ops.convert_to_tensor(self.good_steps) + 1, 0)
        doubles = good_steps >= STEPS_TO_DOUBLE
        self.factor.assign(ops.where(finite, ops.where(doubles, 2 * factor, factor), factor / 2))
        self.good_steps.assign(ops.where(doubles, 0, good_steps))
