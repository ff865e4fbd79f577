"""Writes a bundle: PyTorch weights to three ONNX graphs and a manifest.

Exports what ``train-tokenizer`` and ``train-mvtm`` wrote, or any model through ``--model MODULE:FUNCTION`` (see
``maskgit_export/adapter.py``). Check the result with ``verify``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .adapter import Avatars, Model, Sampling, load
from .bundle import BundleError, validate, write_manifest
from .onnx_export import export_graphs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of ``maskgit-export export``."""
    parser.add_argument("--tokenizer", type=Path, help="file that `train-tokenizer` wrote")
    parser.add_argument("--mvtm", type=Path, help="file that `train-mvtm` wrote")
    parser.add_argument("--model", metavar="MODULE:FUNCTION", help="instead of the two files: a function that returns a maskgit_export.adapter.Model")
    parser.add_argument("--name", help="name of the model, as `maskgit info` shows it")
    parser.add_argument("--licence", help="licence of the weights, with attribution where it asks for one")
    parser.add_argument("--source", default="trained with maskgit-export", help="where the weights come from: a text or an address")
    sampling = parser.add_argument_group("recommended sampling")
    sampling.add_argument("--steps", type=int, default=12)
    sampling.add_argument("--schedule", default="cosine")
    sampling.add_argument("--sampler", default="confidence", choices=["confidence", "halton"])
    sampling.add_argument("--choice-temperature", type=float, default=4.5)
    sampling.add_argument("--temperature", type=float, default=1.0)
    sampling.add_argument("--top-k", type=int, default=None)
    sampling.add_argument("--guidance", type=float, default=0.0)
    sampling.add_argument("--guidance-ramp", action="store_true")
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder of the bundle")


def run(args: argparse.Namespace) -> int:
    """Exports and validates; returns 0, 1 when the model cannot be exported, 2 for options that do not go together."""
    if args.model:
        if args.tokenizer or args.mvtm:
            print("--model takes the place of --tokenizer and --mvtm; give one or the other", file=sys.stderr)
            return 2
        model = load(args.model)
    elif not (args.tokenizer and args.mvtm and args.name and args.licence):
        print("give --tokenizer, --mvtm, --name and --licence, or --model MODULE:FUNCTION", file=sys.stderr)
        return 2
    else:
        settings = Sampling(args.steps, args.schedule, args.sampler, args.choice_temperature, args.temperature, args.top_k, args.guidance, args.guidance_ramp)
        try:
            model = Avatars.load(args.tokenizer, args.mvtm, args.name, args.licence, args.source, settings)
        except (BundleError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    try:
        write_bundle(model, args.output)
    except BundleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def write_bundle(model: Model, folder: str | Path) -> None:
    """Exports the graphs of ``model`` into ``folder``, writes the manifest last, and validates the whole."""
    for path in export_graphs(model, folder):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
    write_manifest(model.metadata, folder)
    validate(folder)
