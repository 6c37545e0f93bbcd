"""Models as folders of config.json and model.safetensors, our own and timm's."""

import json
import os

import keras
import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

import tfvt
from tests.checkpoints import vit_states
from tests.checkpoints.test_resnet_checkpoints import DEPTHS, WIDTH, torchvision_state
from tfvt.errors import WriteError
from tfvt.models.vit import Block

RESNET = {"depths": DEPTHS, "width": WIDTH}
VIT = {"blocks": (Block(3, 16, 24),), "head_dim": 8}
TIMM_CFG = {"input_size": [3, 64, 64], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
TIMM = {"architecture": "vit_tiny_patch16_224", "num_classes": 5, "num_features": 16, "pretrained_cfg": TIMM_CFG}


def outputs(model):
    size = [side or 64 for side in model.input_shape[1:3]]
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3)).astype("float32")
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(images, training=False))


SAVED = {
    "vt": (
        "vt_resnet18",
        {"num_classes": 3, "input_shape": (64, 64, 3)},
        {"depths": (1,), "width": 8, "num_tokens": 4},
    ),
    "vit": (
        "vit_tiny16",
        {"num_classes": 5, "input_shape": (32, 64, 3)},
        VIT | {"gelu": "tanh", "pixel_mean": (1, 2, 3.5), "pixel_std": (9.0, 9.0, 100.123)},
    ),
    "embedding": ("resnet18", {"include_top": False, "input_shape": (None, None, 3)}, RESNET | {"pixel_mean": None}),
    "maps": ("resnet18", {"features": ("P2", "P3"), "input_shape": (64, 64, 3)}, RESNET),
}


@pytest.mark.parametrize("kind", SAVED)
def test_what_is_saved_is_read(tmp_path, kind):
    name, arguments, options = SAVED[kind]
    model = tfvt.create_model(name, **arguments, **options)
    folder = tmp_path / "new" / kind
    assert tfvt.save_pretrained(model, folder, model_args=options) == folder
    read = tfvt.create_model(f"local-dir:{folder}")
    keras.tree.map_structure(np.testing.assert_array_equal, outputs(read), outputs(model))
    assert read.name == name
    read.save(tmp_path / "model.keras")
    read = keras.models.load_model(tmp_path / "model.keras", compile=False)
    tfvt.save_pretrained(read, tmp_path / "again", model_args=options)  # the same bytes again
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "model.keras", "new"]


def test_what_the_folder_holds(tmp_path, caplog):
    """The keys that users of timm know; a second one is never written over the first."""
    model = tfvt.create_model("vit_tiny16", num_classes=2, input_shape=(32, 64, 3), **VIT)
    folder = tfvt.save_pretrained(model, tmp_path / "vit", model_args=VIT, class_names=["cat", "köter"])
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config == {
        "architecture": "vit_tiny16",
        "num_classes": 2,
        "num_features": 16,
        "label_names": ["cat", "köter"],
        "model_args": {"blocks": [{"layers": 3, "hidden_dim": 16, "mlp_dim": 24, "stride": 1}], "head_dim": 8},
        "pretrained_cfg": {"input_size": [3, 32, 64], "mean": [0.5] * 3, "std": [0.5] * 3},
        "tfvt_version": tfvt.__version__,
    }
    weights = load_file(folder / "model.safetensors")
    assert weights.keys() == {weight.path for weight in model.weights}
    with pytest.raises(FileExistsError, match=r"vit exists and is not empty"):
        tfvt.save_pretrained(model, folder, model_args=VIT)
    with pytest.raises(ValueError, match=r"class_names has 1 names, vit_tiny16 has 2 classes"):
        tfvt.save_pretrained(model, tmp_path / "b", model_args=VIT, class_names=["cat"])
    with pytest.raises(ValueError, match=r"weight patch_embedding/kernel is \(16, 16, 3, 16\) and \(16, 16, 3, 192\)"):
        tfvt.save_pretrained(model, tmp_path / "b")
    with pytest.raises(ValueError, match=r"gelu of encoder_layer1 is 'erf' and 'tanh'"):
        tfvt.save_pretrained(model, tmp_path / "b", model_args=VIT | {"gelu": "tanh"})
    with pytest.raises(ValueError, match=r"unknown model 'vit_tiny17': did you mean vit_tiny16"):
        tfvt.save_pretrained(model, tmp_path / "b", architecture="vit_tiny17")
    assert not (tmp_path / "b").exists()
    other = tfvt.create_model("vit_tiny16", num_classes=2, input_shape=(32, 64, 3), gelu="tanh", **VIT)
    with pytest.raises(ValueError, match=r"build the model with gelu='erf'"):
        tfvt.load_checkpoint(other, folder)
    other = tfvt.create_model("vit_tiny16", num_classes=2, input_shape=(32, 64, 3), pixel_std=(9, 9, 9), **VIT)
    with caplog.at_level("WARNING", logger="tfvt"):
        tfvt.load_checkpoint(other, folder)
    assert "normalises pixels by other statistics" in caplog.text


