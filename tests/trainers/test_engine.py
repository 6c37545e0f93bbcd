"""What one step does on the devices: loss, metrics, averaged weights, and two replicas against one."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfvt.errors import UsageError
from tfvt.trainers.cli import main
from tfvt.trainers.engines.tensorflow import (
    Sums,
    TensorFlowDevices,
    TensorFlowEngine,
    TensorFlowEvaluator,
    make_strategy,
)
from tfvt.trainers.recipes.parsing import parse_recipe
from tfvt.trainers.recipes.recipe import DistributionRecipe
from tfvt.trainers.tasks.classification import Classification, cross_entropy

LABELS = np.array([0, 2, 1, 5, 3, 3, 2, 4], np.int32)


def random_batch(seed):
    images = np.random.default_rng(seed).uniform(0, 255, (8, 32, 32, 3)).astype(np.float32)
    return {"image": tf.constant(images), "label": tf.constant(LABELS)}


def engine_of(config, *flags):
    recipe = parse_recipe(["--config", str(config), *flags])
    return TensorFlowEngine(recipe, Classification(recipe), 6, TensorFlowDevices(recipe.distribution))


def train(engine, *batches):
    engine.train_steps(iter(batches), len(batches))


def numpy_log_softmax(logits):
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_spreads_the_smoothed_share_over_all_classes(smoothing):
    logits = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    target = (1 - smoothing) * np.eye(6)[LABELS] + smoothing / 6
    expected = -(target * numpy_log_softmax(logits)).sum(-1)
    np.testing.assert_allclose(cross_entropy(tf.constant(LABELS), tf.constant(logits), smoothing), expected, rtol=1e-5)


def test_evaluation_counts_weighted_rows_only(config):
    engine = engine_of(config)
    batches = [random_batch(1) | {"weight": tf.ones(8)}, random_batch(2) | {"weight": tf.constant([1.0] * 3 + [0] * 5)}]
    evaluator = TensorFlowEvaluator(engine.model, engine.task, TensorFlowDevices(DistributionRecipe()), batch_size=8)
    evaluator.eval_step(random_batch(3) | {"weight": tf.ones(8)})
    evaluator.reset_sums("validation")
    for batch in batches:
        counted = np.where(batch["weight"], LABELS, -1)
        assert evaluator.eval_step(batch)[0]["label"].tolist() == counted.tolist()
    logits = np.concatenate([engine.model(batch["image"], training=False) for batch in batches])[:11]
    labels = np.concatenate([LABELS, LABELS[:3]])
    order = np.argsort(-logits, axis=-1)
    sums = evaluator.read_sums("validation")
    assert sums["images"] == 11
    np.testing.assert_allclose(sums["loss"], -numpy_log_softmax(logits)[np.arange(11), labels].sum(), rtol=1e-5)
    figures = engine.task.figures(sums, [])
    assert figures["top1"] == pytest.approx((order[:, 0] == labels).mean())
    assert figures["top5"] == pytest.approx((order[:, :5] == labels[:, None]).any(-1).mean())


@pytest.mark.parametrize("strategy", ["default", "mirrored"])
def test_sums_are_read_as_arrays(strategy, config):
    """A mirrored variable of no dimensions is no array: a recipe for many devices counts on one as well."""
    flags = [] if strategy == "default" else ["--distribution.strategy=mirrored", "--distribution.devices=[CPU:0]"]
    with make_strategy(parse_recipe(["--config", str(config), *flags]).distribution).scope():
        sums = Sums(Classification(parse_recipe(["--config", str(config)])))
    sums.assign({"loss": 2.5, "images": 4.0, "top1": 3.0, "top5": 4.0})
    assert sums.read() == {"loss": 2.5, "images": 4.0, "top1": 3.0, "top5": 4.0, "diverged": 0.0}
    assert all(isinstance(value, np.ndarray) for value in sums.read().values())


def test_averaged_weights_follow_weights_and_moving_statistics(config):
    engine = engine_of(config, "--ema_decay", "0.25")
    expected = [weight.numpy() for weight in engine.model.weights]
    for count in range(1, 4):
        train(engine, random_batch(count))
        decay = min(0.25, (1 + count) / (10 + count))
        expected = [decay * e + (1 - decay) * w.numpy() for e, w in zip(expected, engine.model.weights, strict=True)]
    for average, value in zip(engine.trained_model().weights, expected, strict=True):
        np.testing.assert_allclose(average.numpy(), value, rtol=1e-4, atol=1e-6, err_msg=average.path)
    moved = {v.name for v in engine.model.weights if not np.allclose(v.numpy(), v.numpy() * 0)}
    assert {"kernel", "moving_mean", "moving_variance"} <= moved


def test_without_averaging_the_model_itself_is_kept(config):
    engine = engine_of(config, "--ema_decay", "null")
    assert engine.trained_model() is engine.model


def test_a_restored_engine_goes_on_bit_equal(config):
    first = engine_of(config)
    for seed in range(3):
        train(first, random_batch(seed))
    state = first.state()
    assert sum("seed_generator" in name for name in state) == 5  # the dropout and four drop paths
    second = engine_of(config, "--seed", "5")
    second.restore(state)
    for engine in (first, second):
        train(engine, random_batch(9))
    assert first.read_sums("train") == second.read_sums("train")
    for before, after in zip(first.state().values(), second.state().values(), strict=True):
        assert before.tobytes() == after.tobytes()


def test_a_weight_that_the_loss_does_not_see_gets_a_gradient_of_zero(records):
    """The convolution path of an ACmix-PVT's last block writes pixels, and the classifier reads the class token."""
    sizes = ["--data.train.image_size=[32,32]", "--data.evaluation.image_size=[32,32]", "--data.batch_size=8"]
    flags = ["--model.name=acmix_pvt_tiny", "--model.options.depths=[1,1,1,1]", f"--data.records={records}", *sizes]
    recipe = parse_recipe(flags)
    engine = TensorFlowEngine(recipe, Classification(recipe), 6, TensorFlowDevices(recipe.distribution))
    before = {variable.path: variable.numpy() for variable in engine.model.trainable_variables}
    train(engine, random_batch(0))
    same = {v.path for v in engine.model.trainable_variables if np.array_equal(v.numpy(), before[v.path])}
    assert "head/kernel" not in same
    assert any("stage4" in path and "convolution" in path for path in same)


