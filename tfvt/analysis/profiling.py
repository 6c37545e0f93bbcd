"""Parameters and multiply-adds (MACs) of a built model.

A MAC is one multiply-add of a convolution, a dense layer or an attention product. Norms, soft-max, pooling,
resizing, additions, biases and the iterations of k-means are free.
"""

import contextlib
import math
from dataclasses import dataclass

import keras

NORM_LAYERS = (
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
    keras.layers.RMSNormalization,
)


@dataclass(frozen=True)
class ProfileRow:
    """One layer that has weights or multiplies: its own parameters and MACs, without those of its sublayers.

    A layer that is called several times has its parameters in its first row only.
    """

    path: str
    kind: str
    output_shape: tuple[int, ...] | None
    params: int
    macs: int


@dataclass(frozen=True)
class Profile:
    """Parameters and MACs of a model for one image. `str(profile)` is a table.

    Attributes:
        params: trainable parameters (no moving statistics).
        params_without_norms: those less the scales and offsets of norm layers.
        macs: multiply-adds for one image of `input_shape`.
        input_shape: (height, width, channels).
        rows: one `ProfileRow` per call of a layer that has weights or multiplies, in order.
    """

    name: str
    params: int
    params_without_norms: int
    macs: int
    input_shape: tuple[int, ...]
    rows: tuple[ProfileRow, ...]

    def __str__(self):
        shape = "x".join(map(str, self.input_shape))
        header = ("layer", "type", "output", "parameters", "MACs")
        body = [
            (
                row.path,
                row.kind,
                "x".join(map(str, row.output_shape or ())),
                f"{row.params:,}",
                f"{row.macs:,}",
            )
            for row in self.rows
        ]
        body.append((f"total at {shape}", self.name, "", f"{self.params:,}", f"{self.macs:,}"))
        body.append(("without norms", "", "", f"{self.params_without_norms:,}", ""))
        widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
        lines = [_table_line(row, widths) for row in (header, tuple("-" * w for w in widths), *body)]
        return "\n".join(lines)


def profile(model_or_name: keras.Model | str, input_shape: tuple[int, ...] | None = None) -> Profile:
    """Count parameters and MACs of a built model.

    Each layer counts as the model calls it, in one abstract run that computes nothing. So an option that
    changes the wiring changes the count.

    Args:
        model_or_name: a `keras.Model` from images, or a registered name.
        input_shape: (height, width, channels) to count at; default the model's own. A name is built at that size.

    Raises:
        ValueError: an unknown name; a model without a fixed size and no `input_shape`, or one that the model does not
            take; a layer whose multiplications are unknown.
    """
    model = model_or_name
    if not isinstance(model, keras.Model | str):
        raise ValueError(f"profile takes a keras.Model or a registered name, not {type(model).__name__}")
    if isinstance(model, str):
        from tfvt.create import create_model

        model = create_model(model, input_shape=input_shape)
    shape = tuple(input_shape or model.input_shape[1:])
    if None in shape:
        raise ValueError(f"{model.name} takes any size: pass input_shape=(height, width, channels) to count at")
    _check_shape(model, shape)
    calls = _record_calls(model, shape)
    rows, seen = [], set()
    for layer, inputs, output_shape in calls:
        own = [] if id(layer) in seen else list(layer._trainable_variables)
        seen.add(id(layer))
        macs = _macs(layer, inputs, output_shape)
        params = sum(math.prod(v.shape) for v in own)
        if macs or params:
            rows.append(ProfileRow(layer.path or layer.name, type(layer).__name__, output_shape, params, macs))
    params = sum(math.prod(v.shape) for v in model.trainable_variables)
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, NORM_LAYERS)]
    norm_params = sum(math.prod(v.shape) for layer in norms for v in layer.trainable_variables)
    return Profile(model.name, params, params - norm_params, sum(r.macs for r in rows), shape, tuple(rows))


def _macs(layer, inputs, output_shape):
    """MACs of one call of `layer` for one image, without its sublayers."""
    if hasattr(layer, "macs"):
        return layer.macs(*inputs)
    kernel = getattr(layer, "kernel", None)
    if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense) or type(layer).__name__ == "GroupedDense":
        # One multiply-add per weight and position; a kernel in groups holds only its own channels.
        return math.prod(output_shape[:-1]) * math.prod(kernel.shape)
    matrices = [v.name for v in layer._trainable_variables if len(v.shape) > 1]
    if matrices:
        raise ValueError(
            f"cannot count {layer.path} ({type(layer).__name__}, weights {', '.join(matrices)}): "
            "give the layer a method macs(*inputs)"
        )
    return 0


def _check_shape(model, shape):
    """Raise a ValueError that names the shape where the model cannot have such an input."""
    *sides, channels = own = model.input_shape[1:]
    if len(shape) != len(sides) + 1 or shape[-1] != channels or min(shape) < 1:
        raise ValueError(f"input_shape={shape}: expected sides of at least 1 for {model.name}, which takes {own}")


def _record_calls(model, input_shape):
    """[(layer, inputs, output shape without batch)] in the order of the calls; sublayers before their owner."""
    calls = []

    def record(layer, args, outputs):
        if layer is not model:
            first = outputs[0] if isinstance(outputs, tuple | list) else outputs
            shape = tuple(first.shape[1:]) if hasattr(first, "shape") else None
            calls.append((layer, args, shape))

    class Trace(keras.Operation):
        def call(self, images):
            calls.clear()  # PyTorch traces without values and, where an operation needs them, once more with them
            return model.call(images)

    with _observed_layer_calls(record):
        # One image and no unknown size: with one, Keras would trace the model at two sizes.
        Trace().compute_output_spec(keras.KerasTensor((1, *input_shape)))
    return calls


@contextlib.contextmanager
def _observed_layer_calls(record):
    original = keras.layers.Layer.__call__

    def call(self, *args, **kwargs):
        outputs = original(self, *args, **kwargs)
        record(self, args, outputs)
        return outputs

    keras.layers.Layer.__call__ = call
    try:
        yield
    finally:
        keras.layers.Layer.__call__ = original


def _table_line(row, widths):
    left = "  ".join(cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True))
    right = "  ".join(cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True))
    return f"{left}  {right}".rstrip()
