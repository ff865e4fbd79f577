"""Times bundles in our command and in ONNX Runtime, turn by turn, and writes a table of ratios.

    python compare.py --command MASKGIT --bundle NAME=FP32[,FP16],INT8 ... -o RESULTS.md

Every turn starts each program anew, one after the other, so that all see the same machine; a figure is the median over
the turns. ONNX Runtime's int8 is its own: ``quantize_dynamic`` of the transformer, ``quantize_static`` (QDQ, calibrated
on tokens that the model drew) of the decoder. The sampling loop around it is NumPy, and draws the tokens that ours
does; guidance goes through it as one batch of two.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from maskgit_export.bundle import read_manifest
from maskgit_export.card import wrapped
from maskgit_export.files import write_text
from maskgit_export.precision import real_inputs

HERE = Path(__file__).resolve().parent
FIGURES = ("load", "step", "decode", "image", "peak_memory_bytes")


def run(command: list[str], threads: int) -> dict:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


class Calibration:
    """Tokens for ``quantize_static``."""

    def __init__(self, codes: np.ndarray):
        self._rows = iter([{"tokens": codes[i : i + 1]} for i in range(len(codes))])

    def get_next(self):
        return next(self._rows, None)


def quantize(bundle: Path, folder: Path, steps: int) -> dict[str, Path]:
    """ONNX Runtime's own int8 graphs, in ``folder``; those that are there already are not made again."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    metadata, graphs = read_manifest(bundle)
    CalibrationDataReader.register(Calibration)
    found = {graph: folder / f"{graph}-{graphs[graph]['sha256']}.onnx" for graph in ("transformer", "decoder")}
    if not found["transformer"].exists():
        quantize_dynamic(
            bundle / graphs["transformer"]["file"], found["transformer"], per_channel=True, weight_type=QuantType.QInt8
        )
    if found["decoder"].exists():
        return found
    codes = real_inputs(bundle, metadata, graphs, steps=steps, pictures=2).codes
    prepared = folder / "prepared.onnx"
    quant_pre_process(str(bundle / graphs["decoder"]["file"]), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(found["decoder"]),
        Calibration(codes),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
    )
    return found


def multiply_adds(bundle: Path, graph: str) -> int:
    """Multiply-adds of one run of a graph with batch 1: its products with weights, and its products of activations."""
    _, graphs = read_manifest(bundle)
    model = onnx.load(bundle / graphs[graph]["file"])
    for value in model.graph.input:
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].ClearField("dim_param")
            value.type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[0].ClearField("dim_param")
        output.type.tensor_type.shape.dim[0].dim_value = 1
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in [*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input]
    }
    shapes.update({t.name: list(t.dims) for t in inferred.graph.initializer})
    total = 0
    for node in inferred.graph.node:
        if node.op_type in ("MatMul", "Gemm", "Conv"):
            out, weight = shapes.get(node.output[0], []), shapes.get(node.input[1], [])
            inner = int(np.prod(weight[1:])) if node.op_type == "Conv" else (shapes.get(node.input[0]) or [0])[-1]
            total += int(np.prod(out)) * inner
    return total


def describe() -> str:
    model, features = platform.processor() or platform.machine(), ""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
        flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
        features = ", ".join(flag for flag in ("avx2", "fma", "avx512f", "avx512_vnni", "amx_int8") if flag in flags)
    except OSError:
        pass
    return (
        f"{model}, {os.cpu_count()} cores ({features}); ONNX Runtime {onnxruntime.__version__}, Python "
        f"{platform.python_version()}"
    )


def measure(
    name: str,
    paths: dict[str, Path],
    command: str,
    folder: Path,
    *,
    threads: list[int],
    turns: int,
    runs: int,
    steps: int | None = None,
    calibration_steps: int = 2,
    pictures: bool = True,
) -> dict:
    """Times one model's bundles, by precision, and ONNX Runtime: medians by program and threads, and what they are
    measured against.

    Without ``pictures`` only loading, a step and a decoding are timed, for models that take minutes to draw.
    """
    print(f"{name}: ONNX Runtime's int8", file=sys.stderr, flush=True)
    int8 = quantize(paths["fp32"], folder, calibration_steps)
    # Without pictures, the least: our command draws some anyhow.
    drawn_steps = ["--steps", str(steps)] if steps else [] if pictures else ["--steps", "1", "--guidance", "0"]

    def ours(path: Path, threads: int) -> dict:
        common = ["--json", "--model", str(path), "--threads", str(threads), *drawn_steps]
        times = run([command, "bench", *common, "--runs", str(runs)], threads)
        if not pictures:
            return times
        # The memory of a program that draws one picture.
        drawn = run([command, "generate", *common, "--class", "0", "-o", str(folder / "picture.png")], threads)
        return {**times, "peak_memory_bytes": drawn["peak_memory_bytes"]}

    programs = {f"maskgit {p}": lambda threads, path=path: ours(path, threads) for p, path in paths.items()}
    reference = [
        sys.executable,
        str(HERE / "runtime.py"),
        str(paths["fp32"]),
        "--runs",
        str(runs),
        *(drawn_steps if pictures else ["--no-pictures"]),
    ]
    replaced = ["--transformer", str(int8["transformer"]), "--decoder", str(int8["decoder"])]
    programs["ONNX Runtime fp32"] = lambda threads: run([*reference, "--threads", str(threads)], threads)
    programs["ONNX Runtime int8"] = lambda threads: run([*reference, "--threads", str(threads), *replaced], threads)
    found: dict[tuple[str, int], list[dict]] = {}
    for turn in range(turns):
        for count in threads:
            for program, once in programs.items():
                print(f"{name}: turn {turn + 1} of {turns}, {count} threads, {program}", file=sys.stderr, flush=True)
                found.setdefault((program, count), []).append(once(count))
    peaks = next(rows[0] for (program, _), rows in found.items() if program.startswith("maskgit"))
    return {
        "medians": [
            {
                "program": program,
                "threads": count,
                **{figure: statistics.median(r[figure] for r in rows) for figure in FIGURES},
            }
            for (program, count), rows in found.items()
        ],
        "peaks": {"fp32": peaks["peak_fp32"], "int8": peaks["peak_int8"]},
        "multiply_adds": {graph: multiply_adds(paths["fp32"], graph) for graph in ("transformer", "decoder")},
    }


