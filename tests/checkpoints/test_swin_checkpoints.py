"""Swin and ACmix-Swin under the authors' names, whole. One block with their numbers: tests/layers/test_swin.py."""

import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

import tests.contracts as contracts
import tfvt

TINY = {"depths": (2, 1), "width": 16, "head_dim": 8, "input_shape": (64, 64, 3), "num_classes": 5}


def authors_state(acmix):
    """A tiny Swin's state dict by the authors' naming, all values drawn."""
    rng, state = np.random.default_rng(0), {}

    def put(name, *shape):
        state[name] = rng.normal(0, 0.2, shape).astype("float32")

    def module(name, *shape, bias=True):
        put(f"{name}.weight", *shape)
        if bias:
            put(f"{name}.bias", shape[0])

    module("patch_embed.proj", 16, 3, 4, 4)
    module("patch_embed.norm", 16)
    for stage, depth in enumerate((2, 1)):
        channels = 16 * 2**stage
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}"
            module(f"{name}.norm1", channels)
            put(f"{name}.attn.relative_position_bias_table", 169, channels // 8)
            state[f"{name}.attn.relative_position_index"] = np.zeros((49, 49), "int64")
            module(f"{name}.attn.qkv", 3 * channels, channels)
            module(f"{name}.attn.proj", channels, channels)
            if acmix:
                put(f"{name}.attn.rate1", 1)
                put(f"{name}.attn.rate2", 1)
                module(f"{name}.attn.fc", 9, 3 * channels // 8, 1, 1)
                put(f"{name}.attn.dep_conv.weight", channels, 9, 3, 3)
            module(f"{name}.norm2", channels)
            module(f"{name}.mlp.fc1", 4 * channels, channels)
            module(f"{name}.mlp.fc2", channels, 4 * channels)
    state["layers.0.blocks.1.attn_mask"] = np.zeros((9, 49, 49), "float32")
    module("layers.0.downsample.norm", 64)
    module("layers.0.downsample.reduction", 32, 64, bias=False)
    module("norm", 32)
    module("head", 5, 32)
    return state


@pytest.mark.parametrize("name", ["swin_tiny", "acmix_swin_tiny"])
def test_the_authors_names_load(name, tmp_path):
    state = authors_state(acmix=name.startswith("acmix"))
    save_file(state, tmp_path / "swin.safetensors")
    for source in (state, tmp_path / "swin.safetensors"):
        model = tfvt.create_model(name, **TINY)
        report = tfvt.load_checkpoint(model, source, source="swin")
        assert (report.fresh, report.unused, report.resampled) == ((), (), ())
    block = model.get_layer("stage1_block2")
    attention = block.mix.attention_path if name.startswith("acmix") else block.mix
    pairs = {
        "layers.0.blocks.1.attn.qkv.weight": contracts.arrays(attention.qkv.kernel)[0].T,
        "layers.0.blocks.1.attn.relative_position_bias_table": contracts.arrays(attention.bias_table)[0],
        "layers.0.downsample.reduction.weight": contracts.arrays(model.get_layer("stage2_merging").reduction.kernel)[
            0
        ].T,
        "norm.bias": contracts.arrays(model.get_layer("norm").beta)[0],
        "head.weight": contracts.arrays(model.get_layer("head").kernel)[0].T,
    }
    for source_name, ours in pairs.items():
        np.testing.assert_array_equal(ours, state[source_name])


def test_safetensors_needs_no_torch(tmp_path):
    save_file(authors_state(acmix=True), tmp_path / "swin.safetensors")
    script = f"""
import sys, tfvt
model = tfvt.create_model("acmix_swin_tiny", **{TINY})
report = tfvt.load_checkpoint(model, {str(tmp_path / "swin.safetensors")!r})
print(len(report.loaded), len(report.fresh), "torch" in sys.modules)
"""
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    loaded, fresh, imported = result.stdout.split()
    assert int(loaded) > 50
    assert (fresh, imported) == ("0", "False")


def test_acmix_weights_do_not_go_into_a_plain_swin():
    model = tfvt.create_model("swin_tiny", **TINY)
    with pytest.raises(ValueError, match=r"no tensor for .* of swin_tiny: .*qkv"):
        tfvt.load_checkpoint(model, authors_state(acmix=True))
