"""PyTorch files as training scripts leave them: what is read, and what is refused."""

import argparse
import pickle
from pathlib import Path

import numpy as np
import pytest

import tfvt
from tests.checkpoints.test_swin_checkpoints import TINY as TINY_SWIN
from tests.checkpoints.test_swin_checkpoints import authors_state as swin_state
from tests.models.test_acmix_resnet import TINY as TINY_RESNET
from tests.models.test_acmix_resnet import authors_state as resnet_state
from tfvt.checkpoints.files import read_arrays

pytestmark = pytest.mark.parity

MODELS = {
    "swin_tiny": (TINY_SWIN, swin_state(acmix=False)),
    "acmix_swin_tiny": (TINY_SWIN, swin_state(acmix=True)),
    "acmix_resnet26": (TINY_RESNET | {"input_shape": (64, 64, 3), "num_classes": 5}, resnet_state(None)),
}


def several_devices(state):
    return {f"module.{name}": tensor for name, tensor in state.items()}


LAYOUTS = {
    "state": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3},
    "state_dict": lambda state: {"epoch": 3, "optimizer": {"lr": 0.1}, "state_dict": several_devices(state)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", MODELS)
def test_a_whole_model_loads(name, layout, tmp_path):
    import torch

    options, state = MODELS[name]
    tensors = {key: torch.tensor(array) for key, array in state.items()}
    torch.save(LAYOUTS[layout](tensors), tmp_path / "weights.pth")
    models = [tfvt.create_model(name, **options) for _ in range(2)]
    report = tfvt.load_checkpoint(models[0], tmp_path / "weights.pth")
    assert (report.fresh, report.unused) == ((), ())
    tfvt.load_checkpoint(models[1], state)
    for loaded, expected in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_array_equal(loaded, expected)


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_nothing_is_unpickled(form, tmp_path):
    import torch

    done, file = tmp_path / "done", tmp_path / "weights.pth"
    content = {"model": {"head.weight": torch.zeros(2, 2), "extra": Malicious(done)}}
    if form == "pickle":
        file.write_bytes(pickle.dumps(content["model"]["extra"], protocol=2))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ValueError, match=r"weights.pth cannot be read .*: it is damaged, or holds Python objects"):
        read_arrays(file)
    assert not done.exists()


def test_what_is_refused_is_named(tmp_path):
    import torch

    file = tmp_path / "weights.pt"
    torch.save({"model": {}, "config": argparse.Namespace(depth=3)}, file)
    with pytest.raises(ValueError, match=r"holds Python objects \(argparse.Namespace\), which could run code"):
        read_arrays(file)
    for content in ([torch.zeros(2)], {"model": [1, 2]}, {"epoch": 3}):
        torch.save(content, file)
        with pytest.raises(ValueError, match="it holds no tensors by name"):
            read_arrays(file)
    torch.save({"head.weight": torch.zeros(300, 300)}, file)
    file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"weights.pt cannot be read as a .pt checkpoint"):
        read_arrays(file)


def test_half_precision_is_read_as_float32(tmp_path):
    import torch

    torch.save({"x": torch.tensor([1.5, -2.0], dtype=torch.bfloat16)}, tmp_path / "weights.bin")
    x = read_arrays(tmp_path / "weights.bin")["x"]
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, [1.5, -2.0])


def test_parameters_are_read_and_entries_without_a_name_left(tmp_path):
    """`torch.save(dict(model.named_parameters()), ...)` keeps parameters, which have gradients."""
    import torch

    torch.save({"x": torch.nn.Parameter(torch.ones(2)), 1: torch.zeros(1)}, tmp_path / "weights.pth")
    arrays = read_arrays(tmp_path / "weights.pth")
    assert list(arrays) == ["x"]
    np.testing.assert_array_equal(arrays["x"], [1.0, 1.0])