def test_mixed_precision_keeps_float32_weights(config):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        engine = engine_of(config)
        train(engine, random_batch(0))
    finally:
        keras.config.set_dtype_policy("float32")
    assert {layer.compute_dtype for layer in engine.model.layers if "conv" in layer.name} == {"bfloat16"}
    assert {v.dtype for v in engine.model.trainable_variables} == {"float32"}
    assert np.isfinite(engine.read_sums("train")["loss"])


def test_a_batch_must_divide_by_the_devices_and_devices_must_exist(config):
    with pytest.raises(UsageError, match=r"there is no GPU:9; this machine has CPU:0"):
        make_strategy(DistributionRecipe("mirrored", ("GPU:9",)))
    assert isinstance(make_strategy(DistributionRecipe("one_device", ("CPU:0",))), tf.distribute.OneDeviceStrategy)


def test_a_model_that_the_memory_does_not_hold_is_named(config, monkeypatch):
    def too_large(task):
        raise MemoryError

    monkeypatch.setattr(Classification, "model", too_large)
    with pytest.raises(UsageError, match=r"model: resnet18 with .* does not fit into this machine's memory \(Mem"):
        engine_of(config)


def test_two_replicas_do_what_one_does(config):
    script = Path(__file__).with_name("two_replicas.py")
    command = [sys.executable, "-W", "error::UserWarning", str(script), str(config)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    for case in ("without_norms", "synchronized_norms", "compiled", "taught_by_teacher", "taught_by_saved"):
        one, two = report[case]["one"], report[case]["two"]
        assert (one["replicas"], two["replicas"]) == (1, 2)
        np.testing.assert_allclose(one["losses"], two["losses"], rtol=1e-5, err_msg=case)
        assert report[case]["largest_difference"] < 1e-5, case
        assert two["replicas_differ_by"] == 0, case
    np.testing.assert_allclose(
        report["taught_by_saved"]["two"]["losses"], report["taught_by_teacher"]["two"]["losses"], rtol=1e-5
    )
    assert report["taught_by_saved"]["two"]["losses"] != report["without_norms"]["two"]["losses"]
    plain = report["plain_norms"]["two"]
    assert plain["replicas_differ_by"] == 0  # moving statistics are averaged, dropout states advance alike
    assert report["indivisible"] == "data.batch_size (7) must divide by the 2 devices"


def losses_and_weights(config, *flags, steps=4):
    vit = ["--model.name=vit_tiny16", "--optimizer.name=adamw", "--optimizer.learning_rate=1e-3"]
    blocks = '--model.options={"blocks": [{"layers": 2, "hidden_dim": 64, "mlp_dim": 64}]}'
    keras.utils.set_random_seed(0)
    engine = engine_of(config, *vit, blocks, "--optimizer.clip_global_norm=1", *flags)
    for seed in range(steps):
        train(engine, random_batch(seed))
    return engine.read_sums("train"), {v.path: v.numpy() for v in engine.model.trainable_variables}


@pytest.mark.parametrize("flags", [[], ["--jit_compile=true"]])
def test_a_batch_in_parts_is_the_batch(config, flags):
    whole, weights = losses_and_weights(config, *flags)
    sums, accumulated = losses_and_weights(config, *flags, "--accumulation_steps=4")
    for name in whole:
        np.testing.assert_allclose(sums[name], whole[name], rtol=1e-5)
    for path, value in weights.items():
        np.testing.assert_allclose(accumulated[path], value, rtol=1e-4, atol=2e-5)


def test_parts_divide_the_batch(config):
    with pytest.raises(UsageError, match=r"accumulation_steps \(3\) must divide the 8 images that each device has"):
        engine_of(config, "--accumulation_steps=3")


def test_frozen_layers_do_not_move_nor_do_their_statistics(config):
    engine = engine_of(config, "--model.frozen=[stem.*]", "--optimizer.layer_decay=0.5")
    before = {v.path: v.numpy() for v in engine.model.variables}
    for seed in range(2):
        train(engine, random_batch(seed))
    moved = {v.path for v in engine.model.variables if not np.array_equal(v.numpy(), before[v.path])}
    assert not {path for path in moved if path.startswith("stem")}
    assert {"head/kernel", "stage2_block1_1_norm/moving_mean"} <= moved


@pytest.mark.parametrize("steps_per_call", [1, 2])
def test_a_step_that_xla_cannot_compile_is_one_line(config, tmp_path, capsys, steps_per_call):
    """The gradient of a maximum over pixels, with operations that give the same bits every time."""
    options = '{"width": 16, "depths": [1, 1, 1, 1], "stem_pool": true}'
    given = [f"--model.options={options}", "--jit_compile=true", f"--steps_per_call={steps_per_call}"]
    given += ["--deterministic=true", "--output", str(tmp_path / "run")]
    assert main(["train", "--config", str(config), *given]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("tfvt train: error: jit_compile: XLA cannot compile a step of this model here (")
    assert error.endswith("leave jit_compile out, or try deterministic: false")
