"""Tab completion: verbs, groups, nested choices (`dataset=mvtec/<TAB>`), keys, and the values a key may take."""

from __future__ import annotations

from typing import Any, get_args

from omegaconf import OmegaConf

from anomaly_bench import config
from anomaly_bench.errors import none_of
from anomaly_bench.evaluation.options import OPTIONS

VERBS = {
    **{"train": (), "show": (), "report": (), "reproduce": (), "eval": OPTIONS},
    **{"data": ("list", "prepare", "verify", "cache"), "completion": ("bash", "zsh")},
}
LISTS = ("datasets", "experiments", "hardware", "loggers", "methods", "runs")
GROUPS = ("method", "dataset", "hardware", "logger", "experiment")
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


def script(shell: str) -> str:
    """The shell's own part: to be evaluated in its start-up file."""
    scripts = {"bash": BASH, "zsh": ZSH}
    if shell not in scripts:
        raise none_of("bench completion", shell, scripts)
    return scripts[shell]


def candidates(words: list[str]) -> list[str]:
    """What the last of the words after `bench` may become."""
    word = words[-1] if words else ""
    if len(words) <= 1:
        return [v for v in (*VERBS, "list") if v.startswith(word)]
    if words[0] == "list":
        return [v for v in LISTS if v.startswith(word)]
    if words[:2] == ["data", "cache"] and len(words) > 2:
        return [c for c in _of_cache(words[2:-1]) if c.startswith(word)]
    if words[0] == "reproduce":
        return [c for c in _of_reproduce(words[1:-1]) if c.startswith(word)]
    if words[0] not in ("train", "show"):
        return [v for v in VERBS.get(words[0], ()) if v.startswith(word)]
    return [c for c in _overrides(words[1:-1], word) if c.startswith(word)]


def _of_cache(before: list[str]) -> list[str]:
    from anomaly_bench.commands.cache import FILES

    kinds = [kind for kind in FILES if kind not in before]
    return [*kinds, "older=", "cache_dir="] if "clear" in before else ["list", "clear", "cache_dir="]


def _of_reproduce(before: list[str]) -> list[str]:
    from anomaly_bench.commands.reproduce_request import PLAN, experiments

    tables = [name for name in experiments() if name not in before]
    presets = [f"preset={file.stem}" for file in sorted((config.conf_dir() / "preset").glob("*.yaml"))]
    return [*tables, *presets, "outputs=", *PLAN]


def _overrides(before: list[str], word: str) -> list[str]:
    if word.startswith("-"):
        return ["--config-dir", "--multirun", "--cfg"]
    key, equals, _ = word.partition("=")
    extra, before = config.split_config_dir(before)
    with config.hydra_context(extra) as loader:
        if equals and key in GROUPS:
            names = config.options(loader, key)
            sets = dict.fromkeys(name.partition("/")[0] for name in names if "/" in name) if key == "dataset" else {}
            return [f"{key}={name}" for name in [*names, *(f"{name}/all" for name in sets)]]
        cfg = config.compose_known(loader, [each for each in before if not each.startswith("-")])
    if equals:
        field = config.Hardware.model_fields.get(key.removeprefix("hardware."))
        boolean = isinstance(OmegaConf.select(cfg, key), bool)
        values = ["true", "false"] if boolean else _choices(field.annotation if field else None)
        return [f"{key}={v}" for v in values]
    keys = [k for k in config.flatten(cfg) if k.rpartition(".")[2] not in config.NOT_ARGUMENTS]
    return [f"{name}=" for name in dict.fromkeys([*GROUPS, *keys])]


def _choices(annotation: Any) -> list[str]:
    """The strings of every Literal in a type."""
    parts = get_args(annotation)
    return [v for part in parts for v in ([part] if isinstance(part, str) else _choices(part))]
