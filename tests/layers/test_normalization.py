"""Batch norm against Keras' own layer and against its definition in NumPy; which of both forms runs."""

import keras
import numpy as np
import pytest

import tests.contracts as contracts
from tfvt.layers import BatchNormalization

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
OPTIONS = {"epsilon": 1e-5, "momentum": 0.75}
FUSED = "FusedBatchNormV3"


def array(tensor):
    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32")).astype("float64")


def built(shape, layer_class=BatchNormalization, **options):
    """A layer with weights that tell from its defaults; the same for the same shape."""
    layer = layer_class(**OPTIONS | options)
    layer.build(shape)
    rng = np.random.default_rng(0)
    for variable in layer.weights:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return layer


def maps(shape, count=3):
    rng = np.random.default_rng(1)
    return [rng.normal(2, 3, shape).astype("float32") for _ in range(count)]


@pytest.mark.parametrize("shape", [(4, 5, 3, 6), (4, 5, 6), (7, 6), (2, 3, 2, 4, 6)], ids=len)
@pytest.mark.parametrize("training", [True, False])
def test_is_what_its_formula_says(shape, training):
    layer = built(shape)
    gamma, beta, mean, variance = (array(variable) for variable in layer.weights)
    for x in maps(shape):
        pixels = x.reshape(-1, 6).astype("float64")
        moments = (pixels.mean(0), pixels.var(0)) if training else (mean, variance)
        expected = (pixels - moments[0]) / np.sqrt(moments[1] + 1e-5) * gamma + beta
        np.testing.assert_allclose(array(layer(x, training=training)), expected.reshape(shape), atol=1e-5)
        if training:
            mean, variance = 0.75 * mean + 0.25 * moments[0], 0.75 * variance + 0.25 * moments[1]
        np.testing.assert_allclose(array(layer.moving_mean), mean, rtol=1e-5)
        np.testing.assert_allclose(array(layer.moving_variance), variance, rtol=1e-5)


# What Keras' layer takes too: (arguments, shape, of a layer that is trained, fused in training, fused in inference).
FORMS = {
    "map": ({}, (4, 5, 3, 6), True, True, True),
    "tokens": ({}, (4, 5, 6), True, True, False),
    "rows": ({"axis": 1}, (7, 6), True, True, False),
    "one pixel": ({}, (1, 1, 1, 6), True, True, True),
    "no image": ({}, (0, 5, 3, 6), True, True, True),
    "without scale and offset": ({"scale": False, "center": False}, (4, 5, 3, 6), True, True, True),
    "bfloat16": ({"dtype": "mixed_bfloat16"}, (4, 5, 3, 6), True, True, True),
    "float16": ({"dtype": "mixed_float16"}, (4, 5, 3, 6), True, True, True),
    "frozen": ({}, (4, 5, 3, 6), False, False, True),
    "columns": ({"axis": 1}, (4, 6, 3, 5), True, False, False),
    "renormalized": ({"renorm": True}, (4, 5, 3, 6), True, False, False),
    "float64": ({"dtype": "float64"}, (4, 5, 3, 6), True, False, False),
}


def step_of(layer, training, jit_compile=False):
    """A graph function of a map and of the gradient of the output, and what it computes."""
    import tensorflow as tf

    @tf.function(autograph=False, jit_compile=jit_compile)
    def step(x, weight):
        watched = [x, *(variable.value for variable in (layer.gamma, layer.beta) if variable is not None)]
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layer(x, training=training)
            loss = tf.reduce_sum(tf.cast(outputs, weight.dtype) * weight)
        return [outputs, *tape.gradient(loss, watched)]

    return step


def operations(function, *inputs):
    return {operation.type for operation in function.get_concrete_function(*inputs).graph.get_operations()}


@pytest.mark.skipif(not ON_TENSORFLOW, reason="other backends have Keras' form alone")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_gradients_and_averages_are_those_of_keras(form, training):
    import tensorflow as tf

    options, shape, trainable, *fused = FORMS[form]
    found = []
    for layer_class in (BatchNormalization, keras.layers.BatchNormalization):
        layer = built(shape, layer_class, **options)
        layer.trainable = trainable
        step, values = step_of(layer, training), []
        for x, weight in zip(maps(shape), maps(shape), strict=True):
            inputs = tf.constant(x, layer.compute_dtype), tf.constant(weight[::-1].copy())
            assert (FUSED in operations(step, *inputs)) == (layer_class is BatchNormalization and fused[not training])
            values += step(*inputs)
        found.append([*map(array, values), *map(array, layer.weights)])
        assert {value.dtype.name for value in values[::4]} == {layer.compute_dtype}
    # Without spread, Keras rounds numbers that are 1 / sqrt(epsilon) times as large.
    near = {"float16": 2e-3, "bfloat16": 1e-2, "one pixel": 1e-4}.get(form, 2e-5)
    for ours, theirs in zip(*found, strict=True):
        if form == "no image":
            theirs = np.where(ours == 0, 0, theirs)  # Keras' gradient of the scale is NaN
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=near * np.nanmax(np.abs(theirs), initial=1))


