"""Recommendations to a rational user, and which of them a tie rule plays.

A recommendation names a set of actions for each type x_A, usually one action. By the revelation principle every scheme
is equivalent to one whose messages are recommendations that the user obeys. Under ties="agents" ties are broken as
recommended. Any other tie rule plays recommendation r, as a limit, at all beliefs at which r is optimal, or at none
(section 10 of docs/model.md):

* "lowest" ("highest"): at none if, for some x_A, a lower (higher) action ties wherever r is optimal;
* "uniform": all actions of a set are equally likely. Sets of one action suffice unless some action is never uniquely
  best.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from emalign_jax.games import units
from emalign_jax.games.game import ReducedGame
from emalign_jax.lp.highs import KeptLP
from emalign_jax.users.rational import RationalUser

# The largest number of recommendations of sets of actions, under ties="uniform".
MOST_SETS = 4096
# The smallest positive value of a row that must be strictly positive; the largest coefficient of a row is 1.
STRICT_MARGIN = 1e-12
# The largest ratio of a row's coefficients to its largest coefficient of the opposite sign (`_levelled`).
MAX_RATIO = 1e6


@functools.lru_cache(maxsize=64)
def single_actions(user_features: int, actions: int) -> Bool[np.ndarray, "R XA A"]:
    """Every recommendation of one action for each type."""
    chosen = np.array(list(itertools.product(range(actions), repeat=user_features)))
    return chosen[:, :, None] == np.arange(actions)


def comparisons(sets: Bool[np.ndarray, "R XA A"]) -> tuple[Int[np.ndarray, "rows"], ...]:
    """The rows of obedience: recommendation r, type x_A, recommended action a and other action c of each."""
    return np.nonzero(sets[..., None] & ~np.eye(sets.shape[-1], dtype=bool))


def spread(payoff: Float[np.ndarray, "*any XA XB A"], sets: Bool[np.ndarray, "R XA A"]) -> Any:
    """Expected payoff [..., XB, R] of x_B under each recommendation."""
    if (sets.sum(-1) == 1).all():
        advice = sets.argmax(-1)
        return np.add.reduce([payoff[..., xa, :, :][..., advice[:, xa]] for xa in range(sets.shape[1])])
    return np.einsum("...xba,rxa->...br", payoff, sets / sets.sum(-1, keepdims=True))


def possible(likely: Float[np.ndarray, "*any XA XB A"], sets: Bool[np.ndarray, "R XA A"]) -> Any:
    """[..., XB, R] an upper bound of the probability of each recommendation at each x_B, a power of two.

    likely: [..., XA, XB, A] upper bounds of the probability of each action (`units.most_likely`).
    """
    # The actions of a set are equally likely, so that the least likely of them bounds the set.
    most = np.min([np.where(s, x, np.inf).min(-1) for x, s in _by_type(likely, sets)], 0)
    exponent = np.frexp(np.where(most > 0, most, 1))[1]
    return np.where(most > 0, np.minimum(np.exp2(exponent), 1), 0)


def _by_type(likely, sets):
    for xa in range(sets.shape[1]):
        yield likely[..., xa, :, None, :], sets[:, xa]


def played(game: ReducedGame, user: RationalUser) -> Bool[np.ndarray, "R XA A"]:
    """The recommendations that this user's tie rule plays, as a limit, wherever they are optimal. For one game."""
    XA, _, A = np.shape(game.user)
    single = single_actions(XA, A)
    if user.ties == "agents":
        return single
    rule = Rule(game, user)
    counted = np.array([rule.plays(sets) for sets in single])
    if user.ties != "uniform" or counted.all():
        return single[counted]
    return np.concatenate([single[counted], *rule.larger_sets(single[counted])])


