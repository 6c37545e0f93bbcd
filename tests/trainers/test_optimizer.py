"""Schedules and updates against a few lines of NumPy."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfvt.trainers.engines.optimizer import Schedule, make_optimizer, regularize
from tfvt.trainers.recipes.parsing import parse_recipe
from tfvt.trainers.recipes.recipe import OptimizerRecipe

RATES = st.floats(1e-4, 1.0)


def recipe_of(**flags):
    return parse_recipe(
        ["--model.name", "resnet18", "--data.records", "somewhere", *(f"--{key}={flags[key]}" for key in flags)]
    )


def reference_rate(name, step, spe, epochs, peak, warmup_epochs, start):
    """The schedules as their papers say them, one step at a time."""
    warmup = round(warmup_epochs * spe)
    if step < warmup:
        return start + (peak - start) * step / warmup
    if name == "step":
        return peak * 0.1 ** (step // spe // 2)
    if name == "exponential":
        return peak * 0.9 ** ((step - warmup) // spe)
    if name == "cosine":
        return 0.001 + (peak - 0.001) * (1 + np.cos(np.pi * (step - warmup) / (epochs * spe - warmup))) / 2
    return peak


OWN = {
    "constant": {},
    "step": {"schedule.decay_factor": 0.1, "schedule.decay_epochs": 2},
    "exponential": {"schedule.decay_factor": 0.9},
    "cosine": {"schedule.final_learning_rate": 0.001},
}


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(list(OWN)),
    spe=st.integers(1, 40),
    epochs=st.integers(2, 12),
    peak=RATES,
    start=RATES,
    warmup=st.sampled_from((0.0, 0.5, 1.0)),
)
def test_every_step_has_the_rate_of_the_formula(name, spe, epochs, peak, start, warmup):
    flags = {"schedule.name": name, "epochs": epochs, "optimizer.learning_rate": peak} | OWN[name]
    flags |= {"schedule.warmup_epochs": warmup, "schedule.warmup_learning_rate": start}
    rates = np.asarray(Schedule(recipe_of(**flags), spe)(np.arange(epochs * spe)))
    expected = [reference_rate(name, step, spe, epochs, peak, warmup, start) for step in range(epochs * spe)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-7)


def test_boundaries_are_exact_at_large_steps():
    schedule = Schedule(recipe_of(**{"schedule.name": "step", "optimizer.learning_rate": 1.0, "epochs": 300}), 50_001)
    boundary = 270 * 50_001
    np.testing.assert_allclose([schedule(boundary - 1), schedule(boundary)], [1e-8, 1e-9], rtol=1e-5)


def numpy_updates(name, weight, gradients, rate, decay):
    """Textbook updates; weight decay as PyTorch's `weight_decay` (adamw: decoupled)."""
    m, v, trajectory = 0.0, 0.0, []
    for count, gradient in enumerate(gradients, start=1):
        gradient = gradient + (0 if name == "adamw" else decay * weight)
        if name in ("sgd", "nesterov"):
            m = 0.9 * m + gradient
            step = rate * (gradient + 0.9 * m if name == "nesterov" else m)
        elif name == "rmsprop":
            v = 0.9 * v + 0.1 * gradient**2
            m = 0.9 * m + rate * gradient / np.sqrt(v + 1e-3)
            step = m
        else:
            m = 0.9 * m + 0.1 * gradient
            v = 0.999 * v + 0.001 * gradient**2
            step = rate * (m / (1 - 0.9**count)) / (np.sqrt(v / (1 - 0.999**count)) + 1e-8)
            if name == "adamw":
                step = step + rate * decay * weight
        weight = weight - step
        trajectory.append(weight)
    return trajectory


@pytest.mark.parametrize("name", ["sgd", "nesterov", "adam", "adamw", "rmsprop"])
def test_updates_are_the_textbooks(name):
    rng = np.random.default_rng(1)
    start, gradients = rng.normal(size=(3, 2)), rng.normal(size=(4, 3, 2))
    flags = {"optimizer.name": name, "optimizer.learning_rate": 0.05, "optimizer.weight_decay": 0.1}
    if name == "nesterov":
        flags |= {"optimizer.name": "sgd", "optimizer.nesterov": "true"}
    recipe = recipe_of(**flags)
    variable = keras.Variable(start, name="kernel", dtype="float32")
    optimizer = make_optimizer(recipe.optimizer, Schedule(recipe, 10), [variable])
    for gradient, expected in zip(gradients, numpy_updates(name, start, gradients, 0.05, 0.1), strict=True):
        gradient = keras.ops.convert_to_tensor(gradient, "float32")
        optimizer.apply(regularize([gradient], [variable], recipe.optimizer))
        np.testing.assert_allclose(variable.numpy(), expected, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("everything", [True, False])
def test_all_but_kernels_decay_only_where_asked(name, everything):
    recipe = recipe_of(**{
        "optimizer.name": name,
        "optimizer.learning_rate": 0.5,
        "optimizer.weight_decay": 0.1,
        "optimizer.decay_norms_and_biases": str(everything).lower(),
    })  # fmt: skip
    shapes = {
        "kernel": (2, 2),
        "gamma": (2,),
        "beta": (2,),
        "bias": (2, 2),
        "class_token": (2, 2),
        "qkv_kernel": (2, 2),
    }
    variables = [keras.Variable(np.ones(shape), name=part, dtype="float32") for part, shape in shapes.items()]
    optimizer = make_optimizer(recipe.optimizer, Schedule(recipe, 10), variables)
    zeros = [keras.ops.zeros(v.shape) for v in variables]
    optimizer.apply(regularize(zeros, variables, recipe.optimizer))
    moved = {v.name for v in variables if not np.array_equal(v.numpy(), np.ones(v.shape))}
    assert moved == (set(shapes) if everything else {"kernel", "qkv_kernel"})
    np.testing.assert_allclose(variables[0].numpy(), 1 - 0.5 * 0.1, rtol=1e-6)


def test_clipping_takes_the_norm_of_all_gradients_and_comes_before_the_decay():
    settings = OptimizerRecipe(clip_global_norm=1.0, weight_decay=0.5)
    gradients = [keras.ops.convert_to_tensor([[3.0]]), keras.ops.convert_to_tensor([[4.0]])]
    variables = [keras.Variable([[2.0]], name="kernel"), keras.Variable([[-2.0]], name="kernel")]
    clipped = [float(g[0, 0]) for g in regularize(gradients, variables, settings)]
    np.testing.assert_allclose(clipped, [0.6 + 1.0, 0.8 - 1.0], rtol=1e-6)
    small = [gradient / 10 for gradient in gradients]
    kept = [float(g[0, 0]) for g in regularize(small, variables, OptimizerRecipe(clip_global_norm=1.0))]
    np.testing.assert_allclose(kept, [0.3, 0.4], rtol=1e-6)
