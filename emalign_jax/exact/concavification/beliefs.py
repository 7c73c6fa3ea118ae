"""One agent's problem against fixed schemes of the others, in terms of beliefs (section 5.3 of docs/model.md).

A message that is sent with probability c[xb] at x_B contributes F to the agent's payoff and V to the user's value. Both
are functions of the unnormalised posterior mu[xb] = c[xb] * m[xb], homogeneous of degree one. `column_generation.py`
finds the best splitting of the prior into such beliefs.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from emalign_jax.exact.concavification.problems import BeliefProblems
from emalign_jax.exact.concavification.quantal import IMPOSSIBLE
from emalign_jax.exact.responses import respond
from emalign_jax.games import units
from emalign_jax.games.game import ReducedGame
from emalign_jax.users.base import AbstractUser

# The largest numbers of kinks and of edges that are all listed; of more, a fixed sample is taken.
MAX_KINKS = 4000
MAX_EDGES = 16_000
# Beliefs closer than this count as equal.
SAME_BELIEF = 1e-9
# Determinants of planes, scaled to largest entry 1: above REGULAR their common point is accurate; below PARALLEL the
# planes have no common point, up to rounding.
REGULAR = 1e-9
PARALLEL = 1e-13
# Types whose posteriors differ by less count as one type.
SAME_TYPE = 1e-13


class BeliefProblem:
    """The problem of one agent with T types t = (x_A, joint message of the others). The user is a RationalUser or, if
    its `is_smooth`, a QuantalUser.

    prior:     [XB] the distribution of x_B
    possible:  [XB] which x_B can occur; there are B of them
    target:    [B] the prior of the possible x_B
    mass:      [B, T] the probability of type t given x_B
    user_payoff, own_payoff: [B, T, A] the user's and the agent's payoffs, per unit of belief
    spread:    the agent's unit of payoff (`units.unit`)
    """

    def __init__(
        self,
        mass: Float[np.ndarray, "T XB"],
        user_payoff: Float[np.ndarray, "T XB A"],
        own_payoff: Float[np.ndarray, "T XB A"],
        user: AbstractUser,
    ):
        self.prior = mass.sum(0)
        self.possible = self.prior > IMPOSSIBLE
        self.user: Any = user
        self.target = self.prior[self.possible]
        forgone = np.where(mass.sum(1) > 0, user.most_forgone * mass.sum(1), 0)
        likely = units.most_likely(user_payoff, forgone, user.tie_tolerance)
        self.spread = float(units.unit(own_payoff, likely))
        seen = mass[:, self.possible].sum(1) > 0
        mass, user_payoff, own_payoff = (x[seen][:, self.possible] for x in (mass, user_payoff, own_payoff))
        mass, user_payoff, own_payoff = _merge(mass, user_payoff, own_payoff)
        inverse = 1 / self.target
        self.mass = (mass * inverse).T
        shape = (len(self.target), len(mass), own_payoff.shape[-1])
        self.user_payoff = (user_payoff * inverse[:, None]).transpose(1, 0, 2).reshape(shape)
        self.own_payoff = (own_payoff * inverse[:, None]).transpose(1, 0, 2).reshape(shape)

    def _planes(self, tie_tolerance: float) -> Float[np.ndarray, "P B"]:
        """The planes plane @ belief = 0 on which a type is indifferent between two actions, or some x_B has probability
        0.

        tie_tolerance: instead of indifference, one action is worse than the other by this share of what they differ by
                       (`units.relaxed`).
        """
        B, _, A = self.user_payoff.shape
        a, c = np.triu_indices(A, 1) if tie_tolerance == 0 else np.nonzero(~np.eye(A, dtype=bool))
        planes = units.relaxed(self.user_payoff, tie_tolerance)[..., a, c].reshape(B, -1).T
        size = np.abs(planes).max(1, keepdims=True)
        return np.concatenate([np.eye(B), (planes / np.where(size > 0, size, 1))[size[:, 0] > 0]])

    @functools.cached_property
    def kinks(self) -> Float[np.ndarray, "N B"]:
        """Beliefs at which B - 1 of the planes meet. There, a rational user's response jumps; near there, a precise
        quantal user's response changes fast. A fixed sample if there are more than `MAX_KINKS`."""
        return self._corners(0.0)[0]

    @property
    def knows_all_edges(self) -> bool:
        """Whether `edges` has all of them. With a rational user, one of them is then an optimal belief."""
        return self._edges[1]

    @property
    def edges(self) -> Float[np.ndarray, "N B"]:
        """As `kinks`, for the planes on which two actions are just tied within the user's tolerance."""
        return self._edges[0]

    @functools.cached_property
    def _edges(self) -> tuple[Float[np.ndarray, "N B"], bool]:
        return self._corners(self.user.tie_tolerance)

    def _corners(self, tie_tolerance: float) -> tuple[Float[np.ndarray, "N B"], bool]:
        """The points at which B - 1 planes meet, and whether these are all."""
        B = len(self.target)
        if B == 1:
            return np.ones((1, 1)), True
        planes = self._planes(tie_tolerance)
        most = MAX_KINKS if tie_tolerance == 0 else MAX_EDGES
        chosen = _choices(len(planes), B - 1, most)
        systems = np.concatenate([planes[chosen], np.ones((len(chosen), 1, B))], axis=1)
        size = np.abs(np.linalg.det(systems))
        found = _meeting(systems[size > REGULAR])
        found = np.maximum(found[(found > -1e-9).all(1)], 0)
        found = np.concatenate([np.eye(B), found / found.sum(1, keepdims=True)])
        inaccurate = systems[(size > PARALLEL) & (size <= REGULAR)]
        known = count_corners(len(planes), B) <= most and not (_meeting(inaccurate) > -0.01).all(1).any()
        return found[distinct(found)], known

    def payoffs(self, beliefs: Float[np.ndarray, "N B"]) -> tuple[np.ndarray, np.ndarray]:
        """The agent's F and the user's V at each unnormalised belief: [N], [N]."""
        _, user_total, distribution = self.responses(beliefs)
        own_total = (beliefs @ self.own_payoff.reshape(len(self.target), -1)).reshape(distribution.shape)
        return (distribution * own_total).sum((1, 2)), (distribution * user_total).sum((1, 2))

    def goal(self, own: float, user: float) -> Float[np.ndarray, "B TA"]:
        """The payoff own * (agent's) + user * (user's), an argument of `value`, `slope` and `alone`."""
        return (own * self.own_payoff + user * self.user_payoff).reshape(len(self.target), -1)

    def value(self, beliefs: Float[np.ndarray, "N B"], goal: Float[np.ndarray, "B TA"]) -> Float[np.ndarray, "N"]:
        *_, distribution = self.responses(beliefs)
        return (distribution.reshape(len(beliefs), -1) * (beliefs @ goal)).sum(1)

    def slope(self, beliefs: Float[np.ndarray, "N B"], goal: Float[np.ndarray, "B TA"]) -> Float[np.ndarray, "N B"]:
        """The gradient of `value` in the belief, for a quantal user."""
        mass, user_total, distribution = self.responses(beliefs)
        N = len(beliefs)
        per_mass = 1 / np.where(mass > IMPOSSIBLE, mass, np.inf)[..., None]
        mean = (beliefs @ goal).reshape(distribution.shape) * per_mass
        pull = float(self.user.precision) * distribution * (mean - (distribution * mean).sum(-1, keepdims=True))
        return (
            distribution.reshape(N, -1) @ goal.T
            + pull.reshape(N, -1) @ self.user_payoff.reshape(len(self.target), -1).T
            - (pull * user_total * per_mass).sum(-1) @ self.mass.T
        )

    def alone(self, goal: Float[np.ndarray, "B TA"]) -> BeliefProblems:
        """This problem with this goal as a batch of one, for a quantal user."""
        B, T, A = self.user_payoff.shape
        user, own = (x.swapaxes(1, 2)[None] for x in (self.user_payoff, goal.reshape(B, T, A)))
        precision, spread = (np.array([float(x)]) for x in (self.user.precision, self.spread))
        return BeliefProblems(self.target[None], self.mass[None], user, own, precision, spread)

    def ahead(self, beliefs: Float[np.ndarray, "N B"]) -> Float[np.ndarray, "N T A A"]:
        """The user's advantages of each action over each other one (`units.advantages`)."""
        return _ahead(beliefs, self.user_payoff)

    def responses(self, beliefs: Float[np.ndarray, "N B"]):
        """mass [N, T], the user's total of each action [N, T, A], and the distribution over actions [N, T, A]."""
        B, T, A = self.own_payoff.shape
        mass = beliefs @ self.mass
        user_total = (beliefs @ self.user_payoff.reshape(B, T * A)).reshape(-1, T, A)
        own_total = user_total  # Not used unless ties go to the agent.
        if self.user.favours:
            own_total = (beliefs @ self.own_payoff.reshape(B, T * A)).reshape(-1, T, A)

        user_ahead, own_ahead = (
            functools.partial(_ahead, beliefs, payoff) for payoff in (self.user_payoff, self.own_payoff)
        )
        return mass, user_total, respond(self.user, user_total, mass, user_ahead, own_total, own_ahead)


