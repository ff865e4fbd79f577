"""Trains the VQGAN tokenizer and reports codebook use and held-out reconstruction error.

Loss: L1, L1 of the image gradients (edges), the quantiser's commitment; with ``--square-weight`` the mean square error,
to which a small feature that is missing is more than much that is a little off; with ``--contrast-weight`` the distance
of locally normalised contrast; with ``--perceptual`` that in the features of a classifier; and, for the last part of
the run, a hinge adversarial loss from a small patch discriminator whose weight adapts to the gradient of the
reconstruction loss (Esser et al. 2021). Where the picture is black or white, the drawing may be more so: it is clipped
later. With ``--decoder-only`` the encoder and the codebook stay as they are and only the decoder learns on: tokens, and
so every transformer trained on them, stay valid. ``--tokens`` then spares the encoder's work in every step. With
``--drafts`` the discriminator then judges half as many pictures more, of which a transformer drew part of the tokens:
the decoder learns to draw a clean picture of tokens that agree with each other less than an encoder's do, as those of
samples (Qiu et al. 2025 train on tokens of that kind too, towards the original picture, which these need not have
been). Interrupt it at any time: the same command goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import dataset, token_file
from .classifier import StyleClassifier, load_classifier
from .muon import Muon
from .mvtm import MaskedTransformer, draw
from .tokenizer import Tokenizer, TokenizerConfig, grown, save_tokenizer
from .training import (
    Clock,
    Progress,
    Run,
    learning_rate,
    read_checkpoint,
    set_learning_rate,
    to_tensor,
    train,
    write_checkpoint,
)
from .weights import load_mvtm, load_tokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of ``maskgit-export train-tokenizer``."""
    parser.add_argument(
        "--data", required=True, help="a folder that `data` wrote, or one with a sub-folder of pictures a class"
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        help="tokenizer file to write; OUTPUT.checkpoint holds the state to resume from",
    )
    parser.add_argument("--size", type=int, default=64, help="image size for a folder of pictures")
    parser.add_argument(
        "--factor", type=int, default=4, choices=[4, 8], help="pixels a token spans on each side (of a new tokenizer)"
    )
    parser.add_argument("--codes", type=int, help="size of the codebook (512)")
    parser.add_argument("--width", type=int, default=96, help="channels at the token grid (of a new tokenizer)")
    parser.add_argument("--blocks", type=int, help="residual blocks of the decoder at the token grid (2)")
    parser.add_argument("--encoder-blocks", type=int, help="residual blocks of the encoder there (1)")
    parser.add_argument(
        "--crop",
        type=int,
        help="train on random squares of this many pixels instead of whole images; a multiple of the factor",
    )
    _add_schedule(parser)
    _add_losses(parser)
    _add_start(parser)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: PyTorch's choice)")
    parser.add_argument("--seed", type=int, default=0)


def _add_schedule(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=60_000, help="training images to see")
    parser.add_argument(
        "--minutes", type=float, default=None, help="stop (with the full schedule) after this time instead"
    )
    parser.add_argument("--batch", type=int, default=16, help="images a step and process")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate of biases (AdamW)")
    parser.add_argument("--muon-lr", type=float, default=0.03, help="peak learning rate of kernels (Muon)")


def _add_losses(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--adversarial-from",
        type=float,
        default=1.1,
        metavar="FRACTION",
        help="part of the run after which the discriminator joins; above 1: never",
    )
    parser.add_argument(
        "--adversarial-weight",
        type=float,
        default=0.1,
        help="weight of the adversarial loss relative to the reconstruction's gradient",
    )
    parser.add_argument(
        "--perceptual",
        type=Path,
        metavar="CLASSIFIER",
        help="file of `train-classifier`, whose features are to agree too; judge the model by another one",
    )
    parser.add_argument("--perceptual-weight", type=float, default=0.1, help="weight of the distance of features")
    parser.add_argument(
        "--square-weight",
        type=float,
        default=0.0,
        help="weight of the mean square error, which wants small features more than L1 does",
    )
    parser.add_argument(
        "--contrast-weight",
        type=float,
        default=0.0,
        help="weight of the distance of local contrast, which keeps faint lines and flat areas",
    )


