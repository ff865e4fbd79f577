"""Quantising and halving: the graphs stay standard, errors stay small, refusals are in words."""

import json
import os
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import onnx
import pytest
from conftest import tiny_avatars

from maskgit_export import cli, quantize
from maskgit_export.bundle import validate
from maskgit_export.mvtm import without_labels
from maskgit_export.quantize import MAX_PAIR, in_pairs, quantize_activations, quantize_weight

COMMAND = os.environ.get("MASKGIT_BIN")


def convert(command, source, output, *options):
    engine = ["--command", COMMAND] if COMMAND else []
    return cli.main([command, str(source), "-o", str(output), *engine, *options])


@pytest.mark.parametrize(
    "command, report, cosine", [("quantize", "quantization.json", 0.995), ("half", "half.json", 0.99999)]
)
def test_converts_every_kind_of_model(exported, tmp_path, command, report, cosine):
    _, folder = exported
    assert convert(command, folder, tmp_path / "out", "--steps", "2") == 0
    metadata, _ = validate(tmp_path / "out")
    assert metadata.name.endswith({"quantize": "-int8", "half": "-fp16"}[command])
    manifest = json.loads((tmp_path / "out" / "bundle.json").read_text())
    assert manifest["precision"] == {"quantize": "int8", "half": "fp16"}[command]
    figures = json.loads((tmp_path / "out" / report).read_text())
    assert figures["logits_cosine"] > cosine
    assert figures["image_psnr"] > 20


def test_weights_are_standard_int8(avatars, tmp_path):
    _, folder = avatars
    assert convert("quantize", folder, tmp_path / "out", "--steps", "2", "--min-cosine", "0") == 0
    model = onnx.load(tmp_path / "out" / "transformer.onnx")
    onnx.checker.check_model(model)
    tensors = {t.name: t for t in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.op_type == "DequantizeLinear"]
    assert len(nodes) >= 4
    for node in nodes:
        values = onnx.numpy_helper.to_array(tensors[node.input[0]])
        scales = onnx.numpy_helper.to_array(tensors[node.input[1]])
        axis = next(a.i for a in node.attribute if a.name == "axis")
        assert values.dtype == np.int8 and values.min() >= -127
        assert scales.shape == (values.shape[axis],) and (scales > 0).all()
    layers = json.loads((tmp_path / "out" / "quantization.json").read_text())["layers"]
    assert sum(layer["kept"] is None for layer in layers if layer["graph"] == "transformer") == len(nodes)
    assert all(0 < layer["error"] < 0.05 for layer in layers if layer["kept"] is None)


