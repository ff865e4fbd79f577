"""Trains the style classifier that `evaluate` judges samples with.

It sees only the train split, and prints its accuracy on the held-out split as JSON. It shares nothing with the
generator.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from . import dataset
from .classifier import StyleClassifier, augment, save_classifier
from .training import autocast, to_tensor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of ``maskgit-export train-classifier``."""
    parser.add_argument(
        "--data", required=True, help="a folder that `data` wrote, or one with a sub-folder of pictures a class"
    )
    parser.add_argument("-o", "--output", required=True, type=Path, help="weights to write")
    parser.add_argument("--size", type=int, default=64, help="image size for a folder of pictures")
    parser.add_argument("--images", type=int, default=60_000, help="training images to see")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate (one cycle)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: PyTorch's choice)")
    parser.add_argument("--seed", type=int, default=1)


def run(args: argparse.Namespace) -> int:
    """Trains, writes the weights, prints the report."""
    if args.threads:
        torch.set_num_threads(args.threads)
    data = dataset.load(args.data, args.size)
    started = time.monotonic()
    network = train(data, args.images, args.batch, args.lr, args.seed)
    save_classifier(network, args.output)
    right = network.predict(data.heldout.images) == data.heldout.labels
    per_class = {
        name: round(float(right[data.heldout.labels == index].mean()), 4)
        for index, name in enumerate(data.classes)
        if (data.heldout.labels == index).any()
    }
    print(
        json.dumps(
            {
                "heldout_accuracy": round(float(right.mean()), 4),
                "per_class": per_class,
                "images_seen": args.images,
                "seconds": round(time.monotonic() - started, 1),
            },
            indent=2,
        )
    )
    return 0


def train(data: dataset.Dataset, images: int, batch: int = 64, lr: float = 2e-3, seed: int = 1) -> StyleClassifier:
    """A classifier trained on the train split of ``data``."""
    torch.manual_seed(seed)
    choice = np.random.default_rng(seed)
    network = StyleClassifier(data.classes).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.01)
    steps = max(1, images // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for step in range(steps):
        picks = np.sort(choice.integers(0, len(data.train.labels), batch))
        image = augment(to_tensor(data.train.images[picks])).contiguous(memory_format=torch.channels_last)
        with autocast(image.device):
            scores = network(image)
        loss = F.cross_entropy(scores.float(), torch.from_numpy(data.train.labels[picks]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % max(1, steps // 20) == 0:
            print(f"step {step}/{steps}  loss {loss.item():.4f}", file=sys.stderr, flush=True)
    return network.eval()
