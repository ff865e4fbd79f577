"""Writes tests/data/graphs: small graphs for the engine's tests, most of them wrong in one way each.

    python tests/data/make_graphs.py [FOLDER]

A good one maps `x` f32[2,3] to `y` f32[2,3]. tests/engine.rs says what each must give.
"""

import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

F32, I64 = TensorProto.FLOAT, TensorProto.INT64
node, info = helper.make_node, helper.make_tensor_value_info


def model(nodes, inputs=None, outputs=None, weights=(), opset=17):
    inputs = [("x", F32, [2, 3])] if inputs is None else inputs
    outputs = [("y", F32, [2, 3])] if outputs is None else outputs
    tensors = [w if isinstance(w, TensorProto) else numpy_helper.from_array(w[1], w[0]) for w in weights]
    graph = helper.make_graph(nodes, "g", [info(*i) for i in inputs], [info(*o) for o in outputs], tensors)
    m = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="maskgit tests")
    m.ir_version = 8
    return m


def external():
    tensor = TensorProto(name="w", data_type=F32, dims=[3], data_location=TensorProto.EXTERNAL)
    for key, value in [("location", "/etc/passwd"), ("offset", "0"), ("length", "12")]:
        tensor.external_data.add(key=key, value=value)
    return tensor


def loop():
    body = helper.make_graph(
        [node("Identity", ["c"], ["c2"]), node("Identity", ["v"], ["v2"])],
        "body",
        [info("i", I64, []), info("c", TensorProto.BOOL, []), info("v", F32, [2, 3])],
        [info("c2", TensorProto.BOOL, []), info("v2", F32, [2, 3])],
    )
    weights = [("n", np.array(2**60)), ("yes", np.array(True))]
    return model([node("Loop", ["n", "yes", "x"], ["y"], body=body)], weights=weights)


def wide():
    """Large enough that every parallel path of tract is taken: matrix products, softmax, reductions, element-wise."""
    return model(
        [
            node("MatMul", ["a", "b"], ["product"]),
            node("Softmax", ["product"], ["soft"], axis=-1),
            node("ReduceMean", ["product"], ["mean"], axes=[-1], keepdims=1),
            node("Sub", ["product", "mean"], ["centred"]),
            node("Mul", ["centred", "centred"], ["squared"]),
            node("ReduceMean", ["squared"], ["variance"], axes=[-1], keepdims=1),
            node("Add", ["variance", "eps"], ["shifted"]),
            node("Sqrt", ["shifted"], ["deviation"]),
            node("Div", ["centred", "deviation"], ["normal"]),
            node("Sigmoid", ["normal"], ["gate"]),
            node("Erf", ["normal"], ["erf"]),
            node("Tanh", ["erf"], ["tanh"]),
            node("Mul", ["tanh", "gate"], ["gated"]),
            node("Add", ["gated", "soft"], ["sum"]),
            node("Add", ["sum", "bias"], ["y"]),
        ],
        [("a", F32, [131, 257]), ("b", F32, [257, 515])],
        [("y", F32, [131, 515])],
        [("eps", np.array(1e-5, np.float32)), ("bias", np.linspace(-1, 1, 515, dtype=np.float32))],
    )


RELU = [node("Relu", ["x"], ["y"])]


def shape(*dims):
    return ("dims", np.array(dims, np.int64))


def graphs():
    """Every graph by its name: good ones, then those that must be refused."""
    yield from good()
    yield from with_wrong_ports()
    yield from with_wrong_insides()
    yield from with_huge_values()


def good():
    yield "good", model(RELU)
    yield "open_batch", model(RELU, [("x", F32, ["anything", 3])], [("y", F32, ["anything", 3])])
    yield "no_shapes", model(RELU, [("x", F32, None)], [("y", F32, None)])
    yield (
        "two_ports",
        model(
            [node("Sub", ["x", "w"], ["v"]), node("Add", ["x", "w"], ["u"])],
            [("w", F32, [2, 3]), ("x", F32, [2, 3])],
            [("u", F32, [2, 3]), ("v", F32, [2, 3])],
        ),
    )
    yield (
        "listed_weight",
        model(
            [node("Add", ["x", "w"], ["y"])],
            [("w", F32, [3]), ("x", F32, [2, 3])],
            weights=[("w", np.array([1, 2, 3], np.float32))],
        ),
    )
    yield (
        "gather",
        model([node("Gather", ["w", "i"], ["y"])], [("i", I64, [2])], weights=[("w", np.eye(4, 3, dtype=np.float32))]),
    )
    yield "wide", wide()


