"""The bidirectional transformer of masked visual token modelling (Chang et al. 2022), with an hourglass around it.

Tokens are embedded on their grid; a convolutional block looks at their neighbourhood; 2x2 tokens are folded into one
position of the transformer, whose pre-norm layers let every position see every other; the result is unfolded, joined
with what the embedding stage saw, refined by convolutional blocks, and read out at every token. This is the U-ViT form
of aMUSEd (Patil et al. 2024): attention over a quarter of the positions, for a third of the arithmetic of a plain
transformer.

``tokens`` int64 ``[B, N]`` with ``mask_id`` (= ``codes``) where masked, ``label`` int64 ``[B]`` where ``len(labels)``
is the null label; the result is float logits ``[B, N, codes]``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .training import write_checkpoint


@dataclass
class MvtmConfig:
    """Shape of the network."""

    grid: int = 16
    codes: int = 512
    labels: list[str] = field(default_factory=list)
    width: int = 96
    dim: int = 192
    depth: int = 6
    heads: int = 6
    blocks: int = 2

    @property
    def mask_id(self) -> int:
        """The token that stands for "not yet known"."""
        return self.codes

    @property
    def null_label(self) -> int:
        """The label that stands for "any class", for classifier-free guidance."""
        return len(self.labels)


class ConvolutionBlock(nn.Module):
    """LayerNorm over channels, 3x3 convolution, SiLU, 3x3 convolution, around an identity."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.conv2(F.silu(self.conv1(h)))