def test_a_folder_that_cannot_be_written(tmp_path):
    model = tfvt.create_model("vit_tiny16", num_classes=2, input_shape=(32, 64, 3), **VIT)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match=r"file exists and is not empty"):
        tfvt.save_pretrained(model, tmp_path / "file", model_args=VIT)
    with pytest.raises(FileExistsError, match=r"File exists: '.*/file'$"):  # what stands in the way
        tfvt.save_pretrained(model, tmp_path / "file" / "below", model_args=VIT)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("stopped", "seen"),
    [
        (SafetensorError("I/O error: No space left on device (os error 28)"), WriteError),
        (PermissionError(13, "Permission denied", "x"), WriteError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_what_stops_while_it_writes_leaves_nothing(tmp_path, monkeypatch, stopped, seen):
    model = tfvt.create_model("vit_tiny16", num_classes=2, input_shape=(32, 64, 3), **VIT)

    def save(tensors, file):
        assert not (tmp_path / "vit").exists()  # a killed process leaves no folder of this name
        file.write_bytes(b"half")
        raise stopped

    monkeypatch.setattr("safetensors.numpy.save_file", save)
    with pytest.raises(seen) as raised:
        tfvt.save_pretrained(model, tmp_path / "vit", model_args=VIT)
    assert isinstance(stopped, KeyboardInterrupt) or raised.value.filename == str(tmp_path / "vit")
    assert list(tmp_path.iterdir()) == []


def timm_folder(folder, config=(), state=None):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(TIMM | dict(config)))
    save_file(vit_states.timm() if state is None else state, folder / "model.safetensors")
    return folder


def test_folders_of_timm(tmp_path):
    """A ViT and a ResNet, with the sizes of the tests as overrides: timm's names stand for its own sizes."""
    model = tfvt.create_model(f"local-dir:{timm_folder(tmp_path / 'vit')}", **VIT)
    expected = vit_states.our_state()
    for weight in model.weights:
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), expected[weight.path])
    assert model.name == "vit_tiny16"
    assert model.input_shape == (None, 64, 64, 3)
    normalize = model.get_layer("normalize")
    np.testing.assert_allclose(normalize.scale, [1 / 58.395, 1 / 57.12, 1 / 57.375])
    np.testing.assert_allclose(normalize.offset, [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])

    config = {"architecture": "resnet18.a1_in1k", "num_features": 64, "model_args": {"drop_path_rate": 0.1}}
    folder = timm_folder(tmp_path / "resnet", config, torchvision_state())
    model = tfvt.create_model(f"local-dir:{folder}", **RESNET)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(model.get_layer("head").kernel), torchvision_state()["fc.weight"].T
    )
    embedding = tfvt.create_model(f"local-dir:{folder}", include_top=False, **RESNET)
    assert embedding.output_shape == (None, 64)
    fresh = tfvt.create_model(f"local-dir:{folder}", num_classes=7, input_shape=(32, 96, 3), **RESNET)
    assert fresh.output_shape == (None, 7)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(fresh.get_layer("stem_conv").kernel),
        torchvision_state()["conv1.weight"].transpose(2, 3, 1, 0),
    )


