"""One cell of a sweep: its modules, checked before any work, and the rows of a block of its games."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from emalign_jax.equilibrium.monopolists import monopoly
from emalign_jax.equilibrium.solver import check_sizes, solve
from emalign_jax.exact import align, coverage
from emalign_jax.exact.certificates.certificate import normalise, value_of_information
from emalign_jax.exact.checks.base import check_for, make_check
from emalign_jax.exact.guarantees.coverage_lp import why_no_bound
from emalign_jax.experiments.search import job
from emalign_jax.experiments.search.table import game_rows
from emalign_jax.experiments.sweep.config import Cell, Config, Values, modules, options
from emalign_jax.experiments.toml import section
from emalign_jax.experiments.words import Method, make_solver
from emalign_jax.games import families
from emalign_jax.games.families import all_knobs, random_games
from emalign_jax.games.game import Game, possible_utilities, reduce_game
from emalign_jax.internal import memory
from emalign_jax.internal.arguments import integer
from emalign_jax.play.solver import AbstractSolver
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.users.base import AbstractUser
from emalign_jax.users.rational import RationalUser

STARTS_KEY = 2**31  # games are drawn from small numbers folded into the same key
ROW = 2000  # bytes of memory of a row of the table
NO_SIZES = (
    "seed", "games.count", "games.family", "games.user_information", "games.agent_information",
    "games.information_worth",
)  # fmt: skip
VALUES = ("best_monopolist", "worst_equilibrium", "best_equilibrium", "guarantee", "theorem")
LOSSES = ("eps", "coverage_slack", "weighted_gain")  # in utility, so shares of V_full - V_none when normalised


class Setup(NamedTuple):
    protocol: AbstractProtocol
    user: AbstractUser
    solver: AbstractSolver


def setup(values: Values) -> Setup:
    """The modules that a cell's words stand for."""
    protocol, user = modules(values)
    solver = make_solver(Method(values["solver.method"]), values["solver.steps"], values["solver.tolerance"])
    return Setup(protocol, user, solver)


def check(config: Config, cells: list[Cell]) -> None:
    """Raise `ValueError` that names the file and the key for the first cell that cannot be done, before any work."""
    rows = 0
    for cell in cells:
        own = section(cell.values, "games")
        with named(config, cell):
            families.check_arguments(**own)
            families.require_room(**own)
            rows += own["count"] * integer("starts", cell.values["solver.starts"], 1)
            memory.require(ROW * rows, f"count: a table of {rows} rows")
    no_sizes = {*NO_SIZES, *(f"games.{name}" for name in all_knobs())}
    sizes = {}  # of the cells that do not differ in what matters here, the first
    for cell in cells:
        sizes.setdefault(tuple(x for name, x in cell.values.items() if name not in no_sizes), cell)
    for cell in sizes.values():
        with named(config, cell):
            _check(cell.values, min(config.block, cell.values["games.count"]))


