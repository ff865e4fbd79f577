"""Halton-MaskGIT v2 (Besnier et al. 2025): a transformer with adaptive norms and a register token.

Parameter names are those of the published checkpoints: ``tok_emb``, ``pos_emb``, ``cls_emb``, ``reg_tokens``,
``transformer.layers.i.{mlp.1, ln1, attn.wq/wk/wv/wo, ln2, ff.w1/w2/w3}``, ``last_norm``, ``head``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapter import Metadata, Model, Sampling
from . import llamagen

#: Size -> (dim, depth, heads).
SIZES = {"t": (384, 6, 6), "s": (512, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16)}


@dataclass
class Config:
    """Shape of the transformer and its tokenizer; the defaults are ``halton-b-384``."""

    grid: int = 24
    codes: int = 16384
    classes: int = 1000
    dim: int = 768
    depth: int = 12
    heads: int = 12
    registers: int = 1
    tokenizer: llamagen.Config = field(default_factory=llamagen.Config)

    @property
    def hidden(self) -> int:
        """Width of the SwiGLU: two thirds of 4 dim, rounded up to a multiple of 256."""
        return -(-int(2 * 4 * self.dim / 3) // 256) * 256

    @property
    def size(self) -> int:
        """Height and width of the image in pixels."""
        return self.grid * 2 ** (len(self.tokenizer.multipliers) - 1)


#: Variant, as ``b-384``: size and height of the image -> its shape.
PUBLISHED = {
    f"{size}-{pixels}": Config(grid=pixels // 16, dim=dim, depth=depth, heads=heads)
    for size, (dim, depth, heads) in SIZES.items()
    for pixels in (256, 384)
}


def metadata(
    config: Config, name: str, licence: str, source: str, labels: list[str], label_ids: list[str] | None = None
) -> Metadata:
    """The manifest of a model of this shape, with the settings of its authors' demonstration.

    Their logits are multiplied by 1.1, ours divided by a temperature.
    """
    return Metadata(
        name=name,
        licence=licence,
        source=source,
        image_height=config.size,
        image_width=config.size,
        grid_rows=config.grid,
        grid_cols=config.grid,
        codes=config.codes,
        mask_id=config.codes,
        labels=labels,
        label_ids=label_ids,
        null_label=config.classes,
        sampling=Sampling(steps=32, schedule="arccos", sampler="halton", temperature=round(1 / 1.1, 3), guidance=2.0),
    )


def rms(x: Tensor) -> Tensor:
    """x over its root mean square along the last dimension."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)


class RmsNorm(nn.Module):
    """RMS norm with a weight, and a bias where asked for."""

    def __init__(self, dim: int, bias: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        x = rms(x) * self.weight
        return x if self.bias is None else x + self.bias


class Attention(nn.Module):
    """Self-attention without biases; queries and keys are normalised over all heads at once, without weights."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        # In size S the heads do not divide the width: 6 heads of 85 channels make 510 of 512.
        self.heads, self.width = heads, dim // heads
        self.wq, self.wk, self.wv = (nn.Linear(dim, heads * self.width, bias=False) for _ in range(3))
        self.wo = nn.Linear(heads * self.width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        q, k, v = (
            part.reshape(-1, n, self.heads, self.width).transpose(1, 2)
            for part in (rms(self.wq(x)), rms(self.wk(x)), self.wv(x))
        )
        return self.wo(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, n, self.heads * self.width))


class FeedForward(nn.Module):
    """SwiGLU without biases."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.w1, self.w2, self.w3 = (
            nn.Linear(dim, hidden, bias=False),
            nn.Linear(hidden, dim, bias=False),
            nn.Linear(dim, hidden, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    """Pre-norm layer; the class gives shift, scale and gate of both halves (adaLN with six parts)."""

    def __init__(self, config: Config):
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(config.dim, 6 * config.dim))
        self.ln1, self.ln2 = RmsNorm(config.dim), RmsNorm(config.dim)
        self.attn, self.ff = Attention(config.dim, config.heads), FeedForward(config.dim, config.hidden)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.mlp(condition).unsqueeze(1).chunk(6, dim=2)
        x = x + gate1 * self.attn(self.ln1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.ff(self.ln2(x) * (1 + scale2) + shift2)


class Blocks(nn.Module):
    """The layers, under the name they have in the checkpoints."""

    def __init__(self, config: Config):
        super().__init__()
        self.layers = nn.ModuleList(Block(config) for _ in range(config.depth))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, condition)
        return x


class LastNorm(nn.Module):
    """The final norm, shifted and scaled by the class."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm_final = RmsNorm(dim, bias=True)
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.mlp(condition).unsqueeze(1).chunk(2, dim=2)
        return self.norm_final(x) * (1 + scale) + shift


class Transformer(nn.Module):
    """Tokens ``[B, N]`` and class ``[B]`` to logits ``[B, N, codes + 1]``; the head is tied to the token embedding."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.cls_emb = nn.Embedding(config.classes + 1, config.dim)
        self.tok_emb = nn.Embedding(config.codes + 1, config.dim)
        self.pos_emb = nn.Embedding(config.grid**2, config.dim)
        self.reg_tokens = nn.Embedding(config.registers, config.dim)
        self.transformer = Blocks(config)
        self.last_norm = LastNorm(config.dim)
        self.head = nn.Linear(config.dim, config.codes + 1)
        self.tie()

    def tie(self) -> None:
        """Makes the head's weight the token embedding's; needed again after parameters were exchanged."""
        self.head.weight = self.tok_emb.weight

    def features(self, tokens: Tensor, label: Tensor) -> Tensor:
        """What the head reads: ``[B, N, dim]``."""
        condition = self.cls_emb(label)
        x = self.tok_emb(tokens) + self.pos_emb.weight
        # The registers go last and are dropped again.
        registers = self.reg_tokens.weight.unsqueeze(0).expand(x.shape[0], -1, -1)
        x = self.transformer(torch.cat([x, registers], dim=1), condition)
        return self.last_norm(x[:, : self.config.grid**2], condition)

    def forward(self, tokens: Tensor, label: Tensor) -> Tensor:
        return self.head(self.features(tokens, label))


class HaltonMaskGit(Model):
    """The transformer with LlamaGen's tokenizer. The logit of the mask id, which is never drawn, is left out."""

    def __init__(self, config: Config, metadata: Metadata):
        super().__init__(metadata)
        self.config = config
        self.network = Transformer(config)
        self.vq = llamagen.Vq(config.tokenizer)

    def logits(self, tokens: Tensor, label: Tensor) -> Tensor:
        head, codes = self.network.head, self.config.codes
        return self.network.features(tokens, label) @ head.weight[:codes].t() + head.bias[:codes]

    def decode(self, tokens: Tensor) -> Tensor:
        return (self.vq.decode(tokens, self.config.grid) * 0.5 + 0.5).clamp(0, 1)

    def encode(self, image: Tensor) -> Tensor:
        return self.vq.encode(image * 2 - 1)
