"""Runs in an object store: trained, continued, used and refused there as on a disk, with equal numbers."""

import contextlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from safetensors.numpy import save_file
from small_records import tinted_image
from store_files import upload
from test_resume import logged, newest
from test_seams import state_of, stop_in_step

import tfvt
from tfvt.errors import UsageError
from tfvt.files import local_file, write_whole
from tfvt.stores import as_path
from tfvt.trainers.cli import main
from tfvt.trainers.recipes.distillation import DistillationRecipe
from tfvt.trainers.recipes.parsing import parse_recipe
from tfvt.trainers.run.folder import Run, check_vacant, plain_recipe, start_run
from tfvt.trainers.tasks.teacher import Teacher
from tfvt.trainers.train import _initial_weights

# What a run sets for its whole process would outlive the test.
HERE = ("--deterministic", "false", "--epochs", "2")


def train(*flags):
    return main(["train", *map(str, flags)])


def files(folder):
    """Names below a folder, the ends of TensorBoard's cut off."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(re.sub(r"tfevents.*", "tfevents", name) for name in names)


def weights(folder):
    with local_file(folder / "final.keras") as path:
        model = keras.models.load_model(path, compile=False)
    return [weight.numpy().tobytes() for weight in model.weights]


@pytest.fixture(scope="module")
def place(tmp_path_factory, config, records):
    """A folder in a store with the small recipe and its records."""
    folder = as_path(f"ram://runs/{tmp_path_factory.mktemp('place').name}")
    upload(records, folder / "records")
    text = config.read_text().replace(str(records), f"{folder}/records")
    write_whole(folder / "small.yaml", text.encode())
    yield folder
    with contextlib.suppress(FileNotFoundError):  # TensorFlow's ram:// deletes `assets.extra` with `assets`, and again
        folder.rmtree()
    assert not folder.exists()


@pytest.fixture(scope="module")
def local(tmp_path_factory, config):
    """The folder of a run on a disk, from records there."""
    folder = tmp_path_factory.mktemp("local") / "run"
    keras.utils.set_random_seed(0)
    assert train("--config", config, *HERE, "--output", folder) == 0
    return folder


@pytest.fixture(scope="module")
def stored(place):
    """The folder of the same run in a store."""
    assert train(f"--config={place}/small.yaml", *HERE, "--output", place / "run") == 0
    return place / "run"


def test_a_run_in_a_store_is_bit_equal_to_one_on_a_disk(local, stored, place, records):
    assert state_of(stored) == state_of(local)
    assert newest(stored).digests == newest(local).digests
    assert weights(stored) == weights(local)
    assert logged(stored) == logged(local)
    assert files(stored) == [name for name in files(local) if name != "lock"]
    for name in ("serving.json", "recipe.yaml"):
        text = (stored / name).read_text(encoding="utf-8")
        assert text.replace(
            f"{place}/records", yaml.safe_load((local / "recipe.yaml").read_text())["data"]["records"]
        ) == (local / name).read_text(encoding="utf-8")
    assert "Curves" in (stored / "report.html").read_text()
    (events,) = (stored / "tensorboard").iterdir()
    assert {event.step for event in tf.compat.v1.train.summary_iterator(str(events)) if event.step} == {6, 12}


def test_a_run_continues_bit_equal_in_a_store(local, place, monkeypatch, capsys):
    folder = place / "stopped"
    with monkeypatch.context() as patch:
        stop_in_step(patch, 9)
        assert train("--config", place / "small.yaml", *HERE, "--output", folder) == 130
    said = capsys.readouterr()
    assert f"Continue with: tfvt train --resume --output {folder}" in said.out
    assert (
        said.err.count(f"tfvt train: {folder} cannot be locked (object stores have no locks): make sure that no") == 1
    )
    assert newest(folder).step == 9
    assert train("--resume", "--output", f"{folder}/") == 0
    assert f"Resuming from {folder}/checkpoints/step-000000009.safetensors" in capsys.readouterr().out
    assert state_of(folder) == state_of(local)
    assert weights(folder) == weights(local)
    assert logged(folder) == logged(local)


@pytest.fixture
def refused(capsys):
    """Run a command that must fail with status 2; returns the line that says why, the last one on stderr."""

    def run(*arguments):
        assert main([str(argument) for argument in arguments]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        start = f"tfvt {arguments[0]}: error: "
        assert line.startswith(start)
        return line.removeprefix(start)

    return run


def test_only_overwrite_replaces_a_run_in_a_store(place, refused):
    run = Run(place / "replaced")
    recipe = parse_recipe(["--config", f"{place}/small.yaml"])
    run.checkpoints.mkdir()
    write_whole(run.checkpoints / "precious.bin", b"work of years")
    for attempt in (lambda: check_vacant(run, True), lambda: start_run(run, recipe, True)):
        with pytest.raises(
            UsageError, match=rf"^{run.checkpoints} is of no run, and a run in {run.folder} would replace"
        ):
            attempt()
    write_whole(run.recipe, b"of an earlier run")
    flags = ("train", "--config", place / "small.yaml", *HERE, "--output", run.folder)
    assert f"{run.folder} holds another run" in refused(*flags)
    assert (run.checkpoints / "precious.bin").read_bytes() == b"work of years"
    start_run(run, recipe, overwrite=True)
    assert run.contents() == [run.recipe]
    assert parse_recipe(["--config", str(run.recipe)]) == recipe
    inside = f"--model.weights={run.folder}/final.keras"
    line = refused(*flags, inside, "--overwrite")
    assert f"model.weights {run.folder}/final.keras lies inside --output {run.folder}" in line


def test_damage_in_a_store_is_named(place, stored, refused):
    damaged = place / "damaged"
    for path in stored.rglob("*"):
        if path.is_file():
            target = damaged / path.relative_to(stored).as_posix()
            target.parent.mkdir()
            write_whole(target, path.read_bytes())
    checkpoint = damaged / "checkpoints" / "step-000000012.safetensors"
    for path in (checkpoint, damaged / "final.keras"):
        write_whole(path, path.read_bytes()[:-7])
    line = refused("train", "--resume", "--output", damaged)
    assert line.startswith(f"the checkpoint {checkpoint} is damaged (")
    content = bytearray((stored / "checkpoints" / checkpoint.name).read_bytes())
    content[-1] ^= 1
    write_whole(checkpoint, bytes(content))
    line = refused("train", "--resume", "--output", damaged)
    assert line.startswith(f"the checkpoint {checkpoint} is damaged (its contents do not match their digest)")
    assert refused("evaluate", damaged).startswith(f"{damaged}/final.keras cannot be read, it is damaged or of another")
    (damaged / "serving.json").unlink()
    write_whole(damaged / "final.keras", (stored / "final.keras").read_bytes())
    assert refused("evaluate", damaged).startswith(f"{damaged}/serving.json cannot be read")
    (damaged / "final.keras").unlink()
    assert refused("evaluate", damaged).startswith(f"{damaged} has no final.keras, since training has not ended")
    assert refused("evaluate", place / "none").startswith(f"{place}/none holds no run (no recipe.yaml in it)")


def test_a_run_in_a_store_is_evaluated_reported_and_answers(local, stored, place, tmp_path, capsys):
    image = tinted_image(0, np.random.default_rng(3))
    write_whole(place / "image.png", image)
    write_whole(tmp_path / "image.png", image)
    (stored / "report.html").unlink()
    assert main(["report", str(stored)]) == 0
    answers = []
    for run, folder in ((local, tmp_path), (stored, place)):
        capsys.readouterr()
        assert main(["evaluate", str(run), "--batch_size", "5"]) == 0
        assert main(["predict", str(run), str(folder / "image.png"), str(folder / "none.png")]) == 1
        out = capsys.readouterr().out.replace(str(run), "RUN").replace(str(folder), "FOLDER")
        answers.append(re.sub(r"of validation in .*", "", out))
    assert answers[0] == answers[1]
    assert "FOLDER/none.png: rejected: cannot be read: No such file or directory" in answers[1]
    assert "Curves" in (stored / "report.html").read_text()


def test_an_export_into_a_store_answers_as_one_on_a_disk(local, stored, place, tmp_path, refused, capsys):
    assert main(["export", str(stored), f"{place}/exported"]) == 0
    assert f"SavedModel: {place}/exported" in capsys.readouterr().out
    assert main(["export", str(local), str(tmp_path / "exported")]) == 0
    assert files(place / "exported") == files(tmp_path / "exported")
    images = tf.constant([tinted_image(label, np.random.default_rng(label)) for label in range(6)])
    answers = [
        tf.saved_model.load(str(folder / "exported")).signatures["serving_default"](image=images)
        for folder in (tmp_path, place)
    ]
    for name, expected in answers[0].items():
        np.testing.assert_array_equal(answers[1][name], expected)
    assert f"{place}/exported exists and is not empty" in refused("export", stored, f"{place}/exported")
    assert main(["export", str(stored)]) == 0
    assert (stored / "saved_model" / "saved_model.pb").is_file()


def test_what_makes_an_export_loadable_comes_last(stored, place, monkeypatch):
    """An upload that breaks off at any file leaves nothing that loads."""
    uploaded, copy = [], tf.io.gfile.copy

    def note(source, target, overwrite):
        if target.startswith(f"{place}/broken/"):
            uploaded.append(target.removeprefix(f"{place}/broken/"))
        copy(source, target, overwrite)

    with monkeypatch.context() as patch:
        patch.setattr(tf.io.gfile, "copy", note)
        assert main(["export", str(stored), f"{place}/broken"]) == 0
    assert uploaded[-2:] == ["saved_model.pb", "README.md"]  # the card is not needed to load it
    assert set(uploaded) == set(files(place / "broken"))


def test_weights_in_a_store_begin_a_run(local, stored, place, tmp_path):
    recipe = parse_recipe(["--config", str(local / "recipe.yaml")])
    options = {"num_classes": 6, "input_shape": (32, 32, 3), **recipe.model.options}

    def loaded(path):
        return [w.numpy().tobytes() for w in tfvt.create_model("resnet18", weights=path, **options).weights]

    expected = loaded(str(local / "final.keras"))
    assert loaded(f"{stored}/final.keras") == expected
    with local_file(local / "final.keras") as path:
        arrays = {w.path: w.numpy() for w in keras.models.load_model(path, compile=False).weights}
    save_file(arrays, tmp_path / "weights.safetensors")
    np.savez(tmp_path / "weights.npz", **arrays)
    for name in ("weights.safetensors", "weights.npz"):
        (place / name).upload(tmp_path / name)
        assert loaded(f"{place}/{name}") == expected
    with pytest.raises(FileNotFoundError, match=f"no checkpoint file {place}/none.npz"):
        loaded(f"{place}/none.npz")
    assert str(_initial_weights(stored)) == f"{stored}/final.keras"
    began = parse_recipe(["--config", f"{place}/small.yaml", "--model.weights", f"{place}/weights.npz"])
    plain = plain_recipe(began)
    assert (plain["model"]["weights"], plain["data"]["records"]) == (f"{place}/weights.npz", f"{place}/records")


def test_a_teacher_in_a_store_is_the_one_on_the_disk(teachers, place):
    folder = upload(teachers, place / "teachers")
    images = np.random.default_rng(1).uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    classes = ("red", "green", "blue", "grey", "black", "white")
    for form in ({"teacher": "run"}, {"teacher": "saved"}, {"teacher": "teacher.keras", "classes": "names.txt"}):
        answers = []
        for where in (teachers, folder):
            recipe = DistillationRecipe(**{key: str(where / name) for key, name in form.items()})
            assert recipe.files == {key: str(where / name) for key, name in form.items()}
            teacher = Teacher(recipe, classes, (32, 32))
            answers.append((np.asarray(teacher(images)).tobytes(), teacher.digest))
        assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--config", "RECIPE", "--output", "s3://bucket/run"),
        ("train", "--config", "RECIPE", "--data.records", "s3://bucket/records", "--output", "FOLDER"),
        ("train", "--config", "RECIPE", "--model.weights", "s3://bucket/x.keras", "--output", "FOLDER"),
        ("train", "--config", "s3://bucket/small.yaml", "--output", "FOLDER"),
        ("train", "--resume", "--output", "s3://bucket/run"),
        ("evaluate", "s3://bucket/run"),
        ("visualize", "rates", "s3://bucket/run"),
        ("export", "RUN", "s3://bucket/export"),
    ],
    ids=" ".join,
)
def test_an_unknown_store_is_one_line(local, config, tmp_path, fails, arguments):
    places = {"RECIPE": config, "RUN": local, "FOLDER": tmp_path / "run"}
    line = fails(*(places.get(part, part) for part in arguments))
    assert "s3://bucket/" in line
    assert "TensorFlow has no file system for s3:// (it has gs://, ram://)" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--config", "RECIPE", "--output", "gs:/bucket/run"),
        ("train", "--config", "RECIPE", "--output", "gs:/bucket/run", "--supervise=2"),
        ("train", "--config", "RECIPE", "--data.records", "gs:/bucket/records", "--output", "run"),
        ("train", "--config", "RECIPE", "--model.weights", "gs:/bucket/x.keras", "--output", "run"),
        ("train", "--config", "RECIPE", "--init", "gs:/bucket/run", "--output", "run"),
        ("train", "--config", "gs:/bucket/small.yaml", "--output", "run"),
        ("evaluate", "gs:/bucket/run"),
        ("export", "RUN", "gs:/bucket/export"),
    ],
    ids=" ".join,
)
def test_an_address_that_has_lost_a_slash_is_no_local_folder(local, config, tmp_path, monkeypatch, fails, arguments):
    monkeypatch.chdir(tmp_path)
    line = fails(*({"RECIPE": config, "RUN": local}.get(part, part) for part in arguments))
    assert "gs:/bucket/" in line
    assert "an address begins with gs://, and a local folder of that name with its path" in line
    assert list(tmp_path.iterdir()) == []
