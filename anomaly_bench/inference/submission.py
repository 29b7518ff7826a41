"""`bench submit`: score a data set's private images with finished runs, and pack what its evaluation server takes."""

from __future__ import annotations

import gzip
import io
import math
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from anomaly_bench import config
from anomaly_bench.console import track
from anomaly_bench.errors import UserError, none_of
from anomaly_bench.files import new_file, sha256_of, unwritable
from anomaly_bench.inference.load import WEIGHTS, load_without_thresholds
from anomaly_bench.inference.predict import Model, Result
from anomaly_bench.loading.anomaly_maps import write_map
from anomaly_bench.loading.image_files import data_root, is_file, visible_paths
from anomaly_bench.runs.benchmarks import Member, Submission, benchmark
from anomaly_bench.runs.calibration import read_rows, stored_thresholds
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.promise import WAYS
from anomaly_bench.runs.stored_config import set_places, stored_config
from anomaly_bench.runs.stored_run import MANIFEST, NORMALS

ENDING = ".tar.gz"
BASELINE, CERTIFIED = "baseline", "certified"
LEVEL = 6  # of gzip


@dataclass(frozen=True)
class SubmitRequest:
    """Which runs become which archive."""

    runs: Sequence[Path]  # one of each object
    benchmark: str
    out: Path  # NAME.tar.gz
    threshold: str | None = None  # of the thresholded images: BASELINE or CERTIFIED; None leaves them out
    device: str = "auto"
    config_dir: Path | None = None  # where the class of a method of your own lies
    overrides: Mapping[str, str] = field(default_factory=dict)  # dataset.root=DIR


@dataclass(frozen=True)
class _Job:
    """One object's run, and what of the archive comes from it."""

    folder: RunFolder
    images: list[tuple[Member, Path]]  # of the maps
    validation: list[Path]  # for the baseline threshold


def submit(request: SubmitRequest) -> dict[str, float | None]:
    """Write the archive, whole or not at all, and return the threshold of each object.

    The same runs, images and versions of the libraries give the same bytes.  Raises UserError before anything is
    scored where a run is missing, not finished, of another data set or the second of its object, where images are
    missing or too many, and where a threshold is missing or was calibrated on images that the server measures.
    """
    layout = benchmark(request.benchmark).submission
    if layout is None:
        raise UserError("--benchmark", f"'{request.benchmark}' has no evaluation server")
    if not request.out.name.endswith(ENDING) or request.out.name == ENDING:
        raise UserError("--out", f"{request.out} given", f"the server takes NAME{ENDING}")
    if request.config_dir:
        config.allow_folder(request.config_dir)
    jobs = {name: _job(folder, name, layout, request) for name, folder in _runs(request, layout).items()}
    found: dict[str, float | None] = {}
    try:
        with (
            tempfile.TemporaryDirectory(dir=request.out.parent, prefix=".submission-") as scratch,
            new_file(request.out) as file,
            gzip.GzipFile("", "wb", LEVEL, file, mtime=0) as zipped,
            tarfile.open(fileobj=zipped, mode="w|", format=tarfile.USTAR_FORMAT) as archive,
        ):
            for name, job in jobs.items():
                found[name] = _add_object(archive, name, job, request, layout, Path(scratch))
            if request.threshold:
                for member in layout.members(thresholded=True):
                    _add(archive, request.out, member.name, (Path(scratch) / member.name).read_bytes())
    except OSError as error:
        raise unwritable(request.out, error, "give another --out") from error
    return found


def _runs(request: SubmitRequest, layout: Submission) -> dict[str, RunFolder]:
    """Return a finished run of each object, sorted by object."""
    runs: dict[str, RunFolder] = {}
    for folder in map(RunFolder, request.runs):
        manifest = folder.require_done()
        if manifest.get("dataset") != request.benchmark:
            what = f"is a run of {manifest.get('dataset')}, not of {request.benchmark}"
            raise UserError(str(folder.path), what)
        name = str(manifest.get("category"))
        if name not in layout.images:
            raise none_of(f"{folder.path}, category", name, layout.images)
        if other := runs.get(name):
            raise UserError(str(folder.path), f"is a second run of {name}, beside {other.path}", "give one of them")
        runs[name] = folder
    if missing := sorted(layout.images.keys() - runs.keys()):
        what = f"no run of {', '.join(missing)} is given; a submission has all {len(layout.images)} objects"
        raise UserError("bench submit", what)
    return dict(sorted(runs.items()))


def _job(folder: RunFolder, name: str, layout: Submission, request: SubmitRequest) -> _Job:
    """Find and check all that an object needs, before anything is scored."""
    folder.require_undamaged(["config.yaml", WEIGHTS])
    cfg = stored_config(folder)
    set_places(cfg, request.overrides, "bench submit")
    place = data_root(cfg.dataset.get("root"), request.benchmark, name) / name
    members = [member for member in layout.members(thresholded=False) if member.object == name]
    images = [(member, place / member.set / member.image) for member in members]
    for each in layout.sets:
        _require_images(place / each, [path for member, path in images if member.set == each])
    validation = []
    if request.threshold == BASELINE:
        base = place / "validation" / "good"
        validation = [path for path in visible_paths(base) if path.suffix == ".png"] if base.is_dir() else []
        if not validation:
            raise UserError(str(base), "holds no PNG image", f"--threshold {CERTIFIED} is the run's own")
    if request.threshold == CERTIFIED:
        _require_own_threshold(folder, [path for _, path in images])
    return _Job(folder, images, validation)


