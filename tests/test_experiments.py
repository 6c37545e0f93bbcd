"""`python -m benchmarks.experiments`: what runs, what is skipped, and the table."""

import csv
from pathlib import Path

import pytest

from benchmarks import experiments
from tfvt.trainers.recipes.parsing import parse_recipe

ROOT = Path(__file__).parent.parent


def test_a_pair_differs_in_the_model_alone():
    for pair in experiments.PAIRS:
        recipes = []
        for recipe, flags in pair.values():
            whole = parse_recipe(["--config", recipe, *flags, "--data.records=."])
            recipes.append({key: value for key, value in vars(whole).items() if key != "model"})
        assert recipes[0] == recipes[1]


def test_the_table_has_means_deviations_and_differences():
    results = [{"A": (1000, 2000, [0.5, 0.6, 0.7]), "B": (10, 20, [0.6, 0.8, 0.7])}]
    assert experiments.table(results).splitlines() == [
        "| model | parameters | MACs | seed 1 | seed 2 | seed 3 | mean | deviation |",
        "|---|---|---|---|---|---|---|---|",
        "| A | 1,000 | 2,000 | 50.00 | 60.00 | 70.00 | 60.00 | 10.00 |",
        "| B | 10 | 20 | 60.00 | 80.00 | 70.00 | 70.00 | 10.00 |",
        "| difference | | | +10.00 | +20.00 | +0.00 | +10.00 | 10.00 |",
    ]


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Runs as `tfvt train` would leave them, with made-up scores; the commands that were asked for."""
    commands = []

    def tfvt(command, *words):
        commands.append([command, *map(str, words)])
        if command == "train":
            run = Path(commands[-1][commands[-1].index("--output") + 1])
            run.mkdir(parents=True, exist_ok=True)
            (run / "final.keras").touch()
            if "--resume" in commands[-1]:
                return
            (run / "recipe.yaml").touch()
            seed = next(int(word[-1]) for word in commands[-1] if word.startswith("--seed="))
            with open(run / "metrics.csv", "w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([["validation_top1"], [0.1], [0.5 + seed / 10]])

    monkeypatch.setattr("benchmarks.distillation.tfvt", tfvt)
    monkeypatch.setattr("benchmarks.distillation.write_folders", lambda folder: None)
    monkeypatch.setattr(experiments, "counts", lambda run: (1, 2))
    return commands


def test_finished_runs_are_skipped_and_the_page_is_written(tmp_path, trained):
    page = tmp_path / "page.md"
    page.write_text((ROOT / "docs" / "experiments.md").read_text(encoding="utf-8"), encoding="utf-8")
    arguments = ["--folder", str(tmp_path / "runs"), "--write", str(page), "--epochs", "3"]
    experiments.main(arguments)
    assert len(trained) == 1 + 18  # the records, and six models of three seeds
    assert all(command[-4:-2] == ["--epochs", "3"] for command in trained[1:])
    first = page.read_text(encoding="utf-8")
    assert "| VT-ResNet | 1 | 2 | 50.00 | 60.00 | 70.00 | 60.00 | 10.00 |" in first
    assert "not been made" not in first
    (tmp_path / "runs" / "runs" / "vit_1" / "final.keras").unlink()  # stopped before its end
    (tmp_path / "runs" / "records").mkdir()
    (tmp_path / "runs" / "records" / "manifest.json").touch()
    del trained[:]
    experiments.main(arguments)
    assert [command[:2] for command in trained] == [["train", "--resume"]]
    assert page.read_text(encoding="utf-8") == first