def _add_start(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--start",
        type=Path,
        default=None,
        help="tokenizer file or bundle to start from; what it has less of than asked for (codes, blocks, half the "
        "size) it is grown to",
    )
    parser.add_argument(
        "--refine", type=int, default=32, help="channels of the block that a decoder grown to twice the size ends with"
    )
    parser.add_argument("--decoder-only", action="store_true", help="keep encoder and codebook (needs --start)")
    parser.add_argument(
        "--tokens",
        type=Path,
        metavar="FILE",
        help="what `tokens` wrote of this data with this tokenizer, so that no step needs the encoder (needs "
        "--decoder-only, without --crop)",
    )
    parser.add_argument("--without", nargs="*", default=[], metavar="CLASS", help="classes to learn nothing of")
    parser.add_argument(
        "--drafts",
        type=Path,
        metavar="MVTM",
        help="weights of `train-mvtm` on this tokenizer's tokens, or a bundle: let the discriminator judge pictures "
        "of tokens that it drew, too (needs --decoder-only)",
    )


class Discriminator(nn.Module):
    """Patch discriminator: strided convolutions, one score a patch of about 22 pixels."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width * 2, 4, stride=2, padding=1),
            nn.GroupNorm(8, width * 2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width * 2, width * 4, 3, padding=1),
            nn.GroupNorm(8, width * 4),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width * 4, 1, 3, padding=1),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image * 2 - 1)


class Perceptual(nn.Module):
    """Distance of two batches of images in the features of a classifier, as LPIPS measures it (Zhang et al. 2018).

    After each of its stages, features of unit length at every position; the mean square of their differences, summed
    over the stages.
    """

    def __init__(self, classifier: StyleClassifier):
        super().__init__()
        self.stages = nn.ModuleList(
            classifier.features[first : first + 3] for first in range(0, len(classifier.features), 3)
        )
        self.requires_grad_(False)
        self.eval()

    def forward(self, drawn: Tensor, image: Tensor) -> Tensor:
        total = drawn.new_zeros(())
        a, b = drawn * 2 - 1, image * 2 - 1
        for stage in self.stages:
            a, b = stage(a), stage(b)
            total = total + (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean()
        return total


def gradient_l1(a: Tensor, b: Tensor) -> Tensor:
    """L1 distance of horizontal and vertical differences."""
    d = a - b
    return d.diff(dim=-1).abs().mean() + d.diff(dim=-2).abs().mean()


def contrast_distance(drawn: Tensor, image: Tensor, levels: int = 3, floor: float = 0.05) -> Tensor:
    """L1 distance of local contrast, as in the normalised Laplacian pyramid distance (Laparra et al. 2016); images in
    0..1.

    On each level, half the size of the one before, what differs from the mean of the 5x5 pixels around counts relative
    to how much the pixels of ``image`` do so there: a faint mouth on a dark face as much as black lines on white, and
    stains where ``image`` is flat, by ``floor``, the most.
    """

    def averaging(size: int) -> Tensor:
        # Each row the mean of up to five; two products with such matrices are three times as fast on a CPU as pooling.
        place = torch.arange(size, device=image.device)
        near = ((place[:, None] - place).abs() <= 2).to(image.dtype)
        return near / near.sum(1, keepdim=True)

    def blurred(x: Tensor) -> Tensor:
        return averaging(x.shape[-2]) @ x @ averaging(x.shape[-1]).t()

    # Channels one after the other, as matrices.
    drawn, image, total = drawn.contiguous(), image.contiguous(), drawn.new_zeros(())
    for level in range(levels):
        if level:
            drawn, image = F.avg_pool2d(drawn, 2), F.avg_pool2d(image, 2)
        difference, contrast = drawn - image, image - blurred(image)
        total = total + ((difference - blurred(difference)).abs() / (blurred(contrast.abs()) + floor)).mean()
    return total


def clipped_with(drawn: Tensor, image: Tensor) -> Tensor:
    """``drawn``, where it goes beyond 0..1 at pixels of ``image`` that are there clipped: no error, and no pull back
    into the range.
    """
    return torch.where(image >= 1, drawn.clamp_max(1), torch.where(image <= 0, drawn.clamp_min(0), drawn))


#: At most this part of a picture's tokens is a draft.
DRAFTED = 0.5


@torch.no_grad()
def drafted(network: MaskedTransformer, tokens: Tensor, labels: Tensor) -> Tensor:
    """``tokens``, ``[B, N]``, of which up to ``DRAFTED`` of each row are drawn again, all at once, by ``network``."""
    masked = torch.rand(tokens.shape, device=tokens.device) < DRAFTED * torch.rand(len(tokens), 1, device=tokens.device)
    return draw(tokens, masked, network(tokens.masked_fill(masked, network.config.mask_id), labels, masked))


def run(args: argparse.Namespace) -> int:
    """Trains, writes the tokenizer, prints the report as JSON."""
    process = Run(args.device, args.threads)
    process.check_budget(args.minutes)
    torch.manual_seed(args.seed + process.rank)
    trainer = _Trainer(args, process)
    trainer.go_on()
    progress = Progress(trainer.clock, trainer.batch, quiet=not process.chief)
    train(process, trainer.clock, progress, trainer.step, trainer.checkpoint)
    if process.chief:
        trainer.finish()
    process.close()
    return 0


class _Trainer:
    """The networks that learn, what they learn from, and the steps."""

    def __init__(self, args: argparse.Namespace, process: Run):
        self.args, self.process = args, process
        self.data = data = dataset.load(args.data, args.size)
        self.tokenizer = tokenizer = self._new_tokenizer()
        self.known = _known_tokens(args, tokenizer, data) if args.tokens else None
        classes = dataset.without(data.classes, args.without)
        self.labels = dataset.labels_among(data.classes, classes)[data.train.labels]
        self.kept = torch.from_numpy(np.flatnonzero(self.labels >= 0))
        self.drafter = _drafter(args, tokenizer, classes).to(process.device) if args.drafts else None
        tokenizer.to(process.device, memory_format=torch.channels_last).train()
        if args.decoder_only:
            tokenizer.encoder.requires_grad_(False)
        self.module = process.parallel(tokenizer.decoder if args.decoder_only else tokenizer)
        self._make_optimizers()
        self.perceptual = (
            Perceptual(load_classifier(args.perceptual)).to(process.device, memory_format=torch.channels_last)
            if args.perceptual
            else None
        )
        self.batch = args.batch * process.world
        self.clock = Clock(max(1, args.images // self.batch), args.minutes)
        self._checkpoint = args.output.with_name(args.output.name + ".checkpoint")

    def _new_tokenizer(self) -> Tokenizer:
        """A new one or that of ``--start``, if the options fit together."""
        args, size = self.args, self.data.size
        if args.decoder_only and args.start is None:
            raise SystemExit("--decoder-only needs --start FILE: a tokenizer whose decoder to train on")
        if args.start:
            tokenizer = _start(args, size)
        else:
            tokenizer = Tokenizer(TokenizerConfig(size=size, factor=args.factor, width=args.width, **_given(args)))
        if args.crop and (args.crop % tokenizer.config.factor or not 0 < args.crop <= size):
            raise SystemExit(
                f"--crop {args.crop}: give a multiple of the factor, {tokenizer.config.factor}, up to the size, {size}"
            )
        return tokenizer

    def _make_optimizers(self) -> None:
        args = self.args
        learned = [p for p in self.tokenizer.parameters() if p.requires_grad]
        self.muon = Muon([p for p in learned if p.ndim >= 2], lr=args.muon_lr)
        self.adamw = torch.optim.AdamW(
            [p for p in learned if p.ndim < 2], lr=args.lr, betas=(0.9, 0.95), weight_decay=0.0
        )
        self.critic = Discriminator().to(self.process.device, memory_format=torch.channels_last)
        self.critic_adamw = torch.optim.AdamW(self.critic.parameters(), lr=args.lr / 2, betas=(0.5, 0.9))

    def _stateful(self) -> dict:
        """What a checkpoint has the state of."""
        found = {name: getattr(self, name) for name in ("muon", "adamw", "critic", "critic_adamw")}
        return {"weights": self.tokenizer, **found}

    def _run(self) -> dict:
        """What a checkpoint says of its run, so that no other run goes on from it."""
        return {"config": asdict(self.tokenizer.config), "decoder_only": self.args.decoder_only}

    def go_on(self) -> None:
        """Takes up an earlier run where its checkpoint is, if there is one."""
        if not (state := read_checkpoint(self._checkpoint, **self._run())):
            return
        for name, one in self._stateful().items():
            one.load_state_dict(state[name])
        self.clock.step, self.clock.spent = state["step"], state["spent"]
        # Other pictures than those that the run began with.
        torch.manual_seed(self.args.seed + self.process.rank + self.clock.step * self.process.world)
        if self.process.chief:
            print(f"going on from step {self.clock.step} of {self._checkpoint}", file=sys.stderr)

    def checkpoint(self) -> None:
        """Writes the tokenizer, and all that a later call needs to go on."""
        if not self.process.chief:
            return
        save_tokenizer(self.tokenizer, self.args.output)
        states = {name: one.state_dict() for name, one in self._stateful().items()}
        write_checkpoint(
            self._checkpoint, {**states, **self._run(), "step": self.clock.step, "spent": self.clock.spent}
        )

    def step(self, fraction: float) -> dict[str, Tensor]:
        """One step of the run, of which ``fraction`` is done; returns the losses."""
        args = self.args
        scale = learning_rate(int(fraction * 10_000), 10_000, 1.0, 200)
        set_learning_rate(self.muon, args.muon_lr * scale)
        set_learning_rate(self.adamw, args.lr * scale)
        pick, image = self._images()
        drawn, tokens, commitment = self._drawn(pick, image)
        reconstruction, logs = self._reconstruction(drawn, image)
        loss = reconstruction
        if not args.decoder_only:
            loss = loss + 0.1 * commitment.float()
            logs["commitment"] = commitment.detach()
        # The critic joins a little before its verdict counts, so that the first verdicts mean something.
        joined, judged = fraction >= args.adversarial_from - 0.05, drawn
        if self.drafter and joined:
            judged = self._with_drafts(drawn, tokens, pick)
        if fraction >= args.adversarial_from:
            adversarial, logs["adversarial"] = self._adversarial(reconstruction, judged)
            loss = loss + adversarial
        self._learn(loss)
        if joined:
            logs["critic"] = self._teach_critic(image, judged)
        return logs

    def _images(self) -> tuple[np.ndarray, Tensor]:
        """Which images a step has, ascending, and these, as squares cut out of them with ``--crop``."""
        # The images stay in their file, which may be larger than the memory.
        pick = self.kept[torch.randint(len(self.kept), (self.args.batch,))].sort().values.numpy()
        images = self.data.train.images[pick]
        if crop := self.args.crop:
            # Where tokens begin in whole images.
            factor = self.tokenizer.config.factor
            top, left = torch.randint((self.data.size - crop) // factor + 1, (2,)).mul(factor).tolist()
            images = images[:, top : top + crop, left : left + crop]
        return pick, to_tensor(images, self.process.device).contiguous(memory_format=torch.channels_last)

    def _drawn(self, pick: np.ndarray, image: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Reconstructions, tokens, and the commitment loss where the encoder learns."""
        tokenizer, commitment = self.tokenizer, None
        if self.known is not None:
            tokens = torch.from_numpy(self.known[pick].astype(np.int64)).to(self.process.device)
        elif self.args.decoder_only:
            tokens = token_file.tokens_of(tokenizer, image, self.process)
        with self.process.autocast():
            if self.args.decoder_only:
                drawn = self.module(tokenizer.codes(tokens).contiguous(memory_format=torch.channels_last))
            else:
                drawn, tokens, commitment = self.module(image)
        return clipped_with(drawn.float(), image), tokens, commitment

    def _reconstruction(self, drawn: Tensor, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss that compares the two, and its parts."""
        args = self.args
        l1 = (drawn - image).abs().mean()
        total, logs = l1 + gradient_l1(drawn, image), {"l1": l1.detach()}
        distances = (
            ("square", args.square_weight, lambda: (drawn - image).square().mean()),
            ("contrast", args.contrast_weight, lambda: contrast_distance(drawn, image)),
            ("perceptual", args.perceptual_weight if self.perceptual else 0, lambda: self.perceptual(drawn, image)),
        )
        for name, weight, distance in distances:
            if weight:
                found = distance()
                total = total + weight * found
                logs[name] = found.detach()
        return total, logs

    def _with_drafts(self, drawn: Tensor, tokens: Tensor, pick: np.ndarray) -> Tensor:
        """``drawn``, and half as many pictures of tokens that the transformer drew in part."""
        # Every second one: neighbours are of one class.
        label = torch.from_numpy(self.labels[pick[::2]]).to(self.process.device)
        with self.process.autocast():
            drafts = self.tokenizer.decode(drafted(self.drafter, tokens[::2], label))
            return torch.cat([drawn, drafts.float()])

    def _adversarial(self, reconstruction: Tensor, judged: Tensor) -> tuple[Tensor, Tensor]:
        """The critic's verdict, weighted by what it moves in the last layer beside the other losses; and as it is."""
        verdict = -self.critic(judged).mean()
        last = self.tokenizer.decoder.out.weight
        norm = torch.autograd.grad(reconstruction, last, retain_graph=True)[0].norm()
        adversarial_norm = torch.autograd.grad(verdict, last, retain_graph=True)[0].norm()
        weight = self.args.adversarial_weight * (norm / (adversarial_norm + 1e-6)).clamp(0, 100).detach()
        return weight * verdict, verdict.detach()

    def _learn(self, loss: Tensor) -> None:
        for one in (self.muon, self.adamw):
            one.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.tokenizer.parameters(), 1.0)
        for one in (self.muon, self.adamw):
            one.step()

    def _teach_critic(self, image: Tensor, judged: Tensor) -> Tensor:
        loss = F.relu(1 - self.critic(image)).mean() + F.relu(1 + self.critic(judged.detach())).mean()
        self.critic_adamw.zero_grad(set_to_none=True)
        loss.backward()
        self.critic_adamw.step()
        return loss.detach()

    def finish(self) -> None:
        """The last checkpoint, and the report."""
        self.tokenizer.eval()
        self.checkpoint()
        report = {
            "images": self.clock.step * self.batch,
            "minutes": self.clock.spent / 60,
            **evaluate(self.tokenizer, self.data.heldout.images, self.process.device),
        }
        print(json.dumps(report, indent=1))
        print(f"wrote {self.args.output}", file=sys.stderr)


