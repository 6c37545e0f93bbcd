"""Updates in half precision: none from a gradient that overflowed, and all others as in single precision."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_engine import engine_of, random_batch, train

from tfvt.trainers.engines import loss_scale
from tfvt.trainers.engines.loss_scale import START, LossScale


def test_the_scale_halves_and_doubles_as_published(monkeypatch):
    monkeypatch.setattr(loss_scale, "STEPS_TO_DOUBLE", 3)
    scale, weight, seen = LossScale(), keras.Variable(1.0), []

    def update(gradients):
        seen.append(float(gradients[0]))
        weight.assign(weight - gradients[0])

    expected_factor, expected_weight, good = START, 1.0, 0
    for gradient in (0.25, 0.5, np.inf, 0.5, 0.25, 0.125, 0.25, np.nan):
        scale.apply(update, [tf.constant(gradient * expected_factor, tf.float32)], [weight])
        if np.isfinite(gradient):
            assert seen[-1] == gradient
            expected_weight, good = expected_weight - gradient, good + 1
            if good == 3:
                expected_factor, good = 2 * expected_factor, 0
        else:
            assert seen[-1] == 0
            expected_factor, good = expected_factor / 2, 0
        assert (float(weight), float(scale.factor), int(scale.good_steps)) == (expected_weight, expected_factor, good)


@pytest.fixture
def half_precision():
    keras.config.set_dtype_policy("mixed_float16")
    yield ["--precision=mixed_float16"]
    keras.config.set_dtype_policy("float32")


def test_half_precision_trains_as_single_precision_does(config, half_precision):
    engine = engine_of(config, *half_precision, "--model.options.dropout_rate=0", "--model.options.drop_path_rate=0")
    initial = engine.state()
    keras.config.set_dtype_policy("float32")
    single = engine_of(config, "--model.options.dropout_rate=0", "--model.options.drop_path_rate=0")
    single.restore({name: array for name, array in initial.items() if not name.startswith("scale")})
    for seed in range(3):
        train(engine, random_batch(seed))
        train(single, random_batch(seed))
    assert {layer.compute_dtype for layer in engine.model.layers if "conv" in layer.name} == {"float16"}
    for half, whole in zip(engine.model.trainable_variables, single.model.trainable_variables, strict=True):
        assert half.dtype == "float32"
        (start,) = [array for name, array in initial.items() if name.startswith("model") and name.endswith(half.path)]
        assert np.linalg.norm(half - whole) < 0.2 * np.linalg.norm(whole - start), half.path
    np.testing.assert_allclose(engine.read_sums("train")["loss"], single.read_sums("train")["loss"], rtol=1e-2)
    assert {name: array.item() for name, array in engine.state().items() if name.startswith("scale")} == {
        "scale/0000/loss_scale": START,
        "scale/0001/good_steps": 3,
    }


def test_an_overflow_changes_no_weight_and_halves_the_scale(config, half_precision):
    engine = engine_of(config, *half_precision)
    engine.update.loss_scale.factor.assign(2.0**40)
    before = engine.state()
    train(engine, random_batch(0))
    after = engine.state()
    trained = {f"model/{i:04d}" for i, v in enumerate(engine.model.variables) if v.trainable}
    for name in before:
        if name[:10] in trained or name.startswith(("average", "optimizer")):
            assert np.array_equal(before[name], after[name]) == ("iteration" not in name), name
    assert after["scale/0000/loss_scale"] == 2.0**39
