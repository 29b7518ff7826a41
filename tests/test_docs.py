"""Links between the pages lead to something, and the API reference has the rooms that users and authors meet."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from small_runs import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FENCED = re.compile(r"^(```+).*?^\1", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!\w+:)([^)\s#]*)#?([^)\s]*)\)")  # path, anchor; not a URL
INNER = {"commands", "config", "evaluation", "html_report", "loading", "nets", "results", "runs", "sweeps"}


def anchors(page: Path) -> set[str]:
    """The anchors that a code host gives the headings of a page."""
    headings = re.findall(r"^#+ +(.+?) *$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[tuple[Path, str]]:
    """File or folder, and anchor, of each relative link of a page."""
    text = re.sub("`[^`]+`", "", FENCED.sub("", page.read_text(encoding="utf-8")))
    return [(page.parent / path if path else page, anchor) for path, anchor in LINK.findall(text)]


def is_dead(target: Path, anchor: str) -> bool:
    return not target.exists() or bool(anchor and anchor not in anchors(target))


def test_no_link_is_dead() -> None:
    assert sum(len(links(page)) for page in PAGES) > 30
    assert [(page.name, *link) for page in PAGES for link in links(page) if is_dead(*link)] == []


@pytest.mark.parametrize(
    ("link", "dead"),
    [
        ("[a](page.md)", [False]),
        ("![a](page.md#two-words-here)", [False]),
        ("[a](#one)", [False]),
        ("[a](missing.md) [b](page.md#missing)", [True, True]),
        ("[a](https://example.org) `[b](missing.md)`\n\n```\n[c](missing.md)\n# three\n```\n", []),
        ("[a](#three)", [True]),
    ],
)
def test_dead_links_are_found(tmp_path: Path, link: str, dead: list[bool]) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# One\n\n{link}\n\n## Two `words`, here\n\n```\n# three\n```\n")
    assert [is_dead(*each) for each in links(page)] == dead


def test_every_room_for_users_and_authors_is_in_the_api_reference() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in ROOT.glob("docs/api/*.md"))
    rooms = {file.parent.name for file in ROOT.glob("anomaly_bench/*/__init__.py")} - INNER
    assert len(rooms) >= 3
    assert rooms | {"contracts", "errors"} <= set(re.findall(r"^::: anomaly_bench\.(\w+)$", pages, re.MULTILINE))
