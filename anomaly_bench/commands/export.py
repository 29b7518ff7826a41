"""`bench export`: a finished run as one file that needs nothing of this package, with a certificate."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anomaly_bench.console import print_lines
from anomaly_bench.errors import UserError
from anomaly_bench.evaluation.options import EvalOptions

if TYPE_CHECKING:
    from anomaly_bench.inference.run_images import RunImages


def export_command(arguments: Namespace) -> int:
    """Run `bench export`."""
    from anomaly_bench.inference.certificate import certify, export
    from anomaly_bench.inference.export import ExportRequest, require_packages
    from anomaly_bench.inference.exported import SUFFIXES, load_exported
    from anomaly_bench.inference.load import load

    run, file = Path(arguments.run), arguments.verify
    if file:
        refuse_beside_verify(arguments)
        load_exported(file, "cpu")  # says at once what is wrong with it
        model = load(run, "cpu", arguments.config_dir)
        certificate = certify(file, model, test_images(run, arguments))
    else:
        format = arguments.format or "onnx"
        require_packages(format)
        file = arguments.out or Path(default_name(run, SUFFIXES[format]))
        if file.suffix != SUFFIXES[format]:
            raise UserError("--out", f"{file} given; the format {format} has the suffix {SUFFIXES[format]}")
        model = load(run, "cpu", arguments.config_dir)
        request = ExportRequest(format, not arguments.no_preprocess, arguments.quantize or "none")
        certificate = export(model, request, file, test_images(run, arguments))
    apart = ", ".join(f"{key}s {value:.1e}" for key, value in certificate["largest_difference"].items())
    figures = ", ".join(f"{name} {pair[1]:.4f}" for name, pair in certificate["metrics"].items())
    images = f"{certificate['test_images']} test images and {len(certificate['other_images'])} others"
    print_lines(
        f"{file}: gives what {run} gives on {images}",
        f"largest differences in parts of the spread: {apart}; no label differs; {figures}",
    )
    return 0


def refuse_beside_verify(arguments: Namespace) -> None:
    """Raise UserError for options that say how to write a file."""
    for name in ("format", "out", "no_preprocess", "quantize"):
        if getattr(arguments, name):
            what = "is given with --verify, which writes nothing"
            raise UserError(f"--{name.replace('_', '-')}", what, "bench export --verify FILE RUN")


def default_name(run: Path, suffix: str) -> str:
    """Return `METHOD-DATASET-CATEGORY-SEED-ID.suffix`, from the folders that a run lies in."""
    return "-".join(run.resolve().parts[-4:]) + suffix


def test_images(run: Path, arguments: Namespace) -> RunImages:
    """Return a run's test images with what it has stored of them.

    Raises UserError where its data set is not here or not what it was, or where it has stored no maps.
    """
    from anomaly_bench.evaluation.stored_runs import open_run
    from anomaly_bench.inference.run_images import RunImages

    places = dict(each.split("=", 1) for each in arguments.overrides)
    stored = open_run(run, EvalOptions([run], places, config_dir=arguments.config_dir))
    return RunImages(
        [record.image for record in stored.records],
        [record.path for record in stored.records],
        np.array([record.label for record in stored.records]),
        np.array([row.score for row in stored.folder.scores], np.float32),
        stored.maps,
        stored.masks,
    )
