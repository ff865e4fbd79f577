"""Writes a bundle of what ``train-tokenizer`` and ``train-mvtm`` wrote: three ONNX graphs and a manifest.

Check the result with ``verify``. A model of your own goes through ``bundle``, published weights through ``convert``.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from .adapter import Avatars, Model, Sampling
from .bundle import MANIFEST, SAMPLERS, BundleError, validate, write_manifest
from .onnx_export import export_graphs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of ``maskgit-export export``."""
    parser.add_argument("--tokenizer", required=True, type=Path, help="file that `train-tokenizer` wrote, or a bundle")
    parser.add_argument("--mvtm", required=True, type=Path, help="file that `train-mvtm` wrote, or a bundle")
    parser.add_argument("--name", required=True, help="name of the model, as `maskgit info` shows it")
    parser.add_argument("--licence", required=True, help="licence of the weights, with attribution where it asks for one")
    parser.add_argument("--source", default="trained with maskgit-export", help="where the weights come from: a text or an address")
    parser.add_argument("--without", nargs="*", default=[], metavar="CLASS", help="classes to leave out, such as those that were not learned well")
    sampling = parser.add_argument_group("recommended sampling")
    sampling.add_argument("--steps", type=int, default=12)
    sampling.add_argument("--schedule", default="cosine")
    sampling.add_argument("--sampler", default="confidence", choices=SAMPLERS)
    sampling.add_argument("--choice-temperature", type=float, default=4.5)
    sampling.add_argument("--temperature", type=float, default=1.0)
    sampling.add_argument("--top-k", type=int, default=None)
    sampling.add_argument("--guidance", type=float, default=0.0)
    sampling.add_argument("--guidance-ramp", action="store_true")
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder of the bundle")


def run(args: argparse.Namespace) -> int:
    """Exports and validates; returns 0, or 1 when the model cannot be exported."""
    settings = Sampling(args.steps, args.schedule, args.sampler, args.choice_temperature, args.temperature, args.top_k, args.guidance, args.guidance_ramp)
    try:
        write_bundle(Avatars.load(args.tokenizer, args.mvtm, args.name, args.licence, args.source, settings, args.without), args.output)
    except (BundleError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def write_bundle(model: Model, folder: str | Path) -> None:
    """Exports the graphs and the manifest of ``model`` into ``folder``, whole or not at all.

    Everything is written and validated beside the folder first. A bundle that is there already is replaced; other files in the
    folder stay.
    """
    folder = Path(folder).resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        for path in export_graphs(model, scratch):
            print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
        write_manifest(model.metadata, scratch)
        validate(scratch)
        folder.mkdir(exist_ok=True)
        # Without a manifest a folder is no bundle, so one that is half replaced cannot be mistaken for one.
        (folder / MANIFEST).unlink(missing_ok=True)
        for file in sorted(Path(scratch).iterdir(), key=lambda file: file.name == MANIFEST):
            os.replace(file, folder / file.name)
