"""Types and ranges of a configuration, all mistakes at once; what identifies a run; building what is described."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
)

from anomaly_bench.config.ranges import Fold, ImageSize
from anomaly_bench.config.targets import locate, raised_at
from anomaly_bench.config.wrong_values import mistakes_of
from anomaly_bench.errors import Mistakes, UserError, check_name
from anomaly_bench.paths import cache_root

LARGEST = 2**32  # of every whole number: a seed's bound, and far beyond what any other can mean
POINTS = 20  # of a training, for `track_test=true`
NOT_ARGUMENTS = ("_target_", "name")  # keys of a method's or data set's yaml that its constructor does not get


class Checked(BaseModel, extra="forbid", allow_inf_nan=False, protected_namespaces=()):
    """Values of a configuration: no infinite number, no NaN, no `true` for 1, no whole number beyond reason."""

    @field_validator("*", mode="before")
    @classmethod
    def _numbers(cls, value: Any, info: ValidationInfo) -> Any:
        types = _types(cls.model_fields[str(info.field_name)].annotation)
        for each in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(each, bool) and not {bool, Any} & types and {int, float} & types:
                raise ValueError("a number")
            if isinstance(each, float) and int in types and float not in types:
                raise ValueError("a whole number")
            if isinstance(each, int) and int in types and abs(each) > LARGEST:
                raise ValueError(f"a whole number of at most {LARGEST}")
        return value


def _types(annotation: Any) -> set[Any]:
    """The types that an annotation is made of."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return {type(value) for value in arguments}
    return set().union(*map(_types, arguments)) if arguments else {annotation}


class Tiles(Checked):
    """conf/images.yaml: the tiles that a method sees in place of whole images."""

    size: ImageSize | None = None  # pixels of the files
    overlap: Annotated[float, Field(ge=0, le=0.9)] = 0.25  # share of a tile


class Images(Checked):
    """conf/images.yaml: how images come to the size that a method sees; stored runs may lack it."""

    fit: Literal["squash", "aspect", "pad", "crop"] = "squash"
    tiles: Tiles = Tiles()
    white: Annotated[int, Field(ge=1, le=65535)] = 65535  # of 16-bit grey
    ignore_value: Annotated[int, Field(ge=1, le=255)] | None = None  # of a pixel in a mask
    ignore_mask: str | None = None  # a file


class Hardware(Checked):
    """conf/hardware: where and how fast, never what."""

    accelerator: Literal["auto", "cpu", "gpu"]
    devices: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"]
    strategy: Literal["auto", "ddp_spawn"]
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    scoring_precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    tf32: bool
    memory_format: Literal["channels_last", "contiguous"]
    sync_batchnorm: bool
    workers: Annotated[int, Field(ge=0, le=1024)]
    threads: Annotated[int, Field(ge=1, le=1024)] | None
    metrics_memory_mb: Annotated[int, Field(ge=0, le=10**9)]


class Settings(Checked):
    """A whole configuration with every interpolation resolved and every type and range checked."""

    method: dict[str, Any]
    dataset: dict[str, Any]
    hardware: Hardware
    logger: dict[str, Any]
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    output_dir: Path
    cache_dir: Annotated[Path, BeforeValidator(lambda given: given or cache_root()), AfterValidator(Path.expanduser)]
    force: bool
    calibration_share: Annotated[float, Field(ge=0, lt=1)]
    calibration_fold: Fold | None
    resamples: Annotated[int, Field(ge=0, le=100_000)]
    weights_dtype: Literal["float32", "float16"]
    save_maps: bool | Literal["float16"]
    save_heatmaps: bool | Literal["source"] | Annotated[int, Field(ge=1, le=1000)]
    track_test: bool | Annotated[int, Field(ge=1, le=1000)]
    checkpoint_seconds: Annotated[float, Field(ge=0, le=1e9)]

    @property
    def points(self) -> int:
        """At how many points of the training, at most, the test images are scored; 0: at its end alone."""
        return POINTS if self.track_test is True else int(self.track_test)

    @property
    def images(self) -> Images:
        """How the data set's images come to the method."""
        return images_of(self.dataset)


