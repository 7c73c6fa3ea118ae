"""Outbidding in Selection with a rational user: `best_response_dynamics.outbid` along the user's value, for many games
at once.

All that an agent may do is on his curve f_i, which `frontier` traces once for all games. So a step of the dynamics
needs no LP: gains are read off the curves, and the mover's law is the point of his curve at the holder's value and a
margin.
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

BEHIND = 1e-7  # of V_full - V_none: how much less than the holder's his shadow's offer is worth


class Outbid(NamedTuple):
    """laws [N, K, XB, R] over recommendations, relative gains [N, K] as the curves have them, steps [N] taken, and
    whether the curves were proved [N]: where they were not, the rest is not to be used."""

    laws: Float[np.ndarray, "N K XB R"]
    gains: Float[np.ndarray, "N K"]
    steps: Int[np.ndarray, "N"]
    proved: Bool[np.ndarray, "N"]


def outbid_from_monopolies(games: ReducedGame, tolerance: float, *, max_steps: int = 100) -> Outbid:
    """From what each agent would do alone until every relative gain is at most `tolerance`; where that takes more than
    `max_steps`, all reveal all, which is an equilibrium. `games` is a batch in standard units."""
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
    return Outbid(state.laws, state.gains, state.steps, proved)


class _State:
    """Offers of all games, and what they are worth to everybody."""

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
        self.laws = curves.distribution[:, :, 0].copy()
        N, self.K = self.laws.shape[:2]
        self.values = np.einsum("nkbr,nbr->nk", self.laws, self.user)
        self.table = np.einsum("nibr,njbr->nij", self.own, self.laws)
        self.gains = np.full((N, self.K), np.inf)
        self.margin = FIRST_MARGIN * (self.most - self.least)
        self.lowered, self.steps = np.zeros(N, int), np.zeros(N, int)

    def offer(self, n, agent, law) -> None:
        """Agents [n'] of games n' change to laws [n', XB, R]."""
        self.laws[n, agent] = law
        self.values[n, agent] = np.einsum("nbr,nbr->n", law, self.user[n])
        self.table[n, :, agent] = np.einsum("nibr,nbr->ni", self.own[n], law)

    def standing(self, n):
        """Holder and best rival (-1: none), lowest index among equals."""
        values, tie = self.values[n], self.tie[n, None]
        holder = (values >= values.max(1, keepdims=True) - tie).argmax(1)
        rivals = np.where(np.arange(self.K) == holder[:, None], -np.inf, values)
        rival = (rivals >= rivals.max(1, keepdims=True) - tie).argmax(1)
        return holder, rival if self.K > 1 else np.full(len(n), -1)

    def step(self, n, tolerance: float):
        """One best response in each of games n; returns those not done before it."""
        each = np.arange(len(n))
        holder, rival = self.standing(n)
        held = self.values[n, holder]
        aim = np.repeat(held[:, None], self.K, 1)
        aim[each, holder] = np.where(rival >= 0, self.values[n, rival], -np.inf)
        most = self.most[n]
        offers = self.curves.pay(n, np.minimum(aim, (most - self.tie[n])[:, None]))
        present = self.table[n, :, holder]
        gains = np.maximum(offers - present, 0)
        full = held >= most - self.tie[n]  # nobody can be worth more to her, and ties stay with the holder
        gains[full[:, None] & (np.arange(self.K) > holder[:, None])] = 0
        ranges = self.ranges[n]
        self.gains[n] = relative = np.where(ranges > 0, gains / np.where(ranges > 0, ranges, 1), 0.0)
        going = relative.max(1) > tolerance
        n, holder, rival, held, aim, mover = (x[going] for x in (n, holder, rival, held, aim, relative.argmax(1)))
        each = np.arange(len(n))
        self.steps[n] += 1
        takes, lowers = mover != holder, (mover == holder) & ((rival < 0) | (self.lowered[n] < LOWERINGS))
        goal = np.where(takes, held + self.margin[n], aim[each, mover])
        law = self.curves.offer(n, mover, np.minimum(goal, self.most[n] - self.tie[n]))
        self.margin[n[takes]] *= GROWTH
        self.lowered[n[lowers]] += 1
        shadows = ~(takes | lowers)
        if shadows.any():
            of, who = n[shadows], holder[shadows]
            worth = held[shadows] - self.least[of]
            share = np.minimum(np.maximum(BEHIND, 4 * self.tie[of] / np.maximum(worth, 1e-300)), 1)[:, None, None]
            law[shadows] = (1 - share) * self.laws[of, who] + share * self.silent[of]
        self.offer(n, np.where(shadows, rival, mover), law)
        return n

    def reveal(self, n) -> None:
        """All agents offer the best obedient law for her, each with her ties his way."""
        for agent in range(self.K):
            last = self.curves.count[n, agent] - 1
            self.offer(n, np.full(len(n), agent), self.curves.distribution[n, agent, last])
        self.step(n, np.inf)


def schemes(laws: Float[np.ndarray, "N K XB R"], game: ReducedGame, messages: int) -> Float[np.ndarray, "N K XB M"]:
    """Schemes with so many messages that induce these laws; NaN where that takes more."""
    laws = np.where(laws > NEGLIGIBLE, laws, 0)
    laws = laws / laws.sum(-1, keepdims=True)
    N, K, XB, R = laws.shape
    out = np.zeros((N, K, XB, messages))
    if messages >= R:
        out[..., :R] = laws
        return out
    user, own = frontier.spread(np.asarray(game.user)), frontier.spread(np.asarray(game.agents))
    for n, k in np.ndindex(N, K):
        law = laws[n, k]
        used = law.max(0) > 0
        scheme = law[:, used]
        if used.sum() > messages:
            scheme = compress(law, (law * own[n, k]).sum(0), (law * user[n]).sum(0), np.inf)
        out[n, k] = np.nan if scheme.shape[1] > messages else np.pad(scheme, ((0, 0), (0, messages - scheme.shape[1])))
    return out
