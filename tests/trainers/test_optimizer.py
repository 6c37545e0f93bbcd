"""Schedules and updates against a few lines of NumPy."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tfvt
from tfvt.errors import UsageError
from tfvt.trainers.engines.optimizer import Schedule, apply_scaled, freeze, layer_scales, make_optimizer, regularize
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


def mmsegmentation_rate(step, steps, peak, power, final, warmup, start):
    """Its PolyLrUpdaterHook with a linear warm-up, in mmcv 1's words."""
    regular = (peak - final) * (1 - step / steps) ** power + final
    return regular if step >= warmup else start + (regular - start) * step / warmup


@pytest.mark.parametrize(("power", "final", "warmup"), [(0.9, 0.0, 0), (1.0, 1e-4, 15)])
def test_poly_is_that_of_mmsegmentation(power, final, warmup):
    flags = {"name": "poly", "power": power, "final_learning_rate": final, "warmup_steps": warmup}
    flags = {f"schedule.{key}": value for key, value in flags.items()} | {"schedule.warmup_learning_rate": 1e-6}
    recipe = recipe_of(**flags, **{"optimizer.learning_rate": 0.04, "steps": 160})
    rates = np.asarray(Schedule(recipe, 7)(np.arange(161)))
    expected = [mmsegmentation_rate(step, 160, 0.04, power, final, warmup, 1e-6) for step in range(161)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-8)


def test_the_rate_falls_at_named_steps():
    flags = {"schedule.name": "step", "schedule.decay_steps": "[60, 80]", "steps": 90, "optimizer.learning_rate": 0.04}
    rates = np.asarray(Schedule(recipe_of(**flags), 7)(np.arange(90)))
    np.testing.assert_allclose(rates, np.repeat([0.04, 0.004, 0.0004], [60, 20, 10]), rtol=1e-6)


def test_a_run_of_steps_may_end_within_an_epoch():
    duration = recipe_of(**{"steps": 20, "schedule.warmup_steps": 3}).duration(steps_per_epoch=6)
    assert (duration.steps, duration.epochs, duration.warmup_steps) == (20, 4, 3)
    with pytest.raises(UsageError, match="a warm-up of 24 steps, in a run of 20: it must be shorter"):
        recipe_of(**{"steps": 20, "schedule.warmup_epochs": 4}).duration(steps_per_epoch=6)


def test_boundaries_are_exact_at_large_steps():
    schedule = Schedule(recipe_of(**{"schedule.name": "step", "optimizer.learning_rate": 1.0, "epochs": 300}), 50_001)
    boundary = 270 * 50_001
    np.testing.assert_allclose([schedule(boundary - 1), schedule(boundary)], [1e-8, 1e-9], rtol=1e-5)


def orthogonalised(x):
    """Muon's Newton-Schulz iteration for the polar factor of `x` (Jordan et al. 2024), rows at most columns."""
    if len(x) > len(x[0]):
        return orthogonalised(x.T).T
    x = x / np.linalg.norm(x)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


def numpy_updates(name, weight, gradients, rate, decay):
    """Textbook updates; weight decay as PyTorch's `weight_decay` (of those in DECOUPLED: decoupled)."""
    m, v, trajectory = 0.0, 0.0, []
    for count, gradient in enumerate(gradients, start=1):
        if name in DECOUPLED:
            weight = weight - rate * decay * weight
        else:
            gradient = gradient + decay * weight
        if name in ("sgd", "nesterov"):
            m = 0.9 * m + gradient
            step = rate * (gradient + 0.9 * m if name == "nesterov" else m)
        elif name == "rmsprop":
            v = 0.9 * v + 0.1 * gradient**2
            m = 0.9 * m + rate * gradient / np.sqrt(v + 1e-3)
            step = m
        elif name == "lion":
            step = rate * np.sign(0.9 * m + 0.1 * gradient)
            m = 0.99 * m + 0.01 * gradient
        elif name == "muon":
            m = 0.95 * m + gradient
            step = rate * orthogonalised(gradient + 0.95 * m) * 0.2 * max(weight.shape) ** 0.5
        else:
            m = 0.9 * m + 0.1 * gradient
            v = 0.999 * v + 0.001 * gradient**2
            epsilon = 1e-6 if name == "lamb" else 1e-8
            step = rate * (m / (1 - 0.9**count)) / (np.sqrt(v / (1 - 0.999**count)) + epsilon)
            if name == "lamb":
                step = step * np.linalg.norm(weight) / np.linalg.norm(step / rate)
        weight = weight - step
        trajectory.append(weight)
    return trajectory


DECOUPLED = ("adamw", "lamb", "lion", "muon")


