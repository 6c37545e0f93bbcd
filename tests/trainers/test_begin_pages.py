"""The pages for new users run in order: docs/start.md, own_images.md and imagenet.md, on few and small images."""

import re
import shlex
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml
from imagenet_files import SYNSETS, write_tars
from PIL import Image
from safetensors.numpy import save_file
from small_records import tinted_image

import tfvt
from tests.pages import DOCS, blocks, run_block, torchvision_names
from tfvt.trainers.recipes.files import packaged_recipes
from tfvt.trainers.recipes.parsing import parse_recipe


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder of its own, in which the commands run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def changed(code, *changes):
    """A block with (old, new) exchanged, where old must be in it."""
    for old, new in changes:
        assert old in code
        code = code.replace(old, new)
    return code


def test_start(workplace):
    """Every block as printed, but for the numbers of images and epochs."""
    build, draw, train, predict, load, look = blocks("start.md")
    assert "vt_resnet18" in run_block(*build)
    run_block("python", changed(draw[1], ("320", "32"), ('"validation", 64', '"validation", 4')))
    assert "epoch 1: " in run_block("bash", changed(train[1], ("--epochs 4", "--epochs 2")))
    predicted = run_block(*predict)
    assert re.search(r"^images/validation/square/0.jpg: .*square [\d.]+%", predicted, re.MULTILINE)
    shares = dict(re.findall(r"(circle|square) ([\d.]+)%", predicted.splitlines()[-1]))
    loaded = [float(share) for share in re.findall(r"\d\.\d+(?:e-\d+)?", run_block(*load).split("shape")[0])]
    # tfvt decodes with libjpeg as TensorFlow has it, the page's lines with Pillow.
    assert loaded == pytest.approx([float(shares[name]) / 100 for name in ("circle", "square")], abs=0.02)
    run_block(*look)
    assert Path("tokens.png").is_file()


@pytest.mark.slow
def test_own_images(workplace):
    """Every block as printed, but for sizes and epochs in the recipe."""
    for label, name in enumerate(("cat", "dog")):
        (workplace / "photos" / name).mkdir(parents=True)
        for number in range(12):
            png = workplace / f"{number}.png"
            png.write_bytes(tinted_image(label, np.random.default_rng(number)))
            Image.open(png).save(workplace / "photos" / name / f"{number}.jpg")
    keras.utils.set_random_seed(0)
    save_file(torchvision_names(tfvt.create_model("resnet18")), "resnet18.safetensors")
    table, convert, recipe, dry, train, serve, ask = blocks("own_images.md")
    run_block(*table)
    assert "train: 21 images" in run_block(*convert)
    small = changed(
        recipe[1], ("[224, 224]", "[64, 64]"), ("batch_size: 32", "batch_size: 8"), ("epochs: 10", "epochs: 2")
    )
    Path("photos.yaml").write_text(small, encoding="utf-8")
    assert "Memory" in run_block(*dry)
    assert "Validation: top-1" in run_block(*train)
    assert Path("saliency.png").is_file()
    assert run_block(*serve).count("photos/cat/") == 12
    lines = run_block(*ask).splitlines()
    assert [line.split()[0] for line in lines] == ["0.jpg", "1.jpg", "10.jpg"]


def test_the_recipe_of_own_images_is_whole(workplace):
    (text,) = [code for language, code in blocks("own_images.md") if language == "yaml"]
    Path("photos.yaml").write_text(text, encoding="utf-8")
    page = (DOCS / "own_images.md").read_text(encoding="utf-8")
    (frozen,) = re.findall(r"`(--model.frozen .*?)`", page)
    recipe = parse_recipe(["--config", "photos.yaml", *shlex.split(frozen)])
    assert (recipe.epochs, recipe.data.batch_size) == (yaml.safe_load(text)["epochs"], 32)
    assert list(recipe.model.frozen) == ["stem_.*", "stage[12]_.*"]


@pytest.mark.slow
def test_imagenet(workplace):
    """Every block as printed, with flags for small images."""
    write_tars(workplace / "imagenet")
    convert, dry, train, resume, evaluate = blocks("imagenet.md")
    assert "0 problems" in run_block(*convert)
    options = {"width": 8, "token_dim": 32, "output_channels": 32}
    flags = ["--data.batch_size=4", "--epochs=1", *(f"--model.options.{name}={n}" for name, n in options.items())]
    flags += [f"--data.{split}.image_size=[64, 64]" for split in ("train", "evaluation")]
    assert "Time" in run_block(*dry, flags)
    assert "epoch 1: " in run_block(*train, flags)
    run_block(*resume)
    assert re.search(r"^top-1 [\d.]+%, .* on 6 images of validation", run_block(*evaluate), re.MULTILINE)
    model = keras.models.load_model("runs/vt_resnet18/final.keras", compile=False)
    assert model.output_shape == (None, len(SYNSETS))
    assert (workplace / "served" / "saved_model.pb").is_file()


def test_imagenet_names_recipes_and_their_epochs():
    page = (DOCS / "imagenet.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .* \| (`\w+`(?:, `\w+`)?) \| (\d+) \| [\d.% ,]+ \|$", page, re.MULTILINE)
    names = [(name, int(epochs)) for cell, epochs in rows for name in re.findall(r"\w+", cell)]
    assert len(names) == 7
    for name, epochs in names:
        assert name in packaged_recipes()
        assert parse_recipe(["--config", name, "--data.records=."]).epochs == epochs
