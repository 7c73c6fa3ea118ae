"""One block of games of a specification: drawn, solved, certified, measured.

The result of a game depends on its specification and number alone, not on the block it is in.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pandas as pd

from emalign_jax.equilibrium.monopolists import monopoly, single_agents
from emalign_jax.equilibrium.solution import Solution
from emalign_jax.equilibrium.solver import solve
from emalign_jax.equilibrium.trajectory import Trajectory
from emalign_jax.exact import Certificate, align, coverage, stability
from emalign_jax.exact.certificates.certificate import normalise, value_of_information
from emalign_jax.exact.checks.base import check_for
from emalign_jax.exact.guarantees.coverage_lp import why_no_bound
from emalign_jax.exact.obedience import frontier
from emalign_jax.experiments.modules import make_protocol, make_solver, make_user
from emalign_jax.experiments.specification import Specification, placed
from emalign_jax.games.families import FAMILIES, random_games
from emalign_jax.games.files import GAME_FIELDS, game_arrays, labels_in
from emalign_jax.games.game import Game, possible_utilities
from emalign_jax.internal import parquet
from emalign_jax.internal.npz import packed, unpacked
from emalign_jax.play.solver import AbstractSolver
from emalign_jax.protocols import AbstractProtocol, Pooled
from emalign_jax.protocols.base import declares_revelation
from emalign_jax.protocols.batched_payoffs import payoffs
from emalign_jax.protocols.schemes import full_revelation, no_information
from emalign_jax.result import Result, columns
from emalign_jax.users.base import AbstractUser

FILE = "file"  # the family of games that were read, not drawn
STARTS_KEY = 2**31  # games are drawn from small numbers folded into the same key
VALUES = ("best_monopolist", "average_monopolist", "worst_equilibrium", "best_equilibrium", "guarantee", "theorem")
LOSSES = ("eps", "coverage_slack", "weighted_gain")  # in utility, so shares of V_full - V_none when normalised


def modules(specification: Specification) -> tuple[AbstractProtocol, AbstractUser, AbstractSolver]:
    """What a specification describes, for a resolved one of a plan."""
    protocol = make_protocol(specification.protocol)
    solver = make_solver(specification.solver, specification.solver.tolerance)
    return protocol, make_user(specification.user, protocol), solver


def games_key(seed: int, family: str) -> jax.Array:
    """What the random games of a family are drawn from, whatever is done with them."""
    return jax.random.fold_in(jax.random.key(seed), FAMILIES[family].key)


def compute(
    text: str,
    first: int,
    count: int,
    given: bytes | None,
    place: tuple[str, str] = ("", ""),
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Games first, ..., first + count - 1 of a specification in JSON (`text`): the files of the part by suffix, rows
    (.parquet), arrays (.npz) and trajectories where they are asked for, and how many rows are certified. All arguments
    can be sent to another process.

    given:    the games, in an .npz, of a specification with a file
    place:    what the message of a `ValueError` begins and ends with: the file and the point of the grid
    progress: called with (stage, done, total)
    """
    made = specification_of(text)
    with placed(*place):
        games = draw(made, first, count) if given is None else read_games(given)
        rows, schemes, steps = search(made, games, first, progress)
    certified = int(rows["certified"].to_numpy().sum())
    parts = {
        ".parquet": parquet.packed(columns.arrow(columns.GAMES, rows)),
        ".npz": write_games(games, schemes=schemes),
    }
    if steps is not None:
        parts[".trajectories"] = parquet.packed(columns.arrow(columns.TRAJECTORIES, steps))
    return parts | {"certified": certified}


@functools.lru_cache(maxsize=16)
def specification_of(text: str) -> Specification:
    return Specification.model_validate_json(text, strict=False)


def draw(specification: Specification, first: int, count: int) -> Game:
    """Random games of a specification."""
    own: dict[str, Any] = specification.games.drawing() | {"count": count}
    drawn = random_games(games_key(specification.seed, specification.games.family), first=first, **own)
    return jax.device_get(drawn)  # What follows is computed on the host.


def write_games(games: Game, **more: np.ndarray) -> bytes:
    """An .npz of games, and of further arrays."""
    return packed(**game_arrays(games), **more)


def read_games(data: bytes) -> Game:
    arrays = unpacked(data)
    fields = [arrays[name] for name in GAME_FIELDS]
    return Game(*fields, check="shapes", labels=labels_in(arrays, fields[2].shape[-3]))


