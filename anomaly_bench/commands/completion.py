"""Tab completion, from the grammar: verbs, options, choices, keys, and the values that a key may take."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from typing import Any, get_args

from omegaconf import OmegaConf

from anomaly_bench import config
from anomaly_bench.commands.parser import grammar
from anomaly_bench.commands.verb import Verb, list_of
from anomaly_bench.errors import UserError

GROUPS = ("method", "dataset", "hardware", "logger", "save", "experiment")
BASH = """_bench() {
  local line="${COMP_LINE:0:COMP_POINT}" word
  [[ $line == *" " ]] && word="" || word="${line##* }"
  local -a words; read -ra words <<< "$line"
  [[ -z $word ]] && words+=("")
  mapfile -t COMPREPLY < <(bench --complete "${words[@]:1}" 2>/dev/null)
  local cut="${word%"${word##*[=:]}"}"   # readline starts a new word after = and :
  COMPREPLY=("${COMPREPLY[@]#"$cut"}")
  [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=/.] ]] && compopt -o nospace
}
complete -F _bench bench
"""
ZSH = """_bench() {
  local -a found; found=("${(@f)$(bench --complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  compadd -S '' -- $found
}
compdef _bench bench
"""


def script_command(arguments: Namespace) -> int:
    """Run `bench completion bash|zsh`."""
    sys.stdout.write({"bash": BASH, "zsh": ZSH}[arguments.shell])
    return 0


def candidates(argv: list[str]) -> list[str]:
    """Return what the last word after `bench` may become."""
    *before, word = argv or [""]
    verb, before = grammar().find(before, complete=False)
    return [each for each in dict.fromkeys(_candidates(verb, before, word)) if each.startswith(word)]


def _candidates(verb: Verb, before: list[str], word: str) -> Iterator[str]:
    if before and verb.options.get(before[-1]) is not None:  # an option that takes a value
        yield from list_of(verb.options[before[-1]] or ())
        return
    if word.startswith("-"):
        yield from verb.options
        return
    key, equals, _ = word.partition("=")
    if equals and key in verb.keys:
        yield from (f"{key}={value}" for value in list_of(verb.keys[key]))
        return
    yield from verb.verbs
    if verb.default:
        yield from _candidates(verb.verbs[verb.default], before, word)
    for choices in verb.arguments.values():
        yield from (each for each in list_of(choices) if each not in before)
    given = {each.partition("=")[0] for each in before}
    yield from (f"{each}=" for each in verb.keys if each not in given)
    if "overrides" in verb.arguments:
        yield from _overrides(verb, before, key, bool(equals))


def _overrides(verb: Verb, before: list[str], key: str, equals: bool) -> Iterator[str]:
    """Yield what may follow in a configuration: keys, or the values of `key`."""
    try:
        given = verb.parse(before)
    except UserError:
        return
    with config.hydra_context(given.config_dir) as loader:
        if equals and key in GROUPS:
            names = config.options(loader, key)
            sets = dict.fromkeys(name.partition("/")[0] for name in names if "/" in name) if key == "dataset" else {}
            yield from (f"{key}={name}" for name in [*names, *(f"{name}/all" for name in sets)])
            return
        cfg = config.compose_known(loader, given.overrides)
    if equals:
        field = config.Hardware.model_fields.get(key.removeprefix("hardware."))
        boolean = isinstance(OmegaConf.select(cfg, key), bool)
        values = ["true", "false"] if boolean else _choices(field.annotation if field else None)
        yield from (f"{key}={value}" for value in values)
        return
    every = [each for each in config.flatten(cfg) if each.rpartition(".")[2] not in config.NOT_ARGUMENTS]
    keys = (each for each in every if not any(other.startswith(f"{each}.") for other in every))  # no blocks of keys
    yield from (f"{name}=" for name in [*GROUPS, *keys])


def _choices(annotation: Any) -> list[str]:
    """Return the strings of every Literal in a type."""
    found: list[str] = []
    for argument in get_args(annotation):
        found += [argument] if isinstance(argument, str) else _choices(argument)
    return found
