"""The verbs that make, use and pass on a run: their options, arguments and keys.  Imports no torch."""

from __future__ import annotations

from pathlib import Path

from anomaly_bench.commands.verb import Verb, seconds, several, several_numbers, share, whole_number
from anomaly_bench.runs.promise import CONFIDENCE, FALSE_ALARMS, LEVELS

CONFIG_DIR = "also look for method/*.yaml, dataset/*.yaml ... and for their classes in DIR"
TRAIN = """Train and measure a run.  A finished run is not repeated, an interrupted one goes on.

  bench train method=rd dataset=mvtec/bottle hardware=gpu
  bench train -m method=rd,csflow dataset=mvtec/all seed=0,1,2

Without method, dataset and experiment: three methods on generated images, the first runs of `make demo`."""
EVAL = """Measure a finished run again from its stored maps; its metrics are confirmed or corrected.
Or measure the maps of any program: --maps DIR --masks DIR; and list them in the report beside the runs:

  bench eval --maps DIR --masks data/mvtec --as theirs dataset=mvtec"""
PREDICT = """Score new images with a finished run: a line an image, or files in --out DIR.

  bench predict RUN parts --out results --overlays
  find parts -name '*.png' | bench predict RUN - --json
  bench predict RUN --watch incoming --out results

Exit code: 0 all images are scored, 1 some could not be (they are named), 2 a user error, 3 another process writes
to DIR; 4 with --fail-on-anomaly: all are scored, and some are anomalous."""
THRESHOLD = """Calibrate a finished run's thresholds on normal images that its training has not seen: those that it
held out (calibration_share=0.1), those of the data set's validation/good, those of --normals DIR, or --folds K."""
TIME = """Time finished runs from an image's file to its decision: each part alone, and the whole.  Each measurement has
a process of its own.  The figures are also kept as timing.json in the run folder.

  bench time RUN --images parts --threads 1,all --batch 1,best --runtime eager,compile --out timing.md

Exit code: 0 all is measured, 1 some could not be (it is named), 2 a user error."""
EXPORT = """Write a finished run as one file that needs nothing of this package: images of any size in, score, map,
p-value and label out.  The file is then run in a process of its own on the run's test images and on unusual ones; where
it does not give what the run gives, no file is left.

  bench export RUN --format onnx --out brick.onnx
  bench export --verify brick.onnx RUN

Exit code: 0 the file gives what the run gives, 1 it does not, and a line says what differs, 2 a user error."""
SUBMIT = """Score a data set's private images with finished runs, one of each object, and pack what its evaluation
server takes.  The archive is written whole or not at all.  Nothing is uploaded.

  bench submit outputs/padim/mvtec_ad2/*/s0-* --benchmark mvtec_ad2 --threshold certified --out padim.tar.gz
  bench submit --check padim.tar.gz --benchmark mvtec_ad2"""


def add_verbs_of_a_run(bench: Verb) -> None:
    """Add what makes a run and what is done with it."""
    for add in (_train, _eval, _predict, _threshold, _time, _export):
        add(bench)


def _train(bench: Verb) -> None:
    train = bench.verb("train", "train and measure", TRAIN, function="train:train_command")
    train.option("-m", "--multirun", action="store_true", help="what is missing of every combination of several values")
    quiet = "print one line when the run has ended; what happens and the table are in its log.txt"
    train.option("-q", "--quiet", action="store_true", help=quiet)
    train.option("--config-dir", "-cd", metavar="DIR", help=CONFIG_DIR)
    train.option("--cfg", "-c", choices=("job", "hydra", "all"), help="print the configuration and stop")
    train.option("--resolve", action="store_true", help="with --cfg: its interpolations too")
    train.option("--package", "-p", metavar="KEY", help="with --cfg: a part of it")
    train.argument("KEY=VALUE", "keys of the run (bench show method=NAME); Hydra's syntax", "*", name="overrides")


