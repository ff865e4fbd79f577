"""Distances between sets of images: kernel distance, precision and recall, spread, nearest neighbours, parts."""

from __future__ import annotations

import numpy as np


def kid(a: np.ndarray, b: np.ndarray, subsets: int = 100, size: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Kernel distance (Binkowski et al. 2018) between features ``[N, D]``: mean and standard deviation over subsets.

    The unbiased estimate of the squared maximum mean discrepancy with the kernel (x.y / D + 1)^3; it may be slightly
    negative.
    """
    size = min(size, len(a), len(b))
    if size < 2:
        raise ValueError(f"the kernel distance needs at least two images on each side, not {len(a)} and {len(b)}")
    choice = np.random.default_rng(seed)
    values = [
        mmd2(a[choice.choice(len(a), size, replace=False)], b[choice.choice(len(b), size, replace=False)])
        for _ in range(subsets)
    ]
    return float(np.mean(values)), float(np.std(values))


def mmd2(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy with the cubic kernel."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    n, m, dim = len(a), len(b), a.shape[1]
    aa, bb, ab = ((x @ y.T / dim + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    return float((aa.sum() - np.trace(aa)) / (n * (n - 1)) + (bb.sum() - np.trace(bb)) / (m * (m - 1)) - 2 * ab.mean())


def precision_recall(made: np.ndarray, real: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019) of features ``[N, D]``.

    A set stands for the union of balls around its points, each reaching to the point's ``k``-th neighbour in the set.
    Precision is the part of ``made`` inside the balls of ``real``, recall the part of ``real`` inside those of
    ``made``. Both grow with the number of points of the set that has the balls: compare figures for equal numbers only.
    """
    if min(len(made), len(real)) <= k:
        raise ValueError(
            f"precision and recall with {k} neighbours need more than {k} images on each side, not {len(made)} and "
            f"{len(real)}"
        )
    made, real = made.astype(np.float64), real.astype(np.float64)
    between = squared_distances(made, real)

    def reach(points: np.ndarray) -> np.ndarray:
        own = squared_distances(points, points)
        np.fill_diagonal(own, 0)
        # The nearest is the point itself.
        return np.partition(own, k, axis=1)[:, k]

    return float((between <= reach(real)[None]).any(1).mean()), float((between <= reach(made)[:, None]).any(0).mean())


def mean_pairwise(features: np.ndarray) -> float:
    """Mean Euclidean distance between two different rows."""
    if len(features) < 2:
        return 0.0
    distances = np.sqrt(squared_distances(features, features))
    return float((distances.sum() - np.trace(distances)) / (len(features) * (len(features) - 1)))


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances ``[len(a), len(b)]`` between rows, never negative."""
    return np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * (a @ b.T), 0)


def thumbnails(images: np.ndarray, side: int = 16) -> np.ndarray:
    """``uint8 [N, H, W, 3]`` to means of squares, float32 ``[N, side * side * 3]`` in 0..1."""
    return shrunk(images, side).reshape(len(images), -1)


def shrunk(images: np.ndarray, side: int) -> np.ndarray:
    """``uint8 [N, H, W, 3]`` to means of squares, float32 ``[N, side, side, 3]`` in 0..1.

    Where the size is no multiple of ``side``, there are fewer a side.
    """
    count, rows, cols, _ = images.shape
    side = next(s for s in range(min(side, rows, cols), 0, -1) if rows % s == 0 and cols % s == 0)
    out = np.empty((count, side, side, 3), np.float32)
    for first in range(0, count, 1024):
        part = images[first : first + 1024].reshape(-1, side, rows // side, side, cols // side, 3)
        out[first : first + 1024] = part.mean((2, 4), dtype=np.float32) / 255
    return out


class Parts:
    """The parts of training images, for a distance that a wrong part shows in: an eye, say, that no image of the class
    has in that place.

    An image is shrunk to at most 64 pixels a side; a part is a window of a quarter of the side, and windows are an
    eighth of it apart.
    """

    SIDE = 64

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self._shrunk = np.concatenate(
            [self.shrink(images[first : first + 1024]) for first in range(0, len(images), 1024)]
        )
        self._labels = labels

    def distances(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Of images ``uint8 [N, H, W, 3]`` of these labels, float32 ``[N, windows]``: the root of the mean square
        difference (of values in 0..1) of each window to that in the same place of the training image of the same label
        that is nearest there."""
        small, windows = self.shrink(images), self._windows(self._shrunk.shape[1])
        found = np.empty((len(images), len(windows)), np.float32)
        for label in np.unique(labels):
            rows, pool = np.flatnonzero(labels == label), self._shrunk[self._labels == label]
            if not len(pool):
                raise ValueError(f"no training image has the label {label}")
            for place, window in enumerate(windows):
                mine, theirs = (of[window].reshape(len(of), -1).astype(np.float32) / 255 for of in (small[rows], pool))
                found[rows, place] = np.sqrt(squared_distances(mine, theirs).min(1) / mine.shape[1])
        return found

    def means(self, images: np.ndarray, labels: np.ndarray) -> dict[int, float]:
        """The mean of :meth:`distances` in each label."""
        return of_each(self.distances(images, labels), labels)

    @classmethod
    def shrink(cls, images: np.ndarray) -> np.ndarray:
        """All that is compared of images ``uint8 [N, H, W, 3]``: uint8, at most 64 pixels a side.

        What is shrunk already stays as it is.
        """
        return np.rint(shrunk(images, cls.SIDE) * 255).astype(np.uint8)

    @staticmethod
    def _windows(side: int) -> list[tuple[slice, slice, slice]]:
        size, step = max(1, side // 4), max(1, side // 8)
        along = [slice(first, first + size) for first in range(0, side - size + 1, step)]
        return [(slice(None), rows, columns) for rows in along for columns in along]


def of_each(values: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    """The mean of the rows of each label."""
    return {int(label): float(values[labels == label].mean()) for label in np.unique(labels)}


def nearest(queries: np.ndarray, pool: np.ndarray, k: int, chunk: int = 8192) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` nearest rows of ``pool`` to each query: indices and distances ``[len(queries), k]``, nearest first."""
    k = min(k, len(pool))
    best = np.zeros((len(queries), 0), np.int64)
    distances = np.zeros((len(queries), 0), np.float32)
    for first in range(0, len(pool), chunk):
        part = squared_distances(queries, pool[first : first + chunk])
        distances = np.concatenate([distances, part], axis=1)
        best = np.concatenate([best, np.broadcast_to(np.arange(first, first + part.shape[1]), part.shape)], axis=1)
        order = np.argsort(distances, axis=1, kind="stable")[:, :k]
        distances, best = np.take_along_axis(distances, order, 1), np.take_along_axis(best, order, 1)
    return best, np.sqrt(distances)
