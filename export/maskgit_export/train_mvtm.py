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
import time
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
    Progress,
    Run,
    decay_groups,
    in_group,
    learning_rate,
    read_checkpoint,
    set_learning_rate,
    to_tensor,
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
    parser.add_argument("--width", type=int, default=96, help="channels at the token grid")
    parser.add_argument("--dim", type=int, default=192, help="width of the transformer")
    parser.add_argument("--depth", type=int, default=6, help="layers of the transformer")
    parser.add_argument("--heads", type=int, default=6, help="attention heads")
    parser.add_argument("--blocks", type=int, default=2, help="convolutional blocks after the transformer")
    parser.add_argument(
        "--per-class",
        type=int,
        help="training images of each class to learn from, the first ones (default: all); finding the tokens of many "
        "takes long",
    )
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
    parser.add_argument("--ema", type=float, default=0.999, help="decay of the averaged weights")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: PyTorch's choice)")
    parser.add_argument("--seed", type=int, default=0)


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
    process = Run(args.device)
    process.check_budget(args.minutes)
    if not 0 <= args.drafts <= 1:
        raise SystemExit(f"--drafts {args.drafts}: give a part from 0 to 1")
    if args.drafts and args.batch < 2:
        raise SystemExit(f"--batch {args.batch}: give at least 2 with --drafts, an image to draw and one to correct")
    if not 0 <= args.by_loss < math.inf:
        raise SystemExit(f"--by-loss {args.by_loss}: give a power of at least 0")
    if args.threads:
        torch.set_num_threads(args.threads)
    data = token_file.read_data(args)
    if args.more:
        data = token_file.with_more(data, args.more)
    checkpoint_path = args.output.with_name(args.output.name + ".checkpoint")
    shape = {name: getattr(args, name) for name in ("width", "dim", "depth", "heads", "blocks")}
    classes, places, (labels, heldout_labels) = keep(data, args.without)
    weights = class_weights(args.class_weights, classes)
    state = read_checkpoint(
        checkpoint_path, shape=shape, labels=classes, per_class=args.per_class, pictures=len(labels)
    )
    if state:
        train, heldout, grid, codes = (state[name] for name in ("train", "heldout", "grid", "codes"))
    else:
        *tokens, grid, codes = tokens_of(args, data, process)
        train, heldout = (of[kept] for of, kept in zip(tokens, places))

    config = MvtmConfig(grid=grid, codes=codes, labels=classes, **shape)
    # Reading a tokenizer draws numbers too.
    torch.manual_seed(args.seed * 1000 + process.rank)
    network = (_start(args, config, data) if args.start and not state else MaskedTransformer(config)).to(process.device)
    # The images have done their part, and may take more memory than all else.
    del data
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    optimizers = _optimizers(network, args)
    step, spent, curve = 0, 0.0, []
    if state:
        network.load_state_dict(state["weights"])
        average = {name: value.to(process.device) for name, value in state["average"].items()}
        for (optimizer, _), stored in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(stored)
        step, spent, curve = state["step"], state["spent"], state["curve"]
        # Other pictures than those that the run began with.
        torch.manual_seed(args.seed * 1000 + process.rank + step * process.world)
        if process.chief:
            print(f"going on from step {step} of {checkpoint_path}", file=sys.stderr)
    module = process.parallel(network)
    drafts: Drafts | None = None
    hard = ClassLosses(weights, grid, codes, args.by_loss) if args.by_loss or args.class_weights else None

    def checkpoint() -> None:
        if not process.chief:
            return
        save_mvtm(config, average, args.output)
        write_checkpoint(
            checkpoint_path,
            {
                "weights": network.state_dict(),
                "average": average,
                "optimizers": [o.state_dict() for o, _ in optimizers],
                "step": step,
                "spent": spent,
                "curve": curve,
                "train": train,
                "heldout": heldout,
                "grid": grid,
                "codes": codes,
                "shape": shape,
                "labels": classes,
                "per_class": args.per_class,
                "pictures": len(labels),
            },
        )

    batch = args.batch * process.world
    steps = max(1, args.images // batch)
    progress = Progress(steps, batch, quiet=not process.chief)
    fraction, saved = (spent / 60 / args.minutes if args.minutes else step / steps), time.monotonic()
    while fraction < 1.0:
        began = time.monotonic()
        scale = learning_rate(int(fraction * 10_000), 10_000, 1.0, 100)
        for optimizer, peak in optimizers:
            set_learning_rate(optimizer, peak * scale)
        pick = hard.draw(labels, args.batch) if hard else torch.randint(len(train), (args.batch,))
        if drafts:
            pick[: len(drafts.pick)] = drafts.pick
        tokens, true_label = train[pick].long().to(process.device), labels[pick].to(process.device)
        label = torch.where(
            (torch.rand(args.batch) < args.label_drop).to(process.device), config.null_label, true_label
        )
        inputs, masked = mask_tokens(tokens, config.mask_id)
        wanted = masked
        if drafts:
            inputs, wanted = drafts.replace(inputs, masked, args.drafts), masked.clone()
            wanted[: len(drafts.pick)] = True
        with process.autocast(), process.attention():
            logits = module(inputs, label, wanted)
        losses = F.cross_entropy(logits.float(), tokens[wanted], label_smoothing=args.label_smoothing, reduction="none")
        loss = losses.mean()
        if hard:
            hard.add(true_label.repeat_interleave(masked.sum(1)), losses.detach()[masked[wanted]])
        if args.drafts:
            new = slice(args.batch - args.batch // 2, None)
            drafts = Drafts.of(pick[new], tokens[new], masked[new], logits[-int(masked[new].sum()) :].detach())
        for optimizer, _ in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer, _ in optimizers:
            optimizer.step()
        step += 1
        decay = min(args.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), list(network.state_dict().values()), 1 - decay)
        spent += time.monotonic() - began
        fraction = spent / 60 / args.minutes if args.minutes else step / steps
        progress.step(step, loss=loss.detach())
        if time.monotonic() - saved > 120:
            saved = time.monotonic()
            curve.append(
                [
                    step * batch,
                    progress.means["loss"],
                    _heldout_loss(config, average, heldout, heldout_labels, process, 400),
                ]
            )
            if process.chief:
                print(f"held-out loss {curve[-1][2]:.4f}", file=sys.stderr, flush=True)
            checkpoint()
    if process.chief:
        curve.append(
            [
                step * batch,
                progress.means.get("loss", float("nan")),
                _heldout_loss(config, average, heldout, heldout_labels, process, len(heldout)),
            ]
        )
        checkpoint()
        report = {
            "images": step * batch,
            "minutes": spent / 60,
            "heldout_loss": curve[-1][2],
            "parameters": sum(p.numel() for p in network.parameters()),
            "curve": [{"images": images, "loss": loss, "heldout_loss": held} for images, loss, held in curve],
        }
        print(json.dumps(report, indent=1))
        print(f"wrote {args.output}", file=sys.stderr)
    process.close()
    return 0


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
