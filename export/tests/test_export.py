"""Exported graphs compute what PyTorch computes, for every kind of model and any batch."""

import os
import shutil

import numpy as np
import onnx
import pytest
import torch
from conftest import tiny_avatars

from maskgit_export import export
from maskgit_export.adapter import Model
from maskgit_export.bundle import BundleError, validate, write_manifest
from maskgit_export.onnx_export import OPSET, export_graph, export_graphs
from maskgit_export.verify import OnnxRuntime, PyTorch, make_batch


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_onnx_runtime_agrees_with_pytorch(exported, rows):
    model, folder = exported
    metadata, graphs = validate(folder)
    batch = make_batch(metadata, 11)
    ours, theirs = OnnxRuntime(folder, graphs), PyTorch(model)
    tokens, labels, codes = batch.tokens[:rows], batch.labels[:rows], batch.codes[:rows]
    expected = theirs.logits(tokens, labels)
    assert expected.std() > 0.05, "logits that hardly differ would hide a mistake"
    np.testing.assert_allclose(ours.logits(tokens, labels), expected, atol=1e-5)
    image = theirs.decode(codes)
    assert image.std() > 0.02 and image.min() >= 0 and image.max() <= 1
    np.testing.assert_allclose(ours.decode(codes), image, atol=1e-5)
    expected = theirs.encode(image)
    assert len(np.unique(expected)) > 1
    assert (ours.encode(image) == expected).mean() > 0.95


def test_the_label_and_the_mask_matter(exported):
    _, folder = exported
    metadata, graphs = validate(folder)
    batch, runtime = make_batch(metadata, 1), OnnxRuntime(folder, graphs)
    base = runtime.logits(batch.tokens, np.zeros(4, np.int64))
    assert np.abs(base - runtime.logits(batch.tokens, np.ones(4, np.int64))).max() > 1e-4
    assert np.abs(base - runtime.logits(batch.codes, np.zeros(4, np.int64)))[0].max() > 1e-4
    if metadata.null_label is not None:
        assert np.abs(base - runtime.logits(batch.tokens, np.full(4, metadata.null_label))).max() > 1e-4


def test_graphs_are_plain(exported):
    _, folder = exported
    for graph in ("transformer", "decoder", "encoder"):
        data = (folder / f"{graph}.onnx").read_bytes()
        model = onnx.load_from_string(data)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
        assert len(model.functions) == 0
        operators = {node.op_type for node in model.graph.node}
        assert not operators & {"If", "Loop", "Scan", "Attention", "Range", "Where"}
        # No stack traces: they would name files of the machine that exported.
        assert b".py" not in data and b"stack_trace" not in data
    assert {"Softmax", "MatMul"} <= {node.op_type for node in onnx.load(folder / "transformer.onnx").graph.node}


def test_the_same_weights_give_the_same_bytes(avatars, tmp_path):
    """In another model, made anew; test_onnx_file.py has all three graphs of one model."""
    path = export_graph(tiny_avatars(), "transformer", tmp_path / "transformer.onnx")
    assert path.read_bytes() == (avatars[1] / path.name).read_bytes()


def test_a_model_without_an_encoder(avatars, tmp_path):
    whole, _ = avatars

    class Half(Model):
        def __init__(self):
            super().__init__(whole.metadata)
            self.whole = whole

        def logits(self, tokens, label):
            return self.whole.logits(tokens, label)

        def decode(self, tokens):
            return self.whole.decode(tokens)

    export_graphs(Half(), tmp_path)
    write_manifest(whole.metadata, tmp_path)
    assert list(validate(tmp_path)[1]) == ["transformer", "decoder"]


def test_logits_of_the_wrong_shape_are_refused(avatars, tmp_path):
    whole, _ = avatars

    class Short(Model):
        def logits(self, tokens, label):
            return torch.zeros(1, 1, 1) * tokens.unsqueeze(-1)[:, 1:] + label.reshape(-1, 1, 1)

        def decode(self, tokens):
            return whole.decode(tokens)

    with pytest.raises(BundleError, match="logits has a dimension of"):
        export_graphs(Short(whole.metadata), tmp_path)


def test_a_bundle_in_the_way_is_replaced_and_a_failure_leaves_it(avatars, tmp_path, monkeypatch):
    model, folder = avatars

    def graphs(_, target):
        return [shutil.copy(folder / f"{graph}.onnx", target) for graph in ("transformer", "decoder", "encoder")]

    monkeypatch.setattr(export, "export_graphs", lambda *given: [type(folder)(path) for path in graphs(*given)])
    out = tmp_path / "bundle"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "bundle.json").write_text("an old one")
    export.write_bundle(model, out)
    assert validate(out)[0] == model.metadata and (out / "notes.txt").exists()
    before = (out / "bundle.json").read_bytes()

    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr(export, "write_manifest", fail)
    with pytest.raises(OSError, match="no space"):
        export.write_bundle(model, out)
    assert (out / "bundle.json").read_bytes() == before and os.listdir(tmp_path) == ["bundle"]
