"""All that this package uses of Hydra's private modules (Hydra 1.3), and why its public interface does not do.

- A loader over several folders, to ask for the choices of a group: `hydra.initialize` takes one folder.
- A run with keys for Hydra itself (`hydra.job.chdir=true`) from a configuration that was checked before, with an
  exception that reaches the caller: `hydra.main` reads sys.argv, prints the traceback and leaves.
- Values put into a configuration: a sweep composes hundreds that differ in a seed, and to load and join all files again
  for each costs 0.1 s.
- A launcher without its sweeper: the sweeps of this package leave out what is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl as Loader
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from hydra.version import setbase
from omegaconf import DictConfig

__all__ = ["Hydra", "Loader", "hydra_over", "launcher_of", "put_values", "run_with_hydra"]


@contextmanager
def hydra_over(folder: Path, extra: str | None) -> Iterator[Hydra]:
    """Hydra over a folder of configuration and, searched first, the folder `extra`; the Hydra around it is kept."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    setbase("1.3")
    try:
        path = create_config_search_path(str(folder))
        if extra:
            path.prepend("command-line", f"file://{Path(extra).resolve()}", "schema")  # as `hydra.main` does
        yield Hydra.create_main_hydra2("bench", path)
    finally:
        GlobalHydra.instance().hydra = outer


def run_with_hydra(hydra: Hydra, overrides: Sequence[str], task: Callable[[DictConfig], int]) -> int:
    """Return what `task` returns when Hydra runs it, and raise what it raises, of which Hydra would print a line."""

    def caught(cfg: DictConfig) -> int | Exception:
        try:
            return task(cfg)
        except Exception as error:
            return error

    returned = hydra.run("config", caught, list(overrides)).return_value
    if isinstance(returned, Exception):
        raise returned
    return int(returned)


def put_values(cfg: DictConfig, overrides: Sequence[Override]) -> None:
    """Replace, add and delete values of a configuration, as Hydra does it after it has joined the files."""
    Loader._apply_overrides_to_config(list(overrides), cfg)


def launcher_of(cfg: DictConfig, loader: Loader, task: Callable[[DictConfig], Any]) -> Launcher:
    """The launcher that a configuration chooses, ready to launch jobs that call `task`."""
    context = HydraContext(config_loader=loader, callbacks=Callbacks(cfg))
    launcher: Launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=cfg)
    return launcher
