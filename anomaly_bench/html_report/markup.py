"""HTML and SVG from Python: an element is a call, text is escaped unless it is markup already; and a page's frame."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from html import escape

from anomaly_bench import __version__

VOID = {"img", "input", "link", "meta"}


class Markup(str):
    """Text that is HTML; anything else is escaped when it enters an element."""

    __slots__ = ()


def el(name: str, /, *children: object, **attributes: object) -> Markup:
    """<name attributes>children</name>.  Children: markup, text, nested lists, None for nothing.

    Attributes: `class_`, `stroke_width` become `class`, `stroke-width`; True is a bare one; None and False leave out.
    """
    words = [name]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(key)
        elif value is not None and value is not False:
            words.append(f'{key}="{escape(str(value))}"')
    start = f"<{' '.join(words)}>"
    return Markup(start if name in VOID else f"{start}{join(children)}</{name}>")


def join(children: Iterable[object]) -> Markup:
    """Markup of all of them, one after the other."""
    parts = []
    for child in children:
        if isinstance(child, Markup):
            parts.append(child)
        elif isinstance(child, (list, tuple)):
            parts.append(join(child))
        elif child is not None:
            parts.append(Markup(escape(str(child))))
    return Markup("".join(parts))


def file_name(*words: str) -> str:
    """A name for files and anchors, the same for the same words and another for others, also where case is ignored."""
    clean = [re.sub(r"[^a-z0-9_-]+", "_", word.lower())[:60] for word in words]
    return ".".join(clean) + ("" if clean == [*words] else f"-{zlib.crc32(repr(words).encode()):08x}")


class Section(Markup):
    """A part of a page; `contents` links to it."""

    heading: str
    anchor: str


def section(title: str, *children: object, name: str = "", note: object = None) -> Section:
    """A part of a page under a heading that can be linked to."""
    name = name or title.lower().replace(" ", "-")
    head = el("h2", el("a", title, href=f"#{name}"))
    made = Section(el("section", head, el("p", note, class_="note") if note else None, *children, id=name))
    made.heading, made.anchor = title, name
    return made


def contents(parts: Iterable[object]) -> Markup:
    """A link to each section among the parts of a page."""
    links = [el("a", part.heading, href=f"#{part.anchor}") for part in parts if isinstance(part, Section)]
    return el("ul", [el("li", link) for link in links], class_="links")


def setting(head: str) -> Markup:
    """A setting's name: the method, and small what was changed about it."""
    method, _, changed = head.partition(" ")
    return join([method, el("small", changed) if changed else None])


def table(heads: Sequence[object], lines: Iterable[Sequence[object]], foot: int = 0, caption: object = None) -> Markup:
    """A table that can be sorted by every column; the last `foot` lines stay at its end.

    Cells: markup that is a cell already, or text.  The first column is a line's heading.
    """
    rows = [el("tr", [_cell(cell, i) for i, cell in enumerate(line)]) for line in lines]
    head = el(
        "tr", [h if _is(h, "th") else el("th", el("button", _broken(h), type="button"), scope="col") for h in heads]
    )
    body, end = rows[: len(rows) - foot], rows[len(rows) - foot :]
    parts = [el("thead", head), el("tbody", body), el("tfoot", end) if end else None]
    whole = el("table", el("caption", caption) if caption else None, *parts, class_="sortable")
    return el("div", whole, class_="scroll", tabindex=0, role="region", aria_label=_plain(caption) or "table")


def _broken(head: object) -> Markup:
    """May go on in a new line after each `_` of a plain text."""
    return head if isinstance(head, Markup) else Markup(escape(str(head)).replace("_", "_<wbr>"))


def _cell(cell: object, column: int) -> Markup:
    if _is(cell, "t"):
        return cell  # type: ignore[return-value]
    return el("td", cell) if column else el("th", cell, scope="row")


def _is(cell: object, name: str) -> bool:
    return isinstance(cell, Markup) and bool(re.match(rf"<{name}[dh ]?[ >]", cell))


def _plain(markup: object) -> str:
    return re.sub(r"<[^>]*>", "", markup) if isinstance(markup, str) else ""


def page(title: str, parts: Sequence[object], *, top: str = "", here: object = None, data: str = "") -> Markup:
    """A whole page.  parts: among them sections, which are linked to.  top: the way from its folder to the report's,
    `../`.  here: links to where it belongs.  data: a script with the page's data, from the report's folder.
    """
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        el("link", rel="icon", href="data:,"),
        el("link", rel="stylesheet", href=f"{top}static/report.css"),
        el("script", src=f"{top}{data}", defer=True) if data else None,
        el("script", src=f"{top}static/report.js", defer=True),
    )
    switch = el("button", "◐", type="button", id="theme", title="light, dark, or as the system", aria_label="colours")
    bar = el("header", el("a", "anomaly_bench", href=f"{top}index.html", class_="home"), el("nav", here), switch)
    skip = el("a", "to the content", href="#content", class_="skip")
    body = el("body", skip, bar, el("main", el("h1", title), contents(parts), parts, id="content"), _footer())
    return Markup(f"<!doctype html>\n{el('html', head, body, lang='en')}\n")


def _footer() -> Markup:
    return el("footer", f"Written by `bench report` of anomaly_bench {__version__}. Opens from disk; asks no network.")
