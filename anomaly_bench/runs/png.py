"""PNG files that several threads can write at once: Pillow holds Python's lock while it compresses, zlib does not."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def write_png(file: Path, picture: Image.Image) -> None:
    """Write an RGB picture and the texts of its `info`, latin-1; each line as its difference from the one above."""
    lines = np.full((picture.height, 1 + 3 * picture.width), 2, np.uint8)  # 2: the filter "up"
    lines[:, 1:] = np.asarray(picture).reshape(picture.height, -1)
    lines[1:, 1:] -= lines[:-1, 1:].copy()
    header = struct.pack(">IIBBBBB", *picture.size, 8, 2, 0, 0, 0)
    texts = [(b"tEXt", f"{key}\0{text}".encode("latin-1")) for key, text in picture.info.items()]
    with file.open("wb") as out:
        out.write(b"\x89PNG\r\n\x1a\n")
        for name, content in ((b"IHDR", header), *texts, (b"IDAT", zlib.compress(lines.tobytes(), 1)), (b"IEND", b"")):
            out.write(struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content)))
