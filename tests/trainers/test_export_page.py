"""docs/export.md's commands and lines run as printed, on the small run."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tfvt.trainers.cli import main

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
LINES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # the converters give many
def test_commands_and_lines_run_as_printed(finished_run, tmp_path, monkeypatch, capsys):
    shutil.copytree(finished_run, tmp_path / "runs" / "digits")
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        program, *words = shlex.split(command)
        assert (program, main(words)) == ("tfvt", 0)
    printed = capsys.readouterr().out
    written = re.findall(r"^(ONNX|OpenVINO|LiteRT|Keras): (\S+)$", printed, re.MULTILINE)
    assert [name for name, _ in written] == ["ONNX", "OpenVINO", "LiteRT", "Keras", "LiteRT"]
    assert all(Path(path).exists() for _, path in written)
    shares = re.findall(r"^(float|int8): top-1 ([\d.]+)%, .* on validation$", printed, re.MULTILINE)
    assert [name for name, _ in shares] == ["float", "int8"]
    assert abs(float(shares[0][1]) - float(shares[1][1])) <= 10
    names = {}
    for lines in LINES:
        exec(lines, names)
    answers = capsys.readouterr().out.splitlines()
    assert len(answers) == 4
    assert len(set(answers)) == 1
