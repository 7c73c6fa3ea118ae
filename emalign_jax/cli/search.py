"""`emalign search`: search for equilibria of random or given games, and certify them."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import threading
from pathlib import Path
from typing import Annotated

import typer

from emalign_jax.cli import options, proofs
from emalign_jax.cli.lines import tell_figures
from emalign_jax.cli.options import FLAGS, settings
from emalign_jax.experiments.progress import GridProgress, tell_fallbacks


def search(
    spec: Annotated[
        str | None, typer.Argument(metavar="[SPEC.toml]", help="A specification; options and --set change it.")
    ] = None,
    games: Annotated[str | None, options.flag("games", metavar="FILE")] = None,
    family: Annotated[str | None, options.flag("family", "; several with commas")] = None,
    count: options.CountOption = None,
    agents: Annotated[str | None, options.flag("agents", "; several with commas", metavar="K,K,...")] = None,
    states: Annotated[int | None, options.flag("states")] = None,
    actions: Annotated[int | None, options.flag("actions")] = None,
    protocol: options.ProtocolOption = None,
    user: options.UserOption = None,
    precision: options.PrecisionOption = None,
    rounds: options.RoundsOption = None,
    replies: options.RepliesOption = None,
    messages: Annotated[int | None, options.flag("messages")] = None,
    starts: Annotated[int | None, options.flag("starts")] = None,
    seed: Annotated[int | None, options.flag("seed")] = None,
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
    proof: proofs.ProofOption = None,
    workers: options.WorkersOption = 1,
    cluster: options.ClusterOption = None,
    plugin: options.PluginOption = None,
    format_: options.FormatOption = None,
    width: options.WidthOption = None,
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
    given = locals()

    from emalign_jax.experiments import executors
    from emalign_jax.experiments.grid import experiment  # which takes a second, as does what it loads
    from emalign_jax.experiments.grid.tally import tally
    from emalign_jax.internal import plugins

    # What draws figures is loaded while games are searched.
    threading.Thread(target=_load, args=("emalign_jax.report.figures.sweep",), daemon=True).start()
    look = options.look(format_, width)
    changes = settings(set_, {name: given[name] for name in FLAGS if name in given})

    def draw(found) -> tuple:
        from emalign_jax.report.figures import sweep
        from emalign_jax.report.style import attempt

        counts = tally(found.path, found.work)
        return counts, attempt(lambda: sweep.draw_search(counts.means, counts.spread, found.path, found.title, look))

    source = executors.chosen(workers, cluster)
    place, loaded = None if out is None else Path(out), plugins.load(plugin or [])
    accept = functools.partial(proofs.check, proof)
    with GridProgress(quiet) as progress:
        found = experiment.perform(
            "search", spec, changes, loaded, place, force, source, progress, draw, look.asked, accept
        )
    counts, drawn = found.drawn or (tally(found.path, found.work), True)
    told = "" if proof is None else _prove(proof, found, quiet, executors.chosen(workers, cluster))
    _tell(found, counts, progress.slowest(), json_)
    if told and not json_:
        print(told)
    raise typer.Exit(int(counts.failures > 0 or not drawn))


def _prove(directory: Path, found, quiet: bool, source) -> str:
    """Proof files of the profiles of a run."""
    import emalign_jax as em
    from emalign_jax.experiments.grid.block import modules
    from emalign_jax.games.files import sizes

    protocol, user, _ = modules(found.plan.cells()[0].specification)
    files = found.path / "games.npz", found.path / "schemes.npz"
    batches = [
        (em.load_games(files[0], agents=agents), em.load_schemes(files[1], agents=agents)) for agents in sizes(files[0])
    ]
    with source as workers:
        return proofs.write(directory, batches, quiet, workers, protocol=protocol, user=user)


def _tell(found, counts, slowest: str, json_: bool) -> None:
    from emalign_jax.experiments.grid import merge, run, table

    tolerance, path = max(found.plan.tolerances), found.path
    if json_:
        summary = {
            "cells": counts.lines.to_dict("records"), "failed": counts.failures, "unchecked": counts.unchecked,
            "run": str(path), "tolerance": tolerance, "lp_fallbacks": counts.fallbacks, "seconds": found.seconds,
            "below_worst": counts.below_worst, "most_below_worst": counts.short,
        }  # fmt: skip
        print(f'{{"schema": {table.JSON_SCHEMA}, "games": [', end="")
        for n, entry in enumerate(merge.entries(path)):  # which memory may not hold at once
            print(", " * (n > 0) + json.dumps(table.plain(entry), allow_nan=False), end="")
        print(f'], "summary": {json.dumps(table.plain(summary), allow_nan=False)}}}')
        return
    failed = table.failures(counts.failed, count=counts.failures)
    print(f"{found.title}: user value (0 no information, 1 full information)\n")
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
    done = f"in {found.seconds:.1f} s" + (f" ({slowest})" if slowest else "") if found.fresh else "were there already"
    print(f"\n{counts.games} games {done}. Table, schemes and certificates: {path}")
    tell_fallbacks(counts.fallbacks, counts.games)
    if names := merge.known_agents(path):
        print(f"Agents: {', '.join(names)}")
    tell_figures(path, run.SEARCH.files)


def _load(module: str) -> None:
    """Import a module ahead of its use, where an error is raised again."""
    with contextlib.suppress(Exception):
        importlib.import_module(module)
