"""Writes a bundle of a model of your own: ``MODULE:FUNCTION`` names a function that returns a
``maskgit_export.adapter.Model``.

That class has three methods, ``logits``, ``decode`` and ``encode``, which become the three graphs; see
``maskgit_export/adapter.py``. The module is imported, so its code runs. Check the result with ``verify BUNDLE --model
MODULE:FUNCTION``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .adapter import load
from .bundle import BundleError
from .export import write_bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of ``maskgit-export bundle``."""
    parser.add_argument(
        "model",
        metavar="MODULE:FUNCTION",
        help="a function that returns the model; the module is looked for in the current folder too",
    )
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder of the bundle")


def run(args: argparse.Namespace) -> int:
    """Traces and validates; returns 0, or 1 when the model cannot be exported."""
    try:
        write_bundle(load(args.model), args.output)
    except (BundleError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
