"""The Muon optimiser (Jordan et al. 2024).

PyTorch's own ``torch.optim.Muon`` iterates in bfloat16 everywhere, which is several times slower on CPUs without
bfloat16 units, and takes no convolution kernels; here a kernel ``[out, in, h, w]`` counts as the matrix ``[out, in * h
* w]``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .training import fast_bf16, in_group

#: Coefficients of the quintic Newton-Schulz iteration, chosen by Jordan et al. to lift small singular values fast.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrix: Tensor, iterations: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: all singular values come out between about 0.7 and 1.2."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.t() if tall else matrix
    x = x / (x.norm() + 1e-7)
    x = x.to(dtype)
    for _ in range(iterations):
        gram = x @ x.t()
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.to(matrix.dtype)
    return x.t() if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose update is orthogonalised, scaled by sqrt(max(1, rows / columns)).

    Where several processes train together, each orthogonalises some of the matrices, and all get all; they must have
    the same gradients.
    """

    def __init__(self, params, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        """Takes one step."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            for p, update in zip(params, _orthogonalized([self._direction(p, group["momentum"]) for p in params])):
                scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update.view_as(p), alpha=-group["lr"] * scale)

    def _direction(self, p: Tensor, momentum: float) -> Tensor:
        buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
        buffer.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(buffer, momentum).flatten(1)


def _orthogonalized(matrices: list[Tensor]) -> list[Tensor]:
    """The updates of these directions, found by all processes together."""
    rank, world = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if in_group() else (0, 1)
    owner, work = {}, [0] * world
    for index in sorted(range(len(matrices)), key=lambda index: -_work(matrices[index])):
        owner[index] = work.index(min(work))
        work[owner[index]] += _work(matrices[index])
    # The iteration forgives errors: singular values are to come out near one, no more.
    updates = [
        orthogonalize(one, dtype=torch.bfloat16 if fast_bf16(one.device) else torch.float32)
        if owner[index] == rank
        else torch.zeros_like(one)
        for index, one in enumerate(matrices)
    ]
    if world > 1 and updates:
        flat = torch.cat([one.flatten() for one in updates])
        torch.distributed.all_reduce(flat)
        updates = [part.view_as(one) for part, one in zip(flat.split([one.numel() for one in updates]), updates)]
    return updates


def _work(matrix: Tensor) -> int:
    """About how long the iteration takes."""
    return matrix.numel() * min(matrix.shape)
