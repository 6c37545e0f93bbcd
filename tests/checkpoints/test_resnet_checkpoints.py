"""ResNet weights under foreign names: what is loaded, left, refused. Logits against transformers: tests/parity."""

import os

import keras
import numpy as np
import pytest
from safetensors.numpy import save_file

import tests.contracts as contracts
import tfvt

DEPTHS, WIDTH = (2, 1, 1, 1), 8
TINY = {"block": "basic", "depths": DEPTHS, "width": WIDTH, "input_shape": (64, 64, 3)}
NORM = ("weight", "bias", "running_mean", "running_var")


def torchvision_state(num_classes=5, seed=0):
    """A small basic-block ResNet's state dict, written out by torchvision's naming rules."""
    rng = np.random.default_rng(seed)
    state = {}

    def conv(name, c_out, c_in, k):
        state[f"{name}.weight"] = rng.normal(0, 0.1, (c_out, c_in, k, k)).astype("float32")

    def norm(name, channels):
        for kind in NORM:
            state[f"{name}.{kind}"] = rng.uniform(0.5, 1.5, channels).astype("float32")
        state[f"{name}.num_batches_tracked"] = np.array(7)

    conv("conv1", WIDTH, 3, 7)
    norm("bn1", WIDTH)
    c_in = WIDTH
    for stage, depth in enumerate(DEPTHS):
        c_out = WIDTH * 2**stage
        for block in range(depth):
            name = f"layer{stage + 1}.{block}"
            for i, channels in ((1, c_in), (2, c_out)):
                conv(f"{name}.conv{i}", c_out, channels, 3)
                norm(f"{name}.bn{i}", c_out)
            if c_in != c_out:
                conv(f"{name}.downsample.0", c_out, c_in, 1)
                norm(f"{name}.downsample.1", c_out)
            c_in = c_out
    state["fc.weight"] = rng.normal(0, 0.1, (num_classes, c_in)).astype("float32")
    state["fc.bias"] = rng.normal(0, 0.1, num_classes).astype("float32")
    return state


def huggingface_state(**kwargs):
    """The same weights under the names of transformers' ResNetForImageClassification."""
    renamed = {}
    for name, array in torchvision_state(**kwargs).items():
        name = name.replace("conv1.", "embedder.convolution.", 1) if name.startswith("conv1.") else name
        name = name.replace("bn1.", "embedder.normalization.", 1) if name.startswith("bn1.") else name
        parts = name.split(".")
        if parts[0] == "embedder":
            name = "resnet.embedder." + name
        elif parts[0].startswith("layer"):
            stage, block, part = int(parts[0][5:]) - 1, parts[1], parts[2]
            if part == "downsample":
                inner = "shortcut." + ("convolution", "normalization")[int(parts[3])]
            else:
                kind = "convolution" if part.startswith("conv") else "normalization"
                inner = f"layer.{int(part[-1]) - 1}.{kind}"
            name = f"resnet.encoder.stages.{stage}.layers.{block}.{inner}.{parts[-1]}"
        else:
            name = name.replace("fc.", "classifier.1.")
        renamed[name] = array
    return renamed


def weights(model):
    return {w.path: keras.ops.convert_to_numpy(w) for w in model.weights}


