"""Converts checkpoints of random weights in published layouts, at full size, and measures the bundles in each
precision.

    python benches/published.py --command MASKGIT --work FOLDER [--times] [-o RESULTS.md] [--page PAGE.md] SHAPE:FORMAT
    ...

SHAPE:FORMAT as ``synth --shape SHAPE --checkpoint FORMAT`` takes them. Needs ``maskgit_export`` and its tests'
packages. For each shape, in FOLDER/SHAPE: checkpoints, ``convert``, ``verify`` with PyTorch, with --numpy the
comparison with NumPy (export/tests/test_full_size.py), ``half``, ``quantize``, and ``generate`` and ``edit`` of one
step in each precision; then the checkpoints are deleted, the bundles stay. Peaks are largest resident sets. With
--times, loading, a step and a decoding in fp32 and int8 beside ONNX Runtime as benches/compare/compare.py times them,
on all cores: do that where nothing else runs. What was measured is kept in FOLDER/SHAPE.json and not measured again;
every file that is there goes into the table. Minutes to half an hour for each shape, and up to 12 GB of memory for the
largest.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benches/compare"))

import compare  # noqa: E402

from maskgit_export.card import put_section, wrapped  # noqa: E402

PRECISIONS = ("fp32", "fp16", "int8")
#: Logits of random weights are nearly flat: their cosine would keep layers in fp32 that a trained model has in int8.
RANDOM = {"fp16": [], "int8": ["--min-cosine", "0", "--min-psnr", "0"]}
#: More steps do not change the peak.
DRAW = ["--steps", "1", "--json"]


class Failed(Exception):
    """A command that did not succeed, with what it said."""


def call(command: list[str], **environment: str) -> tuple[str, float]:
    """Runs a command; returns what it printed, and its largest resident set in bytes. Raises :class:`Failed`."""
    begin = time.perf_counter()
    # A pipe for each would need two readers.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment}
    )
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    shown = " ".join(command)
    print(
        f"$ {shown}\n{text.rstrip()}\n  {time.perf_counter() - begin:.0f} s, {usage.ru_maxrss * 1024 / 1e9:.2f} GB, "
        f"status {process.returncode}",
        file=sys.stderr,
        flush=True,
    )
    if process.returncode:
        raise Failed(f"{shown}: status {process.returncode}: {text.strip()[-300:]}")
    return text, usage.ru_maxrss * 1024


def export(*arguments: str | Path) -> tuple[str, float]:
    return call([sys.executable, "-m", "maskgit_export", *map(str, arguments)])


def model_of(shape: str) -> str:
    return "google-maskgit" if shape.startswith("maskgit") else "halton-maskgit"


def convert(shape: str, folder: Path, numpy: bool, format: str, command: str) -> dict:
    """Checkpoints to a bundle, and its errors against PyTorch and, where asked for, NumPy."""
    files = folder / "files"
    if not files.exists():
        export("synth", "--shape", shape, "--checkpoint", format, "--seed", "7", "-o", files)
    paths = sorted(files.iterdir())
    _, peak = export(
        "convert", model_of(shape), "--transformer", paths[0], "--tokenizer", paths[1], "-o", folder / "fp32"
    )
    found = {"format": format, "convert_peak": peak}
    text, found["verify_peak"] = export(
        "verify", folder / "fp32", f"--{model_of(shape)}", *paths, "--command", command, "--rows", "2"
    )
    found["torch"] = errors(text, "maskgit against PyTorch")
    if numpy:
        text, _ = call(
            [sys.executable, "-m", "pytest", "-q", "-s", str(ROOT / "export/tests/test_full_size.py")],
            MASKGIT_FULL_SIZE=f"{shape}:{format}",
            MASKGIT_FULL_SIZE_FOLDER=str(folder),
            MASKGIT_BIN=command,
        )
        found["numpy"] = errors(text, "maskgit against NumPy")
    shutil.rmtree(files)
    return found


def errors(text: str, who: str) -> dict:
    """The figures that a program printed of two others."""
    match = re.search(rf"{who}: max abs error logits (\S+), image (\S+); encoder differs in (\S+)%", text)
    return dict(zip(("logits", "image", "encoder"), map(float, match.groups())))


def make(precision: str, folder: Path, command: str) -> dict:
    """The bundle of another precision, and its report."""
    if (folder / precision).exists():
        shutil.rmtree(folder / precision)
    tool, name = {"fp16": ("half", "half.json"), "int8": ("quantize", "quantization.json")}[precision]
    _, peak = export(
        tool,
        folder / "fp32",
        "--steps",
        "2",
        "--pictures",
        "2",
        "--command",
        command,
        *RANDOM[precision],
        "-o",
        folder / precision,
    )
    report = json.loads((folder / precision / name).read_text(encoding="utf-8"))
    layers = report.pop("layers", [])
    return {
        "made_peak": peak,
        "report": report,
        "layers": len(layers),
        "kept": sum(layer["kept"] is not None for layer in layers),
    }


def draw(bundle: Path, command: str) -> dict:
    """Sizes of the graphs, and peaks of ``generate`` and ``edit``."""
    sizes = {graph: (bundle / f"{graph}.onnx").stat().st_size for graph in ("transformer", "decoder", "encoder")}
    picture, peaks = bundle.parent / "picture.png", {}
    shown = ["--class", "golden retriever", "-o", str(picture)]
    # A box, and a class by its synset.
    repaint = [
        "--image",
        str(picture),
        "--box",
        "64,64,128,128",
        "--class",
        "n02099601",
        "-o",
        str(bundle.parent / "edited.png"),
    ]
    for name, arguments in (
        ("generate", ["generate", *shown]),
        ("edit", ["edit", *repaint]),
        ("generate --low-memory", ["generate", "--low-memory", *shown]),
    ):
        _, peaks[name] = call([command, *arguments, "--model", str(bundle), *DRAW])
    return {"sizes": sizes, "peaks": peaks}


def beside_onnx_runtime(shape: str, folder: Path, command: str) -> dict:
    """Times of the fp32 and int8 bundles, and of ONNX Runtime."""
    # What ONNX Runtime quantised is kept there, for when this is interrupted.
    scratch = folder.parent / "onnxruntime"
    scratch.mkdir(exist_ok=True)
    paths = {precision: folder / precision for precision in ("fp32", "int8")}
    return {
        "machine": compare.describe(),
        **compare.measure(
            shape, paths, command, scratch, threads=[os.cpu_count() or 1], turns=2, runs=1, pictures=False
        ),
    }


def measure(case: str, work: Path, command: str, precisions: list[str], numpy: bool, times: bool) -> None:
    """Everything about one shape, into its JSON file, after each part."""
    shape, format = case.split(":")
    folder, file = work / shape, work / f"{shape}.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"shape": shape}
    parts = [
        ("fp32 convert", lambda: convert(shape, folder, numpy, format, command)),
        ("fp32", lambda: draw(folder / "fp32", command)),
    ]
    for precision in precisions:
        parts += [
            (f"{precision} made", lambda p=precision: make(p, folder, command)),
            (precision, lambda p=precision: draw(folder / p, command)),
        ]
    if times:
        parts.append(("times", lambda: beside_onnx_runtime(shape, folder, command)))
    for name, part in parts:
        if name in found:
            continue
        found[name] = part()
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        partial.replace(file)


def tables(work: Path) -> str:
    """The documents' tables, of all that was measured."""
    rows = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(work.glob("*.json"))]
    head = [
        "# Published shapes at full size, random weights",
        "",
        "Written by `benches/published.py`, whose head says what is measured, and how.",
    ]
    parts = (head, conversion(rows), sizes(rows), precision_table(rows), times(rows))
    return wrapped("\n\n".join("\n".join(part) for part in parts if part)) + "\n"


