"""The script in docs/bundle.md writes a bundle that keeps what the page says, and that the program opens."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

ROOT = Path(__file__).resolve().parents[2]


def script():
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "bundle.md").read_text(), re.M | re.S)
    assert len(blocks) == 1, f"docs/bundle.md has {len(blocks)} python blocks; this test expects one"
    return blocks[0]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doc") / "squares"
    source = folder.parent / "write_bundle.py"
    source.write_text(script())
    subprocess.run([sys.executable, str(source), str(folder)], check=True, timeout=120)
    return folder


def test_sizes_and_hashes(bundle):
    graphs = json.loads((bundle / "bundle.json").read_text())["graphs"]
    assert sorted(graphs) == ["decoder", "transformer"]
    for entry in graphs.values():
        data = (bundle / entry["file"]).read_bytes()
        assert len(data) == entry["bytes"]
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]


def test_the_graphs_run_and_depend_on_tokens_and_label(bundle):
    m = json.loads((bundle / "bundle.json").read_text())
    n = m["grid"]["rows"] * m["grid"]["cols"]
    transformer = onnxruntime.InferenceSession(bundle / "transformer.onnx")
    decoder = onnxruntime.InferenceSession(bundle / "decoder.onnx")

    def logits(tokens, label):
        return transformer.run(["logits"], {"tokens": tokens, "label": np.array([label] * len(tokens))})[0]

    masked = np.full([2, n], m["mask_id"], np.int64)
    some = masked.copy()
    some[0, 3] = 1
    assert logits(masked, 0).shape == (2, n, m["codes"])
    results = [logits(masked, label) for label in (0, 1, m["null_label"])] + [logits(some, 0)]
    for i, a in enumerate(results):
        for b in results[i + 1 :]:
            assert not np.array_equal(a, b)

    image = decoder.run(["image"], {"tokens": np.arange(2 * n).reshape(2, n) % m["codes"]})[0]
    assert image.shape == (2, 3, m["image"]["height"], m["image"]["width"])
    assert image.min() >= 0 and image.max() <= 1


def test_every_field_is_in_the_page(bundle):
    page = (ROOT / "docs" / "bundle.md").read_text()
    m = json.loads((bundle / "bundle.json").read_text())
    fields = [*m, *m["sampling"], *m["graphs"]["decoder"]]
    assert len(fields) >= 20
    missing = [f for f in fields if f"| `{f}` |" not in page]
    assert not missing, f"docs/bundle.md has no table row for {missing}"


def test_the_program_draws_with_it(bundle, tmp_path):
    program = os.environ.get("MASKGIT_BIN") or shutil.which("maskgit")
    if program is None:
        pytest.skip("set MASKGIT_BIN to the maskgit command to draw with the bundle")
    out = tmp_path / "day.png"
    subprocess.run(
        [program, "generate", "--model", str(bundle), "--class", "day", "--seed", "1", "-o", str(out)],
        check=True,
        timeout=120,
    )
    assert out.read_bytes().startswith(b"\x89PNG")
