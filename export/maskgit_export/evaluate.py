"""Measures a bundle: draws with our own command, compares with held-out images.

Writes metrics.json, and contact.webp for the model card: a row a class, held-out images on the left, the first samples
on the right. With ``--sheets`` it also writes ``samples-CLASS.png`` (a sheet a class), ``reconstructions.png``
(held-out images above, their reconstructions below) and ``neighbours.png`` (samples in the first column, then the
nearest training images by pixels, then by features).

- reconstruction: mean absolute error and PSNR of held-out images through encoder and decoder, in ONNX Runtime;
- codebook: part of the codes used by held-out images, and perplexity;
- classifier: accuracy of an independent classifier (`train-classifier`) on samples and on held-out images;
- kid: kernel distance on EfficientNet-lite0 features, of samples and of reconstructions to held-out images (not an
  FID);
- diversity: mean feature distance between two samples of a class, over the same for held-out images;
- parts: mean distance of a part of a sample to the nearest such part of a training image of the class, over the same
  for reconstructions of held-out images; above 1 by as much as eyes, say, are no eyes of the class;
- neighbours: distance of samples to their nearest training image over that of held-out images; far below 1 means
  copying.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from . import dataset, metrics
from .bundle import BundleError, Metadata, validate
from .card import put_section, seen_from
from .classifier import load_classifier
from .features import NAME, Features
from .files import write_bytes, write_text
from .verify import OnnxRuntime

SHORTLIST = 64
SHOWN = 5
MANY = 16
BESIDE = 5
#: The sheet of pictures of a model card, and the most bytes that it takes.
CONTACT = "contact.webp"
CONTACT_BYTES = 300_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of ``maskgit-export evaluate``."""
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument("--data", required=True, help="the data set it was trained on")
    parser.add_argument("--command", required=True, metavar="PATH", help="the maskgit program, which draws the samples")
    parser.add_argument("--classifier", type=Path, help="file that `train-classifier` wrote")
    parser.add_argument("--per-class", type=int, default=100, help="samples to draw a class")
    parser.add_argument("--heldout", type=int, default=0, help="held-out images a class to use (0: all)")
    parser.add_argument("--seed", type=int, default=1000, help="seed of the first sample")
    parser.add_argument(
        "--generate", default="", metavar="OPTIONS", help="more options for `maskgit generate`, in one text"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: PyTorch's choice)")
    parser.add_argument("--sheets", type=Path, metavar="FOLDER", help="write more sheets of pictures to this folder")
    parser.add_argument(
        "--contact", type=int, default=64, help="samples on the sheet of each class in --sheets, the first ones"
    )
    parser.add_argument("--card", type=Path, help="model card whose section 'Measured' is written anew")
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder for metrics.json and contact.webp")


def run(args: argparse.Namespace) -> int:
    """Measures and writes; returns 1 when the bundle is broken, 2 when the options do not fit together."""
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    for name, least in (("per_class", 2), ("contact", 1)):
        if getattr(args, name) < least:
            print(f"--{name.replace('_', '-')} must be at least {least}", file=sys.stderr)
            return 2
    try:
        metadata, graphs = validate(args.bundle)
    except BundleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if "encoder" not in graphs:
        print(f"{args.bundle}: has no encoder; reconstructions cannot be measured", file=sys.stderr)
        return 1
    data = dataset.load(args.data, metadata.image_height)
    try:
        to_bundle = in_bundle(args.data, data, metadata)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    args.output.mkdir(parents=True, exist_ok=True)
    heldout, labels = choose(data.heldout, to_bundle, args.heldout)
    samples, sample_labels, reports = draw(
        args.command, args.bundle, metadata, args.generate.split(), args.per_class, args.seed
    )
    report = measure(
        args,
        metadata,
        OnnxRuntime(args.bundle, graphs, args.threads or 1),
        data,
        to_bundle,
        heldout,
        labels,
        samples,
        sample_labels,
    )
    report["command"] = {
        "options": args.generate,
        "sampling": reports[0].get("sampling"),
        "seed": args.seed,
        "per_class": args.per_class,
    }
    text = json.dumps(report, indent=2) + "\n"
    write_text(args.output / "metrics.json", text)
    if args.card:
        write_card(args.card, report, args.output)
    print(text, end="")
    return 0


def write_card(path: Path, report: dict, folder: Path) -> None:
    """Puts the figures and the sheet of ``folder`` into the card, in place of what an earlier run put there."""
    pictures, images = seen_from(path, folder), report["images"]
    section = f"""## Measured

On {images["heldout"]:,} held-out images and {images["samples"]:,} unpicked samples drawn by `maskgit generate` with the
recommended settings. `python -m maskgit_export evaluate` measures and writes this section; the numbers are
`{pictures}/metrics.json`.

{_figures(report)}

The kernel distance is not an FID and compares with no other network's. The classifier was trained on the training
images only and shares nothing with the model; it is itself a small one. A part is a window of a quarter of the side,
compared with those in the same place of the training images of the class.

{_by_class(report)}

Held-out images on the left, the first samples of the class on the right:

![Held-out images and samples]({pictures}/{CONTACT})

`evaluate --sheets FOLDER` also writes sheets of more samples, of the nearest training images and of reconstructions."""
    put_section(path, "evaluate", section, before="<!-- evaluate-edit -->")


def _figures(report: dict) -> str:
    """The table of the card on all classes together."""
    rebuilt, used, kid = report["reconstruction"], report["codebook"], report["kid"]
    judged, nearest = report.get("classifier"), report["neighbours"]
    rows = [
        ("reconstruction of held-out images", f"L1 {rebuilt['l1']:.5f}, PSNR {rebuilt['psnr_db']:.2f} dB"),
        ("codebook", f"{used['used']} of {used['codes']} codes used, perplexity {used['perplexity']}"),
    ]
    if judged:
        both = f"{judged['samples']:.1%} (on held-out images {judged['heldout']:.1%})"
        rows.append(("classifier's accuracy on samples", both))
    rows += [
        (f"{kid['name']}, samples to held-out", f"{kid['samples']['mean']:.4f} ± {kid['samples']['std']:.4f}"),
        ("the same, reconstructions to held-out", f"{kid['reconstructions']['mean']:.4f}"),
        ("ratio of the two", f"{kid['ratio']}"),
        ("diversity within a class, samples over held-out", f"{report['diversity']['mean']}"),
        (
            "distance of a part to the nearest training image's, samples over reconstructions",
            f"{report['parts']['mean']} (above 1: parts that the class does not have)",
        ),
        (
            "distance to the nearest training image, samples over held-out",
            f"{nearest['ratio']} (far below 1 would be copying)",
        ),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _by_class(report: dict) -> str:
    """The table of the card on each class."""
    judged = report.get("classifier")
    columns = ["class", *(["classifier: samples", "classifier: held-out"] if judged else []), "diversity", "parts"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, diverse in report["diversity"]["per_class"].items():
        part = report["parts"]["per_class"].get(name)
        accuracy = [f"{judged[of][name]:.1%}" for of in ("per_class", "heldout_per_class")] if judged else []
        cells = [name, *accuracy, f"{diverse:.3f}", "–" if part is None else f"{part:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(
    command: str,
    bundle: Path,
    metadata: Metadata,
    options: list[str],
    per_class: int,
    first_seed: int,
    quiet: bool = False,
) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """``per_class`` samples of every class through ``maskgit generate``: images, labels, the command's reports."""
    images, reports = [], []
    for index, name in enumerate(metadata.labels):
        if not quiet:
            print(f"drawing {per_class} of {name}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            # Every class has seeds of its own, so that no two samples share their noise.
            seed = first_seed + index * per_class
            call = [
                command,
                "generate",
                "--model",
                str(bundle),
                "--class",
                str(index),
                "--seed",
                str(seed),
                "--count",
                str(per_class),
                *options,
                "--json",
                "-o",
                f"{scratch}/sample.png",
            ]
            try:
                done = subprocess.run(call, capture_output=True, text=True)
            except OSError as error:
                raise SystemExit(f"--command {command}: cannot be started: {error}") from error
            if done.returncode != 0:
                raise SystemExit(
                    f"{command} generate --class {name} failed with status {done.returncode}: {done.stderr.strip()}"
                )
            report = json.loads(done.stdout)
            files = [image["file"] for image in report["images"]]
            if len(files) != per_class:
                raise SystemExit(f"{command} generate drew {len(files)} images of {name}; {per_class} were asked for")
            images.append(np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files]))
            reports.append(report)
    labels = np.repeat(np.arange(len(metadata.labels)), per_class)
    return np.concatenate(images), labels, reports


def measure(args, metadata, graphs, data, to_bundle, heldout, labels, samples, sample_labels) -> dict:
    """All metrics, and the sheets."""
    contact = beside(samples, sample_labels, heldout, labels, len(metadata.labels))
    save_contact(contact, args.output / CONTACT, columns=2 * BESIDE + 1)
    rebuilt, tokens = reconstruct(graphs, heldout)
    if args.sheets:
        args.sheets.mkdir(parents=True, exist_ok=True)
        for index, name in enumerate(metadata.labels):
            save_sheet(samples[sample_labels == index][: args.contact], args.sheets / f"samples-{name}.png", columns=8)
        every = max(1, len(heldout) // 12)
        shown = slice(0, every * 12, every)
        pairs = np.concatenate([heldout[shown], rebuilt[shown]])
        save_sheet(pairs, args.sheets / "reconstructions.png", columns=len(heldout[shown]))
    report = {"bundle": metadata.name, "images": {"samples": len(samples), "heldout": len(heldout)}}
    report["reconstruction"] = reconstruction_error(heldout, rebuilt)
    report["codebook"] = codebook_use(tokens, metadata.codes)
    if args.classifier:
        report["classifier"] = judge(
            load_classifier(args.classifier), metadata, samples, sample_labels, heldout, labels
        )
    features = Features()
    held, made, again = (
        features(heldout, what="held-out images"),
        features(samples, what="samples"),
        features(rebuilt, what="reconstructions"),
    )
    of_samples, of_rebuilt = metrics.kid(made, held), metrics.kid(again, held)
    report["kid"] = {
        "name": NAME,
        "samples": _mean_std(of_samples),
        "reconstructions": _mean_std(of_rebuilt),
        "ratio": round(of_samples[0] / of_rebuilt[0], 3) if of_rebuilt[0] > 0 else None,
    }
    report["diversity"] = diversity(metadata, made, sample_labels, held, labels)
    train = dataset.subset(data.train, np.flatnonzero(to_bundle[data.train.labels] >= 0))
    known = metrics.Parts(train.images, to_bundle[train.labels])
    report["parts"] = parts(metadata, known.means(samples, sample_labels), known.means(rebuilt, labels))
    report["neighbours"] = neighbours(
        features,
        train.images,
        samples,
        made,
        heldout,
        args.sheets / "neighbours.png" if args.sheets else None,
        len(metadata.labels),
        args.per_class,
    )
    return report


def beside(
    samples: np.ndarray, sample_labels: np.ndarray, heldout: np.ndarray, labels: np.ndarray, classes: int
) -> np.ndarray:
    """For every class the first held-out images, a white one, and the first samples; white where there are too few."""
    rows = np.full((classes, 2 * BESIDE + 1, *samples.shape[1:]), 255, np.uint8)
    for index, row in enumerate(rows):
        for first, images in ((0, heldout[labels == index]), (BESIDE + 1, samples[sample_labels == index])):
            row[first : first + min(BESIDE, len(images))] = images[:BESIDE]
    return rows.reshape(-1, *samples.shape[1:])


def reconstruct(graphs: OnnxRuntime, images: np.ndarray, batch: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Images through encoder and decoder: rounded to bytes as the command would write them, and their tokens."""
    rebuilt, tokens = [], []
    for first in range(0, len(images), batch):
        image = np.ascontiguousarray(images[first : first + batch].transpose(0, 3, 1, 2), np.float32) / np.float32(255)
        found = graphs.encode(image)
        tokens.append(found)
        rebuilt.append(np.rint(np.clip(graphs.decode(found), 0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1))
    return np.concatenate(rebuilt), np.concatenate(tokens)


def reconstruction_error(images: np.ndarray, rebuilt: np.ndarray) -> dict:
    """Mean absolute error of 0..1 and the mean of the images' PSNR in decibels."""
    difference = images.astype(np.float32) / 255 - rebuilt.astype(np.float32) / 255
    psnr = -10 * np.log10(np.maximum((difference**2).mean((1, 2, 3)), 1e-10))
    return {"l1": round(float(np.abs(difference).mean()), 5), "psnr_db": round(float(psnr.mean()), 2)}


def codebook_use(tokens: np.ndarray, codes: int) -> dict:
    """Part of the codes that occur, and the perplexity of their distribution."""
    count = np.bincount(tokens.ravel(), minlength=codes).astype(np.float64)
    p = count[count > 0] / count.sum()
    return {
        "codes": codes,
        "used": int((count > 0).sum()),
        "used_part": round(float((count > 0).mean()), 4),
        "perplexity": round(float(np.exp(-(p * np.log(p)).sum())), 1),
    }


def recognised(classifier, metadata: Metadata, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether the classifier names the class of each image; ``labels`` are the bundle's."""
    missing = [name for name in metadata.labels if name not in classifier.classes]
    if missing:
        raise SystemExit(f"the classifier does not know {', '.join(missing)}; train it on this bundle's data")
    return classifier.predict(images) == np.array([classifier.classes.index(name) for name in metadata.labels])[labels]


def judge(classifier, metadata: Metadata, samples, sample_labels, heldout, labels) -> dict:
    """Accuracy of the classifier on samples (all, and a class) and on held-out images."""
    right, right_heldout = (
        recognised(classifier, metadata, samples, sample_labels),
        recognised(classifier, metadata, heldout, labels),
    )
    return {
        "samples": round(float(right.mean()), 4),
        "heldout": round(float(right_heldout.mean()), 4),
        "per_class": {
            name: round(float(right[sample_labels == index].mean()), 4) for index, name in enumerate(metadata.labels)
        },
        "heldout_per_class": {
            name: round(float(right_heldout[labels == index].mean()), 4) for index, name in enumerate(metadata.labels)
        },
    }


def diversity(metadata: Metadata, made, sample_labels, held, labels) -> dict:
    """Mean feature distance within a class, of samples over held-out images; 1 is as varied as the data."""
    ratios = {}
    for index, name in enumerate(metadata.labels):
        real = metrics.mean_pairwise(held[labels == index])
        if real > 0:
            ratios[name] = round(metrics.mean_pairwise(made[sample_labels == index]) / real, 3)
    return _over_classes(ratios)


def parts(metadata: Metadata, made: dict[int, float], again: dict[int, float]) -> dict:
    """Mean distance of a part of a sample of each label to the nearest of a training image of the class, over that of
    reconstructions of held-out images.
    """
    return _over_classes(
        {
            name: round(made[index] / again[index], 3)
            for index, name in enumerate(metadata.labels)
            if again.get(index, 0) > 0
        }
    )


def neighbours(
    features: Features, train, samples, made, heldout, sheet: Path | None, classes: int, per_class: int
) -> dict:
    """Nearest training images of samples and held-out images; the sheet shows two samples a class, of many classes one.

    Pixels are compared as 16x16 thumbnails with every training image; features among the 64 nearest of those.
    """
    pool = metrics.thumbnails(train)
    _, of_samples = metrics.nearest(metrics.thumbnails(samples), pool, 1)
    _, of_heldout = metrics.nearest(metrics.thumbnails(heldout), pool, 1)
    shown = np.concatenate([np.arange(2 if classes <= MANY else 1) + index * per_class for index in range(classes)])
    found, _ = metrics.nearest(metrics.thumbnails(samples[shown]), pool, SHORTLIST)
    rows = []
    for sample, candidates in zip(shown, found):
        by_features, _ = metrics.nearest(made[sample : sample + 1], features(train[candidates]), SHOWN)
        rows += [samples[sample : sample + 1], train[candidates[:SHOWN]], train[candidates[by_features[0]]]]
    width = 1 + min(SHOWN, len(train)) * 2
    if sheet:
        save_sheet(np.concatenate(rows), sheet, columns=width)
    medians = [float(np.median(d)) for d in (of_samples, of_heldout)]
    return {
        "samples_median": round(medians[0], 4),
        "heldout_median": round(medians[1], 4),
        "ratio": round(medians[0] / medians[1], 3) if medians[1] > 0 else None,
        "samples_minimum": round(float(of_samples.min()), 4),
        "training_images": len(train),
    }


def laid_out(images: np.ndarray, columns: int, gap: int = 2) -> Image.Image:
    """Images ``uint8 [N, H, W, 3]`` in rows of ``columns``."""
    count, rows, cols, _ = images.shape
    lines = -(-count // columns)
    sheet = np.full((lines * (rows + gap) - gap, columns * (cols + gap) - gap, 3), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * (rows + gap), index % columns * (cols + gap)
        sheet[top : top + rows, left : left + cols] = image
    return Image.fromarray(sheet)


def save_sheet(images: np.ndarray, path: Path, columns: int) -> None:
    """Writes a sheet of images as PNG."""
    laid_out(images, columns).save(path, optimize=True)


def save_contact(images: np.ndarray, path: Path, columns: int) -> None:
    """Writes the sheet of a model card as WebP, as good as fits into ``CONTACT_BYTES``."""
    sheet = laid_out(images, columns)
    for quality in (92, 85, 78, 70, 60, 50, 40, 25, 10):
        stored = io.BytesIO()
        sheet.save(stored, "WEBP", quality=quality, method=6)
        if stored.tell() <= CONTACT_BYTES:
            break
    write_bytes(path, stored.getbuffer())


def in_bundle(folder: str | Path, data: dataset.Dataset, metadata: Metadata) -> np.ndarray:
    """The bundle's label of each class of the data, -1 where the bundle lacks it.

    Refuses data that lack a class or have another size.
    """
    missing = [name for name in metadata.labels if name not in data.classes]
    if missing or data.size != metadata.image_height:
        raise ValueError(
            f"{folder}: {data.size} pixels and classes {', '.join(data.classes)}; the bundle has "
            f"{metadata.image_height} pixels and {', '.join(missing) or 'the same classes'}"
        )
    return dataset.labels_among(data.classes, metadata.labels)


def choose(split: dataset.Split, to_bundle: np.ndarray, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Held-out images of the bundle's classes, at most ``per_class`` of each (0: all), with the bundle's labels."""
    labels = to_bundle[split.labels]
    picks = [np.flatnonzero(labels == label)[: per_class or None] for label in np.unique(labels[labels >= 0])]
    chosen = np.concatenate(picks)
    return split.images[chosen], labels[chosen]


def _over_classes(ratios: dict[str, float]) -> dict:
    return {"mean": round(float(np.mean(list(ratios.values()))), 3) if ratios else None, "per_class": ratios}


def _mean_std(value: tuple[float, float]) -> dict:
    return {"mean": round(value[0], 6), "std": round(value[1], 6)}
