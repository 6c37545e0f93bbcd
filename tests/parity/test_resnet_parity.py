"""ResNet beside transformers' ResNetForImageClassification, run live with random weights."""

import numpy as np
import pytest

import tests.contracts as contracts
import tfvt

pytestmark = pytest.mark.parity

# (ours, transformers' layer type, stride in the first 1x1)
CASES = [("resnet18", "basic", False), ("resnet50", "bottleneck", False), ("resnet50", "bottleneck", True)]


def random_resnet(block, depths, downsample_in_bottleneck, num_labels):
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(
        layer_type=block,
        depths=list(depths),
        hidden_sizes=[64, 128, 256, 512] if block == "basic" else [256, 512, 1024, 2048],
        downsample_in_bottleneck=downsample_in_bottleneck,
        num_labels=num_labels,
    )
    model = ResNetForImageClassification(config).eval()
    with torch.no_grad():  # statistics and scales that a wrong name would show, and small logits
        for name, tensor in model.state_dict().items():
            if "normalization" in name and tensor.is_floating_point():
                tensor.uniform_(*((0.2, 0.6) if name.endswith("weight") else (0.5, 1.5)))
    return model


@pytest.mark.parametrize(("name", "block", "stride_in_1x1"), CASES)
@pytest.mark.parametrize("size", [(224, 224), (97, 130)])
def test_logits_equal_transformers(name, block, stride_in_1x1, size, tmp_path):
    import torch

    from tfvt.registry import get_variant

    theirs = random_resnet(block, get_variant(name).row["depths"], stride_in_1x1, num_labels=11)
    theirs.save_pretrained(tmp_path)
    pixels = np.random.default_rng(0).normal(size=(2, *size, 3)).astype("float32")
    with torch.no_grad():
        expected = theirs(torch.tensor(pixels.transpose(0, 3, 1, 2))).logits.numpy()
    options = {"num_classes": 11, "input_shape": (*size, 3), "pixel_mean": None, "stride_in_1x1": stride_in_1x1}
    state = {key: tensor.numpy() for key, tensor in theirs.state_dict().items()}
    for source in (state, tmp_path / "model.safetensors"):
        ours = tfvt.create_model(name, weights=source, **options)
        (logits,) = contracts.arrays(ours(pixels))
        np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_trunk_of_a_vt_resnet_equals_transformers_third_stage():
    import torch

    theirs = random_resnet("bottleneck", (3, 4, 6, 3), True, num_labels=11)
    pixels = np.random.default_rng(0).normal(size=(2, 96, 96, 3)).astype("float32")
    with torch.no_grad():
        hidden = theirs.resnet(torch.tensor(pixels.transpose(0, 3, 1, 2)), output_hidden_states=True).hidden_states
    expected = hidden[3].numpy().transpose(0, 2, 3, 1)
    state = {key: tensor.numpy() for key, tensor in theirs.state_dict().items()}
    options = {"input_shape": (96, 96, 3), "pixel_mean": None, "features": ("P4",), "projector": False}
    (ours,) = contracts.arrays(tfvt.create_model("vt_resnet50", weights=state, **options)(pixels))
    np.testing.assert_allclose(ours, expected, atol=1e-4)