@contextlib.contextmanager
def named(config: Config, cell: Cell) -> Iterator[None]:
    """The library's `ValueError`s with the file, the key and the point of the grid."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{config.path}: {_by_key(str(error))}{_where(config, cell)}") from None


def _check(values: Values, block: int) -> None:
    own = section(values, "games")
    protocol, user, _ = setup(values)
    one = families.any_game(**own)
    game = one[0]
    messages = values["protocol.messages"] or protocol.messages(game)
    check_sizes(game, protocol, user, messages, alone=values["solver.start"] == "monopolist", exactly=True)
    job.require_room(game, protocol, messages, block, values["solver.starts"])
    make_check(reduce_game(one, np), 0, protocol, user, messages)


def _by_key(message: str) -> str:
    """A message of the library or of the command line, with the keys of the config for the names of arguments."""
    keys = {name.split(".")[-1]: name for name, option in reversed(options().items()) if not option.own}
    keys |= {"protocol": "protocol.kind", "user": "user.kind"}
    keys |= {"compared": "protocol.compare"}
    message = re.sub(r"--([a-z-]+)", lambda found: keys.get(found[1].replace("-", "_"), found[0]), message)
    name, colon, rest = message.partition(": ")
    return keys[name] + colon + rest if name in keys and colon else message


def _where(config: Config, cell: Cell) -> str:
    axes = ", ".join(f"{name} = {cell.values[name]}" for name in config.axes)
    return f" (at {axes})" if axes else ""


def draw_games(values: Values) -> Game:
    """The same for a family, size and seed, whatever is done with them."""
    own = section(values, "games")
    return random_games(job.games_key(values["seed"], own["family"]), **own)


def block_rows(config: Config, cell: Cell, games: Game, first: int) -> pd.DataFrame:
    """Rows of games first, ..., first + block - 1 of the cell, one a game and start.

    The columns of a search, the cell's key, the axes, and where they apply (NaN elsewhere):

    best_monopolist   the user's value with the one agent alone that is best for the user
    eps               sup-norm distance of u from the agents' hull (weights of sum 1, any offset c(y))
    coverage_slack    what no equilibrium falls short of V_full by more than, in Selection or where ties favour no agent
    weighted_gain     sum of the coverage weights times what agents may gain: with the slack, a lower bound of V
    worst_equilibrium, best_equilibrium  exact, Selection with a rational user and two or more agents

    each also as normalised_...: values as (V - V_none) / (V_full - V_none), the three losses as shares of it.
    """
    began = time.perf_counter()
    values = cell.values
    protocol, user, solver = setup(values)
    some = jax.tree.map(lambda x: x[first : first + config.block], games)
    key = jax.random.fold_in(job.games_key(values["seed"], values["games.family"]), STARTS_KEY + first)
    solution = solve(
        some, protocol, user, solver, key=key, starts=values["solver.starts"], start=values["solver.start"],
        messages=values["protocol.messages"],
    )  # fmt: skip
    if values["solver.starts"] == 1:
        solution = jax.tree.map(lambda x: x[None], solution._replace(stats={}))
    alone = np.full((len(some.prior), some.agents), np.nan)
    if values["measure.monopoly"] and check_for(protocol, user).finds_monopolists:
        alone = monopoly(some, protocol, user, solution.schemes.shape[-1]).user
    certificate: Any = solution.certificate
    measured = _measures(values, some, certificate, alone)
    rows = game_rows(
        job.Cell(values["games.family"], some.agents, some, solution, certificate, alone, None, 0.0, first)
    )
    rows["seconds"] = (time.perf_counter() - began) / len(rows)
    none, full = rows["no_information"].to_numpy(), rows["full_information"].to_numpy()
    columns = {name: array.T.ravel() for name, array in measured.items()}  # rows run over starts first
    whole = columns | {name: rows[name].to_numpy() for name in ("guarantee", "theorem")}
    columns |= {f"normalised_{name}": normalise(whole[name], none, full) for name in VALUES}
    columns |= {f"normalised_{name}": whole[name] / value_of_information(none, full) for name in LOSSES}
    named = {"cell": cell.key} | {name: values[name] for name in config.axes}
    return pd.concat([pd.DataFrame(named, rows.index), rows, pd.DataFrame(columns, rows.index)], axis=1)


def _measures(values: Values, games: Game, certificate, alone) -> dict[str, np.ndarray]:
    """Each [S, N]."""
    protocol, user, _ = setup(values)
    rational = type(user) is RationalUser
    bounded = not why_no_bound(games, user, protocol)
    found = {name: np.full(certificate.user.shape, np.nan) for name in (*VALUES[:3], *LOSSES)}
    found["best_monopolist"][:] = alone.max(1)
    if values["measure.eps"]:
        found["eps"][:] = align(*possible_utilities(games), offset="per_state").error
    if values["measure.coverage"] and bounded:
        cover = coverage(games, user=user, protocol=protocol, obedience=rational)
        found["coverage_slack"][:] = cover.slack
        found["weighted_gain"][:] = (cover.weights * certificate.gain_upper).sum(-1)
    exact = job.all_equilibria(games, protocol, user) if values["measure.stability"] else None
    if exact is not None:
        found["worst_equilibrium"][:], found["best_equilibrium"][:] = exact.worst, exact.best
    return found
