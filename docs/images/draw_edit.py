"""Draws the pictures of editing with the command: ``draw_edit.py MASKGIT FOLDER``, in the repository's root.

Unpicked: the first seeds.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

command, folder = sys.argv[1], Path(sys.argv[2])
EXAMPLES = Path("examples/images")
SCALE, GAP, COUNT = 2, 4, 5


def maskgit(*arguments: str) -> None:
    subprocess.run([command, *arguments], check=True)


def enlarged(picture: Image.Image, scale: int = SCALE) -> Image.Image:
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def row(pictures: list[Image.Image]) -> Image.Image:
    """Side by side."""
    strip = Image.new("RGB", (sum(p.width + GAP for p in pictures) - GAP, max(p.height for p in pictures)), "white")
    left = 0
    for picture in pictures:
        strip.paste(picture, (left, 0))
        left += picture.width + GAP
    return strip


def boxed(picture: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """The original, with the box that is repainted."""
    x, y, width, height = (value * SCALE for value in box)
    shown = enlarged(picture)
    ImageDraw.Draw(shown).rectangle((x, y, x + width - 1, y + height - 1), outline=(230, 0, 120), width=2)
    return shown


def edit(scratch: str, name: str, box: tuple[int, int, int, int], style: str, output: str) -> None:
    """One row: the original with its box, then results of seeds 1 to 5."""
    image = EXAMPLES / f"{name}.png"
    maskgit(
        "edit",
        "--image",
        str(image),
        "--box",
        ",".join(map(str, box)),
        "--class",
        style,
        "--seed",
        "1",
        "--count",
        str(COUNT),
        "-o",
        f"{scratch}/{output}.png",
    )
    results = [enlarged(Image.open(f"{scratch}/{output}-{i:03}.png").convert("RGB")) for i in range(COUNT)]
    row([boxed(Image.open(image).convert("RGB"), box), *results]).save(folder / f"{output}.png", optimize=True)


def masks(name: str, output: str, scale: int = 4, cell: int = 4) -> None:
    """From a pixel mask to tokens, in three pictures.

    The mask; the tokens it touches and the ring around them; the weights of the default feather.
    """
    picture = Image.open(EXAMPLES / f"{name}.png").convert("RGB")
    side = picture.width
    mask = Image.new("L", picture.size)
    ImageDraw.Draw(mask).ellipse((17, 11, 44, 25), fill=255)
    cells = side // cell
    touched = {
        (c, r)
        for r in range(cells)
        for c in range(cells)
        if mask.crop((c * cell, r * cell, (c + 1) * cell, (r + 1) * cell)).getbbox()
    }
    ring = {(c + x, r + y) for c, r in touched for x in (-1, 0, 1) for y in (-1, 0, 1)} - touched
    drawn = Image.new("L", picture.size)
    for c, r in touched | ring:
        drawn.paste(255, (c * cell, r * cell, (c + 1) * cell, (r + 1) * cell))
    weights = drawn.filter(ImageFilter.GaussianBlur(side / 16 - 1))
    weights.paste(255, mask=mask)

    def tint(tokens: set, color: tuple[int, int, int], shown: Image.Image) -> None:
        for c, r in tokens:
            place = (c * cell * scale, r * cell * scale, (c + 1) * cell * scale - 1, (r + 1) * cell * scale - 1)
            patch = shown.crop((place[0], place[1], place[2] + 1, place[3] + 1))
            shown.paste(Image.blend(patch, Image.new("RGB", patch.size, color), 0.55), place[:2])
            ImageDraw.Draw(shown).rectangle(place, outline=color)

    pixels = enlarged(picture, scale)
    pixels.paste((230, 0, 120), mask=enlarged(mask, scale).point(lambda v: v * 6 // 10))
    tokens = enlarged(picture, scale)
    tint(touched, (230, 0, 120), tokens)
    tint(ring, (0, 120, 230), tokens)
    row([pixels, tokens, enlarged(weights, scale).convert("RGB")]).save(folder / f"{output}.png", optimize=True)


with tempfile.TemporaryDirectory() as scratch:
    edit(scratch, "open-peeps", (10, 0, 44, 28), "open-peeps", "edit-hair")
    edit(scratch, "open-peeps-2", (8, 0, 48, 44), "pixel-art", "edit-class")
    maskgit(
        "outpaint",
        "--image",
        str(EXAMPLES / "lorelei.png"),
        "--left",
        "128",
        "--right",
        "128",
        "--class",
        "lorelei",
        "--seed",
        "1",
        "-o",
        f"{scratch}/wide.png",
    )
    enlarged(Image.open(f"{scratch}/wide.png").convert("RGB")).save(folder / "edit-wide.png", optimize=True)
    maskgit(
        "vary",
        "--image",
        str(EXAMPLES / "lorelei.png"),
        "--strength",
        "0.7",
        "--class",
        "lorelei",
        "--seed",
        "1",
        "--count",
        str(COUNT),
        "-o",
        f"{scratch}/vary.png",
    )
    pictures = [Image.open(EXAMPLES / "lorelei.png"), *(Image.open(f"{scratch}/vary-{i:03}.png") for i in range(COUNT))]
    row([enlarged(picture.convert("RGB")) for picture in pictures]).save(folder / "edit-vary.png", optimize=True)
    masks("open-peeps", "edit-masks")