def _ahead(beliefs: Float[np.ndarray, "N B"], payoff: Float[np.ndarray, "B T A"]) -> Float[np.ndarray, "N T A A"]:
    """The advantages of each action over each other one at each belief and type."""
    B, T, A = payoff.shape
    return (beliefs @ units.advantages(payoff).reshape(B, -1)).reshape(-1, T, A, A)


def pooled_problem(
    game: ReducedGame, schemes: Float[np.ndarray, "K XB M"], agent: int, user: AbstractUser
) -> BeliefProblem:
    """The problem of `agent` against the others' `schemes` in Pooled; with no others, the monopolist's problem."""
    XB, A = game.user.shape[1:]
    weights = np.ones((1, XB))
    for j, scheme in enumerate(schemes):
        if j != agent:
            weights = (weights[:, None, :] * scheme.T[None]).reshape(-1, XB)
    mass = weights[:, None, :] * game.mass  # [N, XA, XB]
    user_payoff = weights[:, None, :, None] * game.user
    own_payoff = weights[:, None, :, None] * game.agents[agent]
    return BeliefProblem(mass.reshape(-1, XB), user_payoff.reshape(-1, XB, A), own_payoff.reshape(-1, XB, A), user)


def monopoly_problem(game: ReducedGame, agent: int, user: AbstractUser) -> BeliefProblem:
    """The problem of `agent` alone with the user: a monopolist, or the picked agent in Selection."""
    return pooled_problem(game, np.empty((0, game.mass.shape[1], 1)), agent, user)


