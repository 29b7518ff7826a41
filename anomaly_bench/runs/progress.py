"""How far a run is: `.progress.json` in its folder, written anew every few seconds while it trains and scores."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from anomaly_bench.console import age
from anomaly_bench.errors import UserError
from anomaly_bench.files import write_atomic

FILE = ".progress.json"
PAUSE = 2.0  # seconds between two writes


class Progress:
    """Writes how far a stage is.  Where that cannot be written the run goes on without it."""

    def __init__(self, folder: Path, stage: str) -> None:
        self.path, self.stage = folder / FILE, stage
        self.first: tuple[float, float] | None = None  # steps and time at the first call of this attempt
        self.written = -PAUSE

    def due(self) -> bool:
        """Whether the next call of `tell` writes; the first one always does."""
        return time.monotonic() - self.written >= PAUSE

    def tell(self, step: float, steps: float | None, **figures: Any) -> None:
        """Write the step that is done, of `steps` in all where that is known, and other figures, if it is time."""
        now = time.monotonic()
        self.first = self.first or (step, now)
        if not self.due():
            return
        taken, seconds = step - self.first[0], now - self.first[1]
        left = (steps - step) * seconds / taken if steps and taken > 0 else None
        known = {"stage": self.stage, **figures, "step": step, "steps": steps, "left": left, "at": time.time()}
        with suppress(UserError):
            write_atomic(self.path, lambda file: file.write(json.dumps(known).encode()), sync=False)
        self.written = now


def progress_line(folder: Path) -> str:
    """Return how far the run in a folder is, `template  epoch 3 of 20  step 41 of 300  loss 0.1234  2 min left`.

    The time is that to the end of the stage.  Empty where nothing is known; a file that is damaged is nothing.
    """
    try:
        known = json.loads((folder / FILE).read_bytes())
        totals = {name: known.get(f"{name}s") for name in ("epoch", "step") if name in known}
        counts = [f"{name} {known[name]:.0f}" + (f" of {total:.0f}" if total else "") for name, total in totals.items()]
        parts = [str(known["stage"]), *counts]
        parts += [f"loss {known['loss']:.4g}"] if "loss" in known else []
        if known["left"] is not None:
            parts.append(f"{age(known['left'] - (time.time() - known['at']))} left")
        return "  ".join(parts)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return ""
