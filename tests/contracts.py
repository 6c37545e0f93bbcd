"""What every layer and every model must do; a model added to the registry is tested by being listed.

Values, not absence of errors: each check compares numbers.
"""

import re
import tempfile
from pathlib import Path

import keras
import numpy as np
from keras import ops

import tfvt
from tests.memory import give_up_caches
from tfvt.models.detection_model import DetectionModel
from tfvt.registry import get_variant

# The smallest model of each family: the full contract in every test run. `make test-all` takes every name.
SMALLEST = {
    "acmix_resnet": "acmix_resnet26",
    "pvt": "pvt_tiny",
    "resnet": "resnet18",
    "san": "san10",
    "swin": "swin_tiny",
    "vit": "vit_tiny16",
    "vt_resnet": "vt_resnet18",
}
# The families of dense tasks are built in every run on a small backbone, and by name in `make test-all`.
SMALLEST_DENSE = {
    "mask_rcnn": "mask_rcnn_swin_tiny",
    "panoptic_fpn": "fpn_resnet50",
    "retinanet": "retinanet_resnet50",
    "upernet": "upernet_swin_tiny",
}

# Of these families, what the contracts build in place of a thousand regions, each of which takes as much as an image.
FEW = {"mask_rcnn": {"proposals": 12, "training_proposals": 12}}

# Models that are tested at 128 pixels a side, not 64: their attention reflects its maps and takes none below 4x4.
REFLECTING = r"(retinanet_)?((acmix|sasa)_resnet(38|50)|(acmix_)?san\d+)"

# MODEL/WEIGHT whose gradient may be zero or none, and why.
_OF_THE_MAP = r"/mixer/(beta|convolution/.*)"
ZERO_GRADIENTS = {
    r"acmix_pvt_tiny/stage4_block2" + _OF_THE_MAP: "the last block: the class token alone is read",
    r"acmix_pvt_small/stage4_block3" + _OF_THE_MAP: "the last block: the class token alone is read",
    r".*/position_bias": "shifts all keys of ACmix's attention alike, which cancels in the soft-max",
    r".*/key/norm/beta": "shifts all keys alike, which cancels in the soft-max over them",
}


def image_shape(name):
    """(height, width, channels) of the images that a model is tested with."""
    side = 128 if re.fullmatch(REFLECTING, name) else 64
    return side, side, 3


def random_images(shape, seed=0):
    """Pixels 0..255, float32."""
    return np.random.default_rng(seed).integers(0, 256, shape).astype("float32")


def gradients(model, inputs, training=True):
    """Gradient of sum(w * outputs), w fixed and random, as {weight path: array or None}, on any backend."""

    def loss_of(outputs):
        rng = np.random.default_rng(1)
        outputs = [ops.cast(o, "float32") for o in flat(outputs)]
        return sum(ops.sum(o * ops.convert_to_tensor(rng.normal(size=tuple(o.shape)), "float32")) for o in outputs)

    variables = model.trainable_variables
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = loss_of(model(inputs, training=training))
        values = tape.gradient(loss, [v.value for v in variables])
    elif backend == "jax":
        import jax

        def loss(trainable, non_trainable):
            return loss_of(model.stateless_call(trainable, non_trainable, inputs, training=training)[0])

        # XLA's emitters of fused loops compile in twice the time and memory: 27 s and 1.9 GB for SAN-10's gradient.
        compiled = jax.jit(jax.grad(loss), compiler_options={"xla_cpu_use_fusion_emitters": False})
        values = compiled([v.value for v in variables], [v.value for v in model.non_trainable_variables])
    else:
        for variable in variables:
            variable.value.grad = None
        loss_of(model(inputs, training=training)).backward()
        values = [v.value.grad for v in variables]
    arrays = [None if value is None else ops.convert_to_numpy(value) for value in values]
    return {v.path: array for v, array in zip(variables, arrays, strict=True)}


def flat(outputs):
    """A model's outputs as a list of tensors."""
    if isinstance(outputs, dict):
        return list(outputs.values())
    return list(outputs) if isinstance(outputs, tuple | list) else [outputs]


def logits_of(outputs):
    """A detector's logits, of its dict: of objects or of classes. What other models give as it is. As an array."""
    if isinstance(outputs, dict):
        outputs = outputs.get("rpn_logits", outputs.get("class_logits"))
    return ops.convert_to_numpy(outputs)


def create(name, **options):
    """A model as the contracts take it."""
    return tfvt.create_model(name, **FEW.get(get_variant(name).builder.__name__, {}) | options)


def answer(model, images):
    """What a model gives. JAX compiles loops, which detectors with proposals have, anew in each call of a layer."""
    return model.predict_on_batch(images) if isinstance(model, DetectionModel) else model(images)


def arrays(outputs):
    return [ops.convert_to_numpy(o) for o in flat(outputs)]


def check_gradients(model, inputs):
    """Every weight gets a gradient, finite and not all zero, except for the listed set."""
    values = gradients(model, inputs)
    assert len(values) == len(model.trainable_variables), "two weights share one path"
    broken = [path for path, value in values.items() if value is not None and not np.isfinite(value).all()]
    assert broken == []
    zero = [path for path, value in values.items() if value is None or not value.any()]
    listed = [path for path in zero if any(re.fullmatch(p, f"{model.name}/{path}") for p in ZERO_GRADIENTS)]
    assert [path for path in zero if path not in listed] == []


