"""`bench data list | prepare NAME | verify NAME`: what is there, bring it here, check it.  Imports no torch."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

from anomaly_bench.config import conf_dir
from anomaly_bench.data.archive import download, extract
from anomaly_bench.data.files import cache_root, places, subfolders
from anomaly_bench.data.verify import Counts, Row, inspect, show
from anomaly_bench.errors import UserError, none_of

NAMES = ("demo", "mtd", "mvtec")
OPTIONS = {"list": ("root",), "prepare": ("root", "urls"), "verify": ("root", "decode")}
USAGE = "bench data list | prepare NAME [root=DIR] [urls=[...]] | verify NAME [root=DIR] [decode=true]"


def data_command(words: list[str]) -> int:
    """Run `bench data WORDS`: 0, or 1 when something that is there is not in order.  Raises UserError for misuse."""
    names = [word for word in words if "=" not in word]
    verb = names.pop(0) if names else ""
    if verb not in OPTIONS:
        raise none_of("bench data", verb, OPTIONS) if verb else UserError("bench data", "says what to do", USAGE)
    options = _options(verb, [word for word in words if "=" in word])
    if verb == "list":
        if names:
            raise UserError("bench data list", f"takes no name, '{names[0]}' given", USAGE)
        return _list(options.get("root"))
    if len(names) != 1:
        raise UserError(f"bench data {verb}", f"takes one name of {', '.join(NAMES)}", USAGE)
    if names[0] not in NAMES:
        raise none_of(f"bench data {verb}", names[0], NAMES)
    if verb == "verify":
        return _verify(names[0], options.get("root"), options.get("decode") == "true")
    return _prepare(names[0], options.get("root"), options.get("urls"))


def _options(verb: str, words: list[str]) -> dict[str, str]:
    options = {key: value for key, _, value in (word.partition("=") for word in words)}
    for key in options:
        if key not in OPTIONS[verb]:
            raise none_of(f"bench data {verb}", key, OPTIONS[verb])
    if options.get("decode", "true") not in ("true", "false"):
        raise none_of("decode", options["decode"], ("true", "false"))
    return options


def _counts(name: str) -> Counts:
    if name != "demo":
        counts: Counts = _source(name)["counts"]
        return counts
    from anomaly_bench.data.textures import EACH, GOOD, PAINTERS, TEXTURES, TRAIN  # scikit-image only where needed

    return {texture: {"train": TRAIN, "good": GOOD, "defective": EACH * len(PAINTERS)} for texture in TEXTURES}


def _source(name: str) -> dict[str, Any]:
    """conf/download/<name>.yaml: urls, size, sha256, counts."""
    source: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "download" / f"{name}.yaml"))
    return source


def _places(name: str, root: str | None) -> list[Path]:
    if name != "demo":
        return places(root, name)
    from anomaly_bench.data.textures import generated

    return [generated(Path(root).expanduser() if root else cache_root() / "demo", seed=0)]


def _find(name: str, root: str | None) -> Path | None:
    """The first place that holds a category."""
    held = (place for place in _places(name, root) if any((place / category).is_dir() for category in _counts(name)))
    return next(held, None)


def _list(root: str | None) -> int:
    for name in NAMES:
        place = _find(name, root)
        if place is None:
            looked = " or ".join(map(str, _places(name, root)))
            Console().print(f"{name}: not in {looked}; bench data prepare {name}", highlight=False, soft_wrap=True)
        else:
            show(name, place, inspect(place, _counts(name), check=False, decode=False))
    return 0


def _verify(name: str, root: str | None, decode: bool) -> int:
    place = _find(name, root)
    if place is None:
        looked = " or ".join(map(str, _places(name, root)))
        raise UserError("root", f"nothing of {name} in {looked}", f"bench data prepare {name}")
    rows = inspect(place, _counts(name), check=True, decode=decode)
    show(name, place, rows)
    return 0 if _in_order(name, rows) else 1


def _in_order(name: str, rows: list[Row]) -> bool:
    """Categories of MVTec can be used one by one; of MTD all folders are needed."""
    return all(row.status == "ok" or (row.status == "missing" and name != "mtd") for row in rows)


def _prepare(name: str, root: str | None, urls: str | None) -> int:
    try:
        if name == "demo":
            from anomaly_bench.data.textures import TEXTURES, generate

            for texture in TEXTURES:
                generate(Path(root).expanduser() if root else cache_root() / "demo", texture, seed=0)
        elif place := _find(name, root):
            Console().print(f"{name} is in {place} already; delete that folder to fetch it again", soft_wrap=True)
        else:
            _fetch(name, root, [url.strip() for url in urls.strip("[]").split(",")] if urls else None)
    except OSError as error:
        raise UserError("root", f"cannot be written: {error}", "another folder: root=DIR") from error
    return _verify(name, root, decode=False)


def _fetch(name: str, root: str | None, urls: list[str] | None) -> None:
    """Download, unpack beside the place where it belongs, check the counts, rename."""
    source = _source(name)
    candidates = places(root, name)
    target = candidates[1] if root and candidates[0].name != name else candidates[0]
    if target.exists() and any(target.iterdir()):
        raise UserError("root", f"{target} is there and holds nothing of {name}", "another folder: root=DIR")
    archive = target.with_name(f"{name}.archive")
    if not archive.exists():
        download(source["urls"] if urls is None else urls, archive, source["size"], source["sha256"])
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as part:
        folder = Path(part) / name  # the folder `part` itself is closed to other users
        extract(archive, folder)
        folder = _content(archive, folder, source["counts"])
        rows = inspect(folder, source["counts"], check=True, decode=False)
        if any(row.status != "ok" for row in rows):
            show(name, folder, rows)
            raise UserError(str(archive), "its content is not what was expected", "delete it, or give other urls=[...]")
        shutil.rmtree(target, ignore_errors=True)  # empty
        folder.replace(target)
    archive.unlink()


def _content(archive: Path, folder: Path, counts: Counts) -> Path:
    """The folder that holds the categories: an archive may wrap them in another one."""
    while not any((folder / category).is_dir() for category in counts):
        inner = subfolders(folder)
        if len(inner) != 1:
            raise UserError(str(archive), f"holds none of {', '.join(counts)}")
        folder = folder / inner[0]
    return folder
