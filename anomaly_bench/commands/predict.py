"""`bench predict`: score new images with a finished run, and say which are anomalous."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from anomaly_bench.console import print_at_once, say, track
from anomaly_bench.errors import UserError

if TYPE_CHECKING:
    from anomaly_bench.inference.output import OutputRequest
    from anomaly_bench.inference.predict import Model

WHERE = "bench predict"
LONGEST_NAME = 4096  # bytes of a path


def predict_command(arguments: Namespace) -> int:
    """Run `bench predict`."""
    refuse_contradictions(arguments)
    from anomaly_bench.inference.load import load
    from anomaly_bench.inference.summary import Summary

    model = load(arguments.run, arguments.device, arguments.config_dir)
    require_thresholds(model, arguments)
    summary = Summary(model, arguments.lot)
    if arguments.watch:
        watch_folder(model, arguments, summary)
    else:
        predict_all(model, arguments, summary)
    say("\n".join([summary.line, *summary.errors]))
    if not arguments.watch and (line := summary.drift_line):
        say(line)
    if arguments.lot:
        sys.stdout.write("".join(f"{line}\n" for line in summary.lot_lines()))
    return summary.code(arguments.fail_on_anomaly)


def refuse_contradictions(arguments: Namespace) -> None:
    """Raise UserError for options that do not go together."""
    sources, watch = arguments.sources, arguments.watch
    if not sources and not watch:
        raise UserError(WHERE, "no SOURCE given", "an image, a folder, a pattern, - or --watch DIR")
    if "-" in sources and len(sources) > 1:
        raise UserError(WHERE, "- is given beside other sources", "give - alone")
    refused = {
        ("--watch", "a SOURCE"): watch and sources,
        ("--watch", "--lot"): watch and arguments.lot,
        ("--json", "--lot"): arguments.json and arguments.lot,
    }
    for one, other in (pair for pair, given in refused.items() if given):
        raise UserError(one, f"is given with {other}", "leave out one of them")
    for name in ("maps", "overlays", "watch"):
        if getattr(arguments, name) and not arguments.out:
            raise UserError(f"--{name}", "is given without --out", "--out DIR says where to write")
    if arguments.source_size and not arguments.maps:
        raise UserError("--source-size", "is given without --maps", "--maps tiff or png16")
    if arguments.until_idle is not None and not watch:
        raise UserError("--until-idle", "is given without --watch", "--watch DIR")


def require_thresholds(model: Model, arguments: Namespace) -> None:
    """Raise UserError for options that need a threshold or calibration images which the run has not."""
    from anomaly_bench.runs.promise import WAYS

    lacks = {
        "--fail-on-anomaly": (arguments.fail_on_anomaly, "image", "threshold"),
        "--overlays": (arguments.overlays, "pixel", "threshold of its maps' pixels"),
        "--lot": (arguments.lot, "image", "calibration images"),
    }
    for option, (given, level, what) in lacks.items():
        if given and level not in model.thresholds:
            raise UserError(option, f"{model.folder.path} has no {what}", f"bench threshold sets one: {WAYS}")


def predict_all(model: Model, arguments: Namespace, summary: Any) -> None:
    """Score the images of the sources, and write and print what is requested of each."""
    from anomaly_bench.inference.output import json_line, text_line, whole_output

    names = arguments.sources == ["-"]
    source = names_in(sys.stdin.buffer) if names else images_of(arguments.sources, arguments.out)
    results = model.predict(source, arguments.batch_size or (1 if names else None), arguments.threads)
    request = requested(arguments, base_of(arguments.sources))
    line_of = json_line if arguments.json else None if arguments.out else text_line
    if line_of is None and isinstance(source, list):
        results = iter(track(results, "scoring", len(source)))
    try:
        with whole_output(request, model) if arguments.out else nullcontext(lambda result: None) as write:
            for result in results:
                write(result)
                summary.add(result)
                if line_of:
                    print_at_once(line_of(result))
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; no file is written") from None


def watch_folder(model: Model, arguments: Namespace, summary: Any) -> None:
    """Score the images that appear in a folder; one that cannot be scored is named at once."""
    from anomaly_bench.inference.output import json_line
    from anomaly_bench.inference.watch import watch
    from anomaly_bench.loading.image_files import expand_user

    folder = expand_user(str(arguments.watch))
    request = requested(arguments, folder)
    try:
        for result in watch(model, folder, request, arguments.until_idle, arguments.batch_size, arguments.threads):
            summary.add(result)
            if result.error:
                say(summary.errors.pop())
            if arguments.json:
                print_at_once(json_line(result))
    except KeyboardInterrupt:
        say(summary.line)
        raise


def requested(arguments: Namespace, base: Path) -> OutputRequest:
    """Return which files to write.  base: names of maps and overlays are those of the images, seen from here."""
    from anomaly_bench.inference.output import OutputRequest

    return OutputRequest(arguments.out, arguments.maps, arguments.overlays, base, arguments.source_size)


def images_of(sources: list[str], out: Path | None) -> list[Any]:
    """Return the images of all sources but those that are maps and overlays in `out`.  Raises UserError for none."""
    from anomaly_bench.inference.output import own_folders
    from anomaly_bench.inference.sources import open_source

    images = list(open_source(sources)[0])
    for own in own_folders(out) if out else []:
        images = [image for image in images if not Path(image.path).resolve().is_relative_to(own)]
    if not images:
        raise UserError(WHERE, f"all images there are maps and overlays in {out}", "name other images")
    return images


def base_of(sources: list[str]) -> Path:
    """Return the folder from which maps and overlays are named: the only source, if that is a folder, or this one."""
    from anomaly_bench.loading.image_files import expand_user, is_folder

    only = expand_user(sources[0])
    return only if len(sources) == 1 and is_folder(only) else Path()


def names_in(stream: IO[bytes]) -> Iterator[str]:
    """Yield the names in a stream, one a line.  Raises UserError where it holds no names, as of an image itself."""
    while line := stream.readline(LONGEST_NAME + 2):
        if b"\0" in line or len(line) > LONGEST_NAME + 1 or line.startswith((b"\x89PNG", b"\xff\xd8\xff")):
            what = "holds no names of images, one a line, but data such as an image's"
            raise UserError(
                "standard input", what, "bench predict RUN FILE, or names: ls parts/*.png | bench predict RUN -"
            )
        if name := line.rstrip(b"\r\n"):
            yield os.fsdecode(name)
