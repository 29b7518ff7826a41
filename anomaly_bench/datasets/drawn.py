"""Defects drawn onto a texture: a scratch, a stain, a hole or a foreign patch, mostly darker or brighter than around.

Train and test crops come from disjoint parts of a photograph: no test pixel is seen in training.  Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw
from skimage import data

SIDE = 256  # pixels of an image
SPLIT = 320  # the photographs have 512 x 512 pixels: columns before this one are for training, the others for the test
WINDOW = (128, 193)  # side of the square cut from the photograph, in pixels; it is resized to SIDE

Painter = Callable[[np.ndarray, np.random.Generator, str], tuple[np.ndarray, np.ndarray]]


def crop(photo: np.ndarray, rng: np.random.Generator, split: str) -> np.ndarray:
    """Return a random square of the part of a photograph that is for a split: float [SIDE, SIDE], 0 to 255."""
    return _crop(photo[:, :SPLIT] if split == "train" else photo[:, SPLIT:], rng)


def _crop(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a random square of a photograph, resized, mirrored, brighter or darker: float [SIDE, SIDE], 0 to 255."""
    side = int(rng.integers(*WINDOW))
    top, left = (int(rng.integers(n - side + 1)) for n in photo.shape)
    square = Image.fromarray(photo[top : top + side, left : left + side])
    image = np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float64)
    image = image[:: int(rng.choice([-1, 1])), :: int(rng.choice([-1, 1]))]
    return image * rng.uniform(0.93, 1.07)


def _blend(image: np.ndarray, paint: np.ndarray | float, opacity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the painted image and the opacity [SIDE, SIDE]; exactly where it is 0, the image is unchanged."""
    opacity = np.where(opacity < 0.1, 0, opacity)
    return image * (1 - opacity) + paint * opacity, opacity


def _blob(rng: np.random.Generator, radius: float, uneven: float, soft: float) -> np.ndarray:
    """Return the opacity [SIDE, SIDE] of a round shape with an uneven edge at a random place; lengths in pixels."""
    margin = radius * (1 + uneven)
    cy, cx = rng.uniform(margin, SIDE - margin, size=2)
    y, x = np.mgrid[:SIDE, :SIDE]
    angle, distance = np.arctan2(y - cy, x - cx), np.hypot(y - cy, x - cx)
    edge = radius * np.ones_like(distance)
    for wave in range(2, 6):
        edge += radius * uneven / wave * rng.uniform(-1, 1) * np.sin(wave * angle + rng.uniform(0, 2 * np.pi))
    return np.clip((edge - distance) / soft + 0.5, 0, 1)


def _scratch(image: np.ndarray, rng: np.random.Generator, texture: str) -> tuple[np.ndarray, np.ndarray]:
    """Paint a thin curve, brighter or darker than all around it."""
    start = rng.uniform(40, SIDE - 40, size=2)
    direction, length = rng.uniform(0, 2 * np.pi), rng.uniform(90, 170)
    end = np.clip(start + length * np.array([np.cos(direction), np.sin(direction)]), 12, SIDE - 12)
    if np.hypot(*(end - start)) < 50:  # clipped to a stub at the border: towards the other side
        end = SIDE - start
    bend = (start + end) / 2 + rng.uniform(-25, 25, size=2)
    line = draw_line(bezier(start, bend, end), int(rng.integers(14, 25)))
    opacity = line * rng.uniform(0.75, 1)
    return _blend(image, float(rng.choice([5, 250])), opacity)


def bezier(start: np.ndarray, bend: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return points [60, 2] of a quadratic Bezier curve, x and y in pixels."""
    t = np.linspace(0, 1, 60)[:, None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end


def draw_line(curve: np.ndarray, width: int) -> np.ndarray:
    """Return the opacity [SIDE, SIDE] of a line through points [n, 2]; width: in quarters of a pixel."""
    canvas = Image.new("L", (4 * SIDE, 4 * SIDE))  # four times as large, for a soft edge
    ImageDraw.Draw(canvas).line([(4 * x, 4 * y) for x, y in curve.tolist()], fill=255, width=width, joint="curve")
    return np.asarray(canvas.resize((SIDE, SIDE), Image.Resampling.BOX)) / 255


def _stain(image: np.ndarray, rng: np.random.Generator, texture: str) -> tuple[np.ndarray, np.ndarray]:
    """Paint a darkened area through which the texture is still visible."""
    opacity = _blob(rng, rng.uniform(18, 40), uneven=0.5, soft=6)
    return _blend(image, image * rng.uniform(0.3, 0.55), opacity)


def _hole(image: np.ndarray, rng: np.random.Generator, texture: str) -> tuple[np.ndarray, np.ndarray]:
    """Paint a nearly black pit."""
    return _blend(image, rng.uniform(5, 30), _blob(rng, rng.uniform(7, 18), uneven=0.25, soft=2))


def _foreign(image: np.ndarray, rng: np.random.Generator, texture: str) -> tuple[np.ndarray, np.ndarray]:
    """Paint a patch of another texture, of the same mean brightness."""
    patch = _crop(getattr(data, "gravel" if texture == "brick" else "brick")(), rng)
    opacity = _blob(rng, rng.uniform(22, 42), uneven=0.3, soft=2)
    return _blend(image, patch - patch.mean() + image.mean(), opacity)


PAINTERS: dict[str, Painter] = {"foreign": _foreign, "hole": _hole, "scratch": _scratch, "stain": _stain}
