"""Published figures with their sources, shown beside a run only where exactly its setting was published.

`published.csv`: `setting` is a condition on the method's configuration, `backbone=resnet18;teacher.images!=null`, empty
where the setting is unknown or cannot be expressed, as a crop: such a row applies to no run.  What a source leaves open
is not in the condition; `variant` then says so.  `category` is a name, or `mean` over all of the data set, or
`mean_textures`, `mean_objects`.  `kind` is `paper`, `paper baseline` (what a paper measured of the methods that it
compares itself with; some are in no `conf/method`), `authors' code` or `other implementation`.  `confidence` is `seen`
(read in the named source), `secondary` (another source repeats it), `unverified` (written down from memory) or
`doubtful` (likewise, and the values do not have the mean that the source states).  `chosen` is which epoch a figure is
of: `last`, `best-on-test`, `unknown`, or `none` for a method without epochs; `chosen_source` says where that is from.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from anomaly_bench.former_names import present_keys

TEXTURES = frozenset({"carpet", "grid", "leather", "tile", "wood"})  # of MVTec AD; the other ten are objects
BASELINE = "paper baseline"  # the kind of a figure
RANDOM = "random"  # weights that were drawn, not trained: no published setting
EPOCHS = {  # `chosen` -> words
    "last": "of the last epoch",
    "best-on-test": "of the epoch that was the best on the test images",
    "unknown": "of which epoch is unknown",
    "none": "",
}
CONDITION = re.compile(r"(?P<key>[\w.]+)(?P<sign>!?=)(?P<value>.*)")


@dataclass(frozen=True)
class Published:
    """One published figure."""

    method: str
    variant: str  # who measured what, in a few words
    setting: str  # key=value;key!=value, values as in JSON; empty: applies to no run
    dataset: str
    category: str
    metric: str
    value: float  # in [0, 1]
    kind: str
    confidence: str
    source: str
    std: float | None = None  # over seeds, where it was published
    seeds: int | None = None  # behind the value, where that was published
    chosen: str = "unknown"  # of EPOCHS
    chosen_source: str = ""

    @property
    def origin(self) -> str:
        """Where it was published, and of which epoch of the training it is."""
        source = f" ({self.chosen_source})" if self.chosen_source else ""
        return "; ".join(filter(None, [self.source, EPOCHS[self.chosen] + source]))

    def __str__(self) -> str:
        return f"{self.variant} ({self.confidence}): {self.origin}"


@cache
def figures() -> tuple[Published, ...]:
    """Return all published figures, the papers' own first."""
    text = files("anomaly_bench.results").joinpath("published.csv").read_text(encoding="utf-8")
    rows = [_figure(row) for row in csv.DictReader(text.splitlines())]
    return tuple(sorted(rows, key=lambda row: row.kind != "paper"))


def _figure(row: dict[str, str]) -> Published:
    numbers = {"value": float, "std": float, "seeds": int}
    values: dict[str, Any] = {key: numbers.get(key, str)(text) for key, text in row.items() if text or key == "setting"}
    return Published(**values)


def published(method: str, method_config: Mapping[str, Any], dataset: str, category: str) -> list[Published]:
    """Return the figures for exactly this setting, the paper's first; none where the setting differs."""
    wanted = (method, dataset, category)
    rows = [row for row in figures() if (row.method, row.dataset, row.category) == wanted]
    return [row for row in rows if applies(row.setting, method_config)]


def baselines(dataset: str, metric: str) -> dict[str, dict[str, Published]]:
    """Return what papers measured of the methods that they compare themselves with: variant -> category -> figure."""
    found: dict[str, dict[str, Published]] = {}
    for row in figures():
        if (row.kind, row.dataset, row.metric) == (BASELINE, dataset, metric):
            found.setdefault(row.variant, {})[row.category] = row
    return found


def categories(dataset: str) -> frozenset[str]:
    """Return the categories that a published `mean` is over; empty where no figure of a single category is known."""
    names = {row.category for row in figures() if row.dataset == dataset}
    return frozenset(name for name in names if not name.startswith("mean"))


def applies(setting: str, config: Mapping[str, Any]) -> bool:
    """Return whether a method's configuration meets every condition of `setting`; an empty one applies to nothing."""
    return bool(setting) and not differences(setting, config)


def differences(setting: str, config: Mapping[str, Any]) -> list[str]:
    """Return the conditions of `setting` that a configuration does not meet: `epochs=20 in place of 200`."""
    config = present_keys(config)
    found = [f"{key}={RANDOM}" for key in ("weights", "teacher.file") if config.get(key) == RANDOM]
    for condition in filter(None, setting.split(";")):
        if not (match := CONDITION.fullmatch(condition)):
            raise ValueError(f"published.csv: '{condition}' is no condition")
        key, negated, wanted = match["key"], match["sign"] == "!=", _value(match["value"])
        if _agree(key, given := config.get(key), wanted) == negated:
            found.append(f"{key}={_shown(given)}" + ("" if negated else f" in place of {_shown(wanted)}"))
    return found


def _agree(key: str, given: Any, wanted: Any) -> bool:
    if key == "backbone":  # resnet18 or resnet18.tv_in1k: the tag names the weights and counts where both have one
        (name, _, tag), (wanted_name, _, wanted_tag) = str(given).partition("."), wanted.partition(".")
        return name == wanted_name and (not tag or not wanted_tag or tag == wanted_tag)
    return bool((list(given) if isinstance(given, tuple) else given) == wanted)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str).replace(" ", "")
