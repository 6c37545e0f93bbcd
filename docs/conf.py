"""How Sphinx makes the site of these pages: `make docs`."""

import os
import re
import tomllib
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # autodoc imports TensorFlow

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PROJECT.get("urls", {}).get("Repository")  # none: links to files outside of docs become plain text

project = "tfvt"
html_title = project
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["images"]
myst_heading_anchors = 4  # #anchors of headings, as forges make them
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
        for node in list(
            self.document.findall(lambda n: isinstance(n, addnodes.pending_xref | addnodes.download_reference))
        ):
            target = node.get("reftarget", "")
            if not target.startswith("../"):
                continue
            words = nodes.inline("", "", *[child.deepcopy() for child in node.children])
            if REPOSITORY:
                uri = f"{REPOSITORY}/blob/main/{target.removeprefix('../')}"
                words = nodes.reference("", "", *words.children, refuri=uri, internal=False)
            node.replace_self(words)


class NameLinks(SphinxTransform):
    """Code that is a dotted name of tfvt, such as `tfvt.create_model`, leads to its entry in the reference."""

    default_priority = 5

    def apply(self, **kwargs):
        for node in list(self.document.findall(nodes.literal)):
            name = node.astext().partition("(")[0]
            if not name.startswith("tfvt.") or isinstance(
                node.parent, nodes.reference | nodes.title | addnodes.pending_xref
            ):
                continue
            link = addnodes.pending_xref(
                "", refdomain="py", reftype="obj", reftarget=name, refexplicit=True, refdoc=self.env.docname
            )
            link += node.deepcopy()
            node.replace_self(link)


def as_restructured_text(app, what, name, obj, options, lines) -> None:
    """In docstrings |x| is an absolute value, and `Block`s a plural: neither is so in reStructuredText."""
    lines[:] = [re.sub(r"(`[^`]+`)(?=\w)", r"\1\\ ", line.replace("|", r"\|")) for line in lines]


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
    app.add_transform(OutsideLinks)
    app.add_transform(NameLinks)
