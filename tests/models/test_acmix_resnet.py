"""What only ACmix-ResNet has: its options, sizes and the authors' names."""

import numpy as np
import pytest

import tests.contracts as contracts
import tfvt

TINY = {"width": 8, "depths": (1, 2), "num_heads": 2}


@pytest.mark.parametrize(
    "options", [{"shift": "tensor"}, {"combine": "complement", "attention_kernel_size": 3}], ids=str
)
def test_options(options):
    contracts.check_model("acmix_resnet26", **TINY | options)
    model = tfvt.create_model("acmix_resnet26", input_shape=(64, 64, 3), **TINY | options)
    layers = [layer for layer in model.layers if type(layer).__name__ == "ACmix"]
    assert len(layers) == 3
    assert all(getattr(layer, key) == value for layer in layers for key, value in options.items())


def test_acmix_takes_the_place_of_every_3x3_with_its_stride():
    model = tfvt.create_model("acmix_resnet38", input_shape=(128, 128, 3))
    strides = {layer.name: layer.strides for layer in model.layers if type(layer).__name__ == "ACmix"}
    first = {f"stage{stage}_block1_2_acmix" for stage in (2, 3, 4)}
    assert len(strides) == 12
    assert {name for name, stride in strides.items() if stride == 2} == first
    kernels = {layer.kernel_size for layer in model.layers if type(layer).__name__ == "Conv2D"}
    assert kernels == {(1, 1), (7, 7)}


def test_any_size():
    contracts.check_sizes("acmix_resnet26", [(64, 64), (49, 127), (97, 100)], **TINY)


def test_pyramid():
    contracts.check_features("acmix_resnet26", {"P2": 4, "P3": 8}, size=(49, 97), **TINY)


@pytest.mark.parametrize(("name", "least"), [("acmix_resnet26", 49), ("acmix_resnet50", 97)])
def test_the_least_size_is_named_and_works(name, least):
    with pytest.raises(ValueError, match=rf"height {least - 1} is below {least}"):
        tfvt.create_model(name, input_shape=(least - 1, 224, 3))
    assert tfvt.create_model(name, input_shape=(least, least, 3), num_classes=3).output_shape == (None, 3)


def test_a_model_for_any_size_names_the_least_map():
    model = tfvt.create_model("acmix_resnet26", input_shape=(None, None, 3), **TINY)
    with pytest.raises(ValueError, match="map of 3x16 cannot be reflected for windows of 7x7: expected at least 4x4"):
        model(contracts.random_images((1, 24, 128, 3)))


def authors_state(model):
    """A tiny ACmix-ResNet's state dict by the authors' naming, all values drawn."""
    rng, state = np.random.default_rng(0), {}

    def put(name, *shape):
        state[name] = rng.uniform(0.1, 0.6, shape).astype("float32")

    def norm(name, channels):
        for kind in ("weight", "bias", "running_mean", "running_var"):
            put(f"{name}.{kind}", channels)

    put("conv1.weight", 8, 3, 7, 7)
    norm("bn1", 8)
    channels = 8
    for stage, depth in ((1, 1), (2, 2)):
        width = 8 * stage
        for block in range(depth):
            name = f"layer{stage}.{block}"
            put(f"{name}.conv1.weight", width, channels, 1, 1)
            for i in (1, 2, 3):
                put(f"{name}.conv2.conv{i}.weight", width, width, 1, 1)
                put(f"{name}.conv2.conv{i}.bias", width)
                norm(f"{name}.bn{i}", width if i < 3 else 4 * width)
            put(f"{name}.conv2.conv_p.weight", width // 2, 2, 1, 1)
            put(f"{name}.conv2.conv_p.bias", width // 2)
            put(f"{name}.conv2.fc.weight", 9, 6, 1, 1)
            put(f"{name}.conv2.dep_conv.weight", width, 9, 3, 3)
            put(f"{name}.conv2.rate1", 1)
            put(f"{name}.conv2.rate2", 1)
            put(f"{name}.conv3.weight", 4 * width, width, 1, 1)
            if block == 0:
                put(f"{name}.downsample.0.weight", 4 * width, channels, 1, 1)
                norm(f"{name}.downsample.1", 4 * width)
            channels = 4 * width
    put("fc.weight", 5, channels)
    put("fc.bias", 5)
    return state


@pytest.mark.parametrize("source", ["acmix", "auto"])
def test_the_authors_names_load(source):
    model = tfvt.create_model("acmix_resnet26", input_shape=(64, 64, 3), num_classes=5, **TINY)
    state = authors_state(model)
    report = tfvt.load_checkpoint(model, state, source=source)
    assert (report.fresh, report.unused) == ((), ())
    layer = model.get_layer("stage2_block2_2_acmix")
    (query,) = contracts.arrays(layer.attention_path.query.kernel)
    np.testing.assert_array_equal(query, state["layer2.1.conv2.conv1.weight"][:, :, 0, 0].T)
    (kernel,) = contracts.arrays(layer.convolution_path.kernel)
    np.testing.assert_array_equal(kernel, state["layer2.1.conv2.dep_conv.weight"].transpose(2, 3, 1, 0))
    assert contracts.arrays(layer.alpha)[0] == state["layer2.1.conv2.rate1"][0]


def test_a_plain_resnet_is_refused():
    model = tfvt.create_model("resnet26", input_shape=(64, 64, 3), width=8, depths=(1, 2), num_classes=5)
    with pytest.raises(ValueError, match=r"the checkpoint is of the family ACmix-ResNet \(acmix\), resnet26 is not"):
        tfvt.load_checkpoint(model, authors_state(model), source="acmix")
