"""Draws the avatars data sets: DiceBear styles (with Node.js) and RoboHash parts (with Pillow).

Every picture is drawn by a program from parts and colours, so the set is labelled, reproducible and as large as wanted.
What is held out are whole *combinations of parts*, never merely seeds: a held-out combination is not seen in training
in any colour. Licences of the drawings are listed in LICENCES and belong in the card of every model trained on them.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from . import dataset
from .files import write_text

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
#: Where RoboHash keeps the parts of a class. Robots come in ten colours: each may be a class, or all may be one.
ROBOHASH = {"robots": "set1", "monsters": "set2", "heads": "set3", "cats": "set4"}
ROBOT_COLOURS = ["blue", "brown", "green", "grey", "orange", "pink", "purple", "red", "white", "yellow"]
ROBOHASH |= {f"robots-{colour}": f"set1/{colour}" for colour in ROBOT_COLOURS}
LICENCES |= {f"robots-{colour}": LICENCES["robots"] for colour in ROBOT_COLOURS}


@dataclass(frozen=True)
class DataSet:
    """What a named data set holds: its classes in label order, the size of its pictures, and how many of each class."""

    classes: list[str]
    size: int
    train: int
    heldout: int


#: The data sets of the models in this repository.
SETS = {
    "avatars-64": DataSet(
        [
            "adventurer",
            "big-ears",
            "fun-emoji",
            "lorelei",
            "miniavs",
            "open-peeps",
            "personas",
            "pixel-art",
            "thumbs",
            "toon-head",
        ],
        64,
        8000,
        400,
    ),
    # Every permitted style but `thumbs`, whose faces avatars-64 did not learn, and `rings`, which has 16 combinations
    # of parts and so none to hold out; robots of the six colours that differ most.
    "avatars-128": DataSet(
        [
            "adventurer",
            "big-ears",
            "big-smile",
            "croodles",
            "dylan",
            "fun-emoji",
            "glass",
            "lorelei",
            "micah",
            "miniavs",
            "notionists",
            "open-peeps",
            "personas",
            "pixel-art",
            "shapes",
            "toon-head",
            "robots-blue",
            "robots-green",
            "robots-grey",
            "robots-pink",
            "robots-red",
            "robots-yellow",
            "monsters",
            "heads",
            "cats",
        ],
        128,
        4000,
        200,
    ),
}
SCRIPTS = Path(__file__).parent / "data"
HELD_OUT_BUCKETS = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of ``maskgit-export data``."""
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder to write the data set into")
    parser.add_argument(
        "--set",
        default="avatars-64",
        choices=sorted(SETS),
        help="data set to draw (default: avatars-64); the options below change single parts of it",
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        choices=sorted(LICENCES),
        metavar="CLASS",
        help=f"styles to draw (default: those of the set; known: {' '.join(sorted(LICENCES))})",
    )
    parser.add_argument("--size", type=int, help="image height and width in pixels (default: the set's)")
    parser.add_argument("--train", type=int, help="training images a class (default: the set's)")
    parser.add_argument("--heldout", type=int, help="held-out images a class (default: the set's)")
    parser.add_argument(
        "--work", type=Path, default=None, help="folder for the drawing programs' packages (default: OUTPUT/node)"
    )


def run(args: argparse.Namespace) -> int:
    """Draws the data set and writes it as arrays, with ATTRIBUTION.md beside them."""
    wanted = SETS[args.set]
    classes, size = args.classes or wanted.classes, wanted.size if args.size is None else args.size
    parts = {
        part: getattr(wanted, part) if getattr(args, part) is None else getattr(args, part)
        for part in ("train", "heldout")
    }
    for name, value in (("--size", size), *((f"--{part}", count) for part, count in parts.items())):
        if value < 1:
            print(f"{name} must be at least 1, not {value}", file=sys.stderr)
            return 2
    work = args.work or args.output / "node"
    if any(name not in ROBOHASH for name in classes):
        _install(work)
    arrays = {part: dataset.Writer(args.output, part, count * len(classes), size) for part, count in parts.items()}

    def draw(index: int, name: str) -> None:
        function = _robohash if name in ROBOHASH else _dicebear
        for part, count in parts.items():
            arrays[part].images[index * count : (index + 1) * count] = function(name, size, count, part, work)
        print(
            f"{name}: {parts['train']} training and {parts['heldout']} held-out images ({LICENCES[name]})",
            file=sys.stderr,
            flush=True,
        )

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(draw, range(len(classes)), classes))
    for part, count in parts.items():
        arrays[part].finish(np.repeat(np.arange(len(classes)), count))
    write_text(args.output / "ATTRIBUTION.md", attribution(classes))
    dataset.save_classes(classes, args.output)
    return 0


