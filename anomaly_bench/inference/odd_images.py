"""Images of unusual sizes and kinds, on which an exported file is examined too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def odd_images(place: Path) -> list[Path]:
    """Write images of unusual sizes and kinds: tall, wide, a pixel, a row, a column, grey, alpha, large."""
    place.mkdir()
    random = np.random.default_rng(0)

    def pattern(height: int, width: int) -> np.ndarray:
        """Blocks of random colours with noise, so that there is something to see at any scale."""
        side = max(1, min(height, width) // 6)
        coarse = random.integers(0, 226, (-(-height // side), -(-width // side), 3), dtype=np.uint8)
        fine = coarse.repeat(side, 0).repeat(side, 1)[:height, :width]
        return np.asarray(fine + random.integers(0, 30, fine.shape, dtype=np.uint8))

    sizes = {"tall": (700, 90), "wide": (90, 700), "pixel": (1, 1), "row": (1, 300), "column": (300, 1)}
    pictures = {name: Image.fromarray(pattern(*size)) for name, size in {**sizes, "large": (1500, 2000)}.items()}
    pictures["grey"] = Image.fromarray(pattern(120, 150)[:, :, 0])
    pictures["alpha"] = Image.fromarray(pattern(64, 48)).convert("RGBA")
    for name, picture in pictures.items():
        picture.save(place / f"{name}.png")
    return [place / f"{name}.png" for name in pictures]
