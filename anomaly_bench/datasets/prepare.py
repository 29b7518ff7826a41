"""Find known data sets on this machine, download and unpack them, check them.  Imports no torch."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from anomaly_bench.config import conf_dir
from anomaly_bench.console import print_lines
from anomaly_bench.datasets.demo import demo_root
from anomaly_bench.datasets.download import download, extract
from anomaly_bench.datasets.one_class import CATEGORIES, find_folder
from anomaly_bench.datasets.verify import Counts, Row, inspect, inspect_arrays, show
from anomaly_bench.errors import UserError
from anomaly_bench.files import new_folder, sha256_of
from anomaly_bench.loading.image_files import data_folders, is_folder, subfolders

NAMES = ("demo", "mtd", "mvtec", "mvtec_ad2", "mvtec_loco", "visa", "btad", "mpdd", "ksdd2", "autovi", *CATEGORIES)


def _counts(name: str) -> Counts:
    if name != "demo":
        counts: Counts = _source(name)["counts"]
        return counts
    from anomaly_bench.datasets.textures import CATEGORIES, EACH, GOOD, KINDS, TRAIN  # scikit-image only where needed

    return {category: {"train": TRAIN, "good": GOOD, "defective": EACH * KINDS} for category in CATEGORIES}


def _source(name: str) -> dict[str, Any]:
    """Return conf/download/<name>.yaml: counts, licence, page, urls, and size and sha256 of an archive, or several
    `files`."""
    source: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "download" / f"{name}.yaml"))
    return source


def _places(name: str, root: str | None) -> list[Path]:
    if name != "demo":
        return data_folders(root, name)
    from anomaly_bench.datasets.textures import generated

    return [generated(demo_root(root), seed=0)]


def find_place(name: str, root: str | None) -> Path | None:
    """Return the first place that holds a category, or a file of a one-class set."""
    if name in CATEGORIES:
        return find_folder(name, root)
    held = (place for place in _places(name, root) if any(is_folder(place / category) for category in _counts(name)))
    return next(held, None)


def _inspect(name: str, place: Path, check: bool, decode: bool) -> list[Row]:
    if name in CATEGORIES:
        return inspect_arrays(name, place, _counts(name))
    return inspect(name, place, _counts(name), check, decode)


def show_all(root: str | None) -> int:
    """Print of each data set where it is, or where it was looked for.  Returns 0."""
    for name in NAMES:
        place = find_place(name, root)
        if place is None:
            looked = " or ".join(map(str, _places(name, root)))
            print_lines(f"{name}: not in {looked}; bench data prepare {name}")
        else:
            show(name, place, _inspect(name, place, check=False, decode=False))
    return 0


def verify(name: str, root: str | None, decode: bool) -> int:
    """Compare what is there with what should be.  Returns 0, or 1 where something is not in order.

    decode: read every image too.  Raises UserError where nothing of it is there.
    """
    place = find_place(name, root)
    if place is None:
        looked = " or ".join(map(str, _places(name, root)))
        others = [other for place in _places(name, root) for other in _sets_in(place)]
        hint = f"what is there looks like {others[0]}" if others else f"bench data prepare {name}"
        raise UserError("root", f"nothing of {name} in {looked}", hint)
    rows = _inspect(name, place, check=True, decode=decode)
    show(name, place, rows)
    return 0 if _in_order(name, rows) else 1


def _in_order(name: str, rows: list[Row]) -> bool:
    """Return whether runs can use it: whole categories where a set has some, else everything of it."""
    apart = name not in CATEGORIES and (conf_dir() / "dataset" / name).is_dir()
    return all(row.status == "ok" or (row.status == "missing" and apart) for row in rows)


def _sets_in(folder: Path) -> list[str]:
    """Return the data sets that a folder looks like: it holds most of their folders, of which there are several."""
    there = set(subfolders(folder)) if is_folder(folder) else set()
    known = {name: set(_counts(name)) for name in NAMES if name != "demo" and name not in CATEGORIES}
    return [name for name, parts in known.items() if len(parts) > 2 and len(parts & there) > len(parts) / 2]


def prepare(name: str, root: str | None, urls: list[str] | None) -> int:
    """Download a data set to where runs look for it, and verify it.  urls: in place of those in conf/download."""
    try:
        if name == "demo":
            from anomaly_bench.datasets.textures import CATEGORIES, generate

            for category in CATEGORIES:
                generate(demo_root(root), category, seed=0)
        else:
            print_lines(*_about(name))
            if place := find_place(name, root):
                print_lines(f"{name} is in {place} already; delete that folder to fetch it again")
            else:
                _fetch(name, root, urls)
    except OSError as error:
        raise UserError("root", f"cannot be written: {error}", "another folder: root=DIR") from error
    return verify(name, root, decode=False)


def _about(name: str) -> list[str]:
    """Return the line on a data set's licence and page, where they are known."""
    source = _source(name)
    parts = [f"licence {source['licence']}"] if source.get("licence") else []
    parts += [source["page"]] if source.get("page") else []
    return [f"{name}: {'; '.join(parts)}"] if parts else []


