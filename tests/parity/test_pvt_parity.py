"""PVT beside transformers' PvtForImageClassification, run live with random weights."""

import numpy as np
import pytest

import tests.contracts as contracts
import tfvt
from tfvt.registry import get_variant

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("name", ["pvt_tiny", "pvt_small"])
def test_logits_equal_transformers(name, tmp_path):
    import torch
    from transformers import PvtConfig, PvtForImageClassification

    torch.manual_seed(0)
    config = PvtConfig(image_size=224, depths=list(get_variant(name).row["depths"]), num_labels=11)
    theirs = PvtForImageClassification(config).eval()
    with torch.no_grad():  # scales, offsets and tables that a wrong name would show
        for key, tensor in theirs.state_dict().items():
            if "norm" in key or key.endswith(("bias", "token", "embeddings")):
                tensor.add_(0.3 * torch.randn_like(tensor))
    theirs.save_pretrained(tmp_path)
    pixels = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype("float32")
    with torch.no_grad():
        expected = theirs(torch.tensor(pixels.transpose(0, 3, 1, 2))).logits.numpy()
    state = {key: tensor.numpy() for key, tensor in theirs.state_dict().items()}
    for source in (state, tmp_path / "model.safetensors"):
        ours = tfvt.create_model(name, num_classes=11, pixel_mean=None)
        report = tfvt.load_checkpoint(ours, source, source="huggingface")
        assert (report.fresh, report.unused, report.resampled) == ((), (), ())
        np.testing.assert_allclose(contracts.arrays(ours(pixels))[0], expected, atol=1e-4)
