"""Concavification: one agent's best response as an LP over beliefs (section 5.3 of the model).

The other agents fixed, a message of agent i that is sent with probabilities c[xb] pays him F(c) and the
user V(c), both homogeneous of degree one. Written over beliefs mu[xb] = c[xb] * m[xb], his payoff is the
concave closure of F at the prior m: maximise sum_k w_k F(mu_k) subject to sum_k w_k mu_k = m. Any set of
beliefs gives a lower bound, attained by a scheme; column generation adds the beliefs that price best.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.lp import KeptLP
from emalign_jax.exact.responses import respond
from emalign_jax.game import ReducedGame
from emalign_jax.users import AbstractUser, QuantalUser

GRID = 500  # about as many beliefs in the first master LP
ROUNDS = 30  # of column generation
PRICE_TOLERANCE = 1e-8  # relative to the spread of the agent's payoff
PEAKS = 8  # local maxima of the lattice from which a pricing search sets out
KINKS = 24  # and indifference points
MAX_KINKS = 4000  # of those a game has; beyond, a fixed sample
NEWTON_STEPS = 5  # a round; the next round goes on from the beliefs in use
MERGE = 1e-9  # beliefs closer than this are one


class BeliefProblem:
    """One agent's side of one game: types t = (x_A, joint message of the others)."""

    def __init__(
        self,
        mass: Float[np.ndarray, "T XB"],
        user_payoff: Float[np.ndarray, "T XB A"],
        own_payoff: Float[np.ndarray, "T XB A"],
        user: AbstractUser,
        scale: float,
    ):
        self.prior = mass.sum(0)
        self.possible = self.prior > 0
        live = self.possible
        inverse = 1 / self.prior[live]
        seen = mass[:, live].sum(1) > 0
        self._mass = (mass[seen][:, live] * inverse).T  # [B, T], per unit of belief
        shape = (live.sum(), seen.sum(), own_payoff.shape[-1])
        self._user_payoff = (user_payoff[seen][:, live] * inverse[:, None]).transpose(1, 0, 2).reshape(shape)
        self._own_payoff = (own_payoff[seen][:, live] * inverse[:, None]).transpose(1, 0, 2).reshape(shape)
        self.user: Any = user
        self._scale = scale
        self.target = self.prior[live]  # [B]
        self.spread = float((np.ptp(own_payoff, axis=-1)).sum())  # of the agent's payoff, dictating every action

    @functools.cached_property
    def kinks(self) -> Float[np.ndarray, "N B"]:
        """Beliefs at which B - 1 indifferences (a type torn between two actions, or an x_B ruled out) meet:
        where a rational user's response turns, and near where a quantal one's does."""
        B, _, A = self._user_payoff.shape
        if B == 1:
            return np.ones((1, 1))
        a, b = np.triu_indices(A, 1)
        planes = (self._user_payoff[:, :, a] - self._user_payoff[:, :, b]).reshape(B, -1).T
        size = np.abs(planes).max(1, keepdims=True)
        planes = np.concatenate([np.eye(B), (planes / np.where(size > 0, size, 1))[size[:, 0] > 0]])
        if math.comb(len(planes), B - 1) <= MAX_KINKS:
            chosen = np.array(list(itertools.combinations(range(len(planes)), B - 1)), int).reshape(-1, B - 1)
        else:
            chosen = np.sort(np.random.default_rng(0).integers(len(planes), size=(MAX_KINKS, B - 1)), axis=1)
            chosen = chosen[(np.diff(chosen, axis=1) > 0).all(1)]
        systems = np.concatenate([planes[chosen], np.ones((len(chosen), 1, B))], axis=1)
        regular = np.abs(np.linalg.det(systems)) > 1e-9
        target = np.zeros((int(regular.sum()), B, 1))
        target[:, -1] = 1
        found = np.linalg.solve(systems[regular], target)[..., 0]
        found = np.maximum(found[(found > -1e-9).all(1)], 0)
        return _distinct(found / found.sum(1, keepdims=True))

    def payoffs(self, beliefs: Float[np.ndarray, "N B"]) -> tuple[np.ndarray, np.ndarray]:
        """Agent's F and user's V at each (unnormalised) belief: [N], [N]."""
        _, user_total, _, law = self._responses(beliefs)
        own_total = (beliefs @ self._own_payoff.reshape(len(self.target), -1)).reshape(law.shape)
        return (law * own_total).sum((1, 2)), (law * user_total).sum((1, 2))

    def goal(self, own: float, user: float) -> Float[np.ndarray, "B TA"]:
        """The payoff own * (agent's) + user * (user's), to be handed to `value` and `slope`."""
        return (own * self._own_payoff + user * self._user_payoff).reshape(len(self.target), -1)

    def value(self, beliefs: Float[np.ndarray, "N B"], goal: Float[np.ndarray, "B TA"]) -> Float[np.ndarray, "N"]:
        *_, law = self._responses(beliefs)
        return (law.reshape(len(beliefs), -1) * (beliefs @ goal)).sum(1)

    def slope(self, beliefs: Float[np.ndarray, "N B"], goal: Float[np.ndarray, "B TA"]) -> Float[np.ndarray, "N B"]:
        """Gradient of `value` in the belief; quantal user only."""
        mass, user_total, _, law = self._responses(beliefs)
        N = len(beliefs)
        per_mass = 1 / np.where(mass > 0, mass, np.inf)[..., None]
        mean = (beliefs @ goal).reshape(law.shape) * per_mass
        pull = float(self.user.precision) * law * (mean - (law * mean).sum(-1, keepdims=True))
        return (
            law.reshape(N, -1) @ goal.T
            + pull.reshape(N, -1) @ self._user_payoff.reshape(len(self.target), -1).T
            - (pull * user_total * per_mass).sum(-1) @ self._mass.T
        )

    def _responses(self, beliefs):
        B, T, A = self._own_payoff.shape
        mass = beliefs @ self._mass  # [N, T]
        user_total = (beliefs @ self._user_payoff.reshape(B, T * A)).reshape(-1, T, A)
        own_total = user_total  # of no interest to a quantal user's response
        if not isinstance(self.user, QuantalUser):
            own_total = (beliefs @ self._own_payoff.reshape(B, T * A)).reshape(-1, T, A)
        return mass, user_total, own_total, respond(self.user, user_total, mass, own_total, self._scale)


