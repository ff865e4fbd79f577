"""Turns published weights into a bundle: Google's MaskGIT, or Halton-MaskGIT with LlamaGen's tokenizer.

Takes the files as their authors published them (docs/models.md says where): Flax checkpoints, PyTorch files,
safetensors, or a folder with one or with several and their index. Nothing that a file holds is run. What each file was
taken for is printed, and its SHA-256; a tensor that is missing, superfluous or of another shape is an error. The
weights are found below any keys and prefixes.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import torch

from .bundle import BundleError
from .checkpoint import CheckpointError, sha256
from .export import write_bundle
from .published import google, halton, imagenet, layouts
from .selection import Checkpoint, Choice

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
        add_choice(sub)
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


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Declares the options that choose among the weights of a file."""
    parser.add_argument(
        "--ema", action="store_true", help="take averaged weights (EMA), where a file has them beside the others"
    )
    parser.add_argument(
        "--key",
        metavar="KEY",
        help="where the transformer's weights are in their file, its keys joined by dots, such as state_dict.model; "
        "a lone dot for the top (default: found by the names)",
    )
    parser.add_argument("--tokenizer-key", metavar="KEY", help="the same for the tokenizer's")


def choices(args: argparse.Namespace) -> tuple[Choice, Choice]:
    """The choice for the transformer and the one for the tokenizer, of the options of :func:`add_choice`."""
    return Choice(args.ema, args.key), Choice(args.ema, args.tokenizer_key, "--tokenizer-key")


def run(args: argparse.Namespace) -> int:
    """Converts; returns 0, or 1 when a file cannot be used or the bundle not be written."""
    try:
        if args.model == "google-maskgit":
            model = google_maskgit(args.transformer, args.tokenizer, args.size, args.gelu, choices(args))
        else:
            model = halton_maskgit(args.transformer, args.tokenizer, args.variant, choices(args))
        write_bundle(model, args.output)
    except (CheckpointError, BundleError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    check = ["verify", args.output, f"--{args.model}", args.transformer, args.tokenizer]
    check += ["--ema"] if args.ema else []
    for name in ("gelu", "key", "tokenizer_key"):
        if getattr(args, name, None) is not None:
            check += [f"--{name.replace('_', '-')}", getattr(args, name)]
    print(
        f"{args.output}: {model.metadata.name}; check it with: {shlex.join(map(str, check))}",
        file=sys.stderr,
    )
    return 0


def google_maskgit(
    transformer: Path,
    tokenizer: Path,
    size: int | None = None,
    gelu: str | None = None,
    choice: tuple[Choice, Choice] = (Choice(), Choice()),
) -> google.GoogleMaskGit:
    """Google's MaskGIT from two checkpoints. ``size`` and ``gelu`` as the options; ``choice`` of each file's weights.
    Raises :class:`CheckpointError`.
    """
    first, layout = _read(transformer, layouts.GOOGLE, "transformer", choice[0])
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
    second, layout = _read(tokenizer, layouts.GOOGLE, "tokenizer", choice[1])
    _insist_on_average(choice[0], first, second)
    _load(
        layout,
        model,
        second,
        f"{name} (256 and 512 have tokenizers of one shape: this file must be the one published with the transformer)",
    )
    return model.eval()


def halton_maskgit(
    transformer: Path,
    tokenizer: Path,
    variant: str = "auto",
    choice: tuple[Choice, Choice] = (Choice(), Choice()),
) -> halton.HaltonMaskGit:
    """Halton-MaskGIT from two checkpoints; ``choice`` of each file's weights. Raises :class:`CheckpointError`."""
    first, layout = _read(transformer, layouts.HALTON, "transformer", choice[0])
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
    second, layout = _read(tokenizer, layouts.LLAMAGEN, "tokenizer", choice[1])
    _insist_on_average(choice[0], first, second)
    _load(layout, model, second, name)
    return model.eval()


def _read(path: Path, title: str, part: str, choice: Choice) -> tuple[Checkpoint, layouts.Layout]:
    """Reads the weights of a part from a file, and says which file it is."""
    if path.is_file():
        # Before it is read, so that a damaged file can be compared too.
        _say_digest(path)
    file, found, layout = layouts.read(path, title, part, choice)
    for name in file.files:
        if name != path:
            _say_digest(name)
    return found, layout


def _say_digest(path: Path) -> None:
    print(f"{path}: SHA-256 {sha256(path)}", file=sys.stderr)


def _insist_on_average(choice: Choice, first: Checkpoint, second: Checkpoint) -> None:
    """Refuses ``--ema`` where no file has averaged weights."""
    if choice.ema and not first.averaged and not second.averaged:
        raise CheckpointError(
            f"--ema: neither {first.path} nor {second.path} has averaged weights (EMA) that can be used; leave it out"
        )


def _load(layout: layouts.Layout, model: torch.nn.Module, found: Checkpoint, what: str) -> None:
    taken_for = f"the {layout.part} of {layout.title}, {FORMAT_NAMES[layout.format]} layout: {what}"
    layouts.load(layout, model, found, taken_for)
    for line in [f"taken for {taken_for}", *found.notes]:
        print(f"{found.path}: {line}", file=sys.stderr)


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
