"""From the command line's words to a checked configuration: compose, validate (all mistakes at once), identify, build."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from hydra import compose as hydra_compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.version import setbase
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from anomaly_bench.errors import Mistakes, UserError, nearest, none_of

NOT_ARGUMENTS = ("_target_", "name")  # keys of a method's or data set's yaml that its constructor does not get
NOT_GIVEN = "not given"


class Hardware(BaseModel, extra="forbid"):
    """conf/hardware: where and how fast, never what."""

    accelerator: Literal["auto", "cpu", "gpu"]
    devices: Annotated[int, Field(ge=1)] | Literal["auto"]
    strategy: Literal["auto", "ddp_spawn"]
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    memory_format: Literal["channels_last", "contiguous"]
    sync_batchnorm: bool
    workers: Annotated[int, Field(ge=0)]
    threads: Annotated[int, Field(ge=1)] | None


class Settings(BaseModel, extra="forbid"):
    """A whole configuration with every interpolation resolved and every type and range checked."""

    method: dict[str, Any]
    dataset: dict[str, Any]
    hardware: Hardware
    logger: dict[str, Any]
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    output_dir: Path
    cache_dir: Path
    force: bool
    save_maps: bool
    save_heatmaps: bool
    checkpoint_seconds: Annotated[float, Field(ge=0)]


def conf_dir() -> Path:
    """$BENCH_CONF, else the checkout's conf/, else the copy inside the installed package."""
    if given := os.environ.get("BENCH_CONF"):
        if not (Path(given) / "config.yaml").is_file():
            raise UserError("BENCH_CONF", f"no config.yaml in {given}")
        return Path(given).resolve()
    package = Path(__file__).resolve().parent
    checkout = package.parent / "conf"
    return checkout if (checkout / "config.yaml").is_file() else package / "conf"


