"""One block of games of a specification: drawn, solved, certified, measured.

What becomes of a game depends on its specification and number alone, not on the block it is in.
"""

from __future__ import annotations

import functools
import io
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from emalign_jax.equilibrium.monopolists import monopoly
from emalign_jax.equilibrium.solution import Solution
from emalign_jax.equilibrium.solver import solve
from emalign_jax.exact import Certificate, Stability, align, coverage, stability
from emalign_jax.exact.certificates.certificate import normalise, value_of_information
from emalign_jax.exact.checks.base import check_for
from emalign_jax.exact.guarantees.coverage_lp import why_no_bound
from emalign_jax.exact.obedience import frontier
from emalign_jax.experiments import columns
from emalign_jax.experiments.grid.table import certificate_values
from emalign_jax.experiments.modules import make_protocol, make_solver, make_user
from emalign_jax.experiments.specification import Specification, by_key
from emalign_jax.games.families import FAMILIES, random_games
from emalign_jax.games.files import GAME_FIELDS
from emalign_jax.games.game import Game, possible_utilities
from emalign_jax.internal import parquet
from emalign_jax.play.solver import AbstractSolver
from emalign_jax.protocols import AbstractProtocol, Comparison, Pooled, Selection
from emalign_jax.protocols.base import declares_revelation
from emalign_jax.protocols.batched_payoffs import payoffs
from emalign_jax.protocols.schemes import full_revelation, no_information
from emalign_jax.result import FoundBy
from emalign_jax.users.base import AbstractUser
from emalign_jax.users.rational import RationalUser

FILE = "file"  # the family of games that were read, not drawn
STARTS_KEY = 2**31  # games are drawn from small numbers folded into the same key
VALUES = ("best_monopolist", "worst_equilibrium", "best_equilibrium", "guarantee", "theorem")
LOSSES = ("eps", "coverage_slack", "weighted_gain")  # in utility, so shares of V_full - V_none when normalised


class Modules(NamedTuple):
    protocol: AbstractProtocol
    user: AbstractUser
    solver: AbstractSolver


