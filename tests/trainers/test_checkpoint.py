"""Checkpoints are whole or refused, and the newest ones stay."""

import keras
import numpy as np
import pytest

from tfvt.trainers import checkpoint as module
from tfvt.trainers.checkpoint import (
    Checkpoint,
    assign_arrays,
    list_checkpoints,
    load_checkpoint,
    name_arrays,
    save_checkpoint,
)
from tfvt.trainers.errors import UsageError

ARRAYS = {
    "model/0000/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "model/0001/seed": np.array([7, 2], np.uint32),
    "optimizer/0000/iterations": np.array(12, np.int64),
}
RECORDS = {"training": "0a", "validation": "1b"}


def test_arrays_step_and_epoch_come_back_bit_equal(tmp_path):
    path = save_checkpoint(tmp_path, Checkpoint(12, 3, ARRAYS, RECORDS), keep=1)
    loaded = load_checkpoint(path)
    assert (loaded.step, loaded.epoch, loaded.records) == (12, 3, RECORDS)
    assert loaded.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert loaded.arrays[name].dtype == array.dtype
        assert loaded.arrays[name].shape == array.shape
        assert loaded.arrays[name].tobytes() == array.tobytes()


def test_the_newest_stay(tmp_path):
    for step in (9, 10, 100):
        save_checkpoint(tmp_path, Checkpoint(step, 0, ARRAYS, RECORDS), keep=2)
    assert [load_checkpoint(path).step for path in list_checkpoints(tmp_path)] == [10, 100]
    assert len(list(tmp_path.iterdir())) == 2


def cut(content):
    return content[: len(content) // 2]


def empty(content):
    return b""


def flip_last_bit(content):
    return content[:-1] + bytes([content[-1] ^ 1])


def flip_header(content):
    return content[:8] + b"x" + content[9:]


@pytest.mark.parametrize("damage", [cut, empty, flip_last_bit, flip_header])
def test_a_damaged_file_is_named_and_refused(tmp_path, damage):
    save_checkpoint(tmp_path, Checkpoint(11, 3, ARRAYS, RECORDS), keep=2)
    path = save_checkpoint(tmp_path, Checkpoint(12, 3, ARRAYS, RECORDS), keep=2)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UsageError, match=rf"{path.name} is damaged.*delete it to go on from the one before"):
        load_checkpoint(path)


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file(ARRAYS, tmp_path / "step-000000001.safetensors")
    with pytest.raises(UsageError, match="is damaged"):
        load_checkpoint(tmp_path / "step-000000001.safetensors")


def test_a_kill_while_writing_leaves_the_earlier_file_alone(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, Checkpoint(1, 0, ARRAYS, RECORDS), keep=1)

    def killed(arrays, path, metadata):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, Checkpoint(2, 0, ARRAYS, RECORDS), keep=1)
    monkeypatch.undo()
    assert [load_checkpoint(path).step for path in list_checkpoints(tmp_path)] == [1]
    save_checkpoint(tmp_path, Checkpoint(3, 0, ARRAYS, RECORDS), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000003.safetensors"]


def test_arrays_of_another_model_are_refused():
    variables = [keras.Variable(np.zeros((2, 3)), name="kernel"), keras.Variable(np.zeros(2), name="bias")]
    arrays = name_arrays("model", variables)
    assert [name.split("/")[:2] for name in arrays] == [["model", "0000"], ["model", "0001"]]
    with pytest.raises(UsageError, match="2 arrays of the model, this run 1"):
        assign_arrays("model", variables[:1], arrays)
    with pytest.raises(UsageError, match=r"model/0000/.* has shape \(2, 3\), this run's \(2,\)"):
        assign_arrays("model", reversed(variables), arrays)
