"""`tfvt train --init`: the paper's four pre-train / fine-tune set-ups, foreign checkpoints, and what is refused."""

import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file
from small_records import CLASS_NAMES, write_small_records

import tfvt
from tests.checkpoints import vit_states
from tfvt.checkpoints.positions import resample_grid
from tfvt.trainers.cli import main
from tfvt.trainers.recipes.parsing import parse_recipe
from tfvt.trainers.run.checkpoint import list_checkpoints

ROOT = Path(__file__).parent.parent.parent
BLOCK = {"layers": 1, "hidden_dim": 16, "mlp_dim": 24}
LAYOUTS = {
    "vit": [BLOCK | {"layers": 3}],
    "funnel": [BLOCK, BLOCK | {"stride": 2}, BLOCK | {"stride": 2}],
}
POSITIONS = "embedding/patch_positions"


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_small_records(tmp_path_factory.mktemp("init") / "records")


def write_recipe(folder, records, layout, size, **options):
    """A recipe that does not move the weights: what the run ends with is what it began with."""
    recipe = {
        "model": {"name": "vit_base16", "options": {"blocks": LAYOUTS[layout], "head_dim": 8} | options},
        "data": {
            "records": str(records),
            "batch_size": 24,
            "train": {"image_size": list(size)},
            "evaluation": {"image_size": list(size)},
        },
        "optimizer": {"name": "sgd", "learning_rate": 1e-30},
        "epochs": 1,
        "deterministic": False,  # this would be set for the whole process
    }
    path = folder / f"{layout}.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def train(config, output, *more):
    return main(["train", "--config", str(config), "--output", str(output), *map(str, more)])


