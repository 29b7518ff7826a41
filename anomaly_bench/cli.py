"""The verbs of `bench`.  A user's mistake becomes one line and exit code 2.  A verb imports what it needs, no more."""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

HELP = """usage: bench VERB [KEY=VALUE ...]

train, measure and compare unsupervised visual anomaly detection

  bench train method=rd dataset=mvtec/bottle [hardware=gpu] [KEY=VALUE ...]
              train and measure; a finished run is not repeated, an interrupted one goes on
              -m, --multirun     what is missing of every combination: method=rd,csflow dataset=mvtec/all seed=0,1,2
              --cfg job          print the configuration and stop
              --config-dir DIR   also look for method/*.yaml, dataset/*.yaml ... in DIR
              without method, dataset and experiment: method=us_fast dataset=demo/brick
  bench eval RUN [RUN ...] [dataset.root=DIR]
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
  bench data cache [clear [pixels|features|teachers|parts ...] [older=DAYS]] [root=DIR]
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
FIRST_RUN = ["method=us_fast", "dataset=demo/brick"]  # offline, in minutes, on any laptop
UNWRITABLE = {
    errno.ENOSPC,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EFBIG,
    errno.EDQUOT,
    errno.EEXIST,
}


def main(words: list[str] | None = None) -> int:
    """Entry point.  Exit codes: 0 done, 1 failed, 2 the user can mend it, 3 in work elsewhere, 130 interrupted."""
    words = sys.argv[1:] if words is None else words
    try:
        return dispatch(words)
    except KeyboardInterrupt:
        say("interrupted; the same command goes on where it stopped")
        return 130
    except BrokenPipeError:  # `bench list runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return explain(error)


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
    asked = {"-h", "--help"} & set(words) and words[0] != "train"  # that one is Hydra's
    if not words or words[0] == "help" or asked:
        sys.stdout.write(HELP)
        return 0
    if words[0] == "--version":
        from anomaly_bench import __version__

        sys.stdout.write(f"{__version__}\n")
        return 0
    if words[0] not in verbs:
        raise none_of("bench", words[0], [v for v in verbs if v[0] != "-"])
    return verbs[words[0]](words[1:])


def explain(error: BaseException) -> int:
    """Say what went wrong; a traceback only for what no user can have meant."""
    from anomaly_bench.errors import UserError

    if isinstance(error, UserError):
        say(str(error))
        return error.code
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        say(f"{error.filename}: {error.strerror} (free some space or choose another output_dir=DIR)")
        return 2
    traceback.print_exception(error)
    say(f"failed: {type(error).__name__}: {error}")
    return 1


def say(text: str) -> None:
    sys.stderr.write("".join(f"bench: {line}\n" for line in text.splitlines()))


def train(words: list[str]) -> int:
    """Hydra from the second word on; before it starts, every mistake of every job is looked for."""
    import hydra
    from hydra._internal.utils import get_args_parser

    from anomaly_bench import config
    from anomaly_bench.errors import UserError

    args = get_args_parser().parse_args(words)
    if not any(re.match(r"\+?(method|dataset|experiment)=", word) for word in args.overrides):
        words, args.overrides = [*words, *FIRST_RUN], [*args.overrides, *FIRST_RUN]
    if args.cfg and args.multirun:
        raise UserError("--cfg", "prints one configuration, --multirun asks for several", "leave out one of them")
    if args.multirun:
        sys.stderr.write(f"planning {config.count(args.overrides, args.config_dir)} runs\n")  # torch is slow to import
        sys.stderr.flush()
        from anomaly_bench.run.sweep import console_log, sweep

        console_log()
        return sweep(args.overrides, main, args.config_dir)
    if not (args.help or args.hydra_help or args.info or args.shell_completion):
        (job,) = config.check(args.overrides, types=not args.cfg, extra=args.config_dir)
        words = [*(word for word in words if word not in args.overrides), *job]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach `main` as they are
    sys.argv = ["bench", *words]
    _failed.clear()
    hydra.main(version_base="1.3", config_path=str(config.conf_dir()), config_name="config")(train_one)()
    return max((explain(e) for e in _failed), default=0)


_failed: list[BaseException] = []


def train_one(cfg: Any) -> None:
    """One run, configured by Hydra; a function of the module, because launchers pickle it by reference."""
    from hydra.core.hydra_config import HydraConfig

    from anomaly_bench.report.tables import print_run
    from anomaly_bench.run import console_log, run

    console_log()
    try:
        sources = HydraConfig.get().runtime.config_sources
        options = [word for s in sources if s.provider == "command-line" for word in ("--config-dir", s.path)]
        print_run(run(cfg, list(HydraConfig.get().overrides.task), options))
    except Exception as error:  # a launcher on another machine would make it its own; the run folder has it on record
        _failed.append(error)


def eval_(words: list[str]) -> int:
    """Measure without a model."""
    from anomaly_bench.evaluate.words import parse

    asked = parse(words)
    if asked.maps and asked.masks:
        from anomaly_bench.evaluate.maps import eval_maps
        from anomaly_bench.report.tables import print_measured

        eval_maps(asked.maps, asked.masks, asked, print_measured)
    elif asked.write_tiff:
        from anomaly_bench.evaluate.tiff import write_runs

        write_runs(asked.write_tiff, asked)
    else:
        from anomaly_bench.evaluate.runs import eval_runs
        from anomaly_bench.report.tables import print_run

        eval_runs(asked, print_run)
    return 0


def report(words: list[str]) -> int:
    from anomaly_bench.report.tables import write_report

    write_report((_at_most(words, 1, "OUTPUTS") or ["outputs"])[0])
    return 0


def reproduce(words: list[str]) -> int:
    from anomaly_bench.reproduce import reproduce_command

    return reproduce_command(words)


def data(words: list[str]) -> int:
    from anomaly_bench.data.prepare import data_command

    return data_command(words)


def list_(words: list[str]) -> int:
    from anomaly_bench import describe

    return describe.list_command(words)


def show(words: list[str]) -> int:
    from anomaly_bench import describe

    return describe.show_command(words)


def completion(words: list[str]) -> int:
    from anomaly_bench import complete as module

    sys.stdout.write(module.script(*_at_most(words, 1, "bash|zsh") or ["bash"]))
    return 0


def complete(words: list[str]) -> int:
    """What the shell's function calls: candidates for the last of the words typed so far."""
    from anomaly_bench import complete as module

    sys.stdout.write("".join(f"{c}\n" for c in module.candidates(words)))
    return 0


def _at_most(words: list[str], n: int, names: str) -> list[str]:
    from anomaly_bench.errors import UserError

    if wrong := [word for word in words if word.startswith("-")]:
        raise UserError("bench", f"'{wrong[0]}' is no option of this verb", f"it takes {names}")
    if len(words) > n:
        raise UserError("bench", f"too many words: {' '.join(words)}", f"it takes {names}")
    return words
