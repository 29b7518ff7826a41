"""A finished run on new images, its threshold, timing and export: sources, damaged runs, missing images, outputs, exported files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from bad_inputs import harms as h
from bad_inputs.judge import Case, Outcome, refused, said, works
from bad_inputs.worlds import noise, save
from small_runs import TOY

RUN = "outputs/toy/mvtec/bottle/s0-*"
CONF = TOY[:2]
TEST = "data/mvtec/bottle/test"
HOLE = f"{TEST}/hole/000.png"
WAYS = ("calibration_share=0.1", "validation/good", "--normals DIR")
DAMAGES = {"a flipped bit": h.flip, "half": h.cut, "zeros": h.zero, "nothing": lambda p: p.write_bytes(b"")}


def _flip_threshold(path: Path) -> None:
    """The last bit of the first digit: another number, which JSON does not notice."""
    data = bytearray(path.read_bytes())
    key = b'"threshold": '
    data[data.index(key) + len(key)] ^= 1
    path.write_bytes(data)


def _predict(
    name: str, words: str, harm: h.Harm | None, *outcomes: Outcome, world: str = "calibrated", run: str = f"@{RUN}"
) -> Case:
    return Case(f"predict: {name}", ["predict", run, *words.split(), *CONF], outcomes, world, harm, writes=("out",))


def _refused(name: str, words: str, *names: str, harm: h.Harm | None = None, world: str = "calibrated") -> Case:
    """As `_predict`, and nothing at all is written."""
    return Case(f"predict: {name}", ["predict", f"@{RUN}", *words.split(), *CONF], (refused(*names),), world, harm)


def _threshold(name: str, words: str, harm: h.Harm | None, *outcomes: Outcome, world: str = "calibrated") -> Case:
    return Case(f"threshold: {name}", ["threshold", f"@{RUN}", *words.split(), *CONF], outcomes, world, harm)


def _rows(work: Path) -> list[dict[str, str]]:
    with (work / "out/scores.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _named(name: str, count: int = 10) -> Outcome:
    """All but one of `count` images are scored, and that one is named."""

    def check(work: Path, out: str) -> str:
        rows = _rows(work)
        errors = [row for row in rows if row["error"]]
        wrong = len(rows) != count or len(errors) != 1 or name not in errors[0]["path"] or errors[0]["score"]
        return f"scores.csv has {len(rows)} rows, errors {errors}" if wrong else ""

    return said(name, check=check, code=1)


def _all(count: int) -> Outcome:
    return works(check=lambda work, out: "" if len(_rows(work)) == count else f"{len(_rows(work))} rows")


def _nan(path: Path) -> None:
    """Weights that give no finite score; the checksums fit."""
    from safetensors.numpy import load_file, save_file

    from anomaly_bench.files import sha256_of

    save_file({key: np.full_like(values, np.nan) for key, values in load_file(path).items()}, path)
    manifest = json.loads(path.with_name("manifest.json").read_text())
    manifest["files"][path.name] = sha256_of(path)
    path.with_name("manifest.json").write_text(json.dumps(manifest))


def _normals(seeds: range) -> h.Harm:
    return lambda work: [save(work / f"new/{i}.png", noise(500 + i)) for i in seeds]


PREDICT = [
    *(Case(f"bench {words}", words.split(), (refused(name),), "empty") for words, name in {
        "predict": "bench predict", "predict nix": "SOURCE", "predict nix a.png": "nix", "predict nix a.png --nix": "--nix",
        "threshold": "bench threshold", "threshold nix": "nix", "threshold nix --nix": "--nix", "threshold nix nix2": "nix2",
    }.items()),
    *(_refused(f"options {words}", words, *names.split()) for words, names in {
        f"{HOLE} --maps tiff": "--out", f"{HOLE} --maps nix --out out": "--maps nix", f"{HOLE} --overlays": "--out", f"{HOLE} --watch data --out out": "--watch SOURCE",
        "--watch data": "--out", "--watch nix --out out": "nix", f"{HOLE} --until-idle 1": "--watch", f"{HOLE} --out out --source-size": "--maps", "--watch data --out out --until-idle x": "--until-idle x",
        f"{HOLE} --json --lot 0.1": "--lot", "--watch data --out out --lot 0.1": "--lot", f"{HOLE} --lot 0": "--lot", f"{HOLE} --lot nix": "nix", f"{HOLE} --batch-size 0": "--batch-size",
        f"{HOLE} --batch-size x": "x", f"{HOLE} --threads 0": "--threads", f"{HOLE} --device nix": "device nix", f"{HOLE} --device cuda:99": "device cuda:99",
        f"{HOLE} -": "-", f"{HOLE} --out {HOLE}": "000.png", f"{HOLE} --out {HOLE}/out": "000.png",
    }.items()),
    _refused("a file that is not there", "nix.png", "nix.png"),
    _refused("a pattern that fits nothing", f"{TEST}/*/*.nix", "*.nix"),
    _refused("an empty folder", "o", "o", harm=h.folder("o")),
    _refused("a folder of other files", "o", "o", harm=h.content("o/a.txt", "x")),
    _refused("one source of two is not there", f"{HOLE} nix.png", "nix.png"),
    Case("predict: an unknown config dir", ["predict", f"@{RUN}", HOLE, "--config-dir", "nix"], (refused("nix"),), "calibrated"),
    Case("predict: a method that is found nowhere", ["predict", f"@{RUN}", HOLE], (refused("toys"),), "calibrated"),
    _predict("no image", "a.png", h.content("a.png", "x"), said("a.png", code=1)),
    _predict("an image of no bytes", "a.png", h.content("a.png", ""), said("a.png", code=1)),
    _predict("half an image among others", f"{TEST} --out out", h.on(HOLE, h.cut), _named("hole/000.png")),
    _predict("text among others", f"{TEST} --out out --maps tiff --overlays", h.content(HOLE, "hello"), _named("hole/000.png")),
    _predict("32-bit values among others", f"{TEST} --out out", h.both(h.remove(HOLE), lambda work: save((work / HOLE).with_suffix(".tif"), np.ones((32, 32), np.float32))), _named("hole/000.tif")),
    _predict("a link to nothing", f"{TEST} --out out", h.link(f"{TEST}/hole/009.png", "nix"), _named("hole/009.png", 11)),
    _predict("a fifo beside images", f"{TEST} --out out", h.fifo(f"{TEST}/hole/009.png"), _named("hole/009.png", 11)),
    _predict("a folder called a.png", f"{TEST} --out out", h.folder(f"{TEST}/hole/009.png"), _all(10)),
    _predict("a hidden image", f"{TEST} --out out", h.image(f"{TEST}/hole/.a.png"), _all(10)),
    _predict("a name with a line break", f"{TEST} --out out", h.image(f"{TEST}/hole/a\nb.png"), _all(11)),
    _predict("a name that is no UTF-8", f"{TEST}/hole --out out --maps tiff", lambda work: save(work / f"{TEST}/hole/a\udcff.png", noise(1)), works()),
    _predict("a name that is no UTF-8, as a line", f"{TEST}/hole", lambda work: save(work / f"{TEST}/hole/a\udcff.png", noise(1)), said("a\\udcff.png")),
    _predict("a name that is no UTF-8, as JSON", f"{TEST}/hole --json", lambda work: save(work / f"{TEST}/hole/a\udcff.png", noise(1)), said("a\\udcff.png")),
    _predict("a name of 255 bytes", f"{TEST}/hole --out out --maps tiff", h.image(f"{TEST}/hole/{'a' * 251}.png"), said("is not written")),
    _predict("no names on standard input", "-", None, said("0 images scored")),
    _predict("an image of 1 x 1 pixel", "a.png --out out --maps tiff --overlays", lambda work: save(work / "a.png", noise(1)[:1, :1]), _all(1)),
    _predict("weights that give NaN", f"{HOLE} --json", h.on(f"{RUN}/weights.safetensors", _nan), said("its score is not finite", code=1)),
    _refused("--fail-on-anomaly without a threshold", f"{HOLE} --fail-on-anomaly", "--fail-on-anomaly", *WAYS, world="run"),
    _refused("--overlays without a threshold", f"{HOLE} --out out --overlays", "--overlays", *WAYS, world="run"),
    _refused("--lot without calibration images", f"{HOLE} --lot 0.1", "--lot", *WAYS, world="run"),
    _predict("a run without a threshold", HOLE, None, said("no threshold"), world="run"),
    Case("predict: an unfinished run", ["predict", "@outputs/*/*/*/s0-*", "a.png", *CONF], (refused("not finished"),), "unfinished"),
    Case("predict: the images' folder as run", ["predict", TEST, "a.png", *CONF], (refused(TEST, "no run is here"),), "calibrated"),
    *(_refused(f"{file}: {name}", HOLE, file, harm=h.on(f"{RUN}/{file}", do)) for file in ("weights.safetensors", "config.yaml", "manifest.json", "calibration.csv") for name, do in DAMAGES.items() if (file, name) != ("manifest.json", "a flipped bit")),
    _refused("manifest.json: a flipped bit of a threshold", HOLE, "manifest.json", harm=h.on(f"{RUN}/manifest.json", _flip_threshold)),
    *(_refused(f"{file} is gone", HOLE, "s0-", harm=h.remove(f"{RUN}/{file}")) for file in ("weights.safetensors", "config.yaml", "manifest.json", "calibration.csv")),
    _refused("an output with a foreign scores.csv", f"{HOLE} --out out", "out/scores.csv", harm=h.content("out/scores.csv", "x")),
    _refused("an output with foreign maps", f"{HOLE} --out out --maps tiff", "out/maps", harm=h.folder("out/maps")),
    _refused("an output with a damaged predict.json", f"{HOLE} --out out", "out/predict.json", harm=h.content("out/predict.json", "{")),
    _refused("an output with a list as predict.json", f"{HOLE} --out out", "out/predict.json", harm=h.content("out/predict.json", "[]")),
    _refused("the output's lock is a link", f"{HOLE} --out out", "out/.lock", harm=h.both(h.folder("out"), h.link("out/.lock", "../nix"))),
    *(Case(f"full disk: predict {more}", ["predict", f"@{RUN}", HOLE, *more.split(), *CONF], (said("standard output", code=1),), "calibrated", stdout="/dev/full") for more in ("", "--json")),
]  # fmt: skip
THRESHOLD = [
    _threshold("no calibration images", "", None, refused("no calibration images", *WAYS), world="run"),
    *(_threshold(f"options {words}", words, None, refused(name)) for words, name in {
        "--false-alarms 0": "--false-alarms", "--false-alarms nan": "nan", "--confidence 1": "--confidence", "--per nix": "nix", "--folds 1": "--folds", "--normals nix": "nix",
        "--normals data --folds 2": "--folds", "dataset.nix=1 --folds 2": "nix",
    }.items()),
    _threshold("normal images that the run was trained on", "--normals data/mvtec/bottle/train/good", None, refused("train/good/000.png")),
    _threshold("normal images that it was tested on", f"--normals {TEST}/good", None, refused("test/good/000.png")),
    _threshold("a broken normal image", "--normals new", h.both(_normals(range(5)), h.content("new/3.png", "x")), refused("new/3.png")),
    _threshold("a normal image twice", "--normals new", h.both(_normals(range(5)), h.copy("new/3.png", "new/9.png")), refused("new/9.png", "new/3.png")),
    _threshold("no normal image", "--normals new", h.folder("new"), refused("new")),
    _threshold("too few normal images", "--normals new", _normals(range(5)), said("needs 59 normal images, you have 5", check=lambda work, out: "")),
    Case("threshold: an unfinished run", ["threshold", "@outputs/*/*/*/s0-*", *CONF], (refused("not finished"),), "unfinished"),
    *(_threshold(f"calibration.csv: {name}", "", h.on(f"{RUN}/calibration.csv", do), refused("calibration.csv")) for name, do in DAMAGES.items()),
    _threshold("calibration.csv is gone", "", h.remove(f"{RUN}/calibration.csv"), refused("calibration.csv")),
]  # fmt: skip
TIME = [
    Case("time: no run", ["time"], (refused("bench time", "RUN"),), "empty"),
    Case("time: no such run", ["time", "nix"], (refused("nix", "no run is here"),), "empty"),
    Case("time: an unfinished run", ["time", "@outputs/*/*/*/s0-*", *CONF], (refused("not finished"),), "unfinished"),
    *(Case(f"time: options {words}", ["time", f"@{RUN}", *words.split(), *CONF], (refused(*names.split()),), "calibrated") for words, names in {
        "--threads 0": "--threads 1", "--threads 1,x": "1,x all", "--threads ,": "--threads", "--batch 0": "--batch best", "--seconds 0": "--seconds", "--seconds nan": "--seconds",
        "--runtime egaer": "egaer 'eager'", "--device nix": "--device nix cpu", "--device gpu": "--device gpu CUDA", "--protocol mvtek": "--protocol 'mvtec'",
        "--images nix": "--images nix", "--out nix/a.md": "--out nix",
    }.items()),
    Case("time: a folder without images", ["time", f"@{RUN}", "--images", "o", *CONF], (refused("--images", "o", "no image"),), "calibrated", h.folder("o")),
    Case("time: half an image", ["time", f"@{RUN}", "--images", TEST, *CONF], (refused("hole/000.png"),), "calibrated", h.on(HOLE, h.cut)),
    Case("time: weights with a flipped bit", ["time", f"@{RUN}", *CONF], (refused("weights.safetensors"),), "calibrated", h.on(f"{RUN}/weights.safetensors", h.flip)),
]  # fmt: skip
EXPORT = [
    *(Case(f"bench {words}", words.split(), (refused(*names.split()),), "empty") for words, names in {
        "export": "RUN", "export nix --format torch": "nix", "export nix --format nix": "--format nix", "export nix --quantize nix": "--quantize nix",
        "export nix --format torch --out a.png": "--out a.png .pt2", "export nix --verify a.onnx --out b.onnx": "--out --verify", "export nix --verify a.onnx": "a.onnx",
    }.items()),
    Case("export: an unfinished run", ["export", "@outputs/*/*/*/s0-*", "--format", "torch", *CONF], (refused("not finished"),), "unfinished"),
    *(Case(f"export: {file}: half", ["export", f"@{RUN}", "--format", "torch", *CONF], (refused(file),), "calibrated", h.on(f"{RUN}/{file}", h.cut)) for file in ("weights.safetensors", "maps.npy", "manifest.json")),
    Case("predict: an exported file that is not there", ["predict", "nix.pt2", HOLE], (refused("nix.pt2", "no such file"),), "calibrated"),
    Case("predict: text as an exported file", ["predict", "a.pt2", HOLE], (refused("a.pt2", "cannot be read"),), "calibrated", h.content("a.pt2", "x")),
]  # fmt: skip
CASES = [*PREDICT, *THRESHOLD, *TIME, *EXPORT]
