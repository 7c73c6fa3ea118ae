"""`emalign sweep`: a grid of searches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emalign_jax.cli import options
from emalign_jax.cli.lines import tell_figures
from emalign_jax.experiments.progress import GridProgress


def sweep(
    config: Annotated[
        str | None, typer.Argument(metavar="SPEC.toml", help="The grid; a file, or the name of a shipped config.")
    ] = None,
    count: options.CountOption = None,
    set_: options.SetOption = None,
    out: Annotated[str | None, typer.Option(help="Directory of the sweep; default sweep-NAME.")] = None,
    force: options.ForceOption = False,
    workers: options.WorkersOption = 1,
    cluster: options.ClusterOption = None,
    plugin: options.PluginOption = None,
    format_: options.FormatOption = None,
    width: options.WidthOption = None,
    quiet: options.QuietOption = False,
    list_: options.ListOption = False,
    json_: options.JsonOption = False,
) -> None:
    """Search equilibria over a grid of games, users, protocols and solvers; certify, measure, draw.

    A list in the specification is an axis of the grid. What is done is kept: after an interruption the same command
    goes on where it stopped and ends with the same table.

    \b
    Examples:
      emalign sweep competition --out competition
      emalign sweep bias --count 20 --out small
      emalign sweep my-grid.toml --out my-grid --json > my-grid.json
      emalign sweep competition --set games.agents=[2,4] --set user.precision=20 --out quantal --workers 4
      emalign sweep my-grid.toml --plugin my_protocol.py
      emalign sweep --list
    """
    config = options.shipped(config, list_)

    from emalign_jax.experiments import executors
    from emalign_jax.experiments.grid import experiment
    from emalign_jax.internal import plugins
    from emalign_jax.report.figures import sweep as figures
    from emalign_jax.report.style import attempt

    path = Path(f"sweep-{Path(config).stem}" if out is None else out)
    changes, loaded = options.settings(set_, {"count": count}), plugins.load(plugin or [])
    look = options.look(format_, width)
    source = executors.chosen(workers, cluster)

    def draw(found) -> list[str]:
        return attempt(lambda: figures.draw(found.plan, found.rows, path, look))

    with GridProgress(quiet) as progress:
        found = experiment.perform("sweep", config, changes, loaded, path, force, source, progress, draw, look.asked)
    rows = found.rows
    _tell(found.plan, rows, path, progress.slowest(), json_)
    if len(rows.query("not ok")) or found.drawn == []:
        raise typer.Exit(1)


def _tell(grid, rows, path: Path, slowest: str, json_: bool) -> None:
    from emalign_jax.experiments import toml
    from emalign_jax.experiments.grid import run, table, threshold
    from emalign_jax.report import sweep_table

    lines, stops = sweep_table.summary(grid, rows), threshold.thresholds(grid, rows)
    seconds = float(rows["seconds"].to_numpy().sum())
    if json_:
        tolerance = {cell.key: {"tolerance": cell.specification.solver.tolerance} for cell in grid.cells()}
        axes = [{name: toml.plain_value(line[name]) for name in grid.axes} for line in lines]
        cells = [line | tolerance[line["cell"]] | own for line, own in zip(lines, axes, strict=True)]
        stops = [{name: toml.plain_value(x) for name, x in stop._asdict().items()} for stop in stops]
        summary = {"failed": len(rows.query("not ok")), "rows": len(rows), "seconds": seconds, "run": str(path)}
        print(table.document(cells=cells, summary=summary, thresholds=stops))
        return
    failed = table.failures(rows, tuple(a for a in grid.axes if a not in ("games.family", "games.agents")))
    print(f"{grid.title}: user value (0 no information, 1 full information)\n")
    print(sweep_table.render(grid, lines))
    if stops:
        print(f"\n{threshold.explain(grid)}:")
        print("\n".join(f"  {stop.family} K={stop.agents}: {threshold.words(grid, stop)}" for stop in stops))
    if unproved := len(rows.query("ok and not certified")):
        print(f"\nOf {unproved} rows no gain above the tolerance was found, but none is excluded either.")
    short = table.below_worst(rows)
    if short.any():
        print(f"\n{table.below_worst_words(int((short > 0).sum()), short.max())}")
    if failed:
        print(f"\nNot within {sweep_table.tolerance(grid)} of the payoff range:\n{failed}")
    slow = f" ({slowest})" if slowest else ""
    print(f"\n{len(rows)} rows in {seconds:.1f} s of work{slow}. Table: {path / run.TABLE}")
    tell_figures(path, run.SWEEP.files)
