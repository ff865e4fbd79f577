"""Reading checkpoints: every format, and files that are damaged, hostile or something else."""

import argparse
import collections
import datetime
import functools
import hashlib
import importlib
import io
import json
import os
import pathlib
import pickle
import re
import struct
import sys
import types
import typing

import msgpack
import numpy as np
import pytest
import torch

from maskgit_export import checkpoint, selection, standins
from maskgit_export.checkpoint import CheckpointError, read
from maskgit_export.published import layouts
from maskgit_export.selection import Choice

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
    assert found.format == "flax" and set(found.tensors) == {
        f"params/{name}" for name in ("a/b_0/kernel", "h", "b", "d")
    }
    weights = selection.select(found, "b_0/kernel", "x", Choice(key="params/a")).tensors
    assert set(weights) == {"b_0/kernel"}
    weights = selection.select(found, "a/b_0/kernel", "x", Choice()).tensors
    assert set(weights) == {"a/b_0/kernel", "h", "b", "d"}
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    np.testing.assert_array_equal(weights["a/b_0/kernel"], ARRAY)
    np.testing.assert_array_equal(weights["h"], halves.astype(np.float32))
    assert torch.equal(weights["b"], bfloat.float())


def test_what_is_written_is_read_back(tmp_path):
    tensors = {"a/b/c": torch.randn(3, 2).t(), "a/b/d": torch.randn(4), "e": torch.tensor(2.0)}
    checkpoint.write_flax(tmp_path / "flax", tensors)
    # A file of many entries starts with another byte.
    many = {f"x{i}": torch.full((1,), float(i)) for i in range(20)}
    checkpoint.write_flax(tmp_path / "many", many)
    checkpoint.write_torch(tmp_path / "torch", {"state_dict": tensors})
    checkpoint.write_safetensors(tmp_path / "safe", tensors)
    for name, format, place, wanted in (
        ("flax", "flax", "params/", tensors),
        ("many", "flax", "params/", many),
        ("torch", "torch", "state_dict.", tensors),
        ("safe", "torch", "", tensors),
    ):
        found = read(tmp_path / name)
        assert found.format == format and set(found.tensors) == {place + key for key in wanted}
        assert all(torch.equal(found.tensors[place + key], value) for key, value in wanted.items()), name
    assert sorted(os.listdir(tmp_path)) == ["flax", "many", "safe", "torch"]


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
    "another extension": (flax_file({"a": flax_array(ARRAY, code=4)}), "extension type 4"),
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
    "a list of tensors": (torch_file([torch.zeros(1)]), "holds a list"),
    "two tensors of one name": (
        torch_file({"a.b": torch.zeros(2), "module.a.b": torch.zeros(2)}),
        "has two tensors of the name a.b",
    ),
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
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        checkpoint.sha256(tmp_path / "nothing")


# Which of a file's tensors are the weights: every file below has Halton-MaskGIT's marker.

MARKER = "transformer.layers.0.attn.wq.weight"


def weights(value, names=(MARKER, "tok_emb.weight", "pos_emb.weight")):
    return {name: torch.full((2, 2), float(value)) for name in names}


def prefixed(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def saved(tmp_path, content, name="file"):
    return write(tmp_path / name, torch_file(content))


def taken(path, **choice):
    """The weights of a file, and the value that all of them have."""
    _, found, _ = layouts.read(path, layouts.HALTON, "transformer", Choice(**choice))
    values = {float(tensor.mean()) for tensor in found.tensors.values() if tensor.is_floating_point()}
    assert set(found.tensors) >= set(weights(0)) and len(values) == 1
    return found, values.pop()


CONTAINERS = {
    "bare": lambda t: t,
    "state_dict": lambda t: {"state_dict": t, "epoch": 3},
    "halton": lambda t: {"iter": 3, "model_state_dict": t, "optimizer_state_dict": None},
    "llamagen": lambda t: {"model": t, "args": argparse.Namespace(lr=0.1), "steps": 4},
    "params": lambda t: {"params": t},
    "net": lambda t: {"net": t, "acc": 0.5},
    "weights": lambda t: {"weights": t},
    "nested": lambda t: {"checkpoint": {"state_dict": {"model": t}}, "rng": [1, 2]},
    "any other name": lambda t: {"my_best": t},
    "with an optimizer": lambda t: {
        "model": t,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]},
        "opt_disc": {"exp_avg": prefixed("", weights(5))},
        "discriminator": {"main.0.weight": torch.ones(3)},
    },
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(
    "prefix", ["", "module._orig_mod.", "model.", "net.", "network.", "transformer.", "any.thing."]
)
def test_containers_and_prefixes(tmp_path, container, prefix):
    path = saved(tmp_path, CONTAINERS[container](prefixed(prefix, weights(1))))
    found, value = taken(path)
    assert set(found.tensors) == set(weights(0)) and value == 1 and not found.averaged
    legacy = tmp_path / "legacy"
    torch.save(CONTAINERS[container](prefixed(prefix, weights(1))), legacy, _use_new_zipfile_serialization=False)
    assert set(taken(legacy)[0].tensors) == set(weights(0))


