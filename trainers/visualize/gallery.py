"""gallery.html: all pictures that apply to one model, on a page that needs nothing else."""

import base64
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path

from .views import View

STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1b1f24; --faint: #57606a; --line: #d8dee4; }
@media (prefers-color-scheme: dark) { :root { --page: #15181c; --text: #e3e7eb; --faint: #a3adb8; --line: #3a424b; } }
body { background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 1240px; padding: 24px; }
h1 { font-size: 26px; margin: 0 0 4px; overflow-wrap: anywhere; } h2 { font-size: 20px; margin: 40px 0 8px; }
nav ul { columns: 260px; padding-left: 20px; } a { color: inherit; }
figure { margin: 0; } figure img { background: #fff; border: 1px solid var(--line); height: auto; max-width: 100%; }
figcaption, .note { color: var(--faint); max-width: 75ch; }
.scroll { max-height: 420px; overflow: auto; margin-top: 12px; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: 3px 14px 3px 0; text-align: left; }
"""


def gallery_page(name: str, model: str, views: Sequence[View], missing: dict[str, str]) -> str:
    """The page, with its pictures inside.

    Args:
        name: of the run or file.
        model: its model's name and size, for people.
        views: what applies to it.
        missing: title -> reason, of what does not.
    """
    links, sections = [], []
    with tempfile.TemporaryDirectory(prefix="tfvt-") as folder:
        for number, view in enumerate(views, start=1):
            picture = Path(folder) / f"{number}.png"
            view.draw(picture)
            links.append(f'<li><a href="#view{number}">{escape(view.title)}</a></li>')
            sections.append(_section(number, view, base64.b64encode(picture.read_bytes()).decode()))
    if missing:
        reasons = "".join(f"<li>{escape(title)}: {escape(reason)}</li>" for title, reason in missing.items())
        sections.append(f'<section><h2>Not shown</h2><ul class="note">{reasons}</ul></section>')
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Gallery of {escape(name)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body>\n<main><h1>{escape(name)}</h1><p>{escape(model)}</p>\n"
        f'<nav aria-label="Pictures"><ul>{"".join(links)}</ul></nav>\n'
        + "\n".join(sections)
        + "\n</main></body></html>\n"
    )


def _section(number, view, png):
    return (
        f'<section id="view{number}" aria-labelledby="title{number}"><h2 id="title{number}">{escape(view.title)}</h2>'
        f'<figure><img alt="{escape(view.title)}: {escape(view.caption.partition(". ")[0])}." '
        f'src="data:image/png;base64,{png}"><figcaption>{escape(view.caption)}</figcaption></figure>'
        f"{_table(view)}</section>"
    )


def _table(view):
    if not view.numbers:
        return ""
    head, *rows = view.numbers
    cells = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    label = f"Numbers of: {view.title}"
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table>'
        f"<thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>"
    )
