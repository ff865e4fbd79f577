"""Checks that a bundle computes the same everywhere: ONNX Runtime, PyTorch, our command.

Hashes and signatures are checked first. Then one batch of four rows (or the first --rows of them), all masked, half
masked, a quarter masked and none masked, goes through every graph; the largest absolute difference of logits and pixels
between any two programs is printed, and a difference above the tolerance (1e-3) is a failure. Tokens of the encoder may
differ where two codes are equally near, in at most one position in a hundred.

PyTorch takes part when it is told where the weights are: --checkpoint TOKENIZER MVTM, --model MODULE:FUNCTION, --synth
SHAPE with --seed, or the two files that ``convert`` was given: --google-maskgit, --halton-maskgit TRANSFORMER
TOKENIZER. The command takes part with --command. A folder ``reference`` in the bundle, which --write-reference makes,
takes part when it is there: ``tokens.i64`` [4, N] with ``mask_id`` where masked, ``labels.i64`` [4], ``logits.f32`` [4,
N, K]; ``codes.i64`` [4, N], the same tokens without masks, and ``image.f32`` [4, 3, H, W], what the decoder makes of
them; ``encoded.i64`` [4, N], what the encoder makes of that image. All are raw little-endian numbers.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .bundle import BundleError, Metadata, validate

ROWS = 4
TOLERANCE = 1e-3
#: Part of the encoder's tokens that may fall on the other side of a tie.
TOKEN_TOLERANCE = 0.01


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of ``maskgit-export verify``."""
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument(
        "--checkpoint", nargs=2, type=Path, metavar=("TOKENIZER", "MVTM"), help="files that the two trainers wrote"
    )
    weights.add_argument(
        "--model", metavar="MODULE:FUNCTION", help="a function that returns the maskgit_export.adapter.Model"
    )
    weights.add_argument("--synth", metavar="SHAPE", help="the shape that `synth` was given")
    weights.add_argument(
        "--google-maskgit",
        nargs=2,
        type=Path,
        metavar=("TRANSFORMER", "TOKENIZER"),
        help="files that `convert google-maskgit` was given",
    )
    weights.add_argument(
        "--halton-maskgit",
        nargs=2,
        type=Path,
        metavar=("TRANSFORMER", "TOKENIZER"),
        help="files that `convert halton-maskgit` was given",
    )
    parser.add_argument("--gelu", choices=["tanh", "erf"], help="the form that `convert google-maskgit` was given")
    parser.add_argument("--ema", action="store_true", help="as `convert` was given it")
    parser.add_argument("--key", metavar="KEY", help="the --key that `convert` was given")
    parser.add_argument("--tokenizer-key", metavar="KEY", help="the --tokenizer-key that `convert` was given")
    parser.add_argument("--command", metavar="PATH", help="the maskgit program, to compare our engine too")
    parser.add_argument(
        "--write-reference", action="store_true", help="write BUNDLE/reference (from PyTorch where it takes part)"
    )
    parser.add_argument(
        "--rows",
        type=int,
        choices=range(1, ROWS + 1),
        default=ROWS,
        help="compare the first of the rows only, for models that take minutes; the last is the one without a class",
    )
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="largest absolute difference allowed")
    parser.add_argument("--seed", type=int, default=0, help="seed of the inputs, and of --synth's weights")


@dataclass
class Batch:
    """Inputs: tokens with masks, labels, the same tokens without masks."""

    tokens: np.ndarray
    labels: np.ndarray
    codes: np.ndarray

    def first(self, rows: int) -> Batch:
        """The first rows."""
        return Batch(self.tokens[:rows], self.labels[:rows], self.codes[:rows])


@dataclass
class Results:
    """What one program computed. ``encoded`` is of the *first* program's image, so that all encode the same pixels."""

    name: str
    logits: np.ndarray
    image: np.ndarray
    encoded: np.ndarray | None = None


def make_batch(metadata: Metadata, seed: int) -> Batch:
    """Random tokens; all, half, a quarter and none of a row's are masked.

    The last label is the null label, where there is one.
    """
    choice = np.random.default_rng(seed)
    codes = choice.integers(0, metadata.codes, (ROWS, metadata.tokens), dtype=np.int64)
    tokens = codes.copy()
    for row, part in enumerate((1.0, 0.5, 0.25, 0.0)):
        tokens[row, choice.permutation(metadata.tokens)[: int(part * metadata.tokens)]] = metadata.mask_id
    labels = choice.integers(0, len(metadata.labels), ROWS, dtype=np.int64)
    if metadata.null_label is not None:
        labels[-1] = metadata.null_label
    return Batch(tokens, labels, codes)


