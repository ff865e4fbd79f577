"""Draws the README's pictures with the command: ``draw.py MASKGIT FOLDER``. Unpicked: the first seeds."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

command, folder = sys.argv[1], Path(sys.argv[2])
SEEDS, SCALE, GAP = 8, 2, 4


def maskgit(*arguments: str) -> str:
    return subprocess.run([command, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


with tempfile.TemporaryDirectory() as scratch:
    labels = maskgit("info", "--labels").split("\n")
    names = [line.split()[-1] for line in labels if line.strip()]
    rows = []
    for name in names:
        report = json.loads(
            maskgit(
                "generate",
                "--class",
                name,
                "--seed",
                "1",
                "--count",
                str(SEEDS),
                "--scale",
                str(SCALE),
                "--json",
                "-o",
                f"{scratch}/{name}.png",
            )
        )
        rows.append([Image.open(image["file"]).convert("RGB") for image in report["images"]])
    side = rows[0][0].width
    sheet = Image.new("RGB", (SEEDS * (side + GAP) - GAP, len(rows) * (side + GAP) - GAP), "white")
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            sheet.paste(picture, (c * (side + GAP), r * (side + GAP)))
    sheet.save(folder / "avatars-64.png", optimize=True)

    # The larger model: seeds 1 and 2 of each class, four classes a row.
    model, across, each = "models/avatars-128-int8", 4, 2
    names = [line.split()[-1] for line in maskgit("info", "--model", model, "--labels").split("\n") if line.strip()]
    sheet = None
    for index, name in enumerate(names):
        report = json.loads(
            maskgit(
                "generate",
                "--model",
                model,
                "--class",
                name,
                "--seed",
                "1",
                "--count",
                str(each),
                "--json",
                "-o",
                f"{scratch}/large-{name}.png",
            )
        )
        for number, image in enumerate(report["images"]):
            picture = Image.open(image["file"]).convert("RGB")
            cell = picture.width + GAP
            if sheet is None:
                sheet = Image.new("RGB", (across * each * cell - GAP, -(-len(names) // across) * cell - GAP), "white")
            sheet.paste(picture, ((index % across * each + number) * cell, index // across * cell))
    sheet.save(folder / "avatars-128.png", optimize=True)

    maskgit(
        "generate",
        "--class",
        "miniavs",
        "--seed",
        "1",
        "--steps",
        "12",
        "--scale",
        str(SCALE),
        "--preview",
        f"{scratch}/steps",
        "-o",
        f"{scratch}/last.png",
    )
    steps = [Image.open(file).convert("RGB") for file in sorted(Path(scratch, "steps").iterdir())]
    strip = Image.new("RGB", (len(steps) * (steps[0].width + GAP) - GAP, steps[0].height), "white")
    for i, picture in enumerate(steps):
        strip.paste(picture, (i * (steps[0].width + GAP), 0))
    strip.save(folder / "steps.png", optimize=True)
