"""Export finished runs in both formats, and write what their certificates say into docs/export.md.

    python scripts/export_figures.py OUT RUN... [--write]

OUT keeps the files; what is there is not exported again.  A run that cannot be exported is a line with the reason.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pages

from anomaly_bench.runs.folder import RunFolder

PAGE = Path(__file__).parents[1] / "docs" / "export.md"
FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
BEGIN, END = "<!-- certificates: begin -->", "<!-- certificates: end -->"


def certificate(run: Path, format: str, out: Path) -> dict[str, Any] | str:
    """Return the certificate of a run's file, after exporting it where it is missing; or why there is none."""
    manifest = RunFolder(run).manifest
    file = out / f"{manifest['method']}-{manifest['category']}-{manifest['id']}{FORMATS[format]}"
    known = file.with_name(f"{file.name}.certificate.json")
    if not known.exists():
        words = [sys.executable, "-m", "anomaly_bench", "export", str(run), "--format", format, "--out", str(file)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            return done.stderr.strip().splitlines()[-1].removeprefix("bench: ")
    return json.loads(known.read_text())  # type: ignore[no-any-return]


def line(run: Path, format: str, out: Path) -> str:
    """Markdown: a line of the table."""
    manifest, found = RunFolder(run).manifest, certificate(run, format, out)
    names = f"| {manifest['method']} | {manifest['dataset']}/{manifest['category']} | {format} |"
    if isinstance(found, str):
        return f"{names} {found} | | | |"
    apart, tested = found["largest_difference"], f"{found['test_images']} + {len(found['other_images'])}"
    maps = f"{apart['map']:.1e}" if "map" in apart else "-"
    metrics = ", ".join(f"{values[1]:.4f}" for values in found["metrics"].values())
    return f"{names} {tested} | {apart['score']:.1e} | {maps} | {metrics} |"


def main() -> None:
    """Export what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--write", action="store_true", help="into docs/export.md")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    columns = ["method", "images", "format", "test + odd images", "scores apart", "maps apart"]
    lines = [f"| {' | '.join(columns)} | image AUROC, pixel AUROC, AUPRO@0.3 |"]
    lines.append("|---|---|---|---:|---:|---:|---|")
    for run in args.runs:
        for format in FORMATS:
            lines.append(line(run, format, args.out))
            print(lines[-1], flush=True)
    provenance = pages.provenance("torch", "onnx", "onnxruntime").split("\n", 1)[1]  # without the places of runs
    text = "\n".join([*lines, "", provenance.strip()])
    if args.write:
        before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
        pages.write(PAGE, f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
