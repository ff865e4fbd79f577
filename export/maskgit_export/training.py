"""What both trainers share: device, distribution, batches, checkpoints, progress.

Several GPUs or machines: start the command with PyTorch's launcher, ``torchrun --nproc_per_node=N -m maskgit_export
train-mvtm ...``. Every process then draws its own batches, and DistributedDataParallel averages the gradients.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .files import whole


class Run:
    """The device and the place of this process among its peers."""

    def __init__(self, device: str):
        self.world = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = int(os.environ.get("RANK", 0))
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and not torch.cuda.is_available():
            raise SystemExit(
                "--device cuda: PyTorch sees no usable GPU here; use --device cpu or install a CUDA build of PyTorch"
            )
        if device == "cuda":
            local = int(os.environ.get("LOCAL_RANK", 0))
            torch.cuda.set_device(local)
            device = f"cuda:{local}"
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        self.device = torch.device(device)
        if self.world > 1:
            join_group("nccl" if self.device.type == "cuda" else "gloo")

    def check_budget(self, minutes: float | None) -> None:
        """Refuses a budget of time for several processes: they would not stop at the same step, and wait for each other
        for ever.
        """
        if minutes is not None and (self.world > 1 or minutes <= 0):
            raise SystemExit(
                f"--minutes {minutes}: give a time above 0, and --images instead where several processes train together"
            )

    @property
    def chief(self) -> bool:
        """Whether this process writes files and progress."""
        return self.rank == 0

    def parallel(self, module: nn.Module) -> nn.Module:
        """The module, averaging gradients over the processes where there are several."""
        return nn.parallel.DistributedDataParallel(module) if self.world > 1 else module

    def autocast(self):
        """As the function of this name, on this device."""
        return autocast(self.device)

    def attention(self):
        """The kernels of attention: on a CPU plain products, since the backward pass of the fused kernel takes several
        times as long for few positions.
        """
        return sdpa_kernel(SDPBackend.MATH) if self.device.type == "cpu" else contextlib.nullcontext()

    def close(self) -> None:
        """Leaves the process group."""
        if self.world > 1:
            torch.distributed.destroy_process_group()


def join_group(backend: str, **options) -> None:
    """Joins the processes that train together; ``options`` as those of ``torch.distributed.init_process_group``."""
    # The functions of this module have the group of the time of its import as a default. Optimisers import it at their
    # first step: from then on the group, and its threads, would outlive destroy_process_group, and a thread that still
    # holds a tensor when the interpreter ends aborts the process.
    import torch.distributed.nn

    torch.distributed.init_process_group(backend, **options)


def in_group() -> bool:
    """Whether this process is one of several that train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than float32."""
    return device.type == "cuda" or (
        device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    )


def autocast(device: torch.device):
    """bfloat16 where the device computes it fast, float32 elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=fast_bf16(device))


class Progress:
    """One line on standard error now and then: step, speed, time left, running means of the losses."""

    def __init__(self, total: int, batch: int, quiet: bool, every: float = 20.0):
        self.total, self.batch, self.quiet, self.every = total, batch, quiet, every
        self.start = self.last = time.monotonic()
        self.done = 0
        self.means: dict[str, float] = {}

    def step(self, step: int, **values: float | Tensor) -> None:
        """Notes the losses of one step."""
        self.done += 1
        for name, value in values.items():
            value = float(value)
            self.means[name] = self.means.get(name, value) * 0.98 + value * 0.02
        now = time.monotonic()
        if not self.quiet and (now - self.last > self.every or step == self.total):
            self.last = now
            speed = self.done / (now - self.start)
            losses = "  ".join(f"{name} {value:.4f}" for name, value in self.means.items())
            left = (self.total - step) / speed
            print(
                f"step {step}/{self.total}  {speed * self.batch:.1f} images/s  {left / 60:.1f} min left  {losses}",
                file=sys.stderr,
                flush=True,
            )


def learning_rate(step: int, total: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then a cosine to a fiftieth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return peak * (0.02 + 0.98 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * progress)).item()))


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Sets one learning rate for every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = value


def to_tensor(images: np.ndarray | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """``uint8 [N, H, W, 3]`` to float ``[N, 3, H, W]`` in 0..1; the bytes travel to the device, not the floats."""
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(np.array(images))
    return images.to(device).permute(0, 3, 1, 2).float() / 255


def write_checkpoint(path: str | Path, state: dict) -> None:
    """Writes weights and what belongs to them, whole or not at all."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial:
        torch.save(state, partial)


def read_checkpoint(path: str | Path, **expected) -> dict | None:
    """What :func:`write_checkpoint` left at ``path``, or None where nothing is.

    Refuses the state of a run that ``expected`` does not describe.
    """
    path = Path(path)
    if not path.exists():
        return None
    state = torch.load(path, map_location="cpu", weights_only=True)
    other = [name for name, value in expected.items() if name in state and state[name] != value]
    if other:
        differs = "; ".join(f"{name} {state[name]} is not {expected[name]}" for name in other)
        raise SystemExit(
            f"{path}: the state of another run ({differs}); give the options of that run, another --output, or delete "
            "the file"
        )
    return state


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay for matrices and kernels, none for norms, biases and embeddings of one dimension."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
