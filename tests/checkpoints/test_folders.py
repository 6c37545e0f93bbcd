"""Folders of the Hugging Face hub: whole, in parts, in the hub's cache, and everything that can be wrong with them."""

import json
import pickle

import keras
import numpy as np
import pytest
from safetensors.numpy import save_file

import tfvt
from tests.checkpoints import vit_states
from tfvt.models.vit import Block

SMALL = {"blocks": (Block(3, 16, 24),), "head_dim": 8, "input_shape": (64, 64, 3), "num_classes": 5}
TIMM = {"architecture": "vit_tiny_patch16_224"}
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def model():
    return tfvt.create_model("vit_tiny16", **SMALL)


def write_json(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def write_folder(folder, state, config, parts=1):
    """A folder as transformers and timm write it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    names = sorted(state)
    if parts == 1:
        save_file(state, folder / "model.safetensors")
        return folder
    files = {name: f"model-{i % parts + 1:05}-of-{parts:05}.safetensors" for i, name in enumerate(names)}
    for file in sorted(set(files.values())):
        save_file({name: state[name] for name in names if files[name] == file}, folder / file)
    write_json(folder / INDEX, {"metadata": {"total_size": 1}, "weight_map": files})
    return folder


def check_loaded(model, folder, seed=0):
    """The folder gives the weights that `vit_states` has drawn."""
    report = tfvt.load_checkpoint(model, folder)
    expected = vit_states.our_state(seed=seed)
    assert report.fresh == report.unused == ()
    for weight in model.weights:
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), expected[weight.path])


@pytest.mark.parametrize("parts", [1, 3])
def test_folders_of_transformers_and_timm(model, tmp_path, parts):
    transformers = write_folder(tmp_path / "vit", vit_states.huggingface(seed=1), {"model_type": "vit"}, parts)
    check_loaded(model, transformers, seed=1)
    timm = write_folder(tmp_path / "timm", vit_states.timm(seed=2), TIMM, parts)
    check_loaded(model, str(timm), seed=2)
    plain = write_folder(tmp_path / "plain", vit_states.timm(seed=3), {}, parts)  # a config that says nothing
    check_loaded(model, plain, seed=3)


def test_the_cache_of_the_hub(model, tmp_path):
    """Snapshots hold links to blobs; refs/main names the revision."""
    cache = tmp_path / "models--org--name"
    for seed, revision in ((1, "aaa"), (2, "bbb")):
        written = write_folder(tmp_path / revision, vit_states.timm(seed=seed), TIMM)
        (cache / "snapshots" / revision).mkdir(parents=True)
        (cache / "blobs").mkdir(exist_ok=True)
        for file in written.iterdir():
            blob = file.rename(cache / "blobs" / f"{seed}{len(file.name)}")
            (cache / "snapshots" / revision / file.name).symlink_to(f"../../blobs/{blob.name}")
    with pytest.raises(ValueError, match=r"snapshots holds several revisions \(aaa, bbb\): pass the folder of one"):
        tfvt.load_checkpoint(model, cache)
    check_loaded(model, cache / "snapshots" / "aaa", seed=1)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("bbb\n")
    check_loaded(model, cache, seed=2)
    for revision in ("ccc", "../blobs", "..", ""):
        (cache / "refs" / "main").write_text(revision)
        with pytest.raises(ValueError, match=r"main names the revision .*, which is not in"):
            tfvt.load_checkpoint(model, cache)
    (cache / "blobs" / "117").unlink()
    with pytest.raises(ValueError, match=r"model.safetensors is a link to a file that is missing: download it again"):
        tfvt.load_checkpoint(model, cache / "snapshots" / "aaa")


def test_the_config_decides(model, tmp_path):
    folder = write_folder(tmp_path / "vit", vit_states.huggingface(), {"model_type": "bert"})
    write_json(folder / "config.json", TIMM)
    said = r"model.safetensors, architecture='vit_tiny_patch16_224' in config.json: source='timm', but .* has no "
    with pytest.raises(ValueError, match=said):
        tfvt.load_checkpoint(model, folder)
    tfvt.load_checkpoint(model, folder, source="huggingface")
    save_file({"bert.x": np.zeros(2, "float32")}, folder / "model.safetensors")
    write_json(folder / "config.json", {"model_type": "bert"})
    with pytest.raises(ValueError, match=r"model_type='bert' in config.json: source='huggingface', but .*has bert.x"):
        tfvt.load_checkpoint(model, folder)
    write_json(folder / "config.json", TIMM | {"pretrained_cfg": {"mean": "x", "std": 1}})
    save_file(vit_states.timm(), folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"pretrained_cfg.mean='x': expected a number for each channel"):
        tfvt.load_checkpoint(model, folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[" * 100_000, r"config.json, beside the checkpoint, is not JSON"),
        ("[]", r"config.json, beside the checkpoint, holds no JSON object"),
        (" " * (2**24 + 1), r"config.json, beside the checkpoint, has more than 16777216 bytes"),
        ("\xff", r"config.json, beside the checkpoint, is not JSON"),
    ],
)
def test_damaged_configs(model, tmp_path, content, words):
    folder = write_folder(tmp_path, vit_states.timm(), {})
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=words) as raised:
        tfvt.load_checkpoint(model, folder)
    assert "\n" not in str(raised.value)


def test_damaged_weights(model, tmp_path):
    folder = write_folder(tmp_path, vit_states.timm(), {}, parts=2)
    part = folder / "model-00002-of-00002.safetensors"
    whole, index = part.read_bytes(), json.loads((folder / INDEX).read_text())["weight_map"]
    before = [keras.ops.convert_to_numpy(weight) for weight in model.weights]
    part.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"{INDEX} cannot be read .* model-00002-of-00002.safetensors: "):
        tfvt.load_checkpoint(model, folder)
    part.unlink()
    with pytest.raises(ValueError, match=r"weight_map has the file model-00002-of-00002.safetensors, which is missing"):
        tfvt.load_checkpoint(model, folder)
    part.write_bytes(whole)
    (tmp_path.parent / "outside.safetensors").write_bytes(whole)
    for name in (
        "../outside.safetensors",
        str(tmp_path.parent / "outside.safetensors"),
        "a\\b.safetensors",
        "x.bin",
        7,
    ):
        write_json(folder / INDEX, {"weight_map": index | {"norm.weight": name}})
        with pytest.raises(ValueError, match=r"weight_map has the file .*: expected a .safetensors file beside"):
            tfvt.load_checkpoint(model, folder)
    write_json(folder / INDEX, {"weight_map": index | {"extra": part.name}})
    with pytest.raises(ValueError, match=r"weight_map has 'extra' in model-00002-of-00002.safetensors, which does not"):
        tfvt.load_checkpoint(model, folder)
    for content in ({}, {"weight_map": []}, {"weight_map": {}}):
        write_json(folder / INDEX, content)
        with pytest.raises(ValueError, match=r"weight_map: expected an object of tensors and their files"):
            tfvt.load_checkpoint(model, folder)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), value)


def test_pickles_of_a_folder_are_refused(model, tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(ValueError, match=r"pytorch_model.bin: tfvt reads safetensors alone from a folder"):
        tfvt.load_checkpoint(model, tmp_path)
    write_folder(tmp_path, vit_states.timm(seed=4), {})  # beside them, safetensors are read
    check_loaded(model, tmp_path, seed=4)
