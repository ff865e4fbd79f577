"""Reads and writes the files that published weights come in, without running anything that a file brings along.

Flax checkpoints are msgpack (``flax.serialization.to_bytes``); PyTorch ones a zip or an old pickle, opened with
``weights_only``, or safetensors. Which of them a file is, its first bytes say; its name does not matter. A checkpoint
becomes a flat dictionary: name to float32 tensor, Flax names joined by ``/``.
"""

from __future__ import annotations

import argparse
import io
import pickle
import zipfile
from dataclasses import dataclass
from math import prod
from pathlib import Path

import msgpack
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .files import write_bytes

#: Keys under which training programs put the weights, beside their own state.
CONTAINERS = ("state_dict", "model_state_dict", "model")
#: What wrappers put before every name: DistributedDataParallel, torch.compile.
PREFIXES = ("module.", "_orig_mod.")
#: Flax's msgpack extension types.
FLAX_ARRAY = 1
FLAX_DTYPES = {"float32": torch.float32, "float16": torch.float16, "float64": torch.float64, "bfloat16": torch.bfloat16}


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message says which file, which tensor, and what was expected."""


@dataclass
class Checkpoint:
    """What a file holds: ``format`` is ``flax`` or ``torch``, ``tensors`` float32."""

    path: Path
    format: str
    tensors: dict[str, Tensor]


def read(path: str | Path) -> Checkpoint:
    """Reads a checkpoint of any of the formats. Raises :class:`CheckpointError`."""
    path = Path(path)
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= size:
        return Checkpoint(path, "torch", _tensors(path, _safetensors(path)))
    if head[:2] == b"PK" or (head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")):
        return Checkpoint(path, "torch", _tensors(path, _torch(path)))
    # A map of 1 to 15 entries, or one with a length of two or four bytes.
    if head and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):
        return Checkpoint(path, "flax", _tensors(path, _flax(path)))
    raise CheckpointError(
        f"{path}: neither a Flax checkpoint (msgpack), nor a PyTorch one, nor safetensors; was it downloaded whole?"
    )


def write_flax(path: str | Path, tensors: dict[str, Tensor]) -> None:
    """Writes ``flax.serialization.to_bytes({"params": ...})``; names are split at ``/``."""
    params: dict = {}
    for name, tensor in tensors.items():
        *folders, leaf = name.split("/")
        node = params
        for folder in folders:
            node = node.setdefault(folder, {})
        array = tensor.detach().contiguous().numpy()
        node[leaf] = msgpack.ExtType(FLAX_ARRAY, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))
    write_bytes(path, msgpack.packb({"params": params}))


def write_torch(path: str | Path, content: dict) -> None:
    """``torch.save``."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getbuffer())


def write_safetensors(path: str | Path, tensors: dict[str, Tensor]) -> None:
    """Safetensors; tensors that share memory are stored once each."""
    write_bytes(
        path,
        safetensors.torch.save(
            {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        ),
    )


def _flax(path: Path) -> dict[str, Tensor]:
    def array(code: int, data: bytes) -> Tensor:
        if code != FLAX_ARRAY:
            raise ValueError(f"a value of extension type {code}; only arrays ({FLAX_ARRAY}) are weights")
        shape, dtype, values = msgpack.unpackb(data, raw=True)
        dtype = FLAX_DTYPES.get(dtype.decode("ascii", "replace"))
        if dtype is None:
            raise ValueError(f"an array that is not of {', '.join(FLAX_DTYPES)}")
        if any(not isinstance(size, int) or size < 0 for size in shape) or prod(shape) * dtype.itemsize != len(values):
            raise ValueError(f"an array of shape {shape} with {len(values)} bytes")
        return (
            torch.frombuffer(bytearray(values), dtype=dtype).reshape(shape)
            if values
            else torch.empty(shape, dtype=dtype)
        )

    try:
        content = msgpack.unpackb(path.read_bytes(), ext_hook=array, raw=False)
    except (ValueError, TypeError, AttributeError, msgpack.UnpackException) as error:
        raise CheckpointError(f"{path}: a damaged or unknown msgpack file: {error}") from error
    if not isinstance(content.get("params"), dict):
        raise CheckpointError(f"{path}: has no 'params', which hold the weights; it has {_some(content)}")
    if len(content) > 1:
        raise CheckpointError(
            f"{path}: has more than 'params': {_some(set(content) - {'params'})}; save the parameters alone"
        )
    flat: dict = {}

    def walk(prefix: str, node: dict) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                walk(f"{prefix}{key}/", value)
            else:
                flat[f"{prefix}{key}"] = value

    walk("", content["params"])
    return flat


def _torch(path: Path) -> dict:
    try:
        # A Namespace is what training programs put their options into. It only holds them.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds Python objects beside tensors. It is not opened, since that would run code of the file: "
            "save its state_dict alone, or as safetensors"
        ) from error
    except Exception as error:  # of a damaged file, torch.load raises nearly anything
        raise CheckpointError(
            f"{path}: a damaged PyTorch file: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error
    for key in CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}; expected a state_dict")
    return content


def _safetensors(path: Path) -> dict:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: a damaged safetensors file: {error}") from error


def _tensors(path: Path, content: dict) -> dict[str, Tensor]:
    """Names without wrappers' prefixes to tensors in float32."""
    tensors = {}
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: {name!r} is a {type(value).__name__}, not a tensor; expected a state_dict")
        while name.startswith(PREFIXES):
            name = name.split(".", 1)[1]
        if not value.is_floating_point():
            raise CheckpointError(f"{path}: {name} has {value.dtype} numbers; weights are floating point")
        tensors[name] = value.detach().float()
    return tensors


def _some(names) -> str:
    """A few names for an error."""
    names = sorted(map(str, names))
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "nothing"
