"""`bench data list | prepare NAME | verify NAME | cache`: what is there, bring it here, check it.  Imports no torch."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

from anomaly_bench.config import conf_dir
from anomaly_bench.datasets.download import download, extract
from anomaly_bench.datasets.one_class import CATEGORIES, find_folder
from anomaly_bench.datasets.verify import Counts, Row, inspect, inspect_arrays, show
from anomaly_bench.errors import UserError
from anomaly_bench.loading.image_files import is_folder, places, subfolders
from anomaly_bench.paths import cache_root

NAMES = ("demo", "mtd", "mvtec", *CATEGORIES)
OLD = 86400  # seconds: nothing takes so long to unpack


def _counts(name: str) -> Counts:
    if name != "demo":
        counts: Counts = _source(name)["counts"]
        return counts
    from anomaly_bench.datasets.textures import EACH, GOOD, PAINTERS, TEXTURES, TRAIN  # scikit-image only where needed

    return {texture: {"train": TRAIN, "good": GOOD, "defective": EACH * len(PAINTERS)} for texture in TEXTURES}


def _source(name: str) -> dict[str, Any]:
    """conf/download/<name>.yaml: urls, counts, and of one archive size and sha256, of several files `files`."""
    source: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "download" / f"{name}.yaml"))
    return source


def _places(name: str, root: str | None) -> list[Path]:
    if name != "demo":
        return places(root, name)
    from anomaly_bench.datasets.textures import generated

    return [generated(Path(root).expanduser() if root else cache_root() / "demo", seed=0)]


def _find(name: str, root: str | None) -> Path | None:
    """The first place that holds a category, or a file of a one-class set."""
    if name in CATEGORIES:
        return find_folder(name, root)
    held = (place for place in _places(name, root) if any(is_folder(place / category) for category in _counts(name)))
    return next(held, None)


def _inspect(name: str, place: Path, check: bool, decode: bool) -> list[Row]:
    if name in CATEGORIES:
        return inspect_arrays(name, place, _counts(name))
    return inspect(place, _counts(name), check, decode)


def show_all(root: str | None) -> int:
    """Say of each data set where it is, or where it was looked for.  0."""
    for name in NAMES:
        place = _find(name, root)
        if place is None:
            looked = " or ".join(map(str, _places(name, root)))
            Console().print(f"{name}: not in {looked}; bench data prepare {name}", highlight=False, soft_wrap=True)
        else:
            show(name, place, _inspect(name, place, check=False, decode=False))
    return 0


def verify(name: str, root: str | None, decode: bool) -> int:
    """Compare what is there with what should be; 0, or 1 where something is not in order.

    decode: read every image too.  Raises UserError where nothing of it is there.
    """
    place = _find(name, root)
    if place is None:
        looked = " or ".join(map(str, _places(name, root)))
        raise UserError("root", f"nothing of {name} in {looked}", f"bench data prepare {name}")
    rows = _inspect(name, place, check=True, decode=decode)
    show(name, place, rows)
    return 0 if _in_order(name, rows) else 1


def _in_order(name: str, rows: list[Row]) -> bool:
    """Categories of MVTec and textures can be used one by one; of the other sets everything is needed."""
    return all(row.status == "ok" or (row.status == "missing" and name in ("demo", "mvtec")) for row in rows)


def prepare(name: str, root: str | None, urls: list[str] | None) -> int:
    """Bring a data set to where runs look for it, and verify it.  urls: in place of those in conf/download."""
    try:
        if name == "demo":
            from anomaly_bench.datasets.textures import TEXTURES, generate

            for texture in TEXTURES:
                generate(Path(root).expanduser() if root else cache_root() / "demo", texture, seed=0)
        elif place := _find(name, root):
            Console().print(f"{name} is in {place} already; delete that folder to fetch it again", soft_wrap=True)
        else:
            _fetch(name, root, urls)
    except OSError as error:
        raise UserError("root", f"cannot be written: {error}", "another folder: root=DIR") from error
    return verify(name, root, decode=False)


def _fetch(name: str, root: str | None, urls: list[str] | None) -> None:
    """Download, unpack beside the place where it belongs, check the counts, rename."""
    source = _source(name)
    candidates = places(root, name)
    target = candidates[1] if root and candidates[0].name != name else candidates[0]
    if target.exists() and any(target.iterdir()):
        raise UserError("root", f"{target} is there and holds nothing of {name}", "another folder: root=DIR")
    urls = source["urls"] if urls is None else urls
    fetch = _fetch_files if "files" in source else _fetch_archive
    fetch(name, target, urls, source)


def _fetch_archive(name: str, target: Path, urls: list[str], source: dict[str, Any]) -> None:
    archive = target.with_name(f"{name}.archive")
    if not archive.exists():
        download(urls, archive, source["size"], source["sha256"])
    for left in target.parent.glob(f".{name}-*"):  # by a process that was killed while it unpacked
        if time.time() - left.stat().st_mtime > OLD:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as part:
        folder = Path(part) / name  # the folder `part` itself is closed to other users
        extract(archive, folder, source.get("unpacked"))
        folder = _content(archive, folder, source["counts"])
        _check(name, folder, archive)
        shutil.rmtree(target, ignore_errors=True)  # empty
        folder.replace(target)
    archive.unlink()


def _fetch_files(name: str, target: Path, urls: list[str], source: dict[str, Any]) -> None:
    """As `_fetch_archive`, for files that all lie in each of `urls`; what has arrived is kept for the next try."""
    part = target.with_name(f"{name}.part")
    for file, md5 in source["files"].items():
        path = part / file
        if not path.exists():
            download([f"{url.rstrip('/')}/{file}" for url in urls], path, None, None)
        if (found := hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()) != md5:
            path.unlink()
            raise UserError(str(path), f"is another file: MD5 {found}, expected {md5}", "other addresses: urls=[...]")
        if file.endswith(".tar.gz"):
            _unpack_into(part, path, source.get("unpacked"))
            path.unlink()
    _check(name, find_folder(name, str(part)) or part, part)
    shutil.rmtree(target, ignore_errors=True)  # empty
    part.replace(target)


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


def _content(archive: Path, folder: Path, counts: Counts) -> Path:
    """The folder that holds the categories: an archive may wrap them in another one."""
    while not any((folder / category).is_dir() for category in counts):
        inner = subfolders(folder)
        if len(inner) != 1:
            raise UserError(str(archive), f"holds none of {', '.join(counts)}")
        folder = folder / inner[0]
    return folder
