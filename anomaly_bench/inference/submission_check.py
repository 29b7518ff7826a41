"""`bench submit --check`: whether an archive is what an evaluation server takes.  No network, no model, no torch."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from anomaly_bench.console import track
from anomaly_bench.errors import Mistakes, UserError
from anomaly_bench.files import BLOCK, unreadable
from anomaly_bench.loading.image_files import width_and_height
from anomaly_bench.runs.benchmarks import Member, Submission

LARGEST = 8  # bytes a pixel of any file that can be right, and
MORE = 2**20  # bytes of its header: nothing larger is read into memory
PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)


class Broken:
    """The rules that an archive breaks, each with the files that break it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: dict[str, list[str]] = {}

    def add(self, rule: str, name: str, what: str = "") -> None:
        """Note that a file breaks a rule."""
        self.found.setdefault(rule, []).append(f"{name}: {what}" if what else name)

    def refuse(self) -> None:
        """Raise a UserError with a line for each rule that is broken, if any is."""
        errors = []
        for rule, names in self.found.items():
            count = f"; {len(names)} files, the first:" if len(names) > 1 else ":"
            errors.append(UserError(str(self.file), f"{rule}{count} {names[0]}"))
        if errors:
            raise errors[0] if len(errors) == 1 else Mistakes(errors)


def check(file: Path, layout: Submission, root: Path | None) -> int:
    """Return how many files an archive holds, all as they must be.

    root: of the data set, for the sizes of its images; None: as published.  Raises UserError, a line for each rule
    that is broken: the archive is whole; only plain files, each once, in one folder; all that belong there and no
    other; maps are TIFF, float16 [H, W], finite; thresholded images PNG, 8-bit grey, 0 or 255; both as large as the
    image.
    """
    broken = Broken(file)
    expected = {member.name: member for kind in (False, True) for member in layout.members(kind)}
    seen: set[str] = set()
    tops: set[str] = set()
    for entry, content in _entries(file, broken, _largest(layout)):
        top, _, name = entry.partition("/")
        member = expected.get(name)
        if member is None:
            broken.add("holds what belongs to no submission (name, folder or object)", entry)
            continue
        tops.add(top)
        if name in seen:
            broken.add("holds a file twice", entry)
        seen.add(name)
        if content is None:
            broken.add("holds a file that is too large for its image", entry)
            continue
        size = _size(member, layout, root)
        try:
            (check_thresholded if member.thresholded else check_map)(content, size)
        except _Wrong as error:
            broken.add(error.rule, entry, error.what)
    if len(tops) > 1:
        broken.add("all files lie in one folder, as MVTec's script packs them", ", ".join(sorted(tops)))
    for kind in (False, True):
        names = [member.name for member in layout.members(kind)]
        if not kind or seen & set(names):  # thresholded images: all or none
            for name in names:
                if name not in seen:
                    broken.add("lacks files: each image of each set has one", name)
    broken.refuse()
    return len(seen)


class _Wrong(Exception):
    def __init__(self, rule: str, what: str) -> None:
        super().__init__(rule)
        self.rule, self.what = rule, what


def check_map(content: bytes, size: tuple[int, int]) -> None:
    """Raise _Wrong unless content is a TIFF of one map float16 [H, W], finite, of width and height `size`."""
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(content)) as tiff:
            page, pages = tiff.pages.first, len(tiff.pages)
            shape, dtype = page.shape, page.dtype
            if pages == 1 and len(shape) == 2 and dtype == np.float16 and shape == size[::-1]:
                values = np.asarray(page.asarray())
    except Exception as error:  # decoders raise nearly anything on a damaged file
        raise _Wrong("maps are readable TIFF files", str(error) or type(error).__name__) from error
    if pages != 1 or len(shape) != 2:
        raise _Wrong("a map has one channel, [H, W]", f"{pages} pages of {list(shape)}")
    if dtype != np.float16:
        raise _Wrong("maps are of type float16", str(dtype))
    if shape != size[::-1]:
        raise _wrong_size(size, shape[1], shape[0])
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise _Wrong("maps are finite", f"{values[row, column]} at row {row}, column {column}")


def check_thresholded(content: bytes, size: tuple[int, int]) -> None:
    """Raise _Wrong unless content is a PNG of 8-bit grey values 0 and 255, of width and height `size`."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            mode, found = image.mode, image.size
            values = np.asarray(image) if mode == "L" and found == size else np.zeros((1, 1), np.uint8)
    except Exception as error:
        raise _Wrong("thresholded images are readable PNG files", str(error) or type(error).__name__) from error
    if mode != "L":
        raise _Wrong("a thresholded image has one channel of 8 bits", f"mode {mode}")
    if found != size:
        raise _wrong_size(size, *found)
    if other := sorted({*np.unique(values).tolist()} - {0, 255}):
        raise _Wrong("thresholded images hold 0 and 255 only", f"value {other[0]}")


def _wrong_size(size: tuple[int, int], width: int, height: int) -> _Wrong:
    what = f"{width} x {height} pixels, the image has {size[0]} x {size[1]}"
    return _Wrong("maps and thresholded images are as large as their image", what)


def _size(member: Member, layout: Submission, root: Path | None) -> tuple[int, int]:
    """Return width and height of a member's image."""
    if root is None:
        images = layout.images[member.object]
        return images.width, images.height
    path = root / member.object / member.set / member.image
    if not (found := width_and_height(path)):
        raise UserError(str(path), "cannot be read, and the size of its map is compared with it")
    return found


def _largest(layout: Submission) -> int:
    return MORE + LARGEST * max(images.width * images.height for images in layout.images.values())


def _entries(file: Path, broken: Broken, largest: int) -> Iterator[tuple[str, bytes | None]]:
    """Yield name and content of each plain file in an archive; None where it is larger than any file may be.

    Notes entries of another type and names that lead elsewhere.  Raises UserError where the archive is not whole.
    """
    try:
        with (
            file.open("rb") as opened,
            gzip.GzipFile(fileobj=opened) as zipped,
            tarfile.open(fileobj=zipped, mode="r|") as archive,
        ):
            for entry in track(archive, f"checking {file.name}"):
                if entry.isdir():
                    continue
                if entry.type not in PLAIN:
                    broken.add("holds plain files only, no links and devices", entry.name)
                elif entry.name.startswith("/") or ".." in entry.name.split("/"):
                    broken.add("names of files stay inside the archive", entry.name)
                else:
                    yield entry.name, _content(archive, entry) if entry.size <= largest else None
            while zipped.read(BLOCK):  # to its end, where its checksum stands
                pass
    except FileNotFoundError as error:
        raise unreadable(file, error) from error
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UserError(str(file), f"is no whole .tar.gz: {error}") from error


def _content(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    opened = archive.extractfile(entry)
    content = opened.read() if opened else b""
    if len(content) != entry.size:
        raise tarfile.ReadError(f"{entry.name} ends after {len(content)} of {entry.size} bytes")
    return content
