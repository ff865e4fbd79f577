"""Draws the avatars data set: DiceBear styles (with Node.js) and RoboHash parts (with Pillow).

Every picture is drawn by a program from parts and colours, so the set is labelled, reproducible and as large as
wanted. What is held out are whole *combinations of parts*, never merely seeds: a held-out combination is not seen in
training in any colour. Licences of the drawings are listed in LICENCES and belong in the card of every model trained on them.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from . import dataset

#: Licence and author of each drawing style.
LICENCES = {
    "adventurer": "CC BY 4.0, Lisa Wischofsky",
    "big-ears": "CC BY 4.0, The Visual Team",
    "big-smile": "CC BY 4.0, Ashley Seo",
    "croodles": "CC BY 4.0, vijay verma",
    "dylan": "CC BY 4.0, Natalia Spivak",
    "fun-emoji": "CC BY 4.0, Davis Uche",
    "glass": "CC0 1.0, DiceBear",
    "lorelei": "CC0 1.0, Lisa Wischofsky",
    "micah": "CC BY 4.0, Micah Lanier",
    "miniavs": "CC BY 4.0, Webpixels",
    "notionists": "CC0 1.0, Zoish",
    "open-peeps": "CC0 1.0, Pablo Stanley",
    "personas": "CC BY 4.0, Draftbit",
    "pixel-art": "CC0 1.0, DiceBear",
    "rings": "CC0 1.0, DiceBear",
    "shapes": "CC0 1.0, DiceBear",
    "thumbs": "CC0 1.0, DiceBear",
    "toon-head": "CC BY 4.0, Johan Melin",
    "robots": "CC BY 3.0/4.0, Zikri Kader (RoboHash set 1)",
    "monsters": "CC BY 3.0, Hrvoje Novakovic (RoboHash set 2)",
    "heads": "CC BY 3.0, Julian Peter Arias (RoboHash set 3)",
    "cats": "CC BY 4.0, David Revoy (RoboHash set 4)",
}
ROBOHASH_SETS = {"robots": "set1", "monsters": "set2", "heads": "set3", "cats": "set4"}
#: The classes of models/avatars-64.
AVATARS_64 = ["adventurer", "big-ears", "fun-emoji", "lorelei", "miniavs", "open-peeps", "personas", "pixel-art", "thumbs", "toon-head"]
SCRIPTS = Path(__file__).parent / "data"
HELD_OUT_BUCKETS = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of ``maskgit-export data``."""
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder to write the data set into")
    parser.add_argument("--classes", nargs="+", default=AVATARS_64, choices=sorted(LICENCES), metavar="CLASS", help=f"styles to draw (default: {' '.join(AVATARS_64)}; known: {' '.join(sorted(LICENCES))})")
    parser.add_argument("--size", type=int, default=64, help="image height and width in pixels")
    parser.add_argument("--train", type=int, default=8000, help="training images a class")
    parser.add_argument("--heldout", type=int, default=400, help="held-out images a class")
    parser.add_argument("--work", type=Path, default=None, help="folder for the drawing programs' packages (default: OUTPUT/node)")


def run(args: argparse.Namespace) -> int:
    """Draws the data set and writes it as arrays."""
    parts = {"train": args.train, "heldout": args.heldout}
    dicebear = [name for name in args.classes if name not in ROBOHASH_SETS]
    work = args.work or args.output / "node"
    if dicebear:
        _install(work)

    def draw(name: str) -> dict[str, np.ndarray]:
        function = _robohash if name in ROBOHASH_SETS else _dicebear
        drawn = {part: function(name, args.size, count, part, work) for part, count in parts.items()}
        print(f"{name}: {args.train} training and {args.heldout} held-out images ({LICENCES[name]})", file=sys.stderr)
        return drawn

    with ThreadPoolExecutor(2) as pool:
        drawn = list(pool.map(draw, args.classes))
    splits = []
    for part in parts:
        images = np.concatenate([one[part] for one in drawn])
        labels = np.repeat(np.arange(len(args.classes)), [len(one[part]) for one in drawn])
        splits.append(dataset.Split(images, labels))
    dataset.save(dataset.Dataset(*splits, list(args.classes)), args.output)
    return 0


def _install(work: Path) -> None:
    """Installs the pinned DiceBear and resvg packages into ``work``."""
    if shutil.which("npm") is None:
        raise SystemExit("npm not found: the DiceBear styles are drawn with Node.js; install Node.js 18 or later, or choose RoboHash classes only")
    work.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json", "dicebear.mjs"):
        shutil.copy(SCRIPTS / name, work / name)
    subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=work, check=True)


def _dicebear(style: str, size: int, count: int, part: str, work: Path) -> np.ndarray:
    command = ["node", "dicebear.mjs", style, str(size), "0", str(count), part]
    done = subprocess.run(command, cwd=work, check=True, stdout=subprocess.PIPE)
    return np.frombuffer(done.stdout, np.uint8).reshape(count, size, size, 3)


def _robohash(name: str, size: int, count: int, part: str, _work: Path) -> np.ndarray:
    """Composes RoboHash parts; each part is shrunk once, with premultiplied alpha."""
    root = _robohash_root() / "sets" / ROBOHASH_SETS[name]
    # Set 1 has one folder of parts a colour; the others are one folder of parts.
    variants = [_layers(folder, size) for folder in (sorted(root.iterdir()) if name == "robots" else [root])]
    images = np.empty((count, size, size, 3), np.uint8)
    seed = drawn = 0
    while drawn < count:
        choice = random.Random(f"{name}-{seed}")
        seed += 1
        layers = choice.choice(variants)
        picks = [choice.randrange(len(layer)) for layer in layers]
        held = hashlib.sha256(f"{name}{picks}".encode()).digest()[0] % HELD_OUT_BUCKETS == 0
        if held != (part == "heldout"):
            continue
        canvas = np.ones((size, size, 3), np.float32)
        for layer, pick in zip(layers, picks):
            pixels = layer[pick]
            canvas = canvas * (1 - pixels[..., 3:]) + pixels[..., :3]
        images[drawn] = np.clip(canvas * 255 + 0.5, 0, 255).astype(np.uint8)
        drawn += 1
    return images


def _robohash_root() -> Path:
    try:
        import robohash
    except ImportError as error:
        raise SystemExit("the classes robots, monsters, heads and cats need the package robohash: pip install 'maskgit-export[data]'") from error
    return Path(robohash.__file__).parent


@lru_cache(maxsize=None)
def _layers(folder: Path, size: int) -> list[list[np.ndarray]]:
    # The drawing order is the folder's name after '#'.
    order = sorted((entry for entry in folder.iterdir() if entry.is_dir()), key=lambda entry: entry.name.split("#")[1])
    return [[_shrink(file, size) for file in sorted(entry.glob("*.png"))] for entry in order]


def _shrink(file: Path, size: int) -> np.ndarray:
    pixels = np.asarray(Image.open(file).convert("RGBA"), np.float32) / 255
    pixels = np.concatenate([pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]], axis=-1)
    channels = [Image.fromarray(pixels[..., c]).resize((size, size), Image.Resampling.BOX) for c in range(4)]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)
