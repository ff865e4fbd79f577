"""Writes a bundle with random weights in a published architecture, for benchmarks without weights; or checkpoints of
such weights.

Shapes: maskgit-imagenet256, maskgit-imagenet512 (Google), halton-{t,s,b,l}-{256,384} (Halton-MaskGIT v2 with LlamaGen's
VQ-16). The same shape and seed give the same weights. Its pictures are noise.

With --checkpoint, two files in the layout and under the names that the weights are published with, for ``convert``:
``flax`` (Google), ``torch`` (Halton-MaskGIT, and the PyTorch conversion of Google's), or the latter's tensors as
``safetensors``.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch
from torch import nn

from . import checkpoint
from .adapter import Model
from .bundle import BundleError
from .export import write_bundle
from .published import google, halton, layouts

SHAPES = [
    "maskgit-imagenet256",
    "maskgit-imagenet512",
    *(f"halton-{size}-{pixels}" for size in halton.SIZES for pixels in (256, 384)),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of ``maskgit-export synth``."""
    parser.add_argument("--shape", required=True, choices=SHAPES, metavar="SHAPE", help=", ".join(SHAPES))
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights")
    parser.add_argument(
        "--checkpoint",
        choices=["flax", "torch", "safetensors"],
        help="write checkpoints in this format instead of a bundle",
    )
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder of the bundle, or of the checkpoints")


def run(args: argparse.Namespace) -> int:
    """Writes the bundle or the checkpoints.

    Returns 0, 1 when that fails, 2 for a format that the shape is not published in.
    """
    model = make(args.shape, args.seed)
    print(f"{args.shape}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters", file=sys.stderr)
    if args.checkpoint == "flax" and not isinstance(model, google.GoogleMaskGit):
        print(f"--checkpoint flax: {args.shape} is published in PyTorch only", file=sys.stderr)
        return 2
    try:
        if args.checkpoint:
            for path in write_checkpoints(perturb(model, args.seed), args.checkpoint, args.output):
                print(f"{path}: {path.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
        else:
            write_bundle(model, args.output)
    except (BundleError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def make(shape: str, seed: int) -> Model:
    """The model of a published shape, with random weights."""
    if shape not in SHAPES:
        raise SystemExit(f"--shape {shape}: known are {', '.join(SHAPES)}")
    if shape.startswith("maskgit"):
        return make_google(google.PUBLISHED[256 if shape.endswith("256") else 512], shape, seed)
    return make_halton(halton.PUBLISHED[shape.removeprefix("halton-")], shape, seed)


def make_google(config: google.Config, name: str, seed: int) -> google.GoogleMaskGit:
    """Google's MaskGIT of any shape, with random weights."""
    return _randomise(
        google.GoogleMaskGit(config, google.metadata(config, name, "CC0-1.0", _source(seed), _labels(config.classes))),
        seed,
    )


def make_halton(config: halton.Config, name: str, seed: int) -> halton.HaltonMaskGit:
    """Halton-MaskGIT of any shape, with random weights."""
    return _randomise(
        halton.HaltonMaskGit(config, halton.metadata(config, name, "CC0-1.0", _source(seed), _labels(config.classes))),
        seed,
    )


@torch.no_grad()
def perturb(model: Model, seed: int, scale: float = 0.1) -> Model:
    """Moves norms and biases off 1 and 0, where a mistake in them would not show."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def write_checkpoints(
    model: google.GoogleMaskGit | halton.HaltonMaskGit, format: str, folder: str | Path
) -> list[Path]:
    """Writes the transformer's and the tokenizer's checkpoint as they are published.

    Returns their paths, the transformer's first.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pixels = model.config.size
    of_google = isinstance(model, google.GoogleMaskGit)
    parts = (
        [(layouts.GOOGLE, "transformer"), (layouts.GOOGLE, "tokenizer")]
        if of_google
        else [(layouts.HALTON, "transformer"), (layouts.LLAMAGEN, "tokenizer")]
    )
    tensors = [
        layouts.save(layouts.find(title, "flax" if format == "flax" else "torch", part), model) for title, part in parts
    ]
    if of_google:
        names = [f"maskgit_imagenet{pixels}", f"tokenizer_imagenet{pixels}"]
        contents = [{"state_dict": part} for part in tensors]
    else:
        names = [f"ImageNet_{pixels}_{_halton_size(model.config)}", "vq_ds16_c2i"]
        tensors[1]["quantize.codebook_used"] = torch.zeros(65536)
        contents = [
            {"iter": 0, "global_epoch": 0, "model_state_dict": tensors[0], "optimizer_state_dict": None},
            {"model": tensors[1]},
        ]
    endings = {
        "flax": ["_checkpoint"] * 2,
        "safetensors": [".safetensors"] * 2,
        "torch": [".ckpt", ".ckpt"] if of_google else [".pth", ".pt"],
    }[format]
    paths = [folder / (name + ending) for name, ending in zip(names, endings)]
    for path, part, content in zip(paths, tensors, contents):
        if format == "flax":
            checkpoint.write_flax(path, part)
        elif format == "torch":
            checkpoint.write_torch(path, content)
        else:
            checkpoint.write_safetensors(path, part)
    return paths


def _halton_size(config: halton.Config) -> str:
    """The size's name in the published file names."""
    sizes = {shape: size for size, shape in halton.SIZES.items()}
    names = {"t": "tiny", "s": "small", "b": "base", "l": "large"}
    return names.get(sizes.get((config.dim, config.depth, config.heads)), "other")


def _source(seed: int) -> str:
    return f"random weights, maskgit-export synth --seed {seed}"


def _labels(count: int) -> list[str]:
    return [f"class-{index:03}" for index in range(count)]


@torch.no_grad()
def _randomise(model: Model, seed: int) -> Model:
    """Weights at which activations keep their size from layer to layer, and logits and pixels are of ordinary size.

    Embeddings 0.1, which gives logits of a standard deviation of one to three; matrices and kernels 1 / sqrt(fan in);
    norms 1 and 0; pixels around grey.
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
