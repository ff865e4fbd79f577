"""What ``quantize`` and ``half`` share: real inputs, the comparison of two bundles, the report."""

from __future__ import annotations

import argparse
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

#: Pictures that are drawn to measure on.
PICTURES = 4


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


def add_measuring_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options that say what ``quantize`` and ``half`` measure on, and with what."""
    parser.add_argument("--command", help="the maskgit program, to measure with our engine")
    parser.add_argument("--steps", type=int, help="steps of the pictures drawn to measure on (default: the model's)")
    parser.add_argument(
        "--pictures",
        type=_count,
        default=PICTURES,
        help=f"number of these pictures (default: {PICTURES}); fewer take less time and say less",
    )


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 64:
        raise argparse.ArgumentTypeError(f"{value}: give a number from 1 to 64")
    return value


def real_inputs(
    folder: Path, metadata: Metadata, graphs: dict, seed: int = 0, steps: int | None = None, pictures: int = PICTURES
) -> Inputs:
    """Draws pictures with the model itself, in ONNX Runtime, and takes one step of each: from an early one to the last,
    or of one picture one in the middle.
    """
    runtime = OnnxRuntime(folder, {"transformer": graphs["transformer"]})
    labels = np.random.default_rng(seed).integers(0, len(metadata.labels), pictures)
    rows = [
        sample(
            lambda tokens, label: np.concatenate(
                [runtime.logits(tokens[i : i + 1], label[i : i + 1]) for i in range(len(tokens))]
            ),
            metadata,
            labels[i : i + 1],
            seed + i,
            steps,
        )
        for i in range(pictures)
    ]
    parts = np.linspace(0.1, 1, pictures) if pictures > 1 else [0.55]
    places = [min(len(history) - 1, round(part * (len(history) - 1))) for part, (_, history) in zip(parts, rows)]
    return Inputs(
        np.concatenate([history[place] for place, (_, history) in zip(places, rows)]),
        labels,
        np.concatenate([codes for codes, _ in rows]),
    )


class Comparison:
    """How far the graphs of other bundles are from those of ``reference``: by our engine with ``command``, else by ONNX
    Runtime.

    ONNX Runtime computes fp32 activations, so for int8 its figures know the error of the weights only. What the
    reference computes, and what graphs computed that have not changed since, is not computed again: at full size, that
    is minutes.
    """

    def __init__(self, reference: Path, inputs: Inputs, command: str | None):
        self.metadata, graphs = read_manifest(reference)
        self._inputs, self._command = inputs, command
        # One graph at a time, for the memory.
        self._logits = self._run(OnnxRuntime(reference, {"transformer": graphs["transformer"]}), "transformer").astype(
            np.float64
        )
        self._image = self._run(OnnxRuntime(reference, {"decoder": graphs["decoder"]}), "decoder")
        self._encoded = (
            self._run(OnnxRuntime(reference, {"encoder": graphs["encoder"]}), "encoder")
            if "encoder" in graphs
            else None
        )
        self.report: dict = {"measured_by": "maskgit" if command else "ONNX Runtime (weights only)"}

    def measure(self, changed: Path, *only: str) -> dict:
        """The report on ``changed``, of which at most the graphs ``only`` are others than in the call before.

        Where none is named, all are measured.
        """
        _, graphs = read_manifest(changed)
        for graph in only or graphs:
            one = {graph: graphs[graph]}
            runtime = (
                Command(self._command, changed, self.metadata, one) if self._command else OnnxRuntime(changed, one)
            )
            self.report |= getattr(self, f"_{graph}")(self._run(runtime, graph))
        return dict(self.report)

    def _run(self, runtime: Command | OnnxRuntime, graph: str) -> np.ndarray:
        """A graph on all rows, one at a time."""
        call, arrays = {
            "transformer": (runtime.logits, (self._inputs.tokens, self._inputs.labels)),
            "decoder": (runtime.decode, (self._inputs.codes,)),
            "encoder": (runtime.encode, (getattr(self, "_image", None),)),
        }[graph]
        return np.concatenate([call(*(array[i : i + 1] for array in arrays)) for i in range(len(self._inputs.codes))])

    def _transformer(self, found: np.ndarray) -> dict:
        a, b = self._logits, found.astype(np.float64)
        cosine = (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
        masked = self._inputs.tokens == self.metadata.mask_id
        return {
            "logits_cosine": float(cosine.mean()),
            "logits_cosine_least": float(cosine.min()),
            "logits_max_abs_error": float(np.abs(a - b).max()),
            "same_best_token": float((a.argmax(-1) == b.argmax(-1))[masked].mean()) if masked.any() else 1.0,
        }

    def _decoder(self, found: np.ndarray) -> dict:
        error = float(np.mean((self._image.astype(np.float64) - found) ** 2))
        return {"image_psnr": 99.0 if error == 0 else float(-10 * np.log10(error))}

    def _encoder(self, found: np.ndarray) -> dict:
        return {"encoder_same_tokens": float((self._encoded == found).mean())}


class Writer:
    """A bundle that appears whole or not at all."""

    def __init__(self, source: Path, output: Path, metadata: Metadata, precision: str, name: str):
        self.source, self.output = source, output
        output.parent.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=".partial-", dir=output.parent))
        self.metadata = dataclasses.replace(metadata, name=name)
        self.precision = precision

    def __enter__(self) -> Writer:
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
    figures = "  ".join(
        f"{name} {value:.6f}" if isinstance(value, float) else f"{name} {value}" for name, value in report.items()
    )
    print(f"{output}: {size / 1e6:.1f} MB\n{figures}", file=sys.stderr)
