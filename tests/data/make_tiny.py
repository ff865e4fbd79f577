"""Writes tests/data/tiny, a class-conditional bundle of a few kilobytes, with the onnx package only.

    python tests/data/make_tiny.py [FOLDER]

Nothing is random, so every run writes the same graphs.

* 4x4 grid, 8 codes, mask id 8, three classes and the null label 3, pictures of 16x16.
* transformer: a position's logits depend on its token, on the mean of all tokens' embeddings, on the label and on the
  position: embed (Gather) + position, add the mean and the label's embedding, Tanh, MatMul to the codes.
* decoder: each token is a flat 4x4 patch of its code's colour.
* encoder: the mean of each patch, then the code whose colour is nearest. So encoder(decoder(tokens)) == tokens.
"""

import hashlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROWS = COLS = 4
N = ROWS * COLS
K = 8
MASK = K
LABELS = ["warm", "cool", "grey"]
NULL = len(LABELS)
D = 8
SIZE = 16
PATCH = SIZE // ROWS

# The corners of a cube inside the unit cube: far from each other, and exact in float32.
COLOURS = np.array([[0.125 + 0.75 * (k >> b & 1) for b in range(3)] for k in range(K)], np.float32)


def table(rows, cols, a, b, scale):
    """A fixed table of numbers that look random: fractions of sines, rounded so that every machine gets the same."""
    values = [[math.sin(a * (r + 1) + b * (c + 1) + 0.7 * r * c) * scale for c in range(cols)] for r in range(rows)]
    return np.round(np.array(values) * 4096).astype(np.float32) / np.float32(4096)


def model(name, nodes, inputs, outputs, weights):
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(n, t, s) for n, t, s in inputs],
        [helper.make_tensor_value_info(n, t, s) for n, t, s in outputs],
        [numpy_helper.from_array(v, n) for n, v in weights.items()],
    )
    m = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="maskgit tiny")
    m.ir_version = 8
    onnx.checker.check_model(m)
    return m


def transformer():
    node = helper.make_node
    return model(
        "transformer",
        [
            node("Gather", ["token_table", "tokens"], ["embedded"]),  # [B,N,D]
            node("ReduceMean", ["embedded"], ["mean"], axes=[1], keepdims=1),  # [B,1,D]
            node("Gather", ["label_table", "label"], ["class"]),  # [B,D]
            node("Unsqueeze", ["class", "axis1"], ["class_row"]),  # [B,1,D]
            node("Add", ["embedded", "positions"], ["placed"]),
            node("Add", ["placed", "mean"], ["mixed"]),
            node("Add", ["mixed", "class_row"], ["labelled"]),
            node("Tanh", ["labelled"], ["hidden"]),
            node("MatMul", ["hidden", "head"], ["scores"]),
            node("Add", ["scores", "bias"], ["logits"]),
        ],
        [("tokens", TensorProto.INT64, ["batch", N]), ("label", TensorProto.INT64, ["batch"])],
        [("logits", TensorProto.FLOAT, ["batch", N, K])],
        {
            "token_table": table(K + 1, D, 1.3, 2.1, 1.0),
            "label_table": table(len(LABELS) + 1, D, 2.9, 0.6, 3.0),
            "positions": table(N, D, 0.37, 1.7, 1.0),
            "head": table(D, K, 0.9, 3.3, 1.5),
            "bias": table(1, K, 1.0, 0.8, 0.5)[0],
            "axis1": np.array([1], np.int64),
        },
    )


def decoder():
    node = helper.make_node
    return model(
        "decoder",
        [
            node("Gather", ["colours", "tokens"], ["flat"]),  # [B,N,3]
            node("Transpose", ["flat"], ["channels"], perm=[0, 2, 1]),  # [B,3,N]
            node("Reshape", ["channels", "grid"], ["small"]),  # [B,3,rows,1,cols,1]
            node("Mul", ["small", "patch"], ["patches"]),  # [B,3,rows,P,cols,P]
            node("Reshape", ["patches", "size"], ["image"]),
        ],
        [("tokens", TensorProto.INT64, ["batch", N])],
        [("image", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        {
            "colours": COLOURS,
            "grid": np.array([-1, 3, ROWS, 1, COLS, 1], np.int64),
            "patch": np.ones([1, 1, 1, PATCH, 1, PATCH], np.float32),
            "size": np.array([-1, 3, SIZE, SIZE], np.int64),
        },
    )


def encoder():
    # |x - c|^2 = |x|^2 - 2 x.c + |c|^2, and |x|^2 is the same for every code.
    node = helper.make_node
    return model(
        "encoder",
        [
            node("AveragePool", ["image"], ["means"], kernel_shape=[PATCH, PATCH], strides=[PATCH, PATCH]),
            node("Reshape", ["means", "channels"], ["columns"]),  # [B,3,N]
            node("Transpose", ["columns"], ["pixels"], perm=[0, 2, 1]),  # [B,N,3]
            node("MatMul", ["pixels", "twice"], ["products"]),  # [B,N,K]
            node("Sub", ["products", "squares"], ["nearness"]),
            node("ArgMax", ["nearness"], ["tokens"], axis=2, keepdims=0),
        ],
        [("image", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [("tokens", TensorProto.INT64, ["batch", N])],
        {
            "channels": np.array([-1, 3, N], np.int64),
            "twice": np.ascontiguousarray(2 * COLOURS.T),
            "squares": (COLOURS**2).sum(1),
        },
    )


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    graphs = {}
    for name, graph in [("transformer", transformer()), ("decoder", decoder()), ("encoder", encoder())]:
        data = graph.SerializeToString(deterministic=True)
        (folder / f"{name}.onnx").write_bytes(data)
        graphs[name] = {"file": f"{name}.onnx", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest = {
        "format_version": 1,
        "name": "tiny",
        "licence": "CC0-1.0",
        "source": "tests/data/make_tiny.py",
        "image": {"height": SIZE, "width": SIZE},
        "grid": {"rows": ROWS, "cols": COLS},
        "codes": K,
        "mask_id": MASK,
        "labels": LABELS,
        "null_label": NULL,
        "precision": "fp32",
        "sampling": {
            "steps": 4,
            "schedule": "cosine",
            "sampler": "confidence",
            "choice_temperature": 4.5,
            "temperature": 1.0,
            "top_k": None,
            "guidance": 0.0,
            "guidance_ramp": False,
        },
        "graphs": graphs,
    }
    (folder / "bundle.json").write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "tiny")