def conversion(rows: list[dict]) -> list[str]:
    """What converting takes, and how far the result is from the reference."""
    lines = [
        "## Conversion",
        "",
        (
            "Errors of our engine are largest absolute differences: against PyTorch on two rows of tokens, one of them "
            "all masked and one half; against NumPy on one; of the encoder, the part of tokens that differ."
        ),
        "",
        (
            "| shape | from | convert, peak | logits, PyTorch | image, PyTorch | encoder, PyTorch | logits, NumPy | "
            "image, NumPy | encoder, NumPy |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if (c := row.get("fp32 convert")) is not None:
            cells = " | ".join(
                f"{c[of]['logits']:.1e} | {c[of]['image']:.1e} | {c[of]['encoder']:.2f} %" if of in c else "- | - | -"
                for of in ("torch", "numpy")
            )
            lines.append(f"| {row['shape']} | {c['format']} | {c['convert_peak'] / 1e9:.1f} GB | {cells} |")
    return lines


def sizes(rows: list[dict]) -> list[str]:
    """Sizes of the graphs, and peaks of memory."""
    lines = [
        "## Sizes and peaks",
        "",
        "MB of transformer + decoder + encoder; peaks in GB, in parentheses that with `--low-memory`.",
        "",
        "| shape | precision | graphs | generate | edit |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        for precision in PRECISIONS:
            if (d := row.get(precision)) is not None:
                sizes = " + ".join(f"{size / 1e6:.0f}" for size in d["sizes"].values())
                generate, edit, low = (
                    d["peaks"][action] / 1e9 for action in ("generate", "edit", "generate --low-memory")
                )
                lines.append(f"| {row['shape']} | {precision} | {sizes} | {generate:.2f} ({low:.2f}) | {edit:.2f} |")
    return lines


def precision_table(rows: list[dict]) -> list[str]:
    """What `half` and `quantize` lose."""
    lines = [
        "## Precision",
        "",
        "Of `half` and `quantize`, by our engine against fp32 in ONNX Runtime, on two pictures of random weights.",
        "",
        (
            "| shape | precision | peak of the command | cosine of logits | image, PSNR | encoder's tokens that stay | "
            "layers in fp32 |"
        ),
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for precision in PRECISIONS[1:]:
            if (m := row.get(f"{precision} made")) is not None:
                r = m["report"]
                kept = f"{m['kept']} of {m['layers']}" if m["layers"] else "-"
                lines.append(
                    f"| {row['shape']} | {precision} | {m['made_peak'] / 1e9:.1f} GB | {r['logits_cosine']:.6f} | "
                    f"{r['image_psnr']:.1f} dB | {r['encoder_same_tokens']:.1%} | {kept} |"
                )
    return lines


def times(rows: list[dict]) -> list[str]:
    """Times beside ONNX Runtime; nothing where none are measured yet."""
    timed = [row for row in rows if "times" in row]
    if not timed:
        return []
    lines = [
        "## Times beside ONNX Runtime",
        "",
        f"{'; '.join(sorted({row['times']['machine'] for row in timed}))}. Means of two turns, all cores.",
        (
            "A ratio below 1 is less time or memory than ONNX Runtime takes: fp32 beside its fp32, int8 beside the "
            "faster of its fp32 and its own int8, graph by graph. A step is one run of the transformer; a picture "
            "takes one a step, two with guidance, and one decoding."
        ),
        "",
        "| shape | precision | load | step | decode | ratio: step | decode | load | peak memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in timed:
        for m in row["times"]["medians"]:
            if m["program"].startswith("maskgit"):
                precision = m["program"].split()[1]
                ratio = compare.ratios(row["times"], precision, m["threads"])
                lines.append(
                    f"| {row['shape']} | {precision} | {m['load']:.2f} s | {m['step']:.2f} s | {m['decode']:.2f} s | "
                    f"{ratio['step']:.2f} | {ratio['decode']:.2f} | {ratio['load']:.2f} | "
                    f"{ratio['peak_memory_bytes']:.2f} |"
                )
    return lines


def summary(work: Path) -> str:
    """What a reader of the models' page wants: one line for each bundle."""
    lines = [
        "| bundle | precision | size | peak memory: generate | edit | beside ONNX Runtime: step | decode | memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for file in sorted(work.glob("*.json")):
        row = json.loads(file.read_text(encoding="utf-8"))
        for precision in PRECISIONS:
            if (d := row.get(precision)) is None:
                continue
            ratio = "- | - | -"
            if "times" in row and precision != "fp16":
                found = compare.ratios(row["times"], precision, row["times"]["medians"][0]["threads"])
                ratio = f"{found['step']:.2f} | {found['decode']:.2f} | {found['peak_memory_bytes']:.2f}"
            lines.append(
                f"| {row['shape']} | {precision} | {sum(d['sizes'].values()) / 1e6:.0f} MB | "
                f"{d['peaks']['generate'] / 1e9:.2f} GB | {d['peaks']['edit'] / 1e9:.2f} GB | {ratio} |"
            )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", required=True, help="the maskgit program")
    parser.add_argument("--work", required=True, type=Path, help="folder of checkpoints, bundles and figures")
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS, help="fp32 is always measured"
    )
    parser.add_argument(
        "--numpy", action="store_true", help="compare with NumPy too, which takes as long as all the rest"
    )
    parser.add_argument(
        "--times", action="store_true", help="time fp32 and int8 beside ONNX Runtime too; needs a quiet machine"
    )
    parser.add_argument(
        "--page", type=Path, help="page whose part between <!-- measured --> and <!-- /measured --> is written anew"
    )
    parser.add_argument("-o", "--output", type=Path, help="write the tables here (default: print them)")
    parser.add_argument("cases", nargs="*", metavar="SHAPE:FORMAT")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    failed = 0
    for case in args.cases:
        try:
            measure(
                case,
                args.work.resolve(),
                args.command,
                [precision for precision in args.precisions if precision != "fp32"],
                args.numpy,
                args.times,
            )
        except Failed as error:
            print(f"{case}: {error}", file=sys.stderr)
            failed = 1
    if args.page:
        put_section(args.page, "measured", summary(args.work))
    text = tables(args.work)
    if args.output:
        args.output.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    return failed


if __name__ == "__main__":
    sys.exit(main())