class Rule:
    """The beliefs at which this user's tie rule plays a recommendation, found by a small LP for each recommendation.

    A belief is given here by the probability of a message at each x_B, up to a factor.
    """

    def __init__(self, game: ReducedGame, user: RationalUser):
        mass, payoff = np.asarray(game.mass), np.asarray(game.user)
        self.user, self.types, self.live = user, mass.sum(1) > 0, mass.sum(0) > 0
        self.ahead = units.advantages(payoff[:, self.live])  # [XA, XB, A, A]

    def plays(self, sets: Bool[np.ndarray, "XA A"]) -> bool:
        """Whether the types that occur play exactly `sets` at some belief."""
        return self.belief(sets) is not None

    def belief(self, sets: Bool[np.ndarray, "XA A"]) -> Float[np.ndarray, "XB"] | None:
        """A belief at which the types that occur play exactly `sets`; None if there is none."""
        rows, strictly, equal = [], [], []
        for xa in np.flatnonzero(self.types):
            ahead, inside = self.ahead[xa], sets[xa]
            for a, c in itertools.product(np.flatnonzero(inside), range(len(inside))):
                if a == c:
                    continue
                better, worse = ahead[:, a, c], ahead[:, c, a]
                scale = max(better.max(), worse.max())
                if inside[c]:
                    if scale > 0 and a < c:
                        equal.append((better - worse) / scale)
                    continue
                strict = self._must_lose(c, inside)
                if scale == 0:
                    if strict:
                        return None
                    continue
                tolerance = self.user.tolerance * strict
                rows.append(_levelled(better * (1 - tolerance) - worse * (1 + tolerance)))
                strictly.append(strict)
        found = self._feasible(np.array(rows), np.array(strictly, bool), np.array(equal))
        if found is None:
            return None
        belief = np.zeros(len(self.live))
        belief[self.live] = np.maximum(found, 0)
        return belief / belief.sum()

    def _must_lose(self, other: int, inside) -> bool:
        """Whether action `other`, which is not recommended, must be strictly worse than the recommended ones."""
        if self.user.ties == "lowest":
            return bool(other < np.flatnonzero(inside)[0])
        return self.user.ties == "uniform" or bool(other > np.flatnonzero(inside)[-1])

    def _feasible(self, rows, strictly, equal) -> Float[np.ndarray, "live"] | None:
        """A belief b with rows @ b >= 0, > 0 where `strictly`, and equal @ b = 0; None if there is none."""
        B = self.ahead.shape[1]
        if not len(rows) and not len(equal):
            return np.ones(B)
        if not len(equal):
            alone = ((rows > 0) | ((rows == 0) & ~strictly[:, None])).all(0)
            if alone.any():
                return alone.astype(float)  # Each of these x_B satisfies all rows by itself, hence also their sum.
        rows, equal = rows.reshape(-1, B), equal.reshape(-1, B)
        matrix = np.concatenate(
            [
                np.concatenate([np.ones((1, B)), np.zeros((1, 1))], 1),
                np.concatenate([equal, np.zeros((len(equal), 1))], 1),
                np.concatenate([rows, -np.where(strictly, 1.0, 0.0)[:, None]], 1),
            ]
        )
        low = np.concatenate([[1.0], np.zeros(len(equal) + len(rows))])
        high = np.concatenate([[1.0], np.zeros(len(equal)), np.full(len(rows), np.inf)])
        cost, upper = np.append(np.zeros(B), 1.0), np.append(np.full(B, np.inf), 1.0)
        lower = np.append(np.zeros(B), -1.0)
        found = KeptLP(matrix, low, high, cost=cost, col_lower=lower, col_upper=upper).solve()
        return found.x[:B] if found.optimal and (found.value > STRICT_MARGIN or not strictly.any()) else None

    def larger_sets(self, single: Bool[np.ndarray, "R XA A"]) -> list[Bool[np.ndarray, "S XA A"]]:
        """Under ties="uniform", the recommendations of larger sets that single actions do not represent."""
        XA, A = single.shape[1:]
        if (2**A - 1) ** XA > MOST_SETS:
            raise ValueError(
                f'ties: under "uniform", with an action that is never uniquely best, A = {A} and XA = {XA} have '
                f"{(2**A - 1) ** XA} sets of tied actions, the limit is {MOST_SETS}: take fewer actions or user "
                'features, or ties="lowest"'
            )
        known = {tuple(sets.argmax(-1)) for sets in single}
        subsets = [np.array(s) for s in itertools.product([False, True], repeat=A) if any(s)]
        found = []
        for chosen in itertools.product(subsets, repeat=XA):
            sets = np.array(chosen)
            if (sets.sum(-1) == 1).all():
                continue
            represented = all(pick in known for pick in itertools.product(*(np.flatnonzero(s) for s in sets)))
            if not represented and self.plays(sets):
                found.append(sets)
        return [np.array(found)] if found else []


def _levelled(row: Float[np.ndarray, "B"]) -> Float[np.ndarray, "B"]:
    """The row with a largest coefficient of 1, those of either sign cut to `MAX_RATIO` times the largest of the other.
    Without the cut a very large loss at one x_B would make all differences at other x_B look like ties. The cut can
    only add recommendations, so that upper bounds hold."""
    gains, losses = np.maximum(row, 0), np.maximum(-row, 0)
    if not losses.any():
        return (row > 0).astype(float)
    if gains.any():
        gains, losses = np.minimum(gains, MAX_RATIO * losses.max()), np.minimum(losses, MAX_RATIO * gains.max())
    return (gains - losses) / max(gains.max(), losses.max())
