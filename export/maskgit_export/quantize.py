"""Writes an int8 bundle from an fp32 one: a quarter of the file, and the integer kernels of the engine.

The weights of dense layers and convolutions become symmetric int8, one scale for each output channel, behind a standard
``DequantizeLinear``, so that every runtime opens the graphs. Our engine keeps them in int8 and quantises activations to
8 bits as it runs, each row (each picture, for a convolution) with its own range. Neighbouring weights of a product are
chosen so that their sum leaves room in 16 bits (``in_pairs``), for x86-64 processors without VNNI; --full-range does
without. Large embeddings become int8 too, one scale for each row, and a head that is tied to one shares its numbers.
Small embeddings, positions, norms and biases stay fp32.

Each layer is simulated so on real inputs, tokens with masks as they occur while the model draws; one whose relative
error is above --max-error stays fp32, as does the decoder's last, whose error is in the pixels as it is; and the worst
of the transformer's and of the decoder's do until logits (--min-cosine) and pictures (--min-psnr) are near enough. The
report, ``quantization.json``, has every layer's error, and the whole's.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from .bundle import BundleError
from .precision import Comparison, Inputs, Writer, add_measuring_arguments, open_fp32, real_inputs, show

#: Smaller weights stay fp32: they take no time.
MIN_NUMBERS = 1024
#: Smaller embeddings stay fp32: they take little room.
MIN_TABLE = 1_000_000
#: The largest sum of two neighbouring weights of the same sign.
MAX_PAIR = 128
#: Scales that ``in_pairs`` tries, over that which needs no clipping; at the last, every pair fits.
PAIR_SCALES = [*(0.1 * i for i in range(8, 20)), 127 / 64]
#: Numbers that ``in_pairs`` works on at a time.
PAIR_CHUNK = 1 << 22
#: At most this part of a graph's weights stays fp32 to bring the whole nearer.
MAX_KEPT = {"transformer": 0.1, "decoder": 0.25}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of ``maskgit-export quantize``."""
    parser.add_argument("bundle", type=Path, help="folder of the fp32 bundle")
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder to write; it must not exist")
    parser.add_argument("--name", help="name in the manifest (default: the bundle's, with -int8)")
    parser.add_argument("--max-error", type=float, default=0.05, help="largest relative error (L2) of a layer in int8")
    parser.add_argument(
        "--min-cosine",
        type=float,
        default=0.9999,
        help="cosine of the logits to reach; else the transformer's worst layers stay fp32, at most a tenth of its "
        "weights",
    )
    parser.add_argument(
        "--min-psnr",
        type=float,
        default=50.0,
        help="PSNR in dB of decoded pictures against fp32 to reach; else the decoder's worst layers stay fp32, at "
        "most a quarter of its weights",
    )
    parser.add_argument(
        "--min-agreement",
        type=float,
        default=0.99,
        help="part of the encoder's tokens that must stay; else the encoder stays fp32",
    )
    parser.add_argument(
        "--full-range",
        action="store_true",
        help="let neighbouring weights be as large as they like: a little nearer to fp32, and slower on x86-64 "
        "processors without VNNI",
    )
    add_measuring_arguments(parser)


@dataclass
class Layer:
    """A dense layer, convolution or embedding, and what becomes of it.

    ``axis`` is the weight's axis of output channels, or of an embedding's rows.
    """

    graph: str
    node: str
    op: str
    weight: str
    shape: list[int]
    axis: int
    error: float = 0.0
    kept: str | None = None


def _attribute(node, name: str, default):
    return next((list(a.ints) or a.i for a in node.attribute if a.name == name), default)


