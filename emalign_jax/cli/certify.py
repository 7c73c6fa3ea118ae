"""`emalign certify`: certificates of given schemes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from emalign_jax.cli.options import (
    CompareOption,
    PluginOption,
    PrecisionOption,
    ProgressBar,
    ProtocolOption,
    RepliesOption,
    ReplyRuleOption,
    ReplyToOption,
    RoundsOption,
    SetOption,
    TemperatureOption,
    TiesOption,
    ToleranceOption,
    UserOption,
    settings,
    tell_fallbacks,
)
from emalign_jax.experiments.words import ReplyRule, ReplyTo, make_protocol, make_user

SHOWN = 50


def certify(
    games: Annotated[Path, typer.Argument(metavar="G.npz", help="Games.")],
    schemes: Annotated[Path, typer.Argument(metavar="S.npz", help="Their schemes [..., K, XB, M].")],
    protocol: ProtocolOption = "selection",
    user: UserOption = None,
    precision: PrecisionOption = None,
    ties: TiesOption = None,
    temperature: TemperatureOption = None,
    compare: CompareOption = None,
    rounds: RoundsOption = None,
    replies: RepliesOption = None,
    reply_to: ReplyToOption = ReplyTo.each,
    reply_rule: ReplyRuleOption = ReplyRule.plans,
    tolerance: ToleranceOption = None,
    plugin: PluginOption = None,
    set_: SetOption = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of the table.")] = False,
) -> None:
    """Check schemes exactly: payoffs, deviation gains, what information is worth, and the guarantee.

    \b
    Examples:
      emalign certify search-1/games.npz search-1/schemes.npz
      emalign certify games.npz schemes.npz --protocol pooled --precision 20 --json
    """
    import emalign_jax as em
    from emalign_jax.exact import Certificate, default_tolerance
    from emalign_jax.experiments import columns
    from emalign_jax.experiments.search import table
    from emalign_jax.experiments.toml import section
    from emalign_jax.games.files import sizes
    from emalign_jax.internal import plugins

    if tolerance is not None and not 0 < tolerance < 1:
        raise ValueError(f"--tolerance: expected a number between 0 and 1, got {tolerance}")
    plugins.load(plugin or [])
    changes = settings(set_, ("protocol", "user"))
    flags = {"temperature": temperature, "rounds": rounds, "replies": replies, "compare": compare}
    rule = make_protocol(protocol, flags | section(changes, "protocol"), reply_to)
    person = make_user(user, {"precision": precision, "ties": ties} | section(changes, "user"), reply_rule, rule)
    if tolerance is None:
        tolerance = default_tolerance(rule, person)
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
        entries += table.json_entries(columns.CERTIFICATE, rows.to_dict("records"))
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
