from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_images import grey, save

from anomaly_bench.errors import UserError
from anomaly_bench.loading.decode import read_image, read_mask
from anomaly_bench.loading.image_files import width_and_height
from anomaly_bench.loading.resize import resize_image, resize_mask


@pytest.mark.parametrize(
    ("mode", "pixel", "expected"),
    [
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("RGBA", (1, 2, 3, 0), (1, 2, 3)),  # dropped, not blended
        ("LA", (9, 0), (9, 9, 9)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 257 * 40, (40, 40, 40)),  # clipping would give 255
        ("I;16", 257 * 40 + 200, (41, 41, 41)),  # to nearest
        ("I;16", 100, (0, 0, 0)),
    ],
)
def test_modes_of_png(tmp_path: Path, mode: str, pixel: object, expected: tuple[int, ...]) -> None:
    Image.new(mode, (5, 3), pixel).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.shape == (3, 5, 3)
    assert image.dtype == np.uint8
    assert (image == expected).all()


def test_palette_is_looked_up(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == (10, 20, 30)).all()


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    red = read_image(tmp_path / "a.jpg").reshape(-1, 3).mean(axis=0)
    assert red[0] > 200
    assert red[1:].max() < 60


def test_sixteen_bit_rgb_png(tmp_path: Path) -> None:  # Pillow cannot write one
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    lines = (b"\0" + struct.pack(">6H", 65535, 257 * 50, 0, 65535, 257 * 50, 0)) * 2
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    assert (read_image(tmp_path / "a.png") == (255, 50, 0)).all()


def test_an_array_is_read_like_a_file() -> None:
    assert read_image(grey(7)).shape == (8, 8, 3)
    assert (read_image(np.full((2, 2, 3), 5, np.uint8)) == 5).all()
    with pytest.raises(UserError, match="float32"):
        read_image(np.zeros((4, 4), np.float32))
    with pytest.raises(UserError, match=r"\[4, 4, 2\]"):
        read_image(np.zeros((4, 4, 2), np.uint8))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    good = save(tmp_path / "good.png", np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:-400])
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").touch()
    for name in ("cut.png", "text.png", "empty.png", "absent.png"):
        with pytest.raises(UserError, match=rf"{name}: cannot be read as an image"):
            read_image(tmp_path / name)


@pytest.mark.filterwarnings("error")
def test_transparent_colours_are_read_as_they_are(tmp_path: Path) -> None:  # and nothing is said of them
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).quantize(4)
    image.save(tmp_path / "bytes.png", transparency=bytes([0, 9, 255, 255]))
    image.save(tmp_path / "index.png", transparency=1)
    for name in ("bytes.png", "index.png"):
        assert (read_image(tmp_path / name) == np.asarray(image.convert("RGB"))).all()
    Image.fromarray(pixels).save(tmp_path / "colour.png", transparency=tuple(pixels[0, 0].tolist()))
    assert (read_image(tmp_path / "colour.png") == pixels).all()


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1), (1, 60000)])
def test_images_of_one_row_are_read_and_resized(tmp_path: Path, shape: tuple[int, int]) -> None:
    save(tmp_path / "a.png", np.full(shape, 200, np.uint8))
    assert (resize_image(read_image(tmp_path / "a.png"), 16) == 200).all()
    assert resize_mask(read_mask(tmp_path / "a.png", shape), 16).all()


def test_a_truncated_jpeg_and_a_decompression_bomb_are_named(tmp_path: Path) -> None:
    good = save(tmp_path / "good.jpg", np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))
    (tmp_path / "cut.jpg").write_bytes(good.read_bytes()[:-400])
    Image.new("1", (40000, 5000)).save(tmp_path / "bomb.png")
    for name in ("cut.jpg", "bomb.png"):
        with pytest.raises(UserError, match=rf"{name}: cannot be read as an image: ") as caught:
            read_image(tmp_path / name)
        assert len(str(caught.value).splitlines()) == 1


def test_what_has_no_plain_meaning_is_refused(tmp_path: Path) -> None:
    Image.new("F", (4, 4), 0.5).save(tmp_path / "float.tif")
    Image.new("I", (4, 4), 70000).save(tmp_path / "int.tif")
    page = Image.new("L", (4, 4))
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page])
    for name, reason in (("float", "32-bit"), ("int", "32-bit"), ("pages", "holds 2 images")):
        with pytest.raises(UserError, match=rf"{name}.tif: .*{reason}"):
            read_image(tmp_path / f"{name}.tif")


@pytest.mark.parametrize(
    ("mode", "zero", "one"),
    [
        ("L", 0, 1),
        ("1", 0, 1),
        ("I;16", 0, 3),
        ("RGB", (0, 0, 0), (0, 0, 1)),
        ("RGBA", (0, 0, 0, 255), (0, 1, 0, 0)),
        ("LA", (0, 255), (1, 0)),
    ],
)
def test_any_value_but_zero_is_anomalous(tmp_path: Path, mode: str, zero: object, one: object) -> None:
    image = Image.new(mode, (4, 2), zero)
    image.putpixel((3, 1), one)
    image.save(tmp_path / "a.png")
    mask = read_mask(tmp_path / "a.png", (2, 4))
    assert mask.dtype == np.bool_
    assert np.argwhere(mask).tolist() == [[1, 3]]


def test_a_palette_mask_is_what_one_sees(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    image.putpalette([255, 255, 255, 0, 0, 0])  # an optimiser may put white first
    image.save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png", (1, 2)).tolist() == [[True, False]]


def test_a_mask_of_another_size_is_an_error(tmp_path: Path) -> None:
    file = save(tmp_path / "m.png", np.zeros((6, 8), np.uint8))
    with pytest.raises(UserError, match=r"m.png: the mask has 8 x 6 pixels, its image 6 x 8"):
        read_mask(file, (8, 6))
    assert not read_mask(np.zeros((6, 8), bool), (6, 8)).any()


TURNED = {  # EXIF orientation: what is seen of what is stored
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_an_image_is_read_as_it_is_seen(tmp_path: Path, orientation: int, suffix: str) -> None:
    stored, file = np.random.default_rng(0).integers(0, 256, (5, 9, 3), dtype=np.uint8), tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(file, exif=exif)
    seen = TURNED[orientation](stored)
    assert np.array_equal(read_image(file), seen)
    assert width_and_height(file) == seen.shape[1::-1]
    mask = tmp_path / "mask.png"
    Image.fromarray((seen[..., 0] > 127).astype(np.uint8) * 255).save(mask)
    assert np.array_equal(read_mask(mask, seen.shape[:2]), seen[..., 0] > 127)
