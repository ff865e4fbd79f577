"""``convert`` end to end: files to a bundle that runs, and files that do not fit."""

import argparse
import hashlib
import os

import numpy as np
import pytest
import torch
from conftest import GOOGLE, HALTON
from published_checkpoints import KINDS, converted, differing, expected, inputs, publish_small, reference, stored, write

from maskgit_export import checkpoint, convert, selection, verify
from maskgit_export.bundle import validate
from maskgit_export.checkpoint import CheckpointError
from maskgit_export.cli import main
from maskgit_export.published import google, halton, imagenet, layouts
from maskgit_export.synth import write_checkpoints


@pytest.fixture(autouse=True)
def small(monkeypatch):
    publish_small(monkeypatch)


# From Flax, only the form of GELU is another: test_quirks.py.
@pytest.mark.parametrize("kind", ["google-torch", "halton-torch"])
def test_files_become_a_bundle_that_computes_what_the_reference_does(kind, tmp_path, capsys):
    transformer, tokenizer = write(kind, tmp_path / "files")
    model, out = KINDS[kind][0], tmp_path / "new" / "bundle"
    assert (
        main(["convert", model, "--transformer", str(transformer), "--tokenizer", str(tokenizer), "-o", str(out)]) == 0
    )
    told = capsys.readouterr().err
    assert f"{transformer}: taken for the transformer of" in told and f"{tokenizer}: taken for the tokenizer of" in told
    assert ("maskgit-imagenet256" if model == "google-maskgit" else "halton-maskgit-b-384") in told
    metadata, graphs = validate(out)
    assert sorted(os.listdir(out)) == ["bundle.json", "decoder.onnx", "encoder.onnx", "transformer.onnx"]
    assert os.listdir(tmp_path / "new") == ["bundle"]
    assert metadata.labels[:2] == ["tench", "goldfish"] and metadata.label_ids[:2] == ["n01440764", "n01443537"]
    tokens, labels, codes, images = inputs(metadata)
    batch = tokens, labels, codes, images.astype(np.float32)
    wanted = expected(reference(kind, transformer, tokenizer), batch)
    del wanted["vectors"]
    program = os.environ.get("MASKGIT_BIN")
    for runs in [
        verify.OnnxRuntime(out, graphs),
        *([verify.Command(program, out, metadata, graphs)] if program else []),
    ]:
        found = {"logits": runs.logits(tokens, labels), "image": runs.decode(codes), "tokens": runs.encode(batch[3])}
        assert differing(found, wanted, 1e-4) == set(), runs.name
    assert main(["verify", str(out), f"--{model}", str(transformer), str(tokenizer)]) == 0
    with pytest.raises(SystemExit, match=r"error: .* asks for the transformer"):
        main(["verify", str(out), f"--{model}", str(tokenizer), str(transformer)])
    other = write(kind, tmp_path / "others", seed=4)
    assert main(["verify", str(out), f"--{model}", str(other[0]), str(tokenizer)]) == 1


