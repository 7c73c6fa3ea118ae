"""`emalign stability`: the equilibrium set of Selection, and bounds of that of Comparison."""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from emalign_jax.cli import options, proofs
from emalign_jax.cli.lines import check_no_directory, place, tell_games
from emalign_jax.experiments.progress import ProgressBar, tell_fallbacks
from emalign_jax.experiments.run_store import FORMATS
from emalign_jax.internal.files import check_output

SAME = 1e-6  # normalised values closer than this are one
VALUES = {"V_none": "no_information", "worst": "worst", "best": "best", "V_full": "full_information"}
PERCEIVED = "perceived_worst", "perceived_best"
BOUNDS = {
    "V_none": "no_information", "worst at least": "at_least", "worst found": "worst_found", "best": "best",
    "V_full": "full_information",
}  # fmt: skip
BOUND_ENDS = "at_least", "worst_found", "best"
NOTES = {"failed": "failed", "worthless": "in which information is worth nothing"}


def stability(
    games: Annotated[Path, typer.Argument(metavar="G.npz", help="Games.")],
    figure: Annotated[
        Path | None,
        typer.Option(
            help="Where the figure goes (.png, .pdf or .svg); default stability.png, or stability-2.png, ... if that "
            "is there. With --json no figure is drawn unless this is given."
        ),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option("--format", metavar="png,pdf,svg", help="Formats of the figure; default that of its name."),
    ] = None,
    width: options.WidthOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the figure if it is there.")] = False,
    set_: options.SetOption = None,
    proof: proofs.ProofOption = None,
    json_: options.JsonOption = False,
) -> None:
    """The user's values in all pure equilibria of Selection with a rational user, computed exactly.

    With --set protocol.compare=M the user meets M of the agents, and the worst equilibrium is bounded; the best is
    exact. With --set user.weight=W or user.neglect=S it misreads beliefs.

    A value v is an equilibrium value where the stability profile is 0: the least total gain that deviations offer
    where the user is left with value v. With two or more agents full information always is one; the question is what
    else.

    \b
    Examples:
      emalign stability games.npz
      emalign stability search-1/games.npz --figure profiles.png --force
      emalign stability games.npz --json > stability.json
      emalign stability games.npz --set protocol.compare=2
      emalign stability games.npz --set user.weight=0.5
    """
    import emalign_jax as em
    from emalign_jax.experiments.grid import table
    from emalign_jax.experiments.specification import placed
    from emalign_jax.games.files import sizes
    from emalign_jax.internal.files import atomic

    rule, person = _setting(set_)
    proofs.check(proof, rule, person)
    check_no_directory(games, "games.npz")
    batches = [em.load_games(games, agents=k) for k in sizes(games)]
    if getattr(rule, "compared", math.inf) < max(batch.agents for batch in batches):
        if any(option is not None for option in (figure, format_, width, proof)):
            raise ValueError(
                "Comparison of fewer than all agents has neither figure nor proof: leave out --figure, "
                "--format, --width and --proof"
            )
        return _bounds(games, batches, rule, person, json_)
    paths = _choose(figure, format_, force) if figure is not None or not json_ else []
    look = options.look(format_, width)
    answers = []
    with ProgressBar() as progress, placed(f"{games}: ", words=str):
        for batch in batches:
            tell = progress.counter("stability", math.prod(batch.batch_shape))
            answers.append((batch.agents, em.stability(batch, rule, person, progress=tell)))
    if proof is not None:
        with placed(f"{games}: ", words=str):
            told = proofs.write(proof, [(batch, None) for batch in batches], quiet=False, protocol=rule, user=person)
    groups = [_entries(agents, found) for agents, found in answers]
    entries, drawn = list(itertools.chain(*groups)), []
    if paths:
        from emalign_jax.report.figures import stability as figures
        from emalign_jax.report.style import attempt

        rows = [
            row for agents, found in answers for row in figures.profiles(found, _names(agents, found, len(answers) > 1))
        ]

        def draw(path: Path) -> list[str]:
            try:
                with atomic(path, replace=force) as temporary:
                    figures.draw(rows, temporary, path.suffix[1:], look)
            except FileExistsError:  # another was as quick
                return draw(_free(path, force))
            return [str(path)]

        drawn = attempt(lambda: [name for path in paths for name in draw(path)])
    lines = [_summary(agents, group) for (agents, _), group in zip(answers, groups, strict=True)]
    failed = sum(line["failed"] for line in lines)
    fallbacks = sum(int(found.fallback.sum()) for _, found in answers)
    if json_:
        summary = {"games": len(entries), "failed": failed, "lp_fallbacks": fallbacks, "by_agents": lines}
        print(table.document(games=entries, summary=summary | {"figure": drawn[0] if drawn else None}))
    else:
        _print(entries)
        print()
        for line in lines:
            print(_sentence(line))
        tell_fallbacks(fallbacks, len(entries))
        if proof is not None:
            print(told)
        if drawn:
            print(f"Figure: {', '.join(drawn)}")
    if failed or (paths and not drawn):
        raise typer.Exit(1)


def _setting(set_: list[str] | None) -> tuple[Any, Any]:
    """The protocol and the user."""
    from emalign_jax.experiments import plan
    from emalign_jax.experiments.grid.block import modules
    from emalign_jax.experiments.specification import placed

    changes = options.settings(set_)
    for name in changes:
        if not name.startswith(("protocol.", "user.")):
            raise ValueError(f"{name}: stability takes keys of protocol and user")
    grid = plan.plan({}, "", changes)
    if grid.axes:
        raise ValueError(f"{grid.axes[0]}: expected one value")
    cell = grid.cells()[0]
    with placed(*grid.place(cell.values)):
        rule, person, _ = modules(cell.specification)
    return rule, person


