"""Trains the transformer by masked visual token modelling (MVTM; Chang et al. 2022, section 3.1).

Each image's tokens are found once, before training. A step draws r uniform in [0, 1) for every image, masks ceil(cos(pi
r / 2) N) of its N tokens, and minimises the negative log-likelihood of the masked ones. The label is replaced by the
null label in a tenth of the images, so that the model can be guided (Ho & Salimans 2022). What is saved is an
exponential moving average of the weights.

With ``--drafts``, half of a step's images are those that were new in the step before, and some of their visible tokens
are what the network drew there when they were masked: mistakes of the kind that it makes when it draws many tokens at
once. It predicts the true token at every position of these images, so it learns to tell which visible tokens are wrong,
as a token critic does (Lezama et al. 2022). The samplers ``predictor-corrector`` and ``confidence-remask`` ask for
that.

With ``--by-loss POWER``, images are drawn in proportion to that power of their class's running loss, so that the
classes where most is left to learn are seen most. ``--class-weights CLASS=WEIGHT...`` says how often those of a class
are drawn; ``--without CLASS...`` leaves the others all of the time. ``--more TOKENS`` has more pictures of some
classes, where the network has begun to know those of a class by heart.

Interrupt it at any time: the same command goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import dataset, token_file
from .muon import Muon
from .mvtm import MaskedTransformer, MvtmConfig, draw, grown, save_mvtm
from .tokenizer import Tokenizer
from .training import (
    Clock,
    Progress,
    Run,
    decay_groups,
    in_group,
    learning_rate,
    read_checkpoint,
    set_learning_rate,
    to_tensor,
    train,
    write_checkpoint,
)
from .weights import load_mvtm, load_tokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of ``maskgit-export train-mvtm``."""
    parser.add_argument(
        "--data",
        required=True,
        help="a folder that `data` wrote, or one with a sub-folder of pictures a class; or a file that `tokens` wrote",
    )
    parser.add_argument(
        "--more",
        type=Path,
        metavar="TOKENS",
        help="another file that `tokens` wrote, of more pictures of some of the classes: its training images take the "
        "place of theirs; --data is a file of tokens too",
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        help="file that `train-tokenizer` wrote, or a bundle; not needed for a file of `tokens`",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        help="weights to write; OUTPUT.checkpoint holds the state to resume from",
    )
    parser.add_argument(
        "--start",
        type=Path,
        nargs="+",
        metavar=("BUNDLE", "TOKENIZER"),
        help="bundle to start from, or weights and the tokenizer that they were trained with: each code starts as "
        "those of its codes that stand in its place",
    )
    _add_shape(parser)
    _add_schedule(parser)
    _add_examples(parser)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: PyTorch's choice)")
    parser.add_argument("--seed", type=int, default=0)