class OnnxRuntime:
    """The three graphs in ONNX Runtime."""

    name = "ONNX Runtime"

    def __init__(self, folder: Path, graphs: dict, threads: int = 1):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._sessions = {
            graph: onnxruntime.InferenceSession(
                str(folder / entry["file"]), options, providers=["CPUExecutionProvider"]
            )
            for graph, entry in graphs.items()
        }

    def logits(self, tokens: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Tokens ``[B, N]`` and labels ``[B]`` to logits."""
        return self._sessions["transformer"].run(["logits"], {"tokens": tokens, "label": labels})[0]

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Tokens to image."""
        return self._sessions["decoder"].run(["image"], {"tokens": codes})[0]

    def encode(self, image: np.ndarray) -> np.ndarray | None:
        """Image to tokens, or nothing without an encoder."""
        return self._sessions["encoder"].run(["tokens"], {"image": image})[0] if "encoder" in self._sessions else None


class PyTorch:
    """The model the bundle was exported from."""

    name = "PyTorch"

    def __init__(self, model):
        self._model = model.eval()

    def logits(self, tokens: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Tokens ``[B, N]`` and labels ``[B]`` to logits."""
        return self._run("logits", tokens, labels)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Tokens to image."""
        return self._run("decode", codes)

    def encode(self, image: np.ndarray) -> np.ndarray | None:
        """Image to tokens, or nothing without an encoder."""
        return self._run("encode", image) if self._model.has_encoder else None

    def _run(self, method: str, *inputs: np.ndarray) -> np.ndarray:
        import torch

        with torch.no_grad():
            return getattr(self._model, method)(*(torch.from_numpy(value) for value in inputs)).numpy()


class Command:
    """Our engine, through ``maskgit run``."""

    name = "maskgit"

    def __init__(self, program: str, folder: Path, metadata: Metadata, graphs: dict):
        self._program, self._folder, self._metadata, self._graphs = program, folder, metadata, graphs

    def logits(self, tokens: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Tokens ``[B, N]`` and labels ``[B]`` to logits."""
        label = ",".join(map(str, labels))
        return self._run("transformer", "--tokens", tokens, "<f4", "--label", label).reshape(
            len(tokens), self._metadata.tokens, self._metadata.codes
        )

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Tokens to image."""
        return self._run("decoder", "--tokens", codes, "<f4").reshape(
            len(codes), 3, self._metadata.image_height, self._metadata.image_width
        )

    def encode(self, image: np.ndarray) -> np.ndarray | None:
        """Image to tokens, or nothing without an encoder."""
        return (
            self._run("encoder", "--image", image, "<i8").reshape(len(image), -1) if "encoder" in self._graphs else None
        )

    def _run(self, graph: str, option: str, values: np.ndarray, dtype: str, *more: str) -> np.ndarray:
        with tempfile.TemporaryDirectory() as scratch:
            source, target = Path(scratch, "in"), Path(scratch, "out")
            _write(source, values)
            try:
                done = subprocess.run(
                    [
                        self._program,
                        "run",
                        "--model",
                        str(self._folder),
                        "--graph",
                        graph,
                        option,
                        str(source),
                        *more,
                        "-o",
                        str(target),
                    ],
                    stderr=subprocess.PIPE,
                    text=True,
                )
            except OSError as error:
                raise SystemExit(f"--command {self._program}: cannot be started: {error}") from error
            if done.returncode != 0:
                raise SystemExit(
                    f"{self._program} run --graph {graph} failed with status {done.returncode}: {done.stderr.strip()}"
                )
            return np.fromfile(target, dtype)


def run(args: argparse.Namespace) -> int:
    """Compares; returns 0 when everything agrees, 1 when not, 2 for options that do not go together."""
    if args.write_reference and args.rows != ROWS:
        print(f"--write-reference: a reference has all {ROWS} rows; leave out --rows", file=sys.stderr)
        return 2
    try:
        metadata, graphs = validate(args.bundle)
    except BundleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.bundle}: format, sizes, hashes and signatures are right ({', '.join(graphs)})")
    programs = [OnnxRuntime(args.bundle, graphs)]
    model = _model(args, metadata)
    if model is not None:
        programs.insert(0, PyTorch(model))
    if args.command:
        programs.append(Command(args.command, args.bundle, metadata, graphs))
    batch = make_batch(metadata, args.seed).first(args.rows)
    results = _compute(programs, batch)
    agree = _compare(results, args.tolerance)
    reference = args.bundle / "reference"
    if args.write_reference:
        if agree:
            _write_reference(reference, batch, results[0])
            print(f"{reference}: written, computed by {results[0].name}")
    elif reference.is_dir():
        try:
            batch, stored = _read_reference(reference, metadata, "encoder" in graphs)
        except BundleError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        batch = batch.first(args.rows)
        stored = Results(
            stored.name,
            stored.logits[: args.rows],
            stored.image[: args.rows],
            None if stored.encoded is None else stored.encoded[: args.rows],
        )
        agree &= _compare([stored, *_compute(programs, batch, stored.image)], args.tolerance)
    print("agree" if agree else f"DIFFER by more than {args.tolerance:g}")
    return 0 if agree else 1


def _model(args: argparse.Namespace, metadata: Metadata):
    if args.checkpoint:
        from .adapter import Avatars
        from .weights import load_mvtm

        # A bundle may leave out classes of the checkpoint.
        left_out = [name for name in load_mvtm(args.checkpoint[1]).config.labels if name not in metadata.labels]
        return Avatars.load(*args.checkpoint, name="verify", licence="-", source="", without=left_out)
    if args.model:
        from .adapter import load

        return load(args.model)
    if args.google_maskgit or args.halton_maskgit:
        from .checkpoint import CheckpointError
        from .convert import choices, google_maskgit, halton_maskgit

        try:
            return (
                google_maskgit(*args.google_maskgit, gelu=args.gelu, choice=choices(args))
                if args.google_maskgit
                else halton_maskgit(*args.halton_maskgit, choice=choices(args))
            )
        except CheckpointError as error:
            raise SystemExit(f"error: {error}") from error
    if args.synth:
        from .synth import make

        return make(args.synth, args.seed)
    return None


def _compute(programs: list, batch: Batch, image: np.ndarray | None = None) -> list[Results]:
    results = []
    for program in programs:
        result = Results(program.name, program.logits(batch.tokens, batch.labels), program.decode(batch.codes))
        image = result.image if image is None else image
        result.encoded = program.encode(image)
        results.append(result)
    return results


def _compare(results: list[Results], tolerance: float) -> bool:
    """Prints the difference of every result to the first; whether all are small enough and finite."""
    first, agree = results[0], True
    if len(results) == 1:
        agree = all(np.isfinite(value).all() for value in (first.logits, first.image))
        print(
            f"{first.name}: {'finite numbers' if agree else 'NOT FINITE'}; nothing to compare with: say where the "
            "weights are, or give --command"
        )
    for other in results[1:]:
        logits, image = _difference(first.logits, other.logits), _difference(first.image, other.image)
        line = f"{other.name} against {first.name}: max abs error logits {logits:.2e}, image {image:.2e}"
        # Not `>`: a NaN must fail.
        agree &= logits <= tolerance and image <= tolerance
        if first.encoded is not None and other.encoded is not None:
            tokens = float((first.encoded != other.encoded).mean())
            line += f"; encoder differs in {tokens:.2%} of tokens"
            agree &= tokens <= TOKEN_TOLERANCE
        print(line)
    return agree


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.float64) - b).max()) if a.shape == b.shape else float("inf")


