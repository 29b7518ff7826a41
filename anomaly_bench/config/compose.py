"""From the command line's words to a configuration; a name that is not known is a mistake with its nearest match."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten
from typing import Any

from hydra import compose as hydra_compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.version import setbase
from omegaconf import DictConfig, OmegaConf, open_dict

from anomaly_bench.config.targets import allow_folder
from anomaly_bench.config.yaml_files import damaged_yaml
from anomaly_bench.errors import Mistakes, UserError, nearest, none_of

# Hydra's word on a file that bears the name of a plugin's own configuration, on purpose.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/ray' is validated against ConfigStore schema")
NOT_GIVEN = "not given"
PLUGINS = {"ray": "hydra_ray_launcher", "slurm": "hydra_submitit_launcher"}  # of Hydra's launchers, each an extra


def conf_dir() -> Path:
    """$BENCH_CONF, else the checkout's conf/, else the copy inside the installed package."""
    if given := os.environ.get("BENCH_CONF"):
        if not (Path(given) / "config.yaml").is_file():
            raise UserError("BENCH_CONF", f"no config.yaml in {given}")
        return Path(given).resolve()
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / "conf"
    return checkout if (checkout / "config.yaml").is_file() else package / "conf"


@contextmanager
def hydra_context(extra: str | None = None) -> Iterator[ConfigLoaderImpl]:
    """Hydra's loader over `conf_dir` and the folder `extra`; an enclosing Hydra application is left as it was."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    setbase("1.3")
    try:
        path = create_config_search_path(str(conf_dir()))
        if extra:
            allow_folder(extra)
            path.prepend("command-line", f"file://{Path(extra).resolve()}", "schema")  # as Hydra does
        yield Hydra.create_main_hydra2("bench", path).config_loader  # type: ignore[misc]
    finally:
        GlobalHydra.instance().hydra = outer


def compose(overrides: Iterable[str], extra: str | None = None) -> DictConfig:
    """One configuration.  Raises Mistakes for unknown groups, options and keys, all of them at once."""
    with hydra_context(extra) as loader:
        cfg, mistakes = try_compose(loader, list(overrides))
    if mistakes:
        raise Mistakes(mistakes)
    return cfg


def compose_known(loader: ConfigLoaderImpl, overrides: Iterable[str], strict: bool = False) -> DictConfig:
    """A configuration that may lack a method or a data set.  Unknown names are left out; `strict` raises Mistakes."""
    cfg, mistakes = try_compose(loader, list(overrides))
    wrong = [m for m in mistakes if m.what != NOT_GIVEN]
    if strict and wrong:
        raise Mistakes(wrong)
    return cfg


def split_config_dir(words: Iterable[str]) -> tuple[str | None, list[str]]:
    """The folder of `--config-dir DIR` or `--config-dir=DIR`, and the other words.  Raises UserError without a DIR."""
    folder, rest, left = None, [], iter(words)
    for word in left:
        option, equals, value = word.partition("=")
        if option != "--config-dir":
            rest.append(word)
        elif not (folder := value if equals else next(left, "")):
            raise UserError("--config-dir", "names no folder", "--config-dir DIR")
    return folder, rest


def parse(overrides: list[str], loader: ConfigLoaderImpl | None = None) -> list[Override]:
    """loader: knows what a glob() stands for."""
    parsed: list[Override] = []
    errors: list[UserError] = []
    for text in overrides:
        try:
            parsed += _parsed(text, loader)
            if not parsed[-1].key_or_group:
                raise HydraException("it has no key")
        except HydraException as error:  # noqa: PERF203  each word's mistake counts
            what = f"not of the form key=value: {str(error).splitlines()[0]}"
            errors.append(UserError(text or "''", what, "quote special characters"))
    if errors:
        raise Mistakes(errors)
    return parsed


@lru_cache(maxsize=4096)  # the runs of a sweep share most of their overrides
def _parsed(text: str, loader: ConfigLoaderImpl | None) -> list[Override]:
    return OverridesParser.create(loader).parse_overrides([text])


def try_compose(
    loader: ConfigLoaderImpl, overrides: list[str], seen: dict[tuple[str, ...], DictConfig] | None = None
) -> tuple[DictConfig, list[UserError]]:
    """The configuration from those overrides that name something, and a mistake for each that does not.

    seen: what the choices alone gave; the runs of a sweep have many of them in common.
    """
    chosen, mistakes, values = [], [], []
    for o in parse(overrides):
        group = o.key_or_group
        if loader.repository.group_exists(group) and not o.is_delete():
            wrong = _unknown_option(loader, group, o.value())
            mistakes += [wrong] if wrong else []
            chosen += [] if wrong else [str(o.input_line)]
        elif group in ("method", "dataset", "hardware"):
            mistakes.append(UserError(str(o.input_line), "no run can do without", f"{group}=NAME"))
        else:
            values.append(o)
    given = {text.lstrip("+").split("=")[0].split("@")[0] for text in chosen}
    wrong_groups = {m.where for m in mistakes}
    mistakes += [
        UserError(group, NOT_GIVEN, f"{group}=NAME with one of {', '.join(options(loader, group))}")
        for group in ("method", "dataset")
        if group not in given | wrong_groups and "experiment" not in given
    ]
    chosen += [f"~{group}" for group in ("method", "dataset") if group not in given and "experiment" not in given]
    wrong_groups |= {m.where for m in mistakes}
    try:
        hydra = any(o.key_or_group.startswith("hydra.") for o in values)
        seen, key = {} if seen is None else seen, (*chosen, str(hydra))
        if key not in seen:
            seen[key] = hydra_compose("config", overrides=chosen, return_hydra_config=hydra)
        cfg = seen[key]
        if any(not isinstance(cfg.get(group) or DictConfig({}), DictConfig) for group in ("method", "dataset")):
            raise TypeError("a method or data set without keys")
        unknown = [m for o in values if (m := _unknown_key(o, cfg, wrong_groups))]
        bad = {m.where for m in unknown}
        known = [o for o in values if o.key_or_group not in bad and not _inside(o.key_or_group, wrong_groups)]
        return _with_values(cfg, known), mistakes + unknown
    except Exception as error:  # besides Hydra's own, whatever a damaged yaml makes of its parser
        return OmegaConf.create(), [*mistakes, damaged_yaml() or _configuration(error)]


def _with_values(cfg: DictConfig, values: list[Override]) -> DictConfig:
    """A configuration with some values replaced, as Hydra does it after it has joined the files that were chosen.

    Its own function, although private: a sweep composes hundreds of configurations that differ in a seed, and to load
    and join all files again for each costs 0.1 s.
    """
    changed = copy.deepcopy(cfg)
    if "hydra" in changed:
        with open_dict(changed):
            del changed["hydra"]
    ConfigLoaderImpl._apply_overrides_to_config([o for o in values if not o.key_or_group.startswith("hydra.")], changed)
    return changed


def _configuration(error: Exception) -> UserError:
    if isinstance(error, RecursionError):
        return UserError("configuration", "the `defaults` of a yaml lead back to itself")
    said = [str(each or "").partition("Config search path")[0] for each in (error, error.__cause__)]
    text = ": ".join(filter(None, (said[0].strip(), said[1].partition("\n")[0])))
    return UserError("configuration", shorten(text or type(error).__name__, 300))


@lru_cache(maxsize=64)  # a loader is made for each command
def options(loader: ConfigLoaderImpl, group: str) -> list[str]:
    """All choices of a group, nested ones as `mvtec/bottle`; names that start with _ are parts, not choices."""
    names = [n for n in loader.get_group_options(group, ObjectType.CONFIG) if not n.startswith("_")]
    for sub in loader.get_group_options(group, ObjectType.GROUP):
        names += [f"{sub}/{name}" for name in options(loader, f"{group}/{sub}")]
    return sorted(names)


def _unknown_option(loader: ConfigLoaderImpl, group: str, value: Any) -> UserError | None:
    name = str(value)
    known = options(loader, group)
    if name in known or (value is None and group == "experiment"):
        return _missing_plugin(name) if group == "hydra/launcher" else None
    if categories := [n.partition("/")[2] for n in known if n.startswith(f"{name}/")]:
        few = ", ".join([*categories[:3], *(["..."] if len(categories) > 3 else [])])
        what = f"'{name}' is a set of {len(categories)} categories"
        return UserError(group, what, f"{group}={name}/all with --multirun, or one of them: {name}/{few}")
    family = name.rpartition("/")[0]
    same_family = [n for n in known if family and n.startswith(f"{family}/")]
    return none_of(group, name, same_family or known)


def _unknown_key(o: Override, cfg: DictConfig, wrong_groups: set[str]) -> UserError | None:
    key = o.key_or_group
    if o.is_add() or _inside(key, wrong_groups) or key in (known := ["method", "dataset", *flatten(cfg)]):
        return None
    return UserError(
        key, "no such key", nearest(key, known) or f"see `bench show`; keys there: {', '.join(sorted(cfg))}"
    )


def _missing_plugin(launcher: str) -> UserError | None:
    """The mistake of choosing a launcher that is an extra of this package and not installed."""
    if launcher not in PLUGINS or (find_spec("hydra_plugins") and find_spec(f"hydra_plugins.{PLUGINS[launcher]}")):
        return None
    what = f"'{launcher}' needs {PLUGINS[launcher].replace('_', '-')}, which is not installed"
    return UserError("hydra/launcher", what, f"pip install 'anomaly_bench[{launcher}]'")


def _inside(key: str, groups: set[str]) -> bool:
    """Whether a key belongs to one of those groups: `hydra.launcher.nodes` to `hydra/launcher`."""
    return any(f"{key}.".startswith(f"{group.replace('/', '.')}.") for group in groups)


def flatten(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    """All keys in dotted form, groups included."""
    for key in map(str, cfg):
        yield f"{prefix}{key}"
        node = cfg._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none():
            yield from flatten(node, f"{prefix}{key}.")