def test_state_beside_weights_at_the_top_is_passed_over(tmp_path):
    content = {
        **weights(1),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}},
        "loss.discriminator.main.weight": torch.ones(3),
        "ema": {"decay": torch.ones(3)},
    }
    found, value = taken(saved(tmp_path, content))
    assert value == 1 and set(found.tensors) == set(weights(0))
    assert any(
        note.startswith("passed over: ")
        and {"optimizer", "loss", "ema"} <= set(re.findall(r"(\w+) \(1 tensors\)", note))
        for note in found.notes
    )
    # What is no state is the model's, and an error where the model has no such tensor.
    found, _ = taken(saved(tmp_path, {**weights(1), "more.weight": torch.ones(2)}))
    assert "more.weight" in found.tensors


def test_wrappers_before_some_names_only(tmp_path):
    tensors = {"module._orig_mod.a.weight": torch.randn(2), "b": torch.nn.Parameter(torch.randn(2).half())}
    found = selection.select(read(saved(tmp_path, tensors)), "a.weight", "x", Choice())
    assert set(found.tensors) == {"a.weight", "b"} and found.tensors["b"].dtype == torch.float32
    assert not found.tensors["b"].requires_grad
    # Lightning compiles a module inside of its own; FSDP wraps each layer.
    for name in ("model._orig_mod.a.b", "_fsdp_wrapped_module.a._fsdp_wrapped_module._checkpoint_wrapped_module.b"):
        found = selection.select(read(saved(tmp_path, {name: torch.ones(1)})), "a.b", "x", Choice())
        assert set(found.tensors) == {"a.b"}


AVERAGES = {
    "ema": lambda raw, ema: {"model": raw, "ema": ema},
    "ema_state_dict": lambda raw, ema: {"state_dict": raw, "ema_state_dict": ema},
    "model_ema": lambda raw, ema: {"model": raw, "model_ema": ema},
    "nested": lambda raw, ema: {"model": raw, "ema": {"decay": 0.9, "module": ema}},
    "at the top": lambda raw, ema: {**raw, "ema": ema},
    "ema-pytorch": lambda raw, ema: {
        **prefixed("online_model.", raw),
        **prefixed("ema_model.", ema),
        "initted": torch.tensor(True),
        "step": torch.tensor(3),
    },
    "lightning": lambda raw, ema: {
        "state_dict": {
            **prefixed("model.", raw),
            **{"model_ema." + name.replace(".", ""): tensor for name, tensor in ema.items()},
            "model_ema.decay": torch.tensor(0.999),
            "model_ema.num_updates": torch.tensor(7),
        }
    },
}


@pytest.mark.parametrize("case", AVERAGES)
def test_averaged_weights_beside_the_others_are_said_and_chosen(tmp_path, case):
    path = saved(tmp_path, AVERAGES[case](weights(1), weights(2)))
    found, value = taken(path)
    assert (value, found.averaged) == (1, False)
    assert any("has averaged weights (EMA) too, under" in note and "--ema takes them" in note for note in found.notes)
    _, chosen, _ = layouts.read(path, layouts.HALTON, "transformer", Choice(ema=True))
    assert chosen.averaged and all(torch.equal(chosen.tensors[name], tensor) for name, tensor in weights(2).items())
    # What the others have of their own, these do not.
    assert set(chosen.tensors) - set(weights(0)) <= {"decay", "num_updates"}
    assert any("averaged weights (EMA), under" in note for note in chosen.notes)