@pytest.mark.parametrize("state", [torchvision_state, huggingface_state])
def test_every_tensor_of_a_resnet_is_loaded(state):
    model = tfvt.create_model("resnet18", num_classes=5, **TINY)
    report = tfvt.load_checkpoint(model, state())
    assert (set(report.loaded), report.fresh, report.unused) == (set(weights(model)), (), ())
    loaded, source = weights(model), torchvision_state()
    np.testing.assert_array_equal(loaded["stem_conv/kernel"], source["conv1.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(
        loaded["stage1_block2_2_conv/kernel"], source["layer1.1.conv2.weight"].transpose(2, 3, 1, 0)
    )
    np.testing.assert_array_equal(
        loaded["stage3_block1_shortcut_norm/moving_variance"], source["layer3.0.downsample.1.running_var"]
    )
    np.testing.assert_array_equal(loaded["stage4_block1_1_norm/beta"], source["layer4.0.bn1.bias"])
    np.testing.assert_array_equal(loaded["head/kernel"], source["fc.weight"].T)


def test_files_and_dicts_load_alike(tmp_path):
    save_file(torchvision_state(), tmp_path / "resnet.safetensors")
    from_file = tfvt.create_model("resnet18", num_classes=5, weights=tmp_path / "resnet.safetensors", **TINY)
    from_dict = tfvt.create_model("resnet18", num_classes=5, weights=torchvision_state(), **TINY)
    saved = tmp_path / "model.keras"
    from_file.save(saved)
    from_keras = tfvt.create_model("resnet18", num_classes=5, weights=saved, **TINY)
    for other in (from_dict, from_keras):
        for path, value in weights(from_file).items():
            np.testing.assert_array_equal(weights(other)[path], value)


def test_another_number_of_classes_leaves_the_head_fresh_and_says_so(caplog):
    model = tfvt.create_model("resnet18", num_classes=9, **TINY)
    before = weights(model)["head/kernel"]
    with caplog.at_level("WARNING", logger="tfvt"):
        report = tfvt.load_checkpoint(model, torchvision_state())
    assert report.fresh == ("head/kernel", "head/bias")
    assert report.unused == ("fc.weight", "fc.bias")
    np.testing.assert_array_equal(weights(model)["head/kernel"], before)
    assert "the head is left fresh" in caplog.text


def test_a_vt_resnet_takes_the_trunk():
    options = {"output_channels": 64, "token_dim": 64, "num_tokens": 4, "depths": DEPTHS[:3], "width": WIDTH}
    model = tfvt.create_model("vt_resnet18", num_classes=5, input_shape=(64, 64, 3), **options)
    before = weights(model)
    report = tfvt.load_checkpoint(model, torchvision_state())
    state = torchvision_state()
    assert set(report.unused) == {
        name for name in state if name.startswith(("layer4.", "fc.")) and not name.endswith("num_batches_tracked")
    }
    assert {path.split("_")[0].split("/")[0] for path in report.fresh} == {"vt1", "vt2", "head"}
    after = weights(model)
    for path in report.fresh:
        np.testing.assert_array_equal(after[path], before[path])
    expected = state["layer3.0.conv2.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(after["stage3_block1_2_conv/kernel"], expected)


def test_the_head_of_a_resnet_without_a_fourth_stage_stays_out_of_a_vt_resnet():
    resnet = tfvt.create_model("resnet18", num_classes=5, **TINY | {"depths": DEPTHS[:3]})
    channels = resnet.get_layer("head").kernel.shape[0]
    options = {"output_channels": 64, "token_dim": channels, "num_tokens": 4, "depths": DEPTHS[:3], "width": WIDTH}
    model = tfvt.create_model("vt_resnet18", num_classes=5, input_shape=(64, 64, 3), **options)
    report = tfvt.load_checkpoint(model, weights(resnet))
    assert report.unused == ("head/kernel", "head/bias")


def test_a_vt_resnet_with_four_stages_takes_its_own_head():
    options = {"output_channels": 64, "token_dim": 64, "num_tokens": 4, "depths": DEPTHS, "width": WIDTH}
    model = tfvt.create_model("vt_resnet18", num_classes=5, input_shape=(64, 64, 3), **options)
    report = tfvt.load_checkpoint(model, weights(model))
    assert (report.fresh, report.unused) == ((), ())


def test_a_head_is_loaded_whole_or_not_at_all():
    model = tfvt.create_model("resnet18", num_classes=5, **TINY | {"depths": DEPTHS[:3]})
    report = tfvt.load_checkpoint(model, torchvision_state())  # its head reads the wider maps of a fourth stage
    assert report.fresh == ("head/kernel", "head/bias")


def test_a_pyramid_leaves_what_it_does_not_have():
    model = tfvt.create_model("resnet18", features=("P3",), **TINY)
    report = tfvt.load_checkpoint(model, torchvision_state())
    assert report.fresh == ()
    assert all(name.startswith(("layer3.", "layer4.", "fc.")) for name in report.unused)


def damage(**changes):
    state = torchvision_state()
    for name, value in changes.items():
        name = name.replace("__", ".")
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (damage(layer1__0__conv1__weight=None), r"no tensor for 1 weight.*stage1_block1_1_conv/kernel"),
        (damage(aux__weight=np.zeros(3)), r"1 tensor\(s\) that resnet18 has no weight for: aux.weight"),
        (
            damage(layer2__0__bn1__weight=np.zeros(3)),
            r"layer2.0.bn1.weight \(3,\) for stage2_block1_1_norm/gamma \(16,\)",
        ),
        ({"blocks.0.norm1.weight": np.zeros(3)}, r"cannot tell the source .* blocks.0.norm1.weight"),
        ({}, r"cannot tell the source .* \(none\)"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(state, message):
    model = tfvt.create_model("resnet18", num_classes=5, **TINY)
    before = weights(model)
    with pytest.raises(ValueError, match=message):
        tfvt.load_checkpoint(model, state)
    for path, value in weights(model).items():
        np.testing.assert_array_equal(value, before[path])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda array: array.astype("float64") * 1e300, "numbers beyond float32"),
        (lambda array: array * 1j, "the type complex64: expected real numbers"),
        (lambda array: array.astype("U"), "the type <U.*: expected real numbers"),
    ],
)
def test_numbers_that_float32_cannot_hold_are_refused(change, message):
    model = tfvt.create_model("resnet18", num_classes=5, **TINY)
    before, arrays = weights(model), torchvision_state()
    arrays["layer4.0.conv2.weight"] = change(arrays["layer4.0.conv2.weight"])
    with pytest.raises(ValueError, match=rf"^layer4.0.conv2.weight of the checkpoint .*{message}"):
        tfvt.load_checkpoint(model, arrays)
    assert all((array == before[path]).all() for path, array in weights(model).items())


