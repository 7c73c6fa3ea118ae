"""All benchmarks, one after the other: `python benchmarks/run.py` (`--quick`: the smoke tests, seconds each).

Each is a script of its own, run in a process of its own with one OpenMP thread. Into --out go NAME.json of each, and
`ratios.md` and `ratios.png`: every row that is a comparison, with its target.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = ("selection", "beliefs", "search", "workers", "market", "play", "lps", "tuning", "exact", "conversations")


def comparisons(folder: Path) -> list[dict]:
    """Rows with a ratio, from all scripts that have run."""
    found = []
    for name in SCRIPTS:
        if (path := folder / f"{name}.json").exists():
            document = json.loads(path.read_text())
            found += [row | {"script": name} for row in document["rows"] if "ratio" in row]
    return found


def bound(target) -> tuple[bool, float]:
    """(whether more is better, the target)."""
    text = str(target or "nan")
    return not text.startswith("<"), float(text.strip("<>= "))


def table(rows: list[dict]) -> str:
    lines = ["| row | size | ratio | target |", "| --- | --- | ---: | ---: |"]
    for row in rows:
        lines.append(f"| {row['row']} | {row['size']} | {row['ratio']:.3g} | {row.get('target', '')} |")
    return "\n".join(lines) + "\n"


def picture(rows: list[dict], path: Path) -> None:
    """Write the rows in which more is better, in the style of the package's figures."""
    from emalign_jax.report import style

    style.styled(_draw)(style, [row for row in rows if bound(row.get("target"))[0]], path)


def _draw(style, rows: list[dict], path: Path) -> None:
    names = [
        textwrap.fill(re.sub(" ([=<]+) ", "\N{NO-BREAK SPACE}\\1\N{NO-BREAK SPACE}", row["row"]), 48) for row in rows
    ]
    figure, (axes,) = style.blank(1, width=5.5, height=0.6 + 0.34 * len(rows))
    for y, row in enumerate(rows):
        target = bound(row.get("target"))[1]
        colour = style.GREY if target != target else style.COLOURS[0 if row["ratio"] >= target else 1]
        axes.plot([1, row["ratio"]], [y, y], color=colour, lw=2)
        axes.plot(row["ratio"], y, "o", color=colour, ms=5)
        axes.plot([target] * 2, [y - 0.35, y + 0.35], color=style.INK, lw=1.2)
        end = max(row["ratio"], 0 if target != target else target)
        number = f"{float(format(row['ratio'], '.3g')):,g}"
        axes.annotate(number, (end, y), (6, 0), textcoords="offset points", va="center", fontsize=style.SMALL)
    axes.set_xscale("log")
    axes.set_xlim(1, 8 * max(row["ratio"] for row in rows))
    style.plain_log(axes.xaxis)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), names)
    axes.set_xlabel("times as fast as the baseline\n(black: the target; orange: missed)")
    style.save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes: do they run at all?")
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=SCRIPTS, help="these scripts")
    parser.add_argument("--nashopt", metavar="PYTHON", help="an interpreter that has nashopt, for the rows against it")
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"), help="folder (default: %(default)s)")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    failed = []
    for name in given.only:
        command = [sys.executable, HERE / f"{name}.py", "--out", given.out / f"{name}.json"]
        command += ["--quick"] * given.quick
        if given.nashopt and name in ("play", "tuning"):
            command += ["--nashopt", given.nashopt]
        print(f"== {name}", flush=True)
        if subprocess.run(command, env=environment, check=False).returncode:
            failed.append(name)
    rows = comparisons(given.out)
    (given.out / "ratios.md").write_text(table(rows))
    if rows:
        picture(rows, given.out / "ratios.png")
    print(f"\n{table(rows)}\nWritten: {given.out}/*.json, ratios.md, ratios.png")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
