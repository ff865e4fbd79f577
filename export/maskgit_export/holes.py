"""How well holes of several sizes are repainted: the part of ``evaluate-edit`` that compares sizes.

Each held-out image is repainted as its class in a centred square, by our own command with Google's blur. The
figures are those of the other measurements: kernel distance to held-out images *other* than the repainted ones, the
classifier's accuracy, precision and recall, and the mean absolute error inside the hole.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from . import metrics

#: Parts of the picture that the holes take.
AREAS = (0.125, 0.25, 0.5)


def centred(area: float, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of the centred box that takes about ``area`` of a picture; its sides are even."""
    if not 0 < area < 1:
        raise ValueError(f"a hole takes a part of the picture between 0 and 1, not {area}")
    across, down = (max(2, 2 * round(area**0.5 * side / 2)) for side in (width, height))
    return (width - across) // 2, (height - down) // 2, across, down


def measure(
    repaint: Callable[[tuple, int], np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    others: np.ndarray,
    blind: np.ndarray,
    areas,
    seeds: int,
    classifier,
    known: np.ndarray,
    features,
) -> dict:
    """The figures of every size of hole.

    ``repaint(box, turn)`` gives ``images`` repainted in ``box`` with the seeds of that turn; ``others`` are further
    held-out images; ``blind`` are pictures of the same classes drawn without the surroundings; ``known`` is the
    classifier's class of each image.
    """
    height, width = images.shape[1:3]
    far = features(others)
    rows = []
    for area in areas:
        box = left, top, across, down = centred(area, width, height)
        inside = np.zeros((height, width), bool)
        inside[top : top + down, left : left + across] = True
        figures = []
        for turn in range(seeds):
            print(f"hole of {area:g}, seed {turn + 1} of {seeds}", file=sys.stderr, flush=True)
            figures.append(_figures(repaint(box, turn), images, inside, classifier, known, features, far))
        row = {name: _spread([one[name] for one in figures]) for name in figures[0]}
        rows.append(
            {
                "area": round(float(inside.mean()), 4),
                "box": list(box),
                **row,
                "error_blind": _error(blind, images, inside),
            }
        )
    return {
        "images": len(images),
        "others": len(others),
        "seeds": seeds,
        "untouched": _figures(images, images, None, classifier, known, features, far),
        "sizes": rows,
    }


def _figures(made, images, inside, classifier, known, features, far) -> dict:
    found = features(made)
    precision, recall = metrics.precision_recall(found, far)
    figures = {
        "kid": metrics.mmd2(found, far),
        "accuracy": float((classifier.predict(made) == known).mean()),
        "precision": precision,
        "recall": recall,
    }
    return figures if inside is None else {**figures, "error": _error(made, images, inside)}


def _error(made: np.ndarray, images: np.ndarray, inside: np.ndarray) -> float:
    return float(np.abs(made.astype(np.float32) - images.astype(np.float32))[:, inside].mean() / 255)


def _spread(values: list[float]) -> dict:
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def table(report: dict) -> str:
    """The figures in Markdown."""
    from .ablate_report import figure

    untouched = report["untouched"]
    lines = [
        "| hole | error inside | drawn without the surroundings | KID | classifier | precision | recall |",
        "|---|---|---|---|---|---|---|",
    ]
    lines.append(
        f"| none | – | – | {untouched['kid']:.4f} | {untouched['accuracy']:.1%} | {untouched['precision']:.3f} | "
        f"{untouched['recall']:.3f} |"
    )
    for row in report["sizes"]:
        figures = " | ".join(
            (
                figure(row["kid"], 4),
                figure(row["accuracy"], 1, 100),
                figure(row["precision"], 3),
                figure(row["recall"], 3),
            )
        )
        lines.append(
            f"| {row['area']:.1%} of the picture | {figure(row['error'], 4)} | {row['error_blind']:.4f} | {figures} |"
        )
    return "\n".join(lines) + "\n"
