"""Checkpoints are whole or refused, and the newest ones stay."""

import csv
import errno
import json
import os
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from limits import largest_file
from safetensors import safe_open
from safetensors.numpy import save_file

from tfvt.errors import UsageError, WriteError
from tfvt.files import write_whole
from tfvt.trainers.patience import is_away
from tfvt.trainers.run import checkpoint as module
from tfvt.trainers.run.checkpoint import (
    Checkpoint,
    assign_arrays,
    check_finite,
    list_checkpoints,
    load_checkpoint,
    name_arrays,
    save_checkpoint,
)
from tfvt.trainers.run.log import MetricsFile, TensorBoard, metric_names

ARRAYS = {
    "model/0000/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "model/0001/seed": np.array([7, 2], np.uint32),
    "optimizer/0000/iterations": np.array(12, np.int64),
}
RECORDS = {"training": "0a", "validation": "1b"}
RECIPE = {"epochs": 3, "optimizer": {"learning_rate": 0.1}}


def test_arrays_step_and_epoch_come_back_bit_equal(tmp_path):
    path = save_checkpoint(tmp_path, Checkpoint(12, 3, ARRAYS, RECORDS, RECIPE), keep=1)
    loaded = load_checkpoint(path)
    assert (loaded.step, loaded.epoch, loaded.digests, loaded.recipe) == (12, 3, RECORDS, RECIPE)
    assert loaded.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert loaded.arrays[name].dtype == array.dtype
        assert loaded.arrays[name].shape == array.shape
        assert loaded.arrays[name].tobytes() == array.tobytes()


def test_the_newest_stay(tmp_path):
    for step in (9, 10, 100):
        save_checkpoint(tmp_path, Checkpoint(step, 0, ARRAYS, RECORDS, RECIPE), keep=2)
    assert [load_checkpoint(path).step for path in list_checkpoints(tmp_path)] == [10, 100]
    assert len(list(tmp_path.iterdir())) == 2


def test_other_files_are_neither_taken_nor_deleted(tmp_path):
    save_checkpoint(tmp_path, Checkpoint(4, 0, ARRAYS, RECORDS, RECIPE), keep=1)
    mine = [tmp_path / name for name in ("step-best.safetensors", "step-000000004 copy.safetensors", "step-1")]
    for path in mine:
        path.write_bytes((tmp_path / "step-000000004.safetensors").read_bytes())
    path = save_checkpoint(tmp_path, Checkpoint(8, 0, ARRAYS, RECORDS, RECIPE), keep=1)
    assert list_checkpoints(tmp_path) == [path]
    assert sorted(tmp_path.iterdir()) == sorted([path, *mine])


def test_a_folder_that_cannot_be_read_is_not_one_without_checkpoints(tmp_path):
    assert list_checkpoints(tmp_path / "none") == []
    (tmp_path / "checkpoints").write_text("no folder")
    with pytest.raises(NotADirectoryError):
        list_checkpoints(tmp_path / "checkpoints")


def test_a_file_under_the_name_of_another_step_is_refused(tmp_path):
    path = save_checkpoint(tmp_path, Checkpoint(4, 0, ARRAYS, RECORDS, RECIPE), keep=1)
    with pytest.raises(UsageError, match=r"step-000000009.safetensors is damaged \(it holds step 4\)"):
        load_checkpoint(path.rename(tmp_path / "step-000000009.safetensors"))


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
    save_checkpoint(tmp_path, Checkpoint(11, 3, ARRAYS, RECORDS, RECIPE), keep=2)
    path = save_checkpoint(tmp_path, Checkpoint(12, 3, ARRAYS, RECORDS, RECIPE), keep=2)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UsageError, match=rf"{path.name} is damaged.*delete it to continue from the one before"):
        load_checkpoint(path)


def edited(path, edit):
    """Rewrite the file with its header, as a dict, changed by `edit`."""
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["run"])
    edit(header)
    save_file(ARRAYS, path, metadata={"run": json.dumps(header)})


