"""UPerNet over Swin beside transformers' UperNetForSemanticSegmentation, run live with random weights."""

import re

import numpy as np
import pytest

import tests.contracts as contracts
import tfvt

pytestmark = pytest.mark.parity
CLASSES = 11


def random_upernet():
    import torch
    from transformers import SwinConfig, UperNetConfig, UperNetForSemanticSegmentation

    torch.manual_seed(0)
    backbone = SwinConfig(depths=[2, 2, 6, 2], out_features=["stage1", "stage2", "stage3", "stage4"])
    model = UperNetForSemanticSegmentation(UperNetConfig(backbone_config=backbone, num_labels=CLASSES)).eval()
    with torch.no_grad():  # scales, offsets, statistics and tables that a wrong name would show
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.add_(0.5 * torch.rand_like(tensor))
            elif tensor.is_floating_point() and ("norm" in name or name.endswith(("bias", "table"))):
                tensor.add_(0.3 * torch.randn_like(tensor))
    return model


@pytest.fixture(scope="module")
def theirs():
    return random_upernet()


def mmsegmentation_state(model):
    """The same weights under the names of mmsegmentation 0.x with the authors' Swin, written out here."""
    state, out = {key: tensor.numpy() for key, tensor in model.state_dict().items()}, {}
    names = [
        (r"backbone\.swin\.embeddings\.patch_embeddings\.projection", "backbone.patch_embed.proj"),
        (r"backbone\.swin\.embeddings\.norm", "backbone.patch_embed.norm"),
        (r"backbone\.swin\.encoder\.", "backbone."),
        (r"attention\.relative_position_bias\.relative", "attn.relative"),
        (r"attention\.o_proj", "attn.proj"),
        (r"layernorm_before", "norm1"),
        (r"layernorm_after", "norm2"),
        (r"batch_norm", "bn"),
        (r"_head\.classifier", "_head.conv_seg"),
    ]
    for key, array in state.items():
        if key.startswith("backbone.swin.layernorm") or ".k_proj." in key or ".v_proj." in key:
            continue
        if ".q_proj." in key:
            parts = [state[key.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            key, array = key.replace("attention.q_proj", "attn.qkv"), np.concatenate(parts)
        if match := re.fullmatch(r"backbone\.hidden_states_norms\.stage(\d)\.(\w+)", key):
            key = f"backbone.norm{int(match[1]) - 1}.{match[2]}"
        for theirs, ours in names:
            key = re.sub(theirs, ours, key)
        out[key] = array
    return out


# On a last map of at most 7 pixels a side, transformers has smaller windows, or none shifted.
@pytest.mark.parametrize("size", [(256, 288), (235, 259)])
def test_both_heads_equal_transformers(theirs, size, tmp_path):
    import torch

    theirs.save_pretrained(tmp_path)
    pixels = np.random.default_rng(0).normal(size=(2, *size, 3)).astype("float32")
    with torch.no_grad():
        tensor = torch.tensor(pixels.transpose(0, 3, 1, 2))
        features = theirs.backbone.forward_with_filtered_kwargs(tensor).feature_maps
        auxiliary = torch.nn.functional.interpolate(
            theirs.auxiliary_head(features), size=size, mode="bilinear", align_corners=False
        )
        expected = {"logits": theirs(tensor).logits, "auxiliary": auxiliary}
    state = {key: tensor.numpy() for key, tensor in theirs.state_dict().items()}
    ours = tfvt.create_model(
        "upernet_swin_tiny", num_classes=CLASSES, input_shape=(*size, 3), pixel_mean=None, auxiliary=True
    )
    for source in (state, tmp_path / "model.safetensors", mmsegmentation_state(theirs)):
        for weight in ours.weights:
            weight.assign(np.ones(weight.shape))
        report = tfvt.load_checkpoint(ours, source)
        assert report.fresh == ()
        assert {name.rpartition(".")[0] for name in report.unused} <= {"backbone.swin.layernorm"}
        actual = ours(pixels)
        for kind, tensor in expected.items():
            ours_here = contracts.arrays(actual[kind])[0]
            np.testing.assert_allclose(ours_here, tensor.numpy().transpose(0, 2, 3, 1), atol=1e-3)
            assert np.ptp(ours_here) > 0.1


def test_parameters_are_those_of_transformers(theirs):
    ours = tfvt.create_model("upernet_swin_tiny", num_classes=CLASSES, input_shape=(64, 64, 3), auxiliary=True)
    last_norm = 2 * 768  # which no map of theirs reads
    assert tfvt.profile(ours).params + last_norm == sum(p.numel() for p in theirs.parameters())
