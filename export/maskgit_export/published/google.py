"""Google's MaskGIT for ImageNet (Chang et al. 2022): the BERT-like transformer and its VQGAN.

Modules are named after their Flax counterparts: ``layers.i.attention`` is ``TransformerLayer_i/Attention_0``,
``blocks.i`` is ``ResBlock_i``. Kernels are in PyTorch's order (output first).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapter import Metadata, Model, Sampling


@dataclass
class Config:
    """Shape of both networks; the defaults are ``maskgit-imagenet256``."""

    grid: int = 16
    codes: int = 1024
    classes: int = 1000
    dim: int = 768
    depth: int = 24
    heads: int = 16
    ffn: int = 3072
    filters: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2
    code_dim: int = 256
    groups: int = 32
    #: ``tanh``, as jax.nn.gelu computes it, or ``erf``, as torch.nn.GELU does.
    gelu: str = "tanh"

    @property
    def size(self) -> int:
        """Height and width of the image in pixels."""
        return self.grid * 2 ** (len(self.multipliers) - 1)

    @property
    def vocabulary(self) -> int:
        """Codes, then classes, then the mask."""
        return self.codes + self.classes + 1


#: Image size -> what was published.
PUBLISHED = {256: Config(), 512: Config(grid=32)}


def metadata(
    config: Config, name: str, licence: str, source: str, labels: list[str], label_ids: list[str] | None = None
) -> Metadata:
    """The manifest of a model of this shape, with its authors' settings: 8 steps, 12 for 512 pixels."""
    return Metadata(
        name=name,
        licence=licence,
        source=source,
        image_height=config.size,
        image_width=config.size,
        grid_rows=config.grid,
        grid_cols=config.grid,
        codes=config.codes,
        mask_id=config.codes + config.classes,
        labels=labels,
        label_ids=label_ids,
        sampling=Sampling(
            steps=8 if config.grid <= 16 else 12, schedule="cosine", sampler="confidence", choice_temperature=4.5
        ),
    )


def gelu(x: Tensor, config: Config) -> Tensor:
    """GELU in the form that the configuration names."""
    return F.gelu(x, approximate="none" if config.gelu == "erf" else "tanh")


class Attention(nn.Module):
    """Self-attention with biases, then the post-norm."""

    def __init__(self, config: Config):
        super().__init__()
        self.heads = config.heads
        self.query, self.key, self.value, self.out = (nn.Linear(config.dim, config.dim) for _ in range(4))
        self.output_ln = nn.LayerNorm(config.dim, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        n, dim = x.shape[1:]
        q, k, v = (
            f(x).reshape(-1, n, self.heads, dim // self.heads).transpose(1, 2)
            for f in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, n, dim)
        return self.output_ln(x + self.out(attended))


class Mlp(nn.Module):
    """GELU, then the post-norm."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.intermediate_output = nn.Linear(config.dim, config.ffn)
        self.layer_output = nn.Linear(config.ffn, config.dim)
        self.layer_output_ln = nn.LayerNorm(config.dim, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer_output_ln(x + self.layer_output(gelu(self.intermediate_output(x), self.config)))


class TransformerLayer(nn.Module):
    """Attention and MLP."""

    def __init__(self, config: Config):
        super().__init__()
        self.attention, self.mlp = Attention(config), Mlp(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.attention(x))


class Transformer(nn.Module):
    """Ids ``[B, N + 1]`` of one vocabulary to logits ``[B, N + 1, vocabulary]``; both embeddings are one."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.word_embeddings = nn.Embedding(config.vocabulary, config.dim)
        self.position_embeddings = nn.Embedding(config.grid**2 + 1, config.dim)
        self.embeddings_ln = nn.LayerNorm(config.dim, eps=1e-12)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.depth))
        self.mlm_dense = nn.Linear(config.dim, config.dim)
        self.mlm_ln = nn.LayerNorm(config.dim, eps=1e-12)
        self.mlm_bias = nn.Parameter(torch.zeros(config.vocabulary))

    def features(self, ids: Tensor) -> Tensor:
        """What the tied embedding is multiplied with: ``[B, N + 1, dim]``."""
        x = self.embeddings_ln(self.word_embeddings(ids) + self.position_embeddings.weight)
        for layer in self.layers:
            x = layer(x)
        return self.mlm_ln(gelu(self.mlm_dense(x), self.config))

    def forward(self, ids: Tensor) -> Tensor:
        return self.features(ids) @ self.word_embeddings.weight.t() + self.mlm_bias


