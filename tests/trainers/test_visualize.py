"""`tfvt visualize rates` on runs of small models with drawn rates."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tfvt
from tfvt.analysis import path_rates
from tfvt.trainers.cli import main
from tfvt.trainers.recipes.parsing import parse_recipe
from tfvt.trainers.run.folder import Run
from tfvt.trainers.run.model import write_model

ROOT = Path(__file__).parents[2]
SWIN = {"depths": (1, 2), "width": 16, "head_dim": 8, "window_size": 4, "input_shape": (32, 32, 3)}


def write_run(folder, model):
    folder.mkdir()
    run = Run(folder)
    run.recipe.write_text("epochs: 1\n")
    write_model(run, model)
    return folder


@pytest.fixture(scope="module")
def swins():
    """Two ACmix-Swins with other rates."""
    models = [tfvt.create_model("acmix_swin_tiny", **SWIN) for _ in range(2)]
    rng = np.random.default_rng(0)
    for model in models:
        for weight in model.weights:
            if re.search(r"/mixer/(alpha|beta)$", weight.path):
                weight.assign(rng.normal())
    return models


@pytest.fixture(scope="module")
def runs(swins, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [write_run(folder / f"swin{number}", model) for number, model in enumerate(swins)]


def visualize(capsys, *arguments):
    """(exit status, stdout, stderr)."""
    status = main(["visualize", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_rates_are_printed_and_drawn(swins, runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, printed, _ = visualize(capsys, "rates", *runs)
    assert status == 0
    expected = [path_rates(model) for model in swins]
    blocks = [f"{run}: acmix_swin_tiny\n{rates}\n\n" for run, rates in zip(runs, expected, strict=True)]
    assert printed == "".join(blocks) + "picture: rates.png\n"
    values = re.findall(r"^(stage\S+) +(\S+) +(\S+) +(\S+)$", printed, re.MULTILINE)
    assert [row[0] for row in values[:3]] == ["stage1_block1/mixer", "stage2_block1/mixer", "stage2_block2/mixer"]
    alpha, beta, log_ratio = np.array([row[1:] for row in values], dtype="float64").T
    np.testing.assert_allclose(alpha, np.concatenate([rates.alpha for rates in expected]), atol=6e-5)
    assert len(set(alpha) | set(beta)) == 12
    np.testing.assert_allclose(log_ratio, np.log(np.abs(alpha / beta)), atol=2e-3)
    assert [path.name for path in tmp_path.iterdir()] == ["rates.png"]
    with Image.open("rates.png") as picture:
        assert min(picture.size) > 200


@pytest.mark.parametrize(("name", "start"), [("rates.svg", b"<?xml"), ("rates.pdf", b"%PDF")])
def test_the_picture_has_the_form_that_its_name_says(name, start, runs, tmp_path, capsys):
    assert visualize(capsys, "rates", runs[0], "--output", tmp_path / name)[0] == 0
    assert (tmp_path / name).read_bytes().startswith(start)


def test_the_page_trains_what_it_draws():
    page = (ROOT / "docs" / "visualize_rates.md").read_text(encoding="utf-8")
    trained = re.findall(
        r"^tfvt train --config (digits_acmix_\S+) --output (\S+)(?: --seed (\d))?$", page, re.MULTILINE
    )
    drawn = re.search(r"^tfvt visualize rates (.*) --output rates.png$", page, re.MULTILINE)[1]
    assert drawn.split() == [output for _, output, _ in trained]
    for config, _, seed in trained:
        recipe = parse_recipe(["--config", config, "--seed", seed or "0"])
        assert recipe.model.name.startswith("acmix_")
        assert recipe.data.records == "runs/demo/records"


def test_mistakes_are_named(runs, tmp_path, capsys):
    plain = write_run(tmp_path / "plain", tfvt.create_model("resnet18", width=8, depths=(1,), input_shape=(32, 32, 3)))
    fixed = write_run(tmp_path / "fixed", tfvt.create_model("acmix_swin_tiny", combine="sum", **SWIN))
    for arguments, message in (
        ((), "the following arguments are required: PICTURE"),
        (("pictures",), "invalid choice: 'pictures'"),
        (("rates",), "the following arguments are required: RUN"),
        (("rates", tmp_path / "none"), f"{tmp_path}/none holds no run"),
        (("rates", runs[0], plain), f"{plain}: resnet18 has no ACmix layer"),
        (("rates", fixed), f"{fixed}: acmix_swin_tiny has no learned rates: its ACmix layers combine"),
        (("rates", runs[0], "--output", tmp_path / "rates.txt"), "rates.txt: expected a name that ends in .png, "),
        (("rates", runs[0], "--output", tmp_path / "no" / "rates.png"), f"there is no folder {tmp_path}/no"),
    ):
        status, printed, line = visualize(capsys, *arguments)
        assert (status, printed) == (2, "")
        assert line.startswith("tfvt visualize: error: ")
        assert message in line
    assert {path.name for path in tmp_path.iterdir()} == {"plain", "fixed"}
