"""Extension of griffe: docstrings are plain text with `code`, examples and indented blocks; comments explain fields.

A field or constant without a docstring gets the comment at the end of its line: that is where shapes and units stand.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Attribute, Docstring, Extension

COMMENT = re.compile(r"  # (?!type: |noqa|fmt: )(.+)$")
CODE = re.compile(r"(`+[^`]+`+)")
NAME = re.compile(r"\n(?=\w+: )")  # before "name: meaning" at the start of a line
MARKUP = re.compile(r"[*_\[\]]")


def to_markdown(text: str) -> str:
    """Return a docstring as Markdown: examples and indented blocks are code, all else but `code` is taken literally."""
    blocks = re.split(r"\n{2,}", text.strip("\n"))
    return "\n\n".join(_block(block) for block in blocks)


def _block(block: str) -> str:
    if block.lstrip().startswith(">>> "):
        return f"```pycon\n{block}\n```"
    if block.startswith("    "):
        return block
    parts = CODE.split(block)  # text and code take turns
    parts[::2] = [MARKUP.sub(r"\\\g<0>", part).replace("<", "&lt;") for part in parts[::2]]
    return NAME.sub("  \n", "".join(parts))


class PlainDocstrings(Extension):
    """Turns each docstring of the package into Markdown."""

    def on_instance(self, *, node: Any, obj: Any, agent: Any, **kwargs: Any) -> None:
        """Change the docstring of a module, class, function or attribute in place."""
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)
        elif isinstance(obj, Attribute) and obj.lines:
            comment = COMMENT.search(obj.lines[0]) or COMMENT.search(obj.lines[-1])
            if comment or (obj.parent.is_class and obj.annotation):  # a field is shown even where its name says it all
                obj.docstring = Docstring(to_markdown(comment[1]) if comment else "&nbsp;", parent=obj)