@pytest.mark.skipif(not ON_TENSORFLOW, reason="about TensorFlow's compiler")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, 5, 3, 6), (4, 5, 6)], ids=len)
def test_compiles_at_unknown_sizes(shape, training):
    import tensorflow as tf

    (x, weight), unknown = maps(shape, 2), (*[None] * (len(shape) - 1), 6)
    plain, compiled = built(unknown), built(unknown)
    expected = step_of(plain, training)(x, weight)
    step = step_of(compiled, training, jit_compile=True)
    function = step.get_concrete_function(*[tf.TensorSpec(unknown, "float32")] * 2)
    assert function.output_shapes[0].as_list() == list(unknown)
    for ours, theirs in zip(function(tf.constant(x), tf.constant(weight)), expected, strict=True):
        np.testing.assert_allclose(array(ours), array(theirs), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(compiled.get_weights(), plain.get_weights(), rtol=1e-5)


def test_masked_pixels_do_not_count():
    x, mask = maps((4, 5, 6), 1)[0], np.arange(20).reshape(4, 5) % 3 > 0
    found = []
    for layer_class in (BatchNormalization, keras.layers.BatchNormalization):
        layer = built(x.shape, layer_class)
        found.append([array(layer(x, training=True, mask=mask)), *map(array, layer.weights)])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="about TensorFlow's strategies")
@pytest.mark.parametrize(("synchronized", "replicas", "fused"), [(True, 2, False), (False, 2, True), (True, 1, True)])
def test_synchronized_statistics_of_several_replicas_are_left_to_keras(synchronized, replicas, fused, monkeypatch):
    import tensorflow as tf

    layer, (x,) = built((4, 5, 3, 6), synchronized=synchronized), maps((4, 5, 3, 6), 1)
    monkeypatch.setattr(type(tf.distribute.get_strategy()), "num_replicas_in_sync", replicas)
    for training in (True, False):
        step = tf.function(lambda x, training=training: layer(x, training=training), autograph=False)
        assert (FUSED in operations(step, tf.constant(x))) == (fused or not training)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="about TensorFlow's operations on GPUs")
@pytest.mark.parametrize(("gpus", "fused"), [([], True), (["GPU:0"], False)], ids=str)
def test_a_gpu_gets_no_operation_without_a_deterministic_gradient(gpus, fused, monkeypatch):
    import tensorflow as tf
    from tensorflow.python.framework import config

    layer, (x,) = built((4, 5, 3, 6)), maps((4, 5, 3, 6), 1)
    monkeypatch.setattr(config, "is_op_determinism_enabled", lambda: True)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus if kind == "GPU" else None)
    for training in (True, False):
        step = tf.function(lambda x, training=training: layer(x, training=training), autograph=False)
        assert (FUSED in operations(step, tf.constant(x))) == (training or fused)


def test_a_file_of_keras_own_layer_gives_the_same(tmp_path):
    """And the configuration of one layer builds the other, with names of weights that do not change."""
    x = contracts.random_images((2, 4, 4, 6))
    theirs = built((None, 4, 4, 6), keras.layers.BatchNormalization, name="norm")
    ours = BatchNormalization.from_config(theirs.get_config())
    ours.build((None, 4, 4, 6))
    ours.set_weights(theirs.get_weights())
    assert [v.path for v in ours.weights] == [v.path for v in theirs.weights]
    assert ours.get_config() == theirs.get_config()
    for layer in (ours, theirs):
        inputs = keras.Input((4, 4, 6))
        keras.Model(inputs, layer(inputs)).save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert type(loaded.layers[-1]) is type(layer)
        np.testing.assert_allclose(array(loaded(x)), array(theirs(x)), atol=1e-4)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="other backends take no order")
@pytest.mark.parametrize("training", [True, False])
def test_channels_in_another_order_have_their_own_weights(training):
    import tensorflow as tf

    order = np.array([2, 0, 5, 1, 4, 3])
    x, factors = maps((4, 5, 3, 6), 2)
    found = []
    for channels, more in ((slice(None), {}), (order, {"order": order})):
        layer = built(x.shape)
        with tf.GradientTape() as tape:
            outputs = layer(x[..., channels], training=training, **more)
            loss = tf.reduce_sum(outputs * factors[..., channels])
        gradients = tape.gradient(loss, [variable.value for variable in layer.trainable_variables])
        found.append([array(outputs), *map(array, gradients), *map(array, layer.weights)])
    (plain, *others), (ordered, *others_again) = found
    np.testing.assert_allclose(ordered, plain[..., order], atol=1e-5)
    for value, again in zip(others, others_again, strict=True):
        np.testing.assert_allclose(again, value, rtol=1e-4, atol=1e-5)
