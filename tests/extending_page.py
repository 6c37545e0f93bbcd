"""The pages docs/extending*.md, read: what they add to which file, and what they run then."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PLACE = r"(?:New file `(?P<new>[^`]+)`|In `(?P<file>[^`]+)`, (?:at the (?P<end>end)|after `(?P<anchor>[^`]+)`)):"
BLOCK = re.compile(rf"(?:^{PLACE}\n\n)?^```(?:python)?\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def sections():
    """[(title, blocks)] of headings: each block is a match of `BLOCK`, without a place if it is to be run."""
    pages = [path.read_text() for path in sorted((ROOT / "docs").glob("extending*.md"))]
    parts = [part for page in pages for part in re.split(r"^##? ", page, flags=re.MULTILINE)]
    found = [(part.partition("\n")[0], list(BLOCK.finditer(part))) for part in parts]
    return [(title, blocks) for title, blocks in found if blocks]


def new_file(path):
    """The content that the pages give the new file `path`."""
    (code,) = [block["code"] for _, blocks in sections() for block in blocks if block["new"] == path]
    return code
