"""`emalign search`: the main job."""

from __future__ import annotations

import contextlib
import importlib
import json
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from emalign_jax.cli import options
from emalign_jax.cli.options import FLAGS, settings
from emalign_jax.experiments.progress import GridProgress, tell_fallbacks


def search(
    spec: Annotated[
        str | None, typer.Argument(metavar="[SPEC.toml]", help="A specification; options and --set change it.")
    ] = None,
    games: options.GamesOption = None,
    family: options.FamilyOption = None,
    count: options.CountOption = None,
    agents: options.AgentsOption = None,
    states: options.StatesOption = None,
    actions: options.ActionsOption = None,
    protocol: options.ProtocolOption = None,
    user: options.UserOption = None,
    precision: options.PrecisionOption = None,
    rounds: options.RoundsOption = None,
    replies: options.RepliesOption = None,
    messages: options.MessagesOption = None,
    starts: options.StartsOption = None,
    seed: options.SeedOption = None,
    set_: options.SetOption = None,
    verify: Annotated[
        bool | None,
        typer.Option("--verify/--no-verify", help="--no-verify: play alone; nothing is checked or certified."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="Run directory; default: the first of search-1, search-2, ... that is free or unfinished."),
    ] = None,
    force: options.ForceOption = False,
    workers: options.WorkersOption = 1,
    cluster: options.ClusterOption = None,
    plugin: options.PluginOption = None,
    quiet: options.QuietOption = False,
    json_: options.JsonOption = False,
) -> None:
    """Search equilibria, certify them, print a table and write a run directory with a figure.

    With no option: does competition align? Selection with a rational user, 1 to 8 agents who start as
    monopolists, three families of random games. What is done is kept: after an interruption the same command
    goes on where it stopped, and ends with the same table.

    \b
    Examples:
      emalign search
      emalign search --protocol pooled --precision 20 --agents 2 --states 3 --messages 4 --count 256
      emalign search --protocol conversation --rounds 2 --precision 20 --agents 2 --states 3 --count 50
      emalign search --set protocol.compare=2 --agents 2,3,5 --count 20
      emalign search --rounds 2 --replies 3 --count 20 --agents 1,2
      emalign search --games games.npz --out my-run --json > my-run.json
      emalign search --protocol pooled --precision 20 --agents 2 --count 1000000 --no-verify --workers 8
      emalign search my-spec.toml --set user.ties=lowest --cluster tcp://10.0.0.1:8786
      emalign search --plugin lottery.py --protocol lottery --set protocol.cost=0.1 --user sparsemax --precision 5
    """
    began = time.perf_counter()
    given = locals()

    from emalign_jax.experiments import executors, plan
    from emalign_jax.experiments.grid import experiment  # which takes a second, as does what it loads
    from emalign_jax.experiments.grid.tally import tally
    from emalign_jax.internal import plugins

    # What draws figures is loaded while games are searched.
    threading.Thread(target=_load, args=("emalign_jax.report.search_figure",), daemon=True).start()
    loaded = plugins.load(plugin or [])
    changes = settings(set_, {name: given[name] for name in FLAGS if name in given})
    own = {} if spec is None else plan.document(spec)
    made = experiment.prepare("search", spec or "", own, changes, loaded)
    title = _title(made.cells[0].specification)
    if "title" in own | changes:
        title = f"{made.plan.title}: {title}"
    drawn, counts = True, None

    def draw(found) -> None:
        nonlocal drawn, counts
        from emalign_jax.report.drawing import attempt
        from emalign_jax.report.search_figure import draw

        counts = new = tally(found.path, found.work)
        drawn = bool(attempt(lambda: draw(new.spread, new.lines, found.path, title)))

    with GridProgress(quiet) as progress:
        place = None if out is None else Path(out)
        source = executors.chosen(workers, cluster)
        found = experiment.perform(made, place, force, source, progress, draw, title, progress.warn)
    seconds = time.perf_counter() - began
    if counts is None:
        with np.errstate(all="ignore"):  # infinite or huge numbers of a file are shown as they are
            counts = tally(found.path, found.work)
    _tell(found, counts, title, seconds, progress.slowest(), json_)
    raise typer.Exit(int(counts.failures > 0 or not drawn))


def _tell(found, counts, title: str, seconds: float, slowest: str, json_: bool) -> None:
    from emalign_jax.experiments.grid import merge, run, table

    tolerance, path = max(found.plan.tolerances), found.path
    if json_:
        summary = {
            "cells": counts.lines.to_dict("records"), "failed": counts.failures, "unchecked": counts.unchecked,
            "run": str(path), "tolerance": tolerance, "lp_fallbacks": counts.fallbacks, "seconds": seconds,
            "below_worst": counts.below_worst, "most_below_worst": counts.short,
        }  # fmt: skip
        _print_json(merge.entries(path), summary)
        return
    failed = table.failures(counts.failed, count=counts.failures)
    print(f"{title}: user value (0 no information, 1 full information)\n")
    print(table.render(counts.lines, tolerance))
    if counts.worthless:
        print(f"\n{counts.worthless} games in which information is worth nothing have no normalised value.")
    if counts.unproved:
        print("\nGains here are the largest that were found; the certificates do not exclude larger ones.")
    if counts.unchecked:
        print("\nNot verified: these are the profiles that play ended with; deviations were not searched for.")
    if counts.below_worst:
        print(f"\n{table.below_worst_words(counts.below_worst, counts.short)}")
    if failed:
        print(f"\nNot within {tolerance:g} of the payoff range:\n{failed}")
    done = f"in {seconds:.1f} s" + (f" ({slowest})" if slowest else "") if found.fresh else "were there already"
    print(f"\n{counts.games} games {done}. Table, schemes and certificates: {path}")
    tell_fallbacks(counts.fallbacks, counts.games)
    names = [name for name in run.SEARCH.files if name.startswith("user_value") and (path / name).exists()]
    if names:
        print(f"Figure: {' and '.join(str(path / name) for name in names)}")


def _print_json(entries, summary: dict) -> None:
    """The one JSON document, entry by entry."""
    from emalign_jax.experiments.grid import table

    whole = table.document([], summary)
    print(f'{{"schema": {whole["schema"]}, "games": [', end="")
    for n, entry in enumerate(entries):
        print(", " * (n > 0) + json.dumps(table.plain(entry), allow_nan=False), end="")
    print(f'], "summary": {json.dumps(whole["summary"], allow_nan=False)}}}')


def _load(module: str) -> None:
    """Import a module ahead of its use, where an error is raised again."""
    with contextlib.suppress(Exception):
        importlib.import_module(module)


def _title(specification: Any) -> str:
    from emalign_jax.experiments.grid.block import modules

    protocol, user, _ = modules(specification)
    start = "agents start as monopolists" if specification.solver.start == "monopolist" else "random starts"
    checked = "" if specification.measure.verify else ", not verified"
    return f"{protocol.title}, {user.title}, {start}{checked}"
