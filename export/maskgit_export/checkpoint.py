"""Reads and writes the files that published weights come in, without running anything that a file brings along.

Flax checkpoints are msgpack (``flax.serialization.to_bytes``); PyTorch ones a zip or an old pickle, opened with
``weights_only``, or safetensors. Which of them a file is, its first bytes say; its name does not matter. A folder with
one of them is read too, and one whose index spreads the tensors over several files. ``selection`` picks the weights of
a model from what a file holds.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import zipfile
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import msgpack
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .files import write_bytes
from .standins import ALLOWED

#: What wrappers put into names: torch.compile, FSDP, activation checkpointing; DistributedDataParallel before them.
WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
PARALLEL = "module."
#: Flax's msgpack extension types: an array, a complex number, a NumPy scalar.
FLAX_ARRAY, FLAX_COMPLEX, FLAX_SCALAR = 1, 2, 3
FLAX_DTYPES = {
    name: getattr(torch, name)
    for name in "float32 float16 float64 bfloat16 bool int8 int16 int32 int64 uint8 uint16 uint32 uint64".split()
}
#: A folder's list of which file has which tensor ends so.
INDEX = ".index.json"
#: How the names of checkpoints end, where a folder is to be read that has no index.
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".msgpack")
#: More levels, or more entries, than a checkpoint has.
MAX_DEPTH, MAX_ENTRIES = 16, 1_000_000


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message says which file, which tensor, and what was expected."""


@dataclass
class File:
    """All that a file holds, or the files of a folder: ``format`` is ``flax`` or ``torch``.

    ``tensors`` are of any type, named by their place in the file: keys joined by ``/`` in Flax, by ``.`` in PyTorch.
    ``lists`` are tensors without names, how many by the place of their list; ``others`` what is no tensor, by its
    place.
    """

    path: Path
    format: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    lists: dict[str, int] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    #: The files that were read.
    files: list[Path] = field(default_factory=list)

    @property
    def separator(self) -> str:
        """What joins the keys."""
        return "/" if self.format == "flax" else "."


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits. Raises :class:`CheckpointError`."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def read(path: str | Path) -> File:
    """Reads a checkpoint of any of the formats, a folder with one, or the index of one. Raises
    :class:`CheckpointError`.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if path.name.endswith(INDEX):
        return _read_index(path)
    if (shard := re.search(r"-(\d{5})-of-(\d{5})\b", path.name)) and int(shard[2]) > 1:
        raise CheckpointError(
            f"{path}: one of {int(shard[2])} files that hold a checkpoint together: give the folder that has them all "
            f"and their index (*{INDEX})"
        )
    found, content = _open(path)
    _flatten(found, content)
    return found


def _open(path: Path) -> tuple[File, object]:
    """A single file, whose tensors are still to be put in, and its content."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= size:
        return File(path, "torch", files=[path]), _safetensors(path)
    if head[:2] == b"PK" or (head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")):
        return File(path, "torch", files=[path]), _torch(path)
    # A map of 1 to 15 entries, or one with a length of two or four bytes.
    if head and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):
        return File(path, "flax", files=[path]), _flax(path)
    raise CheckpointError(
        f"{path}: neither a Flax checkpoint (msgpack), nor a PyTorch one, nor safetensors; was it downloaded whole?"
    )


def _read_folder(folder: Path) -> File:
    """The checkpoint of a folder: that of its index, or its only one."""
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read: {error.strerror}") from error
    if ".metadata" in names and any(name.endswith(".distcp") for name in names):
        raise CheckpointError(
            f"{folder}: a distributed checkpoint of PyTorch; make one file of it: python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {folder} weights.pt"
        )
    if "_METADATA" in names or "_CHECKPOINT_METADATA" in names:
        raise CheckpointError(
            f"{folder}: a checkpoint of Orbax; save its parameters as one file, with Flax and Orbax installed: "
            "flax.serialization.to_bytes({'params': params}), where params is what "
            f"orbax.checkpoint.PyTreeCheckpointer().restore('{folder}') has under its key 'params'"
        )
    indices = [name for name in names if name.endswith(INDEX)]
    whole = [name for name in names if name.lower().endswith(SUFFIXES) and (folder / name).is_file()]
    if len(indices) == 1:
        return _read_index(folder / indices[0])
    if not indices and len(whole) == 1:
        return read(folder / whole[0])
    found = indices or whole
    told = f"it has {_some(found)}" if found else f"it has {_some(names)}, none named *{', *'.join(SUFFIXES)}"
    missing = ""
    if not indices and any(re.search(r"-\d{5}-of-\d{5}\b", name) for name in whole):
        missing = f"; files of one checkpoint need their index (*{INDEX}): download it too"
    raise CheckpointError(f"{folder}: a folder with one checkpoint is expected; {told}: give the file{missing}")


