"""A small Mask R-CNN, two images with their truth, and a call that JAX compiles."""

import keras
import numpy as np
from keras import ops

import tests.contracts as contracts
import tfvt

TINY = {
    "backbone": "resnet18",
    "backbone_options": {"width": 8, "depths": (1, 1, 1, 1)},
    "pyramid_channels": 8,
    "proposals": 10,
    "training_proposals": 14,
    "sampled_anchors": 16,
    "sampled_proposals": 12,
}
SHAPE = (64, 96, 3)


def small(name="mask_rcnn_swin_tiny", **options):
    return tfvt.create_model(name, **{"num_classes": 3, "input_shape": SHAPE} | TINY | options)


def images():
    return contracts.random_images((2, *SHAPE))


def truth():
    """Two boxes, one box and a crowd; empty slots."""
    boxes = [[[4, 4, 30, 40], [10, 50, 60, 90], [0, 0, 0, 0]], [[2, 3, 64, 90], [0, 0, 0, 0], [1, 1, 29, 9]]]
    return {
        "boxes": np.array(boxes, "float32"),
        "labels": np.array([[0, 2, -1], [1, -1, 0]], "int32"),
        "crowd": np.array([[0, 0, 0], [0, 0, 1]], bool),
        "seed": np.array([[1, 2], [3, 4]], "int32"),
        "masks": np.random.default_rng(0).integers(0, 2, (2, 3, 16, 16)).astype("uint8"),
    }


def run(model, inputs, training=False):
    """The model's outputs as arrays. JAX would compile each operation and each loop of its own."""
    inputs = keras.tree.map_structure(ops.convert_to_tensor, inputs)
    if keras.backend.backend() == "jax":
        import jax

        variables = ([v.value for v in of] for of in (model.trainable_variables, model.non_trainable_variables))
        call = jax.jit(lambda *given: model.stateless_call(*given, training=training)[0])
        outputs = call(*variables, inputs)
    else:
        outputs = model(inputs, training=training)
    return {name: ops.convert_to_numpy(value) for name, value in outputs.items()}