def _bounds(path: Path, batches: list[Any], rule: Any, person: Any, json_: bool) -> None:
    """The table, or the JSON document, of Comparison of fewer than all agents."""
    import emalign_jax as em
    from emalign_jax.experiments.grid import table
    from emalign_jax.experiments.specification import placed

    entries, lines = [], []
    with ProgressBar() as progress, placed(f"{path}: ", words=str):
        for batch in batches:
            tell = progress.counter("stability", math.prod(batch.batch_shape))
            found = em.equilibrium_bounds(batch, rule, person, progress=tell)
            for n, index in enumerate(np.ndindex(found.best.shape)):
                code = em.Result(int(found.result[index]))
                entry = {"K": batch.agents, "game": n, "index": list(index)}
                entry |= {name: float(getattr(found, name)[index]) for name in BOUNDS.values()}
                normalised = {name: found.normalise(getattr(found, name))[index] for name in BOUND_ENDS}
                entry |= {f"normalised_{name}": float(value) for name, value in normalised.items()}
                entry |= {"complete": bool(found.complete[index]), "lps": int(found.lps[index])}
                entries.append(entry | {"result": code.message, "code": code.name, "ok": code.ok})
                cells = [str(batch.agents), place(index), *(_number(entry[name]) for name in BOUNDS.values())]
                known = "Solved." if entry["complete"] else "Bounded: a closer bound takes more work."
                lines.append((code.ok, cells, known if code.ok else code.message))
    failed = sum(not entry["ok"] for entry in entries)
    if json_:
        print(table.document(games=entries, summary={"games": len(entries), "failed": failed}))
    else:
        tell_games(["K", "game", *BOUNDS], lines)
    if failed:
        raise typer.Exit(1)


def _choose(figure: Path | None, formats: str | None, force: bool) -> list[Path]:
    """Where the figure goes, a file a format, checked before any work."""
    given = Path("stability.png") if figure is None else figure
    if given.suffix not in FORMATS:
        raise ValueError(f"{given}: --figure: expected a name that ends in {', '.join(FORMATS)}")
    paths = [given.with_suffix(kind) for kind in options.look(formats, None, (given.suffix,)).kinds]
    paths = [_free(path, force) for path in paths] if figure is None else paths
    for path in paths:
        check_output(path, "--figure", force)
    return paths


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

    normalised = {f"normalised_{name}": found.normalise(getattr(found, name)) for name in ("worst", "best")}
    entries = []
    for n, index in enumerate(np.ndindex(found.worst.shape)):
        code = Result(int(found.result[index]))
        profile = zip(("value", "gap", "zero"), found.profile(index), strict=True)
        entry = {"K": agents, "game": n, "index": list(index)}
        entry |= {name: getattr(found, name)[index] for name in VALUES.values()}
        entry |= {name: getattr(found, name)[index] for name in PERCEIVED}
        entry |= {name: values[index] for name, values in normalised.items()}
        entry |= {"equilibria": found.intervals(index)}
        entry |= {name: values.tolist() if code.ok else [] for name, values in profile}
        entry |= {"payoff_range": found.payoff_range[index].tolist()}
        entries.append(entry | {"result": code.message, "code": code.name, "ok": code.ok})
    return entries


def _summary(agents: int, entries: list[dict]) -> dict:
    """What a researcher quotes, of the games in which information is worth something; NaN where there are none."""
    import pandas as pd

    worst = pd.Series([entry["normalised_worst"] for entry in entries], dtype=float)
    worst: pd.Series = worst.loc[np.isfinite(worst.to_numpy())]
    failed = sum(not entry["ok"] for entry in entries)
    return {
        "agents": agents,
        "games": len(entries),
        "failed": failed,
        "worthless": len(entries) - failed - len(worst),
        "median_worst": worst.median(),
        "mean_worst": worst.mean(),
        "share_full": (worst >= 1 - SAME).mean(),
        "share_none": (worst <= SAME).mean(),
    }


def _sentence(line: dict) -> str:
    games = f"K = {line['agents']}: {line['games']} game" + "s" * (line["games"] != 1)
    notes = [f"{line[name]} {what}" for name, what in NOTES.items() if line[name]]
    games += f" ({', '.join(notes)})" if notes else ""
    if not np.isfinite(line["median_worst"]):
        return games + "."
    return (
        f"{games}; normalised worst equilibrium: median {line['median_worst']:.3f}, mean {line['mean_worst']:.3f}; "
        f"it is full information in {line['share_full']:.1%}, no information in {line['share_none']:.1%}."
    )


def _print(entries: list[dict]) -> None:
    lines = []
    for entry in entries:
        cells = [str(entry["K"]), place(entry["index"]), *(_number(entry[name]) for name in VALUES.values())]
        cells.append(f"{entry['normalised_worst']:.6f}" if np.isfinite(entry["normalised_worst"]) else "-")
        sentence = "Solved." if entry["ok"] else entry["result"]
        lines.append((entry["ok"], [*cells, str(len(entry["value"]))], sentence))
    tell_games(["K", "game", *VALUES, "worst, 0-1", "points"], lines)


def _number(value: float) -> str:
    """Six decimals, or as many digits where that would say nothing or fill the line."""
    if not np.isfinite(value):
        return "-"
    return f"{value:.6f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.5e}"
