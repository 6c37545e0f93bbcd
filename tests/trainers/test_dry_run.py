"""`tfvt train --dry_run` says what a run would take, and leaves no trace."""

import json
import re

import numpy as np
import pytest
from small_masks import TINY, write_small_masks

import tfvt
from tfvt.trainers import dry_run
from tfvt.trainers.cli import main
from tfvt.trainers.dry_run import state_bytes

MIB = 2**20


class Clock:
    """Training steps of 100, 2 and 4 seconds; evaluation batches of 50, 1 and 1."""

    def __init__(self):
        self.times = iter([0, 100, 102, 106, 106, 156, 157, 158])

    def perf_counter(self):
        return next(self.times)


def everything_below(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in [folder, *folder.rglob("*")]}


def test_a_dry_run_counts_estimates_and_writes_nothing(config, records, tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(dry_run, "time", Clock())
    before = [everything_below(folder) for folder in (tmp_path, records, config.parent)]
    flags = ["--deterministic", "false", "--epochs", "5", "--evaluate_every", "2", "--model.frozen", "[head]"]
    assert main(["train", "--config", str(config), *flags, "--dry_run", "--output", str(tmp_path / "run")]) == 0
    assert [everything_below(folder) for folder in (tmp_path, records, config.parent)] == before

    options = {"width": 8, "depths": (1, 1, 1, 1), "stem_pool": False}
    model = tfvt.create_model("resnet18", num_classes=6, input_shape=(32, 32, 3), **options)
    sizes = {w.path: int(np.prod(w.shape)) for w in model.weights}
    trainable = sum(sizes[w.path] for w in model.trainable_weights) - sizes["head/kernel"] - sizes["head/bias"]
    first, model_line, images, steps, time, memory = capsys.readouterr().out.splitlines()
    assert first == "Dry run of resnet18: nothing is written"
    assert model_line == (
        f"Model:   {trainable:,} of {sum(sizes.values()):,} parameters trainable; "
        f"{tfvt.profile(model).macs:,} multiply-adds per image of 32x32x3"
    )
    assert images == "Records: 48 training and 20 validation images, 6 classes"
    assert steps == "Steps:   5 epochs of 6 steps of 8 images, 30 steps in all; 3 evaluations of 3 batches"
    assert time == (
        "Time:    3 s a step (2.667 images/s), 1 s a batch of evaluation; "
        "the whole run about 0:01:39"  # 30 steps of 3 s, 3 evaluations of 3 batches of 1 s
    )
    found = dict(re.findall(r"([a-z]+(?: [a-z]+)*) ([\d.]+) MiB", memory))
    assert float(found["weights"]) == pytest.approx(4 * sum(sizes.values()) / MIB, rel=0.02)
    assert float(found["averaged weights"]) == pytest.approx(4 * sum(sizes.values()) / MIB, rel=0.02)
    assert float(found["optimizer"]) == pytest.approx(4 * trainable / MIB, rel=0.02)
    assert float(re.search(r"Memory:  ([\d,]+) MiB", memory)[1].replace(",", "")) > 300  # of this process


def test_an_evaluation_image_by_image_is_counted_in_images(tmp_path, monkeypatch, capsys):
    records = write_small_masks(tmp_path / "masks", train=9, validation=7)
    monkeypatch.setattr(dry_run, "_seconds", lambda loop: (3.0, 1.0))
    flags = ["--model.name=fpn_resnet50", f"--model.options={json.dumps(TINY)}", f"--data.records={records}"]
    assert (
        main(["train", *flags, "--data.batch_size=3", "--data.train.image_size=[64,96]", "--steps=5", "--dry_run"]) == 0
    )
    _, model, _, steps, time, _ = capsys.readouterr().out.splitlines()
    assert model.endswith(" multiply-adds per image of 64x96x3")
    assert steps == "Steps:   2 epochs of 3 steps of 3 images, 5 steps in all; 2 evaluations of 7 images"
    assert time.endswith("1 s an image of evaluation; the whole run about 0:00:29")  # 5 * 3 s + 2 * 7 * 1 s


def test_the_state_is_told_apart():
    state = {"model/0000/kernel": np.zeros(5, np.float32), "model/0001/seed": np.zeros(2, np.uint32)}
    state |= {"optimizer/0000/iterations": np.zeros((), np.int64), "sums/loss": np.zeros(())}
    assert state_bytes(state) == {"weights": 28, "optimizer": 8}


def test_a_dry_run_is_of_a_new_run(fails, config, tmp_path):
    for flag in ("--resume", "--overwrite"):
        line = fails("train", "--config", config, "--dry_run", flag, "--output", tmp_path / "run")
        assert "--dry_run writes nothing and begins from the start: leave out --resume and --overwrite" in line
    assert "no folder" in fails("train", "--config", config, "--dry_run", "--data.records", tmp_path / "none")
    assert list(tmp_path.iterdir()) == []
