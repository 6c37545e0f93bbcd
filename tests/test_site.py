"""The documentation site without building it: navigation, reference, and what the papers' pages name."""

import importlib
import importlib.util
import inspect
import re
from pathlib import Path

import pytest

import tfvt
import tfvt.analysis
import tfvt.checkpoints
import tfvt.data
import tfvt.export
from benchmarks.counting import profile_of

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAPERS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("papers_*.md"))}
PUBLIC = (tfvt, tfvt.layers, tfvt.analysis, tfvt.checkpoints, tfvt.data, tfvt.export)


def find(name):
    """What a dotted name stands for, or None."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for part in parts[length:]:
            found = getattr(found, part, None)
        return found
    return None


@pytest.fixture(scope="module")
def documented():
    """Name -> object of every entry of the reference."""
    names = []
    for page in sorted((DOCS / "api").glob("*.md")):
        module = None
        for kind, name in re.findall(r"^\.\. (currentmodule|auto\w+):: (\S+)$", page.read_text("utf-8"), re.MULTILINE):
            if kind == "currentmodule":
                module = name
            else:
                names.append(name if name.startswith("tfvt.") else f"{module}.{name}")
    assert len(names) == len(set(names))
    return {name: find(name) for name in names}


def test_every_page_is_in_the_navigation_once():
    """conf.py makes it of the links in the sections of index.md."""
    sections = (DOCS / "index.md").read_text(encoding="utf-8").split("\n## ", 1)[1]
    linked = re.findall(r"\]\(([\w/]+)\.md\)", sections)
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")} - {"index"}
    assert len(linked) == len(set(linked))
    assert set(linked) == pages


def test_every_public_name_is_in_the_reference(documented):
    assert [name for name, found in documented.items() if found is None] == []
    for module in PUBLIC:
        for name in module.__all__:
            value = getattr(module, name)
            assert inspect.ismodule(value) or any(value is one for one in documented.values()), (module.__name__, name)


@pytest.mark.parametrize("page", [*PAPERS, "design"])
def test_names_on_the_papers_pages_are_in_the_reference(page, documented):
    text = PAPERS.get(page) or (DOCS / "design.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`(tfvt\.[\w.]+)`", text))
    assert len(names) > 5 or page == "design"
    assert names - set(documented) == set()
    for test, file in re.findall(r"`(test_\w+)` in `(tests/[\w/]+\.py)`", text):
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("page", "numbers"), [("papers_visual_transformers", range(1, 7)), ("papers_acmix", [1, *range(7, 21)])]
)
def test_every_equation_stands_in_the_source_of_its_class(page, numbers, documented):
    """Rows of one equation; ACmix's (2) to (6) share a row, which names a test, as (17) does."""
    rows = re.findall(r"^\| \((\d+)\) \|(.*)$", PAPERS[page], re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(numbers)
    named = [(number, name) for number, row in rows for name in re.findall(r"`(tfvt\.[\w.]+)`", row.split("|")[-2])]
    assert len({number for number, _ in named}) >= len(rows) - 2
    for number, name in named:
        source = inspect.getsource(documented[name])
        mentioned = re.findall(r"\d+", " ".join(re.findall(r"\beq\. ((?:\(?\d+\)?(?:, | and )?)+)", source)))
        assert number in mentioned, f"{name} does not mention eq. {number}"


def test_the_equations_of_vit_stand_in_the_source_of_their_classes(documented):
    rows = re.findall(r"^\| \((\d)\) \|.*`(tfvt\.[\w.]+)` \|$", PAPERS["papers_funnel_vit"], re.MULTILINE)
    assert [number for number, _ in rows] == ["1", "2", "3"]
    for number, name in rows:
        assert re.search(rf"Dosovitskiy et al\. 2021, eq\. [\d and]*{number}", inspect.getsource(documented[name]))


def test_the_table_of_layouts_says_what_the_models_have():
    pattern = r"^\| [\d, ]+ \| B.*? \| `(\w+)` \|.*\| ([\d,]+) \| ([\d,]+) \| ([\d.]+) % \|$"
    rows = re.findall(pattern, PAPERS["papers_funnel_vit"], re.MULTILINE)
    assert len(rows) == 10
    whole = profile_of("vit_base16").macs
    for name, params, macs, share in rows:
        profile = profile_of(name)
        assert (f"{profile.params:,}", f"{profile.macs:,}") == (params, macs)
        assert f"{profile.macs / whole:.1%}" == f"{share}%"


def test_dead_links_of_the_site_are_found(tmp_path):
    spec = importlib.util.spec_from_file_location("links", DOCS / "links.py")
    links = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(links)
    (tmp_path / "api").mkdir()
    (tmp_path / "index.html").write_text(
        '<h1 id="top-1">x</h1><a href="#top-1">a</a><a href="#none">b</a><a href="api/x.html#there">c</a>'
        '<a href="api/x.html#gone">d</a><a href="away.html">e</a><img src="no.png"><a href="https://example.org/z">f</a>'
    )
    (tmp_path / "api" / "x.html").write_text('<p id="there"></p><a href="../index.html#top-1">up</a>')
    dead = ["#none", "api/x.html#gone", "away.html", "no.png"]
    assert links.dead_links(tmp_path) == [f"index.html: {link}" for link in dead]
