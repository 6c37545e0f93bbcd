"""Every weight of a new model starts from the distribution that the authors' code gives it."""

import re

import keras
import numpy as np
import pytest

import tfvt
from tfvt.models.vit import Block


def normal(stddev):
    return lambda fan_in, fan_out: ("normal", stddev)


def torch(fan_in, fan_out):
    """PyTorch's default: uniform within 1 / sqrt(fan_in)."""
    return "uniform", fan_in**-0.5


def glorot(fan_in, fan_out):
    return "uniform", (6 / (fan_in + fan_out)) ** 0.5


def lecun(fan_in, fan_out):
    """Cut at two standard deviations, and widened so that the variance is 1 / fan_in."""
    return "cut normal", fan_in**-0.5


def constant(value):
    return lambda fan_in, fan_out: ("constant", value)


NORMS = {r".*/gamma|.*moving_variance": constant(1), r".*/beta|.*moving_mean|.*seed_generator_state": None}
ZERO_BIASES = {r".*bias": constant(0)}
ACMIX = {
    r".*[/_](mixer|acmix)/(alpha|beta)": constant(0.5),
    r".*/convolution/mixing_(kernel|bias)": torch,
    r".*/convolution/kernel": "shifts",
}
CONVOLUTIONS = {r"(patch_embedding|stage\d_embedding)/projection/.*|.*/reduce/.*": torch}
SWIN_AND_PVT = CONVOLUTIONS | NORMS | ZERO_BIASES | {r".*/kernel|.*/bias_table|.*positions?|.*/token": normal(0.02)}
SAN = NORMS | {r".*/(kernel|bias)": torch}
VIT = {"blocks": (Block(2, 128, 512), Block(1, 192, 768, 2)), "representation_dim": 96}
GOOGLE = {
    r"(patch_embedding|pre_logits)/kernel": lecun,
    r".*positions?": normal(0.02),
    r".*/class_token": constant(0),
    r".*/qkv_kernel": lambda fan_in, fan_out: glorot(fan_in, fan_out / 3),
    r".*/kernel": glorot,
}
DEIT = {r"patch_embedding/.*": torch, r".*kernel|.*positions?|.*/class_token": normal(0.02)}
RESNET = {r"head/.*": torch, r".*_conv/kernel": lambda fan_in, fan_out: ("normal", (2 / fan_out) ** 0.5)} | NORMS
NECK = {r"neck_.*kernel": glorot}
RETINANET = {
    r"(decoder|head)_(class|box)/conv\d?/kernel": normal(0.01),
    r"head_class/conv/bias": constant(np.float32(np.log(0.01 / 0.99))),
}
TWO_STAGES = {
    r"decoder_rpn.*kernel|head_class.*kernel": normal(0.01),
    r"head_box.*kernel": normal(0.001),
    r"decoder_box.*dense\d/kernel": glorot,
    r"(decoder_box.*conv|decoder_mask|head_mask).*kernel": RESNET[r".*_conv/kernel"],
}
DETECTOR = {"backbone": "resnet18", "backbone_options": {"width": 8}, "pyramid_channels": 32}

# Name, options, {pattern of a weight's path: where it starts}; the first that fits counts.
RULES = [
    ("swin_tiny", {}, SWIN_AND_PVT),
    ("acmix_swin_tiny", {}, ACMIX | SWIN_AND_PVT),
    ("conv_swin_tiny", {}, {r".*/mixer/.*": torch} | SWIN_AND_PVT),
    ("pvt_tiny", {}, SWIN_AND_PVT),
    ("acmix_pvt_tiny", {}, ACMIX | SWIN_AND_PVT),
    ("san10", {"input_shape": (128, 128, 3)}, SAN),
    ("acmix_san10", {"input_shape": (128, 128, 3)}, ACMIX | SAN),
    ("vit_tiny16", VIT, GOOGLE | NORMS | ZERO_BIASES),
    ("vit_tiny16", VIT | {"zero_init_head": True}, {r"head/kernel": constant(0)} | GOOGLE | NORMS | ZERO_BIASES),
    ("vit_tiny16", VIT | {"initialization": "deit"}, DEIT | NORMS | ZERO_BIASES),
    ("resnet18", {}, RESNET),
    ("acmix_resnet26", {}, {r".*/position_bias": constant(0)} | ACMIX | {r".*/attention/.*": torch} | RESNET),
    ("retinanet_resnet50", DETECTOR, RETINANET | NECK | RESNET | ZERO_BIASES),
    ("mask_rcnn_swin_tiny", DETECTOR, TWO_STAGES | NECK | RESNET | ZERO_BIASES),
    ("cascade_mask_rcnn_swin_tiny", DETECTOR, TWO_STAGES | NECK | RESNET | ZERO_BIASES),
]


def fans(weight):
    """(fan_in, fan_out) of a kernel; those of a bias are its kernel's, which the caller knows."""
    receptive = int(np.prod(weight.shape[:-2]))
    return receptive * weight.shape[-2], receptive * weight.shape[-1]


def check_start(path, values, kind, scale):
    """The distribution by its mean, its standard deviation and its greatest value, within 5 standard errors."""
    if kind == "constant":
        assert (values == scale).all(), path
        return
    stddev = scale / 3**0.5 if kind == "uniform" else scale
    assert abs(values.mean()) < 5 * stddev / values.size**0.5, path
    assert abs(values.std() / stddev - 1) < 5 / (2 * values.size) ** 0.5 + 1e-3, (path, values.std(), stddev)
    largest = np.abs(values).max() / stddev
    if kind == "uniform":
        assert largest <= 3**0.5 + 1e-5, path
    elif kind == "cut normal":
        assert largest <= 2 / 0.8796 + 1e-3, path
    elif values.size > 10_000:
        assert largest > 3, f"{path} is cut"


@pytest.mark.parametrize(("name", "options", "rules"), RULES, ids=lambda value: value if isinstance(value, str) else "")
def test_weights_start_as_the_authors_do(name, options, rules):
    keras.utils.set_random_seed(7)
    model = tfvt.create_model(name, **{"num_classes": 50, "input_shape": (64, 64, 3)} | options)
    weights = {weight.path: weight for weight in model.weights}
    seen = {}
    for weight in model.weights:
        rule = next(rules[pattern] for pattern in rules if re.fullmatch(pattern, weight.path))
        values = keras.ops.convert_to_numpy(weight)
        if rule is None:
            assert weight.path.endswith("seed_generator_state") or not values.any()
        elif rule == "shifts":
            assert (values.reshape(9, 9, -1) == np.eye(9)[..., None]).all()
        else:
            kernel = weights.get(re.sub("bias$", "kernel", weight.path), weight)
            check_start(weight.path, values, *rule(*(fans(kernel) if len(kernel.shape) > 1 else (None, None))))
        if values.std() > 0 and values.size > 20 and rule not in (None, "shifts"):
            assert values.tobytes() not in seen, f"{weight.path} starts as {seen[values.tobytes()]}"
            seen[values.tobytes()] = weight.path
