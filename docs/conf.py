"""How Sphinx makes the site of these pages: `make docs`."""

import inspect
import os
import re
import tomllib
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util.inspect import stringify_signature

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # autodoc imports TensorFlow

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PROJECT.get("urls", {}).get("Repository")  # none: links to files outside of docs become plain text

project = "tfvt"
html_title = project
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["images"]
myst_heading_anchors = 4  # #anchors of headings, as forges make them
smartquotes = False  # equations have primes
default_role = "py:obj"  # docstrings: `name` is code, and a link where the reference has it

autodoc_inherit_docstrings = False  # not those of Keras
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = html_show_sphinx = html_copy_source = False


class OutsideLinks(SphinxTransform):
    """A link out of docs, such as [configs](../configs): into the repository, or plain text where that has no URL."""

    default_priority = 5  # before Sphinx copies linked files into the site

    def apply(self, **kwargs):
        page = Path(self.env.doc2path(self.env.docname))
        for node in list(self.document.findall(is_link)):
            target = (page.parent / node.get("reftarget", "")).resolve()
            if target.is_relative_to(DOCS) or not target.is_relative_to(ROOT):
                continue
            words = nodes.inline("", "", *[child.deepcopy() for child in node.children])
            if REPOSITORY:
                uri = f"{REPOSITORY}/blob/main/{target.relative_to(ROOT).as_posix()}"
                words = nodes.reference("", "", *words.children, refuri=uri, internal=False)
            node.replace_self(words)


class NameLinks(SphinxTransform):
    """Code that is a dotted name of tfvt, such as `tfvt.create_model`, leads to its entry in the reference."""

    default_priority = 5

    def apply(self, **kwargs):
        for node in list(self.document.findall(nodes.literal)):
            text = node.astext()
            name = text.partition("(")[0]
            parents = enclosing(node)
            if not name.startswith("tfvt.") or any(
                isinstance(parent, nodes.reference | nodes.title | addnodes.pending_xref) for parent in parents
            ):
                continue
            if any(isinstance(parent, nodes.entry) for parent in parents):  # a cell has no room for the path
                text = text.removeprefix(f"{name.rpartition('.')[0]}.")
            link = addnodes.pending_xref(
                "", refdomain="py", reftype="obj", reftarget=name, refexplicit=True, refdoc=self.env.docname
            )
            link += nodes.literal("", text, classes=node["classes"])
            node.replace_self(link)


def is_link(node: nodes.Node) -> bool:
    """A link whose target Sphinx has yet to find."""
    return isinstance(node, addnodes.pending_xref | addnodes.download_reference)


def enclosing(node: nodes.Node) -> list[nodes.Node]:
    """The nodes that a node is in, the nearest first."""
    return [] if node.parent is None else [node.parent, *enclosing(node.parent)]


def as_restructured_text(app, what, name, obj, options, lines) -> None:
    """In docstrings |x| is an absolute value, `Block`s a plural and "L." a symbol; not so in reStructuredText."""
    for number, line in enumerate(lines):
        line = re.sub(r"(`[^`]+`)(?=\w)", r"\1\\ ", line.replace("|", r"\|"))
        lines[number] = re.sub(r"\b([A-Z])\.$", r"\1\\.", line)


def constructor(app, what, name, obj, options, signature, returns):
    """The arguments of a layer's own constructor: autodoc finds that of Keras, which takes anything."""
    if what != "class" or signature != "(*args, **kwargs)":
        return None
    return stringify_signature(inspect.signature(obj), show_annotation=False), None


def add_toctrees(app, docname, source) -> None:
    """The navigation: under each heading of index.md, the pages that its section links."""
    if docname != "index":
        return
    _, *sections = re.split(r"^## (.*)$", source[0], flags=re.MULTILINE)
    for title, text in zip(sections[::2], sections[1::2], strict=True):
        pages = "\n".join(re.findall(r"\]\(([\w/]+)\.md\)", text))
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{pages}\n```\n"


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", add_toctrees)
    app.connect("autodoc-process-docstring", as_restructured_text)
    app.connect("autodoc-process-signature", constructor)
    app.add_transform(OutsideLinks)
    app.add_transform(NameLinks)
