"""A network of one's own: a complete small one, as the documentation of ``adapter`` has it, through ``bundle``."""

import os

import numpy as np
import pytest

from maskgit_export.bundle import validate
from maskgit_export.cli import main
from maskgit_export.verify import OnnxRuntime

MODULE = '''
import torch
from torch import nn

from maskgit_export.adapter import Metadata, Model, Sampling


class Squares(Model):
    """Each token paints a square of its colour; the transformer looks at the mean of all tokens and the class."""

    def __init__(self):
        super().__init__(Metadata(
            name="squares", licence="CC0-1.0", source="a test", image_height=8, image_width=8, grid_rows=4, grid_cols=4,
            codes=5, mask_id=5, labels=["night", "day"], null_label=2, sampling=Sampling(steps=4, guidance=1.0)))
        torch.manual_seed(0)
        self.tokens, self.labels, self.head = nn.Embedding(6, 8), nn.Embedding(3, 8), nn.Linear(8, 5)
        self.colours = nn.Parameter(torch.rand(5, 3))

    def logits(self, tokens, label):
        x = self.tokens(tokens)
        return self.head(torch.tanh(x + x.mean(1, keepdim=True) + self.labels(label).unsqueeze(1)))

    def decode(self, tokens):
        image = self.colours[tokens].transpose(1, 2).reshape(-1, 3, 4, 4)
        return nn.functional.interpolate(image, scale_factor=2.0, mode="nearest").clamp(0, 1)

    def encode(self, image):
        pixels = nn.functional.avg_pool2d(image, 2).flatten(2).transpose(1, 2)
        return (pixels.unsqueeze(2) - self.colours).square().sum(-1).argmin(-1)


def make():
    return Squares()


def nothing():
    return None
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "squares_model.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_module_becomes_a_bundle(module):
    out = module / "squares"
    assert main(["bundle", "squares_model:make", "-o", str(out)]) == 0
    assert sorted(os.listdir(out)) == ["bundle.json", "decoder.onnx", "encoder.onnx", "transformer.onnx"]
    metadata, graphs = validate(out)
    assert (metadata.name, metadata.labels, metadata.sampling.steps) == ("squares", ["night", "day"], 4)
    runtime = OnnxRuntime(out, graphs)
    tokens = np.arange(32).reshape(2, 16) % 5
    np.testing.assert_array_equal(runtime.encode(runtime.decode(tokens)), tokens)
    assert main(["verify", str(out), "--model", "squares_model:make"]) == 0


@pytest.mark.parametrize(
    "reference, message",
    [
        ("squares_model", "MODULE:FUNCTION"),
        ("no_such_module:make", "No module named"),
        ("squares_model:other", "no attribute"),
        ("squares_model:nothing", "returned a NoneType"),
    ],
)
def test_other_references_are_refused(module, reference, message):
    with pytest.raises(SystemExit, match=message):
        main(["bundle", reference, "-o", str(module / "out")])
    assert not (module / "out").exists()
