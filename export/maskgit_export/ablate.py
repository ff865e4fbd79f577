"""Measures what each sampling setting does, as the tables of the MaskGIT paper do, by our own command.

Every table changes one setting and keeps the others as the bundle recommends them (``--steps`` changes the number of
steps of all tables but the one of steps, ``--more-steps`` that of the tables of temperatures):

- schedule: the mask schedules linear, square, cubic, sqrt, cosine, exp and log;
- steps: 1 to 64 iterations;
- choice-temperature: the temperature of the noise on the confidence, with more steps too;
- temperature: that of the draw of tokens, constant and changing over the steps, with more steps;
- guidance: the scale of classifier-free guidance, constant and growing over the steps;
- sampler: confidence, with remasking and without, and predictor and corrector, against the Halton order, with as many
  steps;
- precision: the bundle beside the ones of ``--also``.

A row is drawn with several seeds; a figure is the mean over them, with the standard deviation of single draws. The
figures are the kernel distance to held-out images on EfficientNet-lite0 features (the estimate on all images; equal
numbers of every class lower it by the same amount in every row, so compare rows only), the distance of a part to the
nearest training image's (as `evaluate` has it: over that of reconstructions of held-out images, which are the bundle's
in all rows), the accuracy of an independent classifier, improved precision and recall on the same features (precision:
samples that look like the data; recall: data that the samples cover), and the time that an image takes to draw. Time is
the least over all calls of a row, because other programs can only add to it; where they ran during the draws,
``--retime`` on a quiet machine draws one class of each row again, for its time only.

Each draw is kept in WORK/cells as it finishes. Interrupt the command at any time: the same command goes on, and a table
shows what is there. Writes ablations.json and a plot a table into OUTPUT, and the tables into the page.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from . import ablate_report, dataset, metrics
from .bundle import BundleError, Metadata, validate
from .evaluate import choose, draw, in_bundle, parts, recognised, reconstruct
from .files import whole, write_text
from .verify import OnnxRuntime

SCHEDULES = ("linear", "square", "cubic", "sqrt", "cosine", "exp", "log")
STEPS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 64)
CHOICE_TEMPERATURES = (0.0, 1.0, 2.0, 4.5, 9.0, 18.0)
#: Of the first step and, where it changes, of the last.
TEMPERATURES, FINAL_TEMPERATURES = (0.8, 1.0, 1.2), (0.3, 0.6)
GUIDANCE = (0.5, 1.0, 2.0, 4.0)
#: Sampler and the schedule it comes with.
SAMPLERS = {
    "confidence": "cosine",
    "confidence-remask": "cosine",
    "predictor-corrector": "cosine",
    "halton": "arccos",
    "halton-redraw": "arccos",
}
SAMPLER_STEPS = (4, 8, 16)
TABLES = ("schedule", "steps", "choice-temperature", "temperature", "guidance", "sampler", "precision")


@dataclass(frozen=True)
class Model:
    """One bundle with what identifies its weights."""

    path: Path
    metadata: Metadata
    precision: str
    graphs: dict

    @property
    def weights(self) -> list:
        """Name and SHA-256 of each graph."""
        return sorted([name, graph["sha256"]] for name, graph in self.graphs.items())


@dataclass(frozen=True)
class Row:
    """One row of a table: which model draws, with which settings. ``x`` and ``series`` place it in a plot."""

    table: str
    name: str
    model: Model
    sampling: tuple
    x: float | None = None
    series: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of ``maskgit-export ablate``."""
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument("--data", required=True, help="the data set it was trained on")
    parser.add_argument("--command", required=True, metavar="PATH", help="the maskgit program, which draws")
    parser.add_argument("--classifier", type=Path, required=True, help="file that `train-classifier` wrote")
    parser.add_argument(
        "--also",
        type=Path,
        nargs="+",
        default=[],
        metavar="BUNDLE",
        help="the same model in other precisions, for the table of precisions",
    )
    parser.add_argument(
        "--tables",
        nargs="+",
        default=list(TABLES),
        choices=TABLES,
        metavar="TABLE",
        help=f"tables to make (default: all: {' '.join(TABLES)})",
    )
    parser.add_argument("--steps", type=int, help="steps in all tables but that of the steps (default: the model's)")
    parser.add_argument(
        "--more-steps",
        type=int,
        help="steps of the table of temperatures, and of that of choice temperatures besides --steps (default: the "
        "model's)",
    )
    parser.add_argument("--per-class", type=int, default=34, help="samples to draw a class and seed")
    parser.add_argument("--seeds", type=int, default=3, help="draws of a row, each with seeds of its own")
    parser.add_argument("--seed", type=int, default=20_000, help="seed of the first sample")
    parser.add_argument("--heldout", type=int, default=60, help="held-out images a class to compare with (0: all)")
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads of the features and of the command (0: each one's choice)"
    )
    parser.add_argument("--retime", action="store_true", help="time the finished draws again, and keep the lesser time")
    parser.add_argument("--work", type=Path, help="folder for finished draws (default: OUTPUT)")
    parser.add_argument(
        "--page", type=Path, help="Markdown page whose section between the marks of this command is written anew"
    )
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder for ablations.json and the plots")