def _write(path: Path, values: np.ndarray) -> None:
    values.astype("<i8" if values.dtype.kind == "i" else "<f4").tofile(path)


def _write_reference(folder: Path, batch: Batch, result: Results) -> None:
    folder.mkdir(exist_ok=True)
    files = {
        "tokens.i64": batch.tokens,
        "labels.i64": batch.labels,
        "codes.i64": batch.codes,
        "logits.f32": result.logits,
        "image.f32": result.image,
    }
    if result.encoded is not None:
        files["encoded.i64"] = result.encoded
    for name, values in files.items():
        _write(folder / name, values)


def _read_reference(folder: Path, metadata: Metadata, encoder: bool) -> tuple[Batch, Results]:
    def read(name: str, *shape: int) -> np.ndarray:
        dtype = np.dtype("<i8" if name.endswith("i64") else "<f4")
        try:
            values = np.fromfile(folder / name, dtype)
        except OSError as error:
            raise BundleError(f"{folder / name}: {error}; write it again with --write-reference") from error
        if values.size != np.prod(shape):
            raise BundleError(
                f"{folder / name}: {values.size} numbers; expected {' x '.join(map(str, shape))}: write it again with "
                "--write-reference"
            )
        return values.reshape(shape)

    n = metadata.tokens
    batch = Batch(read("tokens.i64", ROWS, n), read("labels.i64", ROWS), read("codes.i64", ROWS, n))
    stored = Results(
        "the reference",
        read("logits.f32", ROWS, n, metadata.codes),
        read("image.f32", ROWS, 3, metadata.image_height, metadata.image_width),
    )
    if encoder:
        stored.encoded = read("encoded.i64", ROWS, n)
    return batch, stored
