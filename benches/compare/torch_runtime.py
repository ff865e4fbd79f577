"""Times a published shape with random weights in PyTorch, compiled, and prints the same figures as ``maskgit bench
--json``.

    python torch_runtime.py SHAPE --device cuda --precision fp16 [--count 8] [--runs R] [--steps S]

The sampling loop is that of ``maskgit_export.sampling``; its logits come from the device. ``first`` is the
time from the start of this program to the first picture, compilation included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time

START = time.perf_counter()

import numpy as np  # noqa: E402  the time to import these counts
import torch  # noqa: E402

from maskgit_export.sampling import sample  # noqa: E402
from maskgit_export.synth import SHAPES, make  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES, metavar="SHAPE")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", choices=["fp32", "fp16"], default="fp16")
    parser.add_argument("--mode", default="max-autotune", help="of torch.compile")
    parser.add_argument("--count", type=int, default=1, help="pictures drawn together")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=8)
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    dtype = torch.float16 if args.precision == "fp16" else torch.float32
    model = make(args.shape, 0).eval().to(args.device, dtype, memory_format=torch.channels_last)
    metadata = model.metadata
    step, decoder = (torch.compile(work, mode=args.mode) for work in (model.logits, model.decode))
    load = time.perf_counter() - START

    def on_device(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(args.device)

    @torch.inference_mode()
    def logits(tokens: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return step(on_device(tokens), on_device(labels)).float().cpu().numpy()

    @torch.inference_mode()
    def decode(tokens: np.ndarray) -> np.ndarray:
        return decoder(on_device(tokens)).float().cpu().numpy()

    def picture() -> None:
        decode(sample(logits, metadata, np.zeros(args.count, np.int64), 0, args.steps)[0])

    def median(work) -> float:
        work()
        times = []
        for _ in range(args.runs):
            begin = time.perf_counter()
            work()
            times.append(time.perf_counter() - begin)
        return statistics.median(times)

    picture()
    first = time.perf_counter() - START
    masked, label = np.full((args.count, metadata.tokens), metadata.mask_id, np.int64), np.zeros(args.count, np.int64)
    codes = np.zeros((args.count, metadata.tokens), np.int64)
    memory = torch.cuda.max_memory_reserved() if args.device.startswith("cuda") else 0
    print(
        json.dumps(
            {
                "load": load,
                "first": first,
                "step": median(lambda: logits(masked, label)),
                "decode": median(lambda: decode(codes)),
                "image": median(picture),
                "device_memory_bytes": memory,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
