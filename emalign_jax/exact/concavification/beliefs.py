"""One agent's side of a game, the others fixed, as payoffs of beliefs (section 5.3 of docs/model.md).

A message that is sent with probabilities c[xb] pays the agent F(c) and the user V(c), both homogeneous of degree one;
they are written over beliefs mu[xb] = c[xb] * m[xb]. `column_generation.py` finds the best splitting of the prior.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from emalign_jax.exact.responses import respond
from emalign_jax.games import units
from emalign_jax.games.game import ReducedGame
from emalign_jax.users.base import AbstractUser

MAX_KINKS = 4000  # indifference points that are all looked at; of more, a fixed sample
MAX_EDGES = 16_000  # the same of points at which ties end
IMPOSSIBLE = 1e-200  # x_B that are less likely cannot occur: their inverse would overflow
MERGE = 1e-9  # beliefs closer than this are one
REGULAR = 1e-9  # determinant of planes, scaled to largest entry 1, whose meeting point is known well
PARALLEL = 1e-13  # of planes that do not meet, but for rounding
SAME_TYPE = 1e-13  # types whose posteriors differ by less are one


class BeliefProblem:
    """Types t = (x_A, joint message of the others): mass[b, t], and payoffs[b, t, a], a unit of belief in each x_B.

    target [B]: the prior of the x_B that can occur; `possible` says which. spread: by how much the agent's payoff can
    vary, at most (`units.unit`).
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

    def _planes(self, ease: float) -> Float[np.ndarray, "P B"]:
        """Where a type is torn between two actions, or an x_B is ruled out: plane @ belief = 0.

        ease: where one action falls short of another one by this much of what they differ by (`units.relaxed`).
        """
        B, _, A = self.user_payoff.shape
        a, c = np.triu_indices(A, 1) if ease == 0 else np.nonzero(~np.eye(A, dtype=bool))
        planes = units.relaxed(self.user_payoff, ease)[..., a, c].reshape(B, -1).T
        size = np.abs(planes).max(1, keepdims=True)
        return np.concatenate([np.eye(B), (planes / np.where(size > 0, size, 1))[size[:, 0] > 0]])

    @functools.cached_property
    def kinks(self) -> Float[np.ndarray, "N B"]:
        """Beliefs at which B - 1 of the planes meet: where a rational user's response turns, and near where a quantal
        one's does. A fixed sample if there are more than `MAX_KINKS`."""
        return self._corners(0.0)[0]

    @property
    def knows_all_edges(self) -> bool:
        """Whether `edges` holds them all: a rational user's agent then does best at some of them."""
        return self._edges[1]

    @property
    def edges(self) -> Float[np.ndarray, "N B"]:
        """As `kinks`, of the planes on which two actions cease to be tied within the user's tolerance."""
        return self._edges[0]

    @functools.cached_property
    def _edges(self) -> tuple[Float[np.ndarray, "N B"], bool]:
        return self._corners(self.user.tie_tolerance)

    def _corners(self, ease: float) -> tuple[Float[np.ndarray, "N B"], bool]:
        """The points at which B - 1 planes meet, and whether all of them are known."""
        B = len(self.target)
        if B == 1:
            return np.ones((1, 1)), True
        planes = self._planes(ease)
        most = MAX_KINKS if ease == 0 else MAX_EDGES
        chosen = _choices(len(planes), B - 1, most)
        systems = np.concatenate([planes[chosen], np.ones((len(chosen), 1, B))], axis=1)
        size = np.abs(np.linalg.det(systems))
        found = _meeting(systems[size > REGULAR])
        found = np.maximum(found[(found > -1e-9).all(1)], 0)
        found = np.concatenate([np.eye(B), found / found.sum(1, keepdims=True)])
        blurred = systems[(size > PARALLEL) & (size <= REGULAR)]  # planes that meet, too flat to tell where
        known = count_corners(len(planes), B) <= most and not (_meeting(blurred) > -0.01).all(1).any()
        return found[distinct(found)], known

    def payoffs(self, beliefs: Float[np.ndarray, "N B"]) -> tuple[np.ndarray, np.ndarray]:
        """Agent's F and user's V at each (unnormalised) belief: [N], [N]."""
        _, user_total, law = self.responses(beliefs)
        own_total = (beliefs @ self.own_payoff.reshape(len(self.target), -1)).reshape(law.shape)
        return (law * own_total).sum((1, 2)), (law * user_total).sum((1, 2))

    def goal(self, own: float, user: float) -> Float[np.ndarray, "B TA"]:
        """The payoff own * (agent's) + user * (user's), to be handed to `value`, `slope` and `totals`."""
        return (own * self.own_payoff + user * self.user_payoff).reshape(len(self.target), -1)

    def value(self, beliefs: Float[np.ndarray, "N B"], goal: Float[np.ndarray, "B TA"]) -> Float[np.ndarray, "N"]:
        *_, law = self.responses(beliefs)
        return (law.reshape(len(beliefs), -1) * (beliefs @ goal)).sum(1)

    def slope(self, beliefs: Float[np.ndarray, "N B"], goal: Float[np.ndarray, "B TA"]) -> Float[np.ndarray, "N B"]:
        """Gradient of `value` in the belief; quantal user only."""
        mass, user_total, law = self.responses(beliefs)
        N = len(beliefs)
        per_mass = 1 / np.where(mass > IMPOSSIBLE, mass, np.inf)[..., None]
        mean = (beliefs @ goal).reshape(law.shape) * per_mass
        pull = float(self.user.precision) * law * (mean - (law * mean).sum(-1, keepdims=True))
        return (
            law.reshape(N, -1) @ goal.T
            + pull.reshape(N, -1) @ self.user_payoff.reshape(len(self.target), -1).T
            - (pull * user_total * per_mass).sum(-1) @ self.mass.T
        )

    def totals(self, beliefs: Float[np.ndarray, "N B"], goal: Float[np.ndarray, "B TA"]):
        """What is linear in the belief: mass [N, T], the user's total of each action and the goal's [N, T, A]."""
        B, T, A = self.user_payoff.shape
        user = (beliefs @ self.user_payoff.reshape(B, T * A)).reshape(-1, T, A)
        return beliefs @ self.mass, user, (beliefs @ goal).reshape(-1, T, A)

    def ahead(self, beliefs: Float[np.ndarray, "N B"]) -> Float[np.ndarray, "N T A A"]:
        """By how much the user prefers each action to each other one, where it does."""
        return _ahead(beliefs, self.user_payoff)

    def responses(self, beliefs: Float[np.ndarray, "N B"]):
        """mass [N, T], the user's total of each action [N, T, A], and her law over actions [N, T, A]."""
        B, T, A = self.own_payoff.shape
        mass = beliefs @ self.mass
        user_total = (beliefs @ self.user_payoff.reshape(B, T * A)).reshape(-1, T, A)
        own_total = user_total  # of no interest to a quantal user's response
        if self.user.favours:
            own_total = (beliefs @ self.own_payoff.reshape(B, T * A)).reshape(-1, T, A)

        user_ahead, own_ahead = (
            functools.partial(_ahead, beliefs, payoff) for payoff in (self.user_payoff, self.own_payoff)
        )
        return mass, user_total, respond(self.user, user_total, mass, user_ahead, own_total, own_ahead)


