"""Whether a run that has lost its end reaches the same one again."""

import shutil

from tfvt.trainers.cli import main
from tfvt.trainers.run.checkpoint import list_checkpoints, load_checkpoint


def check_resume(whole, parts):
    """Copy the finished run `whole` without its last checkpoint and its model, resume it, and compare every bit."""
    shutil.copytree(whole, parts)
    list_checkpoints(parts / "checkpoints")[-1].unlink()
    (parts / "final.keras").unlink()
    assert main(["train", "--resume", "--output", str(parts)]) == 0
    states = [load_checkpoint(list_checkpoints(run / "checkpoints")[-1]).arrays for run in (whole, parts)]
    assert [a.tobytes() for a in states[0].values()] == [a.tobytes() for a in states[1].values()]
