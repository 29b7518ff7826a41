"""Types and ranges of a configuration, all mistakes at once; what identifies a run; building what is described."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails

from anomaly_bench.errors import Mistakes, UserError, nearest
from anomaly_bench.paths import cache_root

NOT_ARGUMENTS = ("_target_", "name")  # keys of a method's or data set's yaml that its constructor does not get


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
    metrics_memory_mb: Annotated[int, Field(ge=0)]


class Settings(BaseModel, extra="forbid"):
    """A whole configuration with every interpolation resolved and every type and range checked."""

    method: dict[str, Any]
    dataset: dict[str, Any]
    hardware: Hardware
    logger: dict[str, Any]
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    output_dir: Path
    cache_dir: Annotated[Path, BeforeValidator(lambda given: given or cache_root()), AfterValidator(Path.expanduser)]
    force: bool
    resamples: Annotated[int, Field(ge=0, le=100_000)]
    weights_dtype: Literal["float32", "float16"]
    save_maps: bool
    save_heatmaps: bool
    checkpoint_seconds: Annotated[float, Field(ge=0)]


def validate(cfg: DictConfig, signatures: bool = True) -> Settings:
    """Check every type and range, the arguments of method and data set against the signatures of their classes.

    signatures: False leaves the latter, which import torch, unread.  Returns the configuration with all values in their
    declared types.  Raises Mistakes that holds all that is wrong.
    """
    try:
        values: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise Mistakes(
            [UserError(str(error.full_key or "configuration"), str(error.msg or error).splitlines()[0])]
        ) from error
    mistakes: list[UserError] = []
    for part in ("method", "dataset"):
        values[part] = _checked(part, values.get(part), mistakes) if signatures else {}
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        mistakes += _mistakes(error, "", Settings)
    if mistakes:
        raise Mistakes(mistakes)
    return settings


def _checked(part: str, given: Any, mistakes: list[UserError]) -> dict[str, Any]:
    """The arguments of a method or data set in their declared types; `_target_` and `name` kept."""
    if not isinstance(given, dict) or "_target_" not in given or "name" not in given:
        mistakes += [] if given is None else [UserError(part, "needs the keys _target_ and name")]
        return {}
    kept = {key: given[key] for key in NOT_ARGUMENTS}
    try:
        model = signature_model(locate(f"{part}._target_", given["_target_"]))
        checked = model.model_validate({k: v for k, v in given.items() if k not in NOT_ARGUMENTS and v != "???"})
        return {**kept, **{key: getattr(checked, key) for key in model.model_fields}}
    except UserError as error:
        mistakes.append(error)
    except ValidationError as error:
        mistakes += _mistakes(error, f"{part}.", model)
    return kept


def _mistakes(error: ValidationError, prefix: str, model: type[BaseModel]) -> list[UserError]:
    """pydantic's findings as ours; the alternatives of a union are joined into one line."""
    found: dict[str, list[ErrorDetails]] = {}
    for e in error.errors():
        depth = 2 if e["loc"][0] == "hardware" else 1  # inside a value (a list's element) the key is what counts
        found.setdefault(prefix + ".".join(map(str, e["loc"][:depth])), []).append(e)
    fields = {key: Hardware if key.startswith("hardware.") else model for key in found}
    return [_mistake(key, errors, list(fields[key].model_fields)) for key, errors in found.items()]


def _mistake(key: str, errors: list[ErrorDetails], names: list[str]) -> UserError:
    """key: with its group.  errors: all that is wrong with it.  names: of the keys beside it."""
    first = errors[0]
    if first["type"] == "extra_forbidden":
        return UserError(
            key, "no such key", nearest(key.rpartition(".")[2], names) or f"keys there: {', '.join(names)}"
        )
    if first["type"] == "missing":
        return UserError(key, "not given", f"{key}=VALUE")
    said = [re.sub(r"^(Value error, |Input (should be|is not) )| for <class .*", "", e["msg"]) for e in errors]
    choices = re.findall(r"'([^']+)'", first.get("ctx", {}).get("expected", ""))
    what = f"{first['input']!r} given, allowed: {' or '.join(dict.fromkeys(said))}"
    return UserError(key, what, nearest(str(first["input"]), choices))


def locate(where: str, target: str) -> type:
    """The class that a `_target_` names."""
    module, _, name = target.rpartition(".")
    try:
        found: type = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            where, f"'{target}' cannot be imported: {error}", "a class of your own: is its folder in PYTHONPATH?"
        ) from error
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
