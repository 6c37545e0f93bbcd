"""The command line as a user types it, in this process where that is possible: models, recipes, training."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_records import write_small_records

from tfvt import configs
from tfvt.errors import UsageError
from tfvt.trainers.cli import main
from tfvt.trainers.engines.tensorflow import TensorFlowEngine
from tfvt.trainers.recipes.parsing import parse_recipe
from tfvt.trainers.run.checkpoint import check_finite, list_checkpoints, load_checkpoint
from tfvt.trainers.run.folder import Run, check_checkpoint_recipe
from tfvt.trainers.tasks.classification import Classification

# What a run sets for its whole process would outlive the test.
HERE = ("--deterministic", "false", "--epochs", "2")


def test_models_and_profile_need_no_tensorflow():
    script = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            raise ImportError("TensorFlow is not installed")
sys.meta_path.insert(0, Block())
from tfvt.trainers.cli import main
assert main(["models", "vt_resnet1*"]) == 0
assert main(["profile", "resnet18", "--width", "8", "--input_shape", "64", "64", "3", "--num_classes", "10"]) == 0
assert main(["profile", "vt_resnet18", "--help"]) in (0, None)
"""
    result = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"KERAS_BACKEND": "jax"}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    names, _, rest = result.stdout.partition("\nlayer")
    assert names.split() == ["vt_resnet101", "vt_resnet18"]
    assert re.search(r"^head +Dense +10 +650 +640$", rest, re.MULTILINE)
    assert "--num_tokens" in rest


def test_commands_are_listed_and_a_wrong_one_is_named(fails, capsys):
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    for name in ("train", "evaluate", "report", "predict", "export", "models", "profile", "records"):
        assert re.search(rf"^  {name} +\S", listed, re.MULTILINE)
    assert "there is no command 'trian'" in fails("trian")
    assert "no model matches 'zz*'" in fails("models", "zz*")
    assert "unknown model 'resnt18': did you mean resnet18" in fails("profile", "resnt18")
    assert "there is no key widht; did you mean width" in fails("profile", "resnet18", "--widht", "8")
    assert "arguments are required: run" in fails("evaluate")


def test_profile_needs_only_a_name(fails, capsys):
    assert main(["profile", "resnet18"]) == 0
    assert re.search(r"^head +Dense +1000 +513,000 ", capsys.readouterr().out, re.MULTILINE)
    assert re.search(r'"width".*int.*many', fails("profile", "resnet18", "--width", "many"))


