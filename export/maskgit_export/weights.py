"""Reads the weights of the networks: from the files that the trainers wrote, or from a bundle's folder."""

from __future__ import annotations

from pathlib import Path

import torch

from .from_bundle import read_mvtm, read_tokenizer
from .mvtm import MaskedTransformer, MvtmConfig
from .tokenizer import Tokenizer, TokenizerConfig


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a file of ``train-tokenizer`` or of a bundle, in evaluation mode; runs no code of the file."""
    if Path(path).is_dir():
        return read_tokenizer(path)
    stored = torch.load(path, map_location="cpu", weights_only=True)
    tokenizer = Tokenizer(TokenizerConfig(**stored["config"]))
    tokenizer.load_state_dict(stored["weights"])
    return tokenizer.eval()


def load_mvtm(path: str | Path) -> MaskedTransformer:
    """The transformer of a file of ``train-mvtm`` or of a bundle, in evaluation mode; runs no code of the file."""
    if Path(path).is_dir():
        return read_mvtm(path)
    stored = torch.load(path, map_location="cpu", weights_only=True)
    network = MaskedTransformer(MvtmConfig(**stored["config"]))
    network.load_state_dict(stored["weights"])
    return network.eval()
