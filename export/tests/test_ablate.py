"""The tables of sampling settings, with a stand-in for drawing that gets worse the farther its settings are from one
optimum.
"""

import json
from dataclasses import asdict

import numpy as np
import pytest

from maskgit_export import ablate, ablate_report, dataset, metrics, train_classifier
from maskgit_export.classifier import save_classifier
from maskgit_export.cli import main


class Pixels:
    def __call__(self, images, batch=0, what=""):
        return metrics.thumbnails(images, 4)


def coloured(count, seed):
    choice = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = choice.integers(0, 100, (count, 16, 16, 3)).astype(np.uint8)
    images[np.arange(count), ..., labels * 2] += 140
    return dataset.Split(images, labels)


@pytest.fixture
def bench(avatars, tmp_path, monkeypatch):
    """``start(*options, fail=)`` runs the command on a tiny bundle and returns its status.

    ``start.calls`` lists what was drawn.
    """
    data = dataset.Dataset(coloured(64, 1), coloured(40, 2), ["cat", "dog"])
    dataset.save(data, tmp_path / "data")
    save_classifier(train_classifier.train(data, 640, batch=32), tmp_path / "c.pt")
    monkeypatch.setattr("maskgit_export.features.Features", Pixels)

    def draw(command, bundle, metadata, words, per_class, seed, quiet):
        """The data's own distribution for 8 steps, noisier away from it; fails from call ``fail`` on."""
        if len(start.calls) == start.fail:
            raise SystemExit("the sky fell")
        start.calls.append((words, len(metadata.labels), seed))
        steps = int(words[words.index("--steps") + 1])
        labels = np.repeat(np.arange(len(metadata.labels)), per_class)
        choice = np.random.default_rng(seed)
        images = choice.integers(0, 100, (len(labels), 16, 16, 3)).astype(np.float32)
        images[np.arange(len(labels)), ..., labels * 2] += 140
        images += abs(steps - 8) * 8 * choice.standard_normal((len(labels), 1, 1, 3))
        reports = [
            {"count": per_class, "times": {"steps": [0.001 * per_class] * steps, "decode": 0.002 * per_class}}
        ] * len(metadata.labels)
        return np.clip(images, 0, 255).astype(np.uint8), labels, reports

    monkeypatch.setattr(ablate, "draw", draw)

    def start(*options, fail=-1):
        start.fail = fail
        fixed = [
            "--data",
            str(tmp_path / "data"),
            "--command",
            "maskgit",
            "--classifier",
            str(tmp_path / "c.pt"),
            "--per-class",
            "8",
            "-o",
            str(tmp_path / "out"),
        ]
        return main(["ablate", str(avatars[1]), *fixed, *options])

    start.calls, start.folder = [], tmp_path
    return start


def test_the_better_setting_wins_and_the_page_keeps_what_is_not_ours(bench, capsys):
    page = bench.folder / "page.md"
    page.write_text("# Mine\n\nBefore.\n")
    assert bench("--tables", "steps", "--seeds", "2", "--page", str(page)) == 0
    report = json.loads((bench.folder / "out" / "ablations.json").read_text())
    rows = {row["name"]: row for row in report["tables"]["steps"]}
    assert list(rows) == [str(steps) for steps in ablate.STEPS] and all(row["draws"] == 2 for row in rows.values())
    best, near = ablate_report.alike(report["tables"]["steps"])
    assert best["name"] == "8" or "8" in [row["name"] for row in near]
    assert rows["8"]["kid"]["mean"] < rows["2"]["kid"]["mean"] < rows["32"]["kid"]["mean"]
    assert 0 < rows["8"]["parts"]["mean"] < rows["32"]["parts"]["mean"], (
        "a part of a picture in other colours is farther from all"
    )
    assert rows["8"]["precision"]["mean"] > 0.7 > 0.3 > rows["32"]["precision"]["mean"]
    assert (
        rows["8"]["kid"]["std"] > 0
        and rows["8"]["seconds"] == pytest.approx(0.010)
        and rows["32"]["seconds"] == pytest.approx(0.034)
    )
    assert [name for name, row in rows.items() if row["recommended"]] == ["4"], "the tiny bundle recommends 4 steps"
    text = page.read_text()
    assert text.startswith("# Mine\n\nBefore.\n") and "| **4** |" in text and "ablate-steps.png" in text
    assert (bench.folder / "out" / "ablate-steps.png").stat().st_size > 1000 and (
        bench.folder / "out" / "ablate-speed.png"
    ).exists()
    ablate_report.write_page(page, report, bench.folder / "out")
    assert page.read_text() == text, "written again, it is the same"