@frontier.reused()
def search(
    specification: Specification, games: Game, first: int, progress: Callable[[str, int, int], None] | None = None
) -> tuple[pd.DataFrame, np.ndarray, pd.DataFrame | None]:
    """The columns GAMES of a block, a row a game and start, the schemes [S, N, K, rows, M], and the columns
    TRAJECTORIES where they are asked for."""
    began = time.perf_counter()
    protocol, user, solver = modules(specification)
    seed, own, how, measure = specification.seed, specification.games, specification.solver, specification.measure
    key = jax.random.key(seed) if own.file else games_key(seed, own.family)
    solution = solve(
        games, protocol, user, solver, key=jax.random.fold_in(key, STARTS_KEY), starts=how.starts, start=how.start,
        messages=specification.protocol.messages, first=first, of=own.count, verify=measure.verify, progress=progress,
        record=measure.trajectory,
    )  # fmt: skip
    certificate, S, N = solution.certificate or _unchecked(games, user, solution), how.starts, len(games)
    solution = solution.replace(certificate=certificate)
    alone = np.full((N, games.agents), np.nan)
    aligned, proved = np.full(N, np.nan), np.zeros(N, bool)
    if measure.verify and measure.aligned:
        single = single_agents(games, protocol, user, solver, messages=specification.protocol.messages, of=own.count)
        *alone, aligned = np.asarray(single.user)
        alone, proved = np.stack(alone, 1), (np.asarray(single.result) == Result.CERTIFIED).all(0)
    elif measure.verify and measure.monopoly and check_for(protocol, user).finds_monopolists:
        alone = monopoly(games, protocol, user, solution.schemes.shape[-1], of=own.count).user
    measured = _measures(specification, games, certificate, alone)

    def rows(array) -> np.ndarray:
        """[S, N] or [N] as the starts of a game after each other."""
        return np.asarray(array).reshape(S, N).T.reshape(-1)

    def repeated(array) -> np.ndarray:
        return np.repeat(array, S)

    table = solution.to_pandas()
    none, full = (table[name].to_numpy() for name in ("no_information", "full_information"))
    values: dict[str, Any] = {
        "family": FILE if own.file else own.family,
        "states": games.outcomes,
        **{name: getattr(games, name) for name in ("actions", "user_features", "agent_features")},
        **dict(table.assign(game=first + table["game"])),
        "aligned": repeated(aligned),
        "single_agents_certified": repeated(proved),
        **{name: repeated(value) for name, value in _rational_benchmarks(games).items()},
        **{name: rows(array) for name, array in measured.items()},
    }
    values |= {f"normalised_{name}": normalise(values[name], none, full) for name in VALUES}
    values |= {f"normalised_{name}": values[name] / value_of_information(none, full) for name in LOSSES}
    values["seconds"] = (time.perf_counter() - began) / (S * N)
    found = columns.table(columns.GAMES, values)
    steps = None if solution.trajectory is None else _steps(found, solution.trajectory, first)
    schemes = np.asarray(solution.schemes)
    return found, schemes.reshape(S, N, *schemes.shape[-3:]), steps


def _steps(found: pd.DataFrame, trajectory: Trajectory, first: int) -> pd.DataFrame:
    """The columns TRAJECTORIES, of the rows that were found and their trajectories."""
    steps = trajectory.to_pandas()
    steps["game"] += first
    at = ["game", "start"]
    whole = steps.merge(found[[*at, "family", "agents", "no_information", "full_information"]], on=at, how="left")
    value = normalise(*(whole[name].to_numpy() for name in ("user_value", "no_information", "full_information")))
    known = [column.name for column in columns.TRAJECTORIES]
    return columns.table(columns.TRAJECTORIES, dict(whole.assign(normalised_value=value)[known]))


def _rational_benchmarks(games: Game) -> dict[str, np.ndarray]:
    """What any user's values of a game can be measured by: V_none and V_full [N] of a rational user."""
    totals = np.einsum("nxby,nay->nxba", np.asarray(games.prior, float), np.asarray(games.user_utility, float))
    none, full = totals.sum(2).max(-1).sum(1), totals.max(-1).sum((1, 2))
    return {"rational_no_information": none, "rational_full_information": full}


def _measures(
    specification: Specification, games: Game, certificate: Certificate, alone: np.ndarray
) -> dict[str, np.ndarray]:
    """The columns of docs/columns.md that are NaN where they do not apply or were not asked for, each [S, N]."""
    protocol, user, _ = modules(specification)
    measure = specification.measure
    found = {name: np.full(certificate.user.shape, np.nan) for name in (*VALUES[:4], *LOSSES)}
    found["best_monopolist"][:], found["average_monopolist"][:] = alone.max(1), alone.mean(1)
    if not measure.verify:
        return found
    if measure.eps:
        found["eps"][:] = align(*possible_utilities(games), offset="per_state").error
    if measure.coverage and not why_no_bound(games, user, protocol):
        cover = coverage(games, user=user, protocol=protocol, obedience=user.plain.obeys)
        found["coverage_slack"][:] = cover.slack
        found["weighted_gain"][:] = (cover.weights * certificate.gain_upper).sum(-1)
    # Where they can be computed: in Selection of one message (or Comparison of all agents) with a rational user whose
    # ties go to the selected agent, and two or more agents.
    exactly = check_for(protocol, user).stability_applies and user.plain is user and user.favours
    if measure.stability and exactly and games.agents > 1 and declares_revelation(protocol, games.agents):
        exact = stability(games, of=specification.games.count)
        found["worst_equilibrium"][:], found["best_equilibrium"][:] = exact.worst, exact.best
    return found


def _unchecked(games: Game, user: AbstractUser, solution: Solution) -> Certificate:
    """What is known without checks: payoffs, V_none and V_full."""
    one = jax.tree.map(lambda x: np.asarray(x, np.float64), games.of_one_agent)
    XB = games.agent_features
    with jax.enable_x64(True):
        full, none = (
            np.broadcast_to(
                np.asarray(payoffs(one, scheme(1, XB, XB), Pooled(), user.acting).user), solution.user.shape
            )
            for scheme in (full_revelation, no_information)
        )
    nan, many = np.full(solution.user.shape, np.nan), np.full(solution.agents.shape, np.nan)
    never = np.zeros(solution.user.shape, bool)
    own = solution.user, solution.agents, many, many, never, many, full, none, nan, nan, solution.result, never
    return Certificate(*own, starts=solution.starts)