def _given(args: argparse.Namespace) -> dict[str, int]:
    """The options on codes and blocks that were given.

    The others have the default of a new tokenizer, or what that of ``--start`` has.
    """
    return {name: value for name in ("codes", "blocks", "encoder_blocks") if (value := getattr(args, name)) is not None}


def _known_tokens(args: argparse.Namespace, tokenizer: Tokenizer, data: dataset.Dataset) -> np.ndarray:
    """The tokens of the training images that ``--tokens`` names, uint16 ``[N, tokens]``, if they are of this data and
    tokenizer.
    """
    if not args.decoder_only or args.crop:
        raise SystemExit(
            "--tokens: only with --decoder-only, since what the encoder learns changes them; and without --crop, "
            "since they are of whole images"
        )
    tokens = token_file.read(args.tokens)
    if tokens.encoder != token_file.fingerprint(tokenizer):
        raise SystemExit(
            f"--tokens {args.tokens}: not of the encoder and codebook of {args.start}; find them with `tokens "
            f"--tokenizer {args.start}`"
        )
    if tokens.classes != data.classes or not np.array_equal(tokens.train.labels, data.train.labels):
        raise SystemExit(
            f"--tokens {args.tokens}: not of the images of {args.data}; find them with `tokens --data {args.data}`"
        )
    return tokens.train.images


