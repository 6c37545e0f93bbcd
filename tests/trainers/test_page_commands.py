"""The `tfvt train` commands of the pages that no test runs: each has flags and a recipe that exist."""

import re
import shlex
import subprocess

import pytest
import yaml

from tests.pages import DOCS, blocks
from tfvt.trainers.recipes.files import packaged_recipes
from tfvt.trainers.recipes.parsing import parse_recipe, write_recipe

CALL = {"--output": 1, "--init": 1, "--supervise": 1, "--worker": 1, "--scale_to": 1, "--dry_run": 0}  # their words


def commands():
    """(page, words) of every command that names a recipe of tfvt and no place of the reader's, such as NAME."""
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for block in re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            for line in re.findall(r"^tfvt train (.*)$", block, re.MULTILINE):
                words = shlex.split(line, comments=True)
                config = words[words.index("--config") + 1] if "--config" in words else None
                if config in packaged_recipes() and not re.search(r"\b[A-Z]{3,}\b|\.\.\.", line):
                    yield page.name, words


@pytest.mark.parametrize(
    ("page", "words"), [pytest.param(*one, id=" ".join([one[0], *one[1][:4]])) for one in commands()]
)
def test_flags_exist(page, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = iter(words)
    flags = []
    for word in kept:
        if word in CALL:
            for _ in range(CALL[word]):
                next(kept)
        else:
            flags.append(word)
    records = [] if "--data.records" in flags or "digits" in words[1] or "shapes" in words[1] else ["--data.records=."]
    assert parse_recipe([*flags, *records]).model.name


def test_many_pages_have_commands():
    assert len({page for page, _ in commands()}) > 5


def test_scripts_for_several_hosts_are_whole(tmp_path):
    """Slurm's and Cloud TPU's are scripts, Kubernetes' is a job, and the layout is a part of a recipe."""
    slurm, job, tpu, layout = (code for _, code in blocks("distributed.md"))
    for script in (slurm, tpu):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert yaml.safe_load(job)["kind"] == "Job"
    file = tmp_path / "layout.yaml"
    file.write_text(f"model: {{name: vit_base16}}\ndata: {{records: .}}\n{layout}  mesh: {{data: 4, model: 2}}\n")
    recipe = parse_recipe(["--config", str(file)])
    assert recipe.distribution.layout == yaml.safe_load(layout)["distribution"]["layout"]
    assert recipe.distribution.mesh == {"data": 4, "model": 2}
    write_recipe(recipe, tmp_path / "recipe.yaml")  # as a run keeps it
    assert parse_recipe(["--config", str(tmp_path / "recipe.yaml")]) == recipe
