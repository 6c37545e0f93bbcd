"""Several processes of one run: one is killed, one is asked to stop, all are started again."""

import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from test_equal_numbers import free_addresses
from test_resume import logged, newest, sha256_of

RECIPE = """
model: {name: vit_tiny16, options: {blocks: [{layers: 1, hidden_dim: 64, mlp_dim: 64}], dropout_rate: 0.1}}
data:
  records: RECORDS
  batch_size: 16
  train: {image_size: [32, 32]}
  evaluation: {image_size: [32, 32], crop_ratio: 1.0}
optimizer: {name: adamw, learning_rate: 1.0e-3}
ema_decay: 0.9
checkpoints: {every_steps: 1}
"""
MAIN = "import sys; from tfvt_cli import main; sys.exit(main())"
SECONDS = 3600  # of a machine that does many other things


@pytest.fixture(params=["tensorflow", "jax"])
def backend(request):
    return request.param


@pytest.fixture
def group_config(records, tmp_path):
    path = tmp_path / "group.yaml"
    path.write_text(RECIPE.replace("RECORDS", str(records)), encoding="utf-8")
    return path


STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def nothing_runs_on():
    yield
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.wait()


def start(backend, *arguments, log):
    env = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", MAIN, "train", *map(str, arguments)]
    with log.open("w") as file:
        STARTED.append(subprocess.Popen(command, env=env, stdout=file, stderr=file))
    return STARTED[-1]


def start_two(backend, config, folder, *flags):
    """Two processes, and the files of what they say."""
    addresses = free_addresses(2)
    flags = [*flags, "--distribution.strategy=multi_worker", f"--distribution.workers=[{','.join(addresses)}]"]
    logs = [folder.with_name(f"{folder.name}-{worker}.log") for worker in range(2)]
    processes = [
        start(backend, "--config", config, "--output", folder, *flags, f"--worker={worker}", log=logs[worker])
        for worker in range(2)
    ]
    return processes, logs, addresses


def wait_for(condition, processes, pause=0.05):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(pause)


def rows(folder):
    path = folder / "metrics.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


@pytest.mark.distributed
@pytest.mark.parametrize("lost", [0, 1])
def test_the_others_name_the_process_that_was_killed(backend, lost, group_config, tmp_path):
    processes, logs, addresses = start_two(backend, group_config, tmp_path / "run", "--epochs=100000")
    wait_for(lambda: rows(tmp_path / "run") > 1, processes)
    processes[lost].kill()
    killed = time.monotonic()
    assert processes[1 - lost].wait(timeout=SECONDS) == 75
    assert time.monotonic() - killed < 60
    said = [line for line in logs[1 - lost].read_text().splitlines() if line.startswith("tfvt train: error:")]
    assert len(said) == 1
    assert f"error: process {lost} ({addresses[lost]}) of this training has gone" in said[0]
    assert newest(tmp_path / "run").step >= 5  # the row of epoch 2 comes before its checkpoint, of step 6


@pytest.mark.distributed
@pytest.mark.parametrize("asked", [0, 1])
def test_all_stop_at_one_step_when_one_is_asked(backend, asked, group_config, tmp_path):
    processes, logs, _ = start_two(backend, group_config, tmp_path / "run", "--epochs=100000")
    wait_for(lambda: rows(tmp_path / "run") > 1, processes)
    processes[asked].send_signal(signal.SIGTERM)
    assert [process.wait(timeout=SECONDS) for process in processes] == [143, 143], logs[0].read_text()
    (step,) = re.findall(r"Interrupted by SIGTERM at step (\d+) of", logs[0].read_text())
    assert newest(tmp_path / "run").step == int(step)


@pytest.mark.distributed
def test_a_mistake_of_the_chief_ends_all(backend, group_config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.csv").write_text("mine")
    processes, logs, _ = start_two(backend, group_config, tmp_path / "run", "--epochs=2")
    assert [process.wait(timeout=SECONDS) for process in processes] == [2, 2]
    for log in logs:
        assert "metrics.csv is of no run, and a run in" in log.read_text()
    assert (tmp_path / "run" / "metrics.csv").read_text() == "mine"


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]


@pytest.mark.distributed
@pytest.mark.parametrize("seed", [0])
def test_a_supervised_group_ends_as_if_nobody_had_been_killed(backend, seed, group_config, tmp_path):
    draw = random.Random(seed)
    arguments = ["--config", group_config, "--epochs=30", "--supervise=2"]
    whole = start(backend, *arguments, "--output", tmp_path / "whole", log=tmp_path / "whole.log")
    assert whole.wait(timeout=SECONDS) == 0, (tmp_path / "whole.log").read_text()
    log, folder = tmp_path / "killed.log", tmp_path / "killed"
    killed = start(backend, *arguments, "--output", folder, log=log)
    lost, unfinished = [], 0
    for kill in range(10):
        goal = 3 + 8 * kill
        wait_for(lambda goal=goal: newest_step(folder) >= goal, [killed])
        if kill % 2:  # the chief, while it saves
            wait_for(lambda: saving(folder), [killed], pause=0)
            lost.append(0)
        else:
            time.sleep(draw.uniform(0, 0.3))
            lost.append(draw.randrange(2))
        os.kill(children(killed.pid)[lost[-1]], signal.SIGKILL)
        unfinished += saving(folder)
    assert killed.wait(timeout=SECONDS) == 0, log.read_text()
    said = log.read_text()
    assert len(re.findall(r"Lost process \d; the group starts again from .*step-\d+", said)) == 10
    assert [int(index) for index in re.findall(r"error: process (\d) \(\S+\) of this training has gone", said)] == lost
    assert unfinished > 0
    assert not saving(folder)
    assert sha256_of(newest(folder)) == sha256_of(newest(tmp_path / "whole"))
    assert logged(folder) == logged(tmp_path / "whole")


def saving(folder):
    """Whether a checkpoint is being written, or was when its writer was killed."""
    return any((folder / "checkpoints").glob(".step-*"))


def newest_step(folder):
    files = sorted((folder / "checkpoints").glob("step-*.safetensors"))
    return int(files[-1].stem.removeprefix("step-")) if files else 0
