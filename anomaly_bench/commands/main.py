"""The verbs of `bench`.  A user's mistake becomes one line and exit code 2.  A verb imports what it needs, no more."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from anomaly_bench.console import explain, open_streams, say, to_stderr

HELP = """usage: bench VERB [KEY=VALUE ...]

train, measure and compare unsupervised visual anomaly detection

  bench train method=rd dataset=mvtec/bottle [hardware=gpu] [KEY=VALUE ...]
              train and measure; a finished run is not repeated, an interrupted one goes on
              -m, --multirun     what is missing of every combination: method=rd,csflow dataset=mvtec/all seed=0,1,2
              --cfg job          print the configuration and stop
              --config-dir DIR   also look for method/*.yaml, dataset/*.yaml ... and for their classes in DIR
              without method, dataset and experiment: method=us_fast dataset=demo/brick
  bench eval RUN [RUN ...] [dataset.root=DIR] [--config-dir DIR]
              measure a finished run again, from its stored maps; its metrics are confirmed or corrected
              --write-tiff DIR   write its maps as TIFF files in MVTec's layout instead
              --accept-changes   take result files that do not fit their checksums as they are; otherwise an error
  bench eval --maps DIR --masks DIR
              measure the maps of any program: [CATEGORY/][test/]KIND/ID.tiff, .npy or grey .png
              --resize-masks     bring the masks to the size of the maps
              --json             print JSON; for runs too, like the next three
              --memory-mb N      maps that take more are measured in one pass with certified error bounds
              --resamples N      of the test images, for the intervals; 0: no intervals
              --threads N
  bench report [OUTPUTS]         tables of all finished runs: terminal, CSV, Markdown, LaTeX
  bench reproduce [EXPERIMENT ...] [preset=smoke] [outputs=DIR] [KEY=VALUE ...]
              run what is missing of the papers' tables, then write paper versus ours to DIR/reproduce
              --plan             only say what is done, what would run and what cannot, and how to supply what it lacks
              preset=smoke       every table on generated images with tiny settings: offline, in minutes, no results
              exit code: 0 all that can run is done, 1 a run failed, 2 a mistake in these words
  bench data list|prepare|verify [NAME] [root=DIR]
              what is here; download and unpack; check what is there
  bench data cache [clear [pixels|features|teachers|demo|checksums|parts ...] [older=DAYS]] [cache_dir=DIR]
              what the cache folder holds; make room in it (teachers, which cost hours, only when named)
  bench list methods|datasets|hardware|loggers|experiments
  bench list runs [OUTPUTS] [method=NAME] [dataset=NAME] [category=NAME] [seed=N] [status=failed,interrupted]
              --verify           read every result file, maps and weights too, and say which is not as its run wrote it
  bench show method=rd [KEY=VALUE ...]
              the resolved configuration, each number with its source, and the deviations from the paper
  bench completion bash|zsh      tab completion: eval "$(bench completion bash)"
  bench --help, bench --version

Keys: bench show method=NAME.  More: README.md, CONTRIBUTING.md.
"""
HELP_WORDS = {"help", "-h", "--help"}
FIRST_RUN = ["method=us_fast", "dataset=demo/brick"]  # offline, in minutes, on any laptop


def main(words: list[str] | None = None) -> int:
    """Entry point.  Exit codes: 0 done, 1 failed, 2 the user can mend it, 3 in work elsewhere, 130 interrupted."""
    words = sys.argv[1:] if words is None else words
    open_streams()
    try:
        code = dispatch(words)
        sys.stdout.flush()  # while it can be said that it failed
        return code
    except KeyboardInterrupt:
        say("interrupted; the same command goes on where it stopped")
        return 130
    except Exception as error:
        return explain(error)
    finally:
        to_stderr("")


def dispatch(words: list[str]) -> int:
    """Find the verb and hand it the other words."""
    from anomaly_bench.errors import none_of

    if targets := sys.modules.get("anomaly_bench.config.targets"):  # of an earlier command in this process
        targets.forget_folders()
    verbs: dict[str, Callable[[list[str]], int]] = {
        "train": train,
        "eval": eval_,
        "report": report,
        "reproduce": reproduce,
        "data": data,
        "list": list_,
        "show": show,
        "completion": completion,
        "--complete": complete,
    }
    names = [verb for verb in verbs if verb[0] != "-"]
    first, rest = (words or ["help"])[0], words[1:]
    if first in HELP_WORDS or (first in names and first != "train" and HELP_WORDS & {*rest}):  # that one's is Hydra's
        if first in HELP_WORDS and (unknown := [word for word in rest if word not in (*names, *HELP_WORDS)]):
            raise none_of("bench help", unknown[0], names)
        sys.stdout.write(HELP)
        return 0
    if first == "--version":
        from anomaly_bench import __version__

        _at_most(rest, 0, "nothing more")
        sys.stdout.write(f"{__version__}\n")
        return 0
    if first not in verbs:
        raise none_of("bench", first, ["--help", "--version"] if first.startswith("-") else names)
    return verbs[first](rest)


def train(words: list[str]) -> int:
    """Hydra from the second word on; before it starts, every mistake of every job is looked for."""
    import hydra
    from hydra._internal.utils import get_args_parser

    from anomaly_bench import config
    from anomaly_bench.errors import UserError, none_of

    parser = get_args_parser()
    parser.error = _wrong_option  # type: ignore[method-assign]
    args, rest = parser.parse_known_args(words)  # overrides that stand behind an option are left over
    if wrong := [word for word in rest if word.startswith("-")]:
        raise none_of("bench train", wrong[0].partition("=")[0], re.findall(r"--[\w-]+", parser.format_usage()))
    overrides = [*args.overrides, *rest]
    options = [word for word in words if word not in overrides]
    if not any(re.match(r"\+?(method|dataset|experiment)=", word) for word in overrides):
        overrides += FIRST_RUN
    if args.cfg and args.multirun:
        raise UserError("--cfg", "prints one configuration, --multirun asks for several", "leave out one of them")
    if args.multirun:
        to_stderr(f"planning {config.count(overrides, args.config_dir)} runs\n")  # torch is slow to import
        from anomaly_bench.sweeps.sweep import console_log, sweep

        console_log()
        return sweep(overrides, main, args.config_dir)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach `main` as they are
    hydras = args.help or args.hydra_help or args.info or args.shell_completion  # for Hydra to answer
    if not hydras:
        ((overrides, cfg),) = config.composed(overrides, types=not args.cfg, extra=args.config_dir)
        if not args.cfg and not any(word.lstrip("+~").startswith("hydra") for word in overrides):
            return train_one(cfg, overrides, args.config_dir)
    sys.argv = ["bench", *options, *overrides]
    _failed.clear()
    hydra.main(version_base="1.3", config_path=str(config.conf_dir()), config_name="config")(train_by_hydra)()
    return max((explain(e) for e in _failed), default=0)


def train_one(cfg: Any, overrides: list[str], extra: str | None) -> int:
    """One run.  overrides, extra: what was typed, and the folder of `--config-dir`, for the record."""
    from anomaly_bench.results.terminal import print_run
    from anomaly_bench.runs.runner import console_log, run

    console_log()
    print_run(run(cfg, overrides, ["--config-dir", str(Path(extra).resolve())] if extra else []))
    return 0


def _wrong_option(message: str) -> NoReturn:
    from anomaly_bench.errors import UserError

    raise UserError("bench train", message.removeprefix("argument "), "bench --help")


_failed: list[BaseException] = []


def train_by_hydra(cfg: Any) -> None:
    """One run with words for Hydra itself (`hydra.job.chdir=true`)."""
    from hydra.core.hydra_config import HydraConfig

    try:
        sources = HydraConfig.get().runtime.config_sources
        extra = next((source.path for source in sources if source.provider == "command-line"), None)
        train_one(cfg, list(HydraConfig.get().overrides.task), extra)
    except Exception as error:  # Hydra would print a traceback of its own; the run folder has it on record
        _failed.append(error)


def eval_(words: list[str]) -> int:
    """Measure without a model."""
    from anomaly_bench.evaluation.options import parse

    asked = parse(words)
    if asked.config_dir:
        from anomaly_bench import config

        config.allow_folder(asked.config_dir)
    if asked.maps and asked.masks:
        from anomaly_bench.evaluation.map_files import eval_maps
        from anomaly_bench.results.terminal import print_measured

        eval_maps(asked.maps, asked.masks, asked, print_measured)
    elif asked.write_tiff:
        from anomaly_bench.evaluation.export_tiff import write_runs

        write_runs(asked.write_tiff, asked)
    else:
        from anomaly_bench.evaluation.stored_runs import eval_runs
        from anomaly_bench.results.terminal import print_run

        eval_runs(asked, print_run)
    return 0


def report(words: list[str]) -> int:
    from anomaly_bench.commands.report import write_report

    write_report(Path((_at_most(words, 1, "OUTPUTS") or ["outputs"])[0]))
    return 0


def reproduce(words: list[str]) -> int:
    from anomaly_bench.commands.reproduce import reproduce_command

    return reproduce_command(words)


def data(words: list[str]) -> int:
    from anomaly_bench.commands.data import data_command

    return data_command(words)


def list_(words: list[str]) -> int:
    from anomaly_bench.commands.listing import list_command

    return list_command(words)


def show(words: list[str]) -> int:
    from anomaly_bench.commands.show import show_command

    return show_command(words)


def completion(words: list[str]) -> int:
    from anomaly_bench.commands import completion as module

    sys.stdout.write(module.script(*_at_most(words, 1, "bash|zsh") or ["bash"]))
    return 0


def complete(words: list[str]) -> int:
    """What the shell's function calls: candidates for the last of the words typed so far."""
    from anomaly_bench.commands import completion as module

    sys.stdout.write("".join(f"{c}\n" for c in module.candidates(words)))
    return 0


def _at_most(words: list[str], n: int, names: str) -> list[str]:
    from anomaly_bench.errors import UserError

    if wrong := [word for word in words if word.startswith("-")]:
        raise UserError("bench", f"'{wrong[0]}' is no option of this verb", f"it takes {names}")
    if len(words) > n:
        raise UserError("bench", f"too many words: {' '.join(words)}", f"it takes {names}")
    return words
