"""`emalign stability`: the equilibrium set of Selection."""

from __future__ import annotations

import itertools
import json
import math
import os
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from emalign_jax.experiments.progress import ProgressBar, tell_fallbacks
from emalign_jax.internal.files import check_output

SHOWN = 50
KINDS = (".png", ".pdf", ".svg")
SAME = 1e-6  # normalised values closer than this are one


def stability(
    games: Annotated[Path, typer.Argument(metavar="G.npz", help="Games.")],
    figure: Annotated[
        Path | None,
        typer.Option(
            help="Where the figure goes (.png, .pdf or .svg); default stability.png, or stability-2.png, ... if that "
            "is there. With --json no figure is drawn unless this is given."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the figure if it is there.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of the table.")] = False,
) -> None:
    """The user's values in all pure equilibria of Selection with a rational user, computed exactly.

    A value v is an equilibrium value where the stability profile is 0: the least total gain that deviations offer
    where the user is left with value v. With two or more agents full information always is one; the question is what
    else.

    \b
    Examples:
      emalign stability games.npz
      emalign stability search-1/games.npz --figure profiles.png --force
      emalign stability games.npz --json > stability.json
    """
    import emalign_jax as em
    from emalign_jax.experiments.grid import table
    from emalign_jax.games.files import sizes
    from emalign_jax.internal.files import atomic

    drawn: list[str] = []
    path = _choose(figure, force) if figure is not None or not json_ else None
    batches = [em.load_games(games, agents=k) for k in sizes(games)]
    answers = []
    with ProgressBar() as progress:
        for batch in batches:
            count, done = math.prod(batch.batch_shape), 0

            def tell(n, count=count, progress=progress):
                nonlocal done
                done += n
                progress("stability", done, count)

            try:
                answers.append(em.stability(batch, progress=tell))
            except ValueError as error:
                raise ValueError(f"{games}: {error}") from None
    entries = [entry for batch, found in zip(batches, answers, strict=True) for entry in _entries(batch.agents, found)]
    if path is not None:
        from emalign_jax.report import stability_figure
        from emalign_jax.report.drawing import attempt

        several = len(batches) > 1
        rows = [
            row
            for batch, found in zip(batches, answers, strict=True)
            for row in stability_figure.profiles(found, batch.agents, _names(batch.agents, found, several))
        ]

        def draw(path: Path) -> list[str]:
            try:
                with atomic(path, replace=force) as temporary:
                    stability_figure.draw(rows, temporary, path.suffix[1:])
            except FileExistsError:  # another was as quick
                return draw(_free(path, force))
            return [str(path)]

        drawn = attempt(lambda: draw(path))
    lines = [_summary(K, [entry for entry in entries if entry["K"] == K]) for K in sorted({e["K"] for e in entries})]
    failed = sum(line["failed"] for line in lines)
    fallbacks = sum(int(found.fallback.sum()) for found in answers)
    if json_:
        summary = {
            "games": len(entries),
            "failed": failed,
            "lp_fallbacks": fallbacks,
            "by_agents": lines,
            "figure": drawn[0] if drawn else None,
        }
        print(json.dumps(table.document(entries, summary), allow_nan=False))
    else:
        _print(entries)
        print()
        for line in lines:
            print(_sentence(line))
        tell_fallbacks(fallbacks, len(entries))
        if drawn:
            print(f"Figure: {drawn[0]}")
    if failed or (path is not None and not drawn):
        raise typer.Exit(1)


def _choose(figure: Path | None, force: bool) -> Path:
    """Where the figure goes, checked before any work."""
    if figure is None:
        figure = _free(Path("stability.png"), force)
    if figure.suffix not in KINDS:
        raise ValueError(f"{figure}: --figure: expected a name that ends in {', '.join(KINDS)}")
    check_output(figure, "--figure", force)
    return figure


def _free(path: Path, force: bool) -> Path:
    """The path, or name-2, name-3, ... if something is there that is not to be replaced."""
    names = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(name for name in itertools.chain([path], names) if force or not os.path.lexists(name))


def _names(agents: int, found, several: bool) -> list[str]:
    """What the figure calls the games."""
    where = [",".join(map(str, index)) for index in np.ndindex(found.worst.shape)]
    return [f"K = {agents}" + (f", game {at}" if at and (several or len(where) > 1) else "") for at in where]


def _entries(agents: int, found) -> list[dict]:
    """One a game, for the table and for JSON."""
    from emalign_jax.result import Result

    worst, best = found.normalise(found.worst), found.normalise(found.best)
    entries = []
    for n, index in enumerate(np.ndindex(found.worst.shape)):
        value, gap, zero = found.profile(index)
        code = Result(int(found.result[index]))
        entries.append(
            {
                "K": agents,
                "game": n,
                "index": list(index),
                "no_information": found.no_information[index],
                "full_information": found.full_information[index],
                "worst": found.worst[index],
                "best": found.best[index],
                "normalised_worst": worst[index],
                "normalised_best": best[index],
                "equilibria": found.intervals(index),
                "value": value.tolist() if code.ok else [],
                "gap": gap.tolist() if code.ok else [],
                "zero": zero.tolist() if code.ok else [],
                "payoff_range": found.payoff_range[index].tolist(),
                "result": code.message,
                "code": code.name,
                "ok": code.ok,
            }
        )
    return entries


def _summary(K: int, entries: list[dict]) -> dict:
    """What a researcher quotes, of the games with K agents in which information is worth something."""
    worst = np.array([entry["normalised_worst"] for entry in entries])
    worst = worst[np.isfinite(worst)]
    failed = sum(not entry["ok"] for entry in entries)
    none = np.nan
    return {
        "agents": K,
        "games": len(entries),
        "failed": failed,
        "worthless": len(entries) - failed - len(worst),
        "median_worst": np.median(worst) if len(worst) else none,
        "mean_worst": worst.mean() if len(worst) else none,
        "share_full": (worst >= 1 - SAME).mean() if len(worst) else none,
        "share_none": (worst <= SAME).mean() if len(worst) else none,
    }


def _sentence(line: dict) -> str:
    games = f"K = {line['agents']}: {line['games']} game" + "s" * (line["games"] != 1)
    notes = [f"{line[name]} {what}" for name, what in (("failed", "failed"), ("worthless", NOTHING)) if line[name]]
    games += f" ({', '.join(notes)})" if notes else ""
    if not np.isfinite(line["median_worst"]):
        return games + "."
    return (
        f"{games}; normalised worst equilibrium: median {line['median_worst']:.3f}, mean {line['mean_worst']:.3f}; "
        f"it is full information in {line['share_full']:.1%}, no information in {line['share_none']:.1%}."
    )


NOTHING = "in which information is worth nothing"


def _print(entries: list[dict]) -> None:
    """The table; games that failed come first, so that the limit hides none of them first."""
    columns = {"V_none": "no_information", "worst": "worst", "best": "best", "V_full": "full_information"}
    head = "".join(f" {name:>12}" for name in columns)
    print(f"{'K':>3} {'game':>8}{head} {'worst, 0-1':>11} {'points':>6}  result")
    for entry in sorted(entries, key=lambda entry: entry["ok"])[:SHOWN]:
        numbers = "".join(f" {_number(entry[name]):>12}" for name in columns.values())
        normalised = f"{entry['normalised_worst']:.6f}" if np.isfinite(entry["normalised_worst"]) else "-"
        sentence = "Solved." if entry["ok"] else entry["result"]
        at = ",".join(map(str, entry["index"])) or "-"
        print(f"{entry['K']:>3} {at:>8}{numbers} {normalised:>11} {len(entry['value']):>6}  {sentence}")
    if len(entries) > SHOWN:
        print(f"... and {len(entries) - SHOWN} more (--json prints all)")


def _number(value: float) -> str:
    """Six decimals, or as many digits where that would say nothing or fill the line."""
    if not np.isfinite(value):
        return "-"
    return f"{value:.6f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.5e}"
