"""What our engine makes of graphs: the operators it must find, in our exports and in plain PyTorch's, and that they
compute the same.
"""

import json
import os
import subprocess
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from maskgit_export.adapter import Metadata, Model, Sampling
from maskgit_export.bundle import graph_signature, read_manifest, write_manifest
from maskgit_export.onnx_export import METHODS, _Method, example_inputs
from maskgit_export.verify import Command, OnnxRuntime

PROGRAM = os.environ.get("MASKGIT_BIN")
pytestmark = pytest.mark.skipif(not PROGRAM, reason="set MASKGIT_BIN to the maskgit program; `make test` does")

OURS = ("Attention", "Linear", "Conv2d", "RowNorm", "GroupNorm", "Embedding")
#: Operators that stand for a rule that did not match.
UNFUSED = ("Conv", "ConvUnary", "EinSum", "Gather", "LazyIm2Col", "OptMatMul", "Softmax", "RmsNorm")

#: What each graph of the tiny models must have, in the order of ``OURS``; layers that they have, counted by hand from
#: the models' code.
EXPECTED = {
    # 2 blocks of qkv, projection and two of the network; 2 of the label, in and out of the 8x8 grid, logits.
    ("avatars", "transformer"): (2, 13, 4, 8, 0, 2),
    ("avatars", "decoder"): (0, 0, 7, 0, 0, 1),
    ("avatars", "encoder"): (0, 2, 4, 0, 0, 0),
    # 2 blocks of q, k, v, projection and two of the network; the head and the tied embedding.
    ("google", "transformer"): (2, 14, 0, 6, 0, 1),
    ("google", "decoder"): (0, 1, 15, 0, 0, 1),
    ("google", "encoder"): (0, 3, 13, 0, 1, 0),
    # 2 blocks of q, k, v, projection, three of the network and six of the modulation; two of the last modulation; the
    # head.
    ("halton", "transformer"): (2, 29, 0, 9, 0, 2),
    ("halton", "decoder"): (0, 14, 15, 0, 3, 1),
    ("halton", "encoder"): (0, 11, 11, 0, 2, 0),
}
#: LlamaGen's attention over pixels keeps tract's operators: one in two hundred of the decoder's multiply-adds.
LEFT = {("halton", "decoder"): {"OptMatMul": 6, "Softmax": 3}, ("halton", "encoder"): {"OptMatMul": 4, "Softmax": 2}}


def operators(folder):
    told = subprocess.run(
        [PROGRAM, "info", "--graph", "--json", "--model", str(folder)], check=True, capture_output=True
    )
    counts = {}
    for graph, found in json.loads(told.stdout)["graphs"].items():
        counts[graph] = Counter()
        for operator in found:
            counts[graph][operator["name"]] += operator["count"]
    return counts


def test_what_our_exports_become(exported):
    model, folder = exported
    for graph, counts in operators(folder).items():
        case = model.metadata.name.replace("tiny", "avatars"), graph
        assert tuple(counts[name] for name in OURS) == EXPECTED[case], case
        assert {name: counts[name] for name in UNFUSED if counts[name]} == LEFT.get(case, {}), case


class Attention(nn.Module):
    def __init__(self, dim, heads, fused):
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        batch, length, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        if self.fused:
            attended = F.scaled_dot_product_attention(q, k, v)
        else:
            attended = (q @ k.transpose(-2, -1) / (dim // self.heads) ** 0.5).softmax(-1) @ v
        return self.out(attended.transpose(1, 2).reshape(batch, length, dim))


class Block(nn.Module):
    def __init__(self, dim, heads, fused):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, fused)
        self.network = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.network(self.norm2(x))


class Plain(Model):
    """What somebody writes who has never heard of the engine."""

    def __init__(self, fused):
        super().__init__(
            Metadata(
                name="plain",
                licence="CC0-1.0",
                source="a test",
                image_height=16,
                image_width=16,
                grid_rows=8,
                grid_cols=8,
                codes=20,
                mask_id=20,
                labels=["a", "b"],
                null_label=None,
                sampling=Sampling(steps=4),
            )
        )
        torch.manual_seed(2)
        self.tokens, self.labels = nn.Embedding(21, 32), nn.Embedding(2, 32)
        self.position = nn.Parameter(torch.randn(64, 32))
        self.blocks = nn.Sequential(*(Block(32, 4, fused) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 20)
        self.codes = nn.Embedding(20, 16)
        self.decoder = nn.Sequential(
            nn.Conv2d(16, 32, 3, padding=1),
            nn.GroupNorm(8, 32),
            nn.SiLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.GroupNorm(8, 32),
            nn.SiLU(),
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(32, 16, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(16, 3, 1),
        )

    has_encoder = False

    def logits(self, tokens, label):
        x = self.tokens(tokens) + self.position + self.labels(label).unsqueeze(1)
        return self.head(self.norm(self.blocks(x)))

    def decode(self, tokens):
        x = self.codes(tokens).transpose(1, 2).reshape(-1, 16, 8, 8)
        return self.decoder(x).sigmoid()


@pytest.mark.parametrize("fused", [False, True], ids=["softmax", "sdpa"])
@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
def test_plain_pytorch(tmp_path, fused, dynamo):
    model = Plain(fused).eval()
    (tmp_path / "bundle").mkdir()
    for graph in ("transformer", "decoder"):
        examples = example_inputs(model, graph)
        inputs, outputs = graph_signature(model.metadata, graph)
        names = {"input_names": [n for n, _, _ in inputs], "output_names": [n for n, _, _ in outputs]}
        file = tmp_path / "bundle" / f"{graph}.onnx"
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if dynamo:
                shapes = {"inputs": tuple({0: torch.export.Dim("batch", min=1, max=65536)} for _ in examples)}
                torch.onnx.export(
                    _Method(model, METHODS[graph]),
                    examples,
                    str(file),
                    dynamo=True,
                    dynamic_shapes=shapes,
                    external_data=False,
                    verbose=False,
                    **names,
                )
            else:
                axes = {name: {0: "batch"} for group in names.values() for name in group}
                torch.onnx.export(
                    _Method(model, METHODS[graph]), examples, str(file), dynamo=False, dynamic_axes=axes, **names
                )
    write_manifest(model.metadata, tmp_path / "bundle")
    found = operators(tmp_path / "bundle")
    assert {graph: tuple(counts[name] for name in OURS) for graph, counts in found.items()} == {
        "transformer": (2, 9, 0, 5, 0, 2),
        "decoder": (0, 1, 3, 0, 0, 1),
    }
    assert not any(counts[name] for counts in found.values() for name in UNFUSED)
    # The older exporter leaves the sizes of outputs open, which the engine takes.
    metadata, graphs = read_manifest(tmp_path / "bundle")
    tokens, labels = example_inputs(model, "transformer")
    (codes,) = example_inputs(model, "decoder")
    with torch.no_grad():
        wanted = model.logits(tokens, labels).numpy(), model.decode(codes).numpy()
    for runs in OnnxRuntime(tmp_path / "bundle", graphs), Command(PROGRAM, tmp_path / "bundle", metadata, graphs):
        np.testing.assert_allclose(runs.logits(tokens.numpy(), labels.numpy()), wanted[0], atol=2e-5)
        np.testing.assert_allclose(runs.decode(codes.numpy()), wanted[1], atol=2e-5)
