"""The runs that a command line asks for: several values, `dataset=mvtec/all`, the matrix of an experiment."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Sequence
from itertools import product
from math import prod
from typing import Any, NamedTuple

from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from anomaly_bench.config.compose import Composed, hydra_context, options, parse, try_compose
from anomaly_bench.config.hydra_private import Loader
from anomaly_bench.config.schema import Settings, build, checked_part, validate
from anomaly_bench.config.targets import locate
from anomaly_bench.config.yaml_files import with_its_line
from anomaly_bench.console import warnings_in_lines
from anomaly_bench.errors import NAME, Mistakes, UserError

ALL = "/all"  # dataset=mvtec/all: every category
CATEGORY = "dataset.category"  # =all: every category of a user's own images
ONE_EACH = "add --multirun to run each of them, or put a list into [ ]"


class RunConfig(NamedTuple):
    """One run that a command line asks for."""

    overrides: list[str]  # each with one value
    cfg: DictConfig
    settings: Settings | None  # None where only names were checked


def check(
    overrides: Sequence[str], multirun: bool = False, types: bool = True, extra: str | None = None
) -> list[list[str]]:
    """Return the overrides of each run that a command line asks for, after all mistakes were looked for.

    Raises Mistakes with each of them: key, value, what is allowed, nearest match.  types: False checks names only
    (no torch).  extra: a folder with further method/*.yaml, dataset/*.yaml ...
    """
    return [job.overrides for job in compose_jobs(overrides, multirun, types, extra)]


def count(overrides: Sequence[str], extra: str | None = None) -> int:
    """Return how many runs a sweep asks for, without a look at them.  Raises UserError where it asks for none."""
    with hydra_context(extra) as loader, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `compose_jobs` warns
        return len(_jobs(list(overrides), loader, multirun=True))


def compose_jobs(
    overrides: Sequence[str], multirun: bool = False, types: bool = True, extra: str | None = None
) -> list[RunConfig]:
    """Return each run that a command line asks for, composed and checked as `check` does it."""
    mistakes: dict[str, UserError] = {}
    cached: Composed = {}
    jobs: list[RunConfig] = []
    lacking: dict[str, set[str]] = {}  # a key -> methods that do not have it
    with hydra_context(extra) as loader:
        with warnings_in_lines():
            requested = _jobs(list(overrides), loader, multirun)
        for job in requested:
            cfg, found = try_compose(loader, job, cached)
            settings = None
            if types and cfg:
                settings, wrong = check_values(cfg, job, found, signatures=not found)
                found += wrong
            for m in found:
                if m.where.startswith("method.") and m.what == "no such key":
                    lacking.setdefault(m.where, set()).add(_method_of(cfg))
            mistakes.update({str(m): m for m in found})
            jobs.append(RunConfig(job, cfg, settings))
    if mistakes:
        methods = {_method_of(job.cfg) for job in jobs}
        raise Mistakes([_only_for_some(m, lacking, methods) for m in mistakes.values()])
    return jobs


def check_values(
    cfg: DictConfig, job: list[str], found: Sequence[UserError] = (), signatures: bool = False
) -> tuple[Settings | None, list[UserError]]:
    """Return the checked values of a configuration, or None and what is wrong.

    found: mistakes in its overrides so far.  signatures: read those of method and data set, which import torch, also
    where no override gives a value to them.
    """
    given = {override.lstrip("+").partition("=")[0]: override.partition("=")[2] for override in job}
    inside = {key for key in given if key.startswith(("method.", "dataset."))}
    needed = bool(inside - {m.where for m in found})
    try:
        settings = validate(cfg, needed)
        return (validate(cfg) if signatures and not needed else settings), []  # no mistake waits for torch's import
    except Mistakes as wrong:
        names = {part: given.get(part) or str((cfg.get(part) or {}).get("name")) for part in ("method", "dataset")}
        return None, [m if m.where in inside else with_its_line(m, names) for m in wrong.errors]


def _method_of(cfg: DictConfig) -> str:
    return str(OmegaConf.select(cfg, "method.name") or "")


def _only_for_some(mistake: UserError, lacking: dict[str, set[str]], methods: set[str]) -> UserError:
    """The mistake, or a clearer one for a key that some methods of a sweep have and others have not."""
    without = lacking.get(mistake.where, set())
    if having := sorted(methods - without - {""}) if without else []:
        key = mistake.where.removeprefix("method.")
        hint = f"for {having[0]} alone: {having[0]}.{key}=VALUE"
        return UserError(
            mistake.where, f"{' and '.join(sorted(without))} has no such key, {', '.join(having)} has", hint
        )
    return mistake


def for_method(job: list[str], loader: Loader, methods: Collection[str] | None = None) -> list[str]:
    """A job's overrides with `csflow.hidden=64` as `method.hidden=64` where its method is csflow, and without it where
    it is another one.

    methods: of all jobs of the command line; default: of this one.  Raises UserError for an override for none of them.
    """
    owners = _owners(job, options(loader, "method"))
    if not any(owners.values()):
        return job
    chosen = _chosen_method(job, loader)
    kept = []
    for override, owner in owners.items():
        if owner and owner not in (methods or (chosen,)):
            raise UserError(override, f"no run of {owner} is asked for", f"method={owner} or method={chosen},{owner}")
        if owner in ("", chosen):
            kept.append(override.replace(f"{owner}.", "method.", 1) if owner else override)
    return kept


def _owners(job: list[str], names: Collection[str]) -> dict[str, str]:
    """Each override of a job, and the method that it is for alone; empty for the others."""
    keys = {override: override.lstrip("+~").partition("=")[0] for override in job}
    return {
        override: key.partition(".")[0] if "." in key and key.partition(".")[0] in names else ""
        for override, key in keys.items()
    }


def _chosen_method(job: list[str], loader: Loader) -> str:
    keys = {override: override.lstrip("+~").partition("=")[0] for override in job}
    if chosen := [override.partition("=")[2] for override, key in keys.items() if key == "method"]:
        return chosen[-1]
    return _method_of(try_compose(loader, [override for override, key in keys.items() if "." not in key])[0])


def _jobs(overrides: list[str], loader: Loader, multirun: bool) -> list[list[str]]:
    typed = parse(overrides, loader)  # with the loader it knows what a glob() stands for
    parsed = parse([_expanded(o, loader) for o in typed], loader)
    if not multirun:
        if swept := [o.input_line for o, new in zip(typed, parsed, strict=True) if new.is_sweep_override()]:
            raise UserError(str(swept[0]), "several values", ONE_EACH)
        matrix = _matrix(parsed, loader)
        if (several := prod(len(_values(o)) for o in parse(matrix, loader))) > 1:
            what = f"a matrix of {several} runs over {', '.join(w.partition('=')[0] for w in matrix)}"
            raise UserError("experiment", what, "add --multirun to run them, or give each of these one value")
        job = for_method(overrides, loader)
        if _each_category(job, loader, {}) != [job]:
            raise UserError(f"{CATEGORY}=all", "several values", "add --multirun to run each of them")
        return [job]
    if empty := [str(o.input_line) for o in parsed if not _values(o)]:
        hint = "`bench list datasets` has the names that a glob() can match" if "glob(" in empty[0] else ""
        raise UserError(empty[0], "stands for no value, so that no run is asked for", hint)
    jobs = []
    for alternative in _experiments(parsed, loader):  # each may have a matrix of its own
        both = parse(_matrix(alternative, loader), loader) + alternative
        jobs += [list(job) for job in product(*([f"{o.get_key_element()}={v}" for v in _values(o)] for o in both))]
    names = options(loader, "method")
    if any(any(_owners(job, names).values()) for job in jobs):
        methods = {_chosen_method(job, loader) for job in jobs}
        jobs = [for_method(job, loader, methods) for job in jobs]
    cached: Composed = {}
    jobs = [each for job in jobs for each in _each_category(job, loader, cached)]
    return [list(job) for job in dict.fromkeys(map(tuple, jobs))]  # some differed in overrides of another method only


def _each_category(job: list[str], loader: Loader, cached: Composed) -> list[list[str]]:
    """The job, or one for each category of the user's own images where it asks for `dataset.category=all`."""
    at = next((i for i, o in enumerate(job) if re.fullmatch(rf"\+*{CATEGORY}=(['\"]?)all\1", o)), None)
    if at is None:
        return [job]
    cfg, mistakes = try_compose(loader, job, cached)
    values: Any = OmegaConf.to_container(cfg.get("dataset") or OmegaConf.create())
    if mistakes or not hasattr(locate("dataset._target_", values["_target_"]), "categories"):
        return [job]  # what is wrong with it is said elsewhere
    names = build("dataset", checked_part("dataset", {**values, "category": None})).categories()
    if "all" in names:
        raise UserError(f"{CATEGORY}=all", "is every category, and one of them is called 'all' itself", "rename it")
    return [[*job[:at], f"{CATEGORY}={_quoted(name, loader)}", *job[at + 1 :]] for name in names]


def _quoted(name: str, loader: Loader) -> str:
    """Return a name as an override gives it: in quotes where it would be read as a number, or not at all."""
    plain = NAME.fullmatch(name) and isinstance(parse([f"{CATEGORY}={name}"], loader)[0].value(), str)
    return name if plain else "'" + name.replace("'", "\\'") + "'"


def _experiments(parsed: list[Override], loader: Loader) -> list[list[Override]]:
    """The overrides, once for each experiment that they name."""
    at = next((i for i, o in enumerate(parsed) if o.key_or_group == "experiment"), None)
    if at is None:
        return [parsed]
    choices = (f"{parsed[at].get_key_element()}={name}" for name in _values(parsed[at]))
    return [[*parsed[:at], *parse([choice], loader), *parsed[at + 1 :]] for choice in choices]


def _values(o: Override) -> list[str]:
    if o.is_sweep_override() and not o.is_discrete_sweep():
        raise UserError(str(o.input_line), "is a range without steps", "range(START,STOP,STEP), or values with commas")
    return list(o.sweep_string_iterator()) if o.is_discrete_sweep() else [str(o.get_value_element_as_str())]


def _expanded(o: Override, loader: Loader) -> str:
    """The override as it was typed, or with every category in the place of `mvtec/all`."""
    if o.key_or_group != "dataset" or o.is_delete() or not any(v.endswith(ALL) for v in _values(o)):
        return str(o.input_line)
    sets = loader.repository.get_group_options("dataset", ObjectType.GROUP)
    values = []
    for v in _values(o):
        name = v.removesuffix(ALL)
        whole = v.endswith(ALL) and name in sets
        values += [f"{name}/{c}" for c in options(loader, f"dataset/{name}")] if whole else [v]
    return f"{o.get_key_element()}={','.join(dict.fromkeys(values))}"


def _matrix(parsed: list[Override], loader: Loader) -> list[str]:
    """The sweep of an experiment, `hydra.sweeper.params` in its yaml, without the keys that are given a value."""
    named = [str(o.input_line) for o in parsed if o.key_or_group == "experiment"]
    if not named or named[0].partition("=")[2] not in options(loader, "experiment"):
        return []  # a name that is not known is said by try_compose
    params: dict[str, Any] = (
        loader.load_configuration("config", named, RunMode.MULTIRUN).hydra.sweeper.get("params") or {}
    )
    given = {o.key_or_group for o in parsed}
    overrides = [f"{key}={value}" for key, value in params.items() if key not in given]
    return [_expanded(o, loader) for o in parse(overrides, loader)]
