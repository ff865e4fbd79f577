"""Checkpoints of full size, through ``convert`` and the runtimes, against the NumPy references. By hand: minutes and
gigabytes each.

    MASKGIT_FULL_SIZE=maskgit-imagenet256:flax MASKGIT_BIN=target/release/maskgit pytest -s tests/test_full_size.py

SHAPE:FORMAT as ``synth --shape SHAPE --checkpoint FORMAT`` takes them; several are separated by commas.
MASKGIT_FULL_SIZE_FOLDER=FOLDER takes checkpoints from FOLDER/files and the bundle from FOLDER/fp32 where they are
there, and leaves there what is made (``benches/published.py``).
"""

import os
from pathlib import Path

import numpy as np
import pytest
from published_checkpoints import expected, inputs, reference

from maskgit_export import verify
from maskgit_export.bundle import validate
from maskgit_export.cli import main
from maskgit_export.published import halton

ASKED = [case for case in os.environ.get("MASKGIT_FULL_SIZE", "").split(",") if case]


@pytest.mark.skipif(not ASKED, reason="set MASKGIT_FULL_SIZE to SHAPE:FORMAT to run")
@pytest.mark.parametrize("case", ASKED or ["none"])
def test_a_full_size_checkpoint(case, tmp_path, capsys):
    shape, format = case.split(":")
    of_google = shape.startswith("maskgit")
    model, kind = ("google-maskgit", f"google-{format}") if of_google else ("halton-maskgit", f"halton-{format}")
    folder = Path(os.environ.get("MASKGIT_FULL_SIZE_FOLDER") or tmp_path)
    files, out = folder / "files", folder / "fp32"
    if not files.exists():
        assert main(["synth", "--shape", shape, "--checkpoint", format, "--seed", "7", "-o", str(files)]) == 0
    # The transformer's file is named maskgit_imagenet... or ImageNet_..., the tokenizer's tokenizer_... or vq_...
    paths = sorted(files.iterdir())
    if not out.exists():
        assert (
            main(["convert", model, "--transformer", str(paths[0]), "--tokenizer", str(paths[1]), "-o", str(out)]) == 0
        )
    metadata, graphs = validate(out)
    heads = 16 if of_google else halton.PUBLISHED[shape.removeprefix("halton-")].heads
    tokens, labels, codes, images = inputs(metadata, rows=1)
    batch = tokens, labels, codes, images.astype(np.float32)
    wanted = expected(reference(kind, *paths, dtype=np.float32, groups=32, heads=heads), batch)
    program = os.environ.get("MASKGIT_BIN")
    for runs in [
        verify.OnnxRuntime(out, graphs),
        *([verify.Command(program, out, metadata, graphs)] if program else []),
    ]:
        logits, image = (
            float(np.abs(found - wanted[name]).max())
            for name, found in (("logits", runs.logits(tokens, labels)), ("image", runs.decode(codes)))
        )
        other = float((runs.encode(batch[3]) != wanted["tokens"]).mean())
        with capsys.disabled():
            print(
                f"\n{case}: {runs.name} against NumPy: max abs error logits {logits:.2e}, image {image:.2e}; encoder "
                f"differs in {other:.2%} of tokens"
            )
        assert logits < 1e-3 and image < 1e-3 and other <= 0.01
