"""Image files: damaged, of other formats, of odd sizes; among training images and among defects."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from bad_inputs import harms as h
from bad_inputs.judge import Case, Outcome, refused, said, works
from bad_inputs.worlds import WIDGETS, noise, save
from PIL import Image

TRAIN, TEST, MASK = "widgets/train/good/003.png", "widgets/test/hole/001.png", "widgets/ground_truth/hole/001_mask.png"


def _png(width: int, height: int, depth: int, colour: int, data: bytes) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def _deep(path: Path) -> None:
    """The same colours in 16 bits for each of them."""
    values = np.asarray(Image.open(path).convert("RGB")).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    path.write_bytes(_png(values.shape[1], values.shape[0], 16, 2, rows))


def _deep_grey(suffix: str):
    def go(path: Path) -> None:
        values = np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 257
        path.unlink()
        Image.fromarray(values).save(path.with_suffix(suffix))

    return go


def _pages(suffix: str, **options: object):
    def go(path: Path) -> None:
        first = Image.open(path).convert("RGB")
        path.unlink()
        more = [Image.fromarray(noise(7))]
        first.save(path.with_suffix(suffix), save_all=True, append_images=more, **options)

    return go


def _float(path: Path, change=lambda a: a / 255) -> None:
    values = change(np.asarray(Image.open(path).convert("L")).astype(np.float32))
    path.unlink()
    Image.fromarray(values).save(path.with_suffix(".tif"))


def _nan(array: np.ndarray) -> np.ndarray:
    array[0, 0] = np.nan
    return array


def _alpha(path: Path) -> None:
    rgb = np.asarray(Image.open(path).convert("RGB"))
    save(path, np.dstack([rgb, np.zeros(rgb.shape[:2], np.uint8)]))


def _renamed(suffix: str):
    return lambda path: path.rename(path.with_suffix(suffix))


def _bad(name: str, change, at: str = TRAIN, failed: bool = True) -> Case:
    """Cannot be read: refused, at the latest when it is decoded."""
    harm = h.on(at, change) if callable(change) else h.content(at, change)
    return Case(f"{name} ({at.split('/')[1]})", WIDGETS, (refused(Path(at).stem, failed=failed),), "widgets", harm)


def _odd(name: str, change, *outcomes: Outcome, at: str = TRAIN, world: str = "widgets") -> Case:
    return Case(name, WIDGETS, outcomes or (works(world),), world, h.on(at, change))


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n(ran) (w) file closefile\nshowpage\n%%EOF\n"
SVG = b"<svg xmlns='http://www.w3.org/2000/svg' width='32' height='32'><rect width='32' height='32'/></svg>"
DAMAGED = [
    *(_bad(name, change, at) for at in (TRAIN, TEST) for name, change in {
        "no content": b"", "text": b"hello\n", "half a PNG": h.cut, "zeros": h.zero,
        "random bytes": np.random.default_rng(0).bytes(3000),
    }.items()),
    _bad("HTML", b"<!DOCTYPE html><html><body>Not found</body></html>"),
    _bad("gzip of a PNG", lambda p: p.write_bytes(gzip.compress(p.read_bytes()))),
    _bad("SVG", SVG),
    _bad("EPS with code", EPS),
    _bad("a flipped bit in the pixels of a PNG", h.flip),
    _bad("head of a PNG only", lambda p: p.write_bytes(p.read_bytes()[:33])),
    _bad("PNG of 0 x 0 pixels", _png(0, 0, 8, 2, b"")),
    _bad("PNG of 60000 x 60000 pixels by its head", _png(60000, 60000, 8, 2, b"\0" * 99)),
    _bad("PNG that unpacks to 196 million pixels", _png(14000, 14000, 1, 0, bytes(1751 * 14000))),
    _bad("half a JPEG", lambda p: (Image.open(p).save(p, format="JPEG", quality=95), h.cut(p))),
    _bad("half a BMP", lambda p: (Image.open(p).save(p, format="BMP"), h.cut(p))),
    _bad("half a TIFF", lambda p: (Image.open(p).save(p, format="TIFF"), h.cut(p))),
    _bad("float TIFF", _float),
    _bad("float TIFF with NaN", lambda p: _float(p, _nan)),
    _bad("TIFF of 32-bit integers", lambda p: (p.unlink(), Image.fromarray(noise(3)[..., 0].astype(np.int32)).save(p.with_suffix(".tif")))),
    _bad("TIFF of two pages", _pages(".tif")),
    _bad("animated PNG", _pages(".png")),
    _bad("animated WebP", _pages(".webp", lossless=True)),
    _bad("float TIFF as a mask, with NaN", lambda p: _float(p, _nan), MASK),
    _bad("mask of two pages", _pages(".tif"), MASK),
    _bad("half a mask", h.cut, MASK),
    _bad("mask of zeros", h.zero, MASK),
]  # fmt: skip
ODD = [
    _odd("BMP", h.again(".bmp")),
    _odd("TIFF", h.again(".tif")),
    _odd("compressed TIFF", h.again(".tiff", compression="tiff_lzw")),
    _odd("lossless WebP", h.again(".webp", lossless=True)),
    _odd("CMYK TIFF", h.again(".tif", "CMYK")),
    _odd("opaque alpha channel", h.again(".png", "RGBA")),
    _odd("transparent alpha channel", _alpha, works("widgets"), said("003.png")),
    _odd("three times 16 bits", _deep),
    _odd("grey", h.again(".png", "L"), world="grey"),
    _odd("grey with alpha", h.again(".png", "LA"), world="grey"),
    *(_odd(f"{name} with 16 bits", _deep_grey(suffix), works("grey", within=0.001), world="grey") for name, suffix in {  # rounded once
        "grey": ".png", "grey TIFF": ".tif",
    }.items()),
    _odd("palette", lambda p: (lambda g: (p.unlink(), g.save(p)))(Image.open(p).convert("L").convert("P")), world="grey"),
    _odd("one bit", h.again(".png", "1"), works()),
    _odd("CMYK JPEG", h.again(".jpg", "CMYK", quality=95), works()),
    _odd("JPEG with the suffix .png", lambda p: Image.open(p).save(p, format="JPEG", quality=95), works(), said("003")),
    _odd("PNG with the suffix .jpg", _renamed(".jpg")),
    _odd("PNG with the suffix .tif", _renamed(".tif")),
    _odd("BMP with the suffix .png", lambda p: Image.open(p).save(p, format="BMP")),
    _odd("GIF with the suffix .png", lambda p: Image.open(p).convert("L").save(p, format="GIF"), works("grey"), refused("003", failed=True), world="grey"),
    _odd("GIF", h.again(".gif"), said("003.gif"), refused("003.gif")),
    _odd("animated GIF", _pages(".gif"), said("003.gif"), refused("003.gif")),
    _odd("JPEG 2000", lambda p: p.write_bytes(b"x") and p.rename(p.with_suffix(".jp2")), said("003.jp2"), refused("003.jp2")),
    _odd("one pixel", lambda p: save(p, noise(1, 1)), works()),
    _odd("1 x 200 pixels", lambda p: save(p, np.repeat(noise(1, 1), 200, 1)), works()),
    _odd("20000 x 1 pixels", lambda p: save(p, np.repeat(noise(1, 1), 20000, 0)), works()),
    _odd("images of several sizes", lambda p: save(p, noise(1, 40)), said("32-40 x 32-40 px")),
    _odd("bytes after the end of a PNG", lambda p: p.write_bytes(p.read_bytes() + b"x" * 99)),
    _odd("EXIF rotation", lambda p: (lambda i, e: (e.__setitem__(0x0112, 6), i.transpose(Image.Transpose.ROTATE_90).save(p, exif=e)))(Image.open(p), Image.Exif()), works("widgets")),
    _odd("colour profile that is none", lambda p: (lambda i: i.save(p, icc_profile=b"x"))(Image.open(p))),
]  # fmt: skip


def _region(name: str, pixels: np.ndarray | None, *outcomes: Outcome, file: str = "region.png") -> Case:
    """A mask of what is ignored in all images; None: the file is missing."""
    harm = None if pixels is None else lambda work: save(work / file, pixels)
    return Case(f"ignore_mask: {name}", [*WIDGETS, f"dataset.ignore_mask={file}"], outcomes, "widgets", harm)


TOP = np.zeros((32, 32), np.uint8)
TOP[:8] = 255
IGNORED = [
    _region("as it should be", TOP, works()),
    _region("missing", None, refused("dataset.ignore_mask", "region.png", "no such file")),
    _region("of another size", TOP[:, :31], refused("region.png has 31 x 32 pixels", "000.png 32 x 32", failed=True)),
    _region("of no pixel", TOP * 0, refused("region.png marks no pixel")),
    _region("of every pixel", TOP * 0 + 255, refused("region.png marks every pixel")),
    _region("of floating-point numbers", TOP.astype(np.float32), works(), file="region.tif"),
    _region("with NaN", _nan(TOP.astype(np.float32)), refused("region.tif", "not finite"), file="region.tif"),
    Case("ignore_mask: a folder", [*WIDGETS, "dataset.ignore_mask=widgets"], (refused("dataset.ignore_mask", "widgets"),), "widgets"),
    Case("ignore_mask: an image that is none", [*WIDGETS, "dataset.ignore_mask=region.png"], (refused("region.png"),), "widgets", h.content("region.png", "x")),
    Case("ignore_value: in no mask", [*WIDGETS, "dataset.ignore_value=7"], (works("widgets"),), "widgets"),
    Case("ignore_value: float TIFF as a mask", [*WIDGETS, "dataset.ignore_value=7"], (refused("001_mask", "7", failed=True),), "widgets", h.on(MASK, _float)),
]  # fmt: skip
CASES = [*DAMAGED, *ODD, *IGNORED]
