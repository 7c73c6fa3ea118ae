"""Many agents' problems against fixed schemes of the others, in terms of beliefs, for a quantal user (section 5.3 of
docs/model.md).

A message that is sent with probability c[xb] at x_B contributes phi to the agent's payoff. phi is a function of the
unnormalised posterior mu[xb] = c[xb] * m[xb], homogeneous of degree one. `belief_lps.py` finds the best splitting of
the prior into such beliefs.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from emalign_jax.exact.concavification import quantal
from emalign_jax.exact.concavification.quantal import IMPOSSIBLE
from emalign_jax.games import units
from emalign_jax.games.game import ReducedGame

# At most so many kinks are listed; of more, a fixed sample is taken.
MAX_KINKS = 1000
# Beyond so many features x_B a point in common of planes is found by a solver, not by determinants.
MOST_EXPANDED = 4
# Planes whose determinant, scaled to largest entry 1, is smaller count as parallel.
REGULAR = 1e-9


class BeliefProblems(NamedTuple):
    """P problems of B features x_B, T types t = (x_A, joint message of the others) and A actions.

    target:     [P, B] the prior of x_B; an x_B that is impossible has target 0 and only zeros below
    mass:       [P, B, T] the probability of type t given x_B
    user, own:  [P, B, A, T] the user's and the agent's payoffs, per unit of belief
    precision:  [P] of the quantal user
    spread:     [P] the agent's unit of payoff (`units.unit`)
    """

    target: Float[np.ndarray, "P B"]
    mass: Float[np.ndarray, "P B T"]
    user: Float[np.ndarray, "P B A T"]
    own: Float[np.ndarray, "P B A T"]
    precision: Float[np.ndarray, "P"]
    spread: Float[np.ndarray, "P"]

    @property
    def size(self) -> tuple[int, int, int]:
        """B, T, A."""
        _, B, A, T = self.user.shape
        return B, T, A

    def rows(self, some) -> BeliefProblems:
        """Those problems alone."""
        return BeliefProblems(*(x[some] for x in self))

    def setting(self, price: Float[np.ndarray, "P B"]) -> quantal.Setting:
        """The problems and prices of x_B with the axes that `quantal` wants."""

        def last(x):
            return np.ascontiguousarray(np.moveaxis(x, 0, -1))[..., None]

        return quantal.Setting(
            last(self.mass), last(self.user), last(self.own), self.precision[:, None], self.spread[:, None], last(price)
        )

    def payoffs(self, beliefs: Float[np.ndarray, "P R B"]) -> Float[np.ndarray, "P R"]:
        """The agents' payoffs at unnormalised beliefs, in NumPy."""
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return quantal.payoffs(self.setting(np.zeros_like(self.target)), np.moveaxis(beliefs, -1, 0), xp=np)[0]


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

    user: the quantal users of these games; sign: -1 for the agent's worst payoff.
    """
    n, each = len(agents), np.arange(len(agents))
    mass, own_user, own = np.asarray(game.mass), np.asarray(game.user), np.asarray(game.agents)[each, agents]
    XB, A = own_user.shape[2:]
    weights = np.ones((n, 1, XB))
    for j in range(schemes.shape[1] - 1):
        other = schemes[each, j + (agents <= j)].swapaxes(1, 2)  # The agents without agents[n].
        weights = (weights[:, :, None] * other[:, None]).reshape(n, -1, XB)
    mass = (weights[:, :, None] * mass[:, None]).reshape(n, -1, XB)
    user_payoff, own_payoff = (
        (weights[:, :, None, :, None] * x[:, None]).reshape(n, -1, XB, A) for x in (own_user, sign * own)
    )
    with np.errstate(over="ignore", invalid="ignore"):
        whole = mass.sum(2)
        forgone = np.where(whole > 0, np.asarray(user.most_forgone)[:, None] * whole, 0)
        likely = units.most_likely(user_payoff, forgone, user.tie_tolerance)
    spread = np.asarray(units.unit(own_payoff, likely))
    prior = mass.sum(1)
    inverse = np.where(prior > IMPOSSIBLE, 1 / np.where(prior > IMPOSSIBLE, prior, 1), 0)
    user_payoff, own_payoff = (np.moveaxis(x, 1, 3) * inverse[:, :, None, None] for x in (user_payoff, own_payoff))
    return BeliefProblems(
        np.where(prior > IMPOSSIBLE, prior, 0), mass.swapaxes(1, 2) * inverse[:, :, None], user_payoff, own_payoff,
        np.broadcast_to(np.asarray(user.precision, float), n), spread,
    )  # fmt: skip


def kinks(problems: BeliefProblems) -> Float[np.ndarray, "P N B"]:
    """Beliefs at which B - 1 of the planes meet on which a type is indifferent between two actions, or some x_B has
    probability 0. Near them a precise user's response changes fast. A fixed sample if there are more than
    `MAX_KINKS`; planes that do not meet inside the simplex give its first vertex."""
    P, (B, _, A) = len(problems.target), problems.size
    vertices = np.broadcast_to(np.eye(B), (P, B, B))
    if B == 1:
        return vertices
    a, c = np.triu_indices(A, 1)
    ties = (problems.user[:, :, a] - problems.user[:, :, c]).reshape(P, B, -1).swapaxes(1, 2)
    size = np.abs(ties).max(2, keepdims=True)
    planes = np.concatenate([vertices, ties / np.where(size > 0, size, 1)], 1)
    chosen = _choices(planes.shape[1], B - 1)
    found = _meeting([planes[:, chosen[:, k]] for k in range(B - 1)])
    whole = found.sum(2, keepdims=True)
    found = found / np.where(np.abs(whole) > REGULAR, whole, np.inf)
    inside = (found > -1e-9).all(2, keepdims=True) & (np.abs(whole) > REGULAR)
    found = np.where(inside, np.maximum(found, 0), vertices[:, :1])
    return np.concatenate([vertices, found / found.sum(2, keepdims=True)], 1)


@functools.lru_cache(maxsize=64)
def _choices(planes: int, some: int) -> Int[np.ndarray, "N some"]:
    if math.comb(planes, some) <= MAX_KINKS:
        return np.array(list(itertools.combinations(range(planes), some)), int).reshape(-1, some)
    draws = np.random.default_rng(0).random((MAX_KINKS, planes))
    return np.sort(draws.argpartition(some - 1, axis=1)[:, :some], axis=1)


def _meeting(planes: list[Float[np.ndarray, "P N B"]]) -> Float[np.ndarray, "P N B"]:
    """A vector on B - 1 planes; its sum is the determinant of the planes and the plane of sum 1."""
    B = planes[0].shape[-1]
    if B <= MOST_EXPANDED:
        columns = [[plane[..., b] for b in range(B)] for plane in planes]
        minors = [_determinant([row[:b] + row[b + 1 :] for row in columns]) for b in range(B)]
        return np.stack([m if b % 2 == 0 else -m for b, m in enumerate(minors)], -1)
    system = np.concatenate([np.stack(planes, -2), np.ones((*planes[0].shape[:-1], 1, B))], -2)
    size = np.abs(np.linalg.det(system))[..., None, None]
    right = np.zeros((*system.shape[:-1], 1))
    right[..., -1, :] = 1
    return np.linalg.solve(np.where(size > REGULAR, system, np.eye(B)), right)[..., 0] * (size > REGULAR)[..., 0]


def _determinant(rows: list[list[np.ndarray]]) -> np.ndarray:
    if len(rows) == 1:
        return rows[0][0]
    parts = [rows[0][b] * _determinant([row[:b] + row[b + 1 :] for row in rows[1:]]) for b in range(len(rows))]
    return quantal.total([part if b % 2 == 0 else -part for b, part in enumerate(parts)])
