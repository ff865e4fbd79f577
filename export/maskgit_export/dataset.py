"""Labelled images as arrays, from a prepared data set or from a folder of pictures.

A prepared data set (what ``data`` writes) is a folder of

    train_images.npy    uint8 [N, H, W, 3]      heldout_images.npy
    train_labels.npy    int64 [N]               heldout_labels.npy
    classes.json        the class names, in label order

A folder of pictures has one sub-folder a class. Its pictures are cropped to a centred square and resized; every
sixteenth picture of a class (by sorted name) is held out.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .files import write_text

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
HELD_OUT_EVERY = 16


@dataclass
class Split:
    """Images ``uint8 [N, H, W, 3]`` and labels ``int64 [N]``."""

    images: np.ndarray
    labels: np.ndarray


@dataclass
class Dataset:
    """A train and a held-out split with their class names."""

    train: Split
    heldout: Split
    classes: list[str]

    @property
    def size(self) -> int:
        """Height and width of the (square) images in pixels."""
        return self.train.images.shape[1]


def load(folder: str | Path, size: int = 64) -> Dataset:
    """Loads a prepared data set, or a folder of pictures resized to ``size`` pixels.

    Says so where some of these are less than half as large.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SystemExit(
            f"{folder}: no such folder; give a folder that `data` wrote, or one with a sub-folder of pictures a class"
        )
    if (folder / "classes.json").exists():
        return _load_prepared(folder)
    return _load_pictures(folder, size)


def first(split: Split, per_class: int) -> Split:
    """The first ``per_class`` images of every class, in the order of the split."""
    chosen = np.sort(
        np.concatenate([np.flatnonzero(split.labels == label)[:per_class] for label in np.unique(split.labels)])
    )
    return subset(split, chosen)


def subset(split: Split, chosen: np.ndarray) -> Split:
    """The images of these ascending indices.

    Where these are all, it is the split itself, whose images stay in their file, which may be larger than the memory.
    """
    return split if len(chosen) == len(split.labels) else Split(split.images[chosen], split.labels[chosen])


def without(classes: list[str], left_out: list[str]) -> list[str]:
    """``classes`` but for those of ``--without``; ends the command where one of these is none, or none remains."""
    unknown = [name for name in left_out if name not in classes]
    if unknown:
        raise SystemExit(f"--without {' '.join(unknown)}: no such class; the data has {', '.join(classes)}")
    remaining = [name for name in classes if name not in left_out]
    if not remaining:
        raise SystemExit("--without: leave at least one class")
    return remaining


def labels_among(classes: list[str], wanted: list[str]) -> np.ndarray:
    """The label that each of ``classes`` has among the ``wanted`` ones, int64; -1 where it is none of them."""
    return np.array([wanted.index(name) if name in wanted else -1 for name in classes], np.int64)


def save(dataset: Dataset, folder: str | Path) -> None:
    """Writes a prepared data set."""
    for name in ("train", "heldout"):
        split = getattr(dataset, name)
        writer = Writer(folder, name, *split.images.shape[:2])
        writer.images[:] = split.images
        writer.finish(split.labels)
    save_classes(dataset.classes, folder)


class Writer:
    """Writes one split of a prepared data set whose images need not fit into memory: fill ``images``, then call
    :meth:`finish`.
    """

    def __init__(self, folder: str | Path, split: str, count: int, size: int):
        self._folder, self._split = Path(folder), split
        self._folder.mkdir(parents=True, exist_ok=True)
        # Without the class names the folder does not count as a data set: a run that was cut short leaves none.
        (self._folder / "classes.json").unlink(missing_ok=True)
        self.images = np.lib.format.open_memmap(
            self._folder / f"{split}_images.npy", mode="w+", dtype=np.uint8, shape=(count, size, size, 3)
        )

    def finish(self, labels: np.ndarray) -> None:
        """Writes the labels, and what is left of the images."""
        self.images.flush()
        np.save(self._folder / f"{self._split}_labels.npy", labels.astype(np.int64))


def save_classes(classes: list[str], folder: str | Path) -> None:
    """Writes the class names in label order, which makes a data set of the folder."""
    write_text(Path(folder) / "classes.json", json.dumps(list(classes), indent=1) + "\n")


def _load_prepared(folder: Path) -> Dataset:
    classes = json.loads((folder / "classes.json").read_text())
    splits = {}
    for name in ("train", "heldout"):
        images = np.load(folder / f"{name}_images.npy", mmap_mode="r")
        labels = np.load(folder / f"{name}_labels.npy")
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or len(images) != len(labels):
            raise SystemExit(
                f"{folder}: {name}_images.npy is {images.dtype} {images.shape} for {len(labels)} labels; expected "
                "uint8 [N, H, W, 3] and N labels"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
            raise SystemExit(f"{folder}: {name}_labels.npy has a label outside 0..{len(classes) - 1}")
        splits[name] = Split(images, labels)
    return Dataset(splits["train"], splits["heldout"], classes)


def _load_pictures(folder: Path, size: int) -> Dataset:
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if not classes:
        raise SystemExit(f"{folder}: no sub-folders; put the pictures of each class in a folder of its own")
    parts: dict[str, tuple[list, list]] = {"train": ([], []), "heldout": ([], [])}
    sides: list[int] = []
    for label, name in enumerate(classes):
        files = sorted(file for file in (folder / name).iterdir() if file.suffix.lower() in SUFFIXES)
        if len(files) < 2:
            raise SystemExit(f"{folder / name}: {len(files)} pictures; a class needs at least two")
        for index, file in enumerate(files):
            images, labels = parts["heldout" if index % HELD_OUT_EVERY == 0 else "train"]
            image, side = _square(file, size)
            images.append(image)
            labels.append(label)
            sides.append(side)
    _warn_of_small(folder, sides, size)
    return Dataset(*(Split(np.stack(images), np.array(labels, np.int64)) for images, labels in parts.values()), classes)


def _warn_of_small(folder: Path, sides: list[int], size: int) -> None:
    """Says how many pictures are less than half as large as the model's, once, however many processes read them."""
    small = [side for side in sides if side < size / 2]
    if small and os.environ.get("RANK", "0") == "0":
        print(
            f"{folder}: {len(small)} of {len(sides)} pictures have less than half of {size} pixels on a side, down to "
            f"{min(small)}: enlarged, they are blurred, and the model learns to draw blurred ones; leave them out, or "
            "train a smaller size",
            file=sys.stderr,
        )


def _square(file: Path, size: int) -> tuple[np.ndarray, int]:
    """The centred square of a picture, resized to ``size``, and its side before."""
    try:
        picture = Image.open(file).convert("RGBA")
    except OSError as error:
        raise SystemExit(f"{file}: not a readable picture ({error}); remove it or convert it to PNG") from error
    on_white = Image.new("RGBA", picture.size, "white")
    on_white.alpha_composite(picture)
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = on_white.convert("RGB").crop((left, top, left + side, top + side))
    return np.asarray(square.resize((size, size), Image.Resampling.LANCZOS)), side