class BeliefOptimum(NamedTuple):
    """value: attained; scheme: [XB, S] with S messages; optimal: the master LP solved to optimality."""

    optimal: bool
    value: float
    scheme: Float[np.ndarray, "XB S"]
    status: str


def concavify(
    problem: BeliefProblem, beliefs: Float[np.ndarray, "N XB"], *, sign: float = 1.0, value_at_least: float = -np.inf
) -> BeliefOptimum:
    """The agent's best payoff (worst for sign=-1) over all schemes built from beliefs that were found.

    beliefs: further starting beliefs over all x_B, such as those of his present scheme; any scale.
    value_at_least: least user value (used by Selection; -inf asks for nothing).
    """
    B = len(problem.target)
    lattice = simplex_lattice(B)
    start = beliefs[:, problem.possible]
    start = start[start.sum(1) > 0]
    points = np.concatenate([lattice.points, problem.kinks, problem.target[None] / problem.target.sum(), start])
    points = _distinct(points / points.sum(1, keepdims=True))
    own, user = problem.payoffs(points)
    lp = KeptLP(
        np.concatenate([points.T, user[None]]),
        np.concatenate([problem.target, [value_at_least]]),
        np.concatenate([problem.target, [np.inf]]),
        cost=sign * own,
    )
    for _ in range(ROUNDS):
        result = lp.solve()
        if not result.optimal:
            return BeliefOptimum(False, np.nan, np.full((len(problem.prior), 1), np.nan), result.status)
        new = _price(problem, lattice, points, result.x, result.row_dual, sign)
        if not len(new):
            break
        own, user = problem.payoffs(new)
        lp.add_columns(sign * own, np.concatenate([new.T, user[None]]))
        points = np.concatenate([points, new])
    else:
        result = lp.solve()
    used = result.x[: len(points)] > 1e-12
    columns = points[used] * result.x[: len(points)][used, None]  # [S, B], sums to the prior
    scheme = np.full((len(problem.prior), int(used.sum())), 1 / used.sum())
    scheme[problem.possible] = (columns / columns.sum(0)).T
    return BeliefOptimum(True, sign * result.value, scheme, result.status)


def _price(problem: BeliefProblem, lattice: Lattice, points, weights, dual, sign) -> np.ndarray:
    """Beliefs of positive reduced cost: the lattice's, and for a quantal user the local maxima found by
    Newton steps from the beliefs in use and from the highest peaks of the lattice."""
    if points.shape[1] == 1:
        return points[:0]
    goal = problem.goal(sign, -dual[-1])
    linear = dual[:-1]
    on_lattice = problem.value(lattice.points, goal) - lattice.points @ linear
    peaks = lattice.points[lattice.local_maxima(on_lattice, PEAKS)]
    kinks = problem.kinks
    peaks = np.concatenate([peaks, kinks[np.argsort(linear @ kinks.T - problem.value(kinks, goal))[:KINKS]]])
    if isinstance(problem.user, QuantalUser):
        peaks = _climb(problem, goal, linear, np.concatenate([points[weights > 0], peaks]), lattice.spacing)
    enough = PRICE_TOLERANCE * max(problem.spread, 1e-300)
    return _distinct(peaks[problem.value(peaks, goal) - peaks @ linear > enough])


