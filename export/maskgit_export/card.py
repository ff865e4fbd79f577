"""Sections of Markdown pages that commands write: between ``<!-- NAME -->`` and ``<!-- /NAME -->``, the rest of the
page is its author's.
"""

from __future__ import annotations

import os
from pathlib import Path

from .files import write_text


def put_section(path: Path, name: str, text: str, *, new: str = "", before: str = "") -> None:
    """Puts ``text`` between the marks of ``name``, in place of what an earlier run put there.

    A page without them gets the section in front of the heading ``before`` where it has that, else at its end; a page
    that does not exist is ``new`` first.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    page = path.read_text(encoding="utf-8") if path.exists() else new
    section = f"{start}\n{text.strip()}\n{end}"
    if start in page and end in page:
        above, rest = page.split(start, 1)
        page = above + section + rest.split(end, 1)[1]
    elif before and before in page:
        above, rest = page.split(before, 1)
        page = f"{above}{section}\n\n{before}{rest}"
    else:
        page = "\n\n".join(part for part in (page.rstrip("\n"), section) if part) + "\n"
    write_text(path, page)


def seen_from(page: Path, folder: Path) -> str:
    """The folder as links on the page name it."""
    return os.path.relpath(folder, page.parent)