def test_only_averaged_weights(tmp_path):
    path = saved(tmp_path, {"ema": weights(2), "step": 3})
    for ema in (False, True):
        found, value = taken(path, ema=ema)
        assert value == 2 and found.averaged and any("it has no others" in note for note in found.notes)
    found, value = taken(saved(tmp_path, {"model": weights(1)}), ema=True)
    assert value == 1 and not found.averaged and any("has no averaged weights" in note for note in found.notes)
    # diffusers and torch_ema keep a list, which the names of the model cannot be told from.
    path = saved(tmp_path, {"model": weights(1), "ema": {"shadow_params": list(weights(2).values())}})
    found, value = taken(path, ema=True)
    assert value == 1 and any("ema.shadow_params as a list without names" in note for note in found.notes)


def test_a_key_chooses(tmp_path):
    path = saved(tmp_path, {"first": weights(1), "second": {"best": weights(2), "last": weights(3)}, "other": [1]})
    with pytest.raises(CheckpointError, match=r"3 sets of .*--key first or --key second.best or --key second.last"):
        taken(path)
    for key, value in (("first", 1), ("second.best", 2), ("second/last/", 3)):
        assert taken(path, key=key)[1] == value
    with pytest.raises(CheckpointError, match=r"--key third: no tensors there. It has 9 tensors.*first \(3\), second"):
        taken(path, key="third")
    with pytest.raises(CheckpointError, match="2 sets of weights"):
        taken(path, key="second")
    # The weights of an optimizer are never taken by themselves, only by their key.
    path = saved(tmp_path, {"optimizer": {"mu": weights(4)}, "model": weights(1), "b": {"x": torch.ones(2)}})
    assert taken(path)[1] == 1 and taken(path, key="optimizer.mu")[1] == 4
    with pytest.raises(
        CheckpointError, match=r"--key b: no weights of .* there; it has them under model and optimizer"
    ):
        taken(path, key="b")
    path = saved(tmp_path, {**weights(1), "best": weights(2)})
    with pytest.raises(CheckpointError, match=r"choose one with --key \. or --key best"):
        taken(path)
    assert taken(path, key=".")[1] == 1 and taken(path, key="best")[1] == 2


def test_flax_files_with_more_than_parameters(tmp_path):
    def tree(value):
        return {"Embed_0": {"word_embeddings": {"embedding": flax_array(ARRAY * 0 + value)}}}

    state = {
        "step": 7,
        "params": tree(1),
        "opt_state": {"0": {"count": flax_array(np.int32(7), code=3), "mu": tree(3), "nu": tree(4)}, "1": {}},
        "ema_params": {"params": tree(2)},
        "rng": flax_array(np.array([1, 2], np.uint32)),
        "imaginary": msgpack.ExtType(2, msgpack.packb((1.0, 2.0))),
    }
    path = write(tmp_path / "file", msgpack.packb(state))

    def value(**choice):
        _, found, _ = layouts.read(path, layouts.GOOGLE, "transformer", Choice(**choice))
        assert set(found.tensors) == {"Embed_0/word_embeddings/embedding"}
        return float(found.tensors["Embed_0/word_embeddings/embedding"].mean())

    assert value() == 1 and value(ema=True) == 2 and value(key="opt_state.0.mu") == 3
    for wrapped in (lambda t: t, lambda t: {"target": t}, lambda t: {"params": {"params": t}}):
        path = write(tmp_path / "file", msgpack.packb(wrapped(tree(1))))
        assert value() == 1


def test_whole_numbers_beside_the_weights(tmp_path):
    path = saved(tmp_path, {"state_dict": {**weights(1), "position_ids": torch.arange(4), "n": torch.tensor(3.0)}})
    found = layouts.read(path, layouts.HALTON, "transformer")[1]
    layout = layouts.Layout("x", "torch", "transformer", MARKER, lambda module: layouts._same_names(module))
    module = torch.nn.Module()
    for name in weights(0):
        inner = module
        for part in name.split(".")[:-1]:
            inner.add_module(part, getattr(inner, part, torch.nn.Module()))
            inner = getattr(inner, part)
        inner.weight = torch.nn.Parameter(torch.zeros(2, 2))
    layouts.load(layout, module, found, "x")
    assert float(module.tok_emb.weight.detach().mean()) == 1 and "passed over: n, position_ids" in found.notes
    found.tensors["tok_emb.weight"] = torch.ones(2, 2, dtype=torch.int8)
    with pytest.raises(CheckpointError, match=r"numbers that are not floating point tok_emb.weight int8"):
        layouts.load(layout, module, found, "x")


# Objects beside the weights.