def test_names_that_are_not_strings_are_refused():
    model = tfvt.create_model("resnet18", num_classes=5, **TINY)
    with pytest.raises(ValueError, match=r"names of a checkpoint's arrays are strings, not b'x'"):
        tfvt.load_checkpoint(model, torchvision_state() | {b"x": np.zeros(3)})


def test_weights_that_are_not_finite_are_refused():
    model = tfvt.create_model("resnet18", num_classes=5, **TINY)
    before, arrays = weights(model), torchvision_state()
    arrays["layer1.0.conv1.weight"] = arrays["layer1.0.conv1.weight"] * np.nan
    with pytest.raises(
        ValueError, match=r"^layer1.0.conv1.weight of the checkpoint .* holds NaN, infinity or numbers "
    ):
        tfvt.load_checkpoint(model, arrays)
    assert all((array == before[path]).all() for path, array in weights(model).items())


def test_strict_false_loads_what_fits():
    model = tfvt.create_model("resnet18", num_classes=5, **TINY)
    state = damage(layer1__0__conv1__weight=None, aux__weight=np.zeros(3))
    report = tfvt.load_checkpoint(model, state, strict=False)
    assert report.fresh == ("stage1_block1_1_conv/kernel",)
    assert report.unused == ("aux.weight",)
    assert str(report).startswith(f"{len(model.weights) - 1} loaded, 0 resampled; fresh: stage1_block1_1_conv/kernel")


def test_bad_sources_and_files(tmp_path):
    model = tfvt.create_model("resnet18", num_classes=5, **TINY)
    with pytest.raises(ValueError, match=r"source='keras': expected one of 'auto', .*'torchvision'"):
        tfvt.load_checkpoint(model, torchvision_state(), source="keras")
    with pytest.raises(
        ValueError, match=r"source='huggingface', but the checkpoint has no .*ResNet or ViT under that source"
    ):
        tfvt.load_checkpoint(model, torchvision_state(), source="huggingface")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint file .*missing.safetensors"):
        tfvt.load_checkpoint(model, tmp_path / "missing.safetensors")
    with pytest.raises(IsADirectoryError, match=r"^\. is a folder"):
        tfvt.load_checkpoint(model, ".")
    tfvt.create_model("resnet18", num_classes=5, **TINY).save(tmp_path / "cut.keras")
    os.truncate(tmp_path / "cut.keras", 1000)
    with pytest.raises(ValueError, match=r"cut.keras cannot be read as a .keras checkpoint: it is cut off"):
        tfvt.load_checkpoint(model, tmp_path / "cut.keras")
    with pytest.raises(IsADirectoryError, match=r"is a folder without model.safetensors or .*: pass the"):
        tfvt.load_checkpoint(model, tmp_path)
    (tmp_path / "weights.h5").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"weights.h5: expected a checkpoint that ends in .npz, .safetensors, .pth"):
        tfvt.load_checkpoint(model, tmp_path / "weights.h5")
    save_file(torchvision_state(), tmp_path / "cut.safetensors")
    whole = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut.safetensors cannot be read as a .safetensors checkpoint"):
        tfvt.load_checkpoint(model, tmp_path / "cut.safetensors")


def test_other_pixel_statistics_are_said(caplog):
    options = {"pixel_mean": (127.5,) * 3, "pixel_std": (127.5,) * 3}
    model = tfvt.create_model("resnet18", num_classes=5, **TINY, **options)
    with caplog.at_level("WARNING", logger="tfvt"):
        tfvt.load_checkpoint(model, torchvision_state())
    assert "normalises pixels by other statistics" in caplog.text
    assert "pixel_mean=(123.675, 116.28, 103.53)" in caplog.text
    caplog.clear()
    with caplog.at_level("WARNING", logger="tfvt"):
        tfvt.create_model("resnet18", num_classes=5, weights=torchvision_state(), **TINY)
    assert caplog.text == ""


def test_the_loaded_model_computes_with_the_weights():
    """Logits change with the checkpoint and are those of the same weights set by hand."""
    images = contracts.random_images((2, 64, 64, 3))
    model = tfvt.create_model("resnet18", num_classes=5, weights=torchvision_state(seed=1), **TINY)
    again = tfvt.create_model("resnet18", num_classes=5, **TINY)
    assert np.abs(contracts.arrays(again(images))[0] - contracts.arrays(model(images))[0]).max() > 1e-3
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(contracts.arrays(again(images))[0], contracts.arrays(model(images))[0])
