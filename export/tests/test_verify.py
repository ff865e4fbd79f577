"""``verify`` passes a good bundle and detects bad ones."""

import argparse
import json
import shutil
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from maskgit_export import verify
from maskgit_export.bundle import write_manifest
from maskgit_export.mvtm import save_mvtm
from maskgit_export.tokenizer import save_tokenizer


def call(*argv):
    parser = argparse.ArgumentParser()
    verify.add_arguments(parser)
    return verify.run(parser.parse_args([str(a) for a in argv]))


@pytest.fixture
def bundle(avatars, tmp_path):
    """``(folder of a copy, the two weight files)``."""
    model, folder = avatars
    save_tokenizer(model.tokenizer, tmp_path / "t.pt")
    save_mvtm(model.transformer.config, model.transformer.state_dict(), tmp_path / "m.pt")
    return shutil.copytree(folder, tmp_path / "bundle"), (tmp_path / "t.pt", tmp_path / "m.pt")


def test_agreement_and_reference(bundle, avatars, capsys):
    folder, weights = bundle
    assert call(folder, "--checkpoint", *weights, "--write-reference") == 0
    assert "ONNX Runtime against PyTorch: max abs error logits" in capsys.readouterr().out
    metadata = avatars[0].metadata
    sizes = {path.name: path.stat().st_size for path in (folder / "reference").iterdir()}
    n, k = metadata.tokens, metadata.codes
    assert sizes == {
        "tokens.i64": 32 * n,
        "labels.i64": 32,
        "codes.i64": 32 * n,
        "logits.f32": 16 * n * k,
        "image.f32": 48 * 16 * 16,
        "encoded.i64": 32 * n,
    }
    tokens = np.fromfile(folder / "reference" / "tokens.i64", "<i8").reshape(4, n)
    assert list((tokens == metadata.mask_id).sum(1)) == [16, 8, 4, 0]
    assert np.fromfile(folder / "reference" / "labels.i64", "<i8")[-1] == metadata.null_label
    # Without PyTorch, the reference is what ONNX Runtime is compared with.
    assert call(folder) == 0
    assert "ONNX Runtime against the reference" in capsys.readouterr().out


def change_weight(folder, graph, amount):
    """Changes one weight of a graph, and makes the manifest fit again."""
    from maskgit_export.bundle import read_manifest

    path = folder / f"{graph}.onnx"
    model = onnx.load(path)
    item = max(
        (i for i in model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT), key=lambda i: np.prod(i.dims)
    )
    weight = numpy_helper.to_array(item).copy()
    weight += amount
    item.CopyFrom(numpy_helper.from_array(weight.astype(np.float32), item.name))
    onnx.save(model, path)
    write_manifest(read_manifest(folder)[0], folder)


def test_fewer_rows(bundle, capsys):
    """A row of the reference that is wrong is noticed only when it is among those that are compared."""
    folder, weights = bundle
    assert call(folder, "--checkpoint", *weights, "--write-reference", "--rows", "2") == 2
    assert "has all 4 rows" in capsys.readouterr().err and not (folder / "reference").exists()
    assert call(folder, "--checkpoint", *weights, "--write-reference") == 0
    logits = np.fromfile(folder / "reference/logits.f32", "<f4")
    logits[-1] += 1
    logits.tofile(folder / "reference/logits.f32")
    assert call(folder, "--checkpoint", *weights, "--rows", "1") == 0
    assert call(folder, "--checkpoint", *weights, "--rows", "3") == 0
    assert call(folder, "--checkpoint", *weights) == 1


@pytest.mark.parametrize("graph", ["transformer", "decoder"])
@pytest.mark.parametrize("amount", [0.05, np.nan])
def test_changed_weights_are_detected(bundle, graph, amount, capsys):
    folder, weights = bundle
    change_weight(folder, graph, amount)
    assert call(folder, "--checkpoint", *weights) == 1
    assert "DIFFER" in capsys.readouterr().out


def test_damaged_files_are_detected(bundle, capsys):
    folder, _ = bundle
    data = bytearray((folder / "decoder.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "decoder.onnx").write_bytes(data)
    assert call(folder) == 1
    assert "SHA-256" in capsys.readouterr().err


def test_a_damaged_reference_is_detected(bundle, capsys):
    folder, weights = bundle
    assert call(folder, "--checkpoint", *weights, "--write-reference") == 0
    logits = np.fromfile(folder / "reference" / "logits.f32", "<f4")
    (logits + np.float32(0.01)).tofile(folder / "reference" / "logits.f32")
    assert call(folder) == 1
    logits[:5].tofile(folder / "reference" / "logits.f32")
    assert call(folder) == 1
    assert "5 numbers" in capsys.readouterr().err


PROGRAM = """#!{python}
import sys
import numpy as np
import onnxruntime
argv = sys.argv[2:]
option = dict(zip(argv[::2], argv[1::2]))
session = onnxruntime.InferenceSession(option["--model"] + "/" + option["--graph"] + ".onnx")
if option["--graph"] == "encoder":
    inputs = {{"image": np.fromfile(option["--image"], "<f4").reshape(-1, 3, 16, 16)}}
else:
    inputs = {{"tokens": np.fromfile(option["--tokens"], "<i8").reshape(-1, 16)}}
if option["--graph"] == "transformer":
    inputs["label"] = np.array([int(x) for x in option["--label"].split(",")])
out = session.run(None, inputs)[0]
if option["--graph"] == "transformer":
    out = out + np.float32({error})
out.tofile(option["-o"])
"""


@pytest.mark.parametrize("error, status", [(0.0, 0), (0.002, 1)])
def test_the_command_takes_part(bundle, tmp_path, error, status, capsys):
    program = tmp_path / "program"
    program.write_text(PROGRAM.format(python=sys.executable, error=error))
    program.chmod(0o755)
    folder, weights = bundle
    assert call(folder, "--checkpoint", *weights, "--command", program) == status
    assert "maskgit against PyTorch" in capsys.readouterr().out


def test_a_command_that_fails_is_reported(bundle, tmp_path):
    with pytest.raises(SystemExit, match="cannot be started"):
        call(bundle[0], "--command", tmp_path / "nothing")
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(SystemExit, match="status 3: broken"):
        call(bundle[0], "--command", program)


def test_weights_that_do_not_fit_together(bundle, avatars, tmp_path):
    from dataclasses import replace

    from maskgit_export.mvtm import MaskedTransformer

    config = replace(avatars[0].transformer.config, codes=64)
    save_mvtm(config, MaskedTransformer(config).state_dict(), tmp_path / "other.pt")
    with pytest.raises(SystemExit, match="not trained together"):
        call(bundle[0], "--checkpoint", bundle[1][0], tmp_path / "other.pt")


def test_the_export_command(bundle, tmp_path, capsys):
    from maskgit_export.cli import main

    tokenizer, mvtm = map(str, bundle[1])
    out = tmp_path / "out"
    common = ["export", "--tokenizer", tokenizer, "--mvtm", mvtm, "-o", str(out)]
    assert main(common) == 2
    assert "give --name and --licence" in capsys.readouterr().err and not out.exists()
    assert main([*common, "--name", "x", "--licence", "MIT", "--steps", "0"]) == 1
    assert not (out / "bundle.json").exists()
    assert main([*common, "--name", "x", "--licence", "MIT", "--steps", "6", "--guidance", "0.5"]) == 0
    raw = json.loads((out / "bundle.json").read_text())
    assert raw["name"] == "x" and raw["sampling"]["steps"] == 6 and raw["sampling"]["guidance"] == 0.5
    assert call(out, "--checkpoint", tokenizer, mvtm) == 0
