"""Writes a bundle of what ``train-tokenizer`` and ``train-mvtm`` wrote: three ONNX graphs and a manifest.

Check the result with ``verify``. Both may be bundles, so that the weights of one in fp16 become fp32 graphs, or other
settings are recommended. A model of your own goes through ``bundle``, published weights through ``convert``.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import fields, replace
from pathlib import Path

from .adapter import Avatars, Model, Sampling
from .bundle import MANIFEST, SAMPLERS, BundleError, read_manifest, validate, write_manifest
from .onnx_export import export_graphs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of ``maskgit-export export``."""
    parser.add_argument("--tokenizer", required=True, type=Path, help="file that `train-tokenizer` wrote, or a bundle")
    parser.add_argument("--mvtm", required=True, type=Path, help="file that `train-mvtm` wrote, or a bundle")
    parser.add_argument("--name", help="name of the model, as `maskgit info` shows it")
    parser.add_argument("--licence", help="licence of the weights, with attribution where it asks for one")
    parser.add_argument("--source", help="where the weights come from: a text or an address")
    parser.add_argument(
        "--without",
        nargs="*",
        default=[],
        metavar="CLASS",
        help="classes to leave out, such as those that were not learned well",
    )
    sampling = parser.add_argument_group(
        "recommended sampling", "What is not given here or above is as in the bundle, where --mvtm is one."
    )
    sampling.add_argument("--steps", type=int)
    sampling.add_argument("--schedule")
    sampling.add_argument("--sampler", choices=SAMPLERS)
    sampling.add_argument("--choice-temperature", type=float)
    sampling.add_argument("--temperature", type=float, help="without --final-temperature, that of all steps")
    sampling.add_argument("--final-temperature", type=float, help="temperature of the last step")
    sampling.add_argument("--top-k", type=int, help="0: all codes")
    sampling.add_argument("--guidance", type=float)
    sampling.add_argument("--guidance-ramp", action=argparse.BooleanOptionalAction)
    sampling.add_argument("--corrector-share", type=float, help="part of the steps that are corrector steps")
    sampling.add_argument("--corrector-first", type=float, help="part of the tokens that the first of them masks again")
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder of the bundle")


def run(args: argparse.Namespace) -> int:
    """Exports and validates.

    Returns 0, 1 when the model cannot be exported, or 2 when a bundle's name or licence is missing.
    """
    try:
        known = read_manifest(args.mvtm)[0] if args.mvtm.is_dir() else None
        about = {
            name: getattr(args, name) or (getattr(known, name) if known else None)
            for name in ("name", "licence", "source")
        }
        if missing := [f"--{name}" for name in ("name", "licence") if not about[name]]:
            print(f"error: give {' and '.join(missing)}: only a bundle as --mvtm has them already", file=sys.stderr)
            return 2
        settings = {field.name: value for field in fields(Sampling) if (value := getattr(args, field.name)) is not None}
        if settings.get("top_k") == 0:
            settings["top_k"] = None
        if "temperature" in settings:
            settings.setdefault("final_temperature", None)
        sampling = replace(known.sampling if known else Sampling(), **settings)
        write_bundle(
            Avatars.load(
                args.tokenizer,
                args.mvtm,
                about["name"],
                about["licence"],
                about["source"] or "trained with maskgit-export",
                sampling,
                args.without,
            ),
            args.output,
        )
    except (BundleError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def write_bundle(model: Model, folder: str | Path) -> None:
    """Exports the graphs and the manifest of ``model`` into ``folder``, whole or not at all.

    Everything is written and validated beside the folder first. A bundle that is there already is replaced; other files
    in the folder stay.
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
