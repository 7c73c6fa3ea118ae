"""Agents' problems against fixed schemes of the others, in terms of beliefs (section 5.3 of docs/model.md).

A message that is sent with probability c[xb] at x_B contributes F to the agent's payoff and V to the user's value. Both
are functions of the unnormalised posterior mu[xb] = c[xb] * m[xb], homogeneous of degree one. `belief_lps.py` finds the
best splitting of the prior into such beliefs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from emalign_jax.games import units
from emalign_jax.games.game import ReducedGame
from emalign_jax.users.base import AbstractUser

# An x_B or a type of smaller probability counts as impossible: its inverse would overflow.
IMPOSSIBLE = 1e-200
# Types whose posteriors differ by less count as one type.
SAME_TYPE = 1e-13


class BeliefProblems(NamedTuple):
    """P problems of B features x_B, T types t = (x_A, joint message of the others) and A actions.

    target:     [P, B] the prior of x_B; an x_B that is impossible has target 0 and only zeros below
    mass:       [P, B, T] the probability of type t given x_B
    user, own, welfare: [P, B, A, T] per unit of belief: the user's payoff, on which the response depends, the payoff to
                maximise, and what the user gets
    spread:     [P] the agent's unit of payoff (`units.unit`)
    sign:       [P] -1 where `own` is the negative of the agent's payoff
    acting:     the users of the problems, quantal or all rational
    """

    target: Float[np.ndarray, "P B"]
    mass: Float[np.ndarray, "P B T"]
    user: Float[np.ndarray, "P B A T"]
    own: Float[np.ndarray, "P B A T"]
    welfare: Float[np.ndarray, "P B A T"]
    spread: Float[np.ndarray, "P"]
    sign: Float[np.ndarray, "P"]
    acting: Any

    @property
    def precision(self) -> Float[np.ndarray, "P"]:
        """Of quantal users."""
        return np.asarray(self.acting.precision, float)

    @property
    def size(self) -> tuple[int, int, int]:
        """B, T, A."""
        _, B, A, T = self.user.shape
        return B, T, A

    def rows(self, some) -> BeliefProblems:
        """Those problems alone."""
        return jax.tree.map(lambda x: x[some], self)


def joined(parts: list[BeliefProblems]) -> BeliefProblems:
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def pooled_problems(
    game: ReducedGame,
    schemes: Float[np.ndarray, "n K XB M"],
    agents: Int[np.ndarray, "n"],
    user: Any,
    sign: float = 1.0,
) -> BeliefProblems:
    """The problem of agent agents[n] in game n of a batch, against the others' schemes in Pooled; with schemes
    [n, 0, XB, M], the monopolist's.

    user: the users of these games; sign: -1 for the agent's worst payoff.
    """
    n, each = len(agents), np.arange(len(agents))
    mass, own_user, own, welfare = (np.asarray(x) for x in game)
    own = own[each, agents]
    XB = mass.shape[2]
    weights = np.ones((n, 1, XB))
    for j in range(schemes.shape[1] - 1):
        other = schemes[each, j + (agents <= j)].swapaxes(1, 2)  # The agents without agents[n].
        weights = (weights[:, :, None] * other[:, None]).reshape(n, -1, XB)
    return weighted_problems(ReducedGame(mass, own_user, own[:, None], welfare), weights[:, :, None], user, sign)


def weighted_problems(
    games: ReducedGame, weights: Float[np.ndarray, "n S X XB"], users: Any, sign: float = 1.0
) -> BeliefProblems:
    """The problem of the one agent of each game, whose types are pairs of one of S signals and x_A.

    weights: the probability of each signal at each x_A (or X = 1: at all) and x_B. They may add up to less than one,
             where the agent's belief leads to this problem with smaller probability.
    """
    mass, user, own, welfare = (np.asarray(x) for x in games)
    own = own[:, 0]
    n, _, XB, A = user.shape
    prior = mass.sum(1)
    mass = (weights * mass[:, None]).reshape(n, -1, XB)
    user_payoff, own_payoff, welfare = (
        (weights[..., None] * x[:, None]).reshape(n, -1, XB, A) for x in (user, sign * own, welfare)
    )
    with np.errstate(over="ignore", invalid="ignore"):
        whole = mass.sum(2)
        forgone = np.where(whole > 0, np.broadcast_to(users.most_forgone, n)[:, None] * whole, 0)
        likely = units.most_likely(user_payoff, forgone, users.tie_tolerance)
    spread = np.asarray(units.unit(own_payoff, likely))
    inverse = np.where(prior > IMPOSSIBLE, 1 / np.where(prior > IMPOSSIBLE, prior, 1), 0)
    user_payoff, own_payoff, welfare = (
        np.moveaxis(x, 1, 3) * inverse[:, :, None, None] for x in (user_payoff, own_payoff, welfare)
    )
    return BeliefProblems(
        np.where(prior > IMPOSSIBLE, prior, 0), mass.swapaxes(1, 2) * inverse[:, :, None], user_payoff, own_payoff,
        welfare, spread, np.full(n, sign), users,
    )  # fmt: skip


def pooled_problem(
    game: ReducedGame, schemes: Float[np.ndarray, "K XB M"], agent: int, user: AbstractUser, sign: float = 1.0
) -> BeliefProblems:
    """As `pooled_problems`, of one game."""
    one, own = (jax.tree.map(lambda x: np.asarray(x)[None], x) for x in (game, user))
    return pooled_problems(one, np.asarray(schemes)[None], np.array([agent]), own, sign)


def monopoly_problem(game: ReducedGame, agent: int, user: AbstractUser, sign: float = 1.0) -> BeliefProblems:
    """The problem of `agent` alone with the user: a monopolist, or the picked agent in Selection."""
    return pooled_problem(game, np.empty((0, game.mass.shape[1], 1)), agent, user, sign)


def without_equal_types(problems: BeliefProblems) -> BeliefProblems:
    """The same problems with types of the same posterior merged, as a rival's messages without information make them,
    and without impossible ones. The others come first; types of mass 0 fill up.

    Payoffs are compared as shares of how much the type's payoffs differ, since a rational user takes differences of any
    size seriously.
    """
    P, (B, T, A) = len(problems.target), problems.size
    payoffs = [np.moveaxis(x, 3, 1).reshape(P, T, -1) for x in (problems.user, problems.own, problems.welfare)]
    flat = np.concatenate([problems.mass.swapaxes(1, 2), *payoffs], 2)
    compared = B + 2 * B * A  # What the user gets does not change what the user does.
    by_action = problems.target.repeat(A, 1)
    prior = np.concatenate([problems.target, by_action, by_action], 1)
    chance = np.asarray((problems.mass * problems.target[:, :, None]).sum(1))
    merged, most = np.zeros(flat.shape), 1
    for n in range(P):
        seen = np.flatnonzero(chance[n] > 0)
        if not len(seen):  # What follows impossible replies.
            continue
        share = flat[n, seen, :compared] * prior[n] / chance[n, seen, None]
        payoffs = share[:, B:].reshape(len(seen), 2, B, A)
        stakes = np.abs(payoffs - payoffs.mean(3, keepdims=True)).max((2, 3), keepdims=True)
        share = np.concatenate([share, (payoffs / np.where(stakes > 0, stakes, 1)).reshape(len(seen), -1)], 1)
        group = np.unique(np.round(share / SAME_TYPE), axis=0, return_inverse=True)[1].reshape(-1)
        np.add.at(merged[n], group, flat[n, seen])
        most = max(most, int(group.max(initial=0)) + 1)
    mass, *payoffs = np.split(merged[:, :most], [B, B + B * A, compared], axis=2)
    user, own, welfare = (np.moveaxis(x.reshape(P, most, B, A), 1, 3) for x in payoffs)
    return problems._replace(mass=mass.swapaxes(1, 2), user=user, own=own, welfare=welfare)


def priced(problems: BeliefProblems, value_price: Float[np.ndarray, "P"]) -> BeliefProblems:
    """The problems with a price on the user's value added to the payoff."""
    if not value_price.any():
        return problems
    return problems._replace(own=problems.own + value_price[:, None, None, None] * problems.welfare)
