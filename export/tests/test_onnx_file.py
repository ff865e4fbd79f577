"""Files that are written and read without their weights in memory are those that protobuf writes and reads."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from maskgit_export import onnx_export, onnx_file
from maskgit_export.bundle import BundleError


def model(values):
    """A model with all kinds of fields, and a weight."""
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", len(values)]) for name in ("x", "y")]
    small = numpy_helper.from_array(np.ones(3, np.float32), "small")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "main",
        ports[:1],
        ports[1:],
        [small, numpy_helper.from_array(values, "w")],
        value_info=[helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1])],
    )
    # Present though empty, as `_clean` leaves it.
    graph.initializer[1].doc_string = graph.doc_string = ""
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], producer_name="x", model_version=300)
    helper.set_model_props(made, {"key": "value"})
    return made


@pytest.mark.parametrize("size", [1, 200, 70000])
def test_what_is_written_is_what_protobuf_writes(tmp_path, size):
    values = np.arange(size, dtype=np.float32)
    whole = model(values)
    empty = onnx.ModelProto.FromString(whole.SerializeToString())
    empty.graph.initializer[1].ClearField("raw_data")
    onnx_file.write(empty, {"w": (values.nbytes, values.tobytes)}, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == whole.SerializeToString(deterministic=True)
    del whole.graph.initializer[:]
    assert onnx_file.read_without_weights(tmp_path / "file") == whole
    with pytest.raises(ValueError, match="where 5 were announced"):
        onnx_file.write(empty, {"w": (5, values.tobytes)}, tmp_path / "other")


def test_every_graph_is_written_the_same_either_way(avatars, tmp_path, monkeypatch):
    whole, folder = avatars
    monkeypatch.setattr(onnx_export, "LARGE", 0)
    taken = []
    write = onnx_file.write
    monkeypatch.setattr(
        onnx_file, "write", lambda proto, weights, path: (taken.append(len(weights)), write(proto, weights, path))
    )
    for path in onnx_export.export_graphs(whole, tmp_path):
        assert (
            path.read_bytes()
            == (folder / path.name).read_bytes()
            == onnx.load(path).SerializeToString(deterministic=True)
        ), path.name
    assert min(taken) > 5


def test_more_than_one_file_may_have(avatars, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "PROTOBUF_LIMIT", 1000)
    with pytest.raises(BundleError, match="bytes of weights; one ONNX file holds at most 1000"):
        onnx_export.export_graphs(avatars[0], tmp_path)
    assert not list(tmp_path.iterdir())


def test_damaged_files_are_errors(tmp_path):
    data = model(np.arange(9, dtype=np.float32)).SerializeToString()
    file = tmp_path / "file"
    refused = 0
    for length in range(len(data)):
        file.write_bytes(data[:length])
        try:
            # Cut between two fields, a message is one with fewer fields.
            assert onnx_file.read_without_weights(file).ByteSize() <= length
        except ValueError:
            refused += 1
    assert refused > len(data) * 0.9
    for other in (b"", b"\xff" * 40, b"PK\x03\x04 not ONNX"):
        file.write_bytes(other)
        with pytest.raises(ValueError):
            onnx_file.read_without_weights(file)