def _fetch(name: str, root: str | None, urls: list[str] | None) -> None:
    """Download a data set, unpack it beside its place, check the counts and rename it."""
    source = _source(name)
    candidates = data_folders(root, name)
    target = candidates[1] if root and candidates[0].name != name else candidates[0]
    if target.exists() and any(target.iterdir()):
        raise UserError("root", f"{target} is there and holds nothing of {name}", "another folder: root=DIR")
    urls = source["urls"] if urls is None else urls
    if not urls and source.get("page"):
        what = f"{name} cannot be downloaded from here: get it at {source['page']} and unpack it to {target}"
        holds = f"it then holds {', '.join(source['counts'])}"
        raise UserError("urls", f"{what}, or name the archive: urls=file:///ARCHIVE", holds)
    fetch = _fetch_files if "files" in source else _fetch_archive
    fetch(name, target, urls, source)


def _fetch_archive(name: str, target: Path, urls: list[str], source: dict[str, Any]) -> None:
    archive = target.with_name(f"{name}.archive")
    if not archive.exists():
        download(urls, archive, source["size"], source["sha256"])
    with new_folder(target) as folder:
        extract(archive, folder, source.get("unpacked"))
        _unwrap(archive, folder, source["counts"])
        _check(name, folder, archive)
    archive.unlink()


def _fetch_files(name: str, target: Path, urls: list[str], source: dict[str, Any]) -> None:
    """Fetch files that are all below each of `urls`; those that have arrived stay for the next try."""
    part = target.with_name(f"{name}.part")
    for file, checksum in source["files"].items():
        path, unpacked = part / file, part / f"{file}.unpacked"
        if unpacked.exists():
            continue
        if not path.exists():
            download([f"{url.rstrip('/')}/{file}" for url in urls], path, None, None)
        kind = "MD5" if len(checksum) == 32 else "SHA-256"
        if (found := _checksum(path, kind)) != checksum:
            path.unlink()
            raise UserError(
                str(path), f"is another file: {kind} {found}, expected {checksum}", "other addresses: urls=[...]"
            )
        if file.endswith((".tar.gz", ".zip")):
            _unpack_into(part, path, source.get("unpacked"))
            unpacked.touch()
            path.unlink()
    _check(name, (find_folder(name, str(part)) if name in CATEGORIES else None) or part, part)
    for mark in part.glob("*.unpacked"):
        mark.unlink()
    shutil.rmtree(target, ignore_errors=True)  # empty
    part.replace(target)


def _checksum(path: Path, kind: str) -> str:
    if kind == "SHA-256":
        return sha256_of(path)
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _unpack_into(folder: Path, archive: Path, limit: int | None) -> None:
    """Add to a folder what an archive holds, all of it or nothing."""
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as scratch:
        extract(archive, Path(scratch) / "all", limit)
        for item in (Path(scratch) / "all").iterdir():
            shutil.rmtree(folder / item.name, ignore_errors=True)  # of an attempt that was killed
            item.replace(folder / item.name)


def _check(name: str, folder: Path, origin: Path) -> None:
    rows = _inspect(name, folder, check=True, decode=False)
    if any(row.status != "ok" for row in rows):
        show(name, folder, rows)
        raise UserError(str(origin), "its content is not what was expected", "delete it, or give other urls=[...]")


def _unwrap(archive: Path, folder: Path, counts: Counts) -> None:
    """Let `folder` itself hold the categories, where the archive wraps them in further folders."""
    content = folder
    while not any((content / category).is_dir() for category in counts):
        inner = [name for name in subfolders(content) if name != "__MACOSX"]
        if len(inner) != 1:
            looks = "".join(f"looks like {other}" for other in _sets_in(content)[:1])
            raise UserError(str(archive), f"holds none of {', '.join(counts)}", looks)
        content = content / inner[0]
    if content != folder:
        unwrapped = content.rename(folder.with_name(f"{folder.name}.unwrapped"))
        shutil.rmtree(folder)
        unwrapped.rename(folder)
