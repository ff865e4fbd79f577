"""Finds the tokens of a data set once, for ``train-mvtm`` to learn from elsewhere: all that it needs of the pictures,
in a small part of their room.

The file is a compressed NumPy archive, which holds data only:

    train             uint16 [N, tokens]        heldout
    train_labels      int64 [N]                 heldout_labels
    classes           the class names, in label order
    grid, codes       of the tokenizer: tokens on a side, and codes that a token may be
    encoder           SHA-256 of the encoder's weights and the codebook, which says whose tokens they are
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import dataset
from .files import whole
from .tokenizer import Tokenizer
from .training import Run, to_tensor
from .weights import load_tokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of ``maskgit-export tokens``."""
    parser.add_argument(
        "--data", required=True, help="a folder that `data` wrote, or one with a sub-folder of pictures a class"
    )
    parser.add_argument("--tokenizer", required=True, type=Path, help="file that `train-tokenizer` wrote, or a bundle")
    parser.add_argument("-o", "--output", required=True, type=Path, help="file to write, such as tokens.npz")
    parser.add_argument("--per-class", type=int, help="training images of each class, the first ones (default: all)")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])


@dataclass
class Tokens(dataset.Dataset):
    """What a file holds: a data set with tokens, uint16 ``[N, tokens]``, in the place of images.

    Then the tokens on a side, codes, and the encoder's fingerprint.
    """

    grid: int
    codes: int
    encoder: str


def fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256 of what decides on tokens: the encoder's weights and the codebook."""
    digest = hashlib.sha256()
    for value in [*tokenizer.encoder.state_dict().values(), tokenizer.quantizer.codebook]:
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read(path: str | Path) -> Tokens:
    """Reads a file that ``tokens`` wrote; never runs code from it."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            splits = [dataset.Split(stored[name], stored[f"{name}_labels"]) for name in ("train", "heldout")]
            classes = [str(name) for name in stored["classes"]]
            found = Tokens(*splits, classes, int(stored["grid"]), int(stored["codes"]), str(stored["encoder"]))
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise SystemExit(
            f"{path}: not a file that `tokens` wrote ({error}); give that, or a folder of pictures"
        ) from error
    for split in splits:
        tokens, labels = split.images, split.labels
        if (
            tokens.dtype != np.uint16
            or tokens.shape != (len(labels), found.grid**2)
            or not len(labels)
            or tokens.max() >= found.codes
        ):
            raise SystemExit(
                f"{path}: tokens {tokens.dtype} {tokens.shape} for {len(labels)} labels; expected uint16 [N, "
                f"{found.grid**2}] below {found.codes}, and N labels"
            )
        if labels.dtype != np.int64 or not 0 <= labels.min() <= labels.max() < len(classes):
            raise SystemExit(f"{path}: a label outside 0..{len(classes) - 1}")
    return found


def read_data(args: argparse.Namespace) -> dataset.Dataset:
    """The pictures of ``--data``, of each class the first ``--per-class``.

    Or the tokens in their place, where it is a file of them.
    """
    if args.per_class is not None and args.per_class < 1:
        raise SystemExit(f"--per-class {args.per_class}: give at least 1")
    data = read(args.data) if Path(args.data).is_file() else dataset.load(args.data, _size_for(args))
    if args.per_class is not None:
        data.train = dataset.first(data.train, args.per_class)
    return data


def _size_for(args: argparse.Namespace) -> int:
    """The size that a folder of pictures is read at: the tokenizer's. A run that goes on does not need it any more."""
    known = args.tokenizer is not None and Path(args.tokenizer).exists()
    return load_tokenizer(args.tokenizer).config.size if known else 64


