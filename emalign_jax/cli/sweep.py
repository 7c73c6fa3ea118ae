"""`emalign sweep`: a grid of searches, resumable."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from emalign_jax.cli.options import ChangeOption, PluginOption, settings


def sweep(
    config: Annotated[
        str | None, typer.Argument(metavar="CONFIG.toml", help="The grid; a file, or the name of a shipped config.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Directory of the sweep; default sweep-NAME.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Games a cell, in place of what the config says.")] = None,
    plugin: PluginOption = None,
    set_: ChangeOption = None,
    list_: Annotated[bool, typer.Option("--list", help="Print the names of the shipped configs and stop.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Start anew where a sweep is there; other files stay.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of the table.")] = False,
) -> None:
    """Search equilibria over a grid of games, users, protocols and solvers; certify, measure, draw.

    A list in the config is an axis of the grid. What is done is kept: after an interruption the same command goes on
    where it stopped and ends with the same table.

    \b
    Examples:
      emalign sweep competition --out competition
      emalign sweep bias --count 20 --out small
      emalign sweep my-grid.toml --out my-grid --json > my-grid.json
      emalign sweep competition --set games.agents=[2,4] --set user.precision=20 --out quantal
      emalign sweep my-grid.toml --plugin my_protocol.py
      emalign sweep --list
    """
    from emalign_jax.experiments import toml
    from emalign_jax.experiments.sweep import config as configs

    if list_:
        print("\n".join(f"{name:<12} {configs.read(name).title}" for name in configs.shipped()))
        return
    if config is None:
        raise ValueError(f"CONFIG.toml: expected a file or one of {', '.join(configs.shipped())}")

    from emalign_jax.internal import plugins

    loaded = plugins.load(plugin or [])
    changes = settings(set_)
    if count is not None and "games.count" in changes:
        raise ValueError("--count, --set games.count: mean the same; give one of them")
    grid = dataclasses.replace(configs.read(config, changes).with_count(count), plugins=loaded)

    from emalign_jax.experiments import run_directory
    from emalign_jax.experiments.sweep import cell, directory, run
    from emalign_jax.internal import ending

    path = Path(f"sweep-{Path(config).stem}" if out is None else out)
    plan = grid.plain()
    entries = run_directory.manifest(directory.SWEEP, plan, plan["seed"], tolerances=list(grid.tolerances))
    run_directory.check(path, directory.SWEEP, force, entries)
    cells = grid.cells()
    cell.check(grid, cells)

    from emalign_jax.experiments.search import table as documents
    from emalign_jax.experiments.sweep import threshold
    from emalign_jax.report import sweep_figures, sweep_table
    from emalign_jax.report.drawing import attempt

    with run_directory.begun(path, directory.SWEEP, entries, force) as here:
        work = run.blocks(grid, cells)
        total = sum(block.rows for block in work)
        bar = _Bar(total)

        def kept() -> str:
            return f"{bar.done} of {total} games are done and kept in {path}; the same command goes on from there"

        with bar, ending.interrupt_message(kept):
            parts = run.run(grid, work, path, warn=bar.warn, progress=bar.tell)
        rows = directory.write_table(path, parts)
        lines = sweep_table.summary(grid, rows)
        stops = threshold.thresholds(grid, rows)
        drawn = attempt(lambda: sweep_figures.draw(grid, rows, path))
        seconds = float(rows["seconds"].to_numpy().sum())
        here.finish(entries | {"cells": len(cells), "rows": len(rows)}, seconds)
    failed = documents.failures(rows, tuple(a for a in grid.axes if a not in ("games.family", "games.agents")))
    if json_:
        summary = {"failed": len(rows.query("not ok")), "rows": len(rows), "seconds": seconds, "run": str(path)}
        tolerance = {one.key: {"tolerance": one.values["solver.tolerance"]} for one in cells}
        entries = [
            line | tolerance[line["cell"]] | {name: toml.plain_value(line[name]) for name in grid.axes}
            for line in lines
        ]
        document = {"schema": documents.JSON_SCHEMA, "cells": entries, "summary": summary}
        document["thresholds"] = [
            {name: configs.plain_value(x) for name, x in stop._asdict().items()} for stop in stops
        ]
        print(json.dumps(documents.plain(document), allow_nan=False))
    else:
        print(f"{grid.title}: user value (0 no information, 1 full information)\n")
        print(sweep_table.render(grid, lines))
        if stops:
            print(f"\n{threshold.explain(grid)}:")
            print("\n".join(f"  {stop.family} K={stop.agents}: {threshold.words(grid, stop)}" for stop in stops))
        if len(rows.query("ok and not certified")):
            unproved = len(rows.query("ok and not certified"))
            print(f"\nOf {unproved} rows no gain above the tolerance was found, but none is excluded either.")
        short = documents.below_worst(rows)
        if short.any():
            print(f"\n{documents.below_worst_words(int((short > 0).sum()), short.max())}")
        if failed:
            print(f"\nNot within {sweep_table.tolerance(grid)} of the payoff range:\n{failed}")
        print(f"\n{len(rows)} rows in {seconds:.1f} s of work. Table: {path / directory.TABLE}")
        for name in drawn:
            print(f"Figure: {path / name}")
    if failed or not drawn:
        raise typer.Exit(1)


class _Bar:
    """A bar with the time left, on stderr and on terminals only; warnings are printed above it."""

    def __init__(self, total: int):
        self.done = 0
        self._total = total
        self._bar: tqdm | None = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar.close()

    def tell(self, cell, rows: int) -> None:
        self.done += rows
        if self._bar is None:  # what was there took no time, and says nothing about the time left
            look: dict[str, Any] = {"unit": "game", "leave": False, "dynamic_ncols": True}
            hidden = not sys.stderr.isatty()
            self._bar = tqdm(total=self._total, initial=rows, file=sys.stderr, disable=hidden, **look)
        elif rows:
            self._bar.update(rows)
        else:
            self._bar.set_description(f"{cell.values['games.family']} K={cell.values['games.agents']}")

    def warn(self, sentence: str) -> None:
        tqdm.write(f"emalign: {sentence}", file=sys.stderr)