def distinct(points: Float[np.ndarray, "N B"]) -> Int[np.ndarray, "D"]:
    """The indices of `points` without those that equal an earlier one to within `SAME_BELIEF`."""
    if len(points) < 2:
        return np.arange(len(points))
    rounded = np.round(points / SAME_BELIEF)
    order = np.lexsort(rounded.T)  # Stable, and faster than `np.unique` for few numbers.
    new = (np.diff(rounded[order], axis=0) != 0).any(1)
    return np.sort(order[np.concatenate([[True], new])])


def count_corners(planes: int, agent_features: int) -> int:
    """In how many ways agent_features - 1 of the `planes`, including those of the simplex, can be chosen."""
    return math.comb(planes, agent_features - 1)


@functools.lru_cache(maxsize=64)
def _choices(planes: int, some: int, most: int) -> Int[np.ndarray, "N some"]:
    """All choices of `some` of the planes; a fixed sample of `MAX_KINKS` choices if there are more than `most`."""
    if math.comb(planes, some) <= most:
        return np.array(list(itertools.combinations(range(planes), some)), int).reshape(-1, some)
    draws = np.random.default_rng(0).random((MAX_KINKS, planes))
    return np.sort(draws.argpartition(some - 1, axis=1)[:, :some], axis=1)


def _meeting(systems: Float[np.ndarray, "N B B"]) -> Float[np.ndarray, "N B"]:
    """The common point of the planes of each system."""
    target = np.zeros((*systems.shape[:2], 1))
    target[:, -1] = 1
    return np.linalg.solve(systems, target)[..., 0]


def _merge(mass, user_payoff, own_payoff):
    """Types with the same posterior are merged: a message of a rival without information adds no type."""
    flat = np.concatenate([mass, user_payoff.reshape(len(mass), -1), own_payoff.reshape(len(mass), -1)], axis=1)
    share = flat / mass.sum(1, keepdims=True)
    _, group = np.unique(np.round(share / SAME_TYPE), axis=0, return_inverse=True)
    group = group.reshape(-1)
    if group.max(initial=-1) + 1 == len(mass):
        return mass, user_payoff, own_payoff
    merged = np.zeros((group.max() + 1, *flat.shape[1:]))
    np.add.at(merged, group, flat)
    XB, A = user_payoff.shape[1:]
    parts = np.split(merged, [XB, XB + XB * A], axis=1)
    return parts[0], parts[1].reshape(-1, XB, A), parts[2].reshape(-1, XB, A)