class ResBlock(nn.Module):
    """GroupNorm, swish, 3x3 convolution, twice.

    Where the width changes, the 1x1 shortcut reads the *processed* x, not the block's input: Google's code reuses the
    variable, and the published weights were trained that way.
    """

    def __init__(self, channels: int, filters: int, groups: int):
        super().__init__()
        self.norm0, self.conv0 = (
            nn.GroupNorm(groups, channels, eps=1e-6),
            nn.Conv2d(channels, filters, 3, padding=1, bias=False),
        )
        self.norm1, self.conv1 = (
            nn.GroupNorm(groups, filters, eps=1e-6),
            nn.Conv2d(filters, filters, 3, padding=1, bias=False),
        )
        self.conv2 = nn.Conv2d(filters, filters, 1, bias=False) if channels != filters else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x)))
        h = self.conv1(F.silu(self.norm1(h)))
        return h + (x if self.conv2 is None else self.conv2(h))


class Encoder(nn.Module):
    """Image in 0..1 to vectors ``[B, code_dim, grid, grid]``; halves by 2x2 average pooling."""

    def __init__(self, config: Config):
        super().__init__()
        channels = config.filters
        self.levels = len(config.multipliers)
        self.per_level = config.blocks
        self.conv_in = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        blocks = []
        # One more level at the end, of the last width, is the middle.
        for multiplier in (*config.multipliers, config.multipliers[-1]):
            for _ in range(config.blocks):
                blocks.append(ResBlock(channels, config.filters * multiplier, config.groups))
                channels = config.filters * multiplier
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.GroupNorm(config.groups, channels, eps=1e-6)
        self.conv_out = nn.Conv2d(channels, config.code_dim, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv_in(image)
        for index, block in enumerate(self.blocks):
            x = block(x)
            level, last = divmod(index + 1, self.per_level)
            if last == 0 and level < self.levels:
                x = F.avg_pool2d(x, 2)
        return self.conv_out(F.silu(self.norm(x)))


class Decoder(nn.Module):
    """Vectors to image; doubles by nearest neighbour and a 3x3 convolution."""

    def __init__(self, config: Config):
        super().__init__()
        channels = config.filters * config.multipliers[-1]
        self.levels, self.per_level = len(config.multipliers), config.blocks
        self.conv_in = nn.Conv2d(config.code_dim, channels, 3, padding=1)
        blocks, upsamples = [ResBlock(channels, channels, config.groups) for _ in range(config.blocks)], []
        for level in reversed(range(self.levels)):
            for _ in range(config.blocks):
                blocks.append(ResBlock(channels, config.filters * config.multipliers[level], config.groups))
                channels = config.filters * config.multipliers[level]
            if level:
                upsamples.append(nn.Conv2d(channels, channels, 3, padding=1))
        self.blocks, self.upsamples = nn.ModuleList(blocks), nn.ModuleList(upsamples)
        self.norm = nn.GroupNorm(config.groups, channels, eps=1e-6)
        self.conv_out = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, codes: Tensor) -> Tensor:
        x = self.conv_in(codes)
        for index, block in enumerate(self.blocks):
            x = block(x)
            stage, last = divmod(index + 1, self.per_level)
            # Stage 1 is the middle, stages 2.. are the levels; the last level is not doubled.
            if last == 0 and 2 <= stage <= self.levels:
                x = self.upsamples[stage - 2](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv_out(F.silu(self.norm(x)))


class GoogleMaskGit(Model):
    """Both networks behind the three methods of an exported model."""

    def __init__(self, config: Config, metadata: Metadata):
        super().__init__(metadata)
        self.config = config
        self.transformer, self.encoder, self.decoder = Transformer(config), Encoder(config), Decoder(config)
        self.codebook = nn.Parameter(torch.empty(config.codes, config.code_dim))

    def logits(self, tokens: Tensor, label: Tensor) -> Tensor:
        # The mask is row codes + classes of the vocabulary, in the manifest and in the embedding.
        ids = torch.cat([label.unsqueeze(1) + self.config.codes, tokens], dim=1)
        network, codes = self.transformer, self.config.codes
        return network.features(ids)[:, 1:] @ network.word_embeddings.weight[:codes].t() + network.mlm_bias[:codes]

    def decode(self, tokens: Tensor) -> Tensor:
        grid = self.config.grid
        codes = F.embedding(tokens, self.codebook).transpose(1, 2).reshape(-1, self.config.code_dim, grid, grid)
        return self.decoder(codes).clamp(0, 1)

    def encode(self, image: Tensor) -> Tensor:
        vectors = self.encoder(image).flatten(2).transpose(1, 2)
        # The nearest code: |z - e|^2 is smallest where z.e - |e|^2 / 2 is largest.
        return (vectors @ self.codebook.t() - self.codebook.square().sum(1) / 2).argmax(-1)
