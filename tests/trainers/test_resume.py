"""A run that is interrupted and killed ends bit-equal to one that is not."""

import csv
import hashlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from kills import kill_and_resume
from processes import train_command

from tfvt.trainers.run.checkpoint import list_checkpoints, load_checkpoint
from tfvt.trainers.run.log import metric_names
from tfvt.trainers.stop import Interrupted, StopRequest


def stop_after(command, line_start, number):
    """Run `command`, send it a signal when it prints a line that begins so; returns exit status and output."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith(line_start):
                process.send_signal(number)
        return process.wait(timeout=600), "".join(lines)


def newest(folder):
    return load_checkpoint(list_checkpoints(folder / "checkpoints")[-1])


def sha256_of(checkpoint):
    digest = hashlib.sha256()
    for name in sorted(checkpoint.arrays):
        digest.update(name.encode() + checkpoint.arrays[name].tobytes())
    return digest.hexdigest()


def logged(folder):
    """Rows of metrics.csv without what depends on the clock and the machine."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = metric_names(("top1", "top5"))
    assert list(rows[0]) == list(names)
    return [{name: row[name] for name in names[: names.index("steps_per_second")]} for row in rows]


def test_a_first_signal_waits_for_the_check_and_gives_the_handlers_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        stop.check()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is before  # a second one acts at once
        with pytest.raises(Interrupted) as interrupted:
            stop.check()
    assert interrupted.value.signal_number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_ctrl_c_and_kill_9_leave_no_trace_in_the_result(finished_run, config, tmp_path):
    folder = tmp_path / "run"

    status, output = stop_after(train_command(config, folder), "epoch 2:", signal.SIGINT)
    assert status == 130, output
    stopped = newest(folder)
    assert 12 <= stopped.step < 150
    assert f"Interrupted by SIGINT at step {stopped.step} of 150; the state is saved." in output
    assert f"Continue with: tfvt train --resume --output {folder}" in output
    assert not (folder / "final.keras").exists()

    resume = train_command(None, folder, "--resume")
    killed_in = stopped.epoch + 3
    status, output = stop_after(resume, f"epoch {killed_in}:", signal.SIGKILL)
    assert status == -signal.SIGKILL, output
    assert f"step {stopped.step} of 150" in output
    # The row of an epoch is logged, then the epoch is saved: at most the work since the save before is lost.
    assert newest(folder).step >= killed_in * 6 - 6

    last = subprocess.run(resume, capture_output=True, text=True, timeout=600)
    assert last.returncode == 0, last.stdout + last.stderr
    assert "Trained to step 150;" in last.stdout
    assert (newest(folder).step, newest(folder).epoch) == (150, 25)
    assert sha256_of(newest(folder)) == sha256_of(newest(finished_run))
    assert logged(folder) == logged(finished_run)


OLD_RUN = Path(__file__).with_name("old_run")


def test_a_run_of_the_first_checkpoint_format_continues(tmp_path):
    """Stopped in its second epoch; the checkpoint has no format number, no recipe, a digest of the arrays alone.

    The losses of the second epoch are those that the code printed which wrote the checkpoint: they need its weights,
    momenta, averages and seeds. Later ones cannot be compared: batch norms of four values bring another last bit, which
    depends on the processor, to the second digit within four steps.
    """
    folder = tmp_path / "run"
    shutil.copytree(OLD_RUN / "run", folder)
    began = newest(folder)
    assert (began.step, began.epoch, began.recipe) == (4, 1, None)
    command = train_command(None, folder, "--resume", "--data.records", str(OLD_RUN / "records"))
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert "step 4 of 12" in result.stdout
    end = newest(folder)
    assert (end.step, end.epoch, end.recipe["epochs"]) == (12, 4, 4)
    rows = [(int(row["epoch"]), float(row["train_loss"]), float(row["validation_loss"])) for row in logged(folder)]
    assert [row[0] for row in rows] == [1, 2, 3, 4]
    assert rows[0] == (1, 1.69493, 1.66736)
    assert rows[1] == pytest.approx((2, 2.44727, 3.92803), abs=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_kills_at_random_moments_leave_no_trace(finished_run, config, tmp_path, seed):
    """Ten kills each; `python tests/trainers/kills.py --seed 3 --kills 20` does others."""
    runs = kill_and_resume(config, tmp_path, seed, kills=10)
    assert sum(len(run.moments) for run in runs) == 10
    for run in runs:
        assert sha256_of(newest(run.folder)) == sha256_of(newest(finished_run)), run
        assert logged(run.folder) == logged(finished_run), run
