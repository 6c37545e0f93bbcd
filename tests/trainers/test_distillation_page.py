"""docs/distillation.md's commands run as printed, on a few images in place of the digits."""

import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from small_records import write_small_records

from tfvt.trainers.recipes.distillation import DistillationRecipe
from tfvt.trainers.recipes.parsing import parse_recipe

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "distillation.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_commands_run_as_printed(tmp_path):
    write_small_records(tmp_path / "runs" / "demo" / "records", train=130)
    (commands,) = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^top-1 [\d.]+%, .* on 20 images of validation", result.stdout, flags=re.MULTILINE)
    teacher, student = (
        keras.models.load_model(tmp_path / "runs" / name / "final.keras", compile=False)
        for name in ("teacher", "student")
    )
    assert student.count_params() < teacher.count_params() / 10


def test_the_other_command_and_the_scales_of_pixels_are_recipes(tmp_path, monkeypatch):
    (tmp_path / "imagenet.txt").write_text("tench\n")
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(r"^tfvt train (--config resnet18 .*) --output", PAGE, flags=re.MULTILINE)
    recipe = parse_recipe([*command.split(), "--data.records=."]).distillation
    assert (recipe.teacher, recipe.options) == ("vit_base16", {"gelu": "erf"})
    assert recipe.weights == str(tmp_path / "vit.safetensors")
    rows = re.findall(r"^\| (.*?) \| `(\[.*?\])` \| `(\[.*?\])` \|$", PAGE, flags=re.MULTILINE)
    ends = {}
    for name, mean, std in rows:
        flags = [f"--distillation.pixel_mean={mean}", f"--distillation.pixel_std={std}"]
        scale = parse_recipe(["--model.name=resnet18", "--data.records=.", *flags]).distillation
        ends[name] = [(value - scale.pixel_mean[0]) / scale.pixel_std[0] for value in (0, 255)]
    assert ends["0..255 (default)"] == [0, 255]
    assert ends["0..1"] == [0, 1]
    assert ends["-1..1"] == [-1, 1]
    assert ends["ImageNet's statistics"] == pytest.approx([-0.485 / 0.229, (1 - 0.485) / 0.229])


def test_the_page_names_every_key_and_the_defaults():
    plain = DistillationRecipe()
    for key in vars(plain):
        assert f"`distillation.{key}`" in PAGE, key
    assert f"`distillation.teacher_share` ({plain.teacher_share})" in PAGE
    assert f"`distillation.temperature` ({plain.temperature:g})" in PAGE