def run(args: argparse.Namespace) -> int:
    """Measures what is not measured yet, and writes.

    Returns 1 when cancelled or a bundle is broken, 2 when the options do not fit together.
    """
    import torch

    for name, least in (("per_class", 2), ("seeds", 1), ("heldout", 0), ("steps", 1), ("more_steps", 1)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            print(f"--{name.replace('_', '-')} must be at least {least}", file=sys.stderr)
            return 2
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        models = [open_model(path) for path in (args.bundle, *args.also)]
    except BundleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for other in models[1:]:
        if (
            other.metadata.labels != models[0].metadata.labels
            or other.metadata.image_height != models[0].metadata.image_height
        ):
            print(
                f"--also {other.path}: {other.metadata.name} has other classes or another size than "
                f"{models[0].metadata.name}",
                file=sys.stderr,
            )
            return 2
    rows = plan(models, args.tables, args.steps, args.more_steps)
    try:
        bench = Bench(args, models[0])
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    jobs = [(row, turn) for turn in range(args.seeds) for row in rows]
    seen, left = set(), []
    for row, turn in jobs:
        if (key := bench.key(row, turn)) not in seen and bench.stored(key) is None:
            left.append((row, turn))
        seen.add(key)
    print(
        f"{len(rows)} rows, {len(seen)} draws of {bench.count} images, {len(left)} of them to do",
        file=sys.stderr,
        flush=True,
    )
    cancelled, began = False, time.monotonic()
    try:
        if args.retime:
            for number, row in enumerate(rows):
                bench.retime(row)
                print(f"[{number + 1}/{len(rows)}] {row.table} {row.name}: timed", file=sys.stderr, flush=True)
        for done, (row, turn) in enumerate(left):
            bench.measure(row, turn)
            spent = time.monotonic() - began
            remaining = spent / (done + 1) * (len(left) - done - 1)
            print(
                f"[{done + 1}/{len(left)}] {row.table} {row.name}, seed {turn + 1}: {spent / (done + 1):.0f} s a "
                f"draw, {remaining / 60:.0f} min left",
                file=sys.stderr,
                flush=True,
            )
    except KeyboardInterrupt:
        cancelled = True
        print("cancelled; what is measured is kept, and the same command goes on from there", file=sys.stderr)
    bench.find_parts([bench.key(row, turn) for row, turn in jobs])
    report = summarise(args, models, rows, bench)
    if not any(row["draws"] for table in report["tables"].values() for row in table):
        return 1
    args.output.mkdir(parents=True, exist_ok=True)
    write_text(args.output / "ablations.json", json.dumps(report, indent=1) + "\n")
    ablate_report.plots(report, args.output)
    if args.page:
        ablate_report.write_page(args.page, report, args.output)
    print(ablate_report.tables(report))
    return 1 if cancelled else 0


def open_model(path: Path) -> Model:
    """A validated bundle."""
    metadata, graphs = validate(path)
    precision = json.loads((path / "bundle.json").read_text(encoding="utf-8"))["precision"]
    return Model(path, metadata, precision, graphs)


def plan(models: list[Model], tables: list[str], steps: int | None = None, more_steps: int | None = None) -> list[Row]:
    """The rows of the tables, in order."""
    model = models[0]
    base = model.metadata.sampling if steps is None else replace(model.metadata.sampling, steps=steps)
    more_steps = more_steps or model.metadata.sampling.steps
    rows: list[Row] = []

    def add(table: str, name: str, x: float | None = None, series: str = "", model: Model = model, **changes) -> None:
        rows.append(Row(table, name, model, tuple(sorted(asdict(replace(base, **changes)).items())), x, series))

    for table in tables:
        if table == "schedule":
            for schedule in SCHEDULES:
                add(table, schedule, schedule=schedule)
        elif table == "steps":
            for count in STEPS:
                add(table, str(count), count, steps=count)
        elif table == "choice-temperature":
            # How much noise is best depends on the number of steps.
            counts = sorted({base.steps, more_steps})
            for count in counts:
                series = f"{count} steps" if len(counts) > 1 else ""
                for value in sorted({*CHOICE_TEMPERATURES, base.choice_temperature}):
                    add(
                        table,
                        ", ".join(filter(None, (f"{value:g}", series))),
                        value,
                        series,
                        choice_temperature=value,
                        steps=count,
                    )
        elif table == "temperature":
            for last in (None, *sorted({*FINAL_TEMPERATURES, base.final_temperature} - {None})):
                series = "constant" if last is None else f"to {last:g}"
                for value in sorted({*TEMPERATURES, base.temperature}):
                    add(
                        table,
                        f"{value:g}, constant" if last is None else f"{value:g} {series}",
                        value,
                        series,
                        temperature=value,
                        final_temperature=last,
                        steps=more_steps,
                    )
        elif table == "guidance":
            add(table, "0", 0.0, guidance=0.0, guidance_ramp=False)
            for ramp in (False, True):
                series = "growing" if ramp else "constant"
                for value in sorted({*GUIDANCE, base.guidance} - {0.0}):
                    add(table, f"{value:g}, {series}", value, series, guidance=value, guidance_ramp=ramp)
        elif table == "sampler":
            for sampler, schedule in SAMPLERS.items():
                for count in SAMPLER_STEPS:
                    add(
                        table,
                        f"{sampler}, {count} steps",
                        count,
                        sampler,
                        sampler=sampler,
                        schedule=schedule,
                        steps=count,
                    )
        else:
            for one in models:
                add(table, one.precision, model=one)
    return rows


def options(sampling: dict) -> list[str]:
    """The options of ``maskgit generate`` that ask for these settings and nothing else."""
    words = []
    for name, value in sampling.items():
        if name == "guidance_ramp":
            words.append("--guidance-ramp" if value else "--no-guidance-ramp")
        elif value is not None:
            words += [f"--{name.replace('_', '-')}", f"{value:g}" if isinstance(value, float) else str(value)]
    return words


class Bench:
    """What the samples of every row are compared with, and the store of finished draws."""

    def __init__(self, args: argparse.Namespace, model: Model):
        from .classifier import load_classifier
        from .features import Features

        if "encoder" not in model.graphs:
            raise ValueError(
                f"{model.path}: has no encoder; reconstructions, which samples are compared with, cannot be made"
            )
        self.args, self.model, self.metadata = args, model, model.metadata
        self.classifier, self.network = load_classifier(args.classifier), Features()
        data = dataset.load(args.data, self.metadata.image_height)
        to_bundle = in_bundle(args.data, data, self.metadata)
        self.heldout, self.labels = choose(data.heldout, to_bundle, args.heldout)
        self.count = args.per_class * len(self.metadata.labels)
        if min(self.count, len(self.heldout)) <= 3:
            raise ValueError(
                f"{self.count} samples and {len(self.heldout)} held-out images are too few to compare; give a larger "
                "--per-class or --heldout"
            )
        self.work = args.work or args.output
        (self.work / "cells").mkdir(parents=True, exist_ok=True)
        self.yardstick = hashlib.sha256(self.heldout.tobytes() + args.classifier.read_bytes()).hexdigest()
        self.name = hashlib.sha256(self.heldout.tobytes()).hexdigest()[:16]
        self.held = self._kept(f"heldout-{self.name}", lambda: self.network(self.heldout, what="held-out images"))
        self.parts_of = hashlib.sha256(json.dumps(model.weights).encode()).hexdigest()[:16]
        self.train = dataset.Split(data.train.images, to_bundle[data.train.labels])

    def _kept(self, name: str, find) -> np.ndarray:
        """What ``find`` gives, from WORK where it was found before."""
        path = self.work / f"{name}.npy"
        if not path.exists():
            found = find()
            with whole(path) as partial:
                np.save(partial, found)
        return np.load(path)

    def key(self, row: Row, turn: int) -> str:
        """A name for one draw: the same weights, settings, seeds and yardstick have the same, whatever table they are
        for.
        """
        asked = [
            row.model.weights,
            row.sampling,
            self.args.seed + turn * self.count,
            self.args.per_class,
            self.args.threads,
            self.yardstick,
            self.parts_of,
        ]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:24]

    def stored(self, key: str) -> dict | None:
        """The figures of a finished draw."""
        path = self._cell(key)
        return json.loads(path.read_text()) if path.exists() else None

    def _cell(self, key: str) -> Path:
        return self.work / "cells" / f"{key}.json"

    def measure(self, row: Row, turn: int) -> None:
        """Draws, measures and stores."""
        images, labels, reports = draw(
            self.args.command,
            row.model.path,
            self.metadata,
            self._options(row),
            self.args.per_class,
            self.args.seed + turn * self.count,
            quiet=True,
        )
        made = self.network(images)
        precision, recall = metrics.precision_recall(made, self.held)
        figures = {
            "kid": metrics.mmd2(made, self.held),
            "accuracy": float(recognised(self.classifier, self.metadata, images, labels).mean()),
            "precision": precision,
            "recall": recall,
            "seconds": seconds(reports),
        }
        cell = self._cell(self.key(row, turn))
        # To look through the training images takes as long for many draws as for one: all that is not known yet is
        # found at the end.
        with whole(cell.with_suffix(".npy")) as partial:
            np.save(partial, metrics.Parts.shrink(images))
        write_text(cell, json.dumps({"row": [row.table, row.name], **figures}) + "\n")

    def find_parts(self, keys: list[str]) -> None:
        """Finds the parts of the finished draws that lack them, all at once, and stores them."""
        lacking = {key: figures for key in keys if (figures := self.stored(key)) and "parts" not in figures}
        if not lacking:
            return
        print(f"parts of {len(lacking)} draws", file=sys.stderr, flush=True)

        def rebuild() -> np.ndarray:
            runtime = OnnxRuntime(self.model.path, self.model.graphs, self.args.threads or 1)
            return reconstruct(runtime, self.heldout)[0]

        rebuilt = self._kept(f"rebuilt-{self.name}-{self.parts_of}", rebuild)
        # Classes that the bundle lacks are -1 there, which no sample is; to leave them out would read all images into
        # memory.
        known = metrics.Parts(self.train.images, self.train.labels)
        again = known.means(rebuilt, self.labels)
        labels = np.repeat(np.arange(len(self.metadata.labels)), self.args.per_class)
        shrunk = np.concatenate([np.load(self._cell(key).with_suffix(".npy")) for key in lacking])
        found = known.distances(shrunk, np.tile(labels, len(lacking))).reshape(len(lacking), len(labels), -1)
        for (key, figures), distances in zip(lacking.items(), found):
            figures["parts"] = parts(self.metadata, metrics.of_each(distances, labels), again)["mean"]
            write_text(self._cell(key), json.dumps(figures) + "\n")
            self._cell(key).with_suffix(".npy").unlink()

    def retime(self, row: Row) -> None:
        """Draws the first class of a row that has a finished draw again.

        Where that took less time, the draw's time becomes that.
        """
        path = self._cell(self.key(row, 0))
        if path.exists():
            figures = json.loads(path.read_text())
            one = replace(self.metadata, labels=self.metadata.labels[:1])
            figures["seconds"] = min(
                figures["seconds"],
                seconds(
                    draw(
                        self.args.command,
                        row.model.path,
                        one,
                        self._options(row),
                        self.args.per_class,
                        self.args.seed,
                        quiet=True,
                    )[2]
                ),
            )
            write_text(path, json.dumps(figures) + "\n")

    def _options(self, row: Row) -> list[str]:
        return options(dict(row.sampling)) + (["--threads", str(self.args.threads)] if self.args.threads else [])


