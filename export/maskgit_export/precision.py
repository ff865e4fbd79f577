"""What ``quantize`` and ``half`` share: real inputs, the comparison of two bundles, the report."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .bundle import BundleError, Metadata, read_manifest, validate, write_manifest
from .sampling import sample
from .verify import Command, OnnxRuntime

ROWS = 4


@dataclass
class Inputs:
    """Tokens with masks as they occur while a picture is drawn, their labels, and finished tokens."""

    tokens: np.ndarray
    labels: np.ndarray
    codes: np.ndarray


def open_fp32(folder: Path, output: Path) -> tuple[Metadata, dict]:
    """Checks the bundle to convert, and that there is nothing at ``output``."""
    metadata, graphs = validate(folder)
    precision = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))["precision"]
    if precision != "fp32":
        raise BundleError(f"{folder}: its precision is {precision}; convert the fp32 bundle that it was made from")
    if output.exists():
        raise BundleError(f"{output}: exists already; remove it or give another folder")
    return metadata, graphs


def real_inputs(folder: Path, metadata: Metadata, graphs: dict, seed: int = 0, steps: int | None = None) -> Inputs:
    """Draws ``ROWS`` pictures with the model itself, in ONNX Runtime, and takes one step of each: early, two in the middle, late."""
    runtime = OnnxRuntime(folder, {"transformer": graphs["transformer"]})
    labels = np.random.default_rng(seed).integers(0, len(metadata.labels), ROWS)
    rows = [sample(lambda t, l: np.concatenate([runtime.logits(t[i:i + 1], l[i:i + 1]) for i in range(len(t))]), metadata, labels[i:i + 1], seed + i, steps) for i in range(ROWS)]
    places = [min(len(history) - 1, round(part * (len(history) - 1))) for part, (_, history) in zip((0.1, 0.4, 0.7, 1.0), rows)]
    return Inputs(np.concatenate([history[place] for place, (_, history) in zip(places, rows)]), labels, np.concatenate([codes for codes, _ in rows]))


def compare(reference: Path, changed: Path, inputs: Inputs, command: str | None) -> dict:
    """How far the graphs of ``changed`` are from those of ``reference``: by our engine with ``command``, else by ONNX Runtime.

    ONNX Runtime computes fp32 activations, so for int8 its figures know the error of the weights only.
    """
    metadata, graphs = read_manifest(reference)
    _, new_graphs = read_manifest(changed)
    first = OnnxRuntime(reference, graphs)
    second = Command(command, changed, metadata, new_graphs) if command else OnnxRuntime(changed, new_graphs)

    def rows(call, *arrays):
        return np.concatenate([call(*(array[i:i + 1] for array in arrays)) for i in range(len(arrays[0]))])

    a = rows(first.logits, inputs.tokens, inputs.labels).astype(np.float64)
    b = rows(second.logits, inputs.tokens, inputs.labels).astype(np.float64)
    cosine = (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    masked = inputs.tokens == metadata.mask_id
    image, other = rows(first.decode, inputs.codes), rows(second.decode, inputs.codes)
    error = float(np.mean((image.astype(np.float64) - other) ** 2))
    report = {
        "measured_by": "maskgit" if command else "ONNX Runtime (weights only)",
        "logits_cosine": float(cosine.mean()),
        "logits_cosine_least": float(cosine.min()),
        "logits_max_abs_error": float(np.abs(a - b).max()),
        "same_best_token": float((a.argmax(-1) == b.argmax(-1))[masked].mean()) if masked.any() else 1.0,
        "image_psnr": 99.0 if error == 0 else float(-10 * np.log10(error)),
    }
    encoded = first.encode(image[:1])
    if encoded is not None:
        encoded = rows(first.encode, image)
        report["encoder_same_tokens"] = float((encoded == rows(second.encode, image)).mean())
    return report


class Writer:
    """A bundle that appears whole or not at all."""

    def __init__(self, source: Path, output: Path, metadata: Metadata, precision: str, name: str):
        self.source, self.output = source, output
        output.parent.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=".partial-", dir=output.parent))
        self.metadata = dataclasses.replace(metadata, name=name)
        self.precision = precision

    def __enter__(self) -> "Writer":
        return self

    def manifest(self) -> None:
        """Writes the manifest of the graphs that are there."""
        write_manifest(self.metadata, self.folder, self.precision)

    def __exit__(self, kind, *_) -> None:
        if kind is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        os.chmod(self.folder, 0o755)
        for extra in ("LICENSE.md",):
            if (self.source / extra).exists():
                shutil.copy(self.source / extra, self.folder / extra)
        self.folder.rename(self.output)


def show(report: dict, size: int, output: Path) -> None:
    """Prints what became of a bundle."""
    figures = "  ".join(f"{name} {value:.6f}" if isinstance(value, float) else f"{name} {value}" for name, value in report.items())
    print(f"{output}: {size / 1e6:.1f} MB\n{figures}", file=sys.stderr)
