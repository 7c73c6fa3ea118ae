"""`emalign certify`: certificates of given schemes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from emalign_jax.cli import options, proofs
from emalign_jax.cli.lines import SHOWN, check_no_directory, place, tell_games
from emalign_jax.cli.options import FLAGS, settings
from emalign_jax.experiments.progress import ProgressBar, tell_fallbacks


def certify(
    games: Annotated[Path, typer.Argument(metavar="G.npz", help="Games.")],
    schemes: Annotated[
        Path | None, typer.Argument(metavar="[S.npz]", help="Their schemes [..., K, XB, M]; not with --counts.")
    ] = None,
    counts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="In place of schemes: how often agents that were observed sent each message. An .npz with counts "
            "[..., K, XB, M], or a table with the columns agent, state, message, count "
            "(docs/guides/observed_agents.md).",
        ),
    ] = None,
    draws: Annotated[
        int | None, typer.Option(help="With --counts: profiles drawn from the posterior; default 200.")
    ] = None,
    prior: Annotated[
        float | None, typer.Option(help="With --counts: weight of each message in the Dirichlet prior; default 1.")
    ] = None,
    level: Annotated[
        float | None, typer.Option(help="With --counts: probability of credible intervals; default 0.95.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="With --counts: seed of the draws; default 0.")] = None,
    protocol: options.ProtocolOption = None,
    user: options.UserOption = None,
    precision: options.PrecisionOption = None,
    rounds: options.RoundsOption = None,
    replies: options.RepliesOption = None,
    tolerance: Annotated[float | None, options.flag("tolerance")] = None,
    set_: options.SetOption = None,
    plugin: options.PluginOption = None,
    proof: proofs.ProofOption = None,
    json_: options.JsonOption = False,
) -> None:
    """Check schemes exactly: payoffs, deviation gains, what information is worth, and the guarantee.

    \b
    Examples:
      emalign certify search-1/games.npz search-1/schemes.npz
      emalign certify games.npz schemes.npz --protocol pooled --precision 20 --json
      emalign certify games.npz --counts answers.csv --prior 0.5
      emalign certify games.npz schemes.npz --proof proofs && emalign verify proofs/*.json
    """
    given = locals()

    import emalign_jax as em
    from emalign_jax.experiments import plan
    from emalign_jax.experiments.grid import table
    from emalign_jax.experiments.grid.block import modules
    from emalign_jax.experiments.specification import placed
    from emalign_jax.games.files import agent_names, sizes
    from emalign_jax.internal import plugins
    from emalign_jax.result import columns

    plugins.load(plugin or [])
    check_no_directory(games, "games.npz", "schemes.npz")
    own = {"draws": draws, "prior": prior, "level": level, "key": seed}
    posterior = {name: value for name, value in own.items() if value is not None}
    if (schemes is None) == (counts is None):
        raise ValueError("S.npz, --counts: expected schemes or counts, one of them")
    if posterior and counts is None:
        raise ValueError("--draws, --prior, --level, --seed: belong to --counts")
    changes = settings(set_, {name: given[name] for name in FLAGS if name in given and name not in ("games", "seed")})
    for name in changes:
        known = name.startswith(("protocol.", "user.")) or name == "solver.tolerance"
        if not known or name == "protocol.messages":  # which schemes have
            raise ValueError(f"{name}: certify takes keys of protocol and user, and solver.tolerance")
    grid = plan.plan({}, "", changes)
    if grid.axes:
        raise ValueError(f"{grid.axes[0]}: expected one value")
    cell = grid.cells()[0]
    with placed(*grid.place(cell.values)):
        rule, person, solver = modules(cell.specification)
    tolerance = solver.tolerance
    proofs.check(proof, rule, person)
    if proof is not None and counts is not None:
        raise ValueError("--proof: expected schemes, got --counts")
    present, names = sizes(games), agent_names(games)
    if schemes is None:
        return _of_counts(games, counts, rule, person, posterior | {"tolerance": tolerance}, json_)
    if sizes(schemes) != present:
        raise ValueError(f"{schemes}: agents: the numbers of agents differ from those of {games}")
    entries, lines, fallbacks, batches = [], [], 0, []
    shown = ("user_value", "no_information", "full_information", "guarantee", "relative_gain")
    keys = {column.label: column.json for column in columns.CERTIFICATE if column.name in shown}
    for agents in present:
        batch, profiles = em.load_games(games, agents=agents), em.load_schemes(schemes, agents=agents)
        with placed(f"{schemes}: ", words=str), ProgressBar() as progress:
            count = int(np.prod(np.broadcast_shapes(batch.batch_shape, profiles.shape[:-3]), dtype=int))
            tell = progress.counter("certify", count)
            certificate = em.certify(batch, profiles, rule, person, tolerance=tolerance, progress=tell)
        fallbacks += int(certificate.fallback.sum())
        batches.append((batch, profiles))
        where = list(np.ndindex(np.shape(certificate.user)))
        rows = certificate.to_pandas().loc[:, [column.name for column in columns.CERTIFICATE]]
        new = columns.json_entries(columns.CERTIFICATE, rows.to_dict("records"), names)
        for at, entry in zip(where, new, strict=True):
            entries.append(entry)
            cells = [str(agents or batch.agents), place(at), *(f"{entry[key]:.6f}" for key in keys.values())]
            lines.append((em.Result[entry["code"]].ok, cells, entry["result"]))
    if proof is not None:
        told = proofs.write(proof, batches, quiet=False, protocol=rule, user=person)
    failed = sum(not ok for ok, *_ in lines)
    proved = sum(entry["code"] == em.Result.CERTIFIED.name for entry in entries)
    if json_:
        summary = {
            "games": len(entries), "certified": proved, "unrefuted": len(entries) - failed - proved, "failed": failed,
            "tolerance": tolerance, "lp_fallbacks": fallbacks,
        }  # fmt: skip
        print(table.document(games=entries, summary=summary))
    else:
        tell_games(["K", "game", *keys], lines)
        if names:
            print(f"\nAgents: {', '.join(names)}")
        print(f"\n{proved} of {len(entries)} certified within {tolerance:g} of the payoff range.")
        if failed + proved < len(entries):
            print(f"{len(entries) - failed - proved} more unrefuted: no larger gain was found, none is excluded.")
        tell_fallbacks(fallbacks, len(entries))
        if proof is not None:
            print(told)
    if failed:
        raise typer.Exit(1)


def _of_counts(path: Path, file: Any, rule: Any, person: Any, more: dict[str, Any], json_: bool) -> None:
    import emalign_jax as em
    from emalign_jax.experiments import observed
    from emalign_jax.experiments.grid import table
    from emalign_jax.experiments.specification import placed
    from emalign_jax.result import columns

    games = em.load_games(path)
    counts = observed.read_counts(file, games, rule)
    with placed(f"{file}: ", words=str), ProgressBar("draw") as progress:
        total = int(more.get("draws", 200)) * max(1, int(np.prod(games.batch_shape)))
        tell = progress.counter("certify", total)
        found = em.certify_counts(games, counts, rule, person, progress=tell, **more)
    entries = list(columns.json_entries(columns.OBSERVED, observed.rows(found).to_dict("records")))
    failed = sum(entry["code"] in (em.Result.FAILED.name, em.Result.MALFORMED.name) for entry in entries)
    if json_:
        summary = {
            "games": len(entries), "failed": failed, "tolerance": more["tolerance"], "draws": len(found.draws.user),
            "prior": found.observed.prior, "level": found.observed.level,
            "lp_fallbacks": int(found.mean.fallback.sum() + found.draws.fallback.sum()),
        }  # fmt: skip
        print(table.document(games=entries, summary=summary))
    else:
        print("\n\n".join(map(_observed, entries[:SHOWN])))
        if len(entries) > SHOWN:
            print(f"... and {len(entries) - SHOWN} more (--json prints all)")
        percent = f"{found.observed.level:.0%}" if found.observed.level * 100 % 1 < 1e-9 else f"{found.observed.level}"
        print(f"\nIntervals: {percent} credible, of {len(found.draws.user)} draws from the posterior of the schemes.")
        print("Gains are never negative, so that few counts make them look large: see docs/guides/observed_agents.md.")
    if failed:
        raise typer.Exit(1)


def _observed(entry: dict[str, Any]) -> str:
    """What is printed of one game."""
    from emalign_jax.experiments.grid.table import lined_up

    def within(interval) -> str:
        return "[{:.3f}, {:.3f}]".format(*interval)

    def each(pattern: str, name: str) -> list[str]:
        return [format(value, pattern) for value in entry[name]]

    def limits(name: str) -> list[str]:
        return [within(pair) for pair in zip(entry[f"{name}_low"], entry[f"{name}_high"], strict=True)]

    game = "" if entry["game"] == "-" else f"game {entry['game']}: "
    columns = {
        "agent": [str(i) for i in range(entry["K"])],
        "calls": each(".0f", "calls"),
        "unseen": each(".0f", "unseen_states"),
        "payoff": each(".4f", "agents"),
        "best response": each(".4f", "best_response"),
        "gain, credible": limits("gain"),
        "gain/range": each(".4f", "relative_gain"),
        "credible": limits("relative_gain"),
        "user then": each(".4f", "user_after"),
    }
    return "\n".join(
        [
            f"{game}user value {entry['user']:.4f} {within(entry['user_interval'])} of {entry['full_information']:.4f} "
            f"with full information and {entry['no_information']:.4f} without any",
            f"loses {entry['loss']:.4f} {within(entry['loss_interval'])} against full information; an equilibrium "
            f"found from here is worth {entry['equilibrium']:.4f} ({entry['equilibrium_result']})",
            "",
            *lined_up([list(columns), *map(list, zip(*columns.values(), strict=True))]),
        ]
    )
