"""docs/finetune.md's commands and lines run as printed, on a few images and an untrained ViT-B/16 of Google's form."""

import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import tfvt
from tests.checkpoints import vit_states
from tfvt.trainers.recipes.files import packaged_recipes

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "finetune.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with what the page supposes: images in class folders, recipes, Google's file."""
    folder = tmp_path_factory.mktemp("finetune")
    (folder / "configs").symlink_to(ROOT / "configs")
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("validation", 2)):
        for label in ("cat", "dog"):
            (folder / "images" / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "images" / split / label / f"{i}.jpg")
    weights = tfvt.create_model("vit_base16", gelu="tanh").weights
    arrays = {weight.path: keras.ops.convert_to_numpy(weight) for weight in weights}
    np.savez(folder / "vit_base16.npz", **vit_states.google_names(arrays, head_dim=64))
    return folder


def run(language, code, folder):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{code}\n{result.stdout}\n{result.stderr}"
    return result.stdout + result.stderr


@pytest.mark.slow
def test_every_block_runs_as_printed(workplace):
    commands, lines = (run(language, code, workplace) for language, code in BLOCKS)
    assert "the head is left fresh" in commands
    assert "resampled embedding/patch_positions to 18x24" in commands
    assert re.search(r"Validation: top-1 \d+\.\d+%", commands)
    model = keras.models.load_model(workplace / "runs" / "finetuned" / "final.keras", compile=False)
    assert model.input_shape == (None, 288, 384, 3)
    assert model.get_layer("embedding").patch_positions.shape == (18, 24, 768)
    kernel = tfvt.create_model("vit_base16").get_layer("patch_embedding").kernel.shape
    assert model.get_layer("patch_embedding").kernel.shape == kernel
    assert "resampled: ('embedding/patch_positions',) fresh: ('head/kernel', 'head/bias')" in lines


def test_three_commands_and_every_source():
    assert [len(code.strip().splitlines()) for language, code in BLOCKS if language == "bash"] == [3]
    for source, (_, gelu, kernel) in vit_states.SOURCES.items():
        title = {"google": "Google", "big_vision": "Google", "timm": "timm", "tfm": "TensorFlow official"}
        (row,) = re.findall(rf"^\| {title.get(source, 'transformers')}.*$", PAGE, flags=re.MULTILINE)
        assert [cell.strip() for cell in row.strip("|").split("|")][-2:] == [f"`{gelu}`", f"`{kernel}`"]


def test_the_recipes_that_the_page_names_are_there():
    names = set(re.findall(r"--config (\w+)", PAGE))
    assert len(names) == 4
    assert [name for name in names if name not in packaged_recipes()] == []