def seconds(reports: list[dict]) -> float:
    """The least time an image took in these calls of the command, without loading the model."""
    return min((sum(one["times"]["steps"]) + one["times"]["decode"]) / one["count"] for one in reports)


def summarise(args: argparse.Namespace, models: list[Model], rows: list[Row], bench: Bench) -> dict:
    """What ablations.json holds: means and standard deviations over the finished draws of each row."""
    recommended = {model.path: tuple(sorted(asdict(model.metadata.sampling).items())) for model in models}
    tables: dict[str, list[dict]] = {}
    for row in rows:
        draws = [found for turn in range(args.seeds) if (found := bench.stored(bench.key(row, turn)))]
        entry = {
            "name": row.name,
            "x": row.x,
            "series": row.series,
            "recommended": row.sampling == recommended[row.model.path],
            "sampling": dict(row.sampling),
            "draws": len(draws),
        }
        for figure in ("kid", "parts", "accuracy", "precision", "recall"):
            values = [one[figure] for one in draws]
            entry[figure] = (
                {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else None}
                if values
                else None
            )
        entry["seconds"] = min(one["seconds"] for one in draws) if draws else None
        tables.setdefault(row.table, []).append(entry)
    return {
        "bundle": models[0].metadata.name,
        "yardstick": {
            "heldout": len(bench.heldout),
            "classifier_on_heldout": float(
                recognised(bench.classifier, bench.metadata, bench.heldout, bench.labels).mean()
            ),
        },
        "command": {
            "per_class": args.per_class,
            "images": bench.count,
            "seeds": args.seeds,
            "seed": args.seed,
            "steps": args.steps,
            "more_steps": args.more_steps,
            "threads": args.threads,
        },
        "recommended": asdict(models[0].metadata.sampling),
        "tables": tables,
    }
