"""Where a run goes: places that cannot be written to, or that hold something else."""

import errno
import os
import shutil

from limits import largest_file

from tfvt.trainers.cli import main
from tfvt.trainers.run.checkpoint import list_checkpoints

# What a run sets for its whole process would outlive the test.
HERE = ("--deterministic", "false", "--epochs", "2")


def test_a_place_that_cannot_be_written_to_is_one_line(finished_run, config, fails, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("mine")
    train = ("train", "--config", config, *HERE, "--output")
    assert fails(*train, file).endswith(f"{file}: File exists")
    assert fails(*train, file / "x").endswith(f"{file}/x: Not a directory")
    assert f"{file} exists and is not empty" in fails("export", finished_run, file)
    assert fails("export", finished_run, file / "x").endswith(f"{file}: File exists")

    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "mkdir", refuse)  # the mode of a folder does not stop the superuser
    assert fails(*train, tmp_path / "run").endswith(f"{tmp_path}/run: Permission denied")
    assert fails("export", finished_run, tmp_path / "a" / "b").endswith(f"{tmp_path}/a: Permission denied")
    assert file.read_text() == "mine"


def test_a_disk_that_is_full_when_a_run_begins_is_one_line(config, fails, tmp_path):
    with largest_file(200):  # which takes the lock
        line = fails("train", "--config", config, *HERE, "--output", tmp_path / "run")
    assert line == f"tfvt train: error: cannot write {tmp_path}/run/recipe.yaml: File too large"


def test_folders_in_place_of_files_are_named(finished_run, fails, tmp_path):
    """And a file in place of a folder: by the names that the user sees, not by those of temporary files."""
    run = shutil.copytree(finished_run, tmp_path / "run")
    (run / "serving.json").unlink()
    (run / "serving.json").mkdir()
    assert fails("train", "--resume", "--output", run).endswith(f"cannot write {run}/serving.json: Is a directory")
    (run / "serving.json").rmdir()
    shutil.rmtree(run / "tensorboard")
    (run / "tensorboard").write_text("mine")
    assert f"cannot write {run}/tensorboard (" in fails("train", "--resume", "--output", run)


def test_a_link_to_another_disk_is_replaced_alone(config, tmp_path):
    elsewhere, run = tmp_path / "elsewhere", tmp_path / "run"
    (elsewhere / "old").mkdir(parents=True)
    run.mkdir()
    (run / "recipe.yaml").write_text("epochs: 90")
    (run / "checkpoints").symlink_to(elsewhere)
    (run / "tensorboard").symlink_to(tmp_path / "nowhere")
    assert main(["train", "--config", str(config), *HERE, "--output", str(run), "--overwrite"]) == 0
    assert list_checkpoints(run / "checkpoints")
    assert [path.name for path in elsewhere.iterdir()] == ["old"]
