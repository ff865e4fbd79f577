"""Measures bundles on a GPU beside the CPU and beside PyTorch, and writes a table.

    python benches/compare/cuda.py --command maskgit -o RESULTS-cuda.md [--torch SHAPE] BUNDLE...

Ours by ``maskgit bench`` and ``maskgit generate``. With --torch, the shape's model in PyTorch, compiled, in fp32 and
fp16 (``torch_runtime.py``), whose ratios follow for the bundles of that shape. Fails, and writes nothing, where there
is no usable GPU.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from maskgit_export.card import wrapped

#: Pictures that are drawn together.
BATCHES = [1, 8]


def ask(command: str, *arguments: str) -> dict:
    """What the command prints as JSON."""
    return json.loads(subprocess.run([command, *arguments, "--json"], check=True, stdout=subprocess.PIPE).stdout)


def first_picture(command: str, bundle: str, device: str, steps: str) -> float:
    """Seconds from the start of the program to its end, with one picture drawn."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        ask(
            command,
            "generate",
            "--model",
            bundle,
            "--device",
            device,
            "--class",
            "0",
            "--steps",
            steps,
            "-o",
            str(Path(folder) / "first.png"),
        )
        return time.perf_counter() - start


def row(bundle: str, device: str, count: int, report: dict, keys: tuple[str, ...]) -> str:
    return f"| {bundle} | {device} | {count} | {' | '.join(f'{1000 * report[key]:.2f}' for key in keys)} |"


def measure(args: argparse.Namespace) -> tuple[list[str], dict[tuple[str, str, int], dict]]:
    """The table's rows of every bundle, and its figures by bundle, device and number of pictures."""
    lines: list[str] = []
    ours: dict[tuple[str, str, int], dict] = {}
    common = ["--runs", args.runs, "--steps", args.steps]
    for bundle in args.bundles:
        for device, batches in (("cuda", BATCHES), ("cpu", [1])):
            for count in batches:
                runs = common if device == "cuda" else ["--runs", "3", "--steps", args.steps]
                report = ask(args.command, "bench", "--model", bundle, "--device", device, "--count", str(count), *runs)
                found = {**report, "first": first_picture(args.command, bundle, device, args.steps)}
                ours[bundle, device, count] = found
                keys = ("load", "step", "decode", "image", "first")
                lines.append(row(Path(bundle).name, report["engine"], count, found, keys))
    return lines, ours


def beside_torch(args: argparse.Namespace, ours: dict[tuple[str, str, int], dict]) -> list[str]:
    """A second table, of PyTorch and our figures over its own."""
    lines = [
        "",
        f"PyTorch, {args.torch}, `torch.compile`. Its step and decoding are of the whole batch; ours of one picture. "
        "Ratios: ours over PyTorch's.",
        "",
        "| bundle | pictures | step | decode | pictures | first picture | PyTorch: step | decode | pictures | "
        "first picture |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    program = [sys.executable, str(Path(__file__).with_name("torch_runtime.py")), args.torch]
    keys = ("step", "decode", "image", "first")
    for bundle in args.bundles:
        manifest = json.loads((Path(bundle) / "bundle.json").read_text())
        if not manifest["name"].startswith(args.torch):
            continue
        precision = "fp32" if manifest["precision"] == "fp32" else "fp16"
        for count in BATCHES:
            call = [*program, "--precision", precision, "--count", str(count), "--runs", args.runs]
            done = subprocess.run([*call, "--steps", args.steps], check=True, stdout=subprocess.PIPE)
            theirs, mine = json.loads(done.stdout), ours[bundle, "cuda", count]
            ratios = " | ".join(
                "" if count > 1 and key in ("step", "decode") else f"{mine[key] / theirs[key]:.2f}" for key in keys
            )
            times = " | ".join(f"{1000 * theirs[key]:.2f}" for key in keys)
            lines.append(f"| {Path(bundle).name} | {count} | {ratios} | {times} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", required=True, help="the built maskgit command, with the feature cuda")
    parser.add_argument("--steps", default="8", help="steps of a picture")
    parser.add_argument("--runs", default="20", help="runs of each time, of which the median is taken")
    parser.add_argument("-o", "--output", required=True, type=Path)
    parser.add_argument("--torch", metavar="SHAPE", help="measure this shape of `synth` in PyTorch too")
    parser.add_argument("bundles", nargs="+")
    args = parser.parse_args()
    devices = ask(args.command, "info", "--devices")["devices"]
    usable = [device for device in devices if device["device"] != "cpu" and device["problem"] is None]
    if not usable:
        print(f"no usable GPU: {devices[-1]['problem']}", file=sys.stderr)
        return 1
    lines = [
        "# On a GPU",
        "",
        f"`make bench-cuda` wrote this: {usable[0]['description']}; {platform.machine()}, {devices[0]['description']}.",
        (
            f"Medians of {args.runs} runs in milliseconds: opening, one run of the transformer, one of the decoder, "
            f"pictures of {args.steps} steps drawn together; and once, from the start of the program to the first "
            "picture on disk."
        ),
        "",
        "| bundle | device | pictures | open | step | decode | pictures | first picture |",
        "|---|---|---|---|---|---|---|---|",
    ]
    table, ours = measure(args)
    lines += table
    if args.torch:
        lines += beside_torch(args, ours)
    args.output.write_text(wrapped("\n".join(lines)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
