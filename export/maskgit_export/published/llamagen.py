"""LlamaGen's VQ-16 tokenizer (Sun et al. 2024): a VQGAN with attention at the lowest resolution and unit codes.

Parameter names are those of the published checkpoint: ``encoder``, ``decoder``, ``quantize.embedding``, ``quant_conv``,
``post_quant_conv``. Pixels are -1..1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Config:
    """Shape; the defaults are VQ-16."""

    codes: int = 16384
    code_dim: int = 8
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2
    latent: int = 256
    groups: int = 32


class ResnetBlock(nn.Module):
    """GroupNorm, swish, 3x3 convolution, twice, around a 1x1 shortcut of the block's input where the width changes."""

    def __init__(self, channels: int, out: int, groups: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, channels, eps=1e-6), nn.Conv2d(channels, out, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(groups, out, eps=1e-6), nn.Conv2d(out, out, 3, padding=1)
        if channels != out:
            self.nin_shortcut = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    """Single-head attention over positions, with 1x1 convolutions."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        _, channels, rows, cols = x.shape
        h = self.norm(x)
        q, k, v = (f(h).reshape(-1, channels, rows * cols) for f in (self.q, self.k, self.v))
        weights = ((q * channels**-0.5).transpose(1, 2) @ k).softmax(-1)
        attended = (v @ weights.transpose(1, 2)).reshape(-1, channels, rows, cols)
        return x + self.proj_out(attended)


class Downsample(nn.Module):
    """Halves: 3x3 convolution of stride 2, padded on the right and below only."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The residual blocks of one resolution, with attention after each where asked for."""

    def __init__(self, channels: int, out: int, blocks: int, groups: int, attention: bool):
        super().__init__()
        self.res = nn.ModuleList(ResnetBlock(channels if index == 0 else out, out, groups) for index in range(blocks))
        self.attn = nn.ModuleList(AttnBlock(out, groups) for _ in range(blocks if attention else 0))

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.res):
            x = block(x)
            if len(self.attn):
                x = self.attn[index](x)
        if hasattr(self, "downsample"):
            x = self.downsample(x)
        return self.upsample(x) if hasattr(self, "upsample") else x


def _middle(channels: int, groups: int) -> nn.ModuleList:
    return nn.ModuleList(
        [ResnetBlock(channels, channels, groups), AttnBlock(channels, groups), ResnetBlock(channels, channels, groups)]
    )


class Encoder(nn.Module):
    """Image to ``[B, latent, h, w]``."""

    def __init__(self, config: Config):
        super().__init__()
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        channels, last = config.channels, len(config.multipliers) - 1
        self.conv_blocks = nn.ModuleList()
        for index, multiplier in enumerate(config.multipliers):
            level = Level(channels, config.channels * multiplier, config.blocks, config.groups, index == last)
            channels = config.channels * multiplier
            if index != last:
                level.downsample = Downsample(channels)
            self.conv_blocks.append(level)
        self.mid = _middle(channels, config.groups)
        self.norm_out = nn.GroupNorm(config.groups, channels, eps=1e-6)
        self.conv_out = nn.Conv2d(channels, config.latent, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for part in [*self.conv_blocks, *self.mid]:
            x = part(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """``[B, latent, h, w]`` to image; one block a level more than the encoder."""

    def __init__(self, config: Config):
        super().__init__()
        last = len(config.multipliers) - 1
        channels = config.channels * config.multipliers[last]
        self.conv_in = nn.Conv2d(config.latent, channels, 3, padding=1)
        self.mid = _middle(channels, config.groups)
        self.conv_blocks = nn.ModuleList()
        for index in reversed(range(last + 1)):
            out = config.channels * config.multipliers[index]
            level = Level(channels, out, config.blocks + 1, config.groups, index == last)
            channels = out
            if index != 0:
                level.upsample = Upsample(channels)
            self.conv_blocks.append(level)
        self.norm_out = nn.GroupNorm(config.groups, channels, eps=1e-6)
        self.conv_out = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv_in(z)
        for part in [*self.mid, *self.conv_blocks]:
            x = part(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Quantize(nn.Module):
    """Holds the codebook."""

    def __init__(self, config: Config):
        super().__init__()
        self.embedding = nn.Embedding(config.codes, config.code_dim)


def unit(x: Tensor) -> Tensor:
    """Vectors of length one along the last dimension."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True).clamp(min=1e-24))


class Vq(nn.Module):
    """Encoder, unit codes, decoder."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quantize = Quantize(config)
        self.quant_conv = nn.Conv2d(config.latent, config.code_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.code_dim, config.latent, 1)

    def encode(self, image: Tensor) -> Tensor:
        """Image in -1..1 to tokens ``[B, N]``."""
        vectors = self.quant_conv(self.encoder(image)).flatten(2).transpose(1, 2)
        return (unit(vectors) @ unit(self.quantize.embedding.weight).t()).argmax(-1)

    def decode(self, tokens: Tensor, grid: int) -> Tensor:
        """Tokens ``[B, grid * grid]`` to image, nominally -1..1, not clipped."""
        codes = F.embedding(tokens, unit(self.quantize.embedding.weight))
        return self.decoder(self.post_quant_conv(codes.transpose(1, 2).reshape(-1, self.config.code_dim, grid, grid)))
