"""ViT beside transformers' and TensorFlow official models' own, run live with random weights."""

import dataclasses

import numpy as np
import pytest

import tests.contracts as contracts
import tfvt
from tfvt.checkpoints.positions import resample_grid
from tfvt.models.vit import Block

pytestmark = pytest.mark.parity

SIZES = {
    "small": {"blocks": (Block(4, 96, 160),), "head_dim": 24, "input_shape": (64, 64, 3)},
    "base": {"blocks": (Block(12),), "input_shape": (224, 224, 3)},
}


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)


def pixels_of(size):
    return np.random.default_rng(0).normal(size=(2, *size, 3)).astype("float32")


def transformers_vit(size, hidden_act="gelu"):
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    (block,), head_dim = SIZES[size]["blocks"], SIZES[size].get("head_dim", 64)
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=block.hidden_dim,
        num_hidden_layers=block.layers,
        num_attention_heads=block.hidden_dim // head_dim,
        intermediate_size=block.mlp_dim,
        image_size=SIZES[size]["input_shape"][0],
        hidden_act=hidden_act,
        layer_norm_eps=1e-5,
        num_labels=11,
    )
    model = ViTForImageClassification(config).eval()
    with torch.no_grad():  # far from the start, where a wrong name, epsilon or bias would not show
        for tensor in model.parameters():
            tensor.add_(torch.randn_like(tensor) * 0.02)
    return model


def logits_of(theirs, pixels, **kwargs):
    import torch

    with torch.no_grad():
        return theirs(torch.tensor(pixels.transpose(0, 3, 1, 2)), **kwargs).logits.numpy()


@pytest.mark.parametrize("size", SIZES)
def test_logits_equal_transformers(size, tmp_path):
    theirs, pixels = transformers_vit(size), pixels_of(SIZES[size]["input_shape"][:2])
    expected = logits_of(theirs, pixels)
    theirs.save_pretrained(tmp_path)
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    options = SIZES[size] | {"num_classes": 11, "pixel_mean": None, "layer_norm_epsilon": 1e-5}
    for source in (state, tmp_path / "model.safetensors"):
        ours = tfvt.create_model("vit_base16", weights=source, **options)
        close(contracts.arrays(ours(pixels))[0], expected)


def test_the_tanh_form_equals_transformers(tmp_path):
    theirs, pixels = transformers_vit("small", "gelu_pytorch_tanh"), pixels_of((64, 64))
    theirs.save_pretrained(tmp_path)  # its config.json names the form
    options = SIZES["small"] | {"num_classes": 11, "pixel_mean": None, "layer_norm_epsilon": 1e-5, "gelu": "tanh"}
    ours = tfvt.create_model("vit_base16", weights=tmp_path / "model.safetensors", **options)
    close(contracts.arrays(ours(pixels))[0], logits_of(theirs, pixels))


@pytest.mark.parametrize(("size", "image_size"), [("small", (96, 48)), ("small", (32, 80)), ("base", (96, 288))])
def test_logits_after_resizing_equal_transformers_interpolation(size, image_size):
    theirs, pixels = transformers_vit(size), pixels_of(image_size)
    expected = logits_of(theirs, pixels, interpolate_pos_encoding=True)
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    options = SIZES[size] | {"num_classes": 11, "pixel_mean": None, "layer_norm_epsilon": 1e-5}
    ours = tfvt.create_model("vit_base16", weights=state, **options | {"input_shape": (*image_size, 3)})
    close(contracts.arrays(ours(pixels))[0], expected)


@pytest.mark.parametrize("size", [(24, 24), (7, 20), (3, 14)])
def test_bicubic_kernels_equal_pytorch(size):
    import torch

    grid = np.random.default_rng(0).normal(size=(14, 14, 3)).astype("float32")
    for kernel, antialias in (("bicubic", False), ("bicubic_antialias", True)):
        expected = torch.nn.functional.interpolate(
            torch.tensor(grid.transpose(2, 0, 1)[None]), size=size, mode="bicubic", antialias=antialias
        )
        actual = resample_grid(grid, size, kernel)
        np.testing.assert_allclose(actual, expected[0].numpy().transpose(1, 2, 0), atol=1e-4)


def official_vit(block, head_dim, image_size):
    import tensorflow as tf
    import tf_keras
    from official.vision.modeling.backbones.vit import VisionTransformer
    from official.vision.modeling.classification_model import ClassificationModel

    tf.random.set_seed(0)
    specs = tf_keras.layers.InputSpec(shape=[None, *image_size, 3])
    backbone = VisionTransformer(
        mlp_dim=block.mlp_dim,
        num_heads=block.hidden_dim // head_dim,
        num_layers=block.layers,
        hidden_size=block.hidden_dim,
        input_specs=specs,
    )
    model = ClassificationModel(backbone, 11, input_specs=specs)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(weight + rng.normal(0, 0.03, weight.shape))
    return model


@pytest.mark.filterwarnings("ignore")  # their imports and layers warn of their own dependencies
@pytest.mark.parametrize(("size", "image_size"), [("small", (64, 96)), ("base", (224, 224))])
def test_logits_equal_official_models_from_their_checkpoint(size, image_size, tmp_path):
    import tensorflow as tf

    (block,), head_dim = SIZES[size]["blocks"], SIZES[size].get("head_dim", 64)
    theirs, pixels = official_vit(block, head_dim, image_size), pixels_of(image_size)
    expected = theirs(pixels, training=False).numpy()
    options = {"blocks": (block,), "head_dim": head_dim, "input_shape": (*image_size, 3), "pixel_mean": None}
    options |= {"num_classes": 11, "gelu": "tanh"}
    for items in ({"model": theirs, **theirs.checkpoint_items}, {"model": theirs}):
        path = tf.train.Checkpoint(**items).save(tmp_path / "ckpt")
        ours = tfvt.create_model("vit_base16", weights=path, **options)
        close(contracts.arrays(ours(pixels))[0], expected)


@pytest.mark.filterwarnings("ignore")
def test_an_official_checkpoint_passes_into_a_funnel(tmp_path):
    import tensorflow as tf

    block = SIZES["small"]["blocks"][0]
    theirs = official_vit(block, 24, (64, 64))
    path = tf.train.Checkpoint(model=theirs, **theirs.checkpoint_items).save(tmp_path / "ckpt")
    half = dataclasses.replace(block, layers=2)
    options = {"blocks": (half, dataclasses.replace(half, stride=2)), "head_dim": 24, "gelu": "tanh"}
    funnel = tfvt.create_model("funnel_vit_base16_6_6", input_shape=(96, 64, 3), num_classes=3, **options)
    report = tfvt.load_checkpoint(funnel, path)
    assert report.resampled == ("embedding/patch_positions",)
    assert report.fresh == ("head/kernel", "head/bias")
    kernel = theirs.backbone.get_layer(index=1).kernel.numpy()
    np.testing.assert_array_equal(funnel.get_layer("patch_embedding").get_weights()[0], kernel)