def _eval(bench: Verb) -> None:
    evaluate = bench.verb("eval", "measure a finished run, or any maps, again", EVAL, function="evaluate:eval_command")
    evaluate.argument("RUN", "folder of a finished run", "*")
    keys = "dataset.root=DIR: where the run's images lie now; with --as: dataset=mvtec/bottle, output_dir=DIR, seed=N"
    evaluate.other_keys(keys)
    option = evaluate.option
    option("--maps", type=Path, metavar="DIR", help="[CATEGORY/][test/]KIND/ID.tiff, .npy or grey .png")
    option("--masks", type=Path, metavar="DIR", help="masks of the same names")
    option("--resize-masks", action="store_true", help="bring the masks to the size of the maps")
    ignore = "pixels of this value in a mask, 1 to 255, are neither normal nor anomalous"
    option("--ignore-value", type=whole_number(1, 255), metavar="N", help=ignore)
    listed = "with --maps: `bench report` lists the result as a method of this name"
    option("--as", dest="method", default="", metavar="NAME", help=listed)
    option("--write-tiff", type=Path, metavar="DIR", help="write a run's maps as TIFF in MVTec's layout instead")
    option("--source-size", action="store_true", help="with --write-tiff: maps, images and masks at the images' sizes")
    option("--accept-changes", action="store_true", help="take files that do not fit their checksums as they are")
    option("--config-dir", type=Path, metavar="DIR", help=CONFIG_DIR)
    option("--json", action="store_true", help="print JSON")
    memory = "maps that take more are measured in one pass, with certified error bounds"
    option("--memory-mb", type=whole_number(0, 10**9), metavar="N", help=memory)
    resamples = "of the test images, for the intervals; 0: no intervals"
    option("--resamples", type=whole_number(0, 100_000), metavar="N", help=resamples)
    option("--threads", type=whole_number(1, 1024), metavar="N", help="CPU threads; default: all")


def _predict(bench: Verb) -> None:
    predict = bench.verb("predict", "score new images with a finished run", PREDICT, function="predict:predict_command")
    predict.argument("RUN", "folder of a finished run, or a file of bench export")
    source = "image, folder or pattern; -: names of images, one a line, from standard input"
    predict.argument("SOURCE", source, "*", name="sources")
    option = predict.option
    option("--out", type=Path, metavar="DIR", help="write scores.csv into DIR; and maps/ and overlays/, if requested")
    maps = "tiff: the scores (float32); png16: 16-bit grey, its scale in the text chunks score_offset and score_scale"
    option("--maps", choices=("tiff", "png16"), help=f"write each image's anomaly map: {maps}")
    option("--source-size", action="store_true", help="with --maps: at each image's own size, not at the model's")
    option(
        "--overlays", action="store_true", help="write each image with the region above the pixel threshold outlined"
    )
    option("--json", action="store_true", help="print a JSON object an image, at once")
    option("--watch", type=Path, metavar="DIR", help="score each image that appears in DIR, until Ctrl-C")
    idle = "with --watch: end when no image has appeared for so long"
    option("--until-idle", type=seconds, metavar="SECONDS", help=idle)
    option("--fail-on-anomaly", action="store_true", help="exit code 4 where an image is anomalous")
    lot = "reject images of all these as one lot: on average at most this share of the rejected ones is normal"
    option("--lot", type=share, metavar="RATE", help=lot)
    batch = "images scored together; default: as the run, with - and --watch 1"
    option("--batch-size", type=whole_number(1, 65_536), metavar="N", help=batch)
    option("--threads", type=whole_number(1, 1024), metavar="N", help="CPU threads; default: as the run")
    option("--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1 ...; default: a GPU where there is one")
    option("--config-dir", type=Path, metavar="DIR", help=CONFIG_DIR)


def _threshold(bench: Verb) -> None:
    summary = "a threshold that promises at most so many false alarms"
    threshold = bench.verb("threshold", summary, THRESHOLD, function="threshold:threshold_command")
    threshold.argument("RUN", "folder of a finished run")
    threshold.other_keys("with --folds: dataset.root=DIR, where the run's images lie now")
    option = threshold.option
    rate = f"share of normal images that may be called anomalous; default: {FALSE_ALARMS}"
    option("--false-alarms", type=share, default=FALSE_ALARMS, metavar="RATE", help=rate)
    confidence = f"with which the share is not larger; default: {CONFIDENCE}"
    option("--confidence", type=share, default=CONFIDENCE, metavar="SHARE", help=confidence)
    option("--per", choices=LEVELS, help="only the threshold of images' scores, or of the pixels of maps")
    option("--normals", type=Path, metavar="DIR", help="calibrate on the normal images in this folder")
    folds = "calibrate on the training images in K parts, each scored by a model trained on the others; no guarantee"
    option("--folds", type=whole_number(2, 100), metavar="K", help=folds)
    option("--config-dir", type=Path, metavar="DIR", help=CONFIG_DIR)
    option("--json", action="store_true", help="print JSON")