def _climb(problem: BeliefProblem, goal, linear, start, radius) -> np.ndarray:
    """Local maxima of value - belief @ linear on the simplex near `start` [P, B]: damped Newton steps with
    |Hessian|, coordinates at 0 held there while the slope pushes them out; the best of a few lengths is kept."""
    here = start.copy()
    P, B = here.shape
    best = problem.value(here, goal) - here @ linear
    lengths = np.array([1.0, 0.3, 0.05, 0.005])
    width = 1e-5
    for _ in range(NEWTON_STEPS):
        # moves along e_b - here keep the sum at 1; one-sided differences, inside the simplex
        probes = here[:, None] + width * (np.eye(B) - here[:, None])
        slopes = problem.slope(np.concatenate([here[:, None], probes], 1).reshape(-1, B), goal).reshape(P, B + 1, B)
        slope = slopes[:, 0] - linear
        curvature = (slopes[:, 1:] - slopes[:, :1]) / width  # [P, b, :] = H (e_b - here)
        free = (here > 1e-12) | (slope - (here * slope).sum(1, keepdims=True) > 0)
        tangent = np.where(free[:, :, None], np.eye(B), 0) - here[:, None]  # rows e_b - here, b free
        tangent = np.where(free[:, :, None], tangent, 0)
        hessian = np.einsum("pbk,pck->pbc", np.where(free[:, :, None], curvature, 0), tangent)
        hessian = (hessian + hessian.swapaxes(1, 2)) / 2
        eigen, basis = np.linalg.eigh(hessian)
        strength = np.abs(eigen)
        along = np.einsum("pbi,pbk,pk->pi", basis, tangent, slope)
        size = np.where(strength > 1e-9 * problem.spread, along / np.maximum(strength, 1e-300), np.sign(along) * radius)
        move = np.einsum("pi,pbi,pbk->pk", size, basis, tangent)
        move *= np.minimum(1, radius / np.maximum(np.abs(move).max(1, keepdims=True), 1e-300))
        trial = np.maximum(here[:, None] + lengths[:, None] * move[:, None], 0)
        trial /= trial.sum(-1, keepdims=True)
        values = (problem.value(trial.reshape(-1, B), goal) - trial.reshape(-1, B) @ linear).reshape(P, -1)
        pick = values.argmax(1)
        better = values[np.arange(P), pick] > best
        here = np.where(better[:, None], trial[np.arange(P), pick], here)
        gain = np.where(better, values[np.arange(P), pick] - best, 0)
        best += gain
        if gain.max() <= 0.01 * PRICE_TOLERANCE * problem.spread:
            break
    return here


class Lattice(NamedTuple):
    """points [N, B] on the simplex; directions [B (B-1), B] to neighbours; neighbours [N, B (B-1)] as indices
    (a point itself where the neighbour is outside); spacing of the lattice."""

    points: np.ndarray
    directions: np.ndarray
    neighbours: np.ndarray
    spacing: float

    def local_maxima(self, values: np.ndarray, most: int) -> np.ndarray:
        peaks = np.flatnonzero(values >= values[self.neighbours].max(1))
        return peaks[np.argsort(-values[peaks])[:most]]


@functools.cache
def simplex_lattice(dimension: int) -> Lattice:
    points = simplex_grid(dimension, GRID)
    directions = np.array(
        [np.eye(dimension)[i] - np.eye(dimension)[j] for i, j in itertools.permutations(range(dimension), 2)]
    )
    directions = directions.reshape(-1, dimension)
    parts = round(1 / points[points > 0].min())
    whole = np.round(points * parts).astype(int)
    index = {tuple(point): n for n, point in enumerate(whole)}
    steps = directions.astype(int)
    neighbours = [[index.get(tuple(point + step), n) for step in steps] for n, point in enumerate(whole)]
    return Lattice(points, directions, np.array(neighbours).reshape(len(points), -1), 1 / parts)


def simplex_grid(dimension: int, about: int) -> Float[np.ndarray, "N dimension"]:
    """A regular lattice on the simplex with at most about `about` points (at least the vertices)."""
    if dimension == 1:
        return np.ones((1, 1))
    parts = 1
    while _lattice_size(dimension, parts + 1) <= about:
        parts += 1
    bars = np.array(list(itertools.combinations(range(parts + dimension - 1), dimension - 1)), dtype=int)
    bars = bars.reshape(-1, dimension - 1)
    edges = np.concatenate([np.full((len(bars), 1), -1), bars, np.full((len(bars), 1), parts + dimension - 1)], axis=1)
    return (np.diff(edges, axis=1) - 1) / parts


def _lattice_size(dimension: int, parts: int) -> int:
    size = 1
    for k in range(1, dimension):
        size = size * (parts + k) // k
    return size


def _distinct(points: np.ndarray) -> np.ndarray:
    _, first = np.unique(np.round(points / MERGE), axis=0, return_index=True)
    return points[np.sort(first)]


def pooled_problem(
    game: ReducedGame, schemes: Float[np.ndarray, "K XB M"], agent: int, user: AbstractUser, scale: float
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
    return BeliefProblem(
        mass.reshape(-1, XB), user_payoff.reshape(-1, XB, A), own_payoff.reshape(-1, XB, A), user, scale
    )


def monopoly_problem(game: ReducedGame, agent: int, user: AbstractUser, scale: float) -> BeliefProblem:
    """Agent `agent` alone with the user: a monopolist, or a partner in Selection."""
    return pooled_problem(game, np.empty((0, game.mass.shape[1], 1)), agent, user, scale)