def _require_images(place: Path, wanted: Sequence[Path]) -> None:
    """Raise UserError unless a folder holds exactly these images without labels."""
    if not place.is_dir():
        raise UserError(str(place), "no such folder")
    there = {path for path in visible_paths(place) if path.suffix.lower() == ".png"}
    for path in wanted:
        if path not in there or not is_file(path):
            raise UserError(str(path), f"no such file; the folder holds {len(there)} of {len(wanted)} images")
    if more := sorted(there - set(wanted)):
        raise UserError(str(more[0]), f"is no image of this set, which has {len(wanted)}, from {wanted[0].name} on")


def _require_own_threshold(folder: RunFolder, private: Sequence[Path]) -> None:
    """Raise UserError unless a run has a threshold of pixels that no image of the server took part in."""
    entry = stored_thresholds(folder.manifest, folder.path / MANIFEST).get("pixel")
    if not entry:
        raise UserError(str(folder.path), "has no threshold of its maps' pixels", f"bench threshold sets one: {WAYS}")
    rows = read_rows(folder, entry["file"])
    if entry["file"] != NORMALS:  # held out of the training images, the data set's validation images, or folds
        return
    by_size = defaultdict(list)
    for path in private:
        by_size[path.stat().st_size].append(path)
    for row in rows:
        try:
            near = by_size.get(Path(row.path).stat().st_size, [])
            same = {sha256_of(path): path for path in near}.get(sha256_of(Path(row.path))) if near else None
        except OSError as error:
            what = f"its threshold was calibrated on {row.path}, which cannot be read: {error.strerror or error}"
            raise UserError(str(folder.path), what, "whether it is a test image cannot be seen") from error
        if same:
            what = f"its threshold was calibrated on test images: {row.path} is {same}"
            raise UserError(str(folder.path), what, "a threshold comes from normal images that are no test images")


def _add_object(
    archive: tarfile.TarFile, name: str, job: _Job, request: SubmitRequest, layout: Submission, scratch: Path
) -> float | None:
    """Add the maps of one object; the thresholded images wait in `scratch`.  Returns the threshold."""
    model = load_without_thresholds(job.folder.path, request.device, request.config_dir)
    threshold = None
    if request.threshold == BASELINE:
        threshold = baseline_threshold(_results(model, job.validation, f"{name}, validation"), layout.deviations)
    elif request.threshold == CERTIFIED:
        threshold = float(stored_thresholds(job.folder.manifest)["pixel"]["threshold"])
    results = _results(model, [path for _, path in job.images], name)
    thresholded = [member.name for member in layout.members(thresholded=True) if member.object == name]
    for (member, path), result, target in zip(job.images, results, thresholded, strict=True):
        values, tiff = result.map_at_source(), io.BytesIO()
        write_map(tiff, half(path, values), np.float16)
        _add(archive, request.out, member.name, tiff.getvalue())
        if threshold is not None:
            above = np.where(values.astype(np.float64) > threshold, 255, 0).astype(np.uint8)
            (scratch / target).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(above).save(scratch / target, "PNG")
    return threshold


def _results(model: Model, paths: Sequence[Path], description: str) -> Iterator[Result]:
    """Yield the result of each image.  Raises UserError for one that cannot be scored, and without a map."""
    for result in track(model.predict(list(paths)), description, len(paths)):
        if result.error:
            raise UserError(result.path, result.error, "nothing is written")
        if result.map is None:
            raise UserError(str(model.folder.path), "its method gives no anomaly maps", "nothing is written")
        yield result


def baseline_threshold(results: Iterator[Result], deviations: float) -> float:
    """Return mean + so many standard deviations of the pixels of all maps, at the images' own sizes (population)."""
    count, mean, squares = 0, 0.0, 0.0  # squares: sum of squared differences from the mean
    for result in results:
        values = result.map_at_source().astype(np.float64)
        own, more = float(values.mean()), values.size
        shift = own - mean
        squares += float(((values - own) ** 2).sum()) + shift**2 * count * more / (count + more)
        count, mean = count + more, mean + shift * more / (count + more)
    return mean + deviations * math.sqrt(squares / count)


def half(path: Path, scores: np.ndarray) -> np.ndarray:
    """Return scores as float16, rounded to nearest.  Raises UserError for one that is too large."""
    largest = float(np.abs(scores).max())
    with np.errstate(over="ignore"):
        found = scores.astype(np.float16)
    if not np.isfinite(found).all():
        what = f"its map reaches {largest:.6g}, and the server's float16 ends at {np.finfo(np.float16).max}"
        raise UserError(str(path), what, "nothing is written")
    return found


def _add(archive: tarfile.TarFile, out: Path, name: str, content: bytes) -> None:
    """Add a file below the archive's only folder, which bears the archive's name; owner and time are 0."""
    member = tarfile.TarInfo(f"{out.name.removesuffix(ENDING)}/{name}")
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