def _rows_transposed(model, name: str):
    """Whether a value is the transpose of rows of an initializer, as a head that is tied to an embedding has it.

    Returns the initializer's name, the first and the last row but one, and the node that reads it; or None. Every value
    on the way is read once.
    """
    from onnx import numpy_helper

    makers = {output: node for node in model.graph.node for output in node.output}
    tensors = {t.name: t for t in model.graph.initializer}
    node = makers.get(name)
    if node is None or node.op_type != "Transpose" or _attribute(node, "perm", [1, 0]) != [1, 0]:
        return None
    first, end, source = 0, None, node.input[0]
    if source in makers:
        cut = makers[source]
        if (
            cut.op_type != "Slice"
            or sum(source in n.input for n in model.graph.node) != 1
            or not all(i in tensors for i in cut.input[1:])
        ):
            return None
        starts, ends, axes, steps = (
            (numpy_helper.to_array(tensors[i]).ravel().tolist() for i in [*cut.input[1:3], *cut.input[3:5]])
            if len(cut.input) == 5
            else (None,) * 4
        )
        if starts is None or len(starts) != 1 or axes != [0] or steps != [1] or starts[0] < 0 or ends[0] < 0:
            return None
        first, end, node, source = starts[0], ends[0], cut, cut.input[0]
    if source not in tensors or len(tensors[source].dims) != 2 or sum(name in n.input for n in model.graph.node) != 1:
        return None
    rows = tensors[source].dims[0]
    return source, first, min(rows if end is None else end, rows), node


def find_layers(graph: str, model) -> list[Layer]:
    """The products of an ONNX graph whose second input is an fp32 initializer, or rows of one; and the large tables."""
    from onnx import TensorProto

    tensors = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    layers = []
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[0] in tensors and _attribute(node, "axis", 0) == 0:
            tensor = tensors[node.input[0]]
            if len(tensor.dims) == 2 and np.prod(tensor.dims, dtype=np.int64) >= MIN_TABLE:
                layers.append(Layer(graph, node.name, "Gather", tensor.name, list(tensor.dims), 0))
            continue
        if node.op_type not in ("MatMul", "Gemm", "Conv"):
            continue
        if node.input[1] not in tensors:
            tied = _rows_transposed(model, node.input[1]) if node.op_type == "MatMul" else None
            if tied is not None and tied[0] in tensors:
                width = tensors[tied[0]].dims[1]
                layers.append(Layer(graph, node.name, "MatMul", tied[0], [tied[2] - tied[1], width], 0))
            continue
        tensor = tensors[node.input[1]]
        if node.op_type != "Conv" and len(tensor.dims) != 2:
            continue
        transposed = node.op_type == "Gemm" and _attribute(node, "transB", 0)
        axis = 0 if node.op_type == "Conv" or transposed else 1
        layer = Layer(graph, node.name, node.op_type, tensor.name, list(tensor.dims), axis)
        if np.prod(tensor.dims, dtype=np.int64) < MIN_NUMBERS:
            layer.kept = f"fewer than {MIN_NUMBERS} weights"
        elif node.op_type == "Conv" and _attribute(node, "group", 1) != 1:
            layer.kept = "a grouped convolution"
        layers.append(layer)
    return layers


def fold_transposes(model) -> None:
    """Replaces ``Transpose`` of an initializer that only products read by the transposed initializer.

    A table keeps its own, because its numbers are shared.
    """
    from onnx import TensorProto, numpy_helper

    tensors = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) == 2}
    for node in [n for n in model.graph.node if n.op_type == "Transpose" and n.input[0] in tensors]:
        readers = [n for n in model.graph.node if node.output[0] in n.input]
        tied = any(n.op_type == "Gather" and node.input[0] in n.input for n in model.graph.node)
        if (
            readers
            and not tied
            and all(n.op_type in ("MatMul", "Gemm") and n.input[1] == node.output[0] for n in readers)
        ):
            values = numpy_helper.to_array(tensors[node.input[0]]).T
            model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), node.output[0]))
            model.graph.node.remove(node)


