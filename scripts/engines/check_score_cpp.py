"""python check_score_cpp.py [ORT_HEADERS]: builds examples/cpp and holds its scores beside those of Python.

A run of padim_fast on generated textures is exported; photographs of scikit-image, and copies of them in other layouts,
are scored with it.  ORT_HEADERS: the folder of onnxruntime_c_api.h.  The library is that of the Python package.
Exit code 0, 1 with what differs, or 2 where something is missing."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.metadata import version
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import skimage
from check_score_with_ray import export_run
from check_sweep import Checks
from PIL import Image
from small_runs import QUICK, ROOT

from anomaly_bench.inference.export import set_metadata
from anomaly_bench.inference.standalone import Onnx, read

PLACES = ("/usr/include/onnxruntime", "/usr/local/include/onnxruntime", "/usr/local/include")
PHOTOGRAPHS = ("camera.png", "coins.png", "brick.png", "astronaut.png", "coffee.png", "rocket.jpg", "retina.jpg")
RUN = ["method=padim_fast", "dataset=demo/gravel_matched", "calibration_share=0.25", "hardware=cpu", *QUICK]
PNG, JPEG = 1e-6, 5e-3  # largest difference of scores, in parts of their spread; JPEG decoders round differently


def headers(given: list[str]) -> Path | None:
    """Return the folder with the header of ONNX Runtime's C API."""
    places = map(Path, given or PLACES)
    return next((place.resolve() for place in places if (place / "onnxruntime_c_api.h").is_file()), None)


def build(place: Path, include: Path) -> Path:
    """Return the program, linked with the library of the Python package."""
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    (place / "lib").mkdir()
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):  # for the linker; for the loader
        (place / "lib" / name).symlink_to(library)
    given = [f"-DORT_HEADERS={include}", f"-DORT_LIBRARY={place / 'lib/libonnxruntime.so'}"]
    for words in (["-S", str(ROOT / "examples/cpp"), "-B", str(place / "build"), *given], ["--build", place / "build"]):
        subprocess.run(["cmake", *words], check=True, stdout=subprocess.DEVNULL)
    return place / "build/score"


def pictures(place: Path) -> list[Path]:
    """Return photographs, and copies of them in other layouts."""
    data = Path(skimage.__file__).parent / "data"
    grey, colour = Image.open(data / "camera.png"), Image.open(data / "astronaut.png").convert("RGB")
    gravel = Image.open(data / "gravel.png")
    deep = np.asarray(grey).astype(np.uint16) * 256 + np.asarray(grey)[::-1]
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(deep).save(place / "grey 16 bits.png")
    colour.convert("P").save(place / "palette.png")
    Image.merge("RGBA", (*colour.split(), grey.resize(colour.size))).save(place / "alpha.png")
    Image.merge("LA", (grey, grey.transpose(Image.Transpose.ROTATE_90))).save(place / "grey alpha.png")
    grey.point(lambda value: 255 * (value > 99)).convert("1").save(place / "bits.png")
    grey.save(place / "camera.bmp")
    grey.save(place / "grey.jpg", quality=90)
    colour.resize((301, 207)).save(place / "colour 4-2-0.jpg", quality=75, subsampling=2)
    colour.resize((301, 207)).save(place / "colour 4-4-4.jpg", quality=95, subsampling=0)
    colour.resize((301, 207)).save(place / "progressive.jpg", quality=85, progressive=True)
    for kind in ("png", "jpg"):
        colour.save(place / f"turned.{kind}", exif=turned)
    for i, corner in enumerate(product((0, 128, 256), repeat=2)):  # what the run has learned is normal
        gravel.crop((*corner, corner[0] + 256, corner[1] + 256)).save(place / f"gravel {i}.png")
    (place / "text.png").write_text("no image")
    return [*(data / name for name in PHOTOGRAPHS), *sorted(place.glob("*.*"))]


def compare(check: Checks, program: Path, exported: Path, place: Path) -> None:
    """Score all pictures with both; the tolerance is of the kind of file."""
    images = pictures(place)
    refused = [str(each) for each in images if each.stem in ("turned", "text")]
    good = [str(each) for each in images if str(each) not in refused]
    session = Onnx(str(exported))
    expected = [session(read(each)[None], None) for each in good]
    done = subprocess.run([program, exported, *images], capture_output=True, text=True)
    check("exit code: some cannot be read", done.returncode, 1)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    check("images that were scored", [line[0] for line in lines], good)
    errors = done.stderr.splitlines()
    check("images that were named as errors", [line.partition(": ")[0] for line in errors], refused)
    scores = [float(each["score"][0]) for each in expected]
    spread = max(scores) - min(scores)
    for kind, allowed in (("jpg", JPEG), ("", PNG)):
        some = [i for i, each in enumerate(good) if (kind == "jpg") == each.endswith(".jpg")]
        apart = max(abs(float(lines[i][1]) - scores[i]) / spread for i in some)
        check(f"{len(some)} {kind or 'png, bmp'}: scores apart by {apart:.1e} of their spread", apart <= allowed, True)
    words = [(f"{each['p_value'][0]:.4g}", ("normal", "anomalous")[int(each["label"][0])]) for each in expected]
    check("labels are of both kinds", len({label for _, label in words}), 2)
    check("p-values and labels", [(line[2], line[3]) for line in lines], words)


def refuse(check: Checks, program: Path, exported: Path, place: Path) -> None:
    """Files that are none of `bench export`."""
    proto = onnx.load(exported)
    set_metadata(proto, {"preprocess": False})
    onnx.save(proto, place / "core.onnx")
    del proto.metadata_props[:]
    onnx.save(proto, place / "other.onnx")
    (place / "text.onnx").write_text("no model")
    names = {"core": "--no-preprocess", "other": "not written by bench export", "text": "", "missing": "no such file"}
    for name, reason in names.items():
        done = subprocess.run([program, place / f"{name}.onnx", "a.png"], capture_output=True, text=True)
        found = (done.returncode, done.stdout, len(done.stderr.splitlines()), reason in done.stderr)
        check(f"{name}.onnx: {done.stderr.strip().rpartition('/')[2]}", found, (2, "", 1, True))


def main(*given: str) -> int:
    include = headers(list(given))
    if include is None:
        where = f"no onnxruntime_c_api.h in {', '.join(given or PLACES)}"
        print(f"ORT_HEADERS: {where}; give the folder `include` of a release of ONNX Runtime", file=sys.stderr)
        return 2
    check = Checks()
    place = Path(tempfile.mkdtemp(prefix="score_cpp_"))
    (place / "images").mkdir()
    print(f"onnxruntime {version('onnxruntime')}, headers of {include}", flush=True)
    program = build(place, include)
    exported = export_run(place, RUN, [])
    compare(check, program, exported, place / "images")
    refuse(check, program, exported, place)
    return check.end(place)


if __name__ == "__main__":
    sys.exit(main(*filter(None, sys.argv[1:])))