def of_module(monkeypatch, path, base=object, **attributes):
    """A class whose pickle says that it is ``path``, as a library that is not installed here would have written it."""
    module, name = path.rsplit(".", 1)
    made = type(name, (base,), {"__module__": module, **attributes})
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:count]), types.ModuleType(".".join(parts[:count])))
    setattr(sys.modules[module], name, made)
    return made


def test_harmless_objects_beside_the_weights_are_read_over(tmp_path, monkeypatch):
    beside = {
        "args": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("/data")),
        "options": types.SimpleNamespace(a=1),
        "date": datetime.datetime(2025, 7, 1),
        "loss": np.float64(0.25),
        "count": np.int64(3),
        "curve": np.arange(3.0),
        "counts": collections.defaultdict(list, a=[1]),
        "last": collections.deque([1, 2], maxlen=4),
        "range": slice(1, 2),
    }
    with monkeypatch.context() as patch:
        config = of_module(patch, "omegaconf.dictconfig.DictConfig")()
        config._content = {"a": of_module(patch, "omegaconf.nodes.AnyNode")()}
        config._metadata = {"type": typing.Any, "ref": dict}
        options = of_module(patch, "easydict.EasyDict", dict)(lr=1)
        options.lr = 1
        data = torch_file({"model": weights(1), **beside, "config": config, "options2": options})
    write(tmp_path / "file", data)
    assert taken(tmp_path / "file")[1] == 1 and "omegaconf" not in sys.modules
    others = read(tmp_path / "file").others
    assert others["args"] == others["loss"] == others["config"] == "Forgotten" and others["options2.lr"] == "int"


