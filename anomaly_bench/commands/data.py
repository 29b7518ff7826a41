"""`bench data list | prepare | verify`: what is there, and what plain statistics of its images separate."""

from __future__ import annotations

import os
import warnings
from argparse import Namespace
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

from anomaly_bench import config
from anomaly_bench.config import OWN_FOLDER
from anomaly_bench.console import new_table, print_lines, warnings_in_lines
from anomaly_bench.datasets.folder import own_categories
from anomaly_bench.datasets.prepare import find_place, prepare, show_all, verify
from anomaly_bench.datasets.verify import inspect_own, show
from anomaly_bench.errors import UserError
from anomaly_bench.loading.image_files import expand_user, is_folder
from anomaly_bench.records import Dataset, Record
from anomaly_bench.runs.confounds import MEANS, file_statistics, separations, strongest

SCHEMES = ("https://", "http://", "ftp://", "file://")
SIZE = 256  # pixels of a side: as most methods see the images


def list_command(arguments: Namespace) -> int:
    """Run `bench data list`."""
    return show_all(folder_of(arguments, "root"))


def prepare_command(arguments: Namespace) -> int:
    """Run `bench data prepare NAME`."""
    root, urls = folder_of(arguments, "root"), arguments.keys.get("urls")
    if arguments.name == "demo" and urls:
        raise UserError("urls", "the images of demo are drawn, not downloaded", "leave it out")
    return prepare(arguments.name, root, _addresses(urls) if urls else None)


def verify_command(arguments: Namespace) -> int:
    """Run `bench data verify NAME`: 1 where something is not in order."""
    root = folder_of(arguments, "root")
    decode = arguments.keys.get("decode") == "true"
    code = verify_own(root, decode) if arguments.name == OWN_FOLDER else verify(arguments.name, root, decode)
    return max(code, show_confounds(arguments.name, root))


def verify_own(root: str | None, decode: bool) -> int:
    """Count and check the images of each category of a folder of the user's own; return 1 where one is of no use."""
    with warnings_in_lines():
        rows = inspect_own(root, decode)
    show(OWN_FOLDER, Path(str(root)), rows)
    return int(any(row.problems for row in rows))


def show_confounds(name: str, root: str | None) -> int:
    """Print how well plain statistics of the test images separate the classes, for each category that is here.

    Returns 1 where a test image cannot be read, else 0.
    """
    table = new_table(("", *MEANS), "l" + "r" * len(MEANS))
    known: dict[str, tuple[float, ...]] = {}  # one-class sets have the same test images in each category
    lines, code = [], 0
    for category, records in images_by_category(name, root):
        where, labels = "/".join(dict.fromkeys((name, category))), [record.label for record in records]
        try:
            new = [record for record in records if record.path not in known]
            known |= {record.path: row for record, row in zip(new, file_statistics(new, SIZE), strict=True)}
        except UserError as error:
            lines.append(str(error))
            code = 1
            continue
        if found := separations([known[record.path] for record in records], labels):
            table.add_row(category, *(f"{auroc:.3f}" for auroc in found.values()))
            confound = strongest(found, labels.count(0), labels.count(1))
            lines += [f"{where}: {confound}"] if confound else []
    if table.row_count:
        side = f"files at {SIZE} x {SIZE} pixels, as in a run with that image_size"
        print_lines(f"AUROC of plain statistics of the test images ({side}); below 0.5: normal images have more of it")
        Console(markup=False).print(table, highlight=False)
    print_lines(*lines)
    return code


def images_by_category(name: str, root: str | None) -> Iterator[tuple[str, list[Record]]]:
    """Yield each category that can be used, with its test images; a set without categories is its own."""
    if name == OWN_FOLDER:
        yield from _own_images(root)
        return
    with config.hydra_context() as loader:
        categories = config.options(loader, f"dataset/{name}") or [name]
    place = find_place(name, root)
    for category in categories:
        if name == "demo" and not (place and is_folder(place / category)):  # it would be drawn
            continue
        choice = "/".join(dict.fromkeys((name, category)))
        values: Any = OmegaConf.to_container(OmegaConf.load(config.conf_dir() / "dataset" / f"{choice}.yaml"))
        records: list[Record] = []
        with warnings.catch_warnings(), suppress(UserError):  # `verify` has told
            warnings.simplefilter("ignore")
            dataset: Dataset = config.build("dataset", {**values, "root": root})
            records = dataset.records("test")
        if records:
            yield category, records


def _own_images(root: str | None) -> Iterator[tuple[str, list[Record]]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `verify_own` has warned
        datasets = list(own_categories(root))
        for category, dataset in datasets:
            with suppress(UserError):
                yield category, dataset.records("test")


def folder_of(arguments: Namespace, key: str) -> str | None:
    """Return the folder that a key names, which need not be there yet.  Raises UserError where a file is in its way."""
    if (name := arguments.keys.get(key)) is None:
        return None
    folder = expand_user(name)
    nearest = next(path for path in (folder, *folder.parents, Path()) if os.path.lexists(path))
    if not is_folder(nearest):
        raise UserError(key, f"{nearest} is no folder", f"another folder: {key}=DIR")
    return str(name)


def _addresses(text: str) -> list[str]:
    """`a` or `[a,b]` -> the addresses."""
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    addresses = [address.strip() for address in inner.split(",")]
    for address in addresses:
        if not address.startswith(SCHEMES):
            allowed = f"allowed: what begins with {', '.join(SCHEMES)}; of several [ADDRESS,ADDRESS]"
            raise UserError("urls", f"'{address}' is no address; {allowed}")
    return addresses
