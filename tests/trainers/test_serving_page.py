"""docs/serving.md's commands and lines run as printed, on the small run."""

import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from small_records import tinted_image

from tfvt.export import MAX_PIXELS
from tfvt.trainers.cli import main

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
ASK, CHECK = (textwrap.dedent(code) for code in re.findall(r"^ *```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))


@pytest.fixture
def workplace(finished_run, tmp_path, monkeypatch):
    """A folder with what the page supposes: a run, and images of its validation split."""
    shutil.copytree(finished_run, tmp_path / "runs" / "digits")
    images = tmp_path / "runs" / "demo" / "images" / "validation" / "3"
    images.mkdir(parents=True)
    for name in ("digit0045_0", "digit0045_1"):
        (images / f"{name}.png").write_bytes(tinted_image(1, np.random.default_rng(5)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_and_lines_run_as_printed(workplace, capsys):
    assert len(COMMANDS) == 3
    for command in COMMANDS:
        program, *words = shlex.split(command)
        assert (program, main(words)) == ("tfvt", 0)
    assert re.search(r"digit0045_0.png: green [\d.]+%", capsys.readouterr().out)
    only_tensorflow = f"import sys\nsys.modules['tfvt'] = None\n{ASK}"
    result = subprocess.run([sys.executable, "-c", only_tensorflow], stdout=subprocess.PIPE, text=True, check=True)
    assert [line.split()[:2] for line in result.stdout.splitlines()] == [
        ["digit0045_0.png", "green"],
        ["digit0045_1.png", "green"],
    ]
    serve = tf.saved_model.load("served").signatures["serving_default"]
    rows = re.findall(r"^\| (?:input|output) `(\w+)` \| (\w+) \(", PAGE, re.MULTILINE)
    described = serve.structured_input_signature[1] | serve.structured_outputs
    assert dict(rows) == {name: spec.dtype.name for name, spec in described.items()}


def test_the_check_of_uploads_finds_half_a_jpeg_that_the_model_answers(workplace, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    whole = tf.io.encode_jpeg(pixels).numpy()
    ended = whole[: len(whole) // 2] + b"\xff\xd9"
    assert main(["export", "runs/digits", "served"]) == 0
    capsys.readouterr()
    assert tf.saved_model.load("served").signatures["serving_default"](image=tf.constant([ended]))["label"].shape == (
        1,
    )
    exec(CHECK, {"upload": whole})
    assert capsys.readouterr().out == ""
    exec(CHECK, {"upload": ended})
    assert capsys.readouterr().out.startswith("damaged: Corrupt JPEG data: premature end")


def test_the_limit_is_that_of_the_code():
    assert f"by default {MAX_PIXELS:,}, which is 8192 x 8192" in PAGE
    assert f"the limit is {MAX_PIXELS}`" in PAGE
