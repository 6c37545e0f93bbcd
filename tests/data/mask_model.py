"""A small segmentation model without training, whose answers vary over an image."""

import keras
import numpy as np

import tfvt

MASK_NAMES = ("sky", "roof", "žába", "road", "car")


def mask_model(**options):
    """Its classifier is balanced, so that each class wins somewhere in an image of blurred noise."""
    keras.utils.set_random_seed(0)
    options = {"input_shape": (None, None, 3), "pyramid_channels": 16, "head_channels": 16} | options
    model = tfvt.create_model(
        "fpn_resnet50",
        backbone="resnet18",
        backbone_options={"width": 8, "depths": (1, 1, 1, 1)},
        num_classes=len(MASK_NAMES),
        **options,
    )
    random, head = np.random.default_rng(0), model.get_layer("head")
    kernel = random.normal(size=head.get_weights()[0].shape)
    head.set_weights([kernel, np.zeros(len(MASK_NAMES))])
    size = [side or 96 for side in model.input_shape[1:3]]
    noise = np.kron(random.uniform(0, 255, (1, 8, 8, 3)), np.ones((1, size[0] // 8, size[1] // 8, 1)))
    logits = keras.ops.convert_to_numpy(model(noise.astype("float32")))
    head.set_weights([kernel / logits.std(), -logits.mean((0, 1, 2)) / logits.std()])
    return model
