"""A small convolutional classifier of drawing styles, trained independently of the generator, to judge its samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .training import to_tensor, write_checkpoint


class StyleClassifier(nn.Module):
    """Image ``[B, 3, H, W]`` in 0..1 to class scores ``[B, classes]``; any size of 32 pixels or more."""

    def __init__(self, classes: list[str], width: int = 24):
        super().__init__()
        self.classes, self.width = list(classes), width
        layers: list[nn.Module] = []
        channels = 3
        for out in (width, 2 * width, 4 * width, 4 * width):
            layers += [nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(out), nn.SiLU()]
            channels = out
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, len(self.classes))

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image * 2 - 1).mean((2, 3)))

    @torch.no_grad()
    def predict(self, images: np.ndarray, batch: int = 256) -> np.ndarray:
        """Class index of each image of ``uint8 [N, H, W, 3]``."""
        self.eval()
        parts = [self(to_tensor(images[first : first + batch])).argmax(1) for first in range(0, len(images), batch)]
        return torch.cat(parts).numpy() if parts else np.zeros(0, np.int64)


def augment(image: Tensor) -> Tensor:
    """Shifts each batch by up to a tenth, flips half of the images, and changes brightness and noise a little.

    It keeps the classifier from leaning on single pixels, which generated images never have right.
    """
    image = torch.where(torch.rand(len(image), 1, 1, 1) < 0.5, image, image.flip(3))
    reach = max(1, image.shape[-1] // 10)
    top, left = torch.randint(0, 2 * reach + 1, (2,)).tolist()
    rows, cols = image.shape[2:]
    image = F.pad(image, (reach,) * 4, mode="replicate")[:, :, top : top + rows, left : left + cols]
    gain = 0.8 + 0.4 * torch.rand(len(image), 3, 1, 1)
    return (image * gain + 0.04 * torch.randn_like(image)).clamp(0, 1)


def save_classifier(network: StyleClassifier, path: str | Path) -> None:
    """Writes names and weights, whole or not at all."""
    write_checkpoint(path, {"classes": network.classes, "width": network.width, "weights": network.state_dict()})


def load_classifier(path: str | Path) -> StyleClassifier:
    """Reads what :func:`save_classifier` wrote, in evaluation mode; never runs code from the file."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    network = StyleClassifier(stored["classes"], stored["width"])
    network.load_state_dict(stored["weights"])
    return network.eval()
