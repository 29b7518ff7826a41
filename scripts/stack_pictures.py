"""Put a run's heat maps into one picture, two in a row: python scripts/stack_pictures.py TARGET PICTURE..."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image


def main(target: str, *names: str) -> None:
    """Write the pictures, all of the size of the first, as `target`."""
    pictures = [Image.open(name).convert("RGB") for name in names]
    width, height = pictures[0].size
    sheet = Image.new("RGB", (2 * width, -(-len(pictures) // 2) * height), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % 2 * width, i // 2 * height))
    sheet.quantize(256).save(Path(target), optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
