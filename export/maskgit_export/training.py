"""What both trainers share: device, distribution, batches, checkpoints, progress.

Several GPUs or machines: start the command with PyTorch's launcher, ``torchrun --nproc_per_node=N -m maskgit_export
train-mvtm ...``. Every process then draws its own batches, and DistributedDataParallel averages the gradients.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .files import whole


class Run:
    """The device and the place of this process among its peers."""

    def __init__(self, device: str, threads: int = 0):
        if threads:
            torch.set_num_threads(threads)
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


class Clock:
    """How far a run has come: in steps, or, where it has a budget of ``minutes``, in time."""

    def __init__(self, steps: int, minutes: float | None = None):
        self.steps, self.minutes = steps, minutes
        #: Steps done, and seconds spent in them, with those of the runs that this one goes on from.
        self.step, self.spent = 0, 0.0

    @property
    def fraction(self) -> float:
        """The part of the run that is done; 1 or more at its end."""
        return self.spent / 60 / self.minutes if self.minutes else self.step / self.steps

    def left(self, seconds_a_step: float) -> float:
        """The seconds that the steps to come will take."""
        return self.minutes * 60 - self.spent if self.minutes else (self.steps - self.step) * seconds_a_step

    def __str__(self) -> str:
        return f"step {self.step}" if self.minutes else f"step {self.step}/{self.steps}"

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Counts what is done inside as one step."""
        began = time.monotonic()
        yield
        self.step += 1
        self.spent += time.monotonic() - began


class Progress:
    """One line on standard error now and then: step, speed, time left, running means of the losses."""

    def __init__(self, clock: Clock, batch: int, quiet: bool, every: float = 20.0):
        self.clock, self.batch, self.quiet, self.every = clock, batch, quiet, every
        self.start = self.last = time.monotonic()
        self.done = 0
        self.means: dict[str, float] = {}

    def step(self, **values: float | Tensor) -> None:
        """Notes the losses of one step."""
        self.done += 1
        for name, value in values.items():
            value = float(value)
            self.means[name] = self.means.get(name, value) * 0.98 + value * 0.02
        now = time.monotonic()
        if not self.quiet and (now - self.last > self.every or self.clock.fraction >= 1):
            self.last = now
            a_step = (now - self.start) / self.done
            losses = "  ".join(f"{name} {value:.4f}" for name, value in self.means.items())
            print(
                f"{self.clock}  {self.batch / a_step:.1f} images/s  "
                f"{max(0.0, self.clock.left(a_step)) / 60:.1f} min left  {losses}",
                file=sys.stderr,
                flush=True,
            )


#: Seconds between two checkpoints.
CHECKPOINT_EVERY = 120.0


def train(
    process: Run,
    clock: Clock,
    progress: Progress,
    step: Callable[[float], dict[str, Tensor]],
    checkpoint: Callable[[], None],
    note: Callable[[], None] = lambda: None,
) -> None:
    """Runs ``step``, which gets the fraction done and returns losses to show, until the clock says that it is enough.

    Now and then, and when Ctrl-C ends the run, ``checkpoint`` is called; before it, but not at Ctrl-C, ``note``.
    """
    saved = time.monotonic()
    with interruptible(process) as interrupted:
        while clock.fraction < 1.0:
            with clock.counting():
                losses = step(clock.fraction)
            progress.step(**losses)
            if interrupted():
                checkpoint()
                if process.chief:
                    print(f"interrupted after {clock}; the same command goes on from there", file=sys.stderr)
                raise KeyboardInterrupt
            if time.monotonic() - saved > CHECKPOINT_EVERY:
                saved = time.monotonic()
                note()
                checkpoint()


@contextlib.contextmanager
def interruptible(process: Run) -> Iterator[Callable[[], bool]]:
    """Puts off Ctrl-C to the end of a step, where the function that this gives says whether it came.

    A second Ctrl-C ends a process that trains alone at once. Several processes stop together: each calls the function
    at every step.
    """
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread hears of signals.
        yield lambda: False
        return
    came = False
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: object) -> None:
        nonlocal came
        came = True
        if process.world == 1:
            signal.signal(signal.SIGINT, before)

    def interrupted() -> bool:
        if process.world == 1:
            return came
        together = torch.tensor(float(came), device=process.device)
        torch.distributed.all_reduce(together, torch.distributed.ReduceOp.MAX)
        return bool(together)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


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
