"""Measures inpainting: our own command repaints the centre box of held-out images.

Writes edit.json; with ``--sheets`` also edit.png (columns: original, hole, repainted as its class, repainted without a
class, drawn without the surroundings).

- unmasked: with a hard edge, how many results keep every unmasked pixel (all must), and with Google's blur, how
  many pixels change beyond the feather's reach (none may);
- classifier: part of results, repainted as their class with Google's blur, whose style the independent classifier
  names, by class too; and the same of the untouched originals;
- error: mean absolute error (0..1) inside the hole against the original, of results as their class and without one;
  against that of fills that do not see the surroundings: pictures drawn from nothing with the same seeds, without a
  class (unconditional) and of the class;
- holes: the same images with centred holes of several sizes (``--holes``), several seeds each: error inside, kernel
  distance to other held-out images, the classifier's accuracy, precision and recall.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from . import dataset, holes
from .bundle import BundleError, validate
from .card import put_section
from .classifier import load_classifier
from .evaluate import choose, in_bundle, save_sheet
from .features import NAME, Features
from .files import write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of ``maskgit-export evaluate-edit``."""
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument("--data", required=True, help="the data set it was trained on")
    parser.add_argument("--command", required=True, metavar="PATH", help="the maskgit program, which edits")
    parser.add_argument("--classifier", type=Path, required=True, help="file that `train-classifier` wrote")
    parser.add_argument("--per-class", type=int, default=20, help="held-out images a class")
    parser.add_argument("--seed", type=int, default=5000, help="seed of the first result")
    parser.add_argument(
        "--holes",
        type=float,
        nargs="*",
        default=list(holes.AREAS),
        metavar="AREA",
        help=f"parts of the picture that holes take (default: {' '.join(map(str, holes.AREAS))}; no value: none)",
    )
    parser.add_argument("--seeds", type=int, default=3, help="draws of each size of hole, each with seeds of its own")
    parser.add_argument("--card", type=Path, help="model card whose section 'Editing' is written anew")
    parser.add_argument("--sheets", type=Path, metavar="FOLDER", help="write the sheet edit.png to this folder")
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder for edit.json")


def run(args: argparse.Namespace) -> int:
    """Measures and writes; returns 1 when the bundle is broken or an unmasked pixel changed."""
    if args.per_class < 1:
        print("--per-class must be at least 1", file=sys.stderr)
        return 2
    if args.seeds < 1 or not all(0 < area < 1 for area in args.holes):
        print("--seeds must be at least 1, and every part of --holes between 0 and 1", file=sys.stderr)
        return 2
    try:
        metadata, _ = validate(args.bundle)
    except BundleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    data = dataset.load(args.data, metadata.image_height)
    try:
        to_bundle = in_bundle(args.data, data, metadata)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        images, labels, others = pick(args, data, to_bundle)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    height, width = images.shape[1:3]
    box = (width // 4, height // 4, width // 2, height // 2)
    with tempfile.TemporaryDirectory() as scratch:
        results = repaint_all(args, images, labels, box, scratch)
        classifier = load_classifier(args.classifier)
        report = measure(images, labels, box, results, classifier, metadata.labels, reach(metadata))
        if args.holes:
            known = np.array([classifier.classes.index(name) for name in metadata.labels])[labels]
            report["holes"] = holes.measure(
                lambda box, turn: repaint(args, images, labels, box, turn, scratch),
                np.asarray(images),
                labels,
                others,
                results["conditional"],
                args.holes,
                args.seeds,
                classifier,
                known,
                Features(),
            )
    report["command"] = {"box": list(box), "seed": args.seed, "per_class": args.per_class}
    args.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2) + "\n"
    write_text(args.output / "edit.json", text)
    if args.sheets:
        args.sheets.mkdir(parents=True, exist_ok=True)
        sheet(args.sheets / "edit.png", images, labels, box, results)
    if args.card:
        write_card(args.card, report)
    print(text, end="")
    return (
        0 if report["unmasked"]["identical"] == len(images) and report["unmasked"]["changed_beyond_feather"] == 0 else 1
    )