@pytest.mark.parametrize(
    "edit",
    [
        lambda header: header.update(step=6),
        lambda header: header.update(epoch=2),
        lambda header: header["records"].update(training="0b"),
        lambda header: header["recipe"]["optimizer"].update(learning_rate=0.2),
        lambda header: header.update(recipe=None),
        lambda header: header.pop("format"),
        lambda header: header.pop("digest"),
        lambda header: header.update(format="x"),
        lambda header: header.update(more=1),
    ],
)
def test_an_edited_header_is_refused(tmp_path, edit):
    path = save_checkpoint(tmp_path, Checkpoint(12, 3, ARRAYS, RECORDS, RECIPE), keep=1)
    edited(path, lambda header: None)
    assert load_checkpoint(path).step == 12
    edited(path, edit)
    with pytest.raises(UsageError, match=rf"{path.name} is damaged"):
        load_checkpoint(path)


def test_a_later_format_is_named(tmp_path):
    path = save_checkpoint(tmp_path, Checkpoint(12, 3, ARRAYS, RECORDS, RECIPE), keep=1)
    edited(path, lambda header: header.update(format=3))
    with pytest.raises(
        UsageError, match=rf"{path.name} has format 3, which a later tfvt wrote; this one reads 1 and 2"
    ):
        load_checkpoint(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_state_that_is_not_finite_is_named(value):
    check_finite(ARRAYS)
    with pytest.raises(UsageError, match=r"^average/0002/bias is not finite$"):
        check_finite(ARRAYS | {"average/0002/bias": np.array([0, value, 1], np.float32)})


def test_files_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        path = save_checkpoint(tmp_path, Checkpoint(1, 0, ARRAYS, RECORDS, RECIPE), keep=1)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_full_disk_leaves_the_earlier_checkpoints_and_nothing_else(tmp_path):
    """4 kB hold the first checkpoint and not the second."""
    old = save_checkpoint(tmp_path, Checkpoint(1, 0, ARRAYS, RECORDS, RECIPE), keep=1)
    content = old.read_bytes()
    large = Checkpoint(2, 0, ARRAYS | {"model/0002/kernel": np.zeros(4096, np.float32)}, RECORDS, RECIPE)
    words = rf"cannot write the checkpoint {tmp_path}/step-000000002.safetensors \(.*File too large"
    with largest_file(4096), pytest.raises(UsageError, match=words):
        save_checkpoint(tmp_path, large, keep=1)
    assert list(tmp_path.iterdir()) == [old]
    assert old.read_bytes() == content


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    save_file(ARRAYS, tmp_path / "step-000000001.safetensors")
    with pytest.raises(UsageError, match="is damaged"):
        load_checkpoint(tmp_path / "step-000000001.safetensors")


def test_a_kill_while_writing_leaves_the_earlier_file_alone(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, Checkpoint(1, 0, ARRAYS, RECORDS, RECIPE), keep=1)

    def killed(arrays, path, metadata):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, Checkpoint(2, 0, ARRAYS, RECORDS, RECIPE), keep=1)
    monkeypatch.undo()
    assert [load_checkpoint(path).step for path in list_checkpoints(tmp_path)] == [1]
    save_checkpoint(tmp_path, Checkpoint(3, 0, ARRAYS, RECORDS, RECIPE), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000003.safetensors"]


def test_arrays_of_another_model_are_refused():
    variables = [keras.Variable(np.zeros((2, 3)), name="kernel"), keras.Variable(np.zeros(2), name="bias")]
    arrays = name_arrays("model", variables)
    assert [name.split("/")[:2] for name in arrays] == [["model", "0000"], ["model", "0001"]]
    with pytest.raises(UsageError, match="2 arrays of the model, this run 1"):
        assign_arrays("model", variables[:1], arrays)
    with pytest.raises(UsageError, match=r"model/0000/.* has shape \(2, 3\), this run's \(2,\)"):
        assign_arrays("model", reversed(variables), arrays)


def test_a_small_file_is_there_whole_or_not_at_all(tmp_path):
    write_whole(tmp_path / "recipe.yaml", b"old")
    with largest_file(100), pytest.raises(WriteError, match="File too large") as error:
        write_whole(tmp_path / "recipe.yaml", b"new" * 100)
    assert error.value.filename == f"{tmp_path}/recipe.yaml"
    assert (tmp_path / "recipe.yaml").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_log_that_is_damaged_or_lost_is_told(tmp_path):
    path, names = tmp_path / "metrics.csv", metric_names(("top1", "top5"))
    MetricsFile(path, names, 0).write(dict.fromkeys(names, 1))
    assert MetricsFile(path, names, 1).lost == 0
    assert MetricsFile(path, names, 3).lost == 2
    path.write_bytes(b"\xff\xfe\x00garbage\n")
    with pytest.raises(UsageError, match=rf"^{path} cannot be read .*: put the run's own back, or delete it"):
        MetricsFile(path, names, 1)


def test_the_rows_of_an_earlier_version_stay(tmp_path):
    """It had fewer columns; what was being written when the process was killed goes."""
    path, names = tmp_path / "metrics.csv", metric_names(("top1", "top5"))
    old = [name for name in names if name != "input_wait"]
    rows = [[f"{name} {epoch}" for name in old] for epoch in (1, 2)]
    path.write_text("\r\n".join(",".join(row) for row in [old, *rows, ["3", "18"]]), encoding="utf-8")
    log = MetricsFile(path, names, 3)
    assert log.lost == 1
    log.write(dict.fromkeys(names, 0.25))
    with path.open(newline="") as file:
        first, second, third = csv.DictReader(file)
    for epoch, row in ((1, first), (2, second)):
        assert row == {name: f"{name} {epoch}" for name in old} | {"input_wait": ""}
    assert set(third.values()) == {"0.25"}


def test_a_log_that_the_disk_does_not_take_is_named(tmp_path):
    names = metric_names(("top1", "top5"))
    cells = dict.fromkeys(names, 1)
    metrics, tensorboard = MetricsFile(tmp_path / "metrics.csv", names, 0), TensorBoard(tmp_path / "tensorboard")
    advice = r"\(File too large\): mend that, then continue with --resume$"
    with largest_file(200):
        with pytest.raises(UsageError, match=rf"^cannot write {tmp_path}/metrics.csv {advice}"):
            metrics.write(cells)
        with pytest.raises(UsageError, match=rf"^cannot write {tmp_path}/tensorboard {advice}"):
            tensorboard.write(cells)
        tensorboard.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_only_a_full_disk_needs_room(number, store, tmp_path, monkeypatch):
    """That of a store is this machine's, where files wait to be uploaded."""
    words, names = os.strerror(number), metric_names(("top1", "top5"))
    cells = dict.fromkeys(names, 1)

    def refuse(*_, **__):
        raise OSError(number, words)

    def flush():
        raise tf.errors.ResourceExhaustedError(None, None, f"Failed to flush 1 events to x/y; {words}")

    here = f"{tempfile.gettempdir()} of this machine is full, through which files go to and from stores"
    for folder, reason in ((tmp_path, words), (store, here)):
        metrics, tensorboard = MetricsFile(folder / "metrics.csv", names, 0), TensorBoard(folder / "tensorboard")
        tensorboard.writer.flush = flush
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", refuse)
            for log, name in ((metrics, "metrics.csv"), (tensorboard, "tensorboard")):
                with pytest.raises(UsageError) as error:
                    log.write(cells)
                room = f"cannot write {folder}/{name} ({reason}): make room, then continue with --resume"
                assert str(error.value) == room
                assert not is_away(error.value)


def test_a_checkpoint_that_cannot_be_read_is_not_called_damaged(store, monkeypatch):
    """Nobody deletes it for that."""
    path = save_checkpoint(store / "checkpoints", Checkpoint(3, 0, ARRAYS, RECORDS, RECIPE), keep=1)

    def copy(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, f"/tmp/tfvt-1/x; {os.strerror(errno.ENOSPC)}")

    monkeypatch.setattr(tf.io.gfile, "copy", copy)
    here = f"{tempfile.gettempdir()} of this machine is full, through which files go to and from stores"
    with pytest.raises(UsageError) as error:
        load_checkpoint(path)
    assert str(error.value) == f"cannot read the checkpoint {path} ({here}): make room, then continue with --resume"
