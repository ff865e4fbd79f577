"""Reading checkpoints: every format, and files that are damaged, hostile or something else."""

import argparse
import io
import os
import pickle
import struct

import msgpack
import numpy as np
import pytest
import torch

from maskgit_export import checkpoint
from maskgit_export.checkpoint import CheckpointError, read

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3) / 7


def flax_array(array, code=1, dtype=None):
    """As flax.serialization does: (shape, name of the dtype, bytes), packed, in an extension of type 1."""
    return msgpack.ExtType(
        code, msgpack.packb((array.shape, dtype or array.dtype.name, array.tobytes()), use_bin_type=True)
    )


def flax_file(params, **more):
    return msgpack.packb({"params": params, **more}, strict_types=True)


def torch_file(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def write(path, data):
    path.write_bytes(data)
    return path


def test_flax(tmp_path):
    halves = ARRAY.astype(np.float16)
    bfloat = torch.from_numpy(ARRAY).bfloat16()
    packed = msgpack.ExtType(1, msgpack.packb(((2, 3), "bfloat16", bfloat.view(torch.int16).numpy().tobytes())))
    found = read(
        write(
            tmp_path / "any name",
            flax_file(
                {
                    "a": {"b_0": {"kernel": flax_array(ARRAY)}},
                    "h": flax_array(halves),
                    "b": packed,
                    "d": flax_array(ARRAY.astype(np.float64)),
                }
            ),
        )
    )
    assert found.format == "flax" and set(found.tensors) == {"a/b_0/kernel", "h", "b", "d"}
    assert {tensor.dtype for tensor in found.tensors.values()} == {torch.float32}
    np.testing.assert_array_equal(found.tensors["a/b_0/kernel"], ARRAY)
    np.testing.assert_array_equal(found.tensors["h"], halves.astype(np.float32))
    assert torch.equal(found.tensors["b"], bfloat.float())


def test_what_is_written_is_read_back(tmp_path):
    tensors = {"a/b/c": torch.randn(3, 2).t(), "a/b/d": torch.randn(4), "e": torch.tensor(2.0)}
    checkpoint.write_flax(tmp_path / "flax", tensors)
    # A file of many entries starts with another byte.
    many = {f"x{i}": torch.full((1,), float(i)) for i in range(20)}
    checkpoint.write_flax(tmp_path / "many", many)
    checkpoint.write_torch(tmp_path / "torch", {"state_dict": tensors})
    checkpoint.write_safetensors(tmp_path / "safe", tensors)
    for name, format, wanted in (
        ("flax", "flax", tensors),
        ("many", "flax", many),
        ("torch", "torch", tensors),
        ("safe", "torch", tensors),
    ):
        found = read(tmp_path / name)
        assert found.format == format and set(found.tensors) == set(wanted)
        assert all(torch.equal(found.tensors[key], value) for key, value in wanted.items()), name
    assert sorted(os.listdir(tmp_path)) == ["flax", "many", "safe", "torch"]


@pytest.mark.parametrize(
    "content",
    [
        lambda t: t,
        lambda t: {"state_dict": t},
        lambda t: {"iter": 3, "model_state_dict": t, "optimizer_state_dict": None},
        lambda t: {"model": t, "args": argparse.Namespace(lr=0.1), "steps": 4},
    ],
)
def test_pytorch_containers_and_prefixes(tmp_path, content):
    tensors = {"module._orig_mod.a.weight": torch.randn(2), "b": torch.nn.Parameter(torch.randn(2).half())}
    for legacy in (False, True):
        torch.save(content(tensors), tmp_path / "file", _use_new_zipfile_serialization=not legacy)
        found = read(tmp_path / "file")
        assert set(found.tensors) == {"a.weight", "b"} and found.tensors["b"].dtype == torch.float32
        assert not found.tensors["b"].requires_grad


class Harm:
    """Unpickling this would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_not_run(tmp_path, legacy):
    torch.save(
        {"state_dict": {"a": torch.zeros(1)}, "more": Harm(tmp_path / "harm")},
        tmp_path / "file",
        _use_new_zipfile_serialization=not legacy,
    )
    write(tmp_path / "pickle", pickle.dumps(Harm(tmp_path / "harm")))
    for name in ("file", "pickle"):
        with pytest.raises(CheckpointError, match=r"would run code of the file|damaged PyTorch file"):
            read(tmp_path / name)
    assert not (tmp_path / "harm").exists()


GOOD = {
    "flax": flax_file({"a": flax_array(ARRAY), "b": {"c": flax_array(ARRAY)}}),
    "torch": torch_file({"state_dict": {"a": torch.from_numpy(ARRAY)}}),
    "safetensors": checkpoint.safetensors.torch.save({"a": torch.from_numpy(ARRAY)}),
}


@pytest.mark.parametrize("format", GOOD)
def test_truncated_files_are_refused(tmp_path, format):
    data = GOOD[format]
    read(write(tmp_path / "file", data))
    for size in [*range(0, 64), *range(64, len(data), 7), len(data) - 1]:
        with pytest.raises(CheckpointError):
            read(write(tmp_path / "file", data[:size]))


HOSTILE = {
    "empty": (b"", "neither a Flax checkpoint"),
    "text": (b"<!DOCTYPE html><html>", "neither a Flax checkpoint"),
    "no params": (msgpack.packb({"weights": 1}), "has no 'params'.*it has weights"),
    "params is a number": (msgpack.packb({"params": 1}), "has no 'params'"),
    "an optimizer too": (flax_file({"a": flax_array(ARRAY)}, opt_state=1), "more than 'params': opt_state"),
    "a number as weight": (flax_file({"a": {"b": 3}}), "'a/b' is a int, not a tensor"),
    "another extension": (flax_file({"a": flax_array(ARRAY, code=2)}), "extension type 2"),
    "another dtype": (flax_file({"a": flax_array(ARRAY, dtype="object")}), "not of float32"),
    "a shape too large": (flax_file({"a": flax_array(ARRAY[:1], dtype="float64")}), r"shape \[1, 3\] with 12 bytes"),
    "a negative shape": (
        flax_file({"a": msgpack.ExtType(1, msgpack.packb(((-1, -6), "float32", b"\0" * 24)))}),
        "shape",
    ),
    "a shape that is text": (flax_file({"a": msgpack.ExtType(1, msgpack.packb(("ab", "float32", b"")))}), "shape"),
    "an array that is none": (flax_file({"a": msgpack.ExtType(1, msgpack.packb(7))}), "damaged or unknown msgpack"),
    "an array of too many parts": (
        flax_file({"a": msgpack.ExtType(1, msgpack.packb((1, 2, 3, 4)))}),
        "damaged or unknown msgpack",
    ),
    "a list of four billion": (b"\x81\xa6params\xdd\xff\xff\xff\xff", "damaged or unknown msgpack"),
    "nested too deeply": (b"\x81\xa1a" * 3000, "damaged or unknown msgpack"),
    "a state_dict of numbers": (torch_file({"state_dict": {"a": 1}}), "'a' is a int"),
    "a list of tensors": (torch_file([torch.zeros(1)]), "holds a list"),
    "whole numbers": (torch_file({"a": torch.zeros(2, dtype=torch.int64)}), "a has torch.int64 numbers"),
    "a safetensors header too long": (struct.pack("<Q", 9) + b"{" * 9, "damaged safetensors"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_other_files_are_refused(tmp_path, case):
    data, message = HOSTILE[case]
    with pytest.raises(CheckpointError, match=message):
        read(write(tmp_path / "file", data))


def test_no_file(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read(tmp_path)
