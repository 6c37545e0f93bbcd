"""The `tfvt train` commands of the pages that no test runs: each has flags and a recipe that exist."""

import re
import shlex
import subprocess

import pytest
import yaml

from tests.pages import DOCS, blocks
from tfvt.trainers.recipes.files import packaged_recipes
from tfvt.trainers.recipes.parsing import parse_recipe

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


def recipe_flags(words):
    """The words of a call of `tfvt train` that are keys of the recipe."""
    kept = iter(words)
    flags = []
    for word in kept:
        if word in CALL:
            for _ in range(CALL[word]):
                next(kept)
        elif word != "train":
            flags.append(word)
    return flags


@pytest.mark.parametrize(
    ("page", "words"), [pytest.param(*one, id=" ".join([one[0], *one[1][:4]])) for one in commands()]
)
def test_flags_exist(page, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_recipe(recipe_flags(words)).model.name


def test_many_pages_have_commands():
    assert len({page for page, _ in commands()}) > 5


STAND_INS = {
    "tfvt": 'printf "%s\\n" "$@" > "$WORDS"',
    "scontrol": "printf 'host0\\nhost1\\n'",
    "srun": 'SLURM_PROCID=1 exec "$@"',
    "gcloud": 'last="${@: -1}"; exec bash -c "${last#--command=}"',  # the last word is the other machines' command
}


def called(script, folder, run, **variables):
    """The words that a script calls tfvt with, when the run's folder is `run`."""
    for name, content in STAND_INS.items():
        (folder / name).write_text(f"#!/bin/bash\n{content}\n")
        (folder / name).chmod(0o755)
    words = folder / "words"
    env = {"PATH": f"{folder}:/usr/bin:/bin", "WORDS": str(words), **variables}
    subprocess.run(["bash", "-e"], input=script.replace("/shared/run", str(run)), text=True, check=True, env=env)
    return words.read_text().splitlines()


def test_scripts_for_several_hosts_call_tfvt_with_flags_that_exist(tmp_path):
    """Slurm's and Cloud TPU's are scripts, Kubernetes' is a job, and the layout is a part of a recipe."""
    slurm, job, tpu, layout = (code for _, code in blocks("distributed.md"))
    container = yaml.safe_load(job)["spec"]["template"]["spec"]["containers"][0]
    assert container["command"] == ["bash", "-c"]
    scripts = {"slurm": slurm, "kubernetes": container["args"][0], "tpu": tpu}
    run = tmp_path / "run"
    for name, script in scripts.items():
        run.mkdir(exist_ok=True)
        (run / "recipe.yaml").unlink(missing_ok=True)
        words = called(script, tmp_path, run, JOB_COMPLETION_INDEX="1")
        recipe = parse_recipe(recipe_flags(words))
        assert recipe.model.name == "vit_base16"
        assert words[words.index("--output") + 1] == str(run)
        if name == "tpu":
            assert recipe.distribution.strategy == "tpu"
        else:
            hosts = {"slurm": ("host0:2222", "host1:2222"), "kubernetes": ("train-0.train:2222", "train-1.train:2222")}
            assert (recipe.distribution.strategy, recipe.distribution.workers) == ("multi_worker", hosts[name])
            assert words[words.index("--worker") + 1] == "1"
        (run / "recipe.yaml").touch()
        words = called(script, tmp_path, run, JOB_COMPLETION_INDEX="1")
        assert words[:2] == ["train", "--resume"] or words[-1] == "--resume"
        assert "--config" not in words
    file = tmp_path / "layout.yaml"
    file.write_text(f"model: {{name: vit_base16}}\ndata: {{records: .}}\n{layout}  mesh: {{data: 4, model: 2}}\n")
    recipe = parse_recipe(["--config", str(file)])
    assert recipe.distribution.layout == yaml.safe_load(layout)["distribution"]["layout"]
    assert recipe.distribution.mesh == {"data": 4, "model": 2}