def quantize_weight(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8, -127 to 127, and one scale for each place along ``axis``."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    scales = (np.abs(values).max(others) / 127).astype(np.float32)
    scales[scales == 0] = 1
    shape = [1] * values.ndim
    shape[axis] = -1
    return np.clip(np.rint(values / scales.reshape(shape)), -127, 127).astype(np.int8), scales


def in_pairs(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """As ``quantize_weight``, but of each two neighbours along the inner axis, if their signs are the same, magnitudes
    add up to ``MAX_PAIR`` at most.

    AVX2 multiplies unsigned by signed bytes and adds two neighbouring products in 16 bits, saturating: 255 times 128
    fits. Each channel gets the scale, of ``PAIR_SCALES`` times the usual, that leaves the least squared error; of a
    pair that is too large both become smaller. The inner axis is the other one of a matrix, and that of a convolution's
    input channels.
    """
    inner = 0 if axis == 1 else 1
    ordered = np.moveaxis(values, (axis, inner), (0, 1)).astype(np.float32)
    channels = ordered.reshape(*ordered.shape[:2], -1)
    levels, scales = np.empty(channels.shape, np.int8), np.empty(len(channels), np.float32)
    together = max(1, PAIR_CHUNK // channels[0].size)
    for first in range(0, len(channels), together):
        part = channels[first : first + together]
        usual = np.abs(part).max((1, 2)) / np.float32(127)
        usual[usual == 0] = 1
        least = np.full(len(part), np.inf, np.float32)
        for multiple in PAIR_SCALES:
            scale = usual * np.float32(multiple)
            q = np.clip(np.rint(part / scale[:, None, None]), -127, 127)
            a, b = q[:, 0 : q.shape[1] // 2 * 2 : 2], q[:, 1::2]
            over = np.where(a * b > 0, np.maximum(np.abs(a) + np.abs(b) - MAX_PAIR, 0), 0)
            half = np.ceil(over / 2)
            a -= np.sign(a) * half
            b -= np.sign(b) * (over - half)
            error = np.square(q * scale[:, None, None] - part).sum((1, 2))
            better = error < least
            least[better] = error[better]
            levels[first : first + together][better] = q[better]
            scales[first : first + together][better] = scale[better]
    return np.ascontiguousarray(np.moveaxis(levels.reshape(ordered.shape), (0, 1), (axis, inner))), scales


class Levels:
    """The int8 numbers of a model's weights, each computed once."""

    def __init__(self, model, layers: list[Layer], full_range: bool):
        from onnx import numpy_helper

        self._read = numpy_helper.to_array
        self._tensors = {t.name: t for t in model.graph.initializer}
        # A table that no product shares is looked up only.
        self._pairs = set() if full_range else {layer.weight for layer in layers if layer.op != "Gather"}
        self._known: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}

    def fp32(self, layer: Layer) -> np.ndarray:
        """A layer's weight as the model has it."""
        return self._read(self._tensors[layer.weight])

    def int8(self, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
        """Its levels and scales."""
        key = (layer.weight, layer.axis)
        if key not in self._known:
            self._known[key] = (in_pairs if layer.weight in self._pairs else quantize_weight)(
                self.fp32(layer), layer.axis
            )
        return self._known[key]


def quantize_activations(values: np.ndarray, rows: bool) -> np.ndarray:
    """What is left of activations after the way to 8 bits and back: each row of the last axis with its own range, or
    each picture.
    """
    flat = values.reshape(-1, values.shape[-1]) if rows else values.reshape(len(values), -1)
    low, high = np.minimum(flat.min(1, keepdims=True), 0), np.maximum(flat.max(1, keepdims=True), 0)
    scale = np.maximum((high - low) / np.float32(255), np.finfo(np.float32).tiny)
    zero = np.rint(-low / scale)
    return ((np.clip(np.rint(flat / scale + zero), 0, 255) - zero) * scale).reshape(values.shape).astype(np.float32)


def _product(node, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    if node.op_type != "Conv":
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        return x @ (w.T if transposed else w)
    import torch
    import torch.nn.functional as F

    attributes = {a.name: list(a.ints) for a in node.attribute if a.ints}
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    padded = F.pad(torch.from_numpy(x), (left, right, top, bottom))
    return F.conv2d(
        padded,
        torch.from_numpy(np.array(w)),
        stride=attributes.get("strides", 1),
        dilation=attributes.get("dilations", 1),
    ).numpy()


def measure_layers(model, layers: list[Layer], feeds: list[dict], levels: Levels) -> None:
    """Fills in each layer's relative error, over the given inputs of the graph."""
    import onnx
    import onnxruntime

    wanted = {layer.node: layer for layer in layers if layer.kept is None}
    nodes = {node.name: node for node in model.graph.node if node.name in wanted}
    names = sorted({node.input[node.op_type == "Gather"] for node in nodes.values()})
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    # The graph's own inputs and outputs can be had already.
    outside = {value.name for value in [*probe.graph.output, *probe.graph.input]}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outside)
    fetched = [name for name in names if name not in {value.name for value in probe.graph.input}]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    sums = {name: [0.0, 0.0] for name in nodes}
    for feed in feeds:
        seen = {**feed, **dict(zip(fetched, session.run(fetched, feed)))}
        for name, node in nodes.items():
            layer = wanted[name]
            w = levels.fp32(layer)
            shape = [1] * w.ndim
            shape[layer.axis] = -1
            q, scales = levels.int8(layer)
            widened = q * scales.reshape(shape)
            if node.op_type == "Gather":
                rows = seen[node.input[1]].ravel()
                exact, found = w[rows], widened[rows]
            else:
                x = seen[node.input[0]]
                if node.input[1] != layer.weight:
                    _, first, end, _ = _rows_transposed(model, node.input[1])
                    w, widened = w[first:end].T, widened[first:end].T
                exact = _product(node, x, w)
                found = _product(node, quantize_activations(x, node.op_type != "Conv"), widened)
            sums[name][0] += float(((found - exact).astype(np.float64) ** 2).sum())
            sums[name][1] += float((exact.astype(np.float64) ** 2).sum())
    for name, (error, size) in sums.items():
        wanted[name].error = float(np.sqrt(error / max(size, 1e-30)))


def quantize_graph(model, layers: list[Layer], levels: Levels) -> None:
    """Puts int8 weights into a model, in place."""
    from onnx import helper, numpy_helper

    nodes = {node.name: node for node in model.graph.node}
    added: dict[tuple[str, int], str] = {}
    front = []
    for layer in layers:
        if layer.kept is not None:
            continue
        key = (layer.weight, layer.axis)
        if key not in added:
            values, scales = levels.int8(layer)
            base = f"{layer.weight}.int8" if layer.axis == 1 else f"{layer.weight}.int8.axis{layer.axis}"
            model.graph.initializer.extend(
                [numpy_helper.from_array(values, base), numpy_helper.from_array(scales, f"{base}.scale")]
            )
            added[key] = f"{base}.dequantized"
            front.append(
                helper.make_node(
                    "DequantizeLinear", [base, f"{base}.scale"], [added[key]], name=f"{base}.node", axis=layer.axis
                )
            )
        node = nodes[layer.node]
        if layer.op == "Gather":
            node.input[0] = added[key]
        elif node.input[1] == layer.weight:
            node.input[1] = added[key]
        else:
            _rows_transposed(model, node.input[1])[3].input[0] = added[key]
    used = {name for node in model.graph.node for name in node.input} | {name for node in front for name in node.input}
    kept = [t for t in model.graph.initializer if t.name in used]
    rest = list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend([*front, *rest])


def _feeds(graph: str, inputs: Inputs, images: np.ndarray) -> list[dict]:
    rows = range(len(inputs.codes))
    return {
        "transformer": [{"tokens": inputs.tokens[i : i + 1], "label": inputs.labels[i : i + 1]} for i in rows],
        "decoder": [{"tokens": inputs.codes[i : i + 1]} for i in rows],
        "encoder": [{"image": images[i : i + 1]} for i in rows],
    }[graph]


def _worst(graph: str, layers: list[Layer]) -> Layer | None:
    """What to keep in fp32 next: a graph's layer with the largest error.

    None when more than ``MAX_KEPT`` of the graph's weights would be fp32 with it.
    """
    mine = [layer for layer in layers if layer.graph == graph]
    size = {layer.node: int(np.prod(layer.shape)) for layer in mine}
    kept = sum(size[layer.node] for layer in mine if layer.kept is not None)
    room = MAX_KEPT[graph] * sum(size.values()) - kept
    fitting = [layer for layer in mine if layer.kept is None and size[layer.node] <= room]
    return max(fitting, key=lambda layer: layer.error, default=None)


def run(args: argparse.Namespace) -> int:
    """Quantises, measures, and writes the bundle with ``quantization.json``."""
    import onnx

    from .verify import OnnxRuntime

    try:
        metadata, graphs = open_fp32(args.bundle, args.output)
        inputs = real_inputs(args.bundle, metadata, graphs, steps=args.steps, pictures=args.pictures)
        decoder = OnnxRuntime(args.bundle, {"decoder": graphs["decoder"]})
        images = np.concatenate([decoder.decode(inputs.codes[i : i + 1]) for i in range(len(inputs.codes))])
        with Writer(args.bundle, args.output, metadata, "int8", args.name or f"{metadata.name}-int8") as writer:
            layers: list[Layer] = []
            levels: dict[str, Levels] = {}
            for graph, entry in graphs.items():
                print(f"{graph}: measuring its layers", file=sys.stderr, flush=True)
                model = onnx.load(args.bundle / entry["file"])
                fold_transposes(model)
                found = find_layers(graph, model)
                if graph == "decoder" and found:
                    found[-1].kept = found[-1].kept or "its error would be in the pixels as it is"
                levels[graph] = Levels(model, found, args.full_range)
                measure_layers(model, found, _feeds(graph, inputs, images), levels[graph])
                for layer in found:
                    if layer.kept is None and layer.error > args.max_error:
                        layer.kept = f"relative error {layer.error:.3f}, above {args.max_error}"
                quantize_graph(model, found, levels[graph])
                onnx.save(model, writer.folder / f"{graph}.onnx")
                layers += found
            writer.manifest()
            comparison = Comparison(args.bundle, inputs, args.command)
            report = comparison.measure(writer.folder)
            aims = (("transformer", "logits_cosine", args.min_cosine), ("decoder", "image_psnr", args.min_psnr))
            for graph, figure, aim in aims:
                while report[figure] < aim and (layer := _worst(graph, layers)) is not None:
                    layer.kept = f"{figure} was {report[figure]:.6g}, below {aim:g}"
                    print(
                        f"{graph}: {figure} {report[figure]:.6g}, {layer.node} stays fp32", file=sys.stderr, flush=True
                    )
                    model = onnx.load(args.bundle / graphs[graph]["file"])
                    fold_transposes(model)
                    quantize_graph(model, [layer for layer in layers if layer.graph == graph], levels[graph])
                    onnx.save(model, writer.folder / f"{graph}.onnx")
                    writer.manifest()
                    report = comparison.measure(writer.folder, graph)
            if report.get("encoder_same_tokens", 1.0) < args.min_agreement:
                reason = f"only {report['encoder_same_tokens']:.3f} of the tokens stay"
                for layer in layers:
                    if layer.graph == "encoder":
                        layer.kept = layer.kept or reason
                (writer.folder / "encoder.onnx").write_bytes((args.bundle / graphs["encoder"]["file"]).read_bytes())
                writer.manifest()
                report = {**comparison.measure(writer.folder, "encoder"), "encoder": f"fp32: {reason}"}
            text = json.dumps({**report, "layers": [asdict(layer) for layer in layers]}, indent=1)
            (writer.folder / "quantization.json").write_text(text + "\n", encoding="utf-8")
    except BundleError as error:
        print(f"maskgit-export quantize: {error}", file=sys.stderr)
        return 1
    for layer in sorted((layer for layer in layers if layer.kept is None), key=lambda layer: -layer.error)[:5]:
        print(
            f"{layer.graph:12} {layer.op:7} {layer.shape}  relative error {layer.error:.4f}  {layer.node}",
            file=sys.stderr,
        )
    for layer in (layer for layer in layers if layer.kept is not None):
        print(f"{layer.graph:12} {layer.op:7} {layer.shape}  fp32: {layer.kept}  {layer.node}", file=sys.stderr)
    show(report, sum(file.stat().st_size for file in args.output.glob("*.onnx")), args.output)
    return 0
