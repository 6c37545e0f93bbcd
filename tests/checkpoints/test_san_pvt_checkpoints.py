"""SAN and PVT under their authors' names, whole. Numbers: tests/layers/test_san_pvt.py and tests/parity."""

import numpy as np
import pytest
from keras import ops

import tfvt

SAN = {"depths": (1, 2), "width": 32, "kernel_size": 5, "input_shape": (32, 32, 3), "num_classes": 5}
PVT = {"depths": (1, 1, 1, 2), "head_dim": 8, "input_shape": (64, 64, 3), "num_classes": 5}


class State(dict):
    """A state dict of drawn values, filled module by module."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def put(self, name, *shape):
        self[name] = (self.rng.uniform(0.1, 0.4, shape) * self.rng.choice([-1, 1], shape)).astype("float32")

    def dense(self, name, *shape, bias=True):
        self.put(f"{name}.weight", *shape)
        if bias:
            self.put(f"{name}.bias", shape[0])

    def layer_norm(self, name, channels):
        self.dense(name, channels)

    def batch_norm(self, name, channels):
        self.layer_norm(name, channels)
        self.put(f"{name}.running_mean", channels)
        self[f"{name}.running_var"] = self.rng.uniform(0.5, 1.5, channels).astype("float32")
        self[f"{name}.num_batches_tracked"] = np.array(7)


def authors_san():
    """State of the SAN that the options above describe."""
    state, before = State(), 32
    state.dense("conv_in", 32, 3, 1, 1, bias=False)
    state.batch_norm("bn_in", 32)
    for stage, (depth, channels, size) in enumerate(((1, 32, 3), (2, 128, 5))):
        state.dense(f"conv{stage}", channels, before, 1, 1, bias=False)
        state.batch_norm(f"bn{stage}", channels)
        for block in range(depth):
            name, keys, values = f"layer{stage}.{block}", channels // 16, channels // 4
            state.batch_norm(f"{name}.bn1", channels)
            state.dense(f"{name}.sam.conv1", keys, channels, 1, 1)
            state.dense(f"{name}.sam.conv2", keys, channels, 1, 1)
            state.dense(f"{name}.sam.conv3", values, channels, 1, 1)
            state.batch_norm(f"{name}.sam.conv_w.0", keys * (size**2 + 1))
            state.dense(f"{name}.sam.conv_w.2", values // 8, keys * (size**2 + 1), 1, 1, bias=False)
            state.batch_norm(f"{name}.sam.conv_w.3", values // 8)
            state.dense(f"{name}.sam.conv_w.5", size**2 * values // 8, values // 8, 1, 1)
            state.batch_norm(f"{name}.bn2", values)
            state.dense(f"{name}.conv", channels, values, 1, 1)
        before = channels
    state.dense("fc", 5, before)
    return dict(state)


def authors_pvt():
    """State of the PVT that the options above describe."""
    state, before = State(), 3
    rows = zip((1, 1, 1, 2), (8, 16, 40, 64), (8, 8, 4, 4), (8, 4, 2, 1), (4, 2, 2, 2), (256, 64, 16, 5), strict=True)
    for stage, (depth, channels, mlp_ratio, reduction, patch, positions) in enumerate(rows, start=1):
        state.dense(f"patch_embed{stage}.proj", channels, before, patch, patch)
        state.layer_norm(f"patch_embed{stage}.norm", channels)
        state.put(f"pos_embed{stage}", 1, positions, channels)
        for block in range(depth):
            name = f"block{stage}.{block}"
            state.layer_norm(f"{name}.norm1", channels)
            state.dense(f"{name}.attn.q", channels, channels)
            state.dense(f"{name}.attn.kv", 2 * channels, channels)
            state.dense(f"{name}.attn.proj", channels, channels)
            if reduction > 1:
                state.dense(f"{name}.attn.sr", channels, channels, reduction, reduction)
                state.layer_norm(f"{name}.attn.norm", channels)
            state.layer_norm(f"{name}.norm2", channels)
            state.dense(f"{name}.mlp.fc1", mlp_ratio * channels, channels)
            state.dense(f"{name}.mlp.fc2", channels, mlp_ratio * channels)
        before = channels
    state.put("cls_token", 1, 1, 64)
    state.layer_norm("norm", 64)
    state.dense("head", 5, 64)
    return dict(state)


def weights(model):
    return {weight.path: ops.convert_to_numpy(weight) for weight in model.weights}


@pytest.mark.parametrize("source", ["san", "auto"])
def test_a_whole_san_loads(source):
    state, model = authors_san(), tfvt.create_model("san10", **SAN)
    report = tfvt.load_checkpoint(model, state, source=source)
    assert (report.fresh, report.unused, report.resampled) == ((), (), ())
    ours = weights(model)
    for path, name in {
        "stem_norm/gamma": "bn_in.weight",
        "stage2_norm/moving_mean": "bn1.running_mean",
        "stage2_block2_1_norm/beta": "layer1.1.bn1.bias",
        "stage2_block2_2_norm/moving_variance": "layer1.1.bn2.running_var",
        "stage2_block1_mixer/hidden_norm/gamma": "layer1.0.sam.conv_w.3.weight",
    }.items():
        np.testing.assert_array_equal(ours[path], state[name])
    for path, name in {
        "stage1_transition/kernel": "conv0.weight",
        "stage2_block2_conv/kernel": "layer1.1.conv.weight",
        "stage2_block1_mixer/value/kernel": "layer1.0.sam.conv3.weight",
        "stage2_block1_mixer/weights/kernel": "layer1.0.sam.conv_w.5.weight",
        "head/kernel": "fc.weight",
    }.items():
        theirs = state[name].reshape(state[name].shape[:2])  # (C_out, C_in): every convolution of a SAN is 1x1
        np.testing.assert_array_equal(ours[path].reshape(theirs.shape[::-1]), theirs.T)


def test_a_san_does_not_go_into_an_acmix_san():
    with pytest.raises(ValueError, match=r"the checkpoint is of the family SAN \(san\), acmix_san10 is not"):
        tfvt.load_checkpoint(tfvt.create_model("acmix_san10", **SAN), authors_san())


@pytest.mark.parametrize("source", ["pvt", "auto"])
def test_a_whole_pvt_loads(source):
    state, model = authors_pvt(), tfvt.create_model("pvt_tiny", **PVT)
    report = tfvt.load_checkpoint(model, state, source=source)
    assert (report.fresh, report.unused, report.resampled) == ((), (), ())
    ours = weights(model)
    for path, theirs in {
        "stage4_positions/token": state["cls_token"],
        "stage4_positions/token_position": state["pos_embed4"][:, :1],
        "stage4_positions/patch_positions": state["pos_embed4"][0, 1:].reshape(2, 2, 64),
        "stage1_positions/patch_positions": state["pos_embed1"].reshape(16, 16, 8),
        "stage2_embedding/projection/kernel": state["patch_embed2.proj.weight"].transpose(2, 3, 1, 0),
        "stage4_block2/mixer/key_value/kernel": state["block4.1.attn.kv.weight"].T,
        "stage3_block1/mixer/reduce/kernel": state["block3.0.attn.sr.weight"].transpose(2, 3, 1, 0),
        "stage3_block1/mixer/reduce_norm/beta": state["block3.0.attn.norm.bias"],
        "stage3_block1/mlp_in/kernel": state["block3.0.mlp.fc1.weight"].T,
        "head/bias": state["head.bias"],
    }.items():
        np.testing.assert_array_equal(ours[path], theirs)


def test_pvt_positions_of_another_size_are_resampled():
    model = tfvt.create_model("pvt_tiny", **PVT | {"input_shape": (96, 64, 3)})
    report = tfvt.load_checkpoint(model, authors_pvt())
    assert report.resampled == tuple(f"stage{stage}_positions/patch_positions" for stage in (1, 2, 3, 4))
