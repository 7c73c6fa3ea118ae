"""`best_response_dynamics.outbid` in Selection with a rational user, for many games at once.

The value-payoff frontier f_i of an agent (`exact.obedience.frontier`) holds all that a deviation can attain, and is
computed once for all games. A step of the dynamics therefore needs no LP: gains are read from the frontiers, and the
mover's new distribution over recommendations is the point of its frontier at the selected agent's value plus a margin.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from emalign_jax.equilibrium.best_response_dynamics import FIRST_MARGIN, GROWTH, LOWERINGS
from emalign_jax.exact.obedience import frontier
from emalign_jax.exact.obedience.fewer_messages import compress
from emalign_jax.exact.obedience.program import NEGLIGIBLE
from emalign_jax.games.game import ReducedGame
from emalign_jax.games.units import NEGLIGIBLE_RANGE, VALUE_TIE
from emalign_jax.protocols.standard_units import without_tiny_cells

# A rival that follows the selected agent offers less by this share of V_full - V_none.
BEHIND = 1e-7


class Outbid(NamedTuple):
    """distributions: [N, K, XB, R] over recommendations
    gains:         [N, K] relative gains, read from the frontiers
    steps:         [N] best responses played
    proved:        [N] whether the frontiers were proved; otherwise the other fields must not be used
    """

    distributions: Float[np.ndarray, "N K XB R"]
    gains: Float[np.ndarray, "N K"]
    steps: Int[np.ndarray, "N"]
    proved: Bool[np.ndarray, "N"]


def outbid_from_monopolies(games: ReducedGame, tolerance: float, *, max_steps: int = 100) -> Outbid:
    """Outbidding from the monopoly profile until every relative gain is at most `tolerance`. Where that takes more than
    `max_steps`, all agents reveal everything, which is an equilibrium. `games` is a batch in standard units."""
    game: Any = without_tiny_cells(ReducedGame(*(np.asarray(x) for x in games)))
    curves = frontier.trace(game, game.agents)
    least = -frontier.largest_payoffs(game, -game.agents)
    proved = np.asarray(curves.proved.all(1) & np.isfinite(least).all(1))
    ranges = curves.paid[:, :, 0] - least
    ranges = np.where(ranges <= NEGLIGIBLE_RANGE, 0.0, ranges)
    state = _State(game, curves, ranges)
    left = np.flatnonzero(proved)
    for _ in range(max_steps):
        left = state.step(left, tolerance)
        if not len(left):
            break
    if len(left):
        state.reveal(left)
    return Outbid(state.distributions, state.gains, state.steps, proved)


class _State:
    """The schemes of all games as distributions over recommendations, and their values."""

    def __init__(self, game: ReducedGame, curves: frontier.Frontier, ranges):
        user = np.asarray(game.user)
        self.curves, self.ranges, self.game = curves, ranges, game
        self.user, self.own = frontier.spread(user), frontier.spread(np.asarray(game.agents))
        self.most, self.least = user.max(-1).sum((1, 2)), user.sum(2).max(-1).sum(1)
        self.tie = np.full(len(user), VALUE_TIE)
        self.silent = np.zeros_like(self.user)
        np.put_along_axis(
            self.silent, self.user.sum(1, keepdims=True).argmax(-1)[:, None].repeat(user.shape[2], 1), 1, 2
        )
        self.distributions = curves.distribution[:, :, 0].copy()
        N, self.K = self.distributions.shape[:2]
        self.values = np.einsum("nkbr,nbr->nk", self.distributions, self.user)
        self.table = np.einsum("nibr,njbr->nij", self.own, self.distributions)
        self.gains = np.full((N, self.K), np.inf)
        self.margin = FIRST_MARGIN * (self.most - self.least)
        self.lowered, self.steps = np.zeros(N, int), np.zeros(N, int)

    def offer(self, n, agent, distribution) -> None:
        """Agents [n'] of games n' change to distributions [n', XB, R]."""
        self.distributions[n, agent] = distribution
        self.values[n, agent] = np.einsum("nbr,nbr->n", distribution, self.user[n])
        self.table[n, :, agent] = np.einsum("nibr,nbr->ni", self.own[n], distribution)

    def standing(self, n):
        """The selected agent and the best rival (-1: none), the lowest index among equals."""
        values, tie = self.values[n], self.tie[n, None]
        selected = (values >= values.max(1, keepdims=True) - tie).argmax(1)
        rivals = np.where(np.arange(self.K) == selected[:, None], -np.inf, values)
        rival = (rivals >= rivals.max(1, keepdims=True) - tie).argmax(1)
        return selected, rival if self.K > 1 else np.full(len(n), -1)

    def step(self, n, tolerance: float):
        """One best response in each of the games n that have not settled; returns these games."""
        each = np.arange(len(n))
        selected, rival = self.standing(n)
        held = self.values[n, selected]
        aim = np.repeat(held[:, None], self.K, 1)
        aim[each, selected] = np.where(rival >= 0, self.values[n, rival], -np.inf)
        most = self.most[n]
        offers = self.curves.pay(n, np.minimum(aim, (most - self.tie[n])[:, None]))
        present = self.table[n, :, selected]
        gains = np.maximum(offers - present, 0)
        full = held >= most - self.tie[n]  # No scheme is worth more to the user, and ties keep the selected agent.
        gains[full[:, None] & (np.arange(self.K) > selected[:, None])] = 0
        ranges = self.ranges[n]
        self.gains[n] = relative = np.where(ranges > 0, gains / np.where(ranges > 0, ranges, 1), 0.0)
        going = relative.max(1) > tolerance
        n, selected, rival, held, aim, mover = (x[going] for x in (n, selected, rival, held, aim, relative.argmax(1)))
        each = np.arange(len(n))
        self.steps[n] += 1
        takes, lowers = mover != selected, (mover == selected) & ((rival < 0) | (self.lowered[n] < LOWERINGS))
        goal = np.where(takes, held + self.margin[n], aim[each, mover])
        distribution = self.curves.offer(n, mover, np.minimum(goal, self.most[n] - self.tie[n]))
        self.margin[n[takes]] *= GROWTH
        self.lowered[n[lowers]] += 1
        follows = ~(takes | lowers)
        if follows.any():
            of, leader = n[follows], selected[follows]
            worth = held[follows] - self.least[of]
            share = np.minimum(np.maximum(BEHIND, 4 * self.tie[of] / np.maximum(worth, 1e-300)), 1)[:, None, None]
            distribution[follows] = (1 - share) * self.distributions[of, leader] + share * self.silent[of]
        self.offer(n, np.where(follows, rival, mover), distribution)
        return n

    def reveal(self, n) -> None:
        """All agents offer the obedient distribution that is best for the user, with ties in the agent's favour."""
        for agent in range(self.K):
            last = self.curves.count[n, agent] - 1
            self.offer(n, np.full(len(n), agent), self.curves.distribution[n, agent, last])
        self.step(n, np.inf)


def schemes(
    distributions: Float[np.ndarray, "N K XB R"], game: ReducedGame, messages: int
) -> Float[np.ndarray, "N K XB M"]:
    """Schemes with so many messages that induce these distributions; NaN where more messages are needed."""
    distributions = np.where(distributions > NEGLIGIBLE, distributions, 0)
    distributions = distributions / distributions.sum(-1, keepdims=True)
    N, K, XB, R = distributions.shape
    out = np.zeros((N, K, XB, messages))
    if messages >= R:
        out[..., :R] = distributions
        return out
    user, own = frontier.spread(np.asarray(game.user)), frontier.spread(np.asarray(game.agents))
    for n, k in np.ndindex(N, K):
        distribution = distributions[n, k]
        used = distribution.max(0) > 0
        scheme = distribution[:, used]
        if used.sum() > messages:
            scheme = compress(distribution, (distribution * own[n, k]).sum(0), (distribution * user[n]).sum(0), np.inf)
        out[n, k] = np.nan if scheme.shape[1] > messages else np.pad(scheme, ((0, 0), (0, messages - scheme.shape[1])))
    return out
