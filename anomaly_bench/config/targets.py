"""The class that a `_target_` names: of this package, or of a file below a `--config-dir` of this command.

Importing a module runs it, so that where it lies is looked at before.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from importlib.machinery import PathFinder
from pathlib import Path

from anomaly_bench.errors import UserError, nearest
from anomaly_bench.former_names import present_class

PACKAGE = "anomaly_bench"
LOGGERS = "pytorch_lightning.loggers"
_folders: list[Path] = []  # given as --config-dir


def allow_folder(folder: Path | str) -> None:
    """Allow classes from files below this folder from now on.  Raises UserError where there is none."""
    place = Path(folder).resolve()
    if not place.is_dir():
        raise UserError("--config-dir", f"no such folder: {folder}")
    if place not in _folders:
        _folders.append(place)
    if str(place) not in sys.path:
        sys.path.append(str(place))  # at the end: nothing of a library is replaced


def config_folders() -> list[Path]:
    """Return the folders that were given as --config-dir."""
    return list(_folders)


def forget_folders() -> None:
    """Forget the folders and their modules: the next command in this process may have others."""
    for place in _folders:
        if str(place) in sys.path:
            sys.path.remove(str(place))
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", "")).startswith(f"{place}{os.sep}"):  # `place` is how they were found
                del sys.modules[name]
    _folders.clear()


def locate(where: str, target: str) -> type:
    """Return the class that a `_target_` names.  where: its key, such as `method._target_`.

    Raises UserError for what lies elsewhere, is not there, or is no Method, Dataset or Logger.
    """
    module, _, name = present_class(str(target)).rpartition(".")
    part = where.partition(".")[0]
    if not (module == LOGGERS if part == "logger" else is_allowed(module)):
        what = f"'{target}' is neither of {LOGGERS if part == 'logger' else PACKAGE} nor of a file below a --config-dir"
        raise UserError(where, what, "a class of your own lies in the folder that --config-dir names, beside method/")
    try:
        loaded = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever a module of the user's own does when it is imported
        what = f"'{target}' cannot be imported: {type(error).__name__}: {error}"
        raise UserError(where, what, raised_at(error)) from error
    found = getattr(loaded, name, None)
    bases = _bases(part)
    if not isinstance(found, type) or not issubclass(found, bases) or found in bases:
        names = [key for key, value in vars(loaded).items() if isinstance(value, type) and issubclass(value, bases)]
        names = [key for key in names if vars(loaded)[key] not in bases]
        hint = nearest(name, names) or (f"there: {', '.join(names)}" if names else "")
        raise UserError(where, f"'{target}' is no {' or '.join(b.__name__ for b in bases)}", hint)
    return found


def raised_at(error: BaseException) -> str:
    """Return FILE:LINE, where an exception came from a file below a `--config-dir`; else an empty string."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{f.filename}:{f.lineno}" for f in frames if any(map(Path(f.filename).is_relative_to, _folders))]
    return places[-1] if places else ""


def is_allowed(module: str) -> bool:
    """Return whether a module is of this package or lies below a folder of `--config-dir`.  Imports nothing."""
    top = module.partition(".")[0]
    if top == PACKAGE:
        return True
    spec = PathFinder.find_spec(top) if top else None  # what an import would find
    places = [spec.origin, *(spec.submodule_search_locations or [])] if spec else []
    known = sys.modules.get(top)
    places += [getattr(known, "__file__", None)] if known else []
    found = [Path(place).resolve() for place in places if place and place != "namespace"]
    return bool(found) and all(any(path.is_relative_to(folder) for folder in _folders) for path in found)


def _bases(part: str) -> tuple[type, ...]:
    if part == "logger":
        from pytorch_lightning.loggers import Logger

        return (Logger,)
    from anomaly_bench.records import Dataset

    if part == "dataset":  # which needs no torch
        return (Dataset,)
    from anomaly_bench.contracts import Method

    return (Method,) if part == "method" else (Method, Dataset)
