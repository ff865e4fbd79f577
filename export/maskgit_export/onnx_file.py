"""ONNX files written and read without their weights in memory: a graph may have 2 GB of them.

An ONNX file is a protobuf message: a sequence of fields, each a number, a wire type and a value. Weights are
``ModelProto.graph.initializer[i].raw_data``, which are copied from tensor to file one at a time, or passed over.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx

# Field numbers of onnx.proto, and the wire type of what has a length.
MODEL_GRAPH, GRAPH_INITIALIZER, TENSOR_RAW_DATA = 7, 5, 9
LENGTH_DELIMITED = 2
#: Fields that come before a model's graph, a graph's initializers and a tensor's weights in the order of field numbers,
#: in which protobuf writes them.
TENSOR_BEFORE = ("dims", "data_type", "segment", "float_data", "int32_data", "string_data", "int64_data", "name")
GRAPH_BEFORE = ("node", "name")
MODEL_BEFORE = ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string")
#: A protobuf message cannot be larger; ONNX Runtime and tract both refuse more in one file.
PROTOBUF_LIMIT = (1 << 31) - 1


class TooLarge(Exception):
    """A model of more bytes than one file may have; the argument is their number."""


def write(proto: onnx.ModelProto, weights: dict[str, tuple[int, Callable[[], bytes]]], path: Path) -> None:
    """Writes ``proto`` with weights that it lacks: initializer's name to number of bytes, and what gives them.

    The file is the one that ``proto.SerializeToString(deterministic=True)`` would give with the weights in it. Raises
    :class:`TooLarge`.
    """
    # What comes before an initializer's weights, their number of bytes, what gives them, what comes after.
    entries: list[tuple[bytes, int, Callable[[], bytes] | None, bytes]] = []
    for tensor in proto.graph.initializer:
        if tensor.name not in weights:
            whole = tensor.SerializeToString(deterministic=True)
            entries.append((_prefix(GRAPH_INITIALIZER, len(whole)) + whole, 0, None, b""))
            continue
        size, data = weights[tensor.name]
        before, after = _split(tensor, TENSOR_BEFORE, "raw_data")
        before += _prefix(TENSOR_RAW_DATA, size)
        entries.append((_prefix(GRAPH_INITIALIZER, len(before) + size + len(after)) + before, size, data, after))
    model_before, model_after = _split(proto, MODEL_BEFORE, "graph")
    graph_before, graph_after = _split(proto.graph, GRAPH_BEFORE, "initializer")
    length = (
        len(graph_before)
        + sum(len(before) + size + len(after) for before, size, _, after in entries)
        + len(graph_after)
    )
    start = model_before + _prefix(MODEL_GRAPH, length) + graph_before
    total = len(start) + length - len(graph_before) + len(model_after)
    if total > PROTOBUF_LIMIT:
        raise TooLarge(total)
    with open(path, "wb") as file:
        file.write(start)
        for before, size, data, after in entries:
            file.write(before)
            if data is not None:
                values = data()
                if len(values) != size:
                    raise ValueError(f"{path}: a weight of {len(values)} bytes where {size} were announced")
                file.write(values)
            file.write(after)
        file.write(graph_after + model_after)


def read_without_weights(path: Path) -> onnx.ModelProto:
    """A file's model, without initializers. Raises ``ValueError`` when the file is no ONNX model."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise ValueError("the file is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            kept = bytearray()
            for number, start, value, end in _fields(data, 0, len(data)):
                if number != MODEL_GRAPH:
                    kept += data[start:end]
                    continue
                graph = b"".join(
                    data[a:b] for inner, a, _, b in _fields(data, value, end) if inner != GRAPH_INITIALIZER
                )
                kept += _prefix(MODEL_GRAPH, len(graph)) + graph
    try:
        return onnx.ModelProto.FromString(bytes(kept))
    except Exception as error:  # protobuf's DecodeError, which depends on the implementation
        raise ValueError(str(error)) from error


def _split(message, before: tuple[str, ...], without: str) -> tuple[bytes, bytes]:
    """A message's bytes before and after one of its fields."""
    first, last = type(message)(), type(message)()
    for field, value in message.ListFields():
        if field.name == without:
            continue
        target = first if field.name in before else last
        if isinstance(value, (int, str, bytes)):
            setattr(target, field.name, value)
        elif hasattr(value, "extend"):
            getattr(target, field.name).extend(value)
        else:
            getattr(target, field.name).CopyFrom(value)
    return first.SerializeToString(deterministic=True), last.SerializeToString(deterministic=True)


def _prefix(number: int, length: int) -> bytes:
    """What comes before a value that has a length."""
    return _varint(number << 3 | LENGTH_DELIMITED) + _varint(length)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: number, where it starts, where its value starts, where it ends."""
    while at < end:
        start = at
        key, at = _read_varint(data, at, end)
        kind = key & 7
        if kind == 0:
            value, (_, at) = at, _read_varint(data, at, end)
        elif kind in (1, 5):
            value, at = at, at + (8 if kind == 1 else 4)
        elif kind == LENGTH_DELIMITED:
            length, value = _read_varint(data, at, end)
            at = value + length
        else:
            raise ValueError(f"a field of wire type {kind} at byte {start}")
        if at > end:
            raise ValueError(f"a field at byte {start} is longer than what it is in")
        yield key >> 3, start, value, at


def _read_varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise ValueError("the file ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")
