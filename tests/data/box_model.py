"""A small detection model without training, which finds something in images of blurred noise."""

import keras
import numpy as np

import tfvt

BOX_NAMES = ("person", "žába", "bus", "kite")


def box_model(**options):
    """Its scores and boxes vary over an image."""
    keras.utils.set_random_seed(0)
    options = {
        "input_shape": (None, None, 3),
        "pyramid_channels": 32,
        "tower_depth": 1,
        "levels": ("P3", "P4"),
    } | options
    model = tfvt.create_model(
        "retinanet_resnet50",
        backbone="resnet18",
        backbone_options={"width": 8, "depths": (1, 1, 1, 1)},
        num_classes=len(BOX_NAMES),
        **options,
    )
    random = np.random.default_rng(0)
    size = [side or 96 for side in model.input_shape[1:3]]
    noise = np.kron(random.uniform(0, 255, (1, 8, 8, 3)), np.ones((1, size[0] // 8, size[1] // 8, 1)))
    outputs = model(noise.astype("float32"))
    for kind, spread in (("class_logits", 1.0), ("box_deltas", 0.2)):
        head = model.get_layer("head_" + kind.split("_")[0])
        found = keras.ops.convert_to_numpy(outputs[kind])
        weights = [weight * spread / found.std() for weight in head.get_weights()]
        shift = 1.5 if kind == "class_logits" else 0.0
        weights[-1] = weights[-1] * 0 - shift - (found.mean() - head.get_weights()[-1].mean()) * spread / found.std()
        head.set_weights(weights)
    return model


def mask_model_of_boxes():
    """A small Mask R-CNN for images of any size, which finds something, too."""
    keras.utils.set_random_seed(0)
    model = tfvt.create_model(
        "mask_rcnn_swin_tiny",
        num_classes=len(BOX_NAMES),
        input_shape=(None, None, 3),
        backbone="resnet18",
        backbone_options={"width": 8, "depths": (1, 1, 1, 1)},
        pyramid_channels=16,
        proposals=10,
        level_norm=False,
    )
    for name, scale in (("head_class", 20.0), ("head_mask", 3.0)):
        head = model.get_layer(name)
        head.set_weights([weight * scale for weight in head.get_weights()])
    return model