CONTRADICTIONS = {
    "architecture": ({"architecture": "vit_tiny_patch14_224"}, r"architecture='vit_tiny_patch14_224': unknown model"),
    "swin": ({"architecture": "swin_tiny_patch4_window7_224"}, r"unknown model .*of timm tfvt reads resnet18"),
    "no name": ({"architecture": None}, r"architecture=None: expected the name of a model"),
    "a list": ({"architecture": ["vit"]}, r"architecture=\['vit'\]: expected the name of a model"),
    "classes": ({"num_classes": 4}, r"num_classes=4 contradicts the head in model.safetensors"),
    "classes as text": ({"num_classes": "5"}, r"num_classes='5': expected an integer"),
    "features": ({"num_features": 192}, r"num_features=192 contradicts architecture='vit_tiny_patch16_224', .* 16"),
    "size": ({"pretrained_cfg": {"input_size": [3, 32, 64]}}, r"input_size .* contradicts embedding/patch_positions"),
    "size as text": (
        {"pretrained_cfg": {"input_size": "big"}},
        r"input_size='big': expected \[channels",
    ),
    "patches": ({"pretrained_cfg": {"input_size": [3, 33, 64]}}, r"patches of 16x16 do not divide the height 33"),
    "statistics": ({"pretrained_cfg": TIMM_CFG | {"std": [1, "x", 1]}}, r"pretrained_cfg.std=\[1, 'x', 1\]: expected"),
    "channels": ({"pretrained_cfg": TIMM_CFG | {"std": [1.0], "mean": [1.0]}}, r"has 3 channel\(s\), pixel_mean"),
    "pretrained_cfg": ({"pretrained_cfg": [1]}, r"pretrained_cfg=\[1\]: expected a JSON object"),
    "model_args": ({"model_args": [1]}, r"model_args=\[1\]: expected a JSON object"),
    "an argument": ({"model_args": {"qk_norm": True}}, r"model_args: tfvt has nothing for 'qk_norm' of timm"),
    "weights": ({"model_args": {"weights": "/etc/passwd"}}, r"model_args: tfvt has nothing for 'weights' of timm"),
    "img_size": ({"model_args": {"img_size": {}}}, r"model_args.img_size=\{\}: expected a number or"),
    "our option": (
        {"architecture": "vit_tiny16", "model_args": {"tokenz": 1}},
        r"model_args: vit_tiny16 has no option",
    ),
    "our weights": (
        {"architecture": "vit_tiny16", "model_args": {"weights": "x"}},
        r"args: .* no option 'weights'",
    ),
    "our value": ({"architecture": "vit_tiny16", "model_args": {"gelu": 3}}, r"gelu=3: expected one of 'erf', 'tanh'"),
}


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_configs_that_contradict_the_weights_or_name_what_is_not_there(tmp_path, kind):
    config, words = CONTRADICTIONS[kind]
    folder = timm_folder(tmp_path, config)
    with pytest.raises(ValueError, match=words) as raised:
        tfvt.create_model(f"local-dir:{folder}", **VIT)
    assert str(raised.value).startswith(f"{folder}/config.json: ")
    assert "\n" not in str(raised.value)


def test_overrides_resolve_contradictions(tmp_path):
    folder = timm_folder(tmp_path, {"num_classes": 4, "pretrained_cfg": {"input_size": [3, 32, 64]}})
    model = tfvt.create_model(f"local-dir:{folder}", num_classes=5, input_shape=(64, 64, 3), **VIT)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(model.get_layer("head").bias), vit_states.our_state()["head/bias"]
    )
    (folder / "config.json").write_text(json.dumps(TIMM | {"model_args": {"img_size": [64, 64]}, "pretrained_cfg": {}}))
    assert tfvt.create_model(f"local-dir:{folder}", **VIT).input_shape == (None, 64, 64, 3)


def test_files_that_are_missing_or_cut(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"local-dir:.*nowhere: no such folder"):
        tfvt.create_model(f"local-dir:{tmp_path / 'nowhere'}")
    with pytest.raises(FileNotFoundError, match=r"no file .*config.json: expected a folder with config.json and"):
        tfvt.create_model(f"local-dir:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ValueError, match=r"config.json: model_type='vit', a folder of transformers: build"):
        tfvt.create_model(f"local-dir:{tmp_path}")
    folder = timm_folder(tmp_path)
    os.truncate(folder / "model.safetensors", 3000)
    with pytest.raises(ValueError, match=r"model.safetensors cannot be read as a .safetensors checkpoint"):
        tfvt.create_model(f"local-dir:{folder}", **VIT)
    (folder / "model.safetensors").unlink()
    with pytest.raises(IsADirectoryError, match=r"is a folder without model.safetensors"):
        tfvt.create_model(f"local-dir:{folder}", **VIT)
    with (folder / "config.json").open("wb") as file:
        file.truncate(100_000_000)
    with pytest.raises(ValueError, match=r"config.json has more than 16777216 bytes"):
        tfvt.create_model(f"local-dir:{folder}", **VIT)
