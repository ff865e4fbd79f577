"""Trains the style classifier that `evaluate` judges samples with.

It sees only the train split, and prints its accuracy on the held-out split as JSON. It shares nothing with the
generator. Ctrl-C ends a step and writes OUTPUT.checkpoint, from which the same command goes on to the same result.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from . import dataset
from .classifier import StyleClassifier, augment, save_classifier
from .training import Clock, Progress, Run, read_checkpoint, to_tensor, write_checkpoint
from .training import train as run_steps


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
    data = dataset.load(args.data, args.size)
    checkpoint = args.output.with_name(args.output.name + ".checkpoint")
    trainer = _Trainer(data, args.images, args.batch, args.lr, args.seed, args.threads, checkpoint)
    network = trainer.train()
    save_classifier(network, args.output)
    checkpoint.unlink(missing_ok=True)
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
                "seconds": round(trainer.clock.spent, 1),
            },
            indent=2,
        )
    )
    return 0


def train(data: dataset.Dataset, images: int, batch: int = 64, lr: float = 2e-3, seed: int = 1) -> StyleClassifier:
    """A classifier trained on the train split of ``data``."""
    return _Trainer(data, images, batch, lr, seed).train()


class _Trainer:
    """The network that learns, and its steps; ``checkpoint`` is the file to go on from, and to write."""

    def __init__(
        self,
        data: dataset.Dataset,
        images: int,
        batch: int,
        lr: float,
        seed: int,
        threads: int = 0,
        checkpoint: Path | None = None,
    ):
        self.data, self.batch, self._checkpoint = data, batch, checkpoint
        self.process = Run("cpu", threads)
        torch.manual_seed(seed)
        self.choice = np.random.default_rng(seed)
        self.network = StyleClassifier(data.classes).train().to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=lr, weight_decay=0.01)
        self.clock = Clock(max(1, images // batch))
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, lr, total_steps=self.clock.steps)
        #: What a checkpoint says of its run, so that no other run goes on from it.
        self.run = {
            "classes": list(data.classes),
            "pictures": len(data.train.labels),
            "size": int(data.train.images.shape[1]),
            "images": images,
            "batch": batch,
            "lr": lr,
            "seed": seed,
        }
        if checkpoint and (state := read_checkpoint(checkpoint, **self.run)):
            self._go_on(state)
        self.progress = Progress(self.clock, batch, quiet=False)

    def train(self) -> StyleClassifier:
        """Runs the steps that are left."""
        run_steps(self.process, self.clock, self.progress, self.step, self.checkpoint)
        return self.network.eval()

    def _go_on(self, state: dict) -> None:
        """Takes up an earlier run, with the random numbers that it would have drawn next."""
        self.network.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.choice.bit_generator.state = state["choice"]
        torch.set_rng_state(state["random"])
        self.clock.step, self.clock.spent = state["step"], state["spent"]
        print(f"going on from step {self.clock.step} of {self._checkpoint}", file=sys.stderr)

    def checkpoint(self) -> None:
        """Writes all that a later call needs to go on."""
        if not self._checkpoint:
            return
        write_checkpoint(
            self._checkpoint,
            {
                "weights": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "choice": self.choice.bit_generator.state,
                "random": torch.get_rng_state(),
                "step": self.clock.step,
                "spent": self.clock.spent,
                **self.run,
            },
        )

    def step(self, fraction: float) -> dict[str, torch.Tensor]:
        """One step of the run; returns the loss."""
        picks = np.sort(self.choice.integers(0, len(self.data.train.labels), self.batch))
        image = augment(to_tensor(self.data.train.images[picks])).contiguous(memory_format=torch.channels_last)
        with self.process.autocast():
            scores = self.network(image)
        loss = F.cross_entropy(scores.float(), torch.from_numpy(self.data.train.labels[picks]))
        self._learn(loss)
        return {"loss": loss.detach()}

    def _learn(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
