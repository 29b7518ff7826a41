"""Code lines of the package, room by room: no blank lines, comments or docstrings.

python scripts/count_code_lines.py
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "anomaly_bench"
SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(source: str) -> int:
    """Lines that hold a token which is neither a comment nor part of a docstring."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    held = {n for token in tokens if token.type not in SILENT for n in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(source)):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if documented and ast.get_docstring(node) is not None:
            held -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(held)


def main() -> None:
    """Print a line for each room, and the sum."""
    rooms: Counter[str] = Counter()
    for file in sorted(PACKAGE.rglob("*.py")):
        place = file.relative_to(PACKAGE)
        rooms[place.parts[0] if len(place.parts) > 1 else "(beside the rooms)"] += code_lines(file.read_text("utf-8"))
    for room, lines in [*sorted(rooms.items()), ("all", sum(rooms.values()))]:
        sys.stdout.write(f"{room:20}{lines:6}\n")


if __name__ == "__main__":
    main()
