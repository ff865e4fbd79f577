"""Files that are written whole or not at all: an interrupted command leaves what was there before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A path to write to, whose file takes the place of ``path`` once it is written; it ends with the same suffix.

    What is written so far is removed where an error or Ctrl-C ends the writing.
    """
    path = Path(path)
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_bytes(path: str | Path, data: bytes | memoryview) -> None:
    """Writes a file of bytes."""
    with whole(path) as partial:
        partial.write_bytes(data)
