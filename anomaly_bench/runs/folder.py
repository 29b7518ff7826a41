"""A run is one folder.  Its files are written to a temporary name and renamed; `status: done` is written last."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly_bench.errors import RunningElsewhere, UserError
from anomaly_bench.files import csv_text, remove, unwritable, write_atomic, write_text
from anomaly_bench.runs.json_files import write_json
from anomaly_bench.runs.lock import LOCK, Lock
from anomaly_bench.runs.progress import FILE as PROGRESS
from anomaly_bench.runs.stored_run import (
    CHECKED,
    DECIDING,
    FORMAT,
    LARGE,
    MANIFEST,
    MEASURED,
    ScoreRow,
    StoredRun,
    deciding_checksum,
)

if TYPE_CHECKING:
    from anomaly_bench.loading.anomaly_maps import Rounding


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class RunFolder(StoredRun):
    """Writes a run, and reads it."""

    def start(self, manifest: dict[str, Any], config: str, overrides: Iterable[str], *, afresh: bool) -> None:
        """Create the folder, or go on with an unfinished one.

        overrides: the command's, a line each in overrides.txt.  afresh: clear the folder first; a finished run is only
        set aside (`replaced`), until `finish`.
        """
        if afresh:
            self._clear(keep=self.status == "done")
        for temporary in (*self.path.glob(".*"), *self.path.glob("checkpoints/*/.*")):  # of a killed attempt
            if not temporary.name.startswith(LOCK):
                remove(temporary)
        kept = {key: value for key, value in self.manifest.items() if key in ("started", "stages")}
        manifest = {"format": FORMAT, "started": now(), "stages": {}, **manifest, **kept, "status": "running"}
        write_json(self.path / MANIFEST, manifest)
        self.write_text("config.yaml", config)
        self.write_text("overrides.txt", "".join(f"{o}\n" for o in overrides))

    def _clear(self, keep: bool) -> None:
        """Empty the folder but for its lock.  keep: what was in it waits in `replaced`."""
        if keep:
            shutil.rmtree(self.replaced, ignore_errors=True)
            self.replaced.mkdir()
        items = [item for item in self.path.glob("*") if not item.name.startswith(LOCK)]
        for item in sorted(items, key=lambda item: item.name != MANIFEST):  # it goes first: no half of a run is `done`
            item.rename(self.replaced / item.name) if keep else remove(item)

    def update(self, **values: Any) -> None:
        """Set keys of the manifest; a key inside `stages` is added to the others there."""
        manifest = self.manifest
        stages = {**manifest.get("stages", {}), **values.pop("stages", {})}
        manifest |= {**values, "stages": stages}
        if manifest.keys() & set(DECIDING):
            manifest["deciding_checksum"] = deciding_checksum(manifest)
        write_json(self.path / MANIFEST, manifest)

    def fail(self, error: BaseException | str) -> None:
        """Record why the run stopped."""
        reason = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        self.update(status="failed", finished=now(), error=reason)

    def finish(self) -> None:
        """Make the last write of a run, with checksums of its result files and its size: from here on it is `done`."""
        kept = [file for file in self.path.rglob("[!.]*") if file.relative_to(self.path).parts[0] != "checkpoints"]
        size = sum(file.stat().st_size for file in kept if file.is_file())
        manifest = {**self.manifest, "files": self._digests(), "bytes": size, "status": "done", "finished": now()}
        manifest.pop("error", None)
        write_json(self.path / MANIFEST, manifest)
        self.clear_leftovers()

    def clear_leftovers(self) -> None:
        """Remove what a finished run needs no longer: its checkpoints, its progress, and the run that it replaced."""
        with suppress(OSError):
            (self.path / PROGRESS).unlink()
        for folder in (self.path / "checkpoints", self.replaced):
            shutil.rmtree(folder, ignore_errors=True)

    def replace_metrics(
        self, metrics: dict[str, float], curves: dict[str, Any], measurement: dict[str, Any], **more: Any
    ) -> None:
        """Replace a finished run's metrics and curves.  Other result files are taken from now on as they are.

        more: other keys of the manifest that are set with `measurement`.
        Where this is cut short, the run is shown as damaged until it is measured once more.
        """
        self.write_text("curves.json", json.dumps(curves))
        self.write_metrics(metrics)
        changed = [name for name, what in self._damaged((*CHECKED, *LARGE)).items() if what != "is missing"]
        accepted = [name for name in changed if name not in MEASURED]
        manifest = self.manifest
        if accepted:
            line = f"changed after the run was done, and taken as it is: {', '.join(accepted)}"
            for key, values in {"accepted_changes": accepted, "protocol": [line]}.items():
                more[key] = list(dict.fromkeys([*manifest.get(key, []), *values]))
        self.update(measurement=measurement, files=self._digests(), **more)

    def _digests(self) -> dict[str, str]:
        return {name: digest for name in (*CHECKED, *LARGE) if (digest := self.digest(name))}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the run, and leave no empty folder behind.

        Raises RunningElsewhere where another process works on the run, UserError where the folder cannot be written.
        """
        lock = Lock(self.path)
        try:
            owner = lock.acquire()
        except OSError as error:
            raise unwritable(lock.path, error) from error
        if owner:
            raise RunningElsewhere(str(self.path), f"is running elsewhere: {owner}", "wait for it, or stop it")
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
        """Write a file of the run, whole."""
        write_text(self.path / name, text)

    def write_scores(self, rows: Iterable[ScoreRow]) -> None:
        """Write scores.csv; `repr` keeps every bit of a score."""
        lines = ([row.path, row.kind, row.label, repr(float(row.score))] for row in rows)
        self.write_text("scores.csv", csv_text([["path", "kind", "label", "score"], *lines]))
        self.__dict__.pop("scores", None)

    def write_maps(self, maps: Sequence[np.ndarray] | np.ndarray, rounded: bool = False) -> None:
        """Write maps.npy: float32 [N, H, W], or float16 as `Rounding` says, which the manifest then holds."""
        file = self.path / "maps.npy"
        if not rounded:
            write_atomic(file, lambda opened: np.save(opened, np.asarray(maps, np.float32)))
            return
        from anomaly_bench.loading.anomaly_maps import write_rounded

        found: list[Rounding] = []
        write_atomic(file, lambda opened: found.append(write_rounded(opened, maps)))
        self.update(maps={"dtype": "float16", **found[0]._asdict()})

    def take_maps(self, file: Path) -> np.memmap:
        """Make a .npy file on the same disk, float32 [N, H, W], the run's maps.npy, and return it mapped."""
        with file.open("rb") as written:
            os.fsync(written.fileno())
        file.replace(self.path / "maps.npy")
        maps: np.memmap = np.load(self.path / "maps.npy", mmap_mode="r")
        return maps

    def write_metrics(self, metrics: dict[str, float]) -> None:
        """Write metrics.json; nan becomes null."""
        write_json(self.path / "metrics.json", metrics)


def find(outputs: Path | str) -> Iterator[RunFolder]:
    """Yield every run folder below `outputs`, sorted by path.  Raises UserError where the folder is missing."""
    outputs = Path(outputs)
    if not outputs.is_dir():
        raise UserError(str(outputs), "no such folder of runs", "the first `bench train` makes it")
    for manifest in sorted(outputs.glob(f"*/*/*/s*/{MANIFEST}")):
        yield RunFolder(manifest.parent)
