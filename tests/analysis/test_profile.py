"""The counter itself: each rule on a layer small enough to count by hand."""

import keras
import pytest

import tfvt
from tfvt import layers


def profile_of(layer, *shapes):
    inputs = [keras.Input(shape) for shape in shapes]
    outputs = layer(*inputs)
    return tfvt.profile(keras.Model(inputs, outputs), input_shape=shapes[0])


def test_grouped_convolution_counts_its_own_channels():
    layer = keras.layers.Conv2D(6, 3, strides=2, padding="valid", use_bias=True)
    assert profile_of(layer, (9, 7, 4)).macs == 4 * 3 * (3 * 3 * 4) * 6
    assert profile_of(layers.GroupedDense(6, groups=2), (5, 4)).macs == 5 * 2 * 3 * 2


def test_dense_counts_every_position():
    profile = profile_of(keras.layers.Dense(6), (5, 4))
    assert (profile.macs, profile.params) == (5 * 4 * 6, 4 * 6 + 6)


def test_norms_are_free_and_told_apart():
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(8, 1, use_bias=False)])
    model.add(keras.layers.BatchNormalization())
    profile = tfvt.profile(model)
    assert (profile.params, profile.params_without_norms, profile.macs) == (24 + 16, 24, 16 * 24)


def test_a_layer_called_twice_multiplies_twice_and_has_its_weights_once():
    inputs = keras.Input((5, 4))
    dense = keras.layers.Dense(4, use_bias=False)
    profile = tfvt.profile(keras.Model(inputs, dense(dense(inputs))))
    assert (profile.params, profile.macs) == (16, 2 * 5 * 16)


def test_every_layer_is_counted_once_where_a_backend_traces_twice():
    """PyTorch cannot split a tensor without values, and starts again with them."""
    window, merging = layers.WindowAttention(8, 2, window_size=4), layers.PatchMerging()
    inputs = keras.Input((7, 6, 8))
    profile = tfvt.profile(keras.Model(inputs, merging(window(inputs))))
    attention = 64 * 8 * (24 + 8) + 2 * 4 * 4**4 * 8  # the map is padded to 8x8, four windows
    assert profile.macs == attention + 4 * 3 * 32 * 16
    assert [row.kind for row in profile.rows] == [
        *("Dense", "Dense", "WindowAttention"),
        *("LayerNormalization", "Dense"),
    ]


def test_a_layer_that_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match=r"cannot count depth \(DepthwiseConv2D, weights kernel\)"):
        profile_of(keras.layers.DepthwiseConv2D(3, name="depth"), (9, 9, 4))


def test_any_size_needs_a_size():
    model = tfvt.create_model("resnet18", input_shape=(None, None, 3), width=8, depths=(1,))
    with pytest.raises(ValueError, match="pass input_shape"):
        tfvt.profile(model)
    small, large = (tfvt.profile(model, input_shape=(side, side, 3)) for side in (64, 128))
    head = 8 * 1000
    assert large.macs - head == 4 * (small.macs - head)


def test_counting_leaves_the_model_as_it_was():
    model = tfvt.create_model("resnet18", input_shape=(64, 64, 3), width=8, depths=(1,))
    call, nodes = keras.layers.Layer.__call__, len(model.get_layer("stem_conv")._inbound_nodes)
    tfvt.profile(model)
    assert keras.layers.Layer.__call__ is call
    assert len(model.get_layer("stem_conv")._inbound_nodes) == nodes


def test_the_table_names_layers_and_totals():
    profile = tfvt.profile("vt_resnet18", input_shape=(64, 64, 3))
    lines = str(profile).splitlines()
    assert lines[0].split() == ["layer", "type", "output", "parameters", "MACs"]
    assert any(line.split()[:2] == ["vt1_tokenizer/value/linear", "GroupedDense"] for line in lines)
    assert lines[-2].split() == ["total", "at", "64x64x3", "vt_resnet18", f"{profile.params:,}", f"{profile.macs:,}"]


@pytest.mark.parametrize("shape", [(64, 64, 1), (64, 64), (0, 64, 3), (64, -1, 3)])
def test_a_shape_that_the_model_cannot_have_is_named(shape):
    model = tfvt.create_model("resnet18", input_shape=(None, None, 3), width=8, depths=(1,))
    with pytest.raises(ValueError, match=r"^input_shape=.*: expected sides of at least 1 for resnet18, which takes"):
        tfvt.profile(model, input_shape=shape)


@pytest.mark.parametrize("model", [None, keras.layers.Dense(3), 5])
def test_what_is_no_model_is_named(model):
    with pytest.raises(ValueError, match=r"profile takes a keras\.Model or a registered name, not "):
        tfvt.profile(model)
