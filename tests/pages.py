"""A page of docs/ as a reader uses it: its blocks run in order, in one folder and in this process."""

import contextlib
import glob
import io
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from tfvt.trainers.cli import main

DOCS = Path(__file__).parent.parent / "docs"


def blocks(name: str) -> list[tuple[str, str]]:
    """(language, code) of every block of a page that has a language, in order."""
    return re.findall(r"```(\w+)\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), flags=re.DOTALL)


def run_block(language: str, code: str, flags: Sequence[str] = ()) -> str:
    """What a block prints; the `tfvt train` commands of a bash block get `flags` as well."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if language == "python":
            exec(code, {})
        for line in code.replace("\\\n", " ").splitlines() if language == "bash" else ():
            program, *words = [name for word in shlex.split(line) for name in sorted(glob.glob(word)) or [word]]
            words += list(flags) if words[0] == "train" and "--resume" not in words else ()
            assert (program, main(words)) == ("tfvt", 0), line
    return printed.getvalue()


def torchvision_names(model: keras.Model) -> dict[str, np.ndarray]:
    """A ResNet's weights under torchvision's names."""
    kinds = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    state = {}
    for weight in model.weights:
        layer, kind = weight.path.split("/")
        block = re.fullmatch(r"stage(\d)_block(\d+)_(\w+)_(conv|norm)", layer)
        if block:
            stage, number, part, what = block.groups()
            shortcut = f"downsample.{0 if what == 'conv' else 1}"
            unit = shortcut if part == "shortcut" else f"{'conv' if what == 'conv' else 'bn'}{part}"
            layer = f"layer{stage}.{int(number) - 1}.{unit}"
        else:
            layer = {"stem_conv": "conv1", "stem_norm": "bn1", "head": "fc"}[layer]
        array = keras.ops.convert_to_numpy(weight)
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        state[f"{layer}.{kinds.get(kind, 'weight' if kind == 'kernel' else kind)}"] = np.ascontiguousarray(array)
    return state
