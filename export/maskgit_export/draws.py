"""Noise and draws of the sampler, bit for bit those of the runtime (docs/sampler.md, "Noise").

Everything is a function of (seed, step, position), so nothing depends on the order of calls or on the batch. All
arithmetic is in the runtime's precision and order. Only logarithms come from the platform, and may differ from the
runtime's in the last bit of a float64.
"""

from __future__ import annotations

import numpy as np

#: Weights whose sum is taken together, in ``LANES`` interleaved parts.
BLOCK = 64
LANES = 8
#: Numbers that ``exp`` works on at a time: they stay in the processor's cache.
CHUNK = 1 << 15
_WORD = (1 << 64) - 1


def mix(value: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 after adding its golden gamma; uint64 to uint64."""
    with np.errstate(over="ignore"):
        z = value + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def uniforms(seed: int, step: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two draws of each position in a step, for its token and for its choice: float64 in (0, 1)."""
    place = np.uint64(step << 32) | positions.astype(np.uint64)
    stream = mix(place)
    state, increment = mix(np.uint64(seed & _WORD) ^ stream), (stream << np.uint64(1)) | np.uint64(1)
    multiplier = np.uint64(6364136223846793005)
    draws = []
    with np.errstate(over="ignore"):
        state = (state + increment) * multiplier + increment
        for _ in range(2):
            word = (((state >> np.uint64(18)) ^ state) >> np.uint64(27)) & np.uint64(0xFFFFFFFF)
            turn = state >> np.uint64(59)
            word = (word >> turn | word << (np.uint64(32) - turn)) & np.uint64(0xFFFFFFFF)
            draws.append((word.astype(np.float64) + 0.5) / 4294967296.0)
            state = state * multiplier + increment
    return draws[0], draws[1]


def gumbel(choice: np.ndarray) -> np.ndarray:
    """Standard Gumbel noise of the choice draws, float32."""
    return (-np.log(-np.log(choice))).astype(np.float32)


def exp(x: np.ndarray) -> np.ndarray:
    """e^x of float32 of at most 0, as ``crates/core/src/math.rs`` computes it."""
    flat = np.ascontiguousarray(x, np.float32).reshape(-1)
    found = np.empty_like(flat)
    for first in range(0, len(flat), CHUNK):
        _exp(flat[first : first + CHUNK], found[first : first + CHUNK])
    return found.reshape(x.shape)


def _exp(x: np.ndarray, out: np.ndarray) -> None:
    """Into ``out``; in place, because memory that is new each time takes longer than the arithmetic."""
    f = np.float32
    # Adding the rounder leaves the nearest integer to x / ln 2 in the low bits.
    rounder = f(12582912.0)
    clamped = np.maximum(x, f(-87.3))
    shifted = clamped * f(1.44269504088896340736)
    shifted += rounder
    n = shifted - rounder
    r, p = clamped, out
    np.multiply(n, f(0.6933594), p)
    r -= p
    n *= f(-2.1219444e-4)
    r -= n
    np.multiply(r, f(1.9875691e-4), p)
    for coefficient in (1.3981999e-3, 8.333452e-3, 4.1665796e-2, 1.6666665e-1):
        p += f(coefficient)
        p *= r
    p += f(0.5)
    p *= np.multiply(r, r, n)
    p += r
    p += f(1)
    # 2^n; the runtime multiplies by two factors only because 2^128 is no float32, and here n is at most 0.
    exponent = shifted.view(np.int32)
    exponent -= rounder.view(np.int32)
    exponent += 127
    exponent <<= 23
    p *= exponent.view(np.float32)
    p[x < f(-87.3)] = 0


class Rows:
    """Logits ``[R, K]``, a row a position, and their softmax at temperature 1.

    Raises ``ValueError`` where a row is no distribution.
    """

    def __init__(self, logits: np.ndarray):
        self.logits = np.ascontiguousarray(logits, np.float32)
        self._largest = self.logits.max(-1, keepdims=True, initial=-np.inf)
        if not np.isfinite(self._largest).all():
            raise ValueError("the transformer gave logits that are no distribution (NaN or infinity)")
        self._below = self.logits - self._largest
        self._weights = exp(self._below)
        self._blocks = _block_sums(self._weights)
        self._total = _ordered_sum(self._blocks)
        self._log_total = np.log(self._total).astype(np.float32)

    def log_probability(self, tokens: np.ndarray) -> np.ndarray:
        """ln p of a token of each row, float32."""
        return np.take_along_axis(self._below, tokens[:, None], -1)[:, 0] - self._log_total

    def entropy(self) -> np.ndarray:
        """The entropy of each row in nats, float32."""
        products = self._weights * np.where(self._weights > 0, self._below, np.float32(0))
        return (np.log(self._total) - _ordered_sum(_block_sums(products)) / self._total).astype(np.float32)

    def draw(self, temperature: np.float32, top_k: int | None, uniform: np.ndarray) -> np.ndarray:
        """A token of each row, from softmax(logits / temperature) of the ``top_k`` largest; of equals, the first."""
        if temperature == 0:
            return self.logits.argmax(-1)
        limited = top_k is not None and top_k < self.logits.shape[-1]
        if temperature == 1 and not limited:
            return _invert(self._weights, self._blocks, uniform)
        weights = self._weights if temperature == 1 else exp(self._below / temperature)
        if limited:
            order = np.argsort(-self.logits, -1, kind="stable")[:, top_k:]
            weights = weights.copy()
            np.put_along_axis(weights, order, np.float32(0), -1)
        return _invert(weights, _block_sums(weights), uniform)


def _in_blocks(weights: np.ndarray) -> np.ndarray:
    """``[R, K]`` as ``[R, blocks, BLOCK]``, with zeros at the end, which change no sum."""
    rows, codes = weights.shape
    if lacking := -codes % BLOCK:
        weights = np.pad(weights, ((0, 0), (0, lacking)))
    return weights.reshape(rows, -1, BLOCK)


def _block_sums(weights: np.ndarray) -> np.ndarray:
    """The float64 sum of each block: first its eight interleaved parts, each in order, then these in order."""
    parts = _in_blocks(weights).reshape(len(weights), -1, BLOCK // LANES, LANES)
    sums = parts[:, :, 0].astype(np.float64)
    for index in range(1, BLOCK // LANES):
        sums += parts[:, :, index]
    return _ordered_sum(sums)


def _ordered_sum(values: np.ndarray) -> np.ndarray:
    """The sum of the last axis from its first number to its last; ``np.sum`` adds in another order."""
    return np.add.accumulate(values, -1)[..., -1]


def _invert(weights: np.ndarray, blocks: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """The first index of each row whose cumulative weight exceeds ``uniform`` times the total."""
    reached = np.add.accumulate(blocks, -1)
    target = uniform * reached[:, -1]
    # Rounding may put the target beyond every weight: then the last that is possible is drawn.
    block = _first(reached > target[:, None], blocks > 0)
    rows = np.arange(len(weights))
    before = np.where(block > 0, reached[rows, block - 1], 0.0)
    inside = _in_blocks(weights)[rows, block]
    cumulative = np.add.accumulate(np.concatenate([before[:, None], inside], -1, dtype=np.float64), -1)[:, 1:]
    return block * BLOCK + _first(cumulative > target[:, None], inside > 0)


def _first(wanted: np.ndarray, possible: np.ndarray) -> np.ndarray:
    """The first wanted index of each row; the last possible one where none is."""
    last = possible.shape[-1] - 1 - possible[:, ::-1].argmax(-1)
    return np.where(wanted.any(-1), wanted.argmax(-1), last)
