"""Measures bundles on a GPU beside the CPU, with ``maskgit bench``, and writes a table.

    python benches/compare/cuda.py --command maskgit -o RESULTS-cuda.md BUNDLE...

Fails, and writes nothing, where there is no usable GPU.
"""

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path


def ask(command: str, *arguments: str) -> dict:
    """What the command prints as JSON."""
    return json.loads(subprocess.run([command, *arguments, "--json"], check=True, stdout=subprocess.PIPE).stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", required=True, help="the built maskgit command, with the feature cuda")
    parser.add_argument("--steps", default="8", help="steps of a picture")
    parser.add_argument("--runs", default="20", help="runs of each time, of which the median is taken")
    parser.add_argument("-o", "--output", required=True, type=Path)
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
        f"Medians of {args.runs} runs in milliseconds: opening, one run of the transformer, one of the decoder, a picture of {args.steps} steps.",
        "",
        "| bundle | device | open | step | decode | picture |",
        "|---|---|---|---|---|---|",
    ]
    for bundle in args.bundles:
        for device, runs in (("cuda", args.runs), ("cpu", "3")):
            report = ask(args.command, "bench", "--model", bundle, "--device", device, "--runs", runs, "--steps", args.steps)
            times = " | ".join(f"{1000 * report[key]:.2f}" for key in ("load", "step", "decode", "image"))
            lines.append(f"| {Path(bundle).name} | {report['engine']} | {times} |")
    args.output.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
