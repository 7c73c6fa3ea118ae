"""`emalign certify`: certificates of given schemes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from emalign_jax.cli import options
from emalign_jax.cli.options import FLAGS, settings
from emalign_jax.experiments.progress import ProgressBar, tell_fallbacks

SHOWN = 50


def certify(
    games: Annotated[Path, typer.Argument(metavar="G.npz", help="Games.")],
    schemes: Annotated[Path, typer.Argument(metavar="S.npz", help="Their schemes [..., K, XB, M].")],
    protocol: options.ProtocolOption = None,
    user: options.UserOption = None,
    precision: options.PrecisionOption = None,
    rounds: options.RoundsOption = None,
    replies: options.RepliesOption = None,
    tolerance: options.ToleranceOption = None,
    set_: options.SetOption = None,
    plugin: options.PluginOption = None,
    json_: options.JsonOption = False,
) -> None:
    """Check schemes exactly: payoffs, deviation gains, what information is worth, and the guarantee.

    \b
    Examples:
      emalign certify search-1/games.npz search-1/schemes.npz
      emalign certify games.npz schemes.npz --protocol pooled --precision 20 --json
    """
    given = locals()

    import emalign_jax as em
    from emalign_jax.exact import Certificate
    from emalign_jax.experiments import columns, plan
    from emalign_jax.experiments.grid import check, table
    from emalign_jax.experiments.grid.block import modules
    from emalign_jax.games.files import sizes
    from emalign_jax.internal import plugins

    plugins.load(plugin or [])
    changes = settings(set_, {name: given[name] for name in FLAGS if name in given and name != "games"})
    for name in changes:
        known = name.startswith(("protocol.", "user.")) or name == "solver.tolerance"
        if not known or name == "protocol.messages":  # which schemes have
            raise ValueError(f"{name}: certify takes keys of protocol and user, and solver.tolerance")
    grid = plan.plan({}, "", changes)
    if grid.axes:
        raise ValueError(f"{grid.axes[0]}: expected one value")
    with check.named(grid, cell := grid.cells()[0]):
        rule, person, solver = modules(cell.specification)
    tolerance = solver.tolerance
    present = sizes(games)
    if sizes(schemes) != present:
        raise ValueError(f"{schemes}: agents: the numbers of agents differ from those of {games}")
    entries, text, fallbacks = [], [], 0
    for agents in present:
        batch, profiles = em.load_games(games, agents=agents), em.load_schemes(schemes, agents=agents)
        try:
            with ProgressBar() as progress:
                count = int(np.prod(np.broadcast_shapes(batch.batch_shape, profiles.shape[:-3]), dtype=int))
                done = 0

                def tell(n, count=count, progress=progress):
                    nonlocal done
                    done += n
                    progress("certify", done, count)

                certificate = em.certify(batch, profiles, rule, person, tolerance=tolerance, progress=tell)
        except ValueError as error:
            raise ValueError(f"{schemes}: {error}") from None
        fallbacks += int(certificate.fallback.sum())
        where = list(np.ndindex(np.shape(certificate.user)))
        flat = Certificate(
            *(np.reshape(x, (len(where), *np.shape(x)[len(certificate.user.shape) :])) for x in certificate)
        )
        rows = columns.table(columns.CERTIFICATE, table.certificate_values(flat))
        entries += columns.json_entries(columns.CERTIFICATE, rows.to_dict("records"))
        text += [(agents or batch.agents, at, entry) for at, entry in zip(where, entries[-len(where) :], strict=True)]
    failed = sum(not em.Result[entry["code"]].ok for entry in entries)
    proved = sum(entry["code"] == em.Result.CERTIFIED.name for entry in entries)
    if json_:
        summary = {
            "games": len(entries), "certified": proved, "unrefuted": len(entries) - failed - proved, "failed": failed,
            "tolerance": tolerance, "lp_fallbacks": fallbacks,
        }  # fmt: skip
        print(json.dumps(table.document(entries, summary), allow_nan=False))
    else:
        _print(text)
        print(f"\n{proved} of {len(entries)} certified within {tolerance:g} of the payoff range.")
        if failed + proved < len(entries):
            print(f"{len(entries) - failed - proved} more unrefuted: no larger gain was found, none is excluded.")
        tell_fallbacks(fallbacks, len(entries))
    if failed:
        raise typer.Exit(1)


def _print(rows: list[tuple[int, tuple[int, ...], dict]]) -> None:
    """The table; games that failed come first, so that the limit hides none of them first."""
    from emalign_jax.experiments import columns

    shown = ("user_value", "no_information", "full_information", "guarantee", "relative_gain")
    keys = {column.label: column.json for column in columns.CERTIFICATE if column.name in shown}
    print(f"{'K':>3} {'game':>8}" + "".join(f" {label:>11}" for label in keys) + "  result")
    rows = sorted(rows, key=lambda row: row[2]["code"] in ("CERTIFIED", "UNREFUTED"))
    for agents, at, entry in rows[:SHOWN]:
        numbers = "".join(f" {entry[key]:>11.6f}" for key in keys.values())
        print(f"{agents:>3} {','.join(map(str, at)) or '-':>8}{numbers}  {entry['result']}")
    if len(rows) > SHOWN:
        print(f"... and {len(rows) - SHOWN} more (--json prints all)")
