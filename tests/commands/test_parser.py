"""The grammar: help, usage and completion of every verb say what its parser accepts, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from anomaly_bench.commands.completion import candidates
from anomaly_bench.commands.main import main
from anomaly_bench.commands.parser import grammar
from anomaly_bench.commands.verb import HELP, Verb, list_of
from anomaly_bench.errors import UserError


def walk(verb: Verb, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Verb]]:
    yield path, verb
    for name, below in verb.verbs.items():
        yield from walk(below, (*path, name))


VERBS = dict(walk(grammar()))
LEAVES = {path: verb for path, verb in VERBS.items() if not verb.verbs}
SAMPLES = {"--threads": "2", "--memory-mb": "2", "--resamples": "2", "older": "2", "seed": "2",
           "--folds": "2", "--false-alarms": "0.1", "--confidence": "0.9", "--lot": "0.1",
           "--batch-size": "2", "--until-idle": "2", "--batch": "1,best", "--seconds": "2",
           "--ignore-value": "128", "--margin": "0.01", "--interval": "2"}  # fmt: skip


def option_with_value(verb: Verb, name: str) -> list[str]:
    choices = verb.options[name]
    return [name] if choices is None else [name, *(list_of(choices)[:1] or [SAMPLES.get(name, "x")])]


def needed(verb: Verb) -> list[str]:
    """The arguments that a verb cannot do without."""
    return ["mvtec"] if "name" in verb.arguments else ["RUN"] if "run" in verb.required else []


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_help(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    said = set()
    for argv in ([*path, "--help"], [*path, "-h"], ["help", *path]):
        assert main(argv) == 0
        said.add(capsys.readouterr().out)
    (text,) = said
    verb = VERBS[path]
    assert text.startswith(f"usage: {' '.join(['bench', *path])} ")
    for name in (*verb.options, *HELP, *verb.verbs, *(f"{key}=" for key in verb.keys)):
        assert name in text


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_option_is_offered_and_every_offer_is_accepted(path: tuple[str, ...]) -> None:
    verb = LEAVES[path]
    assert candidates([*path, "-"]) == list(verb.options)
    for name in verb.options:
        assert verb.parse([*needed(verb), *option_with_value(verb, name)])
        if choices := list_of(verb.options[name] or ()):
            assert candidates([*path, name, ""]) == choices
            with pytest.raises(UserError, match=name):
                verb.parse([*needed(verb), name, "nonsense"])


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_choice_and_key_is_offered_and_every_offer_is_accepted(path: tuple[str, ...]) -> None:
    verb = LEAVES[path]
    choices = [each for listed in verb.arguments.values() for each in list_of(listed)]
    expected = [*choices, *(f"{key}=" for key in verb.keys)]
    offered = candidates([*path, ""])
    assert offered[: len(expected)] == expected
    if "overrides" not in verb.arguments:  # whose keys are those of a configuration
        assert offered == expected
    for offer in offered[:: 9 if "overrides" in verb.arguments else 1]:  # each composes a configuration
        values = candidates([*path, offer]) if offer.endswith("=") else [offer]
        values = [offer + SAMPLES.get(offer[:-1], "x")] if values == [offer] and offer.endswith("=") else values
        for value in values:
            assert verb.parse([*([] if value in choices else needed(verb)), value])


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_what_is_not_offered_is_refused_with_the_nearest_match(path: tuple[str, ...]) -> None:
    verb = VERBS[path]
    with pytest.raises(UserError, match="--nonsense"):
        verb.parse([*needed(verb), "--nonsense"])
    if verb.verbs:
        offered = [*verb.verbs, *(candidates([*path, verb.default, ""]) if verb.default else [])]
        assert candidates([*path, ""]) == offered
        with pytest.raises(UserError, match=f"did you mean '{next(iter(verb.verbs))}'"):
            verb.parse([f"{next(iter(verb.verbs))}x"])
    for key in verb.keys if not verb.any_key else ():
        with pytest.raises(UserError, match=f"did you mean '{key}'"):
            verb.parse([*needed(verb), f"{key}x=1"])
        value = list_of(verb.keys[key])[:1] or [SAMPLES.get(key, "x")]
        with pytest.raises(UserError, match="twice"):
            verb.parse([*needed(verb), *[f"{key}={value[0]}"] * 2])


def test_a_file_whose_name_looks_like_a_key_is_a_file(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))
    verb, _ = grammar().find(["eval"])
    assert verb.parse(["a=b", "dataset.root=c"]).overrides == ["a=b", "dataset.root=c"]
    open("a=b", "w").close()  # noqa: PTH123
    parsed = verb.parse(["a=b", "dataset.root=c"])
    assert (parsed.run, parsed.overrides) == (["a=b"], ["dataset.root=c"])
