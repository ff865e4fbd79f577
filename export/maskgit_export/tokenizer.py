"""VQGAN tokenizer: image <-> grid of discrete tokens (Esser et al. 2021, with cosine codes as in ViT-VQGAN).

The encoder maps an image to one vector a cell of ``factor`` x ``factor`` pixels; the quantiser replaces it by the
nearest of ``codes`` unit vectors; the decoder draws the image back. Images are float ``[B, 3, H, W]`` in 0..1, tokens
are int64 ``[B, rows * cols]`` in raster order.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .training import in_group, write_checkpoint


@dataclass
class TokenizerConfig:
    """Shape of a tokenizer.

    ``factor`` is the number of pixels a token spans on each side, ``patch`` that of the squares which the outermost
    layers take at once; the stages between double from one to the other. ``blocks`` and ``encoder_blocks`` are the
    residual blocks at the token grid. ``refine``, where not 0, is the channels of a residual block over 2x2 pixels at
    the decoder's end.
    """

    size: int = 64
    factor: int = 4
    codes: int = 512
    code_dim: int = 16
    width: int = 96
    blocks: int = 2
    patch: int = 2
    refine: int = 0
    encoder_blocks: int = 1

    @property
    def grid(self) -> int:
        """Rows and columns of the token grid."""
        return self.size // self.factor


class ResidualBlock(nn.Module):
    """SiLU, 3x3 convolution, twice, around an identity.

    No normalisation over positions: it would make a token depend on the whole picture and take flat colours away.
    The second convolution starts at zero, which lets so shallow a network train without.
    """

    def __init__(self, width: int, hidden: int | None = None):
        super().__init__()
        hidden = hidden or width
        self.conv1, self.conv2 = nn.Conv2d(width, hidden, 3, padding=1), nn.Conv2d(hidden, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class Encoder(nn.Module):
    """Image to one unit vector a cell; halves the resolution log2(factor) times, the first by unshuffling pixels."""

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        stages: list[nn.Module] = [
            nn.PixelUnshuffle(config.patch),
            nn.Conv2d(3 * config.patch**2, config.width // 2, 3, padding=1),
            nn.SiLU(),
        ]
        channels, scale = config.width // 2, config.patch
        while scale < config.factor:
            stages += [nn.Conv2d(channels, config.width, 4, stride=2, padding=1), ResidualBlock(config.width)]
            channels, scale = config.width, scale * 2
        stages += [ResidualBlock(config.width) for _ in range(config.encoder_blocks - 1)]
        self.stages = nn.Sequential(*stages)
        self.project = nn.Conv2d(channels, config.code_dim, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.project(F.silu(self.stages(image * 2 - 1)))


class Decoder(nn.Module):
    """Codes to image; doubles the resolution log2(factor) times, the last by a pixel shuffle."""

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        width = config.width
        stages: list[nn.Module] = [nn.Conv2d(config.code_dim, width, 3, padding=1)]
        stages += [ResidualBlock(width) for _ in range(config.blocks)]
        scale = config.factor
        while scale > config.patch:
            stages += [
                nn.Upsample(scale_factor=2, mode="nearest"),
                nn.Conv2d(width, width // 2, 3, padding=1),
                ResidualBlock(width // 2),
            ]
            width, scale = width // 2, scale // 2
        self.stages = nn.Sequential(*stages)
        self.out = nn.Conv2d(width, 3 * config.patch**2, 3, padding=1)
        shuffles: list[nn.Module] = [nn.PixelShuffle(config.patch)]
        if config.refine:
            shuffles = [nn.PixelShuffle(config.patch // 2), ResidualBlock(12, config.refine), nn.PixelShuffle(2)]
        self.shuffle = nn.Sequential(*shuffles)

    def forward(self, codes: Tensor) -> Tensor:
        return self.shuffle(self.out(F.silu(self.stages(codes)))) * 0.5 + 0.5


class Quantizer(nn.Module):
    """Nearest unit vector, learned as an exponential moving average of what it stands for; unused codes restart."""

    def __init__(self, codes: int, dim: int, decay: float = 0.98):
        super().__init__()
        self.decay = decay
        self.register_buffer("codebook", F.normalize(torch.randn(codes, dim), dim=1))
        self.register_buffer("usage", torch.ones(codes))
        self.register_buffer("sums", self.codebook.clone())

    def tokens(self, vectors: Tensor) -> Tensor:
        """Index of the nearest code of each vector, ``[B, D, h, w] -> [B, h * w]``."""
        flat = F.normalize(vectors.flatten(2).transpose(1, 2), dim=-1)
        return (flat @ self.codebook.t()).argmax(-1)

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantised vectors with straight-through gradient, tokens, and the commitment loss."""
        batch, dim, rows, cols = vectors.shape
        unit = F.normalize(vectors, dim=1)
        tokens = self.tokens(vectors)
        codes = F.embedding(tokens, self.codebook).transpose(1, 2).reshape(batch, dim, rows, cols)
        commitment = (unit - codes.detach()).square().sum(1).mean()
        if self.training:
            self._update(unit.detach().permute(0, 2, 3, 1).reshape(-1, dim), tokens.flatten())
        return unit + (codes - unit).detach(), tokens, commitment

    @torch.no_grad()
    def _update(self, unit: Tensor, tokens: Tensor) -> None:
        count = torch.bincount(tokens, minlength=len(self.usage)).to(unit.dtype)
        sums = torch.zeros_like(self.sums).index_add_(0, tokens, unit)
        if in_group():
            torch.distributed.all_reduce(count)
            torch.distributed.all_reduce(sums)
        self.usage.lerp_(count, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        dead = self.usage < 0.03 * self.usage.mean()
        if dead.any():
            fresh = unit[torch.randint(len(unit), (int(dead.sum()),), device=unit.device)]
            if in_group():
                torch.distributed.broadcast(fresh, 0)
            self.sums[dead] = fresh * self.usage.mean()
            self.usage[dead] = self.usage.mean()
        self.codebook.copy_(F.normalize(self.sums, dim=1))


class Tokenizer(nn.Module):
    """The encoder, the quantiser and the decoder together."""

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        if config.factor not in (4, 8) or config.size % config.factor:
            raise ValueError(
                f"factor {config.factor} with size {config.size}: the factor must be 4 or 8 and divide the size"
            )
        if config.patch not in (2, 4) or config.patch >= config.factor:
            raise ValueError(f"patch {config.patch}: it must be 2 or 4, and less than the factor, {config.factor}")
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quantizer = Quantizer(config.codes, config.code_dim)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction (not clipped), tokens, commitment loss."""
        vectors = self.encoder(image)
        # In half precision, many codes would be equally near.
        with torch.autocast(image.device.type, enabled=False):
            codes, tokens, commitment = self.quantizer(vectors.float())
        return self.decoder(codes), tokens, commitment

    def encode(self, image: Tensor) -> Tensor:
        """Image ``[B, 3, H, W]`` in 0..1 to tokens ``[B, N]``."""
        return self.quantizer.tokens(self.encoder(image))

    def codes(self, tokens: Tensor) -> Tensor:
        """Tokens ``[B, N]`` to their unit vectors ``[B, D, h, w]``, of a square."""
        grid = math.isqrt(tokens.shape[1])
        return (
            F.embedding(tokens, self.quantizer.codebook).transpose(1, 2).reshape(-1, self.config.code_dim, grid, grid)
        )

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens ``[B, N]`` to image ``[B, 3, H, W]`` in 0..1."""
        return self.decoder(self.codes(tokens)).clamp(0, 1)


@torch.no_grad()
def grown(tokenizer: Tokenizer, config: TokenizerConfig) -> Tokenizer:
    """A start for training on with more codes or blocks, or images of twice the size: what ``tokenizer`` does, as far
    as it goes.

    For twice the size, the encoder averages 2x2 pixels and the decoder repeats each, both within the outermost
    convolution. New blocks change nothing yet. New codes are unused, so that the quantiser restarts them at the first
    vectors it sees.
    """
    old = tokenizer.config
    double = config.size == 2 * old.size
    like = replace(old, codes=config.codes, blocks=config.blocks, encoder_blocks=config.encoder_blocks)
    if double:
        like = replace(like, size=2 * old.size, factor=2 * old.factor, patch=2 * old.patch, refine=config.refine)
    if (
        like != config
        or (double and old.refine)
        or any(getattr(config, name) < getattr(old, name) for name in ("codes", "blocks", "encoder_blocks"))
    ):
        raise ValueError(
            f"a tokenizer of {old} cannot grow to {config}: only codes and blocks may be more, and the size twice as "
            "large, with twice the factor and patch"
        )
    larger = Tokenizer(config)
    weights, into = tokenizer.state_dict(), larger.state_dict()
    if double:
        channel = torch.arange(12)
        # PixelUnshuffle(4) has (channel, y, x) in this order; the two shuffles of a refined decoder have (channel, y %
        # 2, x % 2, y // 2, x // 2).
        unshuffled = channel.reshape(3, 2, 1, 2, 1).expand(3, 2, 2, 2, 2).flatten()
        shuffled = channel.reshape(3, 1, 1, 2, 2).expand(3, 2, 2, 2, 2).flatten() if config.refine else unshuffled
        weights["encoder.stages.1.weight"] = weights["encoder.stages.1.weight"][:, unshuffled] / 4
        for name in ("decoder.out.weight", "decoder.out.bias"):
            weights[name] = weights[name][shuffled]
        if config.refine:
            larger.decoder.shuffle[1].conv2.bias.zero_()
    new = [
        *larger.decoder.stages[1 + old.blocks : 1 + config.blocks],
        *list(larger.encoder.stages)[len(tokenizer.encoder.stages) :],
    ]
    for block in new:
        block.conv2.bias.zero_()
    for name, value in weights.items():
        if name.startswith("quantizer."):
            into[name][: old.codes] = value
            if name == "quantizer.usage":
                into[name][old.codes :] = 0
            continue
        part, stages, index, *rest = name.split(".")
        if (part, stages) == ("decoder", "stages") and int(index) > old.blocks:
            name = ".".join([part, stages, str(int(index) + config.blocks - old.blocks), *rest])
        into[name].copy_(value)
    return larger


def save_tokenizer(tokenizer: Tokenizer, path: str | Path) -> None:
    """Writes configuration and weights, whole or not at all."""
    write_checkpoint(path, {"config": asdict(tokenizer.config), "weights": tokenizer.state_dict()})
