"""`emalign study`: users who depart from the theory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emalign_jax.cli import options
from emalign_jax.cli.lines import tell_figures
from emalign_jax.experiments.progress import GridProgress


def study(
    config: Annotated[
        str, typer.Argument(metavar="[SPEC.toml]", help="Games and kinds of users; a file, or a shipped one.")
    ] = "users",
    count: options.CountOption = None,
    set_: options.SetOption = None,
    out: Annotated[str | None, typer.Option(help="Directory of the study; default study-NAME.")] = None,
    force: options.ForceOption = False,
    workers: options.WorkersOption = 1,
    cluster: options.ClusterOption = None,
    plugin: options.PluginOption = None,
    format_: options.FormatOption = None,
    width: options.WidthOption = None,
    quiet: options.QuietOption = False,
    json_: options.JsonOption = False,
) -> None:
    """Does competition help users unlike the theory? Rational, quantal, lazy, erring ... users meet the same games.

    Each user meets one aligned agent, the best and the average single agent, and the competition of all K.
    Printed and drawn are paired differences with their intervals, and where along each departure competition
    stops helping. What is done is kept, as in a sweep. How to read it: docs/guides/study.md.

    \b
    Examples:
      emalign study
      emalign study --set games.family=opposed --set games.agents=[2,4] --out opposed --workers 2
      emalign study --set users.lazy.protocol.compare=[3,1] --count 100 --out lazier
      emalign study --set games.file=market.npz --out market
      emalign study my-users.toml --out mine --json > mine.json
    """
    from emalign_jax.experiments import executors
    from emalign_jax.experiments.grid import experiment
    from emalign_jax.experiments.grid import study as studies
    from emalign_jax.internal import plugins
    from emalign_jax.report.figures import study as figures
    from emalign_jax.report.style import attempt

    path = Path(f"study-{Path(config).stem}" if out is None else out)
    changes, loaded = options.settings(set_, {"count": count}), plugins.load(plugin or [])
    look = options.look(format_, width)
    source = executors.chosen(workers, cluster)

    def draw(found) -> list[str]:
        return attempt(lambda: figures.draw(found.plan, studies.by_game(found.plan, found.rows), path, look))

    with GridProgress(quiet) as progress:
        found = experiment.perform("study", config, changes, loaded, path, force, source, progress, draw, look.asked)
    rows = found.rows
    _tell(found.plan, rows, path, progress.slowest(), json_)
    if len(rows.query("not ok")) or found.drawn == []:
        raise typer.Exit(1)


def _tell(made, rows, path: Path, slowest: str, json_: bool) -> None:
    from emalign_jax.experiments import toml
    from emalign_jax.experiments.grid import run, table
    from emalign_jax.experiments.grid import study as studies
    from emalign_jax.report import study_table

    games = studies.by_game(made, rows)
    lines, stops = studies.summary(made, games), studies.thresholds(made, games)
    failed, seconds = len(rows.query("not ok")), float(rows["seconds"].to_numpy().sum())
    unproved = studies.unproved(games)
    if json_:
        entries = [studies.entry(made, stop) for stop in stops]
        cells, stops = (
            [{name: toml.plain_value(x) for name, x in line.items()} for line in part] for part in (lines, entries)
        )
        summary = {"failed": failed, "unproved": unproved, "rows": len(rows), "seconds": seconds, "run": str(path)}
        print(table.document(cells=cells, thresholds=stops, summary=summary))
        return
    print(f"{made.title}\n\n{study_table.render(made, lines)}\n\n{study_table.NOTE}")
    if stops:
        print(f"\n{studies.EXPLANATION}:")
        print("\n".join(f"  {studies.name_of(stop)}: {studies.words(made, stop)}" for stop in stops))
    if unproved:
        print(f"\nIn {unproved} of {len(games)} games not all values are certified; they are in the means.")
    if failures := table.failures(rows, (studies.USERS, studies.STRENGTH)):
        print(f"\nNot within the tolerance of the payoff range:\n{failures}")
    slow = f" ({slowest})" if slowest else ""
    print(f"\n{len(rows)} rows in {seconds:.1f} s of work{slow}. Table: {path / run.TABLE}")
    tell_figures(path, run.STUDY.files)
