"""`bench data list | prepare | verify | cache`: the words, and who carries them out."""

from __future__ import annotations

import os
from pathlib import Path

from anomaly_bench.commands.cache import cache_command
from anomaly_bench.datasets.prepare import NAMES, prepare, show_all, verify
from anomaly_bench.errors import UserError, none_of
from anomaly_bench.loading.image_files import is_folder, typed

OPTIONS = {
    **{"list": ("root",), "prepare": ("root", "urls"), "verify": ("root", "decode")},
    "cache": ("cache_dir", "root", "older"),
}
SCHEMES = ("https://", "http://", "ftp://", "file://")
USAGE = "bench data list | prepare NAME [root=DIR] [urls=[...]] | verify NAME [root=DIR] [decode=true] | cache [clear]"


def data_command(words: list[str]) -> int:
    """Run `bench data WORDS`: 0, or 1 when something that is there is not in order.  Raises UserError for misuse."""
    names = [word for word in words if "=" not in word]
    verb = names.pop(0) if names else ""
    if verb not in OPTIONS:
        raise none_of("bench data", verb, OPTIONS) if verb else UserError("bench data", "says what to do", USAGE)
    options = _options(verb, [word for word in words if "=" in word])
    if verb == "cache":
        return cache_command(names, options)
    if verb == "list":
        if names:
            raise UserError("bench data list", f"takes no name, '{names[0]}' given", USAGE)
        return show_all(options.get("root"))
    if len(names) != 1:
        raise UserError(f"bench data {verb}", f"takes one name of {', '.join(NAMES)}", USAGE)
    if names[0] not in NAMES:
        raise none_of(f"bench data {verb}", names[0], NAMES)
    if verb == "verify":
        return verify(names[0], options.get("root"), options.get("decode") == "true")
    if names[0] == "demo" and "urls" in options:
        raise UserError("urls", "the images of demo are drawn, not downloaded", "leave it out")
    return prepare(names[0], options.get("root"), _urls(options["urls"]) if "urls" in options else None)


def _options(verb: str, words: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for key, _, value in (word.partition("=") for word in words):
        if key not in OPTIONS[verb]:
            raise none_of(f"bench data {verb}", key, OPTIONS[verb])
        if key in options or not value:
            raise UserError(key, "is given twice" if value else "is given without a value", USAGE)
        options[key] = value
    if options.get("decode", "true") not in ("true", "false"):
        raise none_of("decode", options["decode"], ("true", "false"))
    for key in {"root", "cache_dir"} & options.keys():
        root = typed(options[key])
        nearest = next(path for path in (root, *root.parents, Path()) if os.path.lexists(path))
        if not is_folder(nearest):
            raise UserError(key, f"{nearest} is no folder", f"another folder: {key}=DIR")
    return options


def _urls(text: str) -> list[str]:
    """`a` or `[a,b]` -> the addresses."""
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    urls = [url.strip() for url in inner.split(",")]
    for url in urls:
        if not url.startswith(SCHEMES):
            allowed = f"allowed: what begins with {', '.join(SCHEMES)}; of several [ADDRESS,ADDRESS]"
            raise UserError("urls", f"'{url}' is no address; {allowed}")
    return urls