def with_wrong_ports():
    yield "bad_input_name", model([node("Relu", ["z"], ["y"])], [("z", F32, [2, 3])])
    yield "bad_input_type", model([node("Cast", ["x"], ["y"], to=F32)], [("x", I64, [2, 3])])
    yield "bad_input_size", model(RELU, [("x", F32, [2, 4])], [("y", F32, [2, 4])])
    yield "bad_input_rank", model(RELU, [("x", F32, [2, 3, 1])], [("y", F32, [2, 3, 1])])
    yield "extra_input", model([node("Add", ["x", "z"], ["y"])], [("x", F32, [2, 3]), ("z", F32, [2, 3])])
    yield "twice_the_input", model(RELU, [("x", F32, [2, 3]), ("x", F32, [2, 3])])
    yield "no_input", model([node("Identity", ["w"], ["y"])], [], weights=[("w", np.ones([2, 3], np.float32))])
    yield "bad_output_name", model([node("Relu", ["x"], ["z"])], outputs=[("z", F32, [2, 3])])
    yield "bad_output_type", model([node("Cast", ["x"], ["y"], to=I64)], outputs=[("y", I64, [2, 3])])
    yield "bad_output_size", model([node("Transpose", ["x"], ["y"], perm=[1, 0])], outputs=[("y", F32, [3, 2])])
    yield "extra_output", model([*RELU, node("Neg", ["x"], ["z"])], outputs=[("y", F32, [2, 3]), ("z", F32, [2, 3])])
    yield "lying_output_type", model([node("Cast", ["x"], ["y"], to=I64)])
    yield "lying_output_size", model([node("Transpose", ["x"], ["y"], perm=[1, 0])])
    yield "no_output", model(RELU, outputs=[])


def with_wrong_insides():
    yield "undefined_output", model([node("Relu", ["x"], ["z"])])
    yield "undefined_value", model([node("Add", ["x", "nowhere"], ["y"])])
    yield "cycle", model([node("Add", ["x", "b"], ["a"]), node("Add", ["a", "x"], ["b"]), node("Relu", ["b"], ["y"])])
    yield "defined_twice", model(RELU + RELU)
    yield "weight_twice", model(RELU, weights=[("w", np.ones(3, np.float32)), ("w", np.ones(3, np.float32))])
    yield "unknown_operator", model([node("Draw", ["x"], ["y"])])
    yield "loop", loop()
    yield "external_data", model([node("Add", ["x", "w"], ["y"])], weights=[external()])
    yield (
        "string_weight",
        model([node("Identity", ["x"], ["y"])], weights=[TensorProto(name="w", data_type=8, dims=[1], raw_data=b"x")]),
    )
    yield (
        "short_weight",
        model(
            [node("Add", ["x", "w"], ["y"])],
            weights=[TensorProto(name="w", data_type=1, dims=[2**40], raw_data=b"0123")],
        ),
    )
    yield (
        "overflowing_weight",
        model(
            [node("Add", ["x", "w"], ["y"])],
            weights=[TensorProto(name="w", data_type=1, dims=[2**32, 2**32], raw_data=b"0123")],
        ),
    )
    yield (
        "negative_weight",
        model(
            [node("Add", ["x", "w"], ["y"])], weights=[TensorProto(name="w", data_type=1, dims=[-1], raw_data=b"0123")]
        ),
    )
    yield "missing_arguments", model([node("MatMul", ["x"], ["y"])])
    yield "mismatched_shapes", model([node("MatMul", ["x", "x"], ["y"])])


def with_huge_values():
    yield (
        "huge_constant",
        model(
            [
                node("ConstantOfShape", ["dims"], ["c"]),
                node("ReduceMax", ["c"], ["m"], keepdims=0),
                node("Add", ["x", "m"], ["y"]),
            ],
            weights=[shape(2**20, 2**20)],
        ),
    )
    yield (
        "huge_expand",
        model(
            [
                node("Expand", ["x", "dims"], ["e"]),
                node("ReduceMax", ["e"], ["m"], keepdims=0),
                node("Add", ["x", "m"], ["y"]),
            ],
            weights=[shape(2**20, 2**20, 2, 3)],
        ),
    )
    yield (
        "huge_tile",
        model(
            [
                node("Tile", ["w", "dims"], ["e"]),
                node("ReduceMax", ["e"], ["m"], keepdims=0),
                node("Add", ["x", "m"], ["y"]),
            ],
            weights=[shape(2**30), ("w", np.ones(1000, np.float32))],
        ),
    )
    yield (
        "huge_range",
        model(
            [
                node("Range", ["zero", "end", "one"], ["r"]),
                node("Cast", ["r"], ["f"], to=F32),
                node("ReduceMax", ["f"], ["m"], keepdims=0),
                node("Add", ["x", "m"], ["y"]),
            ],
            weights=[("zero", np.array(0)), ("end", np.array(2**40)), ("one", np.array(1))],
        ),
    )
    yield (
        "overflowing_expand",
        model(
            [
                node("Expand", ["x", "dims"], ["e"]),
                node("ReduceMax", ["e"], ["m"], keepdims=0),
                node("Add", ["x", "m"], ["y"]),
            ],
            weights=[shape(2**30, 2**30, 2**30, 2, 3)],
        ),
    )


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, m in graphs():
        (folder / f"{name}.onnx").write_bytes(m.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "graphs")
