"""A run's folder belongs to one process at a time, and only --overwrite removes a run."""

import fcntl
import os
import signal
import socket
import subprocess

import pytest
from processes import train_command

from tfvt.errors import UsageError
from tfvt.trainers.recipes.parsing import parse_recipe
from tfvt.trainers.run.folder import Run, check_vacant, start_run
from tfvt.trainers.run.lock import locked

HOLDER = f"process {os.getpid()} on {socket.gethostname()}"


def snapshot(folder):
    """Every file with its bytes, except for the lock."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


def test_the_lock_is_one_process_and_ends_with_it(tmp_path):
    run = Run(tmp_path / "new" / "run")
    with locked(run.folder):
        assert run.lock.read_text().strip() == HOLDER
        with (
            pytest.raises(UsageError, match=rf"^{HOLDER} is training in {run.folder}: wait until it ends"),
            locked(run.folder),
        ):
            pass
    assert run.contents() == []
    with locked(run.folder):
        pass


def test_only_what_a_killed_run_left_is_removed(tmp_path):
    """Not what a conversion into a folder below is writing now."""
    end = f".{0:032x}.new"
    ours = [f".recipe.yaml{end}", f".final.keras{end}.keras", f"checkpoints/.step-000000004.safetensors{end}"]
    others = [f".thesis{end}", f"records/.train-00000-of-00002{end}", f"checkpoints/.thesis{end}", ".recipe.yaml.new"]
    for name in ours + others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("precious")
    with locked(tmp_path):
        left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"lock", *others}


def test_folders_of_other_projects_are_not_replaced(config, tmp_path):
    """A folder called checkpoints is common; only a recipe beside it shows that it is a run's."""
    foreign = tmp_path / "checkpoints" / "precious.bin"
    foreign.parent.mkdir()
    foreign.write_bytes(b"work of years")
    recipe = parse_recipe(["--config", str(config)])
    for attempt in (lambda: check_vacant(Run(tmp_path), True), lambda: start_run(Run(tmp_path), recipe, True)):
        with pytest.raises(UsageError, match=rf"^{foreign.parent} is of no run, and a run in {tmp_path} would replace"):
            attempt()
    assert foreign.read_bytes() == b"work of years"
    (tmp_path / "recipe.yaml").write_text("of an earlier run")
    start_run(Run(tmp_path), recipe, overwrite=True)
    assert not foreign.exists()
    assert "resnet" in (tmp_path / "recipe.yaml").read_text()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with locked(tmp_path):
        line = capsys.readouterr().err
    assert line == (
        f"tfvt train: {tmp_path} cannot be locked (Operation not supported): make sure that no other process trains "
        "there\n"
    )


def test_a_run_that_came_meanwhile_is_not_deleted_without_overwrite(config, tmp_path):
    run, recipe = Run(tmp_path / "run"), parse_recipe(["--config", str(config)])
    check_vacant(run, overwrite=False)  # a slow start: another run begins and ends after this check
    run.folder.mkdir()
    run.recipe.write_text("epochs: 90")
    run.final_model.write_bytes(b"work of hours")
    before = snapshot(run.folder)
    with locked(run.folder), pytest.raises(UsageError, match="holds another run"):
        start_run(run, recipe)
    assert snapshot(run.folder) == before
    with locked(run.folder):
        with pytest.raises(UsageError, match=f"{HOLDER} is training in"):
            check_vacant(run, overwrite=True)
        start_run(run, recipe, overwrite=True)
    assert run.contents() == [run.recipe]


# Stands for a machine on which records and model take long: the process waits on its standard input before it takes
# the folder. What it writes says that it has looked at the folder, or that it trains.
WAIT_BEFORE_THE_FOLDER = """
from tfvt.trainers import train as module
built = module._loop
def slowly(*arguments, **options):
    loop = built(*arguments, **options)
    print("built", flush=True)
    sys.stdin.readline()
    return loop
module._loop = slowly
"""
WAIT_IN_THE_RUN = """
from tfvt.trainers.loop import Loop
step = Loop._save
def save(*arguments):
    step(*arguments)
    print("saved", flush=True)
    sys.stdin.readline()
Loop._save = save
"""


def process(arguments, patch=""):
    """`tfvt train` with a part of it replaced, and pipes to and from it."""
    command = list(arguments)
    position = command.index("-c") + 1
    command[position] = command[position].replace("; sys.exit", f"\n{patch}\nsys.exit")
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}, text=True, **pipes)


def wait_for(running, line):
    for found in running.stdout:
        if found.strip() == line:
            return
    raise AssertionError(running.communicate()[1])


def test_two_processes_never_share_a_folder(config, tmp_path):
    """Two `tfvt train` at once, one with a slow start; two `--resume` at once; kill -9 gives the folder back."""
    folder = tmp_path / "run"
    train = train_command(config, folder, "--epochs", "2")
    slow = process(train, WAIT_BEFORE_THE_FOLDER)
    wait_for(slow, "built")
    first = process(train, WAIT_IN_THE_RUN)
    wait_for(first, "saved")
    before = snapshot(folder)
    errors = slow.communicate("\n")[1]
    assert (slow.returncode, len(errors.splitlines())) == (2, 1), errors
    assert f"process {first.pid} on {socket.gethostname()} is training in {folder}: wait until it ends" in errors
    assert snapshot(folder) == before
    first.kill()
    first.communicate()
    assert first.returncode == -signal.SIGKILL

    resume = train_command(None, folder, "--resume")
    first = process(resume, WAIT_IN_THE_RUN)
    wait_for(first, "saved")
    second = process(resume)
    errors = second.communicate()[1]
    assert (second.returncode, len(errors.splitlines())) == (2, 1), errors
    assert f"process {first.pid} on {socket.gethostname()} is training in {folder}: wait until it ends" in errors
    assert first.communicate("\n" * 9)[0].splitlines()[-1].startswith("Next: ")
    assert first.returncode == 0
    assert (folder / "final.keras").is_file()


def test_a_folder_that_has_been_away_does_not_end_a_run_that_is_over(tmp_path):
    """The handle of the lock is then stale."""
    with locked(tmp_path):
        numbers = [int(entry.name) for entry in os.scandir("/proc/self/fd") if points_to(entry, tmp_path / "lock")]
        stale = os.open("/dev/full", os.O_RDONLY)
        os.dup2(stale, numbers[0])
        os.close(stale)
    with locked(tmp_path):
        assert (tmp_path / "lock").read_text().strip() == HOLDER


def points_to(entry, path):
    try:
        return os.readlink(entry.path) == str(path)
    except OSError:
        return False
