"""The decoding loop in NumPy, around any function that gives logits: to calibrate a quantiser, and to time other
runtimes.

It is that of docs/sampler.md, with all samplers, schedules and settings that a manifest may recommend. The noise is the
runtime's too (:mod:`~maskgit_export.draws`): from equal logits it draws the tokens that ``maskgit generate`` draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .bundle import Metadata, Sampling
from .draws import Rows, gumbel, uniforms

#: Tokens ``[B, N]`` and labels ``[B]`` to logits ``[B, N, codes]``.
Logits = Callable[[np.ndarray, np.ndarray], np.ndarray]


def sample(
    logits: Logits, metadata: Metadata, labels: np.ndarray, seed: int = 0, steps: int | None = None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draws one picture a label, picture i with seed + i, as the bundle's manifest recommends.

    Returns its tokens ``[B, N]``, and the tokens before each step that ran the transformer. With guidance, both passes
    go to ``logits`` as one batch. ``steps`` takes the place of the recommended number.
    """
    settings = replace(metadata.sampling, steps=steps or metadata.sampling.steps)
    tokens = np.full((len(labels), metadata.tokens), metadata.mask_id, np.int64)
    order = halton_order(metadata.grid_rows, metadata.grid_cols) if settings.sampler.startswith("halton") else []
    pictures = [_Picture(row, seed + index, metadata.mask_id, order) for index, row in enumerate(tokens)]
    history = []
    for step in range(settings.steps):
        plan = _plan(step, settings)
        active = [index for index, picture in enumerate(pictures) if picture.is_active(plan)]
        if not active:
            continue
        history.append(tokens.copy())
        conditional, null = tokens[active], np.full(len(active), metadata.null_label or 0, np.int64)
        if plan.guidance == 0:
            rows = zip(logits(conditional, labels[active]), [None] * len(active), strict=True)
        else:
            both = logits(np.concatenate([conditional, conditional]), np.concatenate([labels[active], null]))
            rows = zip(both[: len(active)], both[len(active) :], strict=True)
        for index, (given, unguided) in zip(active, rows, strict=True):
            pictures[index].step(plan, given, unguided)
    return tokens, history


def masked_counts(total: int, steps: int, schedule: str = "cosine") -> list[int]:
    """How many of ``total`` tokens are masked after each step of the sampler ``confidence``; the last is 0."""
    counts, left = [], total
    for step in range(steps):
        left = masked_after(schedule, step, steps, total, left)
        counts.append(left)
    return [*counts[:-1], 0]


def masked_after(schedule: str, step: int, steps: int, unknown: int, now: int) -> int:
    """How many of ``unknown`` tokens stay masked after a step that is not the last, where ``now`` were before it."""
    planned = int(np.float32(unknown) * mask_ratio(schedule, np.float32(step + 1) / np.float32(steps), unknown))
    return max(1, min(planned, now - 1))


def mask_ratio(schedule: str, r: np.float32, unknown: int) -> np.float32:
    """The part gamma(r) of ``unknown`` tokens that is masked when the part r of the steps is done."""
    f = np.float32
    part, bits = float(r), f(math.log2(max(unknown, 2)))
    powers = {"linear": 1.0, "square": 2.0, "cubic": 3.0, "sqrt": 0.5}
    if schedule.startswith("power:"):
        ratio = f(1) - f(part ** float(f(schedule.removeprefix("power:"))))
    elif schedule in powers:
        ratio = f(1) - f(part ** powers[schedule])
    elif schedule == "cosine":
        ratio = f(math.cos(float(f(math.pi / 2) * r)))
    elif schedule == "log":
        ratio = f(-math.log2(part)) / bits
    elif schedule == "exp":
        ratio = f(1) - f(2.0 ** float(-bits * (f(1) - r)))
    elif schedule == "arccos":
        ratio = f(math.acos(part)) / f(math.pi / 2)
    else:
        raise ValueError(f"unknown mask schedule {schedule!r}")
    return min(max(ratio, f(1e-6)), f(1))


def halton_order(rows: int, cols: int) -> list[int]:
    """All positions of a grid in the order of the two-dimensional Halton sequence, base 2 for rows, 3 for columns."""

    def scaled_inverse(index: int, base: int, size: int) -> int:
        numerator, denominator = 0, 1
        while index:
            index, digit = divmod(index, base)
            numerator, denominator = numerator * base + digit, denominator * base
        return numerator * size // denominator

    seen: dict[int, None] = {}
    index = 1
    while len(seen) < rows * cols and index < rows * cols * 64 + 4096:
        seen.setdefault(scaled_inverse(index, 2, rows) * cols + scaled_inverse(index, 3, cols))
        index += 1
    return [*seen, *(position for position in range(rows * cols) if position not in seen)]