def test_profile_help_shows_what_the_model_has(capsys):
    with pytest.raises(SystemExit):
        main(["profile", "vt_resnet18", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert re.search(
        r"--depths \[ITEM,...\] residual blocks in each stage. \(type: tuple\[int, ...\], default: \(2, 2, 2\)\)", words
    )
    assert "[--num_modules NUM_MODULES]" in words
    assert "required" not in words


def test_train_help_lists_the_keys(capsys):
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    for flag in ("--output", "--resume", "--overwrite", "--config", "--optimizer.learning_rate", "--data.records"):
        assert f" {flag}" in text


def test_recipes_lists_what_the_package_brings_along(capsys, fails):
    assert main(["recipes"]) == 0
    lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    packaged = sorted(path.stem for path in Path(configs.__file__).parent.glob("*.yaml"))
    assert list(lines) == packaged
    assert len(packaged) >= 15
    assert lines["digits_vt_resnet"].startswith("A small VT-ResNet on 64x64 images")
    assert "more" in fails("recipes", "more")


def test_records_are_passed_on(capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["records", "--help"])
    assert leaving.value.code == 0
    assert "convert" in capsys.readouterr().out


def test_a_folder_is_taken_only_when_everything_is_there(fails, config, tmp_path):
    folder = tmp_path / "run"
    train = ("train", "--config", config, *HERE, "--output", folder)
    assert "say where the run goes: --output FOLDER" in fails("train", "--config", config)
    assert "argument --output: expected a folder, not an empty name" in fails("train", "--config", config, "--output=")
    for arguments in (["--config"], ["--config="], ["--config", ""]):
        assert "--config: expected a file" in fails("train", "--output", folder, *arguments)
    assert f"no folder {tmp_path}/none" in fails(*train, "--data.records", tmp_path / "none")
    assert "no key model.options.tokenz" in fails(*train, "--model.options.tokenz", "8")
    assert "batch_size must be from 1" in fails(*train, "--data.batch_size", "1000")
    assert "has no split 'test'" in fails(*train, "--data.validation_split", "test")
    sizes = ("--data.train.image_size", "[8,8]", "--data.evaluation.image_size", "[8,8]")
    assert "height 8 is below 16" in fails(*train, *sizes)
    assert f"{folder} holds no run" in fails("train", "--resume", "--output", folder)
    with socket.create_server(("localhost", 0)) as free:
        server = f"grpc://localhost:{free.getsockname()[1]}"
    assert f"data: no server at {server}" in fails(*train, f"--data.servers=[{server}]")
    assert "servers: 'grpc://localhost:99999' is not an address" in fails(
        *train, "--data.servers=[grpc://localhost:99999]"
    )
    assert "epochs 2147483647: the run would have 12884901882 steps" in fails(*train, "--epochs", 2**31 - 1)
    assert "steps 2147483647: the run would have 2147483647 steps" in fails(*train, "--steps", 2**31 - 1)
    assert "model: width=1000000000: expected an integer of at least 1" in fails(*train, "--model.options.width", 10**9)
    assert not folder.exists()


def test_missing_and_damaged_shards_are_named(fails, config, tmp_path):
    records = write_small_records(tmp_path / "records")
    train = ("train", "--config", config, *HERE, "--data.records", records, "--output", tmp_path / "run")
    shard = records / "train-00001-of-00002"
    content = shard.read_bytes()
    shard.unlink()
    assert f"shard {shard} is missing" in fails(*train)
    shard.write_bytes(content[: len(content) // 2])
    assert f"shard {shard} is cut off" in fails(*train)
    shard.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    assert re.search(rf"error: record \d+ of {shard}.* is damaged or cut off", fails(*train, "--overwrite"))


def test_another_run_in_the_folder_is_refused_replaced_or_continued(fails, config, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    train = ("train", "--config", str(config), *HERE, "--output", str(folder))
    assert main(train) == 0
    assert f"{folder} holds another run" in fails(*train)
    assert "(optimizer.learning_rate: 0.02 -> 0.5); leave out" in fails(
        *train, "--resume", "--optimizer.learning_rate", "0.5"
    )
    assert "(epochs: 2 -> 25" in fails("train", "--resume", "--output", folder, f"--config={config}")
    assert "(epochs: 2 -> 25" in fails("train", "--resume", "--output", folder, "--config", config)
    assert "give one of them" in fails("train", "--resume", "--overwrite", "--output", folder)
    assert "expected one argument" in fails("train", "--output")
    capsys.readouterr()
    (folder / "final.keras").unlink()
    report = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    assert main(["train", "--resume", "--output", str(folder)]) == 0
    assert "step 12 of 12" in capsys.readouterr().out
    assert (folder / "final.keras").exists()
    assert (folder / "report.html").read_bytes() == report
    assert main([*train, "--overwrite", "--epochs", "3"]) == 0
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["epochs"] == 3
    assert len((folder / "metrics.csv").read_text().splitlines()) == 4
    assert (folder / "notes.txt").read_text() == "mine"
    newest = max((folder / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:1000])
    assert f"{newest} is damaged" in fails("train", "--resume", "--output", folder)


def rename_a_class(records):
    manifest = (records / "manifest.json").read_text()
    (records / "manifest.json").write_text(manifest.replace('"red"', '"renamed"'))


@pytest.mark.parametrize(
    ("change", "split"),
    [
        (rename_a_class, "training"),
        (lambda records: write_small_records(records, train=64), "training"),  # fits into the run's steps
        (lambda records: write_small_records(records, seed=1), "training"),
        (lambda records: write_small_records(records, validation=18), "validation"),
    ],
    ids=["classes", "count", "images", "validation"],
)
def test_a_run_is_not_continued_on_other_records(fails, finished_run, tmp_path, change, split):
    run, records = tmp_path / "run", tmp_path / "records"
    shutil.copytree(finished_run, run)
    shutil.copytree(yaml.safe_load((run / "recipe.yaml").read_text())["data"]["records"], records)
    change(records)
    before = (run / "serving.json").read_text()
    line = fails("train", "--resume", "--output", run, "--data.records", records)
    digests = re.search(rf"this run began with other {split} data: .* (\w{{64}}), and (\w{{64}}) in {run}/check", line)
    assert digests[1] != digests[2]
    assert (run / "serving.json").read_text() == before


def test_a_run_is_used_from_any_folder_and_continued_on_moved_records(config, tmp_path, monkeypatch, capsys):
    write_small_records(tmp_path / "records")
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config", str(config), *HERE, "--data.records", "records", "--output", "run"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    shutil.move(tmp_path / "records", tmp_path / "moved")
    capsys.readouterr()
    assert main(["train", "--resume", "--output", str(tmp_path / "run"), "--data.records", "../moved"]) == 0
    assert "step 12 of 12" in capsys.readouterr().out


@pytest.mark.parametrize("every_steps", ["4", "null"])
def test_a_loss_that_is_not_finite_stops_the_run(fails, config, tmp_path, every_steps):
    line = fails(
        *("train", "--config", config, *HERE, "--output", tmp_path / "run"),
        *("--optimizer.learning_rate", "1e30", "--schedule.warmup_epochs", "0"),
        *("--checkpoints.every_steps", every_steps),
    )
    assert re.search(r"the training loss is nan at step \d+ .*lower optimizer.learning_rate", line)
    assert not list((tmp_path / "run").glob("checkpoints/*"))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("model", r"model/\d+/head/bias is not finite at step 12 \(epoch 2\): start again with a lower"),
        ("average", r"the validation loss is nan at step 12 \(epoch 2\): start again with a lower"),
        ("model, resumed at its end", r"model/\d+/\S+ is not finite at step 12"),
    ],
)
def test_what_is_not_finite_is_neither_saved_nor_published(fails, config, tmp_path, monkeypatch, part, message):
    """What the last update of a run leaves, which no later step would notice."""
    run, last = tmp_path / "run", 12
    train = ("train", "--config", config, *HERE, "--output", run, "--checkpoints.keep", "1")
    if "resumed" in part:
        assert main([str(argument) for argument in train]) == 0
        (run / "final.keras").unlink()
        restore = TensorFlowEngine.restore

        def damaged(engine, arrays):
            restore(engine, arrays)
            engine.model.weights[0].assign(engine.model.weights[0] * np.nan)

        monkeypatch.setattr(TensorFlowEngine, "restore", damaged)
        assert re.search(message, fails("train", "--resume", "--output", run))
    else:
        step = TensorFlowEngine.train_steps
        steps = []

        def last_step_diverges(engine, batches, count):
            engine.__class__.original_step(engine, batches, count)
            steps.append(1)
            if len(steps) == last:
                variable = getattr(engine.update, part).weights[-1]
                variable.assign(variable * np.nan)

        monkeypatch.setattr(TensorFlowEngine, "original_step", step, raising=False)
        monkeypatch.setattr(TensorFlowEngine, "train_steps", last_step_diverges)
        assert re.search(message, fails(*train))
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000000008.safetensors"]
    (kept,) = list_checkpoints(run / "checkpoints")
    check_finite(load_checkpoint(kept).arrays)
    assert not (run / "final.keras").exists()


def test_an_edited_recipe_is_not_continued(fails, finished_run, tmp_path):
    run = Run(tmp_path / "run")
    shutil.copytree(finished_run, run.folder)
    tree = yaml.safe_load(run.recipe.read_text())
    edits = {"seed": 1, "epochs": 26, "optimizer.learning_rate": 0.5, "data.batch_size": 4, "model.options.width": 9}
    for key, value in edits.items():
        group, _, last = key.rpartition(".")
        changed = yaml.safe_load(run.recipe.read_text())
        branch = changed
        for part in filter(None, group.split(".")):
            branch = branch[part]
        old, branch[last] = branch[last], value
        (run.folder / "edited.yaml").write_text(yaml.safe_dump(changed))
        began = load_checkpoint(list_checkpoints(run.checkpoints)[-1]).recipe
        with pytest.raises(UsageError, match=rf"was made with \({key}: {old} -> {value}\); put the old values back"):
            check_checkpoint_recipe(run, began, parse_recipe(["--config", str(run.folder / "edited.yaml")]))
    # Another form of the same: keys in another order, defaults left out, other records, newly known keys.
    for key in ("schedule", "distribution", "evaluate_every"):
        tree.pop(key)
    tree["schedule"] = {"warmup_epochs": 1.0, "name": "cosine"}
    tree["data"]["records"] = "elsewhere"
    run.recipe.write_text(yaml.safe_dump(tree, default_flow_style=True))
    began.pop("evaluate_every")
    check_checkpoint_recipe(run, began, parse_recipe(["--config", str(run.recipe)]))
    tree["evaluate_every"] = 2
    run.recipe.write_text(yaml.safe_dump(tree))
    with pytest.raises(UsageError, match=r"evaluate_every: None -> 2"):
        check_checkpoint_recipe(run, began, parse_recipe(["--config", str(run.recipe)]))
    line = fails("train", "--resume", "--output", run.folder, "--data.records", recipe_records(finished_run))
    assert (
        f"--resume: {run.recipe} is not the recipe that the run's checkpoint was made with (evaluate_every: 1" in line
    )


def recipe_records(run):
    return yaml.safe_load((run / "recipe.yaml").read_text())["data"]["records"]


def test_ctrl_c_while_the_model_is_built_is_one_line(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Classification, "model", lambda self: os.kill(os.getpid(), signal.SIGINT))
    assert main(["train", "--config", str(config), *HERE, "--output", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err == "tfvt train: interrupted\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("module", ["numpy", "tensorflow", "tfvt.trainers.train"])
def test_ctrl_c_during_imports_is_one_line(module, config, tmp_path):
    script = f"""
import os, signal, sys
class CtrlC:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, CtrlC())
import tfvt_cli
sys.exit(tfvt_cli.main())
"""
    command = [sys.executable, "-c", script, "train", "--config", str(config), "--output", str(tmp_path / "run")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (130, "tfvt train: interrupted\n")


def test_a_run_trains_and_is_evaluated_on_jax_and_serves_on_tensorflow(config, tmp_path, capsys):
    script = """
import sys
from tfvt.trainers.cli import main
config, folder = sys.argv[1:]
assert main(["train", "--config", config, "--epochs=2", "--output", folder]) == 0
assert main(["evaluate", folder]) == 0
assert main(["predict", folder, "a.png"]) == main(["export", folder]) == 2
"""
    result = subprocess.run(
        [sys.executable, "-c", script, str(config), str(tmp_path / "run")],
        env=os.environ | {"KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    needs = "error: this needs KERAS_BACKEND=tensorflow, and Keras runs on 'jax'"
    said = [line for line in result.stderr.splitlines() if line.startswith("tfvt ")]
    assert [line.endswith(needs) for line in said] == [True] * 2, result.stderr
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    on_tensorflow = capsys.readouterr().out.splitlines()[-1]
    assert on_tensorflow in result.stdout
    assert re.search(r"top-1 \d+\.\d+%, top-5 \d+\.\d+%, loss \d\.\d+ on 20 images", on_tensorflow)


def test_a_reader_that_goes_away_is_no_error():
    script = "import sys; from tfvt.trainers.cli import main; sys.exit(main(['models']))"
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run([sys.executable, "-c", script], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (result.returncode, result.stderr) == (141, "")
