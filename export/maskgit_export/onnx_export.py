"""PyTorch to ONNX: one graph for each of a model's three methods, with a symbolic batch dimension.

Opset 20 has LayerNormalization and Gelu as single operators, which the runtime fuses; attention stays MatMul, Softmax,
MatMul. The graphs carry no stack traces or paths of the machine that made them, so the same weights give the same
bytes.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
from onnxscript import ir
from torch import Tensor, nn

from . import onnx_file
from .adapter import Model
from .bundle import BundleError, graph_signature
from .files import whole

OPSET = 20
#: Weights of more bytes go from PyTorch's tensor into the file, without a copy of all of them in between.
LARGE = 1 << 20


class _Method(nn.Module):
    """One method of a model as a module of its own, which is what the exporter takes."""

    def __init__(self, model: Model, method: str):
        super().__init__()
        self.model, self.method = model, method

    def forward(self, *inputs: Tensor) -> Tensor:
        return getattr(self.model, self.method)(*inputs)


METHODS = {"transformer": "logits", "decoder": "decode", "encoder": "encode"}


def example_inputs(model: Model, graph: str, batch: int = 2) -> tuple[Tensor, ...]:
    """Valid inputs of a graph, to trace it with."""
    metadata = model.metadata
    tokens = torch.arange(batch * metadata.tokens).reshape(batch, -1) % metadata.codes
    if graph == "transformer":
        tokens[:, ::2] = metadata.mask_id
        return tokens, torch.arange(batch) % len(metadata.labels)
    if graph == "decoder":
        return (tokens,)
    return (
        torch.linspace(0, 1, batch * 3 * metadata.image_height * metadata.image_width).reshape(
            batch, 3, metadata.image_height, metadata.image_width
        ),
    )


def export_graphs(model: Model, folder: str | Path) -> list[Path]:
    """Writes ``transformer.onnx``, ``decoder.onnx`` and, where the model has an encoder, ``encoder.onnx``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    graphs = [graph for graph in METHODS if graph != "encoder" or model.has_encoder]
    return [export_graph(model, graph, folder / f"{graph}.onnx") for graph in graphs]


def export_graph(model: Model, graph: str, path: Path) -> Path:
    """Traces one method, cleans the graph, checks it, and writes it whole or not at all."""
    inputs, outputs = graph_signature(model.metadata, graph)
    batch = torch.export.Dim("batch", min=1, max=65536)
    examples = example_inputs(model, graph)
    method = _Method(model.eval(), METHODS[graph])
    with torch.no_grad(), _quiet(), _plain_attention():
        program = torch.onnx.export(
            method,
            examples,
            dynamo=True,
            opset_version=OPSET,
            input_names=[name for name, _, _ in inputs],
            output_names=[name for name, _, _ in outputs],
            verbose=False,
            dynamic_shapes={"inputs": tuple({0: batch} for _ in examples)},
        )
    weights = _take_weights(program.model)
    proto = program.model_proto
    for tensor in proto.graph.initializer:
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    _clean(proto, outputs)
    _check(proto, weights)
    try:
        with whole(path) as partial:
            onnx_file.write(proto, weights, partial)
    except onnx_file.TooLarge as error:
        raise BundleError(
            f"{path}: {error} bytes of weights; one ONNX file holds at most {onnx_file.PROTOBUF_LIMIT}: export this "
            "model in fp16 or int8"
        ) from error
    return path


def _take_weights(model: ir.Model) -> dict[str, tuple[int, Callable[[], bytes]]]:
    """Puts empty tensors in the place of the large initializers. Returns their numbers of bytes and what gives them."""
    weights = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > LARGE:
            weights[name] = tensor.nbytes, tensor.tobytes
            # Of an external tensor, only name, type and shape are written.
            value.const_value = ir.ExternalTensor("-", None, None, tensor.dtype, shape=tensor.shape, name=name)
    return weights


def _check(proto: onnx.ModelProto, weights: dict) -> None:
    """ONNX's own check, with the weights that are not there as inputs."""
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    del model.graph.initializer[:]
    for tensor in proto.graph.initializer:
        if tensor.name in weights:
            model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            model.graph.initializer.append(tensor)
    onnx.checker.check_model(model)


@contextlib.contextmanager
def _plain_attention():
    """Lets ``scaled_dot_product_attention`` be traced as MatMul, Softmax, MatMul.

    The exporter's own translation transposes the keys through shapes that are computed at run time: eight more
    operators a layer.
    """
    fused = F.scaled_dot_product_attention

    def plain(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask=None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if is_causal or enable_gqa or dropout_p or (attn_mask is not None and attn_mask.dtype == torch.bool):
            return fused(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
        return (scores if attn_mask is None else scores + attn_mask).softmax(-1) @ value

    F.scaled_dot_product_attention = plain
    try:
        yield
    finally:
        F.scaled_dot_product_attention = fused


@contextlib.contextmanager
def _quiet():
    """Silences the exporter's notices about optional packages; its errors still come as exceptions."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _clean(proto: onnx.ModelProto, outputs: list[tuple]) -> None:
    """Leaves what runs, declares the output shapes, and removes the exporter's notes."""
    proto.producer_name, proto.producer_version, proto.doc_string = "maskgit-export", "", ""
    del proto.metadata_props[:]
    graph = proto.graph
    graph.name, graph.doc_string = "main", ""
    del graph.metadata_props[:]
    # Shapes of intermediate values are inferred by every runtime, and name the exporter's symbols.
    del graph.value_info[:]
    for item in [*graph.node, *graph.initializer, *graph.input, *graph.output]:
        item.doc_string = ""
        del item.metadata_props[:]
    _drop_unused(graph)
    for port in [*graph.input, *graph.output]:
        port.type.tensor_type.shape.dim[0].dim_param = "batch"
    for port, (_, _, shape) in zip(graph.output, outputs):
        dims = port.type.tensor_type.shape.dim
        if len(dims) != len(shape) + 1:
            raise BundleError(
                f"output {port.name} has {len(dims)} dimensions; expected [batch, {', '.join(map(str, shape))}]"
            )
        for dim, size in zip(list(dims)[1:], shape):
            if dim.dim_value not in (0, size):
                raise BundleError(
                    f"output {port.name} has a dimension of {dim.dim_value} where the metadata asks for {size}"
                )
            dim.dim_value = size


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Removes nodes and weights that no output depends on."""
    while True:
        used = {name for node in graph.node for name in node.input} | {port.name for port in graph.output}
        dead = [node for node in graph.node if not used.intersection(node.output)]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    for item in [item for item in graph.initializer if item.name not in used]:
        graph.initializer.remove(item)
