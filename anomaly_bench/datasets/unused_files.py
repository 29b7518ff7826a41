"""Which files of a folder a data set reads, and which are there and not used, by the reason why.

Imports no torch, so that `bench data` starts at once.
"""

from __future__ import annotations

import stat
import warnings
from collections.abc import Callable, Container, Iterable, Sequence
from itertools import chain
from pathlib import Path

from anomaly_bench.loading.image_files import printable, visible_paths

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")  # compared in lower case
NO_PART = "folder that is no part of the layout"
NAMES = 3  # files that a message names for each reason


class UnusedFiles:
    """The files and folders of a data set that are not used, by the reason why.

    used: folders that are read; neither they nor their parents are ever listed.
    """

    def __init__(self, root: Path, used: Iterable[Path]) -> None:
        self.root, self.paths = root, dict[str, list[Path]]()
        self._used: set[Path] = set()
        self.use(used)

    def use(self, folders: Iterable[Path]) -> None:
        """Never list these folders, nor their parents."""
        self._used.update(path for folder in folders for path in (folder, *folder.parents))

    def add(self, reason: str, path: Path) -> None:
        """Note a path, unless it is used."""
        if path not in self._used:
            self.paths.setdefault(reason, []).append(path)

    def add_others(self, folder: Path, known: Container[str] = (), what: str = NO_PART) -> None:
        """Note in a folder of folders: those with images that are not known, images, and links that lead nowhere."""
        for path in visible_paths(folder) if folder.is_dir() else ():
            reason = why_not_a_file(path)
            if reason == "folder" and path.name not in known and _holds_images(path):
                self.add(what, path)
            elif reason == "dangling link":
                self.add(reason, path)
            elif not reason and has_suffix(path, IMAGE_SUFFIXES):
                self.add("image outside the folders of the layout", path)

    def __str__(self) -> str:
        """Return one line: how many files for each reason, and the first of them; empty where there are none."""
        lines = []
        for reason, paths in self.paths.items():
            names = [printable(path.relative_to(self.root)) for path in paths[:NAMES]]
            lines.append(f"{len(paths)} x {reason} ({', '.join(names)}{', ...' if len(paths) > NAMES else ''})")
        return f"{printable(self.root)}: not used: {'; '.join(lines)}" if lines else ""

    def warn(self) -> None:
        """Warn of them, if there are any."""
        if self.paths:
            warnings.warn(str(self), stacklevel=2)


def list_files(folder: Path, used: Callable[[Path], bool], unused: UnusedFiles) -> list[Path]:
    """Return the visible regular files of a folder that `used` accepts, sorted by name; [] without such a folder."""
    found = []
    for path in visible_paths(folder) if folder.is_dir() else ():
        reason = why_not_a_file(path) or ("" if used(path) else "unknown extension")
        if reason:
            unused.add(reason, path)
        else:
            found.append(path)
    return found


def why_not_a_file(path: Path) -> str:
    """Return what a path is, or an empty string for a regular file."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return "dangling link"
    return "" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "no regular file"


def has_suffix(path: Path, suffixes: Sequence[str]) -> bool:
    """Return whether a file has one of the suffixes, which are in lower case."""
    return path.suffix.lower() in suffixes


def _holds_images(folder: Path) -> bool:
    """Return whether there are images in a folder or one level deeper."""
    paths = chain(folder.glob("[!.]*"), folder.glob("[!.]*/[!.]*"))
    return any(has_suffix(path, IMAGE_SUFFIXES) for path in paths)
