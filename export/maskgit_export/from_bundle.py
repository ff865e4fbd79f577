"""Reads the networks of a bundle that ``export`` wrote, so that training goes on where a shipped model stands.

The graphs keep the names of the weights, and their shapes say the configuration. fp32 and fp16 bundles hold weights;
the rounded ones of int8 do not train. What a bundle does not hold starts anew: the quantiser's running counts and the
optimizers' moments.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .bundle import BundleError, Metadata, validate
from .mvtm import MaskedTransformer, MvtmConfig
from .tokenizer import Tokenizer, TokenizerConfig


class Graph:
    """The weights of one ONNX graph by the names that they had in PyTorch."""

    def __init__(self, file: Path, prefix: str):
        import onnx
        from onnx import numpy_helper

        proto = onnx.load(file).graph
        values = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.initializer}
        self.file, self.nodes = file, list(proto.node)
        for node in self.nodes:
            # A weight in half the bytes is widened by a Cast.
            if node.op_type == "Cast" and node.input[0] in values:
                values[node.output[0]] = values[node.input[0]].astype(np.float32)
        self.values = values
        self.weights = {
            name.removeprefix(prefix): torch.from_numpy(value.astype(np.float32))
            for name, value in values.items()
            if name.startswith(prefix) and not name.endswith(".fp16")
        }
        users = self._users()
        for node in self.nodes:
            # The exporter stores the matrix of a linear layer transposed and nameless; the bias that is added next says
            # whose it is.
            if node.op_type == "MatMul" and node.input[1] in values:
                for user in users.get(node.output[0], []):
                    bias = [name for name in user.input if name.startswith(prefix) and name.endswith(".bias")]
                    if user.op_type == "Add" and bias:
                        name = bias[0].removeprefix(prefix).removesuffix("bias") + "weight"
                        self.weights[name] = torch.from_numpy(np.ascontiguousarray(values[node.input[1]].T))

    def _users(self) -> dict[str, list]:
        users: dict[str, list] = {}
        for node in self.nodes:
            for name in node.input:
                users.setdefault(name, []).append(node)
        return users

    def reshape_after(self, bias: str) -> list[int]:
        """The shape that the result of the layer with this bias is reshaped to."""
        users = self._users()
        for node in self.nodes:
            if node.op_type == "Add" and any(name.endswith(bias) for name in node.input):
                for user in users.get(node.output[0], []):
                    if user.op_type == "Reshape" and user.input[1] in self.values:
                        return self.values[user.input[1]].tolist()
        raise KeyError(bias)


def read_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a bundle, in evaluation mode; ends the command where the bundle has no such weights."""
    return _reading(folder, _tokenizer)


def read_mvtm(folder: str | Path) -> MaskedTransformer:
    """The transformer of a bundle, in evaluation mode; ends the command where the bundle has no such weights."""
    return _reading(folder, _mvtm)


def _reading(folder: str | Path, read: Callable[[Metadata, dict[str, Path]], torch.nn.Module]) -> torch.nn.Module:
    try:
        metadata, graphs = validate(folder)
        return read(metadata, {name: Path(folder) / entry["file"] for name, entry in graphs.items()}).eval()
    except BundleError as error:
        raise SystemExit(str(error)) from error
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        raise SystemExit(
            f"{folder}: holds no weights to train on ({str(error).splitlines()[0]}); give an fp32 or fp16 bundle that "
            "`export` wrote"
        ) from error


def _tokenizer(metadata: Metadata, files: dict[str, Path]) -> Tokenizer:
    decoder, encoder = (Graph(files[name], "model.tokenizer.") for name in ("decoder", "encoder"))
    weights = decoder.weights | encoder.weights
    codes, code_dim = weights["quantizer.codebook"].shape
    patch = int((encoder.weights["encoder.stages.1.weight"].shape[1] // 3) ** 0.5)
    factor = metadata.image_height // metadata.grid_rows
    # Stage 2 is an activation; each halving has a convolution and a block, then come the blocks at the token grid.
    halvings = (factor // patch).bit_length() - 1
    refine = weights.get("decoder.shuffle.1.conv1.weight")
    config = TokenizerConfig(
        size=metadata.image_height,
        factor=factor,
        codes=codes,
        code_dim=code_dim,
        width=weights["decoder.stages.0.weight"].shape[0],
        patch=patch,
        blocks=_in_a_row(weights, "decoder.stages.{}.conv1.weight", 1),
        refine=0 if refine is None else refine.shape[0],
        encoder_blocks=1 + _in_a_row(weights, "encoder.stages.{}.conv1.weight", 3 + 2 * halvings),
    )
    tokenizer = Tokenizer(config)
    ones = torch.ones(codes)
    tokenizer.load_state_dict(
        weights | {"quantizer.usage": ones, "quantizer.sums": weights["quantizer.codebook"].clone()}
    )
    return tokenizer


def _mvtm(metadata: Metadata, files: dict[str, Path]) -> MaskedTransformer:
    graph = Graph(files["transformer"], "model.transformer.")
    weights = graph.weights
    _, width = weights["token_embedding.weight"].shape
    config = MvtmConfig(
        grid=metadata.grid_rows,
        codes=metadata.codes,
        labels=list(metadata.labels),
        width=width,
        dim=weights["inner_norm.weight"].shape[0],
        depth=_in_a_row(weights, "layers.{}.norm1.weight", 0),
        heads=graph.reshape_after("layers.0.qkv.bias")[3],
        blocks=_in_a_row(weights, "leave.{}.norm.weight", 0),
    )
    network = MaskedTransformer(config)
    network.load_state_dict(weights)
    return network


def _in_a_row(weights: dict[str, Tensor], name: str, first: int) -> int:
    """How many numbers in a row, from ``first``, have a weight ``name.format(number)``."""
    number = first
    while name.format(number) in weights:
        number += 1
    return number - first
