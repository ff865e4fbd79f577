"""Writes tests/data/small: one bundle of each architecture with random weights, small enough to run in an emulator; the
last in fp16 too.

    cd export && python ../tests/data/make_small.py [FOLDER]

The models are those of the tests in export/tests, so they need the package's environment (`make venv`).
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "export"), str(ROOT / "export" / "tests")]

from conftest import MODELS  # noqa: E402

from maskgit_export import cli  # noqa: E402
from maskgit_export.export import write_bundle  # noqa: E402

if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "small"
    for name, make in MODELS.items():
        write_bundle(make(), folder / name)
    sys.exit(
        cli.main(["half", str(folder / "halton"), "--steps", "2", "--pictures", "1", "-o", str(folder / "halton-fp16")])
    )