def _time(bench: Verb) -> None:
    timing = bench.verb(
        "time", "from a file to a decision: latency, images/s, memory", TIME, function="timing:time_command"
    )
    timing.argument("RUN", "folder of a finished run, or a file that `bench export` wrote", "*")
    option = timing.option
    option("--images", type=Path, metavar="DIR", help="time on the images in DIR; default: a run's test images")
    threads = "CPU threads, with commas between them; default: 1,all"
    option("--threads", type=several_numbers(1, 1024, "all"), default="1,all", metavar="N", help=threads)
    batch = "images scored together; best: most images/s of 1, 2, 4 ... 32; default: 1,best"
    option("--batch", type=several_numbers(1, 65_536, "best"), default="1,best", metavar="N", help=batch)
    option("--device", type=several, default="cpu", metavar="NAME", help="cpu, gpu; default: cpu")
    runtimes = "of a run: eager, compile (torch.compile), export (torch.export), onnxruntime, openvino; default: eager"
    option("--runtime", type=several, default="eager", metavar="NAME", help=runtimes)
    protocols = "line: from files to decisions; mvtec: random images of three sizes, network alone; default: line"
    option("--protocol", type=several, default="line", metavar="NAME", help=protocols)
    option("--seconds", type=seconds, default=10.0, metavar="S", help="for one measurement; default: 10")
    option("--maps", action="store_true", help="also bring each anomaly map to its image's own size")
    option("--out", type=Path, metavar="FILE", help="write the tables as Markdown, with machine and versions")
    option("--json", action="store_true", help="print JSON")
    option("--config-dir", type=Path, metavar="DIR", help=CONFIG_DIR)


def _export(bench: Verb) -> None:
    export = bench.verb("export", "a finished run as one ONNX or torch file", EXPORT, function="export:export_command")
    export.argument("RUN", "folder of a finished run")
    export.other_keys("dataset.root=DIR: where the run's images lie now")
    option = export.option
    option("--format", choices=("onnx", "torch"), help="onnx: for ONNX Runtime; torch: torch.export; default: onnx")
    name = "default: METHOD-DATASET-CATEGORY-RUN.onnx or .pt2 here; an older one is replaced"
    option("--out", type=Path, metavar="FILE", help=name)
    raw = "take images as the method sees them, float32 [B, 3, h, w] in [0, 1], in place of uint8 of any size"
    option("--no-preprocess", action="store_true", help=raw)
    half = "float16: store the weights in half the space; everything is computed in float32 all the same"
    option("--quantize", choices=("none", "float16"), help=half)
    option("--verify", type=Path, metavar="FILE", help="examine a file that was exported of RUN once more instead")
    option("--config-dir", type=Path, metavar="DIR", help=CONFIG_DIR)


def add_submit(bench: Verb) -> None:
    """Add `bench submit`."""
    submit = bench.verb("submit", "an archive for an evaluation server", SUBMIT, function="submit:submit_command")
    submit.argument("RUN", "folder of a finished run, one of each object", "*")
    submit.other_keys("dataset.root=DIR: where the data set lies now; with --check, for the sizes of its images")
    option = submit.option
    option("--benchmark", metavar="NAME", help="the data set with an evaluation server: mvtec_ad2")
    option("--out", type=Path, metavar="FILE", help="NAME.tar.gz; an older one is replaced")
    kinds = "baseline: mean + 3 standard deviations of the validation pixels; certified: the run's own"
    help_text = f"also write the images thresholded at that of each object; {kinds}"
    option("--threshold", choices=("baseline", "certified"), help=help_text)
    option("--check", type=Path, metavar="FILE", help="check an archive against every rule of the server instead")
    option("--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1 ...; default: a GPU where there is one")
    option("--config-dir", type=Path, metavar="DIR", help=CONFIG_DIR)
