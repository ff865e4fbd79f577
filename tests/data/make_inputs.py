"""Writes tests/data/inputs: one small picture in each form that a file may have, with Pillow.

    python tests/data/make_inputs.py [FOLDER]

All show the same 24x16 pixels: left half (200, 40, 40), right half (40, 40, 200), and a white square of 4x4 in the top
left corner.
"""

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "inputs")
folder.mkdir(parents=True, exist_ok=True)

pixels = np.zeros((16, 24, 3), np.uint8)
pixels[:, :12] = (200, 40, 40)
pixels[:, 12:] = (40, 40, 200)
pixels[:4, :4] = 255
rgb = Image.fromarray(pixels)
opacity = np.full((16, 24), 255, np.uint8)
opacity[8:, :6] = 0
opacity[:8, 20:] = 77
rgba = Image.fromarray(np.dstack([pixels, opacity]))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, color, rows):
    """A PNG by hand: Pillow writes no 16-bit colour, and no lies."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def rows16(values):
    return b"".join(b"\0" + row.astype(">u2").tobytes() for row in values.reshape(values.shape[0], -1))


rgb.save(folder / "plain.png")
rgba.save(folder / "alpha.png")
rgb.convert("L").save(folder / "grey.png")
rgba.convert("LA").save(folder / "grey-alpha.png")
rgb.quantize(8).save(folder / "palette.png")
(folder / "deep.png").write_bytes(png(24, 16, 16, 2, rows16(pixels.astype(np.uint16) * 257)))
(folder / "deep-grey.png").write_bytes(png(24, 16, 16, 0, rows16(pixels[..., 0].astype(np.uint16) * 257)))
rgb.save(folder / "plain.bmp")
rgb.save(folder / "plain.ppm")
rgba.save(folder / "alpha.webp", lossless=True, exact=True)
rgb.save(folder / "animated.gif", save_all=True, append_images=[Image.new("RGB", (24, 16), "green")])
rgb.save(folder / "plain.jpg", quality=95, subsampling=0)
rgb.save(folder / "progressive.jpg", quality=95, subsampling=0, progressive=True)
rgb.convert("L").save(folder / "grey.jpg", quality=95)
rgb.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
# Stored lying on its side; the orientation says to turn it a quarter clockwise.
exif = Image.Exif()
exif[0x0112] = 6
rgb.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", quality=95, subsampling=0, exif=exif)
rgb.save(folder / "profile.png", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
# Headers that promise more than anyone wants to hold.
(folder / "wide-bomb.png").write_bytes(png(60000, 60000, 8, 2, b"\0"))
(folder / "deep-bomb.png").write_bytes(png(16000, 16000, 16, 6, b"\0"))