@contextmanager
def hydra_context(extra: str | None = None) -> Iterator[ConfigLoaderImpl]:
    """Hydra's configuration loader over `conf_dir` and the folder `extra`; an enclosing Hydra application is left as it was."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    setbase("1.3")
    try:
        path = create_config_search_path(str(conf_dir()))
        if extra:
            if not Path(extra).is_dir():
                raise UserError("--config-dir", f"no such folder: {extra}")
            path.append("command-line", f"file://{Path(extra).resolve()}")
        yield Hydra.create_main_hydra2("bench", path).config_loader  # type: ignore[misc]
    finally:
        GlobalHydra.instance().hydra = outer


def compose(overrides: Iterable[str], extra: str | None = None) -> DictConfig:
    """One configuration, its names checked.  Raises UserError (Mistakes for several) for unknown groups, options and keys."""
    with hydra_context(extra) as loader:
        cfg, mistakes = _compose(loader, list(overrides))
    if mistakes:
        raise Mistakes(mistakes)
    return cfg


def compose_known(loader: ConfigLoaderImpl, overrides: Iterable[str], strict: bool = False) -> DictConfig:
    """A configuration that need not be complete: no method or no data set may have been chosen.  `strict`: mistakes raise."""
    cfg, mistakes = _compose(loader, list(overrides))
    wrong = [m for m in mistakes if m.what != NOT_GIVEN]
    if strict and wrong:
        raise Mistakes(wrong)
    return cfg


def check(overrides: list[str], multirun: bool = False, types: bool = True, extra: str | None = None) -> list[list[str]]:
    """The jobs (lists of overrides) that a command line asks for, after all their mistakes have been looked for.

    Raises Mistakes with each of them: key, value, what is allowed, nearest match.  `types=False` checks names only (no torch).
    `extra`: a folder with further method/*.yaml, dataset/*.yaml ...
    """
    mistakes: dict[str, UserError] = {}
    parsed = _parse(overrides)
    jobs = [overrides]
    if multirun:
        jobs = [list(job) for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]
    elif swept := [o.input_line for o in parsed if o.is_sweep_override()]:
        raise UserError(str(swept[0]), "several values", "add --multirun to run each of them, or put a list into [ ]")
    if not jobs:
        raise UserError("overrides", "these words ask for no run at all", "a glob() that matches nothing? see `bench list datasets`")
    with hydra_context(extra) as loader:
        for job in jobs:
            cfg, found = _compose(loader, job)
            try:
                if types and cfg:
                    validate(cfg)
            except Mistakes as wrong:
                found += wrong.errors
            mistakes.update({str(m): m for m in found})
    if mistakes:
        raise Mistakes(list(mistakes.values()))
    return jobs


def _parse(overrides: list[str]) -> list[Override]:
    parsed, errors = [], []
    for text in overrides:
        try:
            parsed += OverridesParser.create().parse_overrides([text])
        except HydraException as error:
            errors.append(UserError(text, f"not of the form key=value: {str(error).splitlines()[0]}", "quote special characters"))
    if errors:
        raise Mistakes(errors)
    return parsed


def _compose(loader: ConfigLoaderImpl, overrides: list[str]) -> tuple[DictConfig, list[UserError]]:
    """The configuration from those overrides that name something, and a mistake for each that does not."""
    chosen, mistakes, values = [], [], []
    for o in _parse(overrides):
        group = o.key_or_group
        if group.startswith(("hydra.", "hydra/")):
            chosen.append(str(o.input_line))
        elif loader.repository.group_exists(group) and not o.is_delete():
            wrong = _unknown_option(loader, group, o.value())
            mistakes += [wrong] if wrong else []
            chosen += [] if wrong else [str(o.input_line)]
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
        cfg = hydra_compose("config", overrides=chosen)
        unknown = [m for o in values if (m := _unknown_key(o, cfg, wrong_groups))]
        bad = {m.where for m in unknown}
        known = [str(o.input_line) for o in values if o.key_or_group not in bad and o.key_or_group.split(".")[0] not in wrong_groups]
        return hydra_compose("config", overrides=chosen + known), mistakes + unknown
    except (HydraException, OmegaConfBaseException) as error:
        return OmegaConf.create(), [*mistakes, UserError("configuration", str(error) or str(error.__cause__))]


def options(loader: ConfigLoaderImpl, group: str) -> list[str]:
    """All choices of a group, nested ones as `mvtec/bottle`; names that start with _ are parts, not choices."""
    names = [n for n in loader.get_group_options(group, ObjectType.CONFIG) if not n.startswith("_")]
    for sub in loader.get_group_options(group, ObjectType.GROUP):
        names += [f"{sub}/{name}" for name in options(loader, f"{group}/{sub}")]
    return sorted(names)


def _unknown_option(loader: ConfigLoaderImpl, group: str, value: Any) -> UserError | None:
    name = str(value)
    known = options(loader, group)
    if value is None or name in known:
        return None
    family = name.rpartition("/")[0]
    same_family = [n for n in known if family and n.startswith(f"{family}/")]
    return none_of(group, name, same_family or known)


def _unknown_key(o: Override, cfg: DictConfig, wrong_groups: set[str]) -> UserError | None:
    key = o.key_or_group
    if o.is_add() or key.split(".")[0] in wrong_groups or key in (known := ["method", "dataset", *flatten(cfg)]):
        return None
    return UserError(key, "no such key", nearest(key, known) or f"see `bench show`; keys there: {', '.join(sorted(cfg))}")


def flatten(cfg: DictConfig | ListConfig, prefix: str = "") -> Iterator[str]:
    """All keys in dotted form, groups included."""
    for key in cfg if isinstance(cfg, DictConfig) else ():
        yield f"{prefix}{key}"
        node = cfg._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none():
            yield from flatten(node, f"{prefix}{key}.")


def validate(cfg: DictConfig) -> Settings:
    """Check every type and range, the arguments of method and data set against the signatures of their classes.

    Returns the configuration with all values in their declared types.  Raises Mistakes that holds all that is wrong.
    """
    try:
        values: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise Mistakes([UserError(str(error.full_key or "configuration"), str(error.msg or error).splitlines()[0])]) from error
    mistakes: list[UserError] = []
    for part in ("method", "dataset"):
        values[part] = _checked(part, values.get(part), mistakes)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        mistakes += _mistakes(error, "", Settings)
    if mistakes:
        raise Mistakes(mistakes)
    settings.cache_dir = settings.cache_dir.expanduser()
    return settings


def _checked(part: str, given: Any, mistakes: list[UserError]) -> dict[str, Any]:
    """The arguments of a method or data set in their declared types; `_target_` and `name` kept."""
    if not isinstance(given, dict) or "_target_" not in given or "name" not in given:
        mistakes += [] if given is None else [UserError(part, "needs the keys _target_ and name")]
        return {}
    kept = {key: given[key] for key in NOT_ARGUMENTS}
    try:
        model = signature_model(locate(f"{part}._target_", given["_target_"]))
        checked = model.model_validate({key: v for key, v in given.items() if key not in NOT_ARGUMENTS})
        return {**kept, **{key: getattr(checked, key) for key in model.model_fields}}
    except UserError as error:
        mistakes.append(error)
    except ValidationError as error:
        mistakes += _mistakes(error, f"{part}.", model)
    return kept


def _mistakes(error: ValidationError, prefix: str, model: type[BaseModel]) -> list[UserError]:
    """pydantic's findings as ours; the alternatives of a union are joined into one line."""
    found: dict[str, list[Any]] = {}
    for e in error.errors():
        key = ".".join(str(part) for part in e["loc"][: 2 if e["loc"][0] == "hardware" else 1])
        found.setdefault(prefix + key, []).append(e)
    result = []
    for key, errors in found.items():
        first, last = errors[0], key.rpartition(".")[2]
        names = Hardware.model_fields if key.startswith("hardware.") else model.model_fields
        if first["type"] == "extra_forbidden":
            result.append(UserError(key, "no such key", nearest(last, names) or f"keys there: {', '.join(names)}"))
        elif first["type"] == "missing":
            result.append(UserError(key, "missing"))
        else:
            allowed = " or ".join(dict.fromkeys(e["msg"].removeprefix("Value error, ").removeprefix("Input should be ") for e in errors))
            hint = nearest(str(first["input"]), first.get("ctx", {}).get("expected", "").replace("'", "").replace(" or ", ", ").split(", "))
            result.append(UserError(key, f"{first['input']!r} given, allowed: {allowed}", hint))
    return result


def locate(where: str, target: str) -> type:
    """The class that a `_target_` names."""
    module, _, name = target.rpartition(".")
    try:
        found: type = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(where, f"'{target}' cannot be imported: {error}", "a class of your own: is its folder in PYTHONPATH?") from error
    return found


def signature_model(target: type) -> type[BaseModel]:
    """A pydantic model with one required field for each argument of a class's constructor."""
    hints = get_type_hints(target.__init__, include_extras=True)  # type: ignore[misc]
    names = list(inspect.signature(target).parameters)
    fields: dict[str, Any] = {name: (hints[name], ...) for name in names}
    return create_model(target.__name__, __config__=ConfigDict(extra="forbid", protected_namespaces=()), **fields)


def build(part: str, values: dict[str, Any], **more: Any) -> Any:
    """The object that a checked part of the configuration describes."""
    arguments = {key: v for key, v in values.items() if key not in NOT_ARGUMENTS}
    return locate(f"{part}._target_", values["_target_"])(**arguments, **more)


def identify(settings: Settings) -> tuple[str, str]:
    """(id, setting), 8 hex digits each.  id: seed, method and data set; setting: the same for all seeds and categories.

    Where things lie does not count, what is in them does: a file is represented by its content, `dataset.root` by nothing.
    """
    method = {key: _content(v) for key, v in settings.method.items()}
    dataset = {key: _content(v) for key, v in settings.dataset.items() if key != "root"}
    setting = {"method": method, "dataset": {key: v for key, v in dataset.items() if key != "category"}}
    return _hash({"seed": settings.seed, "method": method, "dataset": dataset}), _hash(setting)


def _content(value: Any) -> Any:
    if isinstance(value, str) and (file := Path(value).expanduser()).is_file():
        return hashlib.sha256(file.read_bytes()).hexdigest()
    return value


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]
