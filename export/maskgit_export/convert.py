"""Turns published weights into a bundle: Google's MaskGIT, or Halton-MaskGIT with LlamaGen's tokenizer.

Takes the files as their authors published them (docs/models.md says where): Flax checkpoints, PyTorch files, or
safetensors. Nothing that a file holds is run. What each file was taken for is printed; a tensor that is missing,
superfluous or of another shape is an error.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import replace
from pathlib import Path

import torch

from . import checkpoint
from .bundle import BundleError
from .checkpoint import Checkpoint, CheckpointError
from .export import write_bundle
from .published import google, halton, imagenet, layouts

GOOGLE_SOURCE = "github.com/google-research/maskgit"
HALTON_SOURCE = "github.com/valeoai/Halton-MaskGIT; tokenizer: github.com/FoundationVision/LlamaGen"
#: What each format's own code computes: jax.nn.gelu, torch.nn.GELU.
GELU_OF_FORMAT = {"flax": "tanh", "torch": "erf"}
FORMAT_NAMES = {"flax": "Flax", "torch": "PyTorch"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of ``maskgit-export convert``."""
    models = parser.add_subparsers(dest="model", required=True, metavar="MODEL")
    for name, title in (
        ("google-maskgit", "Google's MaskGIT for ImageNet, 256 or 512 pixels"),
        ("halton-maskgit", "Halton-MaskGIT v2 for ImageNet, with LlamaGen's VQ-16"),
    ):
        sub = models.add_parser(name, help=title, description=f"{title}.")
        sub.add_argument(
            "--transformer", required=True, type=Path, metavar="FILE", help="checkpoint of the transformer"
        )
        sub.add_argument("--tokenizer", required=True, type=Path, metavar="FILE", help="checkpoint of the tokenizer")
        sub.add_argument("-o", "--output", required=True, type=Path, help="folder of the bundle")
        if name == "google-maskgit":
            sub.add_argument(
                "--size",
                type=int,
                choices=sorted(google.PUBLISHED),
                help="height and width of the picture (default: as the transformer has it)",
            )
            sub.add_argument(
                "--gelu",
                choices=["tanh", "erf"],
                help="form of GELU (default: tanh, which the weights were trained with, for Flax files; erf, which "
                "the converted model's own code computes, for PyTorch files)",
            )
        else:
            sub.add_argument(
                "--variant",
                default="auto",
                choices=["auto", *halton.PUBLISHED],
                metavar="VARIANT",
                help=f"auto (by the shapes), or one of {', '.join(halton.PUBLISHED)}",
            )


def run(args: argparse.Namespace) -> int:
    """Converts; returns 0, or 1 when a file cannot be used or the bundle not be written."""
    try:
        if args.model == "google-maskgit":
            model = google_maskgit(args.transformer, args.tokenizer, args.size, args.gelu)
        else:
            model = halton_maskgit(args.transformer, args.tokenizer, args.variant)
        write_bundle(model, args.output)
    except (CheckpointError, BundleError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{args.output}: {model.metadata.name}; check it with: verify {args.output} --{args.model} {args.transformer} "
        f"{args.tokenizer}",
        file=sys.stderr,
    )
    return 0


def google_maskgit(
    transformer: Path, tokenizer: Path, size: int | None = None, gelu: str | None = None
) -> google.GoogleMaskGit:
    """Google's MaskGIT from two checkpoints. ``size`` and ``gelu`` as the options. Raises :class:`CheckpointError`."""
    first, layout = _read(transformer, layouts.GOOGLE, "transformer")
    size = _google_size(first) if size is None else size
    config = replace(google.PUBLISHED[size], gelu=gelu or GELU_OF_FORMAT[first.format])
    name = f"maskgit-imagenet{size}"
    names, synsets = imagenet.classes()
    with torch.device("meta"):
        metadata = google.metadata(
            config, name, "Apache-2.0", GOOGLE_SOURCE, names[: config.classes], synsets[: config.classes]
        )
        model = google.GoogleMaskGit(config, metadata)
    _load(layout, model, first, f"{name}, {config.gelu} GELU")
    second, layout = _read(tokenizer, layouts.GOOGLE, "tokenizer")
    _load(
        layout,
        model,
        second,
        f"{name} (256 and 512 have tokenizers of one shape: this file must be the one published with the transformer)",
    )
    return model.eval()


def halton_maskgit(transformer: Path, tokenizer: Path, variant: str = "auto") -> halton.HaltonMaskGit:
    """Halton-MaskGIT from two checkpoints. Raises :class:`CheckpointError`."""
    first, layout = _read(transformer, layouts.HALTON, "transformer")
    variant = _halton_variant(first) if variant == "auto" else variant
    config = halton.PUBLISHED[variant]
    name = f"halton-maskgit-{variant}"
    names, synsets = imagenet.classes()
    with torch.device("meta"):
        metadata = halton.metadata(
            config, name, "MIT", HALTON_SOURCE, names[: config.classes], synsets[: config.classes]
        )
        model = halton.HaltonMaskGit(config, metadata)
    _load(layout, model, first, name)
    model.network.tie()
    second, layout = _read(tokenizer, layouts.LLAMAGEN, "tokenizer")
    _load(layout, model, second, name)
    return model.eval()


def _read(path: Path, title: str, part: str) -> tuple[Checkpoint, layouts.Layout]:
    """Reads a file and makes sure that it is what the option asks for."""
    found = checkpoint.read(path)
    layout = layouts.identify(found)
    if (layout.title, layout.part) != (title, part):
        raise CheckpointError(
            f"{path}: this is the {layout.part} of {layout.title}; --{part} asks for the {part} of {title}"
        )
    return found, layout


def _load(layout: layouts.Layout, model: torch.nn.Module, found: Checkpoint, what: str) -> None:
    taken_for = f"the {layout.part} of {layout.title}, {FORMAT_NAMES[layout.format]} layout: {what}"
    layouts.load(layout, model, found, taken_for)
    print(f"{found.path}: taken for {taken_for}", file=sys.stderr)


def _google_size(found: Checkpoint) -> int:
    """The size whose number of positions the file has; 256 where it has none, so that loading names what is wrong."""
    rows = {
        tensor.shape[0]
        for name in ("Embed_0/position_embeddings/embedding", "pos_emb")
        if (tensor := found.tensors.get(name)) is not None and tensor.ndim
    }
    return next((size for size, config in google.PUBLISHED.items() if config.grid**2 + 1 in rows), 256)


def _halton_variant(found: Checkpoint) -> str:
    """The variant whose width, depth and number of positions the file has."""
    names = ("tok_emb.weight", "pos_emb.weight")
    tokens, positions = (found.tensors.get(name) for name in names)
    if tokens is None or positions is None or tokens.ndim != 2 or positions.ndim != 2:
        raise CheckpointError(
            f"{found.path}: taken for the transformer of {layouts.HALTON}, but it lacks {' or '.join(names)}, or they "
            "are no matrices: give --variant to see all that is wrong"
        )
    layers = [int(match[1]) for name in found.tensors if (match := re.match(r"transformer\.layers\.(\d{1,4})\.", name))]
    shape = (tokens.shape[1], max(layers) + 1, positions.shape[0])
    known = {(config.dim, config.depth, config.grid**2): variant for variant, config in halton.PUBLISHED.items()}
    if shape not in known:
        listed = ", ".join(f"{variant} {shape}" for shape, variant in known.items())
        raise CheckpointError(
            f"{found.path}: taken for the transformer of {layouts.HALTON}, but none was published of (width, layers, "
            f"positions) {shape}; known: {listed}"
        )
    return known[shape]
