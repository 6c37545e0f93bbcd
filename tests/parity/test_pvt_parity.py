"""PVT beside transformers' PvtForImageClassification, run live with random weights."""

import numpy as np
import pytest

import tests.contracts as contracts
import tfvt
from tfvt.registry import get_variant

pytestmark = pytest.mark.parity


def authors_names(state):
    """The state dict of transformers as the authors of PVT name theirs."""
    renamed = {}
    for name, array in state.items():
        _, *parts = name.removeprefix("pvt.").split(".")
        if parts[0] == "patch_embeddings":
            tensor = ".".join(parts[2:])
            stage = int(parts[1]) + 1
            known = {"cls_token": "cls_token", "position_embeddings": f"pos_embed{stage}"}
            module = {"layer_norm": "norm", "projection": "proj"}.get(parts[2])
            renamed[known.get(tensor) or f"patch_embed{stage}.{module}.{parts[-1]}"] = array
        elif parts[0] == "block":
            module = {
                "layer_norm_1": "norm1",
                "layer_norm_2": "norm2",
                "attention.self.query": "attn.q",
                "attention.self.key": "attn.kv",
                "attention.self.sequence_reduction": "attn.sr",
                "attention.self.layer_norm": "attn.norm",
                "attention.output.dense": "attn.proj",
                "mlp.dense1": "mlp.fc1",
                "mlp.dense2": "mlp.fc2",
            }.get(".".join(parts[3:-1]))
            if module == "attn.kv":
                array = np.concatenate([array, state[name.replace(".key.", ".value.")]])
            if module:
                renamed[f"block{int(parts[1]) + 1}.{parts[2]}.{module}.{parts[-1]}"] = array
        else:
            renamed[f"{'head' if name.startswith('classifier') else 'norm'}.{parts[-1]}"] = array
    return renamed


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
    for source in (state, tmp_path / "model.safetensors", authors_names(state)):
        ours = tfvt.create_model(name, num_classes=11, pixel_mean=None)
        report = tfvt.load_checkpoint(ours, source)
        assert (report.fresh, report.unused, report.resampled) == ((), (), ())
        np.testing.assert_allclose(contracts.arrays(ours(pixels))[0], expected, atol=1e-4)