class TransformerLayer(nn.Module):
    """Pre-norm self-attention and a GELU multilayer perceptron."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, dim = x.shape[1:]
        q, k, v = (
            self.qkv(self.norm1(x)).reshape(-1, n, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        )
        attended = F.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(attended.transpose(1, 2).reshape(-1, n, dim))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class MaskedTransformer(nn.Module):
    """Predicts every masked token at once."""

    def __init__(self, config: MvtmConfig):
        super().__init__()
        if config.grid % 2 or config.dim % config.heads:
            raise ValueError(f"grid {config.grid} must be even and heads {config.heads} divide dim {config.dim}")
        self.config = config
        width, dim, half = config.width, config.dim, config.grid // 2
        self.token_embedding = nn.Embedding(config.codes + 1, width)
        self.label_embedding = nn.Embedding(len(config.labels) + 1, dim)
        self.position = nn.Parameter(torch.randn(1, config.grid**2, width) * 0.02)
        self.inner_position = nn.Parameter(torch.randn(1, half**2, dim) * 0.02)
        self.label_outer = nn.Linear(dim, width)
        self.enter = ConvolutionBlock(width)
        self.fold = nn.Linear(4 * width, dim)
        self.layers = nn.ModuleList(TransformerLayer(dim, config.heads) for _ in range(config.depth))
        self.inner_norm = nn.LayerNorm(dim)
        self.unfold = nn.Linear(dim, 4 * width)
        self.label_leave = nn.Linear(dim, width)
        self.leave = nn.ModuleList(ConvolutionBlock(width) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, config.codes)
        nn.init.normal_(self.token_embedding.weight, std=0.5)
        nn.init.normal_(self.label_embedding.weight, std=0.5)
        for layer in self.layers:
            nn.init.zeros_(layer.proj.weight)
            nn.init.zeros_(layer.fc2.weight)
        nn.init.normal_(self.head.weight, std=0.01)

    def features(self, tokens: Tensor, label: Tensor) -> Tensor:
        """What the head reads: ``[B, N, width]``."""
        grid, half, width = self.config.grid, self.config.grid // 2, self.config.width
        label = self.label_embedding(label)
        x = self.token_embedding(tokens) + self.position + self.label_outer(label).unsqueeze(1)
        outer = self.enter(x.transpose(1, 2).reshape(-1, width, grid, grid))
        folded = (
            outer.reshape(-1, width, half, 2, half, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, half * half, 4 * width)
        )
        inner = self.fold(folded) + self.inner_position + label.unsqueeze(1)
        for layer in self.layers:
            inner = layer(inner)
        unfolded = self.unfold(self.inner_norm(inner)).reshape(-1, half, half, 2, 2, width).permute(0, 5, 1, 3, 2, 4)
        x = outer + unfolded.reshape(-1, width, grid, grid) + self.label_leave(label).unsqueeze(-1).unsqueeze(-1)
        for block in self.leave:
            x = block(x)
        return self.norm(x.flatten(2).transpose(1, 2))

    def forward(self, tokens: Tensor, label: Tensor, wanted: Tensor | None = None) -> Tensor:
        """All logits, or ``[M, codes]``: those of the places that the booleans ``wanted``, ``[B, N]``, say."""
        features = self.features(tokens, label)
        return self.head(features if wanted is None else features[wanted])


def without_labels(network: MaskedTransformer, names: list[str]) -> MaskedTransformer:
    """The same network for fewer classes; the others keep their order, and the null label comes after them."""
    config = network.config
    unknown = [name for name in names if name not in config.labels]
    if unknown:
        raise ValueError(f"no class {', '.join(unknown)}; the model has {', '.join(config.labels)}")
    kept = [index for index, name in enumerate(config.labels) if name not in names]
    smaller = MaskedTransformer(replace(config, labels=[config.labels[index] for index in kept]))
    weights = dict(network.state_dict())
    weights["label_embedding.weight"] = weights["label_embedding.weight"][[*kept, config.null_label]]
    smaller.load_state_dict(weights)
    return smaller.train(network.training)


@torch.no_grad()
def grown(network: MaskedTransformer, config: MvtmConfig, together: Tensor) -> MaskedTransformer:
    """A start for training on with other codes, more classes or layers, or twice the width and heads: what ``network``
    predicts, as far as it goes.

    ``together`` is float ``[config.codes, old codes]``: how often each code stands where each of the old ones does. A
    code starts as the mean of those, and has its part of their probability. A class of the same name is the same, a new
    one starts as the null label; new layers, after the old, change nothing yet.
    """
    old = network.config
    double = config.dim == 2 * old.dim and config.heads == 2 * old.heads
    like = replace(old, codes=config.codes, labels=config.labels, depth=config.depth)
    if double:
        like = replace(like, dim=config.dim, heads=config.heads)
    if like != config or config.depth < old.depth:
        raise ValueError(
            f"a network of {old} cannot grow to {config}: only codes, labels and depth may differ, depth not be less, "
            "and dim be twice as large with twice the heads"
        )
    larger, weights = MaskedTransformer(config), network.state_dict()
    for layer in larger.layers[old.depth :]:
        nn.init.zeros_(layer.proj.bias)
        nn.init.zeros_(layer.fc2.bias)
    # A code that was never seen stands for everything, and seldom.
    unseen = together.sum(1, keepdim=True) == 0
    together = torch.where(unseen, together.sum(0, keepdim=True) / together.sum(), together)
    meaning = together / together.sum(1, keepdim=True)
    part = together / together.sum(0, keepdim=True).clamp_min(1e-12)
    label = {name: index for index, name in enumerate(old.labels)}
    weights["label_embedding.weight"] = weights["label_embedding.weight"][
        [*(label.get(name, old.null_label) for name in config.labels), old.null_label]
    ]
    embedding = weights["token_embedding.weight"]
    weights["token_embedding.weight"] = torch.cat([meaning @ embedding[:-1], embedding[-1:]])
    weights["head.weight"] = meaning @ weights["head.weight"]
    weights["head.bias"] = meaning @ weights["head.bias"] + torch.special.xlogy(meaning, part).sum(1)
    if double:
        weights = {name: _doubled(name, value, old.dim) for name, value in weights.items()}
    larger.load_state_dict(larger.state_dict() | weights)
    return larger


#: Layers whose input, and those whose output, is as wide as the transformer.
_READ, _WRITE = (
    ("label_outer", "unfold", "label_leave", "qkv", "proj", "fc1", "fc2"),
    ("fold", "qkv", "proj", "fc1", "fc2"),
)
_ALONG = ("norm1", "norm2", "inner_norm", "label_embedding", "inner_position")


def _doubled(name: str, value: Tensor, dim: int) -> Tensor:
    """A parameter of the network of twice the width in which every channel and head inside the transformer is there
    twice (Chen et al. 2016, Net2WiderNet).

    LayerNorm takes both copies alike. What reads the two has half the weight for each, plus and minus noise as large as
    that, so that the copies come to differ.
    """
    layer, kind = name.split(".")[-2:] if "." in name else (name, "")
    if layer in _ALONG:
        return torch.cat([value, value], -1)
    if layer in _WRITE:
        # The outputs of qkv are three times as many: queries, keys and values.
        parts = value.unflatten(0, (3, dim)) if layer == "qkv" else value.unsqueeze(0)
        value = torch.cat([parts, parts], 1).flatten(0, 1)
    if layer in _READ and kind == "weight":
        half = value / 2
        noise = torch.randn_like(half) * half.std()
        value = torch.cat([half + noise, half - noise], 1)
    return value


@torch.no_grad()
def draw(tokens: Tensor, masked: Tensor, logits: Tensor) -> Tensor:
    """``tokens``, ``[B, N]``, with those at ``masked`` drawn from their logits, ``[masked tokens, codes]``."""
    drawn = tokens.clone()
    drawn[masked] = torch.distributions.Categorical(logits=logits.float()).sample()
    return drawn


def save_mvtm(config: MvtmConfig, weights: dict[str, Tensor], path: str | Path) -> None:
    """Writes configuration and weights, whole or not at all."""
    write_checkpoint(path, {"config": asdict(config), "weights": weights})