def _add_shape(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--width", type=int, default=96, help="channels at the token grid")
    parser.add_argument("--dim", type=int, default=192, help="width of the transformer")
    parser.add_argument("--depth", type=int, default=6, help="layers of the transformer")
    parser.add_argument("--heads", type=int, default=6, help="attention heads")
    parser.add_argument("--blocks", type=int, default=2, help="convolutional blocks after the transformer")


def _add_schedule(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=400_000, help="training images to see")
    parser.add_argument(
        "--minutes", type=float, default=None, help="train (with the full schedule) for this time instead"
    )
    parser.add_argument("--batch", type=int, default=32, help="images a step and process")
    parser.add_argument(
        "--lr", type=float, default=2e-3, help="peak learning rate of embeddings, norms and biases (AdamW)"
    )
    parser.add_argument("--muon-lr", type=float, default=0.02, help="peak learning rate of matrices and kernels (Muon)")
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument(
        "--label-smoothing", type=float, default=0.1, help="the paper's 0.1; small models sample cleaner with 0"
    )
    parser.add_argument("--ema", type=float, default=0.999, help="decay of the averaged weights")


def _add_examples(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--per-class",
        type=int,
        help="training images of each class to learn from, the first ones (default: all); finding the tokens of many "
        "takes long",
    )
    parser.add_argument("--label-drop", type=float, default=0.1, help="part of the images that train the null label")
    parser.add_argument(
        "--drafts",
        type=float,
        default=0.0,
        metavar="PART",
        help="replace up to this part of the visible tokens of every second image by the network's own draws, so that "
        "it learns to correct itself (0: none)",
    )
    parser.add_argument(
        "--by-loss",
        type=float,
        default=0.0,
        metavar="POWER",
        help="draw images in proportion to this power of the running loss of their class (0: all alike)",
    )
    parser.add_argument(
        "--class-weights",
        nargs="*",
        default=[],
        metavar="CLASS=WEIGHT",
        help="draw images of these classes so many times as often (1 is that of all others)",
    )
    parser.add_argument(
        "--without",
        nargs="*",
        default=[],
        metavar="CLASS",
        help="classes to learn nothing of, which the model then does not have",
    )


def mask_tokens(tokens: Tensor, mask_id: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Masks ceil(cos(pi r / 2) N) tokens of each row, r uniform; returns the masked tokens and which they are."""
    batch, n = tokens.shape
    r = torch.rand(batch, 1, generator=generator)
    count = (torch.cos(torch.pi / 2 * r) * n).ceil().clamp(1, n)
    order = torch.rand(batch, n, generator=generator).argsort(dim=1).argsort(dim=1)
    masked = (order < count).to(tokens.device)
    return tokens.masked_fill(masked, mask_id), masked


@dataclass(frozen=True)
class Drafts:
    """Images of a step: their places in the training data, and their tokens, drawn by the network where they were
    masked.
    """

    pick: Tensor
    tokens: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, pick: Tensor, tokens: Tensor, masked: Tensor, logits: Tensor) -> Drafts:
        """Draws the masked tokens from their logits, ``[masked tokens, codes]``."""
        return cls(pick, draw(tokens, masked, logits))

    def replace(self, inputs: Tensor, masked: Tensor, part: float) -> Tensor:
        """``inputs``, of which the first are these images, with up to ``part`` of the visible tokens of each as they
        were drawn.
        """
        count = len(self.tokens)
        rate = part * torch.rand(count, 1, device=inputs.device)
        chosen = ~masked[:count] & (torch.rand(self.tokens.shape, device=inputs.device) < rate)
        return torch.cat([torch.where(chosen, self.tokens, inputs[:count]), inputs[count:]])


class ClassLosses:
    """The mean loss of a masked token in each class, over the last fifty or so steps that had it; at first that of a
    guess among all codes.

    ``weights``, float ``[classes]``, multiply how often a class is drawn.
    """

    KEPT = 0.98

    def __init__(self, weights: Tensor, grid: int, codes: int, power: float):
        self.power, self.weights = power, weights
        # Each class begins as if one image had been seen, so that none is forgotten before it is drawn.
        self.count = torch.full((len(weights),), float(grid * grid))
        self.total = self.count * math.log(codes)

    def add(self, labels: Tensor, losses: Tensor) -> None:
        """Takes in a step's masked tokens: the class of the image and the loss of each.

        Where there are several processes, these are those of all.
        """
        new = torch.stack(
            [
                torch.bincount(labels, weights, minlength=len(self.count))
                for weights in (losses, torch.ones_like(losses))
            ]
        )
        if in_group():
            torch.distributed.all_reduce(new)
        total, count = new.cpu()
        # What is known of a class that is not seen does not fade to nothing.
        kept = torch.where(count > 0, self.KEPT, 1.0)
        self.total, self.count = kept * self.total + total, kept * self.count + count

    def draw(self, labels: Tensor, images: int) -> Tensor:
        """Places of ``images`` among ``labels``, each in proportion to the weight of its class times the power of its
        loss.
        """
        mean = self.total / self.count
        # Of the greatest, or a large power would be more than a float holds.
        return torch.multinomial(((mean / mean.max()).pow(self.power) * self.weights)[labels], images, replacement=True)


def class_weights(given: list[str], classes: list[str]) -> Tensor:
    """The weights of ``--class-weights``, float ``[classes]``: 1 where none is given."""
    weights = torch.ones(len(classes))
    for text in given:
        name, equals, value = text.rpartition("=")
        if not equals or name not in classes:
            raise SystemExit(f"--class-weights {text}: give CLASS=WEIGHT, of the classes {', '.join(classes)}")
        try:
            weight = float(value)
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            raise SystemExit(f"--class-weights {text}: give a weight above 0; --without leaves a class out")
        weights[classes.index(name)] = weight
    return weights


def tokens_of(args: argparse.Namespace, data: dataset.Dataset, process: Run) -> tuple[Tensor, Tensor, int, int]:
    """Tokens of the training and the held-out images, int16, tokens on a side, and codes."""
    if isinstance(data, token_file.Tokens):
        return (
            *(torch.from_numpy(split.images.astype(np.int16)) for split in (data.train, data.heldout)),
            data.grid,
            data.codes,
        )
    if args.tokenizer is None:
        raise SystemExit(f"--data {args.data}: pictures need --tokenizer FILE, to find their tokens")
    tokenizer = load_tokenizer(args.tokenizer)
    return *token_file.find(tokenizer, args, data, process), tokenizer.config.grid, tokenizer.config.codes


def keep(data: dataset.Dataset, without: list[str]) -> tuple[list[str], list[Tensor], list[Tensor]]:
    """The classes that are not left out.

    The places of their images in the training and the held-out split, and the labels of these.
    """
    classes = dataset.without(data.classes, without)
    label = dataset.labels_among(data.classes, classes)
    labels = [torch.from_numpy(label[split.labels]) for split in (data.train, data.heldout)]
    places = [(of >= 0).nonzero().flatten() for of in labels]
    return classes, places, [of[kept] for of, kept in zip(labels, places)]


def run(args: argparse.Namespace) -> int:
    """Trains, writes the averaged weights, prints the report as JSON."""
    process = Run(args.device, args.threads)
    process.check_budget(args.minutes)
    _check(args)
    trainer = _Trainer(args, process)
    train(process, trainer.clock, trainer.progress, trainer.step, trainer.checkpoint, trainer.note)
    if process.chief:
        trainer.finish()
    process.close()
    return 0


def _check(args: argparse.Namespace) -> None:
    if not 0 <= args.drafts <= 1:
        raise SystemExit(f"--drafts {args.drafts}: give a part from 0 to 1")
    if args.drafts and args.batch < 2:
        raise SystemExit(f"--batch {args.batch}: give at least 2 with --drafts, an image to draw and one to correct")
    if not 0 <= args.by_loss < math.inf:
        raise SystemExit(f"--by-loss {args.by_loss}: give a power of at least 0")


class _Trainer:
    """The network that learns, the tokens that it learns from, and the steps."""

    def __init__(self, args: argparse.Namespace, process: Run):
        self.args, self.process = args, process
        self._checkpoint = args.output.with_name(args.output.name + ".checkpoint")
        data = token_file.read_data(args)
        if args.more:
            data = token_file.with_more(data, args.more)
        state = self._read_tokens(data)
        # Reading a tokenizer draws numbers too.
        torch.manual_seed(args.seed * 1000 + process.rank)
        start = args.start and not state
        network = _start(args, self.config, data) if start else MaskedTransformer(self.config)
        # The images have done their part, and may take more memory than all else.
        del data
        self.network = network.to(process.device)
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.optimizers = _optimizers(self.network, args)
        self.batch = args.batch * process.world
        self.clock = Clock(max(1, args.images // self.batch), args.minutes)
        #: Images seen, the running loss and that of held-out images, now and then.
        self.curve: list[list[float]] = []
        if state:
            self._go_on(state)
        self.progress = Progress(self.clock, self.batch, quiet=not process.chief)
        self.module = process.parallel(self.network)
        self.drafts: Drafts | None = None

    def _read_tokens(self, data: dataset.Dataset) -> dict | None:
        """The tokens, their labels and the network's shape; returns the state of an earlier run where there is one."""
        args = self.args
        shape = {name: getattr(args, name) for name in ("width", "dim", "depth", "heads", "blocks")}
        classes, places, (self.labels, self.heldout_labels) = keep(data, args.without)
        weights = class_weights(args.class_weights, classes)
        #: What a checkpoint says of its run, so that no other run goes on from it.
        self.run = {"shape": shape, "labels": classes, "per_class": args.per_class, "pictures": len(self.labels)}
        if state := read_checkpoint(self._checkpoint, **self.run):
            self.tokens, self.heldout, grid, codes = (state[name] for name in ("train", "heldout", "grid", "codes"))
        else:
            *tokens, grid, codes = tokens_of(args, data, self.process)
            self.tokens, self.heldout = (of[kept] for of, kept in zip(tokens, places))
        self.config = MvtmConfig(grid=grid, codes=codes, labels=classes, **shape)
        by_class = args.by_loss or args.class_weights
        self.hard = ClassLosses(weights, grid, codes, args.by_loss) if by_class else None
        return state

    def _go_on(self, state: dict) -> None:
        """Takes up an earlier run."""
        self.network.load_state_dict(state["weights"])
        self.average = {name: value.to(self.process.device) for name, value in state["average"].items()}
        for (optimizer, _), stored in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(stored)
        self.clock.step, self.clock.spent, self.curve = state["step"], state["spent"], state["curve"]
        # Other pictures than those that the run began with.
        torch.manual_seed(self.args.seed * 1000 + self.process.rank + self.clock.step * self.process.world)
        if self.process.chief:
            print(f"going on from step {self.clock.step} of {self._checkpoint}", file=sys.stderr)

    def checkpoint(self) -> None:
        """Writes the averaged weights, and all that a later call needs to go on."""
        if not self.process.chief:
            return
        save_mvtm(self.config, self.average, self.args.output)
        write_checkpoint(
            self._checkpoint,
            {
                "weights": self.network.state_dict(),
                "average": self.average,
                "optimizers": [optimizer.state_dict() for optimizer, _ in self.optimizers],
                "step": self.clock.step,
                "spent": self.clock.spent,
                "curve": self.curve,
                "train": self.tokens,
                "heldout": self.heldout,
                "grid": self.config.grid,
                "codes": self.config.codes,
                **self.run,
            },
        )

    def step(self, fraction: float) -> dict[str, Tensor]:
        """One step of the run, of which ``fraction`` is done; returns the loss."""
        args = self.args
        scale = learning_rate(int(fraction * 10_000), 10_000, 1.0, 100)
        for optimizer, peak in self.optimizers:
            set_learning_rate(optimizer, peak * scale)
        pick, tokens, true_label, label = self._examples()
        inputs, masked = mask_tokens(tokens, self.config.mask_id)
        wanted = masked
        if self.drafts:
            inputs, wanted = self.drafts.replace(inputs, masked, args.drafts), masked.clone()
            wanted[: len(self.drafts.pick)] = True
        with self.process.autocast(), self.process.attention():
            logits = self.module(inputs, label, wanted)
        losses = F.cross_entropy(logits.float(), tokens[wanted], label_smoothing=args.label_smoothing, reduction="none")
        loss = losses.mean()
        if self.hard:
            self.hard.add(true_label.repeat_interleave(masked.sum(1)), losses.detach()[masked[wanted]])
        if args.drafts:
            new = slice(args.batch - args.batch // 2, None)
            self.drafts = Drafts.of(pick[new], tokens[new], masked[new], logits[-int(masked[new].sum()) :].detach())
        self._learn(loss)
        return {"loss": loss.detach()}

    def _examples(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A step's images: their places, their tokens, their labels, and these with some that are the null label."""
        count, device = self.args.batch, self.process.device
        pick = self.hard.draw(self.labels, count) if self.hard else torch.randint(len(self.tokens), (count,))
        if self.drafts:
            pick[: len(self.drafts.pick)] = self.drafts.pick
        tokens, true_label = self.tokens[pick].long().to(device), self.labels[pick].to(device)
        dropped = (torch.rand(count) < self.args.label_drop).to(device)
        return pick, tokens, true_label, torch.where(dropped, self.config.null_label, true_label)

    def _learn(self, loss: Tensor) -> None:
        for optimizer, _ in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for optimizer, _ in self.optimizers:
            optimizer.step()
        done = self.clock.step + 1
        decay = min(self.args.ema, (1 + done) / (10 + done))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.network.state_dict().values()), 1 - decay)

    def note(self, images: int = 400) -> None:
        """Adds the loss of so many held-out images to the curve."""
        heldout = _heldout_loss(self.config, self.average, self.heldout, self.heldout_labels, self.process, images)
        self.curve.append([self.clock.step * self.batch, self.progress.means.get("loss", float("nan")), heldout])
        if self.process.chief:
            print(f"held-out loss {heldout:.4f}", file=sys.stderr, flush=True)

    def finish(self) -> None:
        """The last checkpoint, and the report."""
        self.note(len(self.heldout))
        self.checkpoint()
        report = {
            "images": self.clock.step * self.batch,
            "minutes": self.clock.spent / 60,
            "heldout_loss": self.curve[-1][2],
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "curve": [{"images": images, "loss": loss, "heldout_loss": held} for images, loss, held in self.curve],
        }
        print(json.dumps(report, indent=1))
        print(f"wrote {self.args.output}", file=sys.stderr)


def _start(args: argparse.Namespace, config: MvtmConfig, data: dataset.Dataset) -> MaskedTransformer:
    """What ``--start`` names, grown to this configuration."""
    if len(args.start) > 2 or (len(args.start) == 1 and not args.start[0].is_dir()):
        raise SystemExit(
            "--start: give the folder of a bundle, or two files: the weights, and the tokenizer that they were "
            "trained with"
        )
    mvtm, tokenizer = args.start[0], args.start[-1]
    network, old = load_mvtm(mvtm), load_tokenizer(tokenizer)
    if network.config.codes != old.config.codes:
        raise SystemExit(
            f"--start: {mvtm} has {network.config.codes} codes, {tokenizer} {old.config.codes}; give the tokenizer "
            "that it was trained with"
        )
    if old.config.grid != config.grid:
        raise SystemExit(
            f"--start: {tokenizer} has a grid of {old.config.grid}x{old.config.grid} tokens, "
            f"{args.tokenizer or args.data} of {config.grid}x{config.grid}; they must be the same"
        )
    if not isinstance(data, token_file.Tokens):
        pairs = together(
            load_tokenizer(args.tokenizer), old, data.train.images[:: -(-len(data.train.images) // START_IMAGES)]
        )
    elif data.encoder == token_file.fingerprint(old):
        pairs = torch.eye(config.codes)
    else:
        raise SystemExit(
            f"--start: the tokens of {args.data} are not of {tokenizer}; to start from a model of other tokens, give "
            "the pictures: --data FOLDER --tokenizer FILE"
        )
    try:
        return grown(network, config, pairs).train()
    except ValueError as error:
        raise SystemExit(f"--start {mvtm}: {error}") from None


#: Images whose tokens say which codes of two tokenizers stand for the same.
START_IMAGES = 1500


@torch.no_grad()
def together(new: Tokenizer, old: Tokenizer, images: np.ndarray, batch: int = 100) -> Tensor:
    """How often each code of ``new`` stands where each of ``old`` does, in pictures shrunk for the latter: float ``[new
    codes, old codes]``.
    """
    if new.config == old.config and token_file.fingerprint(new) == token_file.fingerprint(old):
        return torch.eye(new.config.codes)
    count = torch.zeros(new.config.codes * old.config.codes)
    for first in range(0, len(images), batch):
        image = to_tensor(images[first : first + batch])
        shrunk = F.interpolate(image, (old.config.size,) * 2, mode="area")
        pairs = new.encode(image).flatten() * old.config.codes + old.encode(shrunk).flatten()
        count += torch.bincount(pairs, minlength=len(count))
    return count.reshape(new.config.codes, old.config.codes)


def _optimizers(network: MaskedTransformer, args: argparse.Namespace) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the matrices inside, AdamW for embeddings, head, norms and biases; each with its peak learning rate."""
    inside = {
        id(p)
        for name, p in network.named_parameters()
        if p.ndim >= 2 and "embedding" not in name and "position" not in name and not name.startswith("head")
    }
    matrices = [p for p in network.parameters() if id(p) in inside]
    others = nn.ParameterList(p for p in network.parameters() if id(p) not in inside)
    return [
        (Muon(matrices, lr=args.muon_lr, weight_decay=args.weight_decay), args.muon_lr),
        (torch.optim.AdamW(decay_groups(others, args.weight_decay), lr=args.lr, betas=(0.9, 0.98)), args.lr),
    ]


@torch.no_grad()
def _heldout_loss(
    config: MvtmConfig, weights: dict[str, Tensor], tokens: Tensor, labels: Tensor, process: Run, count: int
) -> float:
    """Negative log-likelihood of masked held-out tokens under the averaged weights, with fixed masks."""
    network = MaskedTransformer(config).to(process.device)
    network.load_state_dict(weights)
    network.eval()
    generator = torch.Generator().manual_seed(0)
    pick = torch.randperm(len(tokens), generator=generator)[:count]
    total, seen = 0.0, 0
    for rows in pick.split(100):
        target = tokens[rows].long().to(process.device)
        inputs, masked = mask_tokens(target, config.mask_id, generator)
        logits = network(inputs, labels[rows].to(process.device))
        total += float(F.cross_entropy(logits[masked], target[masked], reduction="sum"))
        seen += int(masked.sum())
    return total / seen
