"""ACmix: the paper's equations, its ablations, and the authors' numbers."""

from pathlib import Path
from typing import get_args

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import tests.contracts as contracts
import tfvt
from tfvt.layers import ACmix, ConvolutionPath, LocalAttention
from tfvt.layers.acmix import Combine, Shift, shift_kernel
from tfvt.layers.convolution import grouped_conv2d, strided_window

GOLDEN = Path(__file__).parent.parent / "golden"


def golden(name):
    """(parameters under the authors' names, input, output)."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    parameters = {key.removeprefix("param/"): array for key, array in arrays.items() if key.startswith("param/")}
    return parameters, arrays["input"], arrays["output"]


def randomize(layer):
    rng = np.random.default_rng(3)
    for weight in layer.weights:
        weight.assign(rng.normal(0.2, 0.4, weight.shape))


@pytest.mark.parametrize("strides", [1, 2])
def test_local_acmix_equals_the_authors(strides):
    parameters, x, expected = golden(f"acmix_resnet_stride{strides}")
    layer = ACmix(32, num_heads=4, strides=strides)
    layer.build(x.shape)
    report = tfvt.load_checkpoint(layer, parameters, source="acmix")
    assert (report.fresh, report.unused) == ((), ())
    np.testing.assert_allclose(contracts.arrays(layer(x))[0], expected, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(height=st.integers(3, 9), width=st.integers(3, 9), size=st.sampled_from([1, 3, 5]))
def test_a_convolution_is_shifted_1x1_convolutions(height, width, size):
    """Equations (1) to (8): project by every K_pq (6), shift (7), sum (8)."""
    rng = np.random.default_rng(0)
    f = rng.normal(size=(2, height, width, 4)).astype("float32")
    kernel = rng.normal(size=(size, size, 4, 3)).astype("float32")
    expected = ops.conv(f, kernel, padding="same")  # (1)
    g, half = np.zeros((2, height, width, 3)), size // 2
    for p, q in np.ndindex(size, size):
        projected = np.pad(f @ kernel[p, q], [(0, 0), (half, half), (half, half), (0, 0)])  # (6)
        g += projected[:, p : p + height, q : q + width]  # (4), (7), (8): shifted by p - k // 2, q - k // 2
    np.testing.assert_allclose(ops.convert_to_numpy(expected), g, atol=1e-4)
    for shift in ("tensor", "learned"):  # stage II of ACmix, on pieces of one channel, is that convolution
        path = ConvolutionPath(1, 1, size, shift=shift)
        for channel in range(3):
            pieces = f[..., :2], f[..., 2:3], f[..., 3:]
            path(*pieces)
            path.mixing_kernel.assign(kernel[..., channel].reshape(size**2, 4).T)
            np.testing.assert_allclose(contracts.arrays(path(*pieces))[0][..., 0], g[..., channel], atol=1e-4)


@pytest.mark.parametrize("direction", range(9))
def test_a_shift_is_a_convolution(direction):
    """Equations (14) to (17): f_(i + p - 1, j + q - 1), zero outside the map."""
    f = np.random.default_rng(0).normal(size=(2, 5, 6, 9)).astype("float32")
    row, column = divmod(direction, 3)
    padded = np.pad(f, [(0, 0), (1, 1), (1, 1), (0, 0)])
    shifted = padded[:, row : row + 5, column : column + 6, direction]  # (14)
    kernel = shift_kernel(3, 1)  # (15): 1 at p, q
    assert kernel[row, column, direction, 0] == 1
    assert kernel.sum() == 9
    alone = np.where(np.arange(9) == direction, padded, 0).astype("float32")
    convolved = ops.convert_to_numpy(grouped_conv2d(alone, kernel))[..., 0]  # (16)
    np.testing.assert_array_equal(convolved, shifted)  # (17)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(strided_window(padded, row, column, 3, 1))[..., direction], shifted
    )


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    strides=st.integers(1, 2),
    reduction=st.integers(1, 3),
    size=st.sampled_from([3, 5]),
)
def test_shift_modules_are_one_function_at_the_start(height, width, strides, reduction, size):
    rng = np.random.default_rng(0)
    reduced = (2, -(-height // reduction), -(-width // reduction), 8)
    maps = [rng.normal(size=s).astype("float32") for s in ((2, height, width, 8), reduced, reduced)]
    mixing, outputs = rng.normal(size=(6, size**2)), {}
    for shift in ("tensor", "fixed", "learned"):
        path = ConvolutionPath(8, 4, size, strides, reduction, shift=shift)
        path(*maps)
        path.mixing_kernel.assign(mixing)
        (outputs[shift],) = contracts.arrays(path(*maps))
    np.testing.assert_allclose(outputs["fixed"], outputs["tensor"], atol=1e-4)
    np.testing.assert_allclose(outputs["learned"], outputs["tensor"], atol=1e-4)
    assert np.abs(outputs["tensor"]).max() > 0.1


def test_convolution_path_by_hand():
    """Channel i of every piece through the dense layer, then group i of the convolution, channels i * 3 + j."""
    rng = np.random.default_rng(0)
    query, key, value = (rng.normal(size=(1, 4, 4, 4 * pieces)).astype("float32") for pieces in (1, 2, 3))
    path = ConvolutionPath(12, 4, use_bias=True)
    path(query, key, value)
    randomize(path)
    mixing, bias, kernel = (ops.convert_to_numpy(w) for w in (path.mixing_kernel, path.mixing_bias, path.kernel))
    pieces = np.concatenate([query, key, value], axis=-1).reshape(1, 4, 4, 6, 4)
    (actual,) = contracts.arrays(path(query, key, value))
    for i in range(4):
        maps = np.pad(pieces[..., i] @ mixing + bias, [(0, 0), (1, 1), (1, 1), (0, 0)]).astype("float32")
        expected = ops.conv(maps, kernel[..., 3 * i : 3 * i + 3])
        np.testing.assert_allclose(actual[..., 3 * i : 3 * i + 3], ops.convert_to_numpy(expected), atol=1e-4)


def test_combinations():
    """Table 6: what each makes of the same two paths, and which rates it has."""
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 8)).astype("float32")
    layers = {combine: ACmix(8, 2, combine=combine) for combine in get_args(Combine)}
    for layer in layers.values():
        layer(x)
    randomize(layers["both"])
    state = {w.path.split("/", 1)[1]: w for w in layers["both"].weights}
    outputs, rates = {}, {}
    for combine, layer in layers.items():
        for weight in layer.weights:
            weight.assign(state[weight.path.split("/", 1)[1]])
        (outputs[combine],) = contracts.arrays(layer(x))
        rates[combine] = [w.name for w in layer.weights if w.name in ("alpha", "beta")]
    alpha, beta = (float(ops.convert_to_numpy(rate)) for rate in layers["both"].rates())
    a, c = outputs["attention"], outputs["convolution"]
    assert np.abs(a).max() > 0.1
    assert np.abs(c).max() > 0.1
    expected = {"both": (alpha, beta), "sum": (1, 1), "alpha": (alpha, 1), "complement": (alpha, 1 - alpha)}
    for combine, (of_attention, of_convolution) in expected.items():
        np.testing.assert_allclose(outputs[combine], of_attention * a + of_convolution * c, atol=1e-4)
    learned = {"both": ["alpha", "beta"], "alpha": ["alpha"], "complement": ["alpha"]}
    assert rates == {combine: learned.get(combine, []) for combine in get_args(Combine)}


def test_rates_start_at_a_half():
    layer = ACmix(8, 2)
    layer.build((None, 6, 5, 8))
    assert [float(ops.convert_to_numpy(rate)) for rate in layer.rates()] == [0.5, 0.5]


def test_attention_alone_is_local_attention():
    x = np.random.default_rng(0).normal(size=(2, 7, 9, 8)).astype("float32")
    mixed, plain = ACmix(8, 2, combine="attention"), LocalAttention(8, 2)
    mixed(x), plain(x)
    plain.set_weights(mixed.get_weights())
    np.testing.assert_array_equal(*(contracts.arrays(layer(x))[0] for layer in (mixed, plain)))


OPTIONS = [
    *({"combine": combine} for combine in get_args(Combine)),
    *({"shift": shift} for shift in get_args(Shift)),
    {"strides": 2, "attention_kernel_size": 5, "conv_kernel_size": 5},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_contract(options):
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 4)).astype("float32")
    contracts.check_layer(lambda **kw: ACmix(8, 2, **options, **kw), x)


@settings(max_examples=10, deadline=None)
@given(height=st.integers(4, 12), width=st.integers(4, 12), strides=st.sampled_from([1, 2]))
def test_any_size(height, width, strides):
    inputs = keras.Input((None, None, 4))
    layer = ACmix(4, 2, strides=strides)
    model = keras.Model(inputs, layer(inputs))
    x = np.random.default_rng(0).normal(size=(1, height, width, 4)).astype("float32")
    (actual,) = contracts.arrays(model(x))
    assert actual.shape == (1, -(-height // strides), -(-width // strides), 4)
    np.testing.assert_allclose(actual, contracts.arrays(layer(x))[0], atol=1e-5)


@pytest.mark.parametrize(("options", "message"), [
    ({"combine": "max"}, "combine='max': expected one of 'both', 'sum', 'alpha', 'complement', "),
    ({"shift": "roll"}, "shift='roll': expected one of 'tensor', 'fixed', 'random', 'learned'"),
    ({"attention": "axial"}, "attention='axial': expected one of 'local'"),
    ({"num_heads": 3}, "num_heads=3: expected a divisor of the 8 channels"),
    ({"attention_kernel_size": 4}, "attention_kernel_size=4: expected an odd number"),
    ({"conv_kernel_size": 2}, "conv_kernel_size=2: expected an odd number"),
])  # fmt: skip
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        ACmix(8, **options)


def test_pieces_that_do_not_divide_the_channels_are_named():
    with pytest.raises(ValueError, match=r"^piece_dim=3: expected a divisor of the 8 channels"):
        ConvolutionPath(8, 3)


def test_a_map_too_small_to_reflect():
    with pytest.raises(ValueError, match="map of 3x8 cannot be reflected for windows of 7x7: expected at least 4x4"):
        ACmix(8)(np.zeros((1, 3, 8, 8), "float32"))
