"""Writes an fp16 bundle from an fp32 one: half the file.

Weights of products, embeddings and tables become fp16 behind a ``Cast`` to fp32, so that every runtime opens the
graphs. Our engine computes with the widened weights. A weight that fp16 cannot hold (above 65504) stays fp32 and is
named.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from .bundle import BundleError
from .precision import Comparison, Writer, add_measuring_arguments, open_fp32, real_inputs, show

#: Tensors of fewer numbers stay as they are: they weigh nothing, and norms and biases are among them.
MIN_NUMBERS = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of ``maskgit-export half``."""
    parser.add_argument("bundle", type=Path, help="folder of the fp32 bundle")
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder to write; it must not exist")
    parser.add_argument("--name", help="name in the manifest (default: the bundle's, with -fp16)")
    add_measuring_arguments(parser)


def half_graph(model) -> list[str]:
    """Makes the large float initializers of an ONNX model fp16, in place; returns the names of those that stay fp32."""
    from onnx import TensorProto, helper, numpy_helper

    kept, casts = [], []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims, dtype=np.int64) < MIN_NUMBERS:
            continue
        values = numpy_helper.to_array(tensor)
        if np.abs(values).max() > np.finfo(np.float16).max:
            kept.append(tensor.name)
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.fp16"))
        casts.append(helper.make_node("Cast", [f"{name}.fp16"], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return kept


def run(args: argparse.Namespace) -> int:
    """Converts, measures, and writes the bundle with ``half.json``."""
    import onnx

    try:
        metadata, graphs = open_fp32(args.bundle, args.output)
        inputs = real_inputs(args.bundle, metadata, graphs, steps=args.steps, pictures=args.pictures)
        with Writer(args.bundle, args.output, metadata, "fp16", args.name or f"{metadata.name}-fp16") as writer:
            kept = {}
            for graph, entry in graphs.items():
                model = onnx.load(args.bundle / entry["file"])
                kept[graph] = half_graph(model)
                onnx.save(model, writer.folder / f"{graph}.onnx")
            writer.manifest()
            report = {**Comparison(args.bundle, inputs, args.command).measure(writer.folder), "kept_fp32": kept}
            (writer.folder / "half.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except BundleError as error:
        print(f"maskgit-export half: {error}", file=sys.stderr)
        return 1
    show(report, sum(file.stat().st_size for file in args.output.glob("*.onnx")), args.output)
    return 0