def ratios(found: dict, precision: str, threads: int) -> dict[str, float]:
    """Our figures over ONNX Runtime's: fp16 over its fp32, int8 over the best that it has."""
    median = {(m["program"], m["threads"]): m for m in found["medians"]}
    ours, other = (
        median[f"maskgit {precision}", threads],
        median[f"ONNX Runtime {'int8' if precision == 'int8' else 'fp32'}", threads],
    )
    if precision == "int8":
        # Graph by graph.
        best = median["ONNX Runtime fp32", threads]
        other = other | {figure: min(other[figure], best[figure]) for figure in ("step", "decode", "image")}
    return {figure: ours[figure] / other[figure] for figure in FIGURES if other[figure]}


def table(name: str, found: dict, precisions: list[str], args: argparse.Namespace) -> str:
    """One model's part of the document."""
    work = found["multiply_adds"]
    lines = [
        f"## {name}",
        "",
        (
            f"{work['transformer'] / 1e9:.2f} G multiply-adds a step, {work['decoder'] / 1e9:.2f} G a decoding. "
            f"{args.turns} turns of {args.runs} runs each."
        ),
        "",
        "| program | threads | load | step | decode | picture | pictures/s | peak memory | step / peak rate |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for m in found["medians"]:
        rate = found["peaks"]["int8" if "int8" in m["program"] else "fp32"] * m["threads"]
        whole = f"{m['image']:.3f} s | {1 / m['image']:.2f}"
        lines.append(
            f"| {m['program']} | {m['threads']} | {m['load']:.2f} s | {m['step'] * 1e3:.1f} ms | "
            f"{m['decode'] * 1e3:.1f} ms | {whole} | {m['peak_memory_bytes'] / 1e6:.0f} MB | "
            f"{work['transformer'] / m['step'] / rate:.0%} |"
        )
    lines += [
        "",
        "Ratios (below 1: less time or memory than ONNX Runtime in the same precision; fp16 against its fp32)",
        "",
        "| | threads | step | decode | picture | load | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for precision in precisions:
        for threads in args.threads:
            ratio = ratios(found, precision, threads)
            cells = " | ".join(
                f"{ratio[figure]:.2f}" for figure in ("step", "decode", "image", "load", "peak_memory_bytes")
            )
            lines.append(f"| {precision} | {threads} | {cells} |")
    if 1 in args.threads and 2 in args.threads:
        image = {(m["program"], m["threads"]): m["image"] for m in found["medians"]}
        gains = ", ".join(f"{p} {image[f'maskgit {p}', 1] / image[f'maskgit {p}', 2]:.2f}" for p in precisions)
        lines += [
            "",
            (
                f"Two threads over one, whole picture: {gains}; ONNX Runtime fp32 "
                f"{image['ONNX Runtime fp32', 1] / image['ONNX Runtime fp32', 2]:.2f}."
            ),
        ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", required=True, help="the maskgit program")
    parser.add_argument(
        "--bundle",
        action="append",
        required=True,
        metavar="NAME=FP32[,MORE]",
        help="a model's bundles, each of another precision, the fp32 one first; repeat for more models",
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--calibration-steps", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, default=HERE.parent / "RESULTS.md")
    args = parser.parse_args()
    models = []
    for item in args.bundle:
        name, _, folders = item.partition("=")
        paths = {
            json.loads((Path(folder) / "bundle.json").read_text(encoding="utf-8"))["precision"]: Path(folder)
            for folder in folders.split(",")
        }
        if "fp32" not in paths:
            raise SystemExit(f"--bundle {item}: one of the folders must be the fp32 bundle")
        models.append((name, paths))
    head = (
        f"# Our engine beside ONNX Runtime\n\n{describe()}.\n\nWritten by `make compare`; see "
        "`benches/compare/compare.py` for what is measured, and how. The machine is shared, so compare within a "
        "table only.\nThe last column is the rate of multiply-adds in a step over that of our kernel on data in "
        "the first cache, one core times threads.\nA picture is not its generator's first of the class, so that "
        "ours starts from the logits it has kept of the first step; ONNX Runtime's loop runs all steps.\n\n"
    )
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        for name, paths in models:
            found = measure(
                name,
                paths,
                args.command,
                Path(folder),
                threads=args.threads,
                turns=args.turns,
                runs=args.runs,
                steps=args.steps,
                calibration_steps=args.calibration_steps,
            )
            parts.append(table(name, found, list(paths), args))
            write_text(args.output, wrapped(head + "\n".join(parts)))
    print(args.output, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
