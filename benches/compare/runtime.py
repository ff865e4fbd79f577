"""Times a bundle in ONNX Runtime, with the sampling loop in NumPy, and prints the same figures as ``maskgit bench
--json``.

    python runtime.py BUNDLE --threads N --runs R [--transformer FILE] [--decoder FILE]

--transformer and --decoder replace the bundle's graphs, by those that ONNX Runtime's own tools quantised.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

from maskgit_export.bundle import read_manifest
from maskgit_export.sampling import sample


def peak_memory() -> int:
    """The largest resident set of this program.

    ``getrusage`` would count what its parent had when it started this one.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--no-pictures", action="store_true", help="draw none; the figure `image` is 0")
    parser.add_argument("--transformer", type=Path)
    parser.add_argument("--decoder", type=Path)
    args = parser.parse_args()
    metadata, graphs = read_manifest(args.bundle)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    options.inter_op_num_threads = 1

    def session(graph: str, other: Path | None) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(
            str(other or args.bundle / graphs[graph]["file"]), options, providers=["CPUExecutionProvider"]
        )

    start = time.perf_counter()
    transformer, decoder = session("transformer", args.transformer), session("decoder", args.decoder)
    load = time.perf_counter() - start

    def logits(tokens: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return transformer.run(["logits"], {"tokens": tokens, "label": labels})[0]

    def decode(tokens: np.ndarray) -> np.ndarray:
        return decoder.run(["image"], {"tokens": tokens})[0]

    masked, label = np.full((1, metadata.tokens), metadata.mask_id, np.int64), np.zeros(1, np.int64)
    codes = np.zeros((1, metadata.tokens), np.int64)

    def median(work) -> float:
        work()
        times = []
        for _ in range(args.runs):
            begin = time.perf_counter()
            work()
            times.append(time.perf_counter() - begin)
        return statistics.median(times)

    def picture() -> None:
        decode(sample(logits, metadata, label, 0, args.steps)[0])

    print(
        json.dumps(
            {
                "load": load,
                "step": median(lambda: logits(masked, label)),
                "decode": median(lambda: decode(codes)),
                "image": 0.0 if args.no_pictures else median(picture),
                "peak_memory_bytes": peak_memory(),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
