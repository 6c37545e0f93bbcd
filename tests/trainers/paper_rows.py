"""The pages of the papers' set-ups: what their rows say."""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


@dataclass(frozen=True)
class Row:
    """A row of a page; `score` is the paper's, as text."""

    paper: str
    table: str
    setup: str
    flags: tuple[str, ...]
    params: int
    score: str

    def __str__(self):
        return f"{self.paper} {self.table} {self.setup}"


def read_rows(page: str, papers: Mapping[str, str]) -> Iterator[Row]:
    """The rows of docs/PAGE, whose sections are `papers`: heading -> name in docs/paper_results.csv."""
    for section in (DOCS / page).read_text(encoding="utf-8").split("\n## ")[1:]:
        paper = papers[section.partition("\n")[0]]
        for line in re.findall(r"^\| .* \|$", section, re.MULTILINE):
            table, setup, flags, params, score = line.strip("| ").split(" | ")
            if table != "table":
                given = shlex.split(flags.strip("`"))
                if "--init" in given:  # the last flag: a run that the reader has trained
                    given = given[: given.index("--init")]
                yield Row(paper, table, setup, tuple(given), int(params.replace(",", "")), score)