def test_objects_that_are_not_known_are_named(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        data = torch_file({"model": weights(1), "x": of_module(patch, "their.program.Config")()})
    write(tmp_path / "file", data)
    with pytest.raises(CheckpointError, match=r"beside tensors \(their.program.Config\).*save the weights yourself"):
        read(tmp_path / "file")


@pytest.mark.parametrize("function", [eval, exec, getattr, os.system, functools.partial, importlib.import_module])
def test_what_is_not_allowed_by_name_is_refused(tmp_path, function):
    class Calls:
        def __reduce__(self):
            return function, (f"open({str(tmp_path / 'harm')!r}, 'w')",)

    for place in (Calls(), {"model": weights(1), "args": argparse.Namespace(a=Calls())}):
        with pytest.raises(CheckpointError, match="would run code of the file"):
            read(saved(tmp_path, place))
    assert not (tmp_path / "harm").exists()


def test_what_is_allowed_by_name_is_not_called(tmp_path, monkeypatch):
    path = saved(tmp_path, {"model": weights(1), "date": datetime.datetime(2025, 7, 1), "x": np.float64(1)})
    monkeypatch.setattr(np._core.multiarray, "scalar", None)
    assert taken(path)[1] == 1
    assert all(kind.__module__ == "maskgit_export.standins" for kind, _ in standins.ALLOWED)


# Folders and several files.


def sharded(folder, places, files=None, metadata=None):
    """Safetensors in several files, and their index; ``places`` is the index's map, which ``files`` may differ from."""
    folder.mkdir(exist_ok=True)
    for file in set((files or places).values()):
        part = {name: torch.ones(2, 2) for name, place in (files or places).items() if place == file}
        checkpoint.write_safetensors(folder / file, part)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": metadata or {}, "weight_map": places}))
    return index


NAMES = list(weights(0))
PLACES = {
    NAMES[0]: "model-00001-of-00002.safetensors",
    NAMES[1]: "model-00002-of-00002.safetensors",
    NAMES[2]: "model-00001-of-00002.safetensors",
}


def test_several_files_with_an_index(tmp_path):
    index = sharded(tmp_path / "a", PLACES)
    for path in (tmp_path / "a", index):
        assert set(taken(path)[0].tensors) == set(NAMES)
        files = read(path).files
        assert {file.name for file in files} == {index.name, *PLACES.values()}
        assert all(checkpoint.sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    with pytest.raises(CheckpointError, match="one of 2 files that hold a checkpoint together: give the folder"):
        read(tmp_path / "a" / PLACES[NAMES[0]])
    # PyTorch's own files too.
    (tmp_path / "b").mkdir()
    for number, name in enumerate(NAMES):
        write(tmp_path / "b" / f"pytorch_model-{number}.bin", torch_file({f"module.{name}": torch.ones(2, 2)}))
    places = {f"module.{name}": f"pytorch_model-{number}.bin" for number, name in enumerate(NAMES)}
    (tmp_path / "b" / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert set(taken(tmp_path / "b")[0].tensors) == set(NAMES)


@pytest.mark.parametrize("name", ["../out.safetensors", "/etc/out", "a/b", "..", "", "a\\b", "C:x", "x\0y"])
def test_an_index_that_names_a_file_outside_of_its_folder(tmp_path, name):
    checkpoint.write_safetensors(tmp_path / "out.safetensors", weights(1))
    index = sharded(tmp_path / "a", PLACES)
    index.write_text(json.dumps({"weight_map": {**PLACES, NAMES[0]: name}}))
    with pytest.raises(CheckpointError, match="which is no file of its folder: not opened"):
        read(tmp_path / "a")


def test_an_index_that_does_not_fit(tmp_path):
    index = sharded(tmp_path / "a", PLACES)
    missing = tmp_path / "a" / PLACES[NAMES[1]]
    data = missing.read_bytes()
    missing.unlink()
    with pytest.raises(CheckpointError, match=r"of the 2 files that it names, model-00002-of-00002.safetensors is not"):
        read(tmp_path / "a")
    missing.write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match=r"00002-of-00002.safetensors: a damaged safetensors"):
        read(tmp_path / "a")
    checkpoint.write_safetensors(missing, {"other": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"00002-of-00002.safetensors: lacks tok_emb.weight"):
        read(tmp_path / "a")
    missing.write_bytes(GOOD["flax"])
    with pytest.raises(CheckpointError, match=r"a Flax checkpoint; .* names files of PyTorch"):
        read(tmp_path / "a")
    for text in ("", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "[" * 100_000):
        index.write_text(text)
        with pytest.raises(CheckpointError, match="no index of a checkpoint"):
            read(tmp_path / "a")


def test_folders(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(CheckpointError, match="a folder with one checkpoint is expected; it has nothing"):
        read(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"it has config.json, none named \*.safetensors"):
        read(folder)
    saved(folder, {"model": weights(1)}, "last.ckpt")
    assert taken(folder)[1] == 1 and read(folder).path == folder / "last.ckpt"
    saved(folder, {"model": weights(1)}, "best.ckpt")
    with pytest.raises(CheckpointError, match=r"it has best.ckpt, last.ckpt: give the file$"):
        read(folder)
    shards = tmp_path / "shards"
    sharded(shards, PLACES).unlink()
    with pytest.raises(CheckpointError, match=r"give the file; files of one checkpoint need their index"):
        read(shards)
    for name, more, message in (
        ("dcp", ["__0_0.distcp", ".metadata"], "format_utils dcp_to_torch .*dcp weights.pt"),
        ("orbax", ["_METADATA", "manifest.ocdbt"], "a checkpoint of Orbax.*flax.serialization.to_bytes"),
    ):
        (tmp_path / name).mkdir()
        for file in more:
            (tmp_path / name / file).touch()
        with pytest.raises(CheckpointError, match=message):
            read(tmp_path / name)


def test_an_unknown_layout_is_described(tmp_path):
    content = {"state_dict": {f"model.{part}.{n}.weight": torch.ones(1) for part in "ab" for n in range(3)}, "epoch": 3}
    for data, told in (
        (
            torch_file(content),
            [
                "It has 6 tensors: state_dict.model.a.0.weight, ",
                "under the keys state_dict (6)",
                "all begin with 'state_dict.model.', then a (3), b (3)",
                "beside them epoch",
                "Looked for Google MaskGIT transformer (blocks.0.",
                "maskgit-export bundle MODULE:FUNCTION",
            ],
        ),
        (torch_file({"epoch": 3, "list": [torch.ones(1)]}), ["no tensors with names and 1 without names", "epoch"]),
        (msgpack.packb({"weights": 1}), ["It has no tensors with names; beside them weights"]),
        (flax_file({"a": {"b": 3}}), ["It has no tensors with names; beside them params"]),
        (torch_file({"a": torch.zeros(2, dtype=torch.int64)}), ["It has 1 tensors: a"]),
    ):
        with pytest.raises(CheckpointError) as error:
            layouts.read(write(tmp_path / "file", data), layouts.HALTON, "transformer")
        assert all(part in str(error.value) for part in told), str(error.value)


def test_content_without_end(tmp_path):
    """A dictionary that is its own value, as only a pickle can have it."""
    content = {"model": weights(1)}
    content["a"] = content["b"] = content
    torch.save(content, tmp_path / "file")
    with pytest.raises(CheckpointError, match="nested too deeply"):
        read(tmp_path / "file")