def weights(run):
    model = keras.models.load_model(run / "final.keras", compile=False)
    return {w.path: keras.ops.convert_to_numpy(w) for w in model.weights}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The folders of a run of each layout at 64x64, as far as they hold the trained model."""
    runs = {layout: tmp_path_factory.mktemp(layout) for layout in LAYOUTS}
    for layout, run in runs.items():
        options = {
            "input_shape": (64, 64, 3),
            "num_classes": len(CLASS_NAMES),
            "blocks": LAYOUTS[layout],
            "head_dim": 8,
        }
        tfvt.create_model("vit_base16", **options).save(run / "final.keras")
    return runs


@pytest.mark.parametrize("second", LAYOUTS)
@pytest.mark.parametrize("first", LAYOUTS)
def test_the_four_set_ups_of_table_1(records, pretrained, first, second, tmp_path):
    config = write_recipe(tmp_path, records, second, (96, 80))
    assert train(config, tmp_path / "run", "--init", pretrained[first]) == 0
    expected, actual = weights(pretrained[first]), weights(tmp_path / "run")
    expected[POSITIONS] = resample_grid(expected[POSITIONS], (6, 5), "bilinear")
    assert set(actual) == set(expected)
    for path, value in expected.items():
        np.testing.assert_allclose(actual[path], value, atol=1e-6, err_msg=path)
    written = parse_recipe(["--config", str(tmp_path / "run" / "recipe.yaml")])
    assert written.model.weights == str(pretrained[first] / "final.keras")


def test_a_foreign_checkpoint_and_its_gelu(records, tmp_path, capsys):
    state = vit_states.google(num_classes=len(CLASS_NAMES))
    np.savez(tmp_path / "vit.npz", **state)
    refused = train(write_recipe(tmp_path, records, "vit", (64, 64)), tmp_path / "run", "--init", tmp_path / "vit.npz")
    assert refused == 2
    assert "build the model with gelu='tanh'" in capsys.readouterr().err
    config = write_recipe(tmp_path, records, "funnel", (64, 64), gelu="tanh")
    assert train(config, tmp_path / "run", "--init", tmp_path / "vit.npz") == 0
    for path, value in vit_states.our_state(num_classes=len(CLASS_NAMES)).items():
        np.testing.assert_allclose(weights(tmp_path / "run")[path], value, atol=1e-6, err_msg=path)


def test_what_init_refuses(records, pretrained, tmp_path, capsys):
    config = write_recipe(tmp_path, records, "vit", (64, 64))
    for name in ("pickles", "bert"):
        (tmp_path / name).mkdir()
    (tmp_path / "pickles" / "pytorch_model.bin").write_bytes(b"")
    save_file({"bert": np.zeros(1)}, tmp_path / "bert" / "model.safetensors")
    for more, message in (
        (("--init", tmp_path), "holds no trained model (no final.keras in it)"),
        (("--init", tmp_path / "pickles"), "--init: "),
        (("--init", tmp_path / "pickles"), "pytorch_model.bin: tfvt reads safetensors alone from a folder"),
        (("--init", tmp_path / "bert"), "bert/model.safetensors: cannot tell the source of a checkpoint"),
        (("--init", tmp_path / "none.npz"), "no checkpoint file"),
        (("--init", pretrained["vit"], "--resume"), "--init begins a run and --resume continues one"),
    ):
        assert train(config, tmp_path / "run", *more) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert not (tmp_path / "run").exists()


def test_weights_inside_the_output_are_refused_not_deleted(records, pretrained, tmp_path, capsys):
    config = write_recipe(tmp_path, records, "vit", (64, 64))
    run = tmp_path / "run"
    shutil.copytree(pretrained["vit"], run)
    before = (run / "final.keras").read_bytes()
    (tmp_path / "link").symlink_to(run)
    for source in (("--init", run), ("--init", tmp_path / "link"), ("--model.weights", run / "final.keras")):
        for more in ((), ("--overwrite",)):
            assert train(config, run, *source, *more) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert re.search(
                r"error: model.weights .*final.keras lies inside --output .*run: choose another --output",
                line,
            )
    assert (run / "final.keras").read_bytes() == before
    assert list(run.iterdir()) == [run / "final.keras"]


def test_a_resumed_run_needs_no_source_and_an_overwritten_one_begins_with_it(
    records, tmp_path, monkeypatch, capsys, caplog
):
    """The folder of a run of two epochs, put back to the end of the first, with and without the file it began with."""
    options = {"input_shape": (64, 64, 3), "blocks": LAYOUTS["vit"], "head_dim": 8}
    tfvt.create_model("vit_base16", num_classes=3, **options).save(tmp_path / "source.keras")
    config = write_recipe(tmp_path, records, "vit", (64, 64))
    flags = ("--epochs", 2, "--optimizer.learning_rate", 0.05)
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    assert train(config, run, *flags, "--init", "source.keras") == 0
    assert "fresh" in caplog.text + capsys.readouterr().err
    assert parse_recipe(["--config", str(run / "recipe.yaml")]).model.weights == str(tmp_path / "source.keras")
    expected = weights(run)

    assert train(config, run, *flags, "--init", "source.keras", "--overwrite") == 0
    for path, value in weights(run).items():
        np.testing.assert_allclose(value, expected[path], atol=1e-6, err_msg=path)

    _, last = list_checkpoints(run / "checkpoints")
    last.unlink()
    (run / "final.keras").unlink()
    (tmp_path / "source.keras").unlink()
    caplog.clear()
    capsys.readouterr()
    assert train(config, run, *flags, "--model.weights", "source.keras", "--resume") == 0
    output, errors = capsys.readouterr()
    assert "Resuming from" in output
    assert "fresh" not in caplog.text + errors
    for path, value in weights(run).items():
        np.testing.assert_allclose(value, expected[path], atol=1e-6, err_msg=path)

    shutil.rmtree(run / "checkpoints")
    assert main(["train", "--output", str(run), "--resume"]) == 2  # nothing to resume from: it begins with the file
    assert f"no checkpoint file {tmp_path / 'source.keras'}" in capsys.readouterr().err


def test_a_misspelt_block_is_named(records, tmp_path, capsys):
    config = write_recipe(tmp_path, records, "vit", (64, 64), blocks=[{"layers": 1, "hiden_dim": 16}])
    assert train(config, tmp_path / "run") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "model.options.blocks" in line
    assert "hiden_dim" in line


RECIPES = [path.name for path in sorted((ROOT / "configs").glob("*vit_base16*.yaml"))]


@pytest.mark.parametrize("name", RECIPES)
def test_the_papers_recipes_say_what_their_head_says(name):
    path = ROOT / "configs" / name
    recipe = parse_recipe(["--config", str(path), "--data.records", "data/imagenet"])
    assert recipe.model.name == name.removesuffix(".yaml").removesuffix("_finetune")
    assert recipe.model.options["gelu"] == "tanh"
    fine = "_finetune" in name
    assert recipe.data.train.image_size == ((384, 384) if fine else (224, 224))
    assert recipe.optimizer.name == ("sgd" if fine else "adamw")
    assert recipe.optimizer.learning_rate == 3e-3
    assert (recipe.optimizer.momentum, recipe.optimizer.weight_decay) == ((0.9, 0.0) if fine else (None, 0.3))
    commands = re.findall(r"--config (\w+)", path.read_text(encoding="utf-8"))
    assert commands == [path.stem]


def test_there_is_a_recipe_for_each_set_up():
    names = ("vit_base16", "funnel_vit_base16_6_6")
    assert {f"{name}{kind}.yaml" for name in names for kind in ("", "_finetune")} <= set(RECIPES)