def check_save_and_load(model, inputs):
    """A saved model loads without custom objects and gives the same numbers."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        loaded = keras.models.load_model(path, compile=False)
    for expected, actual in zip(arrays(answer(model, inputs)), arrays(answer(loaded, inputs)), strict=True):
        np.testing.assert_array_equal(actual, expected)


def check_layer(make_layer, *inputs, atol_half=0.05):
    """The layer contract: shape inference, configuration, gradients, saving, half precision.

    Args:
        make_layer: called with keyword arguments of `keras.layers.Layer`, makes the layer.
        *inputs: arrays that the layer is called on.
        atol_half: how far bfloat16 may be from float32, relative to the largest output.
    """
    symbolic = [keras.Input(x.shape[1:]) for x in inputs]
    layer = make_layer(name="layer")
    model = keras.Model(symbolic, layer(*symbolic))
    for spec, value in zip(flat(layer(*symbolic)), flat(layer(*inputs)), strict=True):
        assert tuple(spec.shape[1:]) == tuple(value.shape[1:])

    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    again(*inputs)
    assert [w.shape for w in again.weights] == [w.shape for w in layer.weights]

    if layer.trainable_variables:
        check_gradients(model, list(inputs))
    check_save_and_load(model, list(inputs))

    half = make_layer(name="layer_half", dtype="mixed_bfloat16")
    half(*inputs)
    half.set_weights(layer.get_weights())
    for expected, actual in zip(arrays(layer(*inputs)), flat(half(*inputs)), strict=True):
        assert keras.backend.standardize_dtype(actual.dtype) == "bfloat16"
        actual = ops.convert_to_numpy(ops.cast(actual, "float32"))
        np.testing.assert_allclose(actual, expected, atol=atol_half * max(1, np.abs(expected).max()))


def check_model(name, **options):
    """The model contract, on one small image size."""
    shape = image_shape(name)
    num_classes, images = 7, random_images((2, *shape))
    model = create(name, num_classes=num_classes, input_shape=shape, **options)
    logits = logits_of(answer(model, images))
    places = {"classification": (), "segmentation": shape[:2], "detection": logits.shape[1:-1]}
    width = 1 if isinstance(model, DetectionModel) else num_classes
    assert logits.shape == (2, *places[get_variant(name).task], width)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    assert np.ptp(logits, axis=0).max() > 0, "two different images have the same logits"
    np.testing.assert_allclose(logits_of(answer(model, images.astype("uint8"))), logits, rtol=1e-5, atol=1e-5)
    check_save_and_load(model, images)
    check_profile(model)
    give_up_caches()  # of the single operations that ran so far: JAX compiles the gradient as a whole
    check_gradients(model, images)


def check_profile(model):
    """The rows add up, and no weight is missing."""
    profile = tfvt.profile(model)
    assert profile.params == sum(row.params for row in profile.rows) == _count(model.trainable_variables)
    assert 0 < profile.params_without_norms < profile.params
    assert profile.macs == sum(row.macs for row in profile.rows) > 0


def check_mixed_precision(name, **options):
    """Half precision inside, float32 logits and weights, near the full-precision result."""
    shape = image_shape(name)
    images = random_images((2, *shape))
    full = create(name, num_classes=7, input_shape=shape, **options)
    expected = logits_of(answer(full, images))
    give_up_caches()  # JAX's operations in full precision
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = create(name, num_classes=7, input_shape=shape, **options)
    finally:
        keras.config.set_dtype_policy(policy)
    half.set_weights(full.get_weights())
    assert {w.dtype for w in half.trainable_variables} == {"float32"}
    outputs = answer(half, images)
    assert {keras.backend.standardize_dtype(output.dtype) for output in flat(outputs)} - {"int32"} == {"float32"}
    assert np.abs(logits_of(outputs) - expected).max() < 0.1 * np.abs(expected).max()


def check_sizes(name, sizes, **options):
    """Any height and width: the model for one size takes another one's weights and gives finite logits."""
    any_size = create(name, num_classes=5, input_shape=(None, None, 3), **options)
    for height, width in sizes:
        model = create(name, num_classes=5, input_shape=(height, width, 3), **options)
        model.set_weights(any_size.get_weights())
        images = random_images((2, height, width, 3))
        logits = logits_of(answer(model, images))
        assert np.isfinite(logits).all()
        np.testing.assert_allclose(logits_of(answer(any_size, images)), logits, rtol=1e-4, atol=1e-4)


def check_features(name, strides, size=(96, 64), **options):
    """The maps of a pyramid have the size that their level's stride says, rounded up."""
    (height, width), shape = size, (*size, 3)
    model = create(name, input_shape=shape, features=tuple(strides), **options)
    maps = model(random_images((2, *shape)))
    assert set(maps) == set(strides)
    for level, stride in strides.items():
        assert stride == 2 ** int(level[1:])
        assert maps[level].shape[:3] == (2, -(-height // stride), -(-width // stride))
        assert np.isfinite(ops.convert_to_numpy(maps[level])).all()


def _count(variables):
    return sum(int(np.prod(v.shape)) for v in variables)
