"""Writes a bundle with random weights in a published architecture, for benchmarks without weights.

Shapes: maskgit-imagenet256, maskgit-imagenet512 (Google), halton-{t,s,b,l}-{256,384} (Halton-MaskGIT v2 with LlamaGen's
VQ-16). The same shape and seed give the same weights. Its pictures are noise.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch
from torch import nn

from .adapter import Metadata, Model, Sampling
from .bundle import BundleError
from .published import google, halton

SHAPES = ["maskgit-imagenet256", "maskgit-imagenet512", *(f"halton-{size}-{pixels}" for size in halton.SIZES for pixels in (256, 384))]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of ``maskgit-export synth``."""
    parser.add_argument("--shape", required=True, choices=SHAPES, metavar="SHAPE", help=", ".join(SHAPES))
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights")
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder of the bundle")


def run(args: argparse.Namespace) -> int:
    """Writes the bundle."""
    from .export import write_bundle

    model = make(args.shape, args.seed)
    print(f"{args.shape}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters", file=sys.stderr)
    try:
        write_bundle(model, args.output)
    except BundleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def make(shape: str, seed: int) -> Model:
    """The model of a published shape, with random weights."""
    if shape not in SHAPES:
        raise SystemExit(f"--shape {shape}: known are {', '.join(SHAPES)}")
    if shape.startswith("maskgit"):
        return make_google(google.Config(grid=16 if shape.endswith("256") else 32), shape, seed)
    _, size, pixels = shape.split("-")
    dim, depth, heads = halton.SIZES[size]
    return make_halton(halton.Config(grid=int(pixels) // 16, dim=dim, depth=depth, heads=heads), shape, seed)


def make_google(config: google.Config, name: str, seed: int) -> Model:
    """Google's MaskGIT of any shape, with random weights."""
    metadata = Metadata(
        name=name, licence="CC0-1.0", source=f"random weights, maskgit-export synth --seed {seed}", image_height=config.size, image_width=config.size,
        grid_rows=config.grid, grid_cols=config.grid, codes=config.codes, mask_id=config.codes + config.classes, labels=_labels(config.classes),
        sampling=Sampling(steps=8 if config.grid <= 16 else 12))
    return _randomise(google.GoogleMaskGit(config, metadata), seed)


def make_halton(config: halton.Config, name: str, seed: int) -> Model:
    """Halton-MaskGIT of any shape, with random weights."""
    size = config.grid * 2 ** (len(config.tokenizer.multipliers) - 1)
    metadata = Metadata(
        name=name, licence="CC0-1.0", source=f"random weights, maskgit-export synth --seed {seed}", image_height=size, image_width=size,
        grid_rows=config.grid, grid_cols=config.grid, codes=config.codes, mask_id=config.codes, labels=_labels(config.classes), null_label=config.classes,
        sampling=Sampling(steps=32, schedule="arccos", sampler="halton", guidance=2.0))
    return _randomise(halton.HaltonMaskGit(config, metadata), seed)


def _labels(count: int) -> list[str]:
    return [f"class-{index:03}" for index in range(count)]


@torch.no_grad()
def _randomise(model: Model, seed: int) -> Model:
    """Weights at which activations keep their size from layer to layer, and logits and pixels are of ordinary size.

    Embeddings 0.1, which gives logits of a standard deviation of one to three; matrices and kernels 1 / sqrt(fan in); norms 1 and 0; pixels around grey.
    """
    generator = torch.Generator().manual_seed(seed)
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    norms = {id(m.weight) for m in model.modules() if isinstance(m, (nn.LayerNorm, nn.GroupNorm, halton.RmsNorm))}
    for parameter in model.parameters():
        if id(parameter) in norms:
            parameter.fill_(1.0)
        elif parameter.ndim == 1:
            parameter.zero_()
        else:
            fan_in = parameter[0].numel()
            parameter.normal_(0.0, 0.1 if id(parameter) in embeddings else 1 / math.sqrt(fan_in), generator=generator)
    decoder = model.decoder if isinstance(model, google.GoogleMaskGit) else model.vq.decoder
    decoder.conv_out.weight.mul_(0.3)
    if isinstance(model, google.GoogleMaskGit):
        # Its pixels are 0..1 and not -1..1.
        decoder.conv_out.bias.fill_(0.5)
    return model.eval()
