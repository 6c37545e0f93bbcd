"""Which weights decay with `decay_norms_and_biases: false`: explicit lists, for every family."""

import pytest

import tfvt
from tests.contracts import SMALLEST
from tfvt.models.vit import Block
from tfvt.registry import get_variant
from tfvt.trainers.engines.optimizer import decays
from tfvt.trainers.recipes.recipe import OptimizerRecipe

NORMS = {"gamma", "beta", "bias"}
FUNNEL = {"blocks": (Block(1, 64, 64), Block(1, 128, 64, 2)), "representation_dim": 8}
# Name, options, names of the weights that decay, and of those that do not.
LISTS = [
    ("resnet18", {}, {"kernel"}, NORMS),
    ("acmix_resnet26", {}, {"kernel", "mixing_kernel", "position_kernel"}, NORMS | {"alpha", "position_bias"}),
    ("san10", {"input_shape": (128, 128, 3)}, {"kernel"}, NORMS),
    ("acmix_san10", {"input_shape": (128, 128, 3)}, {"kernel", "mixing_kernel"}, NORMS | {"alpha"}),
    ("swin_tiny", {}, {"kernel"}, NORMS | {"bias_table"}),
    ("acmix_swin_tiny", {}, {"kernel", "mixing_kernel"}, NORMS | {"bias_table", "alpha", "mixing_bias"}),
    ("conv_swin_tiny", {}, {"kernel"}, NORMS),
    ("pvt_tiny", {}, {"kernel"}, NORMS | {"patch_positions", "token", "token_position"}),
    (
        "acmix_pvt_tiny",
        {},
        {"kernel", "mixing_kernel"},
        NORMS | {"patch_positions", "token", "token_position", "alpha"},
    ),
    (
        "funnel_vit_base16_6_6",
        FUNNEL,
        {"kernel", "qkv_kernel"},
        NORMS | {"qkv_bias", "class_token", "class_position", "patch_positions"},
    ),
    ("vt_resnet18", {}, {"kernel"}, NORMS | {"w_a"}),
    ("vt_resnet18", {"relation": "graph", "token_norm": "layer"}, {"kernel"}, NORMS | {"w_a", "adjacency"}),
    ("vt_resnet18", {"tokenizer": "cluster"}, {"kernel"}, NORMS),
]


@pytest.mark.parametrize(
    ("name", "options", "decaying", "spared"), LISTS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_kernels_decay_and_nothing_else(name, options, decaying, spared):
    model = tfvt.create_model(name, **{"num_classes": 3, "input_shape": (64, 64, 3)} | options)
    sparing = OptimizerRecipe(decay_norms_and_biases=False)
    assert {v.name for v in model.trainable_variables if decays(v, sparing)} == decaying
    assert {v.name for v in model.trainable_variables if not decays(v, sparing)} == spared
    assert all(decays(v, OptimizerRecipe()) for v in model.trainable_variables)
    kernels = [v for v in model.trainable_variables if decays(v, sparing)]
    assert all(len(v.shape) >= 2 for v in kernels)


def test_every_family_is_listed():
    assert {get_variant(name).builder.__name__ for name, *_ in LISTS} == set(SMALLEST)