def _ahead(beliefs: Float[np.ndarray, "N B"], payoff: Float[np.ndarray, "B T A"]) -> Float[np.ndarray, "N T A A"]:
    """By how much each action beats each other one, at each belief and type."""
    B, T, A = payoff.shape
    return (beliefs @ units.advantages(payoff).reshape(B, -1)).reshape(-1, T, A, A)


def pooled_problem(
    game: ReducedGame, schemes: Float[np.ndarray, "K XB M"], agent: int, user: AbstractUser
) -> BeliefProblem:
    """Agent `agent` among the others' `schemes` in Pooled; with no others, the monopolist's problem."""
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
    """Agent `agent` alone with the user: a monopolist, or a partner in Selection."""
    return pooled_problem(game, np.empty((0, game.mass.shape[1], 1)), agent, user)


def distinct(points: Float[np.ndarray, "N B"]) -> Int[np.ndarray, "D"]:
    """Which of `points` to keep so that none agrees with an earlier one to within `MERGE`."""
    if len(points) < 2:
        return np.arange(len(points))
    rounded = np.round(points / MERGE)
    order = np.lexsort(rounded.T)  # stable, and on few numbers faster than `np.unique` of rows
    new = (np.diff(rounded[order], axis=0) != 0).any(1)
    return np.sort(order[np.concatenate([[True], new])])


def count_corners(planes: int, agent_features: int) -> int:
    """In how many ways so many planes, those of the simplex among them, may meet in a point."""
    return math.comb(planes, agent_features - 1)


@functools.lru_cache(maxsize=64)
def _choices(planes: int, some: int, most: int) -> Int[np.ndarray, "N some"]:
    """So many of the planes, in all ways, or in a fixed sample of `MAX_KINKS` of them if there are more than `most`."""
    if math.comb(planes, some) <= most:
        return np.array(list(itertools.combinations(range(planes), some)), int).reshape(-1, some)
    draws = np.random.default_rng(0).random((MAX_KINKS, planes))
    return np.sort(draws.argpartition(some - 1, axis=1)[:, :some], axis=1)


def _meeting(systems: Float[np.ndarray, "N B B"]) -> Float[np.ndarray, "N B"]:
    target = np.zeros((*systems.shape[:2], 1))
    target[:, -1] = 1
    return np.linalg.solve(systems, target)[..., 0]


def _merge(mass, user_payoff, own_payoff):
    """Types with one posterior as one type: a rival who says nothing, or the same twice, adds none."""
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
