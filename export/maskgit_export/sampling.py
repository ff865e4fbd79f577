"""The decoding loop in NumPy, around any function that gives logits: to calibrate a quantiser, and to time other
runtimes.

Confidence sampling with the schedules ``cosine`` and ``linear``, temperatures and guidance, as docs/sampler.md has it.
Its noise is NumPy's, so its pictures are not those of the runtime.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .bundle import Metadata


def masked_counts(total: int, steps: int, schedule: str = "cosine") -> list[int]:
    """How many of ``total`` tokens are masked after each step; the last is 0."""
    counts, left = [], total
    for step in range(steps):
        r = (step + 1) / steps
        part = {"cosine": np.cos(np.pi * r / 2), "linear": 1 - r}.get(schedule)
        if part is None:
            raise ValueError(f"schedule {schedule!r}: this loop knows cosine and linear")
        left = 0 if step + 1 == steps else int(max(1, min(left - 1, np.floor(total * max(part, 1e-6)))))
        counts.append(left)
    return counts


def sample(
    logits: Callable[[np.ndarray, np.ndarray], np.ndarray],
    metadata: Metadata,
    labels: np.ndarray,
    seed: int = 0,
    steps: int | None = None,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draws one picture a label. Returns its tokens ``[B, N]``, and the masked tokens before each step.

    ``logits`` takes tokens ``[B, N]`` and labels ``[B]``. With guidance, both passes go to it as one batch.
    """
    s = metadata.sampling
    steps = steps or s.steps
    choice = np.random.default_rng(seed)
    batch, n = len(labels), metadata.tokens
    tokens = np.full((batch, n), metadata.mask_id, np.int64)
    history = []
    counts = masked_counts(n, steps, s.schedule if s.schedule in ("cosine", "linear") else "cosine")
    for step, left in enumerate(counts):
        history.append(tokens.copy())
        guidance = s.guidance * ((step / max(1, steps - 1)) if s.guidance_ramp else 1.0)
        if guidance:
            both = logits(
                np.concatenate([tokens, tokens]),
                np.concatenate([labels, np.full(batch, metadata.null_label, np.int64)]),
            )
            conditional, unconditional = both[:batch], both[batch:]
            scores = conditional + np.float32(guidance) * (conditional - unconditional)
        else:
            scores = logits(tokens, labels)
        scores = scores / np.float32(max(s.temperature_at(step, steps), 1e-6))
        scores = scores - scores.max(-1, keepdims=True)
        # Gumbel's trick draws from the softmax.
        uniform = choice.random(scores.shape, np.float32)
        drawn = (scores - np.log(-np.log(uniform + 1e-20) + 1e-20)).argmax(-1)
        confidence = np.take_along_axis(scores, drawn[..., None], -1)[..., 0] - np.log(np.exp(scores).sum(-1))
        known = tokens != metadata.mask_id
        drawn = np.where(known, tokens, drawn)
        if left == 0:
            return drawn.astype(np.int64), history
        gumbel = -np.log(-np.log(choice.random(confidence.shape) + 1e-20) + 1e-20)
        confidence = np.where(known, np.inf, confidence + s.choice_temperature * (1 - (step + 1) / steps) * gumbel)
        cut = np.sort(confidence, -1)[:, left, None]
        tokens = np.where(confidence < cut, metadata.mask_id, drawn)
    return tokens, history
