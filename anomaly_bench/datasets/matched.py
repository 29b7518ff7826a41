"""Defects with the grey values of their surroundings: only the structure of the texture gives them away.

Each defect has the mean and the standard deviation of what it replaces, and every image, normal or not, has lighting of
its own: brightness, contrast and a gradient.  The photograph is divided like a chessboard: training images are cut from
fields of one colour and test images from the other, so that both come from all over it and share no pixel.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage import data
from skimage.transform import swirl

from anomaly_bench.datasets.drawn import SIDE, Painter, bezier, draw_line

FIELD = 128  # pixels of the 512 x 512 photograph: side of a field of the chessboard
WINDOW = (112, FIELD + 1)  # side of the square cut from a field, in pixels; it is resized to SIDE
VISIBLE = 0.3  # least mean change of a defect's grey values, in deviations of the image's


def crop(photo: np.ndarray, rng: np.random.Generator, split: str) -> np.ndarray:
    """Return a square of a photograph, resized, mirrored and lit at random: float [SIDE, SIDE]."""
    colours = np.indices([n // FIELD for n in photo.shape]).sum(0) % 2
    side = int(rng.integers(*WINDOW))
    top, left = rng.choice(np.argwhere(colours == (split == "test"))) * FIELD + rng.integers(FIELD - side + 1, size=2)
    square = Image.fromarray(photo[top : top + side, left : left + side])
    image = np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float64)
    return light(image[:: int(rng.choice([-1, 1])), :: int(rng.choice([-1, 1]))], rng)


def light(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the image with another contrast, another brightness and a gradient in a random direction."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    angle, mean = rng.uniform(0, 2 * np.pi), image.mean()
    gradient = rng.uniform(0, 20) * (np.cos(angle) * x + np.sin(angle) * y)
    return (image - mean) * rng.uniform(0.8, 1.1) + mean + rng.uniform(-25, 25) + gradient


def _replaced(
    cover_of: Painter, image: np.ndarray, rng: np.random.Generator, texture: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the image with a visible defect and its opacity [SIDE, SIDE]: exactly where that is 0, nothing changed."""
    while True:
        cover, opacity = cover_of(image, rng, texture)
        opacity = np.where(opacity < 0.1, 0, opacity)
        (mean, deviation), (target_mean, target_deviation) = (_moments(each, opacity) for each in (cover, image))
        cover = (cover - mean) * (target_deviation / deviation) + target_mean
        if np.average(np.abs(cover - image), weights=opacity) > VISIBLE * image.std():
            return image * (1 - opacity) + cover * opacity, opacity


def _moments(image: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    mean = np.average(image, weights=weights)
    return mean, np.sqrt(np.average((image - mean) ** 2, weights=weights))


def _foreign(image: np.ndarray, rng: np.random.Generator, texture: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a crop of another texture."""
    other = getattr(data, "grass" if texture == "gravel" else "gravel")()
    return crop(other, rng, "test"), _disc(rng.uniform(26, 46), rng)[0]


def _blurred(image: np.ndarray, rng: np.random.Generator, texture: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the image out of focus."""
    return gaussian_filter(image, rng.uniform(4, 6)), _disc(rng.uniform(26, 46), rng)[0]


def _twisted(image: np.ndarray, rng: np.random.Generator, texture: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the image turned round a point, the more the nearer to it."""
    radius = rng.uniform(26, 46)
    opacity, (y, x) = _disc(radius, rng)
    return swirl(image, (x, y), rng.choice([-1, 1]) * rng.uniform(3, 5), 3 * radius), opacity


def _groove(image: np.ndarray, rng: np.random.Generator, texture: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a thin line with a light and a dark side."""
    start, towards = rng.uniform(30, SIDE - 30, size=2), rng.uniform(60, SIDE - 60, size=2)
    along = (towards - start) / np.hypot(*(towards - start))
    end = np.clip(start + rng.uniform(100, 150) * along, 12, SIDE - 12)
    bend = (start + end) / 2 + rng.uniform(-25, 25, size=2)
    curve = bezier(start, bend, end)  # [60, 2]
    shift = 2 * np.array([-along[1], along[0]])
    sides = draw_line(curve + shift, 16), draw_line(curve - shift, 16)
    return image + 3 * image.std() * (sides[0] - sides[1]), np.maximum(*sides)


def _disc(radius: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the opacity [SIDE, SIDE] of a disc with a soft edge at a random place, and its centre: y, x."""
    centre = rng.uniform(radius, SIDE - radius, size=2)
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.clip((radius - np.hypot(y - centre[0], x - centre[1])) / 6 + 0.5, 0, 1), centre


PAINTERS: dict[str, Painter] = {
    "blurred": partial(_replaced, _blurred),
    "foreign": partial(_replaced, _foreign),
    "groove": partial(_replaced, _groove),
    "twisted": partial(_replaced, _twisted),
}