def images_of(dataset: Mapping[str, Any]) -> Images:
    """Return the keys of conf/images.yaml of a data set's part of a configuration; stored ones may lack them."""
    return Images.model_validate({key: dataset[key] for key in Images.model_fields if key in dataset})


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
        values[part] = _checked(part, values.get(part), signatures, mistakes)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        mistakes += mistakes_of(error, "", Settings)
    if mistakes:
        raise Mistakes(mistakes)
    return settings


def checked_part(part: str, given: Any) -> dict[str, Any]:
    """Return a method's or data set's part of a stored configuration in its declared types.  Raises Mistakes."""
    mistakes: list[UserError] = []
    values = _checked(part, given, True, mistakes)
    if mistakes:
        raise Mistakes(mistakes)
    return values


def _checked(part: str, given: Any, signatures: bool, mistakes: list[UserError]) -> dict[str, Any]:
    """The arguments of a method or data set in their declared types; `_target_` and `name` kept."""
    if not isinstance(given, dict) or not all(isinstance(given.get(key), str) for key in NOT_ARGUMENTS):
        mistakes += [] if given is None else [UserError(part, "needs the keys _target_ and name, each a text")]
        return {}
    kept = {key: given[key] for key in NOT_ARGUMENTS}
    try:
        check_name(f"{part}.name", given["name"])
        if not signatures:
            return kept
        model = signature_model(locate(f"{part}._target_", given["_target_"]))
        if part == "dataset":
            model = _with_images(model)
        checked = model.model_validate({k: v for k, v in given.items() if k not in NOT_ARGUMENTS and v != "???"})
        if category := getattr(checked, "category", None):
            check_name(f"{part}.category", category)
        return {**kept, **{key: getattr(checked, key) for key in model.model_fields}}
    except UserError as error:
        mistakes.append(error)
    except ValidationError as error:
        mistakes += mistakes_of(error, f"{part}.", model)
    return kept


@cache
def signature_model(target: type) -> type[BaseModel]:
    """Return a pydantic model with one required field for each argument of a class's constructor.

    Raises UserError for a constructor whose arguments are not annotated.
    """
    try:
        hints = get_type_hints(target.__init__, include_extras=True)  # type: ignore[misc]
        parameters = inspect.signature(target).parameters.values()
        for p in parameters:
            if p.name not in hints or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
                what = (
                    f"the argument '{p.name}' of {target.__qualname__} has no type, so that its key cannot be checked"
                )
                raise UserError(_written_at(target), what, "annotate it: lr: float")
        fields: dict[str, Any] = {p.name: (hints[p.name], ...) for p in parameters}
        return create_model(target.__name__, __base__=Checked, **fields)
    except UserError:
        raise
    except Exception as error:  # a name in an annotation that is not there, a type that no yaml can hold
        said = str(error).partition("\n")[0].partition(". ")[0]
        raise UserError(
            _written_at(target), f"the arguments of {target.__qualname__} cannot be read: {said}"
        ) from error


@cache
def _with_images(model: type[BaseModel]) -> type[BaseModel]:
    """Return a data set's model with the keys of conf/images.yaml."""
    fields: dict[str, Any] = {name: (field.annotation, field) for name, field in Images.model_fields.items()}
    return create_model(model.__name__, __base__=model, **fields)


def _written_at(target: type) -> str:
    """FILE:LINE of a class's constructor."""
    code = getattr(target.__init__, "__code__", None)  # type: ignore[misc]
    return f"{code.co_filename}:{code.co_firstlineno}" if code else target.__qualname__


def build(part: str, values: dict[str, Any], **more: Any) -> Any:
    """Return the object that a checked part of a configuration describes.  Raises UserError where that fails."""
    others = (*NOT_ARGUMENTS, *(Images.model_fields if part == "dataset" else ()))
    arguments = {key: v for key, v in values.items() if key not in others}
    target = locate(f"{part}._target_", values["_target_"])
    if part == "logger":  # a library's, with keys of its own
        return target(**arguments, **more)
    try:
        return target(**arguments, **more)
    except UserError:
        raise
    except Exception as error:
        what = f"{values['_target_']} cannot be built: {type(error).__name__}: {error}"
        raise UserError(f"{part}._target_", what, raised_at(error)) from error
