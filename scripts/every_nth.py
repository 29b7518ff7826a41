"""A list of every nth image of a data set: python scripts/every_nth.py mtd 5 OUT.csv

It prints how it is used; the images stay where they are.  Each kind of image of each split is thinned by itself, from
its first image on.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

from anomaly_bench import config
from anomaly_bench.records import Record
from anomaly_bench.runs.find import find_data


@cache
def write_list(dataset: str, step: int, file: Path) -> list[str]:
    """Write every `step`-th image of a data set of files, whose name may be followed by `/category`, to a list.

    Return the overrides of a run on it.
    """
    data = find_data(config.validate(config.compose(["method=brightness", f"dataset={dataset}"])))
    kinds: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for split, records in (("train", data.train), ("test", data.test)):
        for record in records:
            kinds[split, record.kind].append(record)
    first = data.train[0]
    root = Path(str(first.image).removesuffix(first.path)).resolve()
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(("path", "split", "kind", "mask"))
        for (split, kind), records in kinds.items():
            for record in records[::step]:
                masks = (each.resolve().relative_to(root).as_posix() for each in record.mask_files)
                writer.writerow((record.path, split, kind, ";".join(masks)))
    name = f"{dataset.replace('/', '_')}_{step}"
    return ["dataset=csv", f"dataset.file={file.resolve()}", f"dataset.root={root}", f"dataset.name={name}"]


if __name__ == "__main__":
    print(*write_list(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
