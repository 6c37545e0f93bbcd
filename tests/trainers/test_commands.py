"""The command line as a user types it, in this process where that is possible."""

import csv
import errno
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from limits import largest_file
from PIL import Image
from small_records import CLASS_NAMES, tinted_image, write_small_records

from tfvt import configs
from tfvt.data.classification import ClassificationServing
from tfvt.trainers.cli import main
from tfvt.trainers.engines.tensorflow import TensorFlowEngine
from tfvt.trainers.errors import UsageError
from tfvt.trainers.recipes.parsing import parse_recipe
from tfvt.trainers.run.checkpoint import check_finite, list_checkpoints, load_checkpoint
from tfvt.trainers.run.folder import Run, check_checkpoint_recipe
from tfvt.trainers.run.model import read_serving, write_model
from tfvt.trainers.tasks.classification import Classification

# What a run sets for its whole process would outlive the test.
HERE = ("--deterministic", "false", "--epochs", "2")


@pytest.fixture
def fails(capsys):
    """Run a command that must fail with status 2 and one line on stderr; returns the line."""

    def run(*arguments):
        assert main([str(argument) for argument in arguments]) == 2
        captured = capsys.readouterr()
        (line,) = captured.err.splitlines()
        assert line.startswith(f"tfvt {arguments[0]}: error: ")
        return line

    return run


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
    for name in ("train", "evaluate", "predict", "export", "models", "profile", "records"):
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
    assert main(["train", "--resume", "--output", str(folder)]) == 0
    assert "step 12 of 12" in capsys.readouterr().out
    assert (folder / "final.keras").exists()
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
    digests = re.search(
        rf"{records} is not what this run began with: the {split} records .* (\w{{64}}), .* (\w{{64}})$", line
    )
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
                variable = getattr(engine, part).weights[-1]
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


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_a_damaged_final_model_is_one_line(finished_run, fails, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    content = (run / "final.keras").read_bytes()
    central = content.rindex(b"PK\x01\x02")
    damages = {
        "config": flipped(content, content.index(b'"class_name"')),
        "weights": flipped(content, len(content) // 2),
        "directory": flipped(content, central),
        "method": flipped(content, central + 10),
        "end": flipped(content, content.rindex(b"PK\x05\x06")),
        "cut": content[: len(content) // 2],
        "empty": b"",
    }
    for damage in damages.values():
        (run / "final.keras").write_bytes(damage)
        line = fails("evaluate", run)
        assert f"{run / 'final.keras'} cannot be read, it is damaged or of another Keras (" in line
        assert line.endswith(f"`tfvt train --resume --output {run}` writes it again from the last checkpoint")
        assert len(line) < 700


def test_a_full_disk_leaves_no_half_of_a_final_model(tmp_path, finished_run):
    run, model = Run(tmp_path), keras.models.load_model(finished_run / "final.keras")
    words = rf"cannot write {tmp_path}/final.keras \(.*File too large.*: make room"
    with largest_file(50_000), pytest.raises(UsageError, match=words):
        write_model(run, model)
    assert list(tmp_path.iterdir()) == []


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


def last_row(run):
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))[-1]


def test_a_run_folder_holds_what_the_page_says(finished_run):
    names = {path.name for path in finished_run.iterdir()}
    assert (finished_run / "lock").read_bytes() == b""
    assert names == {"lock", "recipe.yaml", "serving.json", "metrics.csv", "tensorboard", "checkpoints", "final.keras"}
    serving = json.loads((finished_run / "serving.json").read_text())
    assert serving["class_names"] == list(CLASS_NAMES)
    assert serving["preprocessing"] == {"image_size": [32, 32], "crop_ratio": 1.0, "interpolation": "bilinear"}
    assert len(list((finished_run / "checkpoints").iterdir())) == 2
    row = last_row(finished_run)
    assert (row["epoch"], row["step"]) == ("25", "150")
    assert all(float(row[name]) > 0 for name in ("images_per_second", "peak_memory_mib", "train_loss"))
    (events,) = (finished_run / "tensorboard").iterdir()
    tags = {
        value.tag: float(tf.make_ndarray(value.tensor))
        for record in tf.data.TFRecordDataset(str(events))
        for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value
    }
    assert tags["validation/top1"] == pytest.approx(float(row["validation_top1"]))
    assert {"train/loss", "train/top5", "validation/loss", "learning_rate", "steps_per_second"} <= tags.keys()


def test_evaluate_gives_the_figures_of_the_last_epoch(finished_run, fails, capsys, tmp_path):
    assert main(["evaluate", str(finished_run)]) == 0
    row = last_row(finished_run)
    top1, top5 = float(row["validation_top1"]), float(row["validation_top5"])
    assert top1 >= 0.9
    line = capsys.readouterr().out
    assert line.startswith(f"top-1 {top1:.2%}, top-5 {top5:.2%}, loss {float(row['validation_loss']):.4f} on 20 images")
    assert main(["evaluate", str(finished_run), "--split", "train", "--batch_size", "7"]) == 0
    assert "on 48 images of train" in capsys.readouterr().out
    assert "no folder" in fails("evaluate", finished_run, "--records", tmp_path / "none")
    unfinished = tmp_path / "unfinished"
    shutil.copytree(finished_run, unfinished)
    (unfinished / "final.keras").unlink()
    assert "training has not ended" in fails("evaluate", unfinished)
    (unfinished / "final.keras").write_bytes(b"no model")
    assert f"{unfinished / 'final.keras'} cannot be read" in fails("evaluate", unfinished)


def test_the_final_model_loads_by_itself_with_averaged_weights(finished_run):
    from tfvt.trainers.run.checkpoint import list_checkpoints, load_checkpoint

    model = keras.models.load_model(finished_run / "final.keras")
    arrays = load_checkpoint(list_checkpoints(finished_run / "checkpoints")[-1]).arrays
    averages = [arrays[name] for name in sorted(arrays) if name.startswith("average/")]
    for weight, average in zip(model.weights, averages, strict=True):
        np.testing.assert_array_equal(weight.numpy(), average)


def test_evaluate_refuses_a_batch_of_nothing(finished_run, fails):
    assert "--batch_size must be at least 1, not 0" in fails("evaluate", finished_run, "--batch_size", "0")


GOOD_SIZE = '"preprocessing": {"image_size": [8, 8], "crop_ratio": 1.0}'
DAMAGED_SERVING = (
    "[]",
    "5",
    '"text"',
    "null",
    "[" * 9999,
    "{}",
    '{"class_names": [], "preprocessing": {"image_size": [8, 8], "crop": 1}}',
    f'{{"class_names": "abc", {GOOD_SIZE}}}',
    f'{{"class_names": 6, {GOOD_SIZE}}}',
    f'{{"class_names": [1, 2], {GOOD_SIZE}}}',
    '{"class_names": ["a"], "preprocessing": 3}',
    '{"class_names": ["a"], "preprocessing": [3]}',
    '{"class_names": ["a"], "preprocessing": {"image_size": 8}}',
    '{"class_names": ["a"], "preprocessing": {"image_size": ["8", "8"]}}',
    '{"class_names": ["a"], "preprocessing": {"image_size": [8, 8], "crop_ratio": "1"}}',
    '{"class_names": ["a"], "preprocessing": {"image_size": [8, 8], "interpolation": []}}',
)


def test_damage_of_any_kind_in_a_serving_file_is_named(tmp_path):
    run = Run(tmp_path)
    run.serving.write_text(f'{{"class_names": ["a"], {GOOD_SIZE}}}')
    assert read_serving(run, ClassificationServing).class_names == ("a",)
    for content in DAMAGED_SERVING:
        run.serving.write_text(content)
        with pytest.raises(UsageError, match=rf"{run.serving} cannot be read"):
            read_serving(run, ClassificationServing)


def test_a_serving_file_of_other_classes_is_named(finished_run, fails, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    serving = json.loads((run / "serving.json").read_text())
    (run / "serving.json").write_text(json.dumps(serving | {"class_names": ["one", "two"]}))
    assert "serving.json does not go with " in fails("predict", run, tmp_path / "red.png")


def test_a_missing_or_damaged_serving_file_is_named(finished_run, fails, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (tmp_path / "red.png").write_bytes(tinted_image(0, np.random.default_rng(5)))
    for content in (None, "{", *DAMAGED_SERVING[:1]):
        if content is None:
            (run / "serving.json").unlink()
        else:
            (run / "serving.json").write_text(content)
        for call in (("evaluate", run), ("predict", run, tmp_path / "red.png"), ("export", run, tmp_path / "served")):
            assert f"{run / 'serving.json'} cannot be read" in fails(*call)


def test_a_place_that_cannot_be_written_to_is_one_line(finished_run, config, fails, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("mine")
    train = ("train", "--config", config, *HERE, "--output")
    assert fails(*train, file).endswith(f"{file}: File exists")
    assert fails(*train, file / "x").endswith(f"{file}/x: Not a directory")
    assert f"{file} exists and is not empty" in fails("export", finished_run, file)
    assert fails("export", finished_run, file / "x").endswith(f"{file}: File exists")

    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "mkdir", refuse)  # the mode of a folder does not stop the superuser
    assert fails(*train, tmp_path / "run").endswith(f"{tmp_path}/run: Permission denied")
    assert fails("export", finished_run, tmp_path / "a" / "b").endswith(f"{tmp_path}/a: Permission denied")
    assert file.read_text() == "mine"


def test_a_run_is_used_on_tensorflow_alone(finished_run, config, tmp_path):
    script = """
import sys
from tfvt.trainers.cli import main
run, config, folder = sys.argv[1:]
for call in (["evaluate", run], ["predict", run, "a.png"], ["export", run, folder]):
    assert main(call) == 2
assert main(["train", "--config", config, "--output", folder]) == 2
"""
    result = subprocess.run(
        [sys.executable, "-c", script, str(finished_run), str(config), str(tmp_path / "new")],
        env=os.environ | {"KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    needs = "error: this needs the TensorFlow backend; KERAS_BACKEND is 'jax'"
    assert [line.endswith(needs) for line in result.stderr.splitlines()] == [True] * 4, result.stderr


def test_a_reader_that_goes_away_is_no_error():
    script = "import sys; from tfvt.trainers.cli import main; sys.exit(main(['models']))"
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run([sys.executable, "-c", script], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (result.returncode, result.stderr) == (141, "")


def test_predict_answers_for_every_file_that_is_an_image(finished_run, tmp_path, capsys):
    files = [tmp_path / f"{name}.png" for name in ("red", "green", "blue")]
    for label, file in enumerate(files):
        file.write_bytes(tinted_image(label, np.random.default_rng(5)))
    (tmp_path / "text.jpg").write_text("no image")
    arguments = [files[0], tmp_path / "text.jpg", tmp_path / "none.png", files[1], files[2]]
    assert main(["predict", str(finished_run), *map(str, arguments)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [re.match(r".*/(\w+)\.\w+: (.*?)(:| \d)", line).group(1, 2) for line in lines] == [
        ("red", "red"),
        ("text", "rejected"),
        ("none", "rejected"),
        ("green", "green"),
        ("blue", "blue"),
    ]
    assert "neither JPEG nor PNG" in lines[1]
    assert lines[2].endswith("No such file or directory")
    assert "{{" not in lines[1]
    shares = [float(share) for share in re.findall(r"([\d.]+)%", lines[0])]
    assert len(shares) == 5
    assert shares == sorted(shares, reverse=True)
    assert main(["predict", str(finished_run), str(files[0])]) == 0


def test_predict_takes_and_prints_any_file_name(finished_run, tmp_path, capsys):
    name = os.fsencode(tmp_path) + b"/gr\xfcn.png"
    with open(name, "wb") as file:
        file.write(tinted_image(1, np.random.default_rng(5)))
    assert main(["predict", str(finished_run), os.fsdecode(name)]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/gr\\xfcn.png: green ")


def jpeg(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, subsampling=0, **options)  # as conversion writes
    return file.getvalue()


def test_predict_sees_the_pixels_that_conversion_writes(finished_run, tmp_path, capsys):
    # Another class at each end, so that a picture on its side has another answer.
    ends = [Image.open(io.BytesIO(tinted_image(label, np.random.default_rng(5)))) for label in (0, 1)]
    stored = Image.new("RGB", (80, 40))
    for place, end in enumerate(ends):
        stored.paste(end, (40 * place, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    rotated, cmyk = jpeg(stored, exif=exif), jpeg(stored.convert("CMYK"))
    upright = jpeg(Image.open(io.BytesIO(rotated)).transpose(Image.Transpose.ROTATE_270))
    rgb = jpeg(Image.open(io.BytesIO(cmyk)).convert("RGB"))
    files = {"rotated": rotated, "upright": upright, "stored": jpeg(stored), "cmyk": cmyk, "rgb": rgb}
    for name, content in files.items():
        (tmp_path / f"{name}.jpg").write_bytes(content)
    assert main(["predict", str(finished_run), *(str(tmp_path / f"{name}.jpg") for name in files)]) == 0
    lines = capsys.readouterr().out.splitlines()
    answers = dict(zip(files, (line.partition(": ")[2] for line in lines), strict=True))
    assert answers["rotated"] == answers["upright"] != answers["stored"]
    assert answers["cmyk"] == answers["rgb"]


def test_predict_reads_the_formats_that_conversion_reads(finished_run, tmp_path, capsys):
    image = Image.open(io.BytesIO(tinted_image(1, np.random.default_rng(5))))
    files = [str(tmp_path / f"green.{kind}") for kind in ("webp", "bmp", "gif")]
    for file in files:
        image.save(file)
    assert main(["predict", str(finished_run), *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [re.match(r".*: (\w+) [\d.]+%", line)[1] for line in lines] == ["green"] * 3


def test_predict_rejects_half_a_jpeg_with_an_end_marker(finished_run, tmp_path, capsys):
    whole = jpeg(Image.open(io.BytesIO(tinted_image(1, np.random.default_rng(5)))))
    files = {"whole": whole, "half": whole[: len(whole) // 2], "ended": whole[: len(whole) // 2] + b"\xff\xd9"}
    for name, content in files.items():
        (tmp_path / f"{name}.jpg").write_bytes(content)
    assert main(["predict", str(finished_run), *(str(tmp_path / f"{name}.jpg") for name in files)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert ": green " in lines[0]
    assert lines[1].endswith("half.jpg: rejected: JPEG is cut off: it has no end-of-image marker")
    assert "ended.jpg: rejected: JPEG decodes with made-up pixels: Corrupt JPEG data: premature end" in lines[2]


def test_a_disk_that_fills_while_exporting_is_one_line(finished_run, tmp_path, fails):
    with largest_file(100_000):
        line = fails("export", finished_run, tmp_path / "served")
    assert re.search(rf"error: {tmp_path}/served cannot be written: .*File too large", line)
    assert list(tmp_path.iterdir()) == []


def test_the_limit_of_pixels_is_a_flag_of_export(finished_run, tmp_path, fails):
    call = ("export", str(finished_run), str(tmp_path / "served"), "--max_pixels")
    assert "max_pixels=0: expected an integer of at least 1" in fails(*call, "0")
    assert main([*call, "1599"]) == 0
    serve = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="has 40 x 40 pixels: the limit is 1599"):
        serve(image=tf.constant([tinted_image(0, np.random.default_rng(5))]))


def test_export_serves_the_same_probabilities(finished_run, tmp_path, capsys, fails):
    assert main(["export", str(finished_run), str(tmp_path / "served")]) == 0
    encoded = tinted_image(1, np.random.default_rng(5))
    served = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"]
    answer = served(image=tf.constant([encoded]))
    (tmp_path / "green.png").write_bytes(encoded)
    capsys.readouterr()
    main(["predict", str(finished_run), str(tmp_path / "green.png")])
    best = re.search(r": green ([\d.]+)%", capsys.readouterr().out)
    assert answer["name"].numpy()[0] == b"green"
    assert float(best[1]) == pytest.approx(100 * float(answer["probabilities"][0, 1]), abs=0.01)
    assert "not empty" in fails("export", finished_run, tmp_path / "served")
