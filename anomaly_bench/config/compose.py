"""From overrides to a configuration; a name that is not known is a mistake with its nearest match."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from textwrap import shorten
from typing import Any

from hydra import compose as hydra_compose
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from anomaly_bench.config.hydra_private import Hydra, Loader, hydra_over, put_values
from anomaly_bench.config.schema import Images
from anomaly_bench.config.targets import allow_folder
from anomaly_bench.config.wrong_values import not_a_value
from anomaly_bench.config.yaml_files import damaged_yaml
from anomaly_bench.errors import Mistakes, UserError, nearest, none_of
from anomaly_bench.former_names import renamed
from anomaly_bench.paths import conf_dir

# Hydra's warning of a file that bears the name of a plugin's own configuration, on purpose.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/ray' is validated against ConfigStore schema")
NOT_GIVEN = "not given"
PLUGINS = {"ray": "hydra_ray_launcher", "slurm": "hydra_submitit_launcher"}  # of Hydra's launchers, each an extra


@contextmanager
def hydra_app(extra: str | None = None) -> Iterator[Hydra]:
    """Yield Hydra over `conf_dir` and the folder `extra`."""
    if extra:
        allow_folder(extra)
    with hydra_over(conf_dir(), extra) as hydra:
        yield hydra


@contextmanager
def hydra_context(extra: str | None = None) -> Iterator[Loader]:
    """Yield Hydra's loader over `conf_dir` and the folder `extra`."""
    with hydra_app(extra) as hydra:
        yield hydra.config_loader  # type: ignore[misc]


def compose(overrides: Iterable[str], extra: str | None = None) -> DictConfig:
    """Return one configuration.  Raises Mistakes for unknown groups, options and keys, all of them at once."""
    with hydra_context(extra) as loader:
        cfg, mistakes = try_compose(loader, list(overrides))
    if mistakes:
        raise Mistakes(mistakes)
    return cfg


def compose_known(loader: Loader, overrides: Iterable[str], strict: bool = False) -> DictConfig:
    """Return a configuration that may lack a method or a data set.  Unknown names are left out, or Mistakes."""
    cfg, mistakes = try_compose(loader, list(overrides))
    wrong = [m for m in mistakes if m.what != NOT_GIVEN]
    if strict and wrong:
        raise Mistakes(wrong)
    return cfg


def parse(overrides: list[str], loader: Loader | None = None) -> list[Override]:
    """Return the parsed overrides.  loader: knows what a glob() stands for.  Raises Mistakes."""
    parsed: list[Override] = []
    errors: list[UserError] = []
    for text in overrides:
        try:
            parsed += _parsed(text, loader)
            if not parsed[-1].key_or_group:
                raise HydraException("it has no key")
        except HydraException as error:  # noqa: PERF203  each mistake counts
            what = f"not of the form key=value: {str(error).splitlines()[0]}"
            errors.append(UserError(text or "''", what, "quote special characters"))
    if errors:
        raise Mistakes(errors)
    return parsed


@lru_cache(maxsize=4096)  # the runs of a sweep share most of their overrides
def _parsed(text: str, loader: Loader | None) -> list[Override]:
    return OverridesParser.create(loader).parse_overrides([text])


Composed = dict[tuple[str, ...], tuple[DictConfig, dict[str, None]]]  # by choices: the configuration and its keys


