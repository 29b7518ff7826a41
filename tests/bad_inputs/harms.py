"""How a work folder is made bad: each function returns one that takes the folder."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bad_inputs.worlds import noise, save
from PIL import Image

Harm = Callable[[Path], object]


def image(at: str, seed: int = 99, side: int = 32) -> Harm:
    return lambda work: save(work / at, noise(seed, side))


def content(at: str, text: str | bytes) -> Harm:
    def write(work: Path) -> None:
        (work / at).parent.mkdir(parents=True, exist_ok=True)
        (work / at).unlink(missing_ok=True)  # never through a link
        (work / at).write_bytes(text.encode() if isinstance(text, str) else text)

    return write


def remove(at: str) -> Harm:
    def go(work: Path) -> None:
        found = list(work.glob(at))
        assert found, at
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return go


def empty(at: str) -> Harm:
    return both(remove(at), folder(at))


def move(source: str, target: str) -> Harm:
    def go(work: Path) -> None:
        (work / target).parent.mkdir(parents=True, exist_ok=True)
        (work / source).rename(work / target)

    return go


def copy(source: str, target: str) -> Harm:
    def go(work: Path) -> None:
        (work / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(work / source, work / target) if (work / source).is_dir() else shutil.copy(
            work / source, work / target
        )

    return go


def link(at: str, target: str) -> Harm:
    return lambda work: os.symlink(target, work / at)  # noqa: PTH211


def folder(at: str) -> Harm:
    return lambda work: (work / at).mkdir(parents=True, exist_ok=True)


def fifo(at: str) -> Harm:
    return lambda work: os.mkfifo(work / at)


def listening(at: str) -> Harm:
    """A socket."""

    def go(work: Path) -> None:
        before = Path.cwd()
        os.chdir((work / at).parent)  # its name must be short
        socket.socket(socket.AF_UNIX).bind(Path(at).name)
        os.chdir(before)

    return go


def both(*harms: Harm) -> Harm:
    return lambda work: [harm(work) for harm in harms]


def change(at: str, old: str, new: str) -> Harm:
    """Put `new` in the place of `old`, which must be there, in each file that fits."""

    def go(work: Path) -> None:
        found = list(work.glob(at))
        assert found, at
        for path in found:
            text = path.read_text()
            assert old in text, old
            path.write_text(text.replace(old, new, 1))

    return go


def on(at: str, do: Callable[[Path], object]) -> Harm:
    """Do something with each path that fits."""

    def go(work: Path) -> None:
        found = sorted(work.glob(at))
        assert found, at
        for path in found:
            do(path)

    return go


def flip(path: Path) -> None:
    """One bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def again(suffix: str, mode: str | None = None, **options: object) -> Callable[[Path], object]:
    """Store an image with another suffix, and perhaps another mode."""

    def go(path: Path) -> None:
        opened = Image.open(path)
        opened.load()
        path.unlink()
        (opened.convert(mode) if mode else opened).save(path.with_suffix(suffix), **options)

    return go


def pixels(change: Callable[[np.ndarray], np.ndarray], **options: object) -> Callable[[Path], object]:
    """Change the values of an image or mask."""

    def go(path: Path) -> None:
        array = np.asarray(Image.open(path))
        path.unlink()
        Image.fromarray(change(array)).save(path, **options)

    return go
