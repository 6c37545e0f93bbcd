"""Swin beside transformers' SwinForImageClassification, run live with random weights."""

import numpy as np
import pytest

import tests.contracts as contracts
import tfvt

pytestmark = pytest.mark.parity


def random_swin(depths, **options):
    import torch
    from transformers import SwinConfig, SwinForImageClassification

    torch.manual_seed(0)
    config = SwinConfig(depths=list(depths), num_labels=11, **options)
    model = SwinForImageClassification(config).eval()
    with torch.no_grad():  # scales, offsets and tables that a wrong name would show
        for name, tensor in model.state_dict().items():
            if "norm" in name or name.endswith(("bias", "table")):
                tensor.add_(0.3 * torch.randn_like(tensor))
    return model


# At 224 the last map is one window; at 256 and 300x340 maps are padded, and the last is shifted too.
@pytest.mark.parametrize("size", [(224, 224), (256, 256), (300, 340)])
def test_logits_equal_transformers(size, tmp_path):
    import torch

    theirs = random_swin((2, 2, 6, 2))
    theirs.save_pretrained(tmp_path)
    pixels = np.random.default_rng(0).normal(size=(2, *size, 3)).astype("float32")
    with torch.no_grad():
        expected = theirs(torch.tensor(pixels.transpose(0, 3, 1, 2))).logits.numpy()
    state = {key: tensor.numpy() for key, tensor in theirs.state_dict().items()}
    for source in (state, tmp_path / "model.safetensors"):
        ours = tfvt.create_model("swin_tiny", num_classes=11, input_shape=(*size, 3), pixel_mean=None)
        report = tfvt.load_checkpoint(ours, source, source="huggingface")
        assert (report.fresh, report.unused) == ((), ())
        np.testing.assert_allclose(contracts.arrays(ours(pixels))[0], expected, atol=1e-4)


def test_swin_small_equals_transformers():
    import torch

    theirs = random_swin((2, 2, 18, 2))
    pixels = np.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype("float32")
    with torch.no_grad():
        expected = theirs(torch.tensor(pixels.transpose(0, 3, 1, 2))).logits.numpy()
    state = {key: tensor.numpy() for key, tensor in theirs.state_dict().items()}
    ours = tfvt.create_model("swin_small", num_classes=11, pixel_mean=None, weights=state)
    np.testing.assert_allclose(contracts.arrays(ours(pixels))[0], expected, atol=1e-4)