def test_a_head_shares_the_numbers_of_its_table(bundle_of, tmp_path, monkeypatch):
    from conftest import GOOGLE

    from maskgit_export.bundle import write_manifest
    from maskgit_export.onnx_export import export_graph
    from maskgit_export.synth import make_google

    monkeypatch.setattr(quantize, "MIN_TABLE", 1)
    monkeypatch.setattr(quantize, "MIN_NUMBERS", 1)
    made = make_google(replace(GOOGLE, dim=48), "google", 3)
    # The tokenizer is that of the other model.
    shutil.copytree(bundle_of("google")[1], tmp_path / "fp32")
    export_graph(made, "transformer", tmp_path / "fp32" / "transformer.onnx")
    # The exporter computes small heads; it leaves large ones as rows of the table, so.
    model = onnx.load(tmp_path / "fp32" / "transformer.onnx")
    tensors = {t.name: t for t in model.graph.initializer}
    table = next(n.input[0] for n in model.graph.node if n.op_type == "Gather")
    rows = onnx.numpy_helper.to_array(tensors[table])
    codes, width = made.metadata.codes, rows.shape[1]
    head = next(
        t
        for t in tensors.values()
        if list(t.dims) == [width, codes] and np.array_equal(onnx.numpy_helper.to_array(t), rows[:codes].T)
    )
    bounds = [
        onnx.numpy_helper.from_array(np.array([n]), name)
        for n, name in ((0, "first"), (codes, "end"), (0, "axis"), (1, "step"))
    ]
    model.graph.initializer.extend(bounds)
    cut = onnx.helper.make_node("Slice", [table, *(t.name for t in bounds)], ["cut"], name="cut")
    turned = onnx.helper.make_node("Transpose", ["cut"], [head.name], name="turned", perm=[1, 0])
    model.graph.initializer.remove(head)
    nodes = [cut, turned, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "fp32" / "transformer.onnx")
    write_manifest(made.metadata, tmp_path / "fp32")

    assert convert("quantize", tmp_path / "fp32", tmp_path / "out", "--steps", "2", "--min-cosine", "0") == 0
    model = onnx.load(tmp_path / "out" / "transformer.onnx")
    onnx.checker.check_model(model)
    gather = next(n for n in model.graph.node if n.op_type == "Gather")
    assert {n.op_type for n in model.graph.node if gather.input[0] in n.input} == {"Gather", "Slice"}
    # Once in the file, as int8.
    assert [t.data_type for t in model.graph.initializer if list(t.dims) == list(rows.shape)] == [onnx.TensorProto.INT8]
    figures = json.loads((tmp_path / "out" / "quantization.json").read_text())
    layers = {layer["op"]: layer for layer in figures["layers"] if layer["weight"] == table}
    assert set(layers) == {"Gather", "MatMul"} and all(0 < layer["error"] < 0.05 for layer in layers.values())
    assert figures["logits_cosine"] > 0.995
    if COMMAND:
        told = json.loads(
            subprocess.run(
                [COMMAND, "info", "--graph", "--json", "--model", str(tmp_path / "out")],
                check=True,
                capture_output=True,
            ).stdout
        )
        details = [(o["name"], o["detail"]) for o in told["graphs"]["transformer"]]
        assert ("Embedding", f"{len(rows)} of {width}, int8") in details
        assert any(name == "Linear" and detail.startswith(f"{width} to {codes}, int8") for name, detail in details)


def test_the_layer_that_writes_pixels_stays_fp32(avatars, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "MIN_NUMBERS", 1)
    _, folder = avatars
    assert convert("quantize", folder, tmp_path / "out", "--steps", "2", "--min-psnr", "0") == 0
    layers = [
        layer
        for layer in json.loads((tmp_path / "out" / "quantization.json").read_text())["layers"]
        if layer["graph"] == "decoder"
    ]
    model = onnx.load(tmp_path / "out" / "decoder.onnx")
    fp32 = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    assert len(layers) > 2 and [layer["kept"] is not None for layer in layers] == [False] * (len(layers) - 1) + [True]
    assert "in the pixels" in layers[-1]["kept"]
    assert [node.input[1] in fp32 for node in model.graph.node if node.op_type == "Conv"] == [False] * (
        len(layers) - 1
    ) + [True]


def test_a_bad_layer_stays_fp32_and_says_why(avatars, tmp_path):
    _, folder = avatars
    assert convert("quantize", folder, tmp_path / "out", "--steps", "2", "--max-error", "0") == 0
    layers = json.loads((tmp_path / "out" / "quantization.json").read_text())["layers"]
    assert layers and all(layer["kept"] for layer in layers)
    assert any("relative error" in layer["kept"] for layer in layers)


def test_refuses_in_words(avatars, tmp_path, capsys):
    _, folder = avatars
    assert convert("half", folder, tmp_path / "half", "--steps", "2") == 0
    assert convert("quantize", tmp_path / "half", tmp_path / "out") == 1
    assert "its precision is fp16" in capsys.readouterr().err
    (tmp_path / "there").mkdir()
    assert convert("quantize", folder, tmp_path / "there") == 1
    assert "exists already" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".partial-*"))


def test_weights_too_large_for_fp16_stay(avatars, tmp_path):
    from maskgit_export.half import half_graph

    _, folder = avatars
    model = onnx.load(folder / "transformer.onnx")
    large = next(
        t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and np.prod(t.dims) >= 1024
    )
    values = np.array(onnx.numpy_helper.to_array(large))
    values.flat[0] = 1e6
    large.CopyFrom(onnx.numpy_helper.from_array(values, large.name))
    assert half_graph(model) == [large.name]