def with_more(data: dataset.Dataset, path: Path) -> Tokens:
    """``data`` with the training images of another file in the place of its own, for the classes that this file has.

    The held-out ones stay.
    """
    if not isinstance(data, Tokens):
        raise SystemExit(f"--more {path}: give a file of tokens as --data too, not pictures")
    more = read(path)
    if (more.encoder, more.grid, more.codes) != (data.encoder, data.grid, data.codes):
        raise SystemExit(f"--more {path}: its tokens are of another tokenizer than those of --data")
    label = dataset.labels_among(more.classes, data.classes)
    if (label < 0).any():
        raise SystemExit(
            f"--more {path}: has classes that --data has not: "
            f"{', '.join(name for name, at in zip(more.classes, label) if at < 0)}"
        )
    kept = ~np.isin(data.train.labels, label)
    tokens = np.concatenate([data.train.images[kept], more.train.images])
    return replace(
        data, train=dataset.Split(tokens, np.concatenate([data.train.labels[kept], label[more.train.labels]]))
    )


@torch.no_grad()
def tokens_of(tokenizer: Tokenizer, image: Tensor, process: Run) -> Tensor:
    """Tokens of a batch of images, on their device.

    The encoder in bfloat16 where that is fast, the search in float32, since many codes would be equally near.
    """
    with process.autocast():
        vectors = tokenizer.encoder(image)
    return tokenizer.quantizer.tokens(vectors.float())


@torch.no_grad()
def tokenize(tokenizer: Tokenizer, images, process: Run, batch: int = 200) -> Tensor:
    """Tokens of all images, as int16 ``[N, tokens]`` on the CPU; every process finds its part of them, and gets all.

    Where the device computes bfloat16, a few in a hundred are another than ``encode`` gives, about as near as that: the
    tokens that the decoder was trained on.
    """
    tokenizer.to(process.device, memory_format=torch.channels_last)
    tokens, said = torch.zeros(len(images), tokenizer.config.grid**2, dtype=torch.int32), time.monotonic()
    mine = range(len(images) * process.rank // process.world, len(images) * (process.rank + 1) // process.world)
    for first in range(mine.start, mine.stop, batch):
        if process.chief and time.monotonic() - said > 20:
            said = time.monotonic()
            print(f"tokens of {first * process.world}/{len(images)} images", file=sys.stderr, flush=True)
        last = min(first + batch, mine.stop)
        tokens[first:last] = tokens_of(tokenizer, to_tensor(images[first:last], process.device), process).cpu()
    if process.world > 1:
        # NCCL sums on the GPU only.
        shared = tokens.to(process.device)
        torch.distributed.all_reduce(shared)
        tokens = shared.cpu()
    return tokens.to(torch.int16)


def find(tokenizer: Tokenizer, args: argparse.Namespace, data: dataset.Dataset, process: Run) -> tuple[Tensor, Tensor]:
    """Tokens of the training and of the held-out images, as :func:`tokenize` gives them; ``args`` are for errors."""
    if tokenizer.config.size != data.size:
        raise SystemExit(f"{args.tokenizer}: made for {tokenizer.config.size} pixels; the data has {data.size}")
    if process.chief:
        print(
            f"finding the tokens of {len(data.train.images) + len(data.heldout.images)} images",
            file=sys.stderr,
            flush=True,
        )
    return tokenize(tokenizer, data.train.images, process), tokenize(tokenizer, data.heldout.images, process)


def run(args: argparse.Namespace) -> int:
    """Finds the tokens and writes the file."""
    process = Run(args.device)
    if Path(args.data).is_file():
        raise SystemExit(f"--data {args.data}: give a folder of pictures")
    data = read_data(args)
    tokenizer = load_tokenizer(args.tokenizer)
    train, heldout = find(tokenizer, args, data, process)
    if process.chief:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        with whole(args.output) as partial, open(partial, "wb") as file:
            np.savez_compressed(
                file,
                train=train.numpy().astype(np.uint16),
                train_labels=data.train.labels,
                heldout=heldout.numpy().astype(np.uint16),
                heldout_labels=data.heldout.labels,
                classes=np.array(data.classes),
                grid=tokenizer.config.grid,
                codes=tokenizer.config.codes,
                encoder=fingerprint(tokenizer),
            )
        print(
            f"wrote {args.output}: {args.output.stat().st_size / 1e6:.1f} MB, the tokens of {len(train)} training and "
            f"{len(heldout)} held-out images",
            file=sys.stderr,
        )
    process.close()
    return 0