def pick(
    args: argparse.Namespace, data: dataset.Dataset, to_bundle: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The held-out images to repaint, their labels, and others that the kernel distance compares with.

    The first half of each class is repainted, the second compared with. ``ValueError`` where there are too few.
    """
    chosen, chosen_labels = choose(data.heldout, to_bundle, 2 * args.per_class if args.holes else args.per_class)
    first = np.concatenate(
        [np.flatnonzero(chosen_labels == label)[: args.per_class] for label in np.unique(chosen_labels)]
    )
    images, labels, others = chosen[first], chosen_labels[first], np.delete(chosen, first, axis=0)
    if args.holes and len(others) < len(images):
        raise ValueError(
            f"{args.data}: too few held-out images for --per-class {args.per_class}: as many again are compared with; "
            "give fewer, or --holes without values"
        )
    return images, labels, others


def repaint_all(
    args: argparse.Namespace, images: np.ndarray, labels: np.ndarray, box: tuple, scratch: str
) -> dict[str, np.ndarray]:
    """Every kind of result: those of :func:`fills`, and pictures drawn from nothing, with their class and without."""
    results: dict[str, list] = {"hard": [], "same": [], "free": []}
    for index, (image, label) in enumerate(zip(images, labels)):
        Image.fromarray(np.asarray(image)).save(f"{scratch}/in.png")
        for name, options in fills(box, int(label)).items():
            results[name] += edit(args, options, args.seed + index, 1, scratch)
        if index % 10 == 9:
            print(f"{index + 1} of {len(images)}", file=sys.stderr, flush=True)
    # These see nothing of a picture, so any will do, and one call draws many.
    height, width = images.shape[1:3]
    everything = ["--box", f"0,0,{width},{height}"]
    results["unconditional"] = edit(args, everything, args.seed, len(images), scratch)
    results["conditional"] = []
    for label, count in zip(*np.unique(labels, return_counts=True)):
        seed = args.seed + len(results["conditional"])
        results["conditional"] += edit(args, [*everything, "--class", str(label)], seed, int(count), scratch)
    return {name: np.stack(found) for name, found in results.items()}


def repaint(
    args: argparse.Namespace, images: np.ndarray, labels: np.ndarray, box: tuple, turn: int, scratch: str
) -> np.ndarray:
    """The images with the box repainted as their class, with seeds of this turn."""
    repainted = []
    for index, (image, label) in enumerate(zip(images, labels)):
        Image.fromarray(np.asarray(image)).save(f"{scratch}/in.png")
        options = fills(box, int(label))["same"]
        repainted += edit(args, options, args.seed + turn * len(images) + index, 1, scratch)
    return np.stack(repainted)


def fills(box: tuple, label: int) -> dict[str, list[str]]:
    """Options of ``maskgit edit`` for each kind of result that sees the picture."""
    hole = ",".join(map(str, box))
    return {
        # Which pixels stay does not depend on what is drawn: one step is enough.
        "hard": ["--box", hole, "--class", str(label), "--feather", "0", "--steps", "1"],
        "same": ["--box", hole, "--class", str(label), "--feather", "blur"],
        "free": ["--box", hole, "--feather", "blur"],
    }


def edit(args: argparse.Namespace, options: list[str], seed: int, count: int, scratch: str) -> list[np.ndarray]:
    """Results of ``maskgit edit`` on ``in.png``."""
    call = [
        args.command,
        "edit",
        "--model",
        str(args.bundle),
        "--image",
        f"{scratch}/in.png",
        *options,
        "--seed",
        str(seed),
        "--count",
        str(count),
        "--json",
        "-o",
        f"{scratch}/out.png",
    ]
    try:
        done = subprocess.run(call, capture_output=True, text=True)
    except OSError as error:
        raise SystemExit(f"--command {args.command}: cannot be started: {error}") from error
    if done.returncode != 0:
        raise SystemExit(
            f"{args.command} edit {' '.join(options)} failed with status {done.returncode}: {done.stderr.strip()}"
        )
    results = []
    for result in json.loads(done.stdout)["images"]:
        with Image.open(result["file"]) as picture:
            results.append(np.asarray(picture.convert("RGB")))
    return results


def reach(metadata) -> int:
    """How far Google's blur reaches: the rest of a cell, a ring, three standard deviations (docs/editing.md)."""
    across, down = -(-metadata.image_width // metadata.grid_cols), -(-metadata.image_height // metadata.grid_rows)
    deviation = max(0.0, min(metadata.image_width, metadata.image_height) / 16 - 1)
    return 2 * max(across, down) - 1 + int(np.ceil(3 * deviation))


def measure(images, labels, box, results, classifier, names: list[str], reach: int) -> dict:
    """The figures."""
    left, top, width, height = box
    hole = np.zeros(images.shape[1:3], bool)
    hole[top : top + height, left : left + width] = True
    near = np.zeros_like(hole)
    near[max(0, top - reach) : top + height + reach, max(0, left - reach) : left + width + reach] = True
    hard = (results["hard"] != images).any(3)
    soft = (results["same"] != images).any(3)
    known = np.array([classifier.classes.index(name) for name in names])[labels]
    right = classifier.predict(results["same"]) == known

    def error(name: str) -> float:
        difference = results[name].astype(np.float32) - images.astype(np.float32)
        return round(float(np.abs(difference[:, hole]).mean() / 255), 4)

    errors = {name: error(name) for name in ("same", "free", "unconditional", "conditional")}
    return {
        "images": len(images),
        "unmasked": {
            "identical": int((~hard[:, ~hole].any(1)).sum()),
            "reach": reach,
            "changed_beyond_feather": int(soft[:, ~near].sum()),
        },
        "classifier": {
            "repainted": round(float(right.mean()), 4),
            "originals": round(float((classifier.predict(np.asarray(images)) == known).mean()), 4),
            "per_class": {
                name: round(float(right[labels == i].mean()), 4) for i, name in enumerate(names) if (labels == i).any()
            },
        },
        "error_in_hole": {
            **errors,
            "ratio_to_unconditional": round(errors["same"] / errors["unconditional"], 3)
            if errors["unconditional"]
            else None,
        },
    }


def sheet(path: Path, images, labels, box, results) -> None:
    """One row a class."""
    left, top, width, height = box
    rows = []
    for label in np.unique(labels):
        index = int(np.flatnonzero(labels == label)[0])
        masked = np.array(images[index])
        masked[top : top + height, left : left + width] = 127
        rows += [
            np.asarray(images[index]),
            masked,
            *(results[name][index] for name in ("same", "free", "unconditional")),
        ]
    save_sheet(np.stack(rows), path, columns=5)


def by_size(report: dict) -> str:
    """The paragraph and table of holes of several sizes; nothing where they were not measured."""
    if "holes" not in report:
        return ""
    of = report["holes"]
    return f"""
The same images with a centred square hole of several sizes, repainted as their class {of["seeds"]} times with seeds of
their own; ± is the standard deviation of single draws. KID is the {NAME.replace("KID", "kernel distance")} to
{of["others"]} other held-out images; precision and recall are on the same features.

{holes.table(of)}"""


def write_card(path: Path, report: dict) -> None:
    """Puts the figures into the card, in place of what an earlier run put there, else in front of its section 'How it
    was made'.
    """
    unmasked, classifier, error = report["unmasked"], report["classifier"], report["error_in_hole"]
    rows = [
        (
            "with a hard edge, every unmasked pixel is the same",
            f"{unmasked['identical']} of {report['images']} images",
        ),
        (
            f"with Google's blur, pixels changed farther than {unmasked['reach']} from the box",
            unmasked["changed_beyond_feather"],
        ),
        (
            "style classifier names the style, repainted as its class",
            f"{classifier['repainted']:.1%} (aim: over 95%; untouched: {classifier['originals']:.1%})",
        ),
        ("mean absolute error inside the box, repainted as its class", error["same"]),
        ("the same without a class", error["free"]),
        ("drawn without the surroundings, of the class", error["conditional"]),
        ("drawn without the surroundings or a class", error["unconditional"]),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    section = f"""## Editing

The centre box (half the width and height) of {report["images"]} held-out images, repainted by `maskgit edit` with the
recommended settings. `python -m maskgit_export evaluate-edit` measures and writes this section; the numbers are
`evaluation/edit.json`.

| | |
|---|---|
{table}

`evaluate-edit --sheets FOLDER` also writes a sheet: originals, holes, repainted as their class, without a class, and
drawn from nothing.
{by_size(report)}"""
    put_section(path, "evaluate-edit", section, before="## How it was made")
