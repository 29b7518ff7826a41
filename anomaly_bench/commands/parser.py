"""The whole grammar of `bench`: its verbs, their options, arguments and keys.  Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from anomaly_bench.commands.parser_runs import CONFIG_DIR, add_submit, add_verbs_of_a_run
from anomaly_bench.commands.verb import Verb, seconds, share

LISTS = {  # of `bench list`: what they list, and the group of the configuration
    "methods": "method",
    "datasets": "dataset",
    "hardware": "hardware",
    "loggers": "logger",
    "experiments": "experiment",
}
RUN_KEYS = ("method", "dataset", "category", "seed")  # of `bench list runs`, besides status
RUN_STATES = ("done", "running", "interrupted", "failed", "damaged", "new")
EPILOG = """keys of a run: bench show method=NAME
what a verb takes: bench VERB --help
more: README.md, CONTRIBUTING.md"""


@cache
def grammar() -> Verb:
    """Return the root of all verbs."""
    bench = Verb("bench", "Train, measure and compare unsupervised visual anomaly detection.", epilog=EPILOG)
    bench.option("--version", action="store_true", help="print the version")
    add_verbs_of_a_run(bench)
    report = bench.verb("report", "tables of all finished runs", REPORT, function="report:report_command")
    report.argument("OUTPUTS", "the folder of runs", "?", default="outputs")
    margin = "a difference below it does not matter: settings that surely differ by less are called equivalent"
    report.option("--margin", type=share, default=0.0, metavar="M", help=margin)
    together = "report.md and report.tex: a single table of means for each data set, not one for each metric"
    report.option("--one-table", action="store_true", help=together)
    drawn = "also write curves, losses, seeds and accuracy over cost as figures for print; needs matplotlib"
    report.option("--figures", choices=("pdf", "svg"), help=drawn)
    _reproduce(bench)
    add_submit(bench)
    _data(bench)
    _list(bench)
    show = bench.verb("show", "a configuration, each number with its source", SHOW, function="show:show_command")
    show.option("--config-dir", metavar="DIR", help=CONFIG_DIR)
    show.argument("KEY=VALUE", "method=rd, dataset=mvtec/bottle, and any key of theirs", "*", name="overrides")
    shell = bench.verb("completion", "tab completion for a shell", COMPLETION, function="completion:script_command")
    shell.argument("SHELL", "bash or zsh", "?", ("bash", "zsh"), default="bash")
    about = bench.verb("help", "explain a verb", function="main:help_command")
    about.argument("VERB", "bench help data cache", "*")
    return bench


REPORT = """Print tables of all finished runs; write them as CSV, Markdown, LaTeX and as pages for a browser
to OUTPUTS/report."""
SHOW = """Print the resolved configuration: each number with its source, and the deviations from the paper."""
COMPLETION = """Print the shell's code for tab completion: eval "$(bench completion bash)" in its start-up file."""
REPRODUCE = """Run what is missing of the papers' tables, then write paper versus ours to OUTPUTS/reproduce.
Exit code: 0 all that can run is done, 1 a run failed, 2 a user error."""


def _reproduce(bench: Verb) -> None:
    summary = "the papers' tables beside ours"
    reproduce = bench.verb("reproduce", summary, REPRODUCE, function="reproduce:reproduce_command")
    plan = "only say what is done, what would run and what cannot, and how to supply what it lacks"
    reproduce.option("--plan", "--dry-run", action="store_true", help=plan)
    reproduce.argument("EXPERIMENT", "a table; default: all", "*", _experiments)
    tiny = "smoke: every table on generated images with tiny settings: offline, in minutes, no results"
    reproduce.key("preset", "NAME", tiny, _presets)
    reproduce.key("outputs", "DIR", "the folder of runs; default: outputs")
    reproduce.key("output_dir", "DIR", "the same")
    reproduce.other_keys("for each run whose method or data set has the key")


def _experiments() -> Iterable[str]:
    from anomaly_bench.commands.reproduce_request import experiments

    return experiments()


def _presets() -> Iterable[str]:
    from anomaly_bench.commands.reproduce_request import presets

    return presets()


def _datasets() -> Iterable[str]:
    from anomaly_bench.datasets.prepare import NAMES

    return NAMES


def _cache_kinds() -> Iterable[str]:
    from anomaly_bench.commands.cache import FILES

    return FILES


def _data(bench: Verb) -> None:
    data = bench.verb("data", "data sets: what is here, download, check; the cache")
    listing = data.verb("list", "what is here", function="data:list_command")
    prepare = data.verb("prepare", "download and unpack a data set", function="data:prepare_command")
    verify = data.verb("verify", "check the files of a data set", function="data:verify_command")
    prepare.argument("NAME", "of the data set", choices=_datasets)
    verify.argument("NAME", "of the data set; folder: your own, in root=DIR", choices=lambda: (*_datasets(), "folder"))
    for verb in (listing, prepare, verify):
        verb.key("root", "DIR", "where the data sets lie; default: $ANOMALY_BENCH_DATA, else ./data")
    prepare.key("urls", "[ADDRESS,...]", "where to download from instead")
    verify.key("decode", "true", "decode each image", ("true", "false"))
    cached = data.verb("cache", "what the cache folder holds; make room in it", default="list")
    summary = "remove files of the cache; teachers, demo and checksums only when named"
    held = cached.verb("list", "what the cache folder holds", function="cache:list_command")
    clear = cached.verb("clear", summary, function="cache:clear_command")
    for verb in (held, clear):
        verb.key("cache_dir", "DIR", "the cache folder")
        verb.key("root", "DIR", "the same")
    clear.argument("KIND", "as `bench data cache` names them", "*", _cache_kinds)
    clear.key("older", "DAYS", "only what was not used for so long")


def _list(bench: Verb) -> None:
    lists = bench.verb("list", "what there is to choose from, and the runs that are there")
    for name in LISTS:
        lists.verb(name, f"the {name} there are", function="listing:list_command")
    runs = lists.verb("runs", "a line for each run folder", function="listing:runs_command")
    runs.argument("OUTPUTS", "the folder of runs", "?", default="outputs")
    for key in RUN_KEYS:
        runs.key(key, "VALUE[,VALUE]", f"only runs of this {key}")
    runs.key("status", "failed,interrupted", f"only runs of this state: {', '.join(RUN_STATES)}", RUN_STATES)
    verify = "read every result file, maps and weights too, and say which is not as its run wrote it"
    runs.option("--verify", action="store_true", help=verify)
    runs.option("--watch", action="store_true", help="show them again and again, those at work first, until Ctrl-C")
    interval = "with --watch: seconds between two looks; default: 2, and 30 where the output is no terminal"
    runs.option("--interval", type=seconds, metavar="S", help=interval)
