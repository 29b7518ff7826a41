"""`bench data list | prepare | verify`."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

from anomaly_bench.datasets.prepare import prepare, show_all, verify
from anomaly_bench.errors import UserError
from anomaly_bench.loading.image_files import expand_user, is_folder

SCHEMES = ("https://", "http://", "ftp://", "file://")


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
    return verify(arguments.name, folder_of(arguments, "root"), arguments.keys.get("decode") == "true")


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