def try_compose(
    loader: Loader, overrides: list[str], cached: Composed | None = None
) -> tuple[DictConfig, list[UserError]]:
    """Return the configuration from those overrides that name something, and a mistake for each that does not.

    cached: what the choices alone gave; the runs of a sweep have many of them in common.
    """
    chosen, values, mistakes = _split(loader, overrides)
    wrong_groups = {m.where for m in mistakes}
    try:
        with_hydra = any(o.key_or_group.startswith("hydra.") for o in values)
        cached, key = {} if cached is None else cached, (*chosen, str(with_hydra))
        if key not in cached:
            cfg = hydra_compose("config", overrides=chosen, return_hydra_config=with_hydra)
            if "dataset" in cfg and not set(cfg.dataset or {}) - set(Images.model_fields):  # none was chosen
                with open_dict(cfg):
                    del cfg["dataset"]
            if any(not isinstance(cfg.get(group) or DictConfig({}), DictConfig) for group in ("method", "dataset")):
                raise TypeError("a method or data set without keys")
            cached[key] = cfg, dict.fromkeys(["method", "dataset", *flatten(cfg)])
        cfg, keys = cached[key]
        unknown = [m for o in values if (m := _unknown_key(o, keys, wrong_groups))]
        bad = {m.where for m in unknown}
        known = [o for o in values if o.key_or_group not in bad and not _inside(o.key_or_group, wrong_groups)]
        changed = copy.deepcopy(cfg)
        if "hydra" in changed:
            with open_dict(changed):
                del changed["hydra"]
        put_values(changed, [o for o in known if not o.key_or_group.startswith("hydra.")])
        return changed, mistakes + unknown
    except Exception as error:  # besides Hydra's own, whatever a damaged yaml makes of its parser
        return OmegaConf.create(), [*mistakes, damaged_yaml() or _configuration(error)]


def _split(loader: Loader, overrides: list[str]) -> tuple[list[str], list[Override], list[UserError]]:
    """Return the choices of groups, the other overrides, and a mistake for each wrong or missing choice."""
    chosen, values, mistakes = [], [], []
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
    lacking = [group for group in ("method", "dataset") if group not in given and "experiment" not in given]
    for group in lacking:
        if group not in wrong_groups:
            hint = f"{group}=NAME with one of {', '.join(options(loader, group))}"
            mistakes.append(UserError(group, NOT_GIVEN, hint))
    return chosen + [f"~{group}" for group in lacking], values, mistakes


def _configuration(error: Exception) -> UserError:
    if isinstance(error, RecursionError):
        return UserError("configuration", "the `defaults` of a yaml lead back to itself")
    said = [str(each or "").partition("Config search path")[0] for each in (error, error.__cause__)]
    text = ": ".join(filter(None, (said[0].strip(), said[1].partition("\n")[0])))
    return UserError("configuration", shorten(text or type(error).__name__, 300))


@lru_cache(maxsize=64)  # a loader is made for each command
def options(loader: Loader, group: str) -> list[str]:
    """Return all choices of a group, nested ones as `mvtec/bottle`; names that start with _ are parts, not choices."""
    names = [n for n in loader.repository.get_group_options(group, ObjectType.CONFIG) if not n.startswith("_")]
    for sub in loader.repository.get_group_options(group, ObjectType.GROUP):
        names += [f"{sub}/{name}" for name in options(loader, f"{group}/{sub}")]
    return sorted(names)


def _unknown_option(loader: Loader, group: str, value: Any) -> UserError | None:
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


def _unknown_key(o: Override, keys: Collection[str], wrong_groups: set[str]) -> UserError | None:
    key = o.key_or_group
    if o.is_add() or _inside(key, wrong_groups):
        return None
    if key in keys:
        is_block = "." in key and any(each.startswith(f"{key}.") for each in keys)
        is_value = not o.is_delete() and not isinstance(o.value(), dict)
        return not_a_value(key, o.value(), keys) if is_block and is_value else None
    top = ", ".join(sorted({name.partition(".")[0] for name in keys}))
    return UserError(
        key, "no such key", renamed(key, keys) or nearest(key, keys) or f"see `bench show`; keys there: {top}"
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


def flatten(cfg: DictConfig) -> Iterator[str]:
    """Yield all keys in dotted form, groups included."""

    def below(values: Any, prefix: str) -> Iterator[str]:
        for key, value in values.items():
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from below(value, f"{prefix}{key}.")

    yield from below(OmegaConf.to_container(cfg), "")