def test_what_the_manifests_say():
    names, synsets = imagenet.classes()
    for size, steps in ((256, 8), (512, 12)):
        config = google.Config(grid=size // 16)
        told = google.metadata(config, "x", "y", "z", names, synsets)
        told.check()
        assert (told.image_height, told.tokens, told.codes, told.mask_id, told.null_label) == (
            size,
            config.grid**2,
            1024,
            2024,
            None,
        )
        s = told.sampling
        assert (s.steps, s.schedule, s.sampler, s.choice_temperature, s.temperature, s.guidance) == (
            steps,
            "cosine",
            "confidence",
            4.5,
            1.0,
            0.0,
        )
    told = halton.metadata(halton.Config(), "x", "y", "z", names, synsets)
    told.check()
    assert (told.image_height, told.tokens, told.codes, told.mask_id, told.null_label) == (384, 576, 16384, 16384, 1000)
    s = told.sampling
    assert (s.steps, s.schedule, s.sampler, s.guidance, s.temperature) == (32, "arccos", "halton", 2.0, 0.909)


def test_imagenets_classes():
    names, synsets = imagenet.classes()
    assert len(names) == len(synsets) == 1000 == len({name.lower() for name in names}) == len(set(synsets))
    assert synsets == sorted(synsets), "labels count in the order of the synsets"
    assert {index: (names[index], synsets[index]) for index in (0, 207, 282, 999)} == {
        0: ("tench", "n01440764"),
        207: ("golden retriever", "n02099601"),
        282: ("tiger cat", "n02123159"),
        999: ("toilet tissue", "n15075141"),
    }
    assert [names[index] for index in (134, 517, 638, 639, 264, 474)] == [
        "crane (bird)",
        "crane (machine)",
        "maillot (tights)",
        "maillot (swimsuit)",
        "Cardigan (dog)",
        "cardigan (jacket)",
    ]
    assert not set(names) & set(synsets) and not any(name.isdigit() for name in names)


def test_gelu_follows_the_source_unless_told(tmp_path):
    for kind, form in (("google-flax", "tanh"), ("google-torch", "erf"), ("google-safetensors", "erf")):
        paths = write(kind, tmp_path / kind)
        assert converted(kind, *paths).config.gelu == form
        assert convert.google_maskgit(*paths, gelu="tanh").transformer.config.gelu == "tanh"
        assert convert.google_maskgit(*paths, gelu="erf").transformer.config.gelu == "erf"


def change(path, edit):
    """Edits a checkpoint's tensors in place."""
    format = checkpoint.read(path).format
    tensors = {name: tensor.clone() for name, tensor in stored(path).items()}
    edit(tensors)
    checkpoint.write_flax(path, tensors) if format == "flax" else checkpoint.write_torch(path, {"state_dict": tensors})


#: Kind -> a tensor of the transformer and one of the tokenizer that each file needs beside the one it is recognised by.
SOME = {
    "google-flax": ("TransformerLayer_1/Mlp_0/layer_output/kernel", "decoder/ResBlock_4/Conv_2/kernel"),
    "google-torch": ("blocks.1.MLP.2.weight", "decoder.res_blocks.2.0.conv_res.weight"),
    "halton-torch": ("transformer.layers.1.ff.w2.weight", "decoder.conv_blocks.0.upsample.conv.weight"),
}


@pytest.mark.parametrize("kind", SOME)
@pytest.mark.parametrize("part", [0, 1])
def test_wrong_tensors_are_named(kind, part, tmp_path):
    name = SOME[kind][part]

    def not_finite(tensors):
        tensors[name].view(-1)[0] = float("nan")

    cases = [
        (lambda tensors: tensors.pop(name), f"it lacks {name}"),
        (lambda tensors: tensors.update({"strange.tensor": torch.zeros(1)}), "it should not have strange.tensor"),
        (lambda tensors: tensors.update({name: tensors[name][:-1]}), f"of another shape {name} "),
        (lambda tensors: tensors.update({name: tensors[name].flatten()}), f"of another shape {name} "),
        (not_finite, f"with NaN or infinity {name}"),
    ]
    for edit, message in cases:
        paths = write(kind, tmp_path)
        change(paths[part], edit)
        with pytest.raises(CheckpointError) as error:
            converted(kind, *paths)
        told = str(error.value)
        assert message in told and f"{paths[part]}: taken for the {('transformer', 'tokenizer')[part]} of" in told


def test_every_tensor_counts(tmp_path):
    """Each tensor left out is missed by its own name."""
    for kind in SOME:
        paths = write(kind, tmp_path / kind)
        for path in paths:
            title = {"google": layouts.GOOGLE, "halton": layouts.HALTON}[kind.split("-")[0]]
            part = "transformer" if path == paths[0] else "tokenizer"
            title = layouts.LLAMAGEN if (title, part) == (layouts.HALTON, "tokenizer") else title
            _, whole, layout = layouts.read(path, title, part)
            model = converted(kind, *paths)
            checked = 0
            for name in set(whole.tensors) - layout.ignored - {"head.weight", "tok_emb.weight"}:
                rest = {other: tensor for other, tensor in whole.tensors.items() if other != name}
                with pytest.raises(CheckpointError, match=f"it lacks {name}$"):
                    layouts.load(layout, model, selection.Checkpoint(path, whole.format, rest), "x")
                checked += 1
            assert checked >= 30


def test_the_tied_head(tmp_path):
    paths = write("halton-torch", tmp_path)
    change(paths[0], lambda tensors: tensors.pop("head.weight"))
    model = converted("halton-torch", *paths)
    assert model.network.head.weight is model.network.tok_emb.weight and not model.network.head.weight.is_meta
    paths = write("halton-torch", tmp_path)
    change(paths[0], lambda tensors: tensors["head.weight"].add_(1))
    with pytest.raises(CheckpointError, match=r"head.weight differs from the tensor it is tied to"):
        converted("halton-torch", *paths)


def test_files_in_the_wrong_place(tmp_path, capsys):
    flax, torch_, halton_ = (write(kind, tmp_path / kind) for kind in ("google-flax", "google-torch", "halton-torch"))
    for model, transformer, tokenizer, message in [
        (
            "google-maskgit",
            flax[1],
            flax[0],
            "this is the tokenizer of Google MaskGIT; --transformer asks for the transformer of Google MaskGIT",
        ),
        (
            "google-maskgit",
            flax[0],
            halton_[1],
            "this is the tokenizer of LlamaGen VQ-16; --tokenizer asks for the tokenizer of Google MaskGIT",
        ),
        ("google-maskgit", halton_[0], flax[1], "this is the transformer of Halton-MaskGIT v2"),
        ("halton-maskgit", torch_[0], halton_[1], "this is the transformer of Google MaskGIT"),
        ("halton-maskgit", halton_[0], torch_[1], "this is the tokenizer of Google MaskGIT"),
    ]:
        out = tmp_path / "out"
        assert (
            main(["convert", model, "--transformer", str(transformer), "--tokenizer", str(tokenizer), "-o", str(out)])
            == 1
        )
        assert message in capsys.readouterr().err
        assert not out.exists()
    checkpoint.write_torch(tmp_path / "other", {"layer.weight": torch.zeros(2)})
    with pytest.raises(
        CheckpointError, match=r"no published model that this program knows. It has 1 tensors: layer.weight"
    ):
        convert.google_maskgit(tmp_path / "other", flax[1])
    # The two formats may be mixed: each file is recognised by itself.
    assert convert.google_maskgit(flax[0], torch_[1]).config.gelu == "tanh"


def test_sizes_and_variants(tmp_path):
    files = write("google-flax", tmp_path / "256")
    assert convert.google_maskgit(*files, size=256).metadata.name == "maskgit-imagenet256"
    with pytest.raises(
        CheckpointError, match=r"maskgit-imagenet512.*position_embeddings/embedding \(17, 24\) instead of \(65, 24\)"
    ):
        convert.google_maskgit(*files, size=512)
    large = write_checkpoints(convert.google_maskgit(*files), "flax", tmp_path)
    change(large[0], lambda tensors: tensors.update({"Embed_0/position_embeddings/embedding": torch.zeros(65, 24)}))
    assert convert.google_maskgit(*large).metadata.grid_rows == 8
    files = write("halton-torch", tmp_path / "384")
    assert (
        convert.halton_maskgit(*files).metadata.name
        == convert.halton_maskgit(*files, variant="b-384").metadata.name
        == "halton-maskgit-b-384"
    )
    with pytest.raises(
        CheckpointError,
        match=r"halton-maskgit-b-256, but of another shape pos_emb.weight \(16, 26\) instead of \(4, 26\)",
    ):
        convert.halton_maskgit(*files, variant="b-256")
    change(files[0], lambda tensors: tensors.update({"pos_emb.weight": torch.zeros(4, 26)}))
    assert convert.halton_maskgit(*files).metadata.grid_rows == 2
    change(files[0], lambda tensors: tensors.update({"pos_emb.weight": torch.zeros(5, 26)}))
    with pytest.raises(
        CheckpointError,
        match=r"none was published of \(width, layers, positions\) \(26, 2, 5\); known: b-384 \(26, 2, 16\)",
    ):
        convert.halton_maskgit(*files)
    change(files[0], lambda tensors: tensors.pop("pos_emb.weight"))
    with pytest.raises(CheckpointError, match="give --variant"):
        convert.halton_maskgit(*files)
    with pytest.raises(CheckpointError, match=r"it lacks pos_emb.weight"):
        convert.halton_maskgit(*files, variant="b-384")


def test_swiglu_rounding(tmp_path, monkeypatch):
    """The width is in the checkpoint; the wrong rounding does not fit it."""
    paths = write("halton-torch", tmp_path)
    assert stored(paths[0])["transformer.layers.0.ff.w1.weight"].shape == (256, 26)
    for wrong in (lambda c: int(8 * c.dim / 3), lambda c: int(8 * c.dim / 3) // 256 * 256 or 128, lambda c: 4 * c.dim):
        monkeypatch.setattr(halton.Config, "hidden", property(wrong))
        with pytest.raises(
            CheckpointError, match=r"of another shape transformer.layers.0.ff.w1.weight \(256, 26\) instead of"
        ):
            converted("halton-torch", *paths)


def test_synth_writes_checkpoints(tmp_path, monkeypatch, capsys):
    for shape, format, names in [
        ("maskgit-imagenet256", "flax", ["maskgit_imagenet8_checkpoint", "tokenizer_imagenet8_checkpoint"]),
        ("maskgit-imagenet256", "torch", ["maskgit_imagenet8.ckpt", "tokenizer_imagenet8.ckpt"]),
        ("halton-b-384", "torch", ["ImageNet_8_other.pth", "vq_ds16_c2i.pt"]),
        ("halton-b-384", "safetensors", ["ImageNet_8_other.safetensors", "vq_ds16_c2i.safetensors"]),
    ]:
        out = tmp_path / f"{shape}-{format}"
        assert main(["synth", "--shape", shape, "--checkpoint", format, "-o", str(out)]) == 0
        assert sorted(os.listdir(out)) == sorted(names)
        model = convert.google_maskgit if shape.startswith("maskgit") else convert.halton_maskgit
        assert model(*(out / name for name in names)).metadata.codes == GOOGLE.codes == HALTON.codes
    assert main(["synth", "--shape", "halton-b-384", "--checkpoint", "flax", "-o", str(tmp_path / "x")]) == 2
    assert "PyTorch only" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_files_are_named_by_their_hashes_and_averaged_weights_chosen(tmp_path, capsys, monkeypatch):
    """Through the command: `--ema`, `--key` and `--tokenizer-key` reach each file, and `verify` is told of them."""
    made, (transformer, tokenizer) = [], write("google-torch", tmp_path)
    monkeypatch.setattr(convert, "write_bundle", lambda model, output: made.append(model))
    raw, average = stored(transformer), stored(write("google-torch", tmp_path / "other", seed=5)[0])
    checkpoint.write_torch(transformer, {"model": raw, "ema": average, "args": argparse.Namespace(lr=1)})
    checkpoint.write_torch(tokenizer, {"vqgan": {f"net.{k}": v for k, v in stored(tokenizer).items()}, "n": 3})

    def command(*more):
        files = ["--transformer", str(transformer), "--tokenizer", str(tokenizer), "-o", str(tmp_path / "out")]
        status = main(["convert", "google-maskgit", *files, *more])
        return status, capsys.readouterr().err

    def bias():
        return made[-1].transformer.state_dict()["mlm_bias"]

    status, told = command()
    assert status == 0 and torch.equal(bias(), raw["bias"])
    for path in (transformer, tokenizer):
        assert f"{path}: SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}" in told
    assert f"{transformer}: has averaged weights (EMA) too, under ema" in told and "--ema takes them" in told
    assert f"{tokenizer}: the weights are those under vqgan.net" in told
    assert told.splitlines()[-1].endswith(f"verify {tmp_path / 'out'} --google-maskgit {transformer} {tokenizer}")
    status, told = command("--ema", "--gelu", "tanh", "--tokenizer-key", "vqgan.net")
    assert status == 0 and torch.equal(bias(), average["bias"]) and not torch.equal(bias(), raw["bias"])
    assert f"{tokenizer}: has no averaged weights (EMA); its only weights are taken" in told
    assert told.splitlines()[-1].endswith(f"{tokenizer} --ema --gelu tanh --tokenizer-key vqgan.net")
    assert command("--key", "ema")[0] == 0 and torch.equal(bias(), average["bias"])
    status, told = command("--tokenizer-key", "wrong")
    assert status == 1 and "--tokenizer-key wrong: no tensors there" in told and "vqgan (" in told
    transformer.write_bytes(transformer.read_bytes()[:-1])
    status, told = command()
    digest = hashlib.sha256(transformer.read_bytes()).hexdigest()
    assert status == 1 and f"{transformer}: SHA-256 {digest}" in told and "a damaged PyTorch file" in told
    checkpoint.write_torch(transformer, raw)
    status, told = command("--ema")
    assert status == 1 and "error: --ema: neither" in told


def test_both_parts_in_one_file(tmp_path):
    transformer, tokenizer = write("google-torch", tmp_path)
    checkpoint.write_torch(tmp_path / "both", {"maskgit": stored(transformer), "vqgan": stored(tokenizer)})
    model = convert.google_maskgit(tmp_path / "both", tmp_path / "both")
    apart = convert.google_maskgit(transformer, tokenizer)
    assert all(torch.equal(value, apart.state_dict()[name]) for name, value in model.state_dict().items())


def test_whole_numbers_are_passed_over_and_said(tmp_path, capsys):
    transformer, tokenizer = write("google-torch", tmp_path)
    tensors = stored(transformer)
    checkpoint.write_torch(transformer, {**tensors, "position_ids": torch.arange(17), "steps": torch.tensor(3.0)})
    convert.google_maskgit(transformer, tokenizer)
    assert f"{transformer}: passed over: position_ids, steps" in capsys.readouterr().err
    checkpoint.write_torch(transformer, {**tensors, "bias": tensors["bias"].int()})
    with pytest.raises(CheckpointError, match="of numbers that are not floating point bias int32"):
        convert.google_maskgit(transformer, tokenizer)


def test_verify_takes_the_choice_of_weights(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(convert, "google_maskgit", lambda *files, **options: given.append((files, options)))
    parser = argparse.ArgumentParser()
    verify.add_arguments(parser)
    files = ["--google-maskgit", "a", "b"]
    args = parser.parse_args(["bundle", *files, *"--ema --key x --tokenizer-key y --gelu erf".split()])
    verify._model(args, None)
    choices = (selection.Choice(True, "x"), selection.Choice(True, "y", "--tokenizer-key"))
    assert given[0][1] == {"gelu": "erf", "choice": choices}
