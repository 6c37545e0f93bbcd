"""Starting weights as in the authors' code, by the names of the arguments that Keras' layers take."""

import keras

Start = dict[str, str | keras.initializers.Initializer]  # arguments of a Keras layer


def normal_start() -> Start:
    """Matrices from a normal distribution of standard deviation 0.02, biases 0: `trunc_normal_(std=0.02)` of timm.

    DeiT, PVT and Swin start so. timm cuts at -2 and 2, a hundred standard deviations away, which cuts nothing;
    `keras.initializers.TruncatedNormal(0.02)` cuts at two, and has a standard deviation of 0.0176.
    """
    return {"kernel_initializer": keras.initializers.RandomNormal(stddev=0.02), "bias_initializer": "zeros"}


def matrix_start(stddev: float | None) -> str | keras.initializers.Initializer:
    """The initializer of a matrix: normal with that standard deviation, or Glorot's where `stddev` is None."""
    return "glorot_uniform" if stddev is None else keras.initializers.RandomNormal(stddev=stddev)


def torch_start(fan_in: int) -> Start:
    """Matrix and bias uniform within 1 / sqrt(fan_in), as PyTorch starts a Linear and a Conv2d that nobody initialises.

    Args:
        fan_in: inputs of one output: C of a dense layer, k * k * C of a convolution.
    """
    bound = fan_in**-0.5
    return {
        "kernel_initializer": keras.initializers.RandomUniform(-bound, bound),
        "bias_initializer": keras.initializers.RandomUniform(-bound, bound),
    }
