"""`tfvt train --scale_to`: the linear scaling rule, what it prints and what it refuses."""

import pytest
import yaml

from tfvt.errors import UsageError
from tfvt.trainers.cli import main
from tfvt.trainers.recipes.parsing import parse_recipe
from tfvt.trainers.recipes.scaling import scale_to


def packaged(name, *flags):
    return parse_recipe(["--config", name, "--data.records", "somewhere", *flags])


def test_all_rates_grow_with_the_batch_and_nothing_else_changes():
    """From 1024 to 256 images: a quarter."""
    recipe, line = scale_to(packaged("deit_small"), 256)
    assert line == (
        "data.batch_size 1024 -> 256; optimizer.learning_rate 0.001 -> 0.00025; "
        "schedule.warmup_learning_rate 1e-06 -> 2.5e-07; schedule.final_learning_rate 1e-05 -> 2.5e-06"
    )
    assert recipe == packaged(
        "deit_small", "--data.batch_size=256", "--optimizer.learning_rate=2.5e-4",
        "--schedule.warmup_learning_rate=2.5e-7", "--schedule.final_learning_rate=2.5e-6",
    )  # fmt: skip


def test_a_rate_that_the_schedule_does_not_have_or_that_is_zero_stays():
    recipe, line = scale_to(packaged("resnet18"), 8192)
    assert line == "data.batch_size 256 -> 8192; optimizer.learning_rate 0.1 -> 3.2"
    assert (recipe.schedule.final_learning_rate, recipe.schedule.warmup_learning_rate) == (None, 0.0)
    assert recipe.optimizer.learning_rate == pytest.approx(3.2)


def test_steps_change_so_that_the_run_sees_as_many_images():
    recipe, line = scale_to(packaged("coco_stuff_vt_fpn_resnet50", "--data.batch_size=16"), 64)
    assert (
        "; steps 90000 -> 22500; schedule.warmup_steps 1000 -> 250; schedule.decay_steps [60000, 80000] -> [150" in line
    )
    assert (recipe.steps, recipe.schedule.warmup_steps, recipe.schedule.decay_steps) == (22500, 250, (15000, 20000))
    recipe, line = scale_to(packaged("resnet18", "--steps=3"), 2**20)
    assert (recipe.steps, recipe.schedule.warmup_steps, recipe.schedule.decay_steps) == (1, None, ())


def test_flags_count_before_the_rule():
    recipe, _ = scale_to(packaged("resnet18", "--data.batch_size=64", "--optimizer.learning_rate=0.5"), 32)
    assert (recipe.data.batch_size, recipe.optimizer.learning_rate) == (32, 0.25)


def test_the_same_batch_size_changes_nothing():
    recipe = packaged("deit_small")
    assert scale_to(recipe, 1024) == (recipe, "data.batch_size is 1024 already: nothing to scale")


@pytest.mark.parametrize(
    ("batch_size", "flags", "message"),
    [
        (0, [], r"--scale_to 0: expected a batch size from 1 to 2147483647"),
        (-64, [], r"--scale_to -64: expected a batch size from 1 to 2147483647"),
        (2**31, [], r"--scale_to 2147483648: expected a batch size from 1 to 2147483647"),
        (512, ["--optimizer.learning_rate=3e38"], r"--scale_to 512: optimizer.learning_rate must be finite"),
        (1, ["--optimizer.learning_rate=1e-44"], r"--scale_to 1: optimizer.learning_rate must be above 0"),
    ],
)
def test_absurd_batches_and_rates_are_refused(batch_size, flags, message):
    with pytest.raises(UsageError, match=message):
        scale_to(packaged("resnet18", *flags), batch_size)


def test_the_run_holds_the_scaled_values_and_is_resumed_without_the_flag(config, tmp_path, capsys, fails):
    run = tmp_path / "run"
    train = ["train", "--config", str(config), "--output", str(run), "--deterministic", "false", "--epochs", "2"]
    assert main([*train, "--scale_to", "24"]) == 0
    assert "data.batch_size 8 -> 24; optimizer.learning_rate 0.02 -> 0.06\n" in capsys.readouterr().out
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert (recipe["data"]["batch_size"], recipe["optimizer"]["learning_rate"]) == (24, pytest.approx(0.06))
    rows = (run / "metrics.csv").read_text().splitlines()
    assert rows[-1].startswith("2,4,")  # two steps of 24 for 48 images
    assert "--scale_to begins a run and --resume continues one" in fails(*train, "--scale_to", "24", "--resume")
    assert main(["train", "--resume", "--output", str(run)]) == 0


def test_what_is_no_number_is_one_line(config, tmp_path, fails):
    line = fails("train", "--config", config, "--output", tmp_path / "run", "--scale_to", "many")
    assert "argument --scale_to: invalid int value: 'many'" in line
    assert not (tmp_path / "run").exists()
