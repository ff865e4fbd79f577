"""The editing measurement, with a stand-in for the command that repaints in known ways."""

import argparse
import json
import sys

import numpy as np
import pytest
from PIL import Image

from maskgit_export import dataset, evaluate_edit, holes, metrics

# Repaints the box with the class's level, or 128 without a class; "everything" with black. Spoils what SPOIL says.
PROGRAM = """#!{python}
import json, sys
from PIL import Image
argv = [a for a in sys.argv[2:] if a != "--json"]
option = dict(zip(argv[::2], argv[1::2]))
image = Image.open(option["--image"])
x, y, w, h = map(int, option["--box"].split(","))
level = 0 if w == 16 else 100 + 50 * int(option["--class"]) if "--class" in option else 128
image.paste((level, level, level), (x, y, x + w, y + h))
for corner, spoilt in (
    (0, {spoil!r} == "hard" and option.get("--feather") == "0"),
    (15, {spoil!r} == "soft" and option.get("--feather") == "blur" and "--class" in option),
):
    if spoilt:
        image.putpixel((corner, corner), tuple(value + 1 for value in image.getpixel((corner, corner))))
image.save(option["-o"])
print(json.dumps({{"images": [{{"file": option["-o"]}}] * int(option["--count"])}}))
"""


class Level:
    """Names the class by the level in the middle."""

    classes = ("dog", "cat")

    def predict(self, images):
        return np.where(images[:, 8, 8, 0] == 100, 1, 0)


def arguments(avatars, folder, spoil):
    program = folder / "maskgit"
    program.write_text(PROGRAM.format(python=sys.executable, spoil=spoil))
    program.chmod(0o755)
    images = np.full((4, 16, 16, 3), 110, np.uint8)
    split = dataset.Split(images, np.array([0, 0, 1, 1]))
    dataset.save(dataset.Dataset(split, split, ["cat", "dog"]), folder / "data")
    (folder / "card.md").write_text("# tiny\n\n## How it was made\n\nBy hand.\n")
    return argparse.Namespace(
        bundle=avatars[1],
        data=str(folder / "data"),
        command=str(program),
        classifier=folder / "c.pt",
        per_class=2,
        seed=1,
        holes=[],
        seeds=2,
        card=folder / "card.md",
        sheets=folder / "sheets",
        output=folder / "out",
    )


@pytest.mark.parametrize("spoil, status, identical, beyond", [("", 0, 4, 0), ("hard", 1, 0, 0), ("soft", 1, 4, 4)])
def test_figures_of_a_known_program(avatars, tmp_path, monkeypatch, spoil, status, identical, beyond):
    monkeypatch.setattr(evaluate_edit, "load_classifier", lambda path: Level())
    monkeypatch.setattr(evaluate_edit, "reach", lambda metadata: 2)
    args = arguments(avatars, tmp_path, spoil)
    assert evaluate_edit.run(args) == status
    report = json.loads((tmp_path / "out" / "edit.json").read_text())
    assert report["images"] == 4
    assert report["unmasked"] == {"identical": identical, "reach": 2, "changed_beyond_feather": beyond}
    # Originals are all at level 110, which the classifier takes for a dog; repainted cats have 100 and dogs 150.
    assert report["classifier"] == {"repainted": 1.0, "originals": 0.5, "per_class": {"cat": 1.0, "dog": 1.0}}
    error = report["error_in_hole"]
    assert error["same"] == pytest.approx((10 + 40) / 2 / 255, abs=1e-4)
    assert error["free"] == pytest.approx(18 / 255, abs=1e-4)
    assert error["unconditional"] == error["conditional"] == pytest.approx(110 / 255, abs=1e-4)
    assert error["ratio_to_unconditional"] == pytest.approx(25 / 110, abs=2e-3)
    with Image.open(tmp_path / "sheets" / "edit.png") as sheet:
        assert sheet.size == (5 * 18 - 2, 2 * 18 - 2)
    card = (tmp_path / "card.md").read_text()
    assert card.startswith("# tiny\n\n<!-- evaluate-edit -->\n## Editing") and card.endswith(
        "## How it was made\n\nBy hand.\n"
    )
    assert "![" not in card and max(len(line) for line in card.split("\n") if not line.startswith("|")) <= 120
    evaluate_edit.write_card(args.card, report)
    assert (tmp_path / "card.md").read_text() == card, "written again, it is the same"


def test_the_reach_is_the_librarys(avatars):
    class Model:
        image_width = image_height = 64
        grid_rows = grid_cols = 16

    assert evaluate_edit.reach(Model()) == 16


def test_a_program_that_fails_is_named(tmp_path):
    with pytest.raises(SystemExit, match="cannot be started"):
        evaluate_edit.edit(argparse.Namespace(command=str(tmp_path / "none"), bundle="b"), [], 0, 1, str(tmp_path))


def test_larger_holes_are_measured_against_other_images(avatars, tmp_path, monkeypatch):
    class Pixels:
        def __call__(self, images, batch=0, what=""):
            return metrics.thumbnails(images, 4)

    monkeypatch.setattr(evaluate_edit, "load_classifier", lambda path: Level())
    monkeypatch.setattr(evaluate_edit, "reach", lambda metadata: 2)
    monkeypatch.setattr(evaluate_edit, "Features", Pixels)
    args = arguments(avatars, tmp_path, "")
    images = np.random.default_rng(0).integers(90, 130, (16, 16, 16, 3)).astype(np.uint8)
    split = dataset.Split(images, np.repeat([0, 1], 8))
    dataset.save(dataset.Dataset(split, split, ["cat", "dog"]), tmp_path / "data")
    args.per_class, args.holes = 4, [0.125, 0.5]
    assert evaluate_edit.run(args) == 0
    found = json.loads((tmp_path / "out" / "edit.json").read_text())["holes"]
    assert (found["images"], found["others"], found["seeds"]) == (8, 8, 2)
    small, large = found["sizes"]
    assert small["box"] == [5, 5, 6, 6] and small["area"] == pytest.approx(36 / 256, abs=1e-4)
    assert large["box"] == [2, 2, 12, 12]
    # The stand-in fills with flat levels: the larger the hole, the farther from the data.
    assert abs(found["untouched"]["kid"]) < small["kid"]["mean"] < large["kid"]["mean"]
    assert small["accuracy"]["mean"] == 1 and small["error"]["std"] == 0
    card = (tmp_path / "card.md").read_text()
    assert "| 14.1% of the picture |" in card and card.count("<!-- /evaluate-edit -->") == 1
    evaluate_edit.write_card(args.card, json.loads((tmp_path / "out" / "edit.json").read_text()))
    assert (tmp_path / "card.md").read_text() == card
    args.per_class = 5
    assert evaluate_edit.run(args) == 2, "eight of a class do not suffice for twice five"


def test_holes_are_centred_and_within_the_picture():
    for area in holes.AREAS:
        left, top, across, down = holes.centred(area, 64, 64)
        assert 2 * left + across == 64 == 2 * top + down and abs(across * down / 4096 - area) < 0.04
    with pytest.raises(ValueError, match="between 0 and 1"):
        holes.centred(1.0, 64, 64)
