"""What only SAN and PVT have: their options, pyramids and sizes."""

import numpy as np
import pytest

import tests.contracts as contracts
import tfvt

TINY_SAN = {"depths": (1, 1), "width": 32, "first_kernel_size": 3, "kernel_size": 5}
TINY_PVT = {"depths": (1, 1, 1, 2), "head_dim": 8}


@pytest.mark.parametrize(("name", "tiny"), [("acmix_san10", TINY_SAN), ("acmix_pvt_tiny", TINY_PVT)])
def test_acmix(name, tiny):
    contracts.check_model(name, **tiny)


def test_pyramids():
    contracts.check_features("san10", {"P1": 2, "P2": 4}, **TINY_SAN)
    contracts.check_features("pvt_tiny", {"P2": 4, "P3": 8, "P4": 16, "P5": 32}, size=(97, 70), **TINY_PVT)


def test_san_takes_any_size():
    contracts.check_sizes("san10", [(64, 64), (33, 50)], **TINY_SAN)


@pytest.mark.parametrize("name", ["pvt_tiny", "acmix_pvt_tiny"])
def test_pvt_takes_weights_of_another_size(name):
    """At any size; the positions are resampled, the class token's is not."""
    small = tfvt.create_model(name, input_shape=(64, 64, 3), num_classes=5, **TINY_PVT)
    weights = {w.path: contracts.arrays(w)[0] for w in small.weights}
    large = tfvt.create_model(name, input_shape=(97, 70, 3), num_classes=5, **TINY_PVT)
    report = tfvt.load_checkpoint(large, weights, source="tfvt")
    assert report.fresh == report.unused == ()
    assert set(report.resampled) == {f"stage{s}_positions/patch_positions" for s in (1, 2, 3, 4)}
    (logits,) = contracts.arrays(large(contracts.random_images((2, 97, 70, 3))))
    assert np.isfinite(logits).all()
    np.testing.assert_array_equal(
        *(contracts.arrays(m.get_layer("stage4_positions").token_position)[0] for m in (small, large))
    )


@pytest.mark.parametrize("name", ["pvt_tiny", "acmix_pvt_tiny"])
@pytest.mark.parametrize("size", [(16, 16), (24, 24), (28, 64), (4, 5)])
def test_pvt_takes_images_smaller_than_its_reductions(name, size):
    """Maps below the reduction are padded to it; the pyramid has its sizes."""
    if size == (28, 64):
        contracts.check_features(name, {"P2": 4, "P3": 8, "P4": 16, "P5": 32}, size=size, **TINY_PVT)
    model = tfvt.create_model(name, input_shape=(*size, 3), num_classes=5, **TINY_PVT)
    logits = contracts.arrays(model(contracts.random_images((2, *size, 3))))[0]
    assert np.isfinite(logits).all()
    assert np.ptp(logits, axis=0).max() > 0


@pytest.mark.parametrize("name", ["pvt_tiny", "acmix_pvt_tiny"])
def test_the_epsilon_reaches_every_layer_norm(name):
    model = tfvt.create_model(name, input_shape=(64, 64, 3), layer_norm_epsilon=1e-3, **TINY_PVT)
    norms = [layer for layer in model._flatten_layers() if type(layer).__name__ == "LayerNormalization"]
    assert len(norms) == 4 + 2 * 5 + 3 + 1  # embeddings, blocks, reduced maps of three stages, the last
    assert {norm.epsilon for norm in norms} == {1e-3}


@pytest.mark.parametrize(("name", "options", "message"), [
    ("san10", {"input_shape": (127, 224, 3)}, "height 127 is below 128"),
    ("san10", {"width": 48}, "width=48: expected a multiple of 32"),
    ("san10", {"mixer": "convolution"}, "mixer='convolution': expected one of 'attention', 'acmix'"),
    ("san10", {"shift": "fixed"}, "shift='fixed' is for mixer='acmix', not 'attention'"),
    ("pvt_tiny", {"combine": "sum"}, "combine='sum' is for mixer='acmix', not 'attention'"),
    ("pvt_tiny", {"input_shape": (None, 224, 3)}, "position embeddings for one height and width"),
    ("pvt_tiny", {"depths": (2, 2, 2)}, "expected 4 stages"),
    ("pvt_tiny", {"positions_shape": (48,)}, r"positions_shape=\(48,\): expected a height and a width"),
    ("pvt_tiny", {"positions_shape": (-1, 48)}, r"positions_shape=\(-1, 48\): expected every value to be an integer"),
    ("acmix_pvt_tiny", {"combine": "convolution"}, "combine='convolution': expected one of"),
])  # fmt: skip
def test_bad_arguments_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        tfvt.create_model(name, **options)


@pytest.mark.parametrize("size", [(64, 96), (97, 70)])
def test_a_pvt_for_any_size_resamples_its_positions(size):
    """As a model of that size does, whose checkpoint is loaded: NumPy resamples the tables then."""
    options = TINY_PVT | {"features": ("P2", "P5")}
    open_model = tfvt.create_model("pvt_tiny", input_shape=(None, None, 3), positions_shape=(64, 96), **options)
    weights = {w.path: contracts.arrays(w)[0] for w in open_model.weights}
    model = tfvt.create_model("pvt_tiny", input_shape=(*size, 3), **options)
    report = tfvt.load_checkpoint(model, weights, source="tfvt", resample="bilinear")
    assert len(report.resampled) == (0 if size == (64, 96) else 4)
    images = contracts.random_images((2, *size, 3))
    for level in options["features"]:
        ours, theirs = (contracts.arrays(network(images)[level])[0] for network in (open_model, model))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