def modules(specification: Specification) -> Modules:
    """What a specification describes, for a resolved one of a plan."""
    protocol = make_protocol(specification.protocol)
    solver = make_solver(specification.solver, specification.solver.tolerance)
    return Modules(protocol, make_user(specification.user, protocol), solver)


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
    (.parquet) and arrays (.npz), and how many rows are certified. All arguments can be sent to another process.

    given:    the games, in an .npz, of a specification with a file
    place:    what the message of a `ValueError` begins and ends with: the file and the point of the grid
    progress: called with (stage, done, total)
    """
    made = specification_of(text)
    try:
        games = draw(made, first, count) if given is None else read_games(given)
        rows, schemes = search(made, games, first, progress)
    except ValueError as error:
        raise ValueError(place[0] + by_key(str(error)) + place[1]) from None
    written = io.BytesIO()
    pq.write_table(columns.arrow(columns.GAMES, rows), written, **parquet.WRITTEN)
    certified = int(rows["certified"].to_numpy().sum())
    return {".parquet": written.getvalue(), ".npz": write_games(games, schemes=schemes), "certified": certified}


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
    written = io.BytesIO()
    arrays = {name: np.asarray(getattr(games, name)) for name in GAME_FIELDS}
    np.savez(written, allow_pickle=False, **arrays, **more)
    return written.getvalue()


def read_games(data: bytes) -> Game:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return Game(*(archive[name] for name in GAME_FIELDS), check="shapes")


@frontier.reused()
def search(
    specification: Specification, games: Game, first: int, progress: Callable[[str, int, int], None] | None = None
) -> tuple[pd.DataFrame, np.ndarray]:
    """The columns GAMES of a block, a row a game and start, and the schemes [S, N, K, rows, M]."""
    began = time.perf_counter()
    protocol, user, solver = modules(specification)
    seed, own, how, measure = specification.seed, specification.games, specification.solver, specification.measure
    key = jax.random.key(seed) if own.file else games_key(seed, own.family)
    solution = solve(
        games, protocol, user, solver, key=jax.random.fold_in(key, STARTS_KEY), starts=how.starts, start=how.start,
        messages=specification.protocol.messages, first=first, of=own.count, verify=measure.verify, progress=progress,
    )  # fmt: skip
    if how.starts == 1:
        solution = jax.tree.map(lambda x: x[None], solution._replace(stats={}))
    S, N = solution.result.shape
    alone = np.full((N, games.agents), np.nan)
    if measure.verify and measure.monopoly and check_for(protocol, user).finds_monopolists:
        alone = monopoly(games, protocol, user, solution.schemes.shape[-1], of=own.count).user
    certificate = solution.certificate or _unchecked(games, user, solution)
    measured = _measures(specification, games, certificate, alone)

    def rows(array) -> np.ndarray:
        """[S, N, ...] as the starts of a game after each other."""
        return np.swapaxes(array, 0, 1).reshape(N * S, *np.shape(array)[2:])

    def repeated(array) -> np.ndarray:
        return np.repeat(array, S)

    none, full = rows(certificate.no_information), rows(certificate.full_information)
    values: dict[str, Any] = {
        "family": FILE if own.file else own.family,
        "agents": games.agents,
        "game": first + repeated(np.arange(N)),
        "start": np.tile(np.arange(S), N),
        "states": games.outcomes,
        "actions": games.actions,
        "user_features": games.user_features,
        "agent_features": games.agent_features,
        "messages": solution.schemes.shape[-1],
        **certificate_values(jax.tree.map(rows, certificate)),
        "found_by": [FoundBy(code).name for code in rows(solution.found_by).tolist()],
        "monopoly_value": normalise(repeated(alone.mean(1)), none, full),
        **{name: rows(array) for name, array in measured.items()},
    }
    values |= {f"normalised_{name}": normalise(values[name], none, full) for name in VALUES}
    values |= {f"normalised_{name}": values[name] / value_of_information(none, full) for name in LOSSES}
    values["seconds"] = (time.perf_counter() - began) / (S * N)
    return columns.table(columns.GAMES, values), np.asarray(solution.schemes)


def _measures(
    specification: Specification, games: Game, certificate: Certificate, alone: np.ndarray
) -> dict[str, np.ndarray]:
    """The columns of docs/columns.md that are NaN where they do not apply or were not asked for, each [S, N]."""
    protocol, user, _ = modules(specification)
    measure = specification.measure
    found = {name: np.full(certificate.user.shape, np.nan) for name in (*VALUES[:3], *LOSSES)}
    found["best_monopolist"][:] = alone.max(1)
    if not measure.verify:
        return found
    if measure.eps:
        found["eps"][:] = align(*possible_utilities(games), offset="per_state").error
    if measure.coverage and not why_no_bound(games, user, protocol):
        cover = coverage(games, user=user, protocol=protocol, obedience=type(user) is RationalUser)
        found["coverage_slack"][:] = cover.slack
        found["weighted_gain"][:] = (cover.weights * certificate.gain_upper).sum(-1)
    exact = all_equilibria(games, protocol, user, specification.games.count) if measure.stability else None
    if exact is not None:
        found["worst_equilibrium"][:], found["best_equilibrium"][:] = exact.worst, exact.best
    return found


def all_equilibria(
    games: Game, protocol: AbstractProtocol, user: AbstractUser, of: int | None = None
) -> Stability | None:
    """The user's values in all pure equilibria, where they can be computed: in Selection of one message (or Comparison
    of all agents) with a rational user whose ties go to the selected agent, and two or more agents."""
    exactly = protocol.kind in ((Selection,), (Comparison,)) and type(user) is RationalUser
    known = exactly and declares_revelation(protocol, games.agents) and user.favours
    return stability(games, of=of) if known and games.agents > 1 else None


def _unchecked(games: Game, user: AbstractUser, solution: Solution) -> Certificate:
    """What is known without checks: payoffs, V_none and V_full."""
    one = Game(*(np.asarray(x, np.float64) for x in games.of_one_agent.__dict__.values()), check="shapes")
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
    return Certificate(
        solution.user, solution.agents, many, many, never, many, full, none, nan, nan, solution.result, never
    )