@pytest.mark.parametrize("name", ["sgd", "nesterov", "adam", "adamw", "rmsprop", "lamb", "lion", "muon"])
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


def test_momentum_is_of_steps_that_keep_their_own_rates():
    """PyTorch's would fall tenfold with the rate."""
    flags = {"schedule.name": "step", "schedule.decay_steps": "[2]", "schedule.decay_factor": 0.1}
    recipe = recipe_of(**flags, **{"optimizer.name": "sgd", "optimizer.learning_rate": 1.0})
    variable = keras.Variable(np.zeros(1), name="kernel", dtype="float32")
    optimizer = make_optimizer(recipe.optimizer, Schedule(recipe, 10), [variable])
    places = [0.0]
    for gradient in (1.0, 0.0, 1.0):
        optimizer.apply([keras.ops.full((1,), gradient)], [variable])
        places.append(float(variable.numpy()[0]))
    np.testing.assert_allclose(np.diff(places), [-1, -0.9, -(0.9**2 + 0.1)], rtol=1e-6)


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


def test_muon_leaves_the_head_and_what_is_no_matrix_to_adamw():
    recipe = recipe_of(**{"optimizer.name": "muon", "optimizer.learning_rate": 0.05})
    model = tfvt.create_model("vit_tiny16", blocks=({"layers": 1, "hidden_dim": 64, "mlp_dim": 32},), num_classes=3)
    optimizer = make_optimizer(recipe.optimizer, Schedule(recipe, 10), model.trainable_variables)
    by_muon = {
        variable.path.partition("/")[2]
        for variable, velocity in zip(model.trainable_variables, optimizer.adam_velocities, strict=True)
        if velocity is None
    }
    assert by_muon == {"mlp_in/kernel", "mlp_out/kernel", "attention/qkv_kernel", "attention/out/kernel"}


def test_a_layer_has_its_share_of_the_rate():
    """BEiT's numbers for a ViT of two layers: its embeddings are layer 0, its last norm and its head layer 3."""
    block = {"layers": 2, "hidden_dim": 64, "mlp_dim": 8}
    variables = tfvt.create_model("vit_tiny16", blocks=(block,), num_classes=3).trainable_variables
    shares = {v.path.partition("/")[0]: share for v, share in zip(variables, layer_scales(variables, 0.5), strict=True)}
    expected = {"patch_embedding": 1 / 8, "embedding": 1 / 8, "encoder_layer1": 1 / 4, "encoder_layer2": 1 / 2}
    assert shares == expected | {"encoder_norm": 1, "head": 1}
    assert set(layer_scales(variables, None)) == {1}


@pytest.mark.parametrize("name", ["resnet18", "vt_resnet18", "swin_tiny", "pvt_tiny", "san10"])
def test_rates_rise_towards_the_head(name):
    variables = tfvt.create_model(name, num_classes=3, input_shape=(128, 128, 3)).trainable_variables
    shares = layer_scales(variables, 0.9)
    assert shares == sorted(shares)
    assert len(set(shares)) > 8
    assert shares[-1] == 1


def test_a_share_of_the_rate_is_a_share_of_the_update():
    recipe = recipe_of(**{"optimizer.name": "adamw", "optimizer.learning_rate": 0.1, "optimizer.weight_decay": 0.1})
    variables = [keras.Variable([[2.0, -1.0]], name="kernel") for _ in range(2)]
    optimizer = make_optimizer(recipe.optimizer, Schedule(recipe, 10), variables)
    gradients = [keras.ops.convert_to_tensor([[0.3, 0.2]])] * 2
    apply_scaled(optimizer, gradients, variables, [1.0, 0.25])
    full, quarter = (variable.numpy() - np.array([[2.0, -1.0]]) for variable in variables)
    np.testing.assert_allclose(quarter, 0.25 * full, rtol=1e-5)
    assert np.abs(full).min() > 0.01


def test_frozen_layers_are_named_and_stay():
    model = tfvt.create_model("resnet18", depths=(1, 1), width=8, num_classes=3)
    freeze(model, ["stem.*", "stage1_.*"])
    assert {v.path.split("_")[0] for v in model.trainable_variables} == {"stage2", "head/kernel", "head/bias"}
    for patterns, message in (
        (["decoder.*"], "no layer of resnet18 is called 'decoder.*'; the first are stem_conv, stem_norm"),
        (["stage(1"], r"'stage\(1' is no regular expression \(missing \), unterminated"),
        ([".*"], "model.frozen leaves no layer to train"),
    ):
        with pytest.raises(UsageError, match=message):
            freeze(model, patterns)
