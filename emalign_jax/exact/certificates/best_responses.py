"""`best_response`: the best response of one agent to given schemes, under any protocol and user with a check."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.certificates.certificate import flatten_games
from emalign_jax.exact.checks.base import check_for, make_check
from emalign_jax.games.game import Game, faults
from emalign_jax.games.units import LP_ERROR
from emalign_jax.internal.arguments import BETWEEN, integer, number
from emalign_jax.internal.validation import on_host
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.protocols.base import reduce_for
from emalign_jax.protocols.schemes import check_schemes
from emalign_jax.result import Batched, Result
from emalign_jax.users.base import AbstractUser


class BestResponse(Batched):
    """A best response of one agent, in float64 and in the units of the agent's utility.

    Attributes:
        value: the payoff that `scheme` attains, or approaches as a supremum; NaN if an LP failed.
        upper: an upper bound of the payoff of any scheme, with any number of messages.
        scheme: [XB, S]; S is as large as the optimum needs and may differ from M.
        closed: whether upper - value is within the bracket asked for.
        result: CERTIFIED if closed, UNREFUTED if the bracket stayed open, FAILED.
        exact: with exact=True, the optimum of the LP as a rational number; None where the present scheme is optimal.

    Example:
        >>> game, silent = em.catalog.judge(), em.no_information(1, 2, 2)
        >>> best = em.best_response(game, silent, 0, em.Selection(), em.RationalUser(), exact=True)
        >>> round(float(best.exact), 6), best.closed
        (0.6, True)
    """

    value: float
    upper: float
    scheme: Float[np.ndarray, "XB S"]
    closed: bool
    result: Result
    exact: Fraction | None

    def _headline(self) -> dict[str, Any]:
        return {"value": self.value, "upper": self.upper}


def best_response(
    game: Game,
    schemes,
    agent: int,
    protocol: AbstractProtocol,
    user: AbstractUser,
    *,
    bracket: float = 1e-4,
    exact: bool = False,
) -> BestResponse:
    """The best response of one agent to the others' schemes, in one game.

    Args:
        game: one game.
        schemes: [K, XB, M], or a `Solution`; the row of `agent` is what it plays now.
        agent: its index, from 0.
        protocol: how the user talks to the agents.
        user: how the user acts.
        bracket: the largest distance of the upper bound from the value, as a share of the agent's payoff range.
            Selection with a rational user is exact. Elsewhere the amount of work is limited; where it does not suffice
            `closed` is False.
        exact: derive the LP's answer again in rational arithmetic (Selection with a rational user, small games).

    Returns:
        A `BestResponse`.

    Raises:
        ValueError: for a batch of games, a malformed game, wrong shapes and games too large for the exact methods.

    Example:
        >>> game, silent = em.catalog.judge(), em.no_information(1, 2, 2)
        >>> best = em.best_response(game, silent, 0, em.Selection(), em.RationalUser())
        >>> best.scheme[1].round(3).tolist()  # the prosecutor always accuses the guilty
        [0.0, 1.0]

    Source: section 5 of docs/model.md.
    """
    game, schemes, agent, protocol, user, exact = on_host(
        game=game, schemes=schemes, agent=agent, protocol=protocol, user=user, exact=exact
    )
    if game.batch_shape:
        raise ValueError(f"game: expected one game, got a batch of {list(game.batch_shape)}: take game[k]")
    schemes = check_schemes(game, schemes, protocol)
    user.check(game, protocol, schemes.shape[-1])
    if schemes.ndim > 3:
        raise ValueError(f"schemes: expected [K, XB, M] for one game, got {list(schemes.shape)}")
    agent = integer("agent", agent, 0)
    if agent >= game.agents:
        raise ValueError(f"agent: expected an index below K = {game.agents}, got {agent}")
    bracket = number("bracket", bracket, *BETWEEN)
    fault = str(faults(game))
    if fault:
        raise ValueError(fault)
    if not np.isfinite(schemes).all():
        raise ValueError("schemes: expected finite numbers")
    check_for(protocol, user).check_size(game, protocol, user, schemes.shape[-1])
    reduced = reduce_for(flatten_games(game, (1,)), protocol, user, np)
    check = make_check(reduced, 0, protocol, user, schemes.shape[-1], lossless=exact)
    if exact:
        check.confirm()
    found = check.deviations(schemes, range(agent, agent + 1), bracket)[0]
    unit, zero = float(check.form.agent_unit[agent]), float(check.form.agent_zero[agent])
    if found.status != "Optimal":
        return BestResponse(np.nan, np.nan, found.scheme, False, Result.FAILED, None)
    allowed = bracket * check.payoff_range[agent] + check.negligible[agent] + LP_ERROR * check.stakes[agent]
    closed = bool(found.upper - found.value <= allowed)
    rational = None if found.exact is None else Fraction(unit) * found.exact + Fraction(zero)
    return BestResponse(
        unit * found.value + zero, unit * max(found.upper, found.value) + zero, found.scheme, closed,
        Result.CERTIFIED if closed else Result.UNREFUTED, rational,
    )  # fmt: skip
