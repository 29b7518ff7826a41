"""What pydantic finds wrong with a configuration, in the words of its user: key, what was given, what is allowed."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from anomaly_bench.errors import UserError, nearest
from anomaly_bench.former_names import renamed


def mistakes_of(error: ValidationError, prefix: str, model: type[BaseModel]) -> list[UserError]:
    """Return pydantic's findings as ours; the alternatives of a union are joined into one line."""
    found: dict[str, tuple[type[BaseModel], list[ErrorDetails]]] = {}
    for e in error.errors():
        key, holder = _key_at(e["loc"], model)
        found.setdefault(prefix + key, (holder, []))[1].append(e)
    known = [f"{prefix}{key}" for key in _dotted_keys(model)]
    return [_mistake(key, errors, list(holder.model_fields), known) for key, (holder, errors) in found.items()]


def _key_at(loc: tuple[int | str, ...], model: type[BaseModel]) -> tuple[str, type[BaseModel]]:
    """Return the dotted key that holds a location of pydantic's, and the model that has this key."""
    depth = 1
    while depth < len(loc) and (block := _block(model, str(loc[depth - 1]))):
        model, depth = block, depth + 1
    return ".".join(map(str, loc[:depth])), model  # inside a value (a list's element) the key is what counts


def _block(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """Return the model of a key that is a block of keys, else None."""
    annotation = model.model_fields[key].annotation if key in model.model_fields else None
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _dotted_keys(model: type[BaseModel]) -> Iterator[str]:
    """Yield all keys in dotted form, those of a block in place of the block."""
    for key in model.model_fields:
        block = _block(model, key)
        yield from (f"{key}.{name}" for name in _dotted_keys(block)) if block else [key]


def _mistake(key: str, errors: list[ErrorDetails], names: list[str], known: list[str]) -> UserError:
    """key: with its group.  errors: all that is wrong with it.  names: of the keys beside it.  known: of all keys."""
    first, name = errors[0], key.rpartition(".")[2]
    if first["type"] == "extra_forbidden":
        hint = renamed(key, known) or nearest(name, names) or f"keys there: {', '.join(names)}"
        return UserError(key, "no such key", hint)
    if first["type"] == "model_type":
        return not_a_value(key, first["input"], known)
    if first["type"] == "missing" and first["loc"][-1] == name:
        return UserError(key, "not given", f"{key}=VALUE")
    said = [re.sub(r"^(Value error, |Input (should be|is not) )| for <class .*", "", e["msg"]) for e in errors]
    plain = {"Field required": "more values", "a valid tuple": "a list", "a valid integer": "a whole number"}
    said = [plain.get(text, text) for text in said]
    choices = re.findall(r"'([^']+)'", first.get("ctx", {}).get("expected", ""))
    what = f"{first['input']!r} given, allowed: {' or '.join(dict.fromkeys(said))}"
    return UserError(key, what, nearest(str(first["input"]), choices))


def not_a_value(key: str, given: Any, known: Collection[str]) -> UserError:
    """Return the mistake of giving a value to a key that is a block of keys, which are in `known`."""
    inside = [each.removeprefix(f"{key}.") for each in known if each.startswith(f"{key}.")]
    return UserError(key, f"{given!r} given, but it is a block of keys: {', '.join(inside)}", renamed(key, known))
