"""A model as a chain of its blocks, and a forward pass that keeps only what passes between them.

Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", https://arxiv.org/abs/1604.06174; known as
rematerialisation, activation checkpointing or gradient checkpointing.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

# A block is an encoder layer, a residual block or a token module, by the beginning of its layers' names (and so of
# their weights' paths).
BLOCK = re.compile(r"encoder_layer\d+|stage\d+_block\d+|vt\d+")


@dataclass(frozen=True)
class Part:
    """Successive operations of a model.

    Attributes:
        inputs: the model's tensors that the operations read.
        outputs: the model's tensors that others read of them.
        model: a model from a list of `inputs` to a list of `outputs`, with the layers and variables of the whole one.
    """

    inputs: list[keras.KerasTensor]
    outputs: list[keras.KerasTensor]
    model: keras.Model


def cut(model: keras.Model) -> list[Part]:
    """The parts of a functional model in order, cut in front of every block.

    The first part is what stands in front of the first block; what follows a block goes with it.

    Raises:
        ValueError: a model without blocks, or one that calls a layer more than once.
    """
    groups, block = [[]], None
    for operation in getattr(model, "operations", []):
        match = BLOCK.match(operation.name)
        if match and match[0] != block:
            block = match[0]
            groups.append([])
        if not isinstance(operation, keras.layers.InputLayer):
            groups[-1].append(operation)
    if block is None:
        raise ValueError(f"{model.name} has no blocks: no layer's name begins like {BLOCK.pattern}")
    groups = [group for group in groups if group]
    reads = [_tensors(operation.input for operation in group) for group in groups]
    gives = [_tensors(operation.output for operation in group) for group in groups]
    if not set().union(*reads) <= set().union(_tensors(model.inputs), *gives):
        raise ValueError(f"{model.name} calls a layer more than once: it is no chain of blocks")
    parts, histories = [], [(tensor, tensor._keras_history) for tensor in model.inputs]
    for index in range(len(groups)):
        later = set().union(_tensors(model.outputs), *reads[index + 1 :])
        inputs = [tensor for name, tensor in reads[index].items() if name not in gives[index]]
        outputs = [tensor for name, tensor in gives[index].items() if name in later]
        parts.append(Part(inputs, outputs, keras.Model(inputs, outputs)))
    for tensor, history in histories:  # Keras makes an input that a later part reads too that part's alone
        tensor._keras_history = history
    return parts


def _tensors(nested):
    """By id: they compare by their values."""
    return {id(tensor): tensor for tensor in keras.tree.flatten(list(nested))}


class Rematerialized:
    """A model's forward pass in training that keeps what passes between its blocks, and computes the rest twice.

    Its numbers are the model's: the second computation has the same weights, states of random generators and moving
    statistics as the first, and leaves no new ones behind.

    Args:
        model: a functional model.
        checkpoint: makes, of a function of nested tensors, one that gives the same and keeps nothing but its arguments
            for the gradient, such as `jax.checkpoint`.

    Raises:
        ValueError: see `cut`.
    """

    def __init__(self, model: keras.Model, checkpoint: Callable[[Callable], Callable]) -> None:
        self.model = model
        self.checkpoint = checkpoint
        self.parts = cut(model)

    def __call__(self, inputs: Any) -> Any:
        """What the model gives of images, or of a dict of its inputs, in training. Its other variables get their new
        values.
        """
        taken, known = self.model.input, {}
        if not isinstance(taken, dict):
            taken, inputs = {"image": self.model.inputs[0]}, {"image": inputs}
        for name, tensor in taken.items():
            value = inputs.get(name)  # perhaps an optional one that is missing
            known[id(tensor)] = None if value is None else keras.ops.convert_to_tensor(value, tensor.dtype)
        for part in self.parts:
            read = [known[id(tensor)] for tensor in part.inputs]
            # The gradient begins with the last part, so that keeping what it computes takes no more memory.
            run = self._compute_twice if part is not self.parts[-1] else self._keep
            known |= {id(tensor): output for tensor, output in zip(part.outputs, run(part.model, read), strict=True)}
        return keras.tree.map_structure(lambda tensor: known[id(tensor)], self.model.output)

    @staticmethod
    def _keep(part, inputs):
        return keras.tree.flatten(part(inputs, training=True))

    def _compute_twice(self, part, inputs):
        variables, others = part.trainable_variables, part.non_trainable_variables

        def run(inputs, trainable, fixed):
            given = [*zip(variables, trainable, strict=True), *zip(others, fixed, strict=True)]
            with keras.StatelessScope(given) as scope:
                before = [scope.get_current_value(variable) for variable in others]
                outputs = part(inputs, training=True)
            after = [scope.get_current_value(variable) for variable in others]
            moved = [index for index, value in enumerate(after) if value is not before[index]]
            return keras.tree.flatten(outputs), {str(index): after[index] for index in moved}

        values = [[keras.ops.convert_to_tensor(v) for v in variables] for variables in (variables, others)]
        outputs, moved = self.checkpoint(run)(inputs, *values)
        for index, value in moved.items():
            others[int(index)].assign(value)
        return outputs