def attribution(classes: list[str]) -> str:
    """A table of who drew what under which licence; it belongs in the card of every model trained on these classes."""
    rows = "".join(
        f"| {name} | {LICENCES[name].split(', ', 1)[1]} | {LICENCES[name].split(', ', 1)[0]} |\n" for name in classes
    )
    return f"| class | by | licence |\n|---|---|---|\n{rows}"


def _install(work: Path) -> None:
    """Installs the pinned DiceBear and resvg packages into ``work``, if they are not there yet."""
    if shutil.which("npm") is None:
        raise SystemExit(
            "npm not found: the DiceBear styles are drawn with Node.js; install Node.js 18 or later, or choose "
            "RoboHash classes only"
        )
    work.mkdir(parents=True, exist_ok=True)
    # npm writes the first of these last.
    lock, wanted = work / "package-lock.json", (SCRIPTS / "package-lock.json").read_bytes()
    there = (work / "node_modules/.package-lock.json").exists() and lock.exists() and lock.read_bytes() == wanted
    for name in ("package.json", "package-lock.json", "dicebear.mjs"):
        shutil.copy(SCRIPTS / name, work / name)
    if not there:
        subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=work, check=True)


def _dicebear(style: str, size: int, count: int, part: str, work: Path) -> np.ndarray:
    command = ["node", "dicebear.mjs", style, str(size), "0", str(count), part]
    done = subprocess.run(command, cwd=work, stdout=subprocess.PIPE)
    if done.returncode != 0:
        raise SystemExit(f"{style}: {' '.join(command)} failed with status {done.returncode}")
    return np.frombuffer(done.stdout, np.uint8).reshape(count, size, size, 3)


def _robohash(name: str, size: int, count: int, part: str, _work: Path) -> np.ndarray:
    """Composes RoboHash parts; each part is shrunk once, with premultiplied alpha."""
    root = _robohash_root() / "sets" / ROBOHASH[name]
    # Set 1 has one folder of parts a colour; the others are one folder of parts.
    variants = [_layers(folder, size) for folder in (sorted(root.iterdir()) if name == "robots" else [root])]
    # A combination that is held out is so in every colour.
    kind = name.split("-")[0]
    images = np.empty((count, size, size, 3), np.uint8)
    seed = drawn = 0
    while drawn < count:
        choice = random.Random(f"{name}-{seed}")
        seed += 1
        layers = choice.choice(variants)
        picks = [choice.randrange(len(layer)) for layer in layers]
        held = hashlib.sha256(f"{kind}{picks}".encode()).digest()[0] % HELD_OUT_BUCKETS == 0
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
        raise SystemExit(
            "the classes robots, monsters, heads and cats need the package robohash: pip install 'maskgit-export[data]'"
        ) from error
    return Path(robohash.__file__).parent


@cache
def _layers(folder: Path, size: int) -> list[list[np.ndarray]]:
    return [[_shrink(file, size) for file in files] for files in _files(folder)]


def _files(folder: Path) -> list[list[Path]]:
    """The parts of each layer, from the lowest to the highest; the same parts in the same order for every colour."""

    # The name after '#' is a layer's place, and a part's too: the number in front of it differs from colour to colour
    # for the same part.
    def key(entry: Path) -> str:
        return entry.name.split("#")[-1]

    return [
        sorted(layer.glob("*.png"), key=key)
        for layer in sorted((entry for entry in folder.iterdir() if entry.is_dir()), key=key)
    ]


def _shrink(file: Path, size: int) -> np.ndarray:
    pixels = np.asarray(Image.open(file).convert("RGBA"), np.float32) / 255
    pixels = np.concatenate([pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]], axis=-1)
    channels = [Image.fromarray(pixels[..., c]).resize((size, size), Image.Resampling.BOX) for c in range(4)]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)