def _read_index(path: Path) -> File:
    """The checkpoint whose tensors an index finds in files beside it."""
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
        places = {name: str.__str__(file) for name, file in weight_map.items()}
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: no index of a checkpoint: expected a 'weight_map' of names to files") from error
    files = sorted(set(places.values()))
    outside = [name for name in files if not name or name in (".", "..") or re.search(r"[/\\:\0]", name)]
    if outside:
        raise CheckpointError(f"{path}: names {_some(outside)}, which is no file of its folder: not opened")
    missing = [name for name in files if not (path.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{path}: of the {len(files)} files that it names, {_some(missing)} is not in the folder: download it too"
        )
    found = File(path, "torch", files=[path])
    for file in files:
        part, content = _open(path.parent / file)
        if part.format != "torch":
            raise CheckpointError(f"{part.path}: a Flax checkpoint; {path} names files of PyTorch or safetensors")
        _flatten(part, content)
        wanted = [name for name, place in places.items() if place == file]
        absent = [name for name in wanted if _bare(name) not in part.tensors]
        if absent:
            raise CheckpointError(f"{part.path}: lacks {_some(absent)}, which {path} says it has; download both again")
        found.tensors.update((_bare(name), part.tensors[_bare(name)]) for name in wanted)
        found.files.append(part.path)
    return found


def _bare(name: str) -> str:
    """A name without what wrappers put into it."""
    name = WRAPPERS.sub("", name)
    while name.startswith(PARALLEL):
        name = name.removeprefix(PARALLEL)
    return name


def _flatten(found: File, content: object) -> None:
    """Puts what a file holds into ``found``, by its place."""
    if not isinstance(content, dict):
        held = "a list" if isinstance(content, (list, tuple)) else f"a {type(content).__name__}"
        raise CheckpointError(f"{found.path}: holds {held}; expected a state_dict, or a dictionary that has one")
    entries = 0
    waiting: list[tuple[str, object, int]] = [("", content, 0)]
    while waiting:
        place, node, depth = waiting.pop()
        if isinstance(node, (list, tuple)) and (count := sum(isinstance(value, Tensor) for value in node)):
            found.lists[place] = count
            continue
        children = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in children:
            entries += 1
            if entries > MAX_ENTRIES or depth > MAX_DEPTH:
                raise CheckpointError(f"{found.path}: is nested too deeply, or has too many entries, for a checkpoint")
            name = str(key)
            if isinstance(value, Tensor) and found.format == "torch":
                name = _bare(name)
            name = f"{place}{found.separator}{name}" if place else name
            if isinstance(value, Tensor):
                if name in found.tensors:
                    raise CheckpointError(f"{found.path}: has two tensors of the name {name}")
                found.tensors[name] = value
            elif isinstance(value, dict) or (isinstance(value, (list, tuple)) and depth < MAX_DEPTH):
                waiting.append((name, value, depth + 1))
                if not value:
                    found.others[name] = "empty"
            else:
                found.others[name] = type(value).__name__


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


def _flax(path: Path) -> object:
    def value(code: int, data: bytes) -> Tensor | None:
        if code == FLAX_COMPLEX:
            return None
        if code not in (FLAX_ARRAY, FLAX_SCALAR):
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
        return msgpack.unpackb(path.read_bytes(), ext_hook=value, raw=False, strict_map_key=False)
    except (ValueError, TypeError, AttributeError, msgpack.UnpackException) as error:
        raise CheckpointError(f"{path}: a damaged or unknown msgpack file: {error}") from error


def _torch(path: Path) -> object:
    try:
        with torch.serialization.safe_globals(ALLOWED):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        held = f"Python objects beside tensors ({name[1]})" if name else "Python objects beside tensors"
        raise CheckpointError(
            f"{path}: holds {held}. It is not opened, since that would run code of the file: ask for its state_dict "
            "alone, or for safetensors. If you trust its author, save the weights yourself, which does run that code: "
            f"python -c \"import torch; c = torch.load('{path}', map_location='cpu', weights_only=False); "
            "torch.save(c.get('state_dict', c), 'weights.pt')\""
        ) from error
    except Exception as error:  # of a damaged file, torch.load raises nearly anything
        raise CheckpointError(
            f"{path}: a damaged PyTorch file: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error


def _safetensors(path: Path) -> dict:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: a damaged safetensors file: {error}") from error


def _some(names) -> str:
    """A few names for an error."""
    names = sorted(map(str, names))
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "nothing"
