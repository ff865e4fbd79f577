"""Networks read back from bundles, and training that starts from one."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from maskgit_export import dataset, export
from maskgit_export.adapter import Avatars
from maskgit_export.bundle import GRAPHS, read_manifest, write_manifest
from maskgit_export.cli import main
from maskgit_export.export import write_bundle
from maskgit_export.from_bundle import read_mvtm, read_tokenizer
from maskgit_export.half import half_graph
from maskgit_export.mvtm import MaskedTransformer, MvtmConfig
from maskgit_export.tokenizer import Tokenizer, TokenizerConfig
from maskgit_export.weights import load_mvtm, load_tokenizer


def same_weights(read, written):
    read, written = read.state_dict(), written.state_dict()
    assert read.keys() == written.keys()
    for name, value in written.items():
        if name not in ("quantizer.usage", "quantizer.sums"):
            assert torch.equal(read[name], value), name


def test_a_bundle_gives_back_the_networks_that_it_was_written_of(avatars):
    model, folder = avatars
    tokenizer, mvtm = load_tokenizer(folder), load_mvtm(folder)
    assert tokenizer.config == model.tokenizer.config and mvtm.config == model.transformer.config
    assert not tokenizer.training and not mvtm.training
    same_weights(tokenizer, model.tokenizer)
    same_weights(mvtm, model.transformer)


def test_every_part_of_the_configuration_is_read_from_the_shapes(tmp_path):
    torch.manual_seed(3)
    shape = TokenizerConfig(
        size=32, factor=8, codes=48, code_dim=6, width=16, blocks=3, patch=4, refine=5, encoder_blocks=3
    )
    tokenizer = Tokenizer(shape)
    mvtm = MaskedTransformer(
        MvtmConfig(grid=4, codes=48, labels=["a", "b", "c"], width=12, dim=24, depth=3, heads=4, blocks=2)
    )
    with torch.no_grad():
        for parameter in [*tokenizer.parameters(), *mvtm.parameters()]:
            parameter.add_(0.2 * torch.randn_like(parameter))
    write_bundle(Avatars(tokenizer, mvtm, "larger", "CC0-1.0", "a test"), tmp_path / "bundle")
    assert read_tokenizer(tmp_path / "bundle").config == shape and read_mvtm(tmp_path / "bundle").config == mvtm.config
    same_weights(read_tokenizer(tmp_path / "bundle"), tokenizer)
    same_weights(read_mvtm(tmp_path / "bundle"), mvtm)


def test_fp16_bundles_give_the_rounded_weights(avatars, tmp_path, monkeypatch):
    model, folder = avatars
    # The weights of so small a model would all stay fp32.
    monkeypatch.setattr("maskgit_export.half.MIN_NUMBERS", 1)
    metadata, graphs = read_manifest(folder)
    for graph, entry in graphs.items():
        proto = onnx.load(folder / entry["file"])
        assert half_graph(proto) == []
        onnx.save(proto, tmp_path / f"{graph}.onnx")
    write_manifest(metadata, tmp_path, "fp16")
    for read, written in ((load_tokenizer(tmp_path), model.tokenizer), (load_mvtm(tmp_path), model.transformer)):
        assert read.config == written.config
        for (name, a), b in zip(read.named_parameters(), written.parameters()):
            assert torch.equal(a, b.half().float()), name


def test_training_and_export_take_a_bundle(avatars, tmp_path, capsys):
    """Twice the size, one class more, another layer; then a bundle of what came of it."""
    model, folder = avatars
    noise = np.random.default_rng(0)
    splits = [
        dataset.Split(noise.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), np.arange(count) % 3)
        for count in (30, 6)
    ]
    dataset.save(dataset.Dataset(*splits, ["bird", "cat", "dog"]), tmp_path / "data")
    common = ["--data", str(tmp_path / "data"), "--threads", "1", "--device", "cpu", "--images", "8", "--batch", "8"]
    tokenizer, mvtm = tmp_path / "tokenizer.pt", tmp_path / "mvtm.pt"
    assert main(["train-tokenizer", "--start", str(folder), "--codes", "40", *common, "-o", str(tokenizer)]) == 0
    assert load_tokenizer(tokenizer).config == TokenizerConfig(
        size=32, factor=8, codes=40, code_dim=4, width=8, blocks=1, patch=4, refine=32
    )
    train = [
        "train-mvtm",
        "--tokenizer",
        str(tokenizer),
        *"--width 8 --dim 16 --depth 3 --heads 2 --blocks 1".split(),
        *common,
    ]
    assert main([*train, "--start", str(folder), "-o", str(mvtm)]) == 0
    # One step, at the start of the warm-up, does not go far.
    assert torch.allclose(load_mvtm(mvtm).fold.weight, model.transformer.fold.weight, atol=1e-3)
    for start in ([str(mvtm)], [str(mvtm), str(tokenizer), str(tokenizer)]):
        with pytest.raises(SystemExit, match="the folder of a bundle, or two files"):
            main([*train, "--start", *start, "-o", str(tmp_path / "other.pt")])


def test_a_bundle_is_exported_again_with_other_settings(avatars, tmp_path, capsys, monkeypatch):
    _, folder = avatars
    call = ["export", "--tokenizer", str(folder), "--mvtm", str(folder), "-o", str(tmp_path / "again")]
    assert main([*call, "--steps", "9", "--top-k", "7", "--guidance-ramp", "--name", "again"]) == 0
    before, after = (json.loads((place / "bundle.json").read_text()) for place in (folder, tmp_path / "again"))
    assert after == before | {
        "name": "again",
        "sampling": before["sampling"] | {"steps": 9, "top_k": 7, "guidance_ramp": True},
    }, "the same weights give the same graphs"

    def same_graphs(model, target):
        return [Path(shutil.copy(folder / f"{graph}.onnx", target)) for graph in GRAPHS]

    monkeypatch.setattr(export, "export_graphs", same_graphs)
    assert main([*call[:4], str(tmp_path / "again"), *call[5:], "--top-k", "0"]) == 0
    assert (
        read_manifest(tmp_path / "again")[0].sampling.top_k is None
        and read_manifest(tmp_path / "again")[0].sampling.steps == 9
    )
    again = [*call[:4], str(tmp_path / "again"), *call[5:]]
    for options, expected in (
        (["--final-temperature", "0.25"], (1.0, 0.25)),
        (["--temperature", "0.5"], (0.5, None)),
        (["--temperature", "2", "--final-temperature", "0"], (2.0, 0.0)),
    ):
        assert main([*again, *options]) == 0
        sampling = read_manifest(tmp_path / "again")[0].sampling
        assert (sampling.temperature, sampling.final_temperature) == expected
    (tmp_path / "mvtm.pt").touch()
    assert main([*call[:4], str(tmp_path / "mvtm.pt"), *call[5:]]) == 2
    assert "give --name and --licence" in capsys.readouterr().err


def test_bundles_without_such_weights_are_refused_in_words(bundle_of, tmp_path):
    shutil.copytree(bundle_of("google")[1], tmp_path / "google")
    for read in (read_tokenizer, read_mvtm):
        with pytest.raises(SystemExit, match="google: holds no weights to train on"):
            read(tmp_path / "google")
        with pytest.raises(SystemExit, match="give the folder of a bundle"):
            read(tmp_path)
