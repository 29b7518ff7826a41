"""A run is one folder.  Files are written to a temporary name and renamed; `status: done` comes last."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_bench.errors import InWork, UserError
from anomaly_bench.files import sha256_of, unwritable, write_atomic
from anomaly_bench.runs.lock import LOCK, Lock

MANIFEST, FORMAT = "manifest.json", 2  # 2: images by content, result files with their checksums; 1: images by size
IMAGES = "images.csv"  # split, path, kind, checksum of image and mask
SMALL = ("metrics.json", "scores.csv", "curves.json", "config.yaml", IMAGES)  # checked whenever a run is read
LARGE = ("maps.npy", "weights.safetensors")
STATES = ("running", "done", "failed")
ANEW = "delete it to train the run anew"


def write_json(path: Path, value: Any) -> None:
    """NaN, which JSON lacks, becomes null."""
    text = json.dumps(_without_nan(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(path, lambda file: file.write(text.encode()))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def now() -> str:
    """UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class ScoreRow:
    """A line of scores.csv."""

    path: str
    kind: str
    label: int
    score: float


class RunFolder:
    """Reads and writes one run: `manifest`, `metrics`, `scores`, `maps`.  Reading needs no torch."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest, or an empty dict where the run has none yet.

        Raises UserError for a damaged file and for one of a later version.
        """
        manifest, file = self._json(MANIFEST), self.path / MANIFEST
        if manifest.get("format", 1) not in range(1, FORMAT + 1):
            what = f"has the format {manifest['format']}, which this version does not know"
            raise UserError(str(file), what, "the version of anomaly_bench that wrote it")
        if manifest.get("status") not in STATES and (manifest or file.exists()):
            raise UserError(str(file), f"is damaged: its status is {manifest.get('status')!r}", ANEW)
        return manifest

    @property
    def status(self) -> str:
        """`new`, `running`, `done` or `failed`."""
        return str(self.manifest.get("status", "new"))

    @property
    def metrics(self) -> dict[str, float]:
        """{"image_auroc": 0.991, ...}; undefined values are nan."""
        return {key: math.nan if value is None else value for key, value in self._json("metrics.json").items()}

    @cached_property
    def scores(self) -> list[ScoreRow]:
        """One row for each test image, in the order of the maps."""
        with (self.path / "scores.csv").open(newline="", encoding="utf-8") as file:
            return [ScoreRow(r["path"], r["kind"], int(r["label"]), float(r["score"])) for r in csv.DictReader(file)]

    @property
    def maps(self) -> np.ndarray | None:
        """float32 [N, H, W], memory-mapped; None where the run stored none."""
        file = self.path / "maps.npy"
        return np.load(file, mmap_mode="r") if file.exists() else None

    def _json(self, name: str) -> dict[str, Any]:
        file = self.path / name
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return {}
        return self._parsed(file, content)

    def _parsed(self, file: Path, content: bytes) -> dict[str, Any]:
        try:
            value: dict[str, Any] = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise UserError(str(file), f"is damaged: {error}", ANEW) from error
        if not isinstance(value, dict):
            raise UserError(str(file), f"is damaged: it holds {type(value).__name__}, no keys", ANEW)
        return value

    def start(self, manifest: dict[str, Any], config: str, overrides: Iterable[str], *, afresh: bool) -> None:
        """Create the folder, or go on with an unfinished one.

        afresh: clear it first; a finished run is only set aside (`replaced`), until `finish`.
        """
        if afresh:
            self._clear(keep=self.status == "done")
        for rest in (*self.path.glob(".*"), *self.path.glob("checkpoints/*/.*")):  # temporary files of a killed attempt
            if not rest.name.startswith(LOCK):
                remove(rest)
        earlier = self.manifest
        kept = {key: earlier[key] for key in ("started", "stages") if key in earlier}
        write_json(
            self.path / MANIFEST,
            {"format": FORMAT, "started": now(), "stages": {}, **manifest, **kept, "status": "running"},
        )
        self.write_text("config.yaml", config)
        self.write_text("overrides.txt", "".join(f"{o}\n" for o in overrides))

    def _clear(self, keep: bool) -> None:
        """Empty the folder but for its lock; `keep`: what was in it waits in `replaced`."""
        if keep:
            shutil.rmtree(self.replaced, ignore_errors=True)
            self.replaced.mkdir()
        items = [item for item in self.path.glob("*") if not item.name.startswith(LOCK)]
        for item in sorted(items, key=lambda item: item.name != MANIFEST):  # without that, no half of a run is `done`
            item.rename(self.replaced / item.name) if keep else remove(item)

    def damage(self, names: Iterable[str] = SMALL) -> list[str]:
        """A line for each of these result files that is missing or is not the one that the finished run wrote.

        Runs of format 1 hold no checksums: of them only `metrics.json` must be there.  Empty for an unfinished run.
        """
        manifest = self.manifest
        if manifest.get("status") != "done":
            return []
        expected = manifest.get("files", {"metrics.json": None})
        return [line for name in names if name in expected and (line := self._damage_of(name, expected[name]))]

    def _damage_of(self, name: str, expected: str | None) -> str:
        found = self.digest(name)
        if found is None:
            return f"{name} is missing"
        return "" if expected in (None, found) else f"{name} was changed or damaged after the run was done"

    def digest(self, name: str) -> str | None:
        """SHA-256 of one of the run's files; None where it is missing or cannot be read."""
        try:
            return sha256_of(self.path / name)
        except OSError:
            return None

    def require_undamaged(self, names: Iterable[str] = (*SMALL, *LARGE)) -> None:
        """Raises UserError naming the first of these files that is not as the run wrote it."""
        if lines := self.damage(names):
            name, _, what = lines[0].partition(" ")
            measured = all(line.startswith(("metrics.json ", "curves.json ")) for line in self.damage((*SMALL, *LARGE)))
            again = f"bench eval {self.path} measures it again"
            raise UserError(str(self.path / name), what, again if measured else "force=true trains the run anew")

    def update(self, **values: Any) -> None:
        """Set keys of the manifest; a key inside `stages` is added to the others."""
        manifest = self.manifest
        stages = {**manifest.get("stages", {}), **values.pop("stages", {})}
        write_json(self.path / MANIFEST, {**manifest, **values, "stages": stages})

    def fail(self, error: BaseException | str) -> None:
        """Record why the run stopped."""
        said = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        self.update(status="failed", finished=now(), error=said)

    def finish(self) -> None:
        """The last write of a run, with the checksums of its result files; from here on it is `done`."""
        manifest = {**self.manifest, "files": self._digests(), "status": "done", "finished": now()}
        manifest.pop("error", None)
        write_json(self.path / MANIFEST, manifest)
        self.clear_leftovers()

    def clear_leftovers(self) -> None:
        """Remove what a finished run needs no more: its checkpoints, and the run that it replaced."""
        for folder in (self.path / "checkpoints", self.replaced):
            shutil.rmtree(folder, ignore_errors=True)

    def remeasured(self, metrics: dict[str, float], curves: dict[str, Any], measurement: dict[str, Any]) -> None:
        """Replace a finished run's metrics and curves.  Other result files count from now on as they are.

        Where this is cut short, the run is shown as damaged until it is measured once more.
        """
        self.write_text("curves.json", json.dumps(curves))
        self.write_metrics(metrics)
        accepted = [line.partition(" ")[0] for line in self.damage((*SMALL, *LARGE)) if "missing" not in line]
        accepted = [name for name in accepted if name not in ("metrics.json", "curves.json")]
        more: dict[str, Any] = {}
        if accepted:
            manifest = self.manifest
            line = f"changed after the run was done, and taken as it is: {', '.join(accepted)}"
            more["accepted_changes"] = list(dict.fromkeys([*manifest.get("accepted_changes", []), *accepted]))
            more["protocol"] = list(dict.fromkeys([*manifest.get("protocol", []), line]))
        self.update(measurement=measurement, files=self._digests(), **more)

    def _digests(self) -> dict[str, str]:
        return {name: digest for name in (*SMALL, *LARGE) if (digest := self.digest(name))}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes out of the run, and leaves no empty folder behind.

        Raises InWork where one is at it already, UserError where the folder cannot be written.
        """
        lock = Lock(self.path)
        try:
            owner = lock.acquire()
        except OSError as error:
            raise unwritable(lock.path, error) from error
        if owner:
            raise InWork(str(self.path), f"is in work: {owner}", "wait for it, or stop it")
        try:
            yield
        finally:
            lock.release()
            with suppress(OSError):  # not empty
                self.path.rmdir()

    @property
    def replaced(self) -> Path:
        """Where a finished run waits while it is trained anew; hidden, so that no table counts it."""
        return self.path.with_name(f".{self.path.name}.replaced")

    def write_text(self, name: str, text: str) -> None:
        write_atomic(self.path / name, lambda file: file.write(text.encode()))

    def write_scores(self, rows: Iterable[ScoreRow]) -> None:
        """scores.csv; `repr` keeps every bit of a score."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", "kind", "label", "score"])
        writer.writerows([r.path, r.kind, r.label, repr(float(r.score))] for r in rows)
        self.write_text("scores.csv", text.getvalue())
        self.__dict__.pop("scores", None)

    def write_maps(self, maps: np.ndarray) -> None:
        """maps.npy: float32 [N, H, W]."""
        write_atomic(self.path / "maps.npy", lambda file: np.save(file, np.asarray(maps, np.float32)))

    def write_metrics(self, metrics: dict[str, float]) -> None:
        write_json(self.path / "metrics.json", metrics)


def remove(path: Path) -> None:
    """A file, a link, or a folder with all that is in it."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def find(outputs: Path | str) -> Iterator[RunFolder]:
    """Every run folder below `outputs`, sorted by path.  Raises UserError where the folder is missing."""
    outputs = Path(outputs)
    if not outputs.is_dir():
        raise UserError(str(outputs), "no such folder of runs", "the first `bench train` makes it")
    for manifest in sorted(outputs.glob(f"*/*/*/s*/{MANIFEST}")):
        yield RunFolder(manifest.parent)