@dataclass(frozen=True)
class _Plan:
    """What a step does, and with which numbers."""

    settings: Sampling
    #: ``confidence``, ``remask``, ``predictor``, ``corrector``, ``halton`` or ``redraw``.
    kind: str
    step: int
    last: bool
    #: The step among those of its kind, and how many these are: what schedule and noise count by.
    at: int
    among: int

    @property
    def r(self) -> np.float32:
        return np.float32(self.at + 1) / np.float32(self.among)

    @property
    def guidance(self) -> np.float32:
        """w of this step."""
        w, steps = np.float32(self.settings.guidance), np.float32(self.settings.steps)
        return w * np.float32(self.step + 1) / steps if self.settings.guidance_ramp else w

    @property
    def temperature(self) -> np.float32:
        """That of the first step, or on the line from it to that of the last."""
        first, last = np.float32(self.settings.temperature), self.settings.final_temperature
        if last is None or self.settings.steps == 1:
            return first
        part = np.float32(self.step) / np.float32(self.settings.steps - 1)
        return (np.float32(1) - part) * first + part * np.float32(last)

    @property
    def noise(self) -> np.float32:
        """How much Gumbel noise the confidence gets."""
        if self.kind in ("corrector", "halton", "redraw"):
            return np.float32(0)
        return np.float32(self.settings.choice_temperature) * (np.float32(1) - self.r)

    @property
    def revisits(self) -> bool:
        """Whether a token that is revealed already may change."""
        return self.kind in ("remask", "redraw") or (self.kind == "corrector" and not self.last)

    def remasked(self, unknown: int) -> int:
        """How many revealed tokens of ``unknown`` this step may mask or draw again."""
        if self.kind == "corrector":
            share = float(np.float32(self.settings.corrector_first))
            return int(float(unknown) * (self.among - 1 - self.at) * share / self.among)
        return unknown if self.revisits else 0


def _plan(step: int, settings: Sampling) -> _Plan:
    steps = settings.steps
    last = step + 1 == steps
    kinds = {"confidence": "confidence", "confidence-remask": "confidence" if last else "remask"}
    kinds |= {"halton": "halton", "halton-redraw": "redraw"}
    if settings.sampler in kinds:
        return _Plan(settings, kinds[settings.sampler], step, last, step, steps)
    if settings.sampler != "predictor-corrector":
        raise ValueError(f"unknown sampler {settings.sampler!r}")
    correctors = min(math.floor(steps * float(np.float32(settings.corrector_share))), steps - 1)
    predictors = steps - correctors
    if step < predictors:
        return _Plan(settings, "predictor", step, last, step, predictors)
    return _Plan(settings, "corrector", step, last, step - predictors, correctors)


class _Picture:
    """One token grid on its way through the steps; ``tokens`` is changed in place."""

    def __init__(self, tokens: np.ndarray, seed: int, mask_id: int, order: list[int]):
        self._tokens, self._seed, self._mask_id = tokens, seed, mask_id
        self._unknown = len(tokens)
        self._order = np.array(order, np.int64)
        self._guess, self._known = tokens.copy(), np.zeros(len(tokens), bool)

    def is_active(self, plan: _Plan) -> bool:
        """Whether the step has anything to do here."""
        return not self._known.all() or plan.remasked(self._unknown) > 0

    def step(self, plan: _Plan, conditional: np.ndarray, unconditional: np.ndarray | None) -> None:
        """Draws tokens from the logits ``[N, codes]``, and masks those again that are not kept."""
        wanted = np.arange(self._unknown) if plan.revisits else np.flatnonzero(~self._known)
        scores = conditional[wanted]
        if unconditional is not None:
            scores = scores + plan.guidance * (scores - unconditional[wanted])
        rows, known = Rows(scores), self._known[wanted]
        token, choice = uniforms(self._seed, plan.step, wanted)
        # These judge the tokens that are there already, and do not draw them again.
        drawn = ~known if plan.kind in ("remask", "corrector") else np.full(len(wanted), True)
        guess = np.where(drawn, rows.draw(plan.temperature, plan.settings.top_k, token), self._guess[wanted])
        self._guess[wanted] = guess
        confidence = -rows.entropy() if plan.kind == "predictor" else rows.log_probability(guess)
        if plan.noise > 0:
            confidence = confidence + plan.noise * gumbel(choice)
        # A corrector step keeps what it has drawn itself.
        competes = known if plan.kind == "corrector" else np.full(len(wanted), True)
        self._known = self._kept(plan, wanted[competes], confidence[competes])
        self._tokens[:] = np.where(self._known, self._guess, self._mask_id)

    def _kept(self, plan: _Plan, competing: np.ndarray, confidence: np.ndarray) -> np.ndarray:
        """Which positions are known after the step."""
        everything = np.full(self._unknown, True)
        if plan.last:
            return everything
        if plan.kind in ("halton", "redraw"):
            shown = np.float32(1) - mask_ratio(plan.settings.schedule, plan.r, self._unknown)
            known = self._known.copy()
            known[self._order[: max(int(np.float32(self._unknown) * shown), plan.step + 1)]] = True
            return known
        if plan.kind == "corrector":
            return _without_least(everything, competing, confidence, plan.remasked(self._unknown))
        left = masked_after(plan.settings.schedule, plan.at, plan.among, self._unknown, int((~self._known).sum()))
        return _without_least(self._known, competing, confidence, left)


def _without_least(known: np.ndarray, competing: np.ndarray, confidence: np.ndarray, count: int) -> np.ndarray:
    """``known``, with the competing positions whose confidence lies below the ``count``-th in order masked."""
    everywhere = np.full(len(known), np.inf, np.float32)
    everywhere[competing] = confidence
    cut = np.sort(everywhere)[min(count, len(known) - 1)]
    known = known.copy()
    known[competing] = confidence >= cut
    return known
