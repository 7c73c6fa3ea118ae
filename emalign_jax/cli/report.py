"""`emalign report`: the results of a run as one page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def report(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="What search, sweep, study, align, market or tune wrote.")
    ],
    out: Annotated[Path | None, typer.Option(help="The page; default DIR/report.html.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the page if it is there; in DIR only one that was made there.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a sentence.")] = False,
) -> None:
    """Write a run as one self-contained HTML page: rows to sort, filter, plot and open, figures, tables, and how to
    compute them again.

    \b
    Examples:
      emalign report search-1
      emalign report competition --out competition.html
    """
    from emalign_jax.experiments import run_store
    from emalign_jax.experiments.grid.table import document
    from emalign_jax.internal.files import atomic, check_output
    from emalign_jax.report.page import contents, render

    path = directory / "report.html" if out is None else out
    contents.check(directory)
    check_output(path, "--out", force)
    found = contents.read(directory)
    text = render.render(found)
    inside = os.path.realpath(path.parent) == os.path.realpath(directory)
    if inside and os.path.lexists(path) and path.name not in found.files:
        raise ValueError(
            f"{path}: --out: is not the run's own file, so --force does not replace it; choose another name"
        )
    with atomic(path, replace=force) as temporary:
        temporary.write_text(text, "utf-8", "backslashreplace")  # a file's name may hold what is no text
    if inside:
        run_store.add(directory, path.name)
    if json_:
        summary = {"page": str(path), "kind": found.kind, "figures": len(found.figures), "failed": found.failed}
        print(document(summary=summary))
    else:
        drawn = "1 figure" if len(found.figures) == 1 else f"{len(found.figures)} figures"
        tables = "1 table" if len(found.tables) == 1 else f"{len(found.tables)} tables"
        print(f"{found.title}: {drawn}, {tables}, {len(text) / 1e6:.1f} MB: {path}")
