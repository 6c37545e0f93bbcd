"""docs/input_pipeline.md: its code runs, its options and commands exist."""

import inspect
import re
import shlex
from pathlib import Path

import numpy as np
from record_files import write_records

from tfvt import data
from tfvt.tfrecords_tools import cli
from tfvt.trainers.recipes.parsing import parse_recipe

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "input_pipeline.md").read_text(encoding="utf-8")


def test_the_code_runs_as_printed(tmp_path, monkeypatch):
    write_records(tmp_path / "OUTPUT", (40, 30))
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(code, names)
    assert {name: (value.shape, value.dtype.name) for name, value in names["batch"].items()} == {
        "image": ((64, 224, 224, 3), "float32"),
        "label": ((64,), "int32"),
        "id": ((64,), "int64"),
    }
    assert 0 <= np.min(names["batch"]["image"]) < np.max(names["batch"]["image"]) <= 255


def test_options_and_commands_exist():
    table = re.search(r"\| argument \|.*?\n\n", PAGE, re.DOTALL)[0]
    for call, option in re.findall(r"\| `([\w.]+)\(\.\.\., (\w+)=", table):
        assert option in inspect.signature(eval(call, vars(data))).parameters
    assert set(re.findall(r"`data\.(\w+)", table)) == {"mixing", "repeats", "skip_damaged", "servers", "block_size"}
    serve, train = (line for line in PAGE.splitlines() if line.startswith("tfvt "))
    arguments = cli._parser().parse_args(shlex.split(serve)[2:])
    assert (arguments.host, arguments.port, arguments.worker_port) == ("SERVER", 5050, 5051)
    flags = shlex.split(train)[2:]
    del flags[flags.index("--output") :]
    recipe = parse_recipe([*flags, "--data.records", "somewhere"])
    assert recipe.data.servers == ("grpc://SERVER:5050",)