def test_quantisers_round_to_the_nearest_level():
    choice = np.random.default_rng(0)
    w = choice.normal(size=(40, 9)).astype(np.float32)
    w[:, 3] = 0
    q, scales = quantize_weight(w, 1)
    assert np.abs(q * scales - w).max() <= scales.max() / 2 + 1e-7 and (q[:, 3] == 0).all()
    x = choice.normal(size=(5, 40)).astype(np.float32) + 3
    spans = np.maximum(x.max(1), 0) - np.minimum(x.min(1), 0)
    assert (np.abs(quantize_activations(x, True) - x).max(1) <= spans / 255 * 0.51).all()
    assert not quantize_activations(np.zeros((2, 4), np.float32), True).any()


def pairs_fit(q, axis):
    """Whether two neighbours along the inner axis, times bytes, have a sum of 16 bits."""
    inner = np.moveaxis(q, 0 if axis == 1 else 1, 0).astype(np.int32)
    a, b = inner[0 : len(inner) // 2 * 2 : 2], inner[1::2]
    sums = [255 * (np.maximum(a, 0) + np.maximum(b, 0)), 255 * (np.minimum(a, 0) + np.minimum(b, 0))]
    return sums[0].max(initial=0) < 2**15 and sums[1].min(initial=0) >= -(2**15)


@pytest.mark.parametrize("shape,axis", [((40, 9), 1), ((9, 41), 0), ((6, 5, 3, 3), 0), ((4, 1, 1, 1), 0)])
def test_weights_in_pairs_leave_room(shape, axis):
    choice = np.random.default_rng(1)
    for w in (choice.normal(size=shape), choice.uniform(-1, 1, size=shape), np.ones(shape), np.zeros(shape)):
        w = w.astype(np.float32)
        q, scales = in_pairs(w, axis)
        places = [1] * w.ndim
        places[axis] = -1
        assert q.dtype == np.int8 and q.shape == w.shape and scales.shape == (shape[axis],)
        assert pairs_fit(q, axis) and (scales > 0).all()
        error, plain = (
            np.square(q * scales.reshape(places) - w).sum() for q, scales in ((q, scales), quantize_weight(w, axis))
        )
        # At half the range, which always fits, it is four times as large.
        assert error <= 4.2 * plain + 1e-9


def test_a_pair_that_is_too_large_becomes_smaller():
    w = np.array([[127.0, 100, -127, 3, 127, -127]], np.float32)
    q, scales = in_pairs(w, 0)
    assert pairs_fit(q, 0)
    assert np.abs(q * scales - w).max() < 127 * 0.1, "a coarser scale is better than clipping by half"
    assert abs(int(q[0, 0])) + abs(int(q[0, 1])) <= MAX_PAIR


def test_a_class_can_be_left_out():
    import torch

    network = tiny_avatars().transformer
    smaller = without_labels(network, ["cat"])
    tokens = torch.zeros(1, 16, dtype=torch.long)
    for old, new in [(1, 0), (2, 1)]:  # dog, null
        assert torch.equal(network(tokens, torch.tensor([old])), smaller(tokens, torch.tensor([new])))
    with pytest.raises(ValueError, match="no class bird"):
        without_labels(network, ["bird"])


def test_measuring_one_graph_again_is_measuring_all(avatars, tmp_path):
    """A graph that changed shows though only it is measured; one that is not named keeps its figures."""
    from maskgit_export.precision import Comparison, open_fp32, real_inputs

    _, folder = avatars
    assert (
        convert(
            "quantize",
            folder,
            tmp_path / "int8",
            "--steps",
            "2",
            "--min-cosine",
            "0",
            "--min-psnr",
            "0",
            "--min-agreement",
            "0",
        )
        == 0
    )
    metadata, graphs = open_fp32(folder, tmp_path / "none")
    inputs = real_inputs(folder, metadata, graphs, steps=2)
    whole = Comparison(folder, inputs, COMMAND).measure(tmp_path / "int8")
    comparison = Comparison(folder, inputs, COMMAND)
    same = comparison.measure(folder)
    assert same["image_psnr"] > 90 and same["logits_cosine"] > 0.9999999 and same["encoder_same_tokens"] == 1
    step = comparison.measure(tmp_path / "int8", "transformer")
    assert (
        step["logits_cosine"] == whole["logits_cosine"] < same["logits_cosine"]
        and step["image_psnr"] == same["image_psnr"]
    )
    assert comparison.measure(tmp_path / "int8", "decoder", "encoder") == whole
