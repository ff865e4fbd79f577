"""Sections of Markdown pages that commands write: between ``<!-- NAME -->`` and ``<!-- /NAME -->``, the rest of the
page is its author's.
"""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path

from .files import write_text

#: Columns that prose of a page may take.
WIDTH = 120
#: A list item: its indent and mark, and its text.
ITEM = re.compile(r"^( *(?:[-*+]|\d+[.)]) +)(\S.*)$")
#: Code inside prose.
SHORT_CODE = re.compile(r"`[^`]{1,60}`")
#: Lines that are laid out by hand or by Markdown's rules: tables, headings, comments, pictures, quotes.
AS_IT_IS = re.compile(r"^ *(\||#|<!--|!\[[^\]]*\]\([^)]*\)$|>)")


def wrapped(text: str, width: int = WIDTH) -> str:
    """The Markdown ``text`` with its paragraphs and list items filled to ``width`` columns; all else as it is."""
    lines: list[str] = []
    #: Words of the paragraph so far, what its first line begins with, and the others.
    words: list[str] = []
    first = rest = ""
    fenced = False

    def flush() -> None:
        if words:
            # A word that would start a list or a heading stays behind the one before it.
            joined = re.sub(r" (?=(?:[-*+#>|]|\d+[.)])(?: |$))", "\0", " ".join(words))
            # Short code is not torn apart.
            joined = SHORT_CODE.sub(lambda code: code[0].replace(" ", "\0"), joined)
            filled = textwrap.wrap(
                joined,
                width,
                initial_indent=first,
                subsequent_indent=rest,
                break_long_words=False,
                break_on_hyphens=False,
            )
            lines.extend(line.replace("\0", " ") for line in filled)
            words.clear()

    for line in text.split("\n"):
        fence = line.lstrip().startswith("```")
        if fence or fenced or not line.strip() or AS_IT_IS.match(line) or (line.startswith("    ") and not words):
            flush()
            lines.append(line)
            fenced ^= fence
        elif item := ITEM.match(line):
            flush()
            first, rest = item[1], " " * len(item[1])
            words.append(item[2])
        else:
            if not words:
                first = rest = line[: len(line) - len(line.lstrip())]
            words.append(line.strip())
    flush()
    return "\n".join(lines)


def put_section(path: Path, name: str, text: str, *, new: str = "", before: str = "") -> None:
    """Puts ``text``, wrapped, between the marks of ``name``, in place of what an earlier run put there.

    A page without them gets the section in front of the heading ``before`` where it has that, else at its end; a page
    that does not exist is ``new`` first.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    page = path.read_text(encoding="utf-8") if path.exists() else new
    section = f"{start}\n{wrapped(text.strip())}\n{end}"
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