def test_a_run_that_was_cut_short_goes_on_to_the_same_table(bench, capsys):
    with pytest.raises(SystemExit, match="the sky fell"):
        bench("--tables", "sampler", "--seeds", "2", fail=4)
    assert len(list((bench.folder / "out" / "cells").glob("*.json"))) == 4
    assert bench("--tables", "sampler", "--seeds", "2") == 0
    first = (bench.folder / "out" / "ablations.json").read_text()
    assert len(bench.calls) == 30, "nothing that was finished is drawn again"
    assert bench("--tables", "sampler", "--seeds", "2") == 0
    assert len(bench.calls) == 30
    assert (bench.folder / "out" / "ablations.json").read_text() == first
    for file in (bench.folder / "out" / "cells").glob("*.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"seconds": 9.0}))
    assert bench("--tables", "sampler", "--seeds", "2", "--retime") == 0
    assert (bench.folder / "out" / "ablations.json").read_text() == first
    assert [labels for _, labels, _ in bench.calls[30:]] == [1] * 15, "one class of each row, for its time only"
    for file in (bench.folder / "out" / "cells").glob("*.json"):
        file.unlink()
    assert bench("--tables", "sampler", "--seeds", "2") == 0
    assert (bench.folder / "out" / "ablations.json").read_text() == first, "without an interruption it is the same"


def test_cancelling_keeps_what_is_measured(bench, monkeypatch, capsys):
    measure, turns = ablate.Bench.measure, []

    def cancel(self, row, turn):
        if len(turns) == 3:
            raise KeyboardInterrupt
        turns.append(row.name)
        measure(self, row, turn)

    monkeypatch.setattr(ablate.Bench, "measure", cancel)
    assert bench("--tables", "schedule", "--seeds", "1") == 1
    assert "goes on from there" in capsys.readouterr().err
    rows = json.loads((bench.folder / "out" / "ablations.json").read_text())["tables"]["schedule"]
    assert [row["draws"] for row in rows] == [1, 1, 1, 0, 0, 0, 0] and rows[3]["kid"] is None


def test_rows_change_one_setting_and_ask_for_all(avatars):
    model = ablate.open_model(avatars[1])
    base = asdict(model.metadata.sampling)
    changed = {
        "schedule": {"schedule"},
        "steps": {"steps"},
        "choice-temperature": {"choice_temperature"},
        "temperature": {"temperature", "final_temperature"},
        "guidance": {"guidance", "guidance_ramp"},
        "sampler": {"sampler", "schedule", "steps"},
        "precision": set(),
    }
    for row in ablate.plan([model], list(ablate.TABLES)):
        sampling = dict(row.sampling)
        assert {name for name in base if sampling[name] != base[name]} <= changed[row.table], row
    names = [row.name for row in ablate.plan([model], ["schedule"], steps=7)]
    assert names == ["linear", "square", "cubic", "sqrt", "cosine", "exp", "log"]
    assert all(dict(row.sampling)["steps"] == 7 for row in ablate.plan([model], ["guidance"], steps=7))
    both = [
        (row.name, row.series, dict(row.sampling)["steps"])
        for row in ablate.plan([model], ["choice-temperature"], steps=7)
    ]
    assert (
        both[1] == (f"1, {base['steps']} steps", f"{base['steps']} steps", base["steps"])
        and both[-1] == ("18, 7 steps", "7 steps", 7)
        and len(both) == 12
    )
    assert [row.name for row in ablate.plan([model], ["choice-temperature"])] == ["0", "1", "2", "4.5", "9", "18"]
    temperatures = [(row.name, row.x, row.series) for row in ablate.plan([model], ["temperature"], steps=7)]
    assert (
        temperatures[0] == ("0.8, constant", 0.8, "constant")
        and temperatures[-1] == ("1.2 to 0.6", 1.2, "to 0.6")
        and len(temperatures) == 9
    )
    words = [ablate.options(dict(row.sampling)) for row in ablate.plan([model], ["temperature"], steps=7)]
    assert "--final-temperature" not in words[0] and words[-1][words[-1].index("--final-temperature") + 1] == "0.6"
    assert {one[one.index("--steps") + 1] for one in words} == {str(base["steps"])}, (
        "with the recommended number of steps"
    )
    more = ablate.plan([model], ["temperature", "choice-temperature"], steps=7, more_steps=9)
    assert {(row.table, dict(row.sampling)["steps"]) for row in more} == {
        ("temperature", 9),
        ("choice-temperature", 7),
        ("choice-temperature", 9),
    }
    words = ablate.options(dict(ablate.plan([model], ["guidance"])[0].sampling))
    assert words[words.index("--guidance") + 1] == "0" and "--no-guidance-ramp" in words and "--top-k" not in words
    assert words[words.index("--choice-temperature") + 1] == "4.5"


@pytest.mark.parametrize(
    "options, message",
    [
        (["--per-class", "1"], "--per-class must be at least 2"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--steps", "0"], "--steps must be at least 1"),
        (["--heldout", "1"], "too few to compare"),
    ],
)
def test_wrong_numbers_are_refused(bench, capsys, options, message):
    assert bench(*options) == 2
    assert message in capsys.readouterr().err and not bench.calls


def test_other_data_and_other_models_are_refused(bench, avatars, tmp_path, capsys):
    with pytest.raises(SystemExit):
        bench("--tables", "colour")
    assert "colour" in capsys.readouterr().err
    dataset.save(dataset.Dataset(coloured(8, 1), coloured(8, 2), ["cat", "bird"]), tmp_path / "other")
    assert bench("--data", str(tmp_path / "other")) == 2
    assert "dog" in capsys.readouterr().err
    assert bench("--also", str(tmp_path / "nothing")) == 1
    assert "nothing" in capsys.readouterr().err
