"""docs/extending.md, read: what it adds to which file, and what it runs then."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PLACE = r"(?:New file `(?P<new>[^`]+)`|In `(?P<file>[^`]+)`, (?:at the (?P<end>end)|after `(?P<anchor>[^`]+)`)):"
BLOCK = re.compile(rf"(?:^{PLACE}\n\n)?^```(?:python)?\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def sections():
    """[(title, blocks)]: each block is a match of `BLOCK`, without a place if it is to be run."""
    _, *parts = re.split(r"^## ", (ROOT / "docs" / "extending.md").read_text(), flags=re.MULTILINE)
    return [(part.partition("\n")[0], list(BLOCK.finditer(part))) for part in parts]


def new_file(path):
    """The content that the page gives the new file `path`."""
    (code,) = [block["code"] for _, blocks in sections() for block in blocks if block["new"] == path]
    return code