def _drafter(args: argparse.Namespace, tokenizer: Tokenizer, classes: list[str]) -> MaskedTransformer:
    """What ``--drafts`` names, if it is of these tokens and classes."""
    if not args.decoder_only or args.crop or args.adversarial_from > 1:
        raise SystemExit(
            "--drafts: only with --decoder-only, since it knows this codebook; without --crop, since it knows whole "
            "images; and with --adversarial-from up to 1"
        )
    network = load_mvtm(args.drafts).requires_grad_(False).eval()
    has, wants = (
        (network.config.grid, network.config.codes, network.config.labels),
        (tokenizer.config.grid, tokenizer.config.codes, classes),
    )
    for what, mine, other in zip(("tokens on a side", "codes", "classes"), has, wants):
        if mine != other:
            raise SystemExit(
                f"--drafts {args.drafts}: its {what} are {mine}, here they are {other}; give a transformer trained on "
                "this data with this tokenizer"
            )
    return network


def _start(args: argparse.Namespace, size: int) -> Tokenizer:
    """What ``--start`` names, grown to the options and the data."""
    tokenizer = load_tokenizer(args.start)
    config = replace(tokenizer.config, **_given(args))
    if size == 2 * config.size:
        config = replace(config, size=size, factor=2 * config.factor, patch=2 * config.patch, refine=args.refine)
    elif size != config.size:
        raise SystemExit(f"{args.start}: trained for {config.size} pixels; the data has {size}")
    try:
        return grown(tokenizer, config)
    except ValueError as error:
        raise SystemExit(f"--start {args.start}: {error}") from None


@torch.no_grad()
def evaluate(tokenizer: Tokenizer, images, device: torch.device, batch: int = 100) -> dict:
    """Held-out L1 and PSNR (mean over images, pixels in 0..1), and how the codebook is used."""
    errors, psnrs = [], []
    counts = torch.zeros(tokenizer.config.codes)
    for first in range(0, len(images), batch):
        image = to_tensor(images[first : first + batch], device)
        tokens = tokenizer.encode(image)
        difference = tokenizer.decode(tokens) - image
        errors += difference.abs().mean((1, 2, 3)).tolist()
        psnrs += (-10 * difference.square().mean((1, 2, 3)).clamp_min(1e-8).log10()).tolist()
        counts += torch.bincount(tokens.flatten().cpu(), minlength=len(counts))
    share = counts / counts.sum()
    return {
        "heldout_l1": sum(errors) / len(errors),
        "heldout_psnr_db": sum(psnrs) / len(psnrs),
        "codes_used": int((counts > 0).sum()),
        "codes": len(counts),
        "code_perplexity": float((-(share * share.clamp_min(1e-12).log()).sum()).exp()),
    }
