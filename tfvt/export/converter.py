"""`python -m tfvt.export.converter FOLDER`: the process in which a converter runs, see `conversion.converted`."""

import importlib
import json
import sys
from pathlib import Path

from tfvt.errors import one_line
from tfvt.export.conversion import ERROR, JOB, RESULT

LONGEST = 400  # characters of a converter's message


def main(folder: Path) -> int:
    """Convert; write what went wrong, its kind in the first line, where the other process reads it."""
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    module = importlib.import_module(f"tfvt.export.{job['module']}")
    try:
        module.convert(folder, folder / RESULT, **job["options"])
    except Exception as error:
        kind = next((k.__name__ for k in (OSError, ValueError) if isinstance(error, k)), "RuntimeError")
        text = f"{kind}\n{one_line(error)[:LONGEST]}"
        (folder / ERROR).write_text(text, encoding="utf-8")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
