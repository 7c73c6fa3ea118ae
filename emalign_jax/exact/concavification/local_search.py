"""Local maxima over beliefs of the payoff less the price, with a quantal user, for many problems at once.

The axis of the beliefs [R] of all problems comes last, so that sums over actions and types run along memory.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.concavification.beliefs import IMPOSSIBLE, BeliefProblem

# Per round of column generation; the next round continues from the beliefs in use.
NEWTON_STEPS = 5
# Candidate lengths of a step.
LENGTHS = np.array([1.0, 0.3, 0.05, 0.005])
# The width of one-sided differences of the slope.
WIDTH = 1e-5
# Relative to the agent's spread: a step that gains less is the last one.
SMALLEST_GAIN = 1e-10


class Climb(NamedTuple):
    """A request to climb `problem.value(belief, goal) - belief @ price` from the beliefs `start`, in steps of at most
    `radius`; see `interleaving.py`."""

    problem: BeliefProblem
    goal: Float[np.ndarray, "B TA"]
    price: Float[np.ndarray, "B"]
    start: Float[np.ndarray, "P B"]
    radius: float

    @property
    def size(self) -> tuple[int, int, int]:
        return self.problem.own_payoff.shape

    @property
    def work(self) -> int:
        B, T, A = self.size
        return len(self.start) * (B + 1) * T * A

    @staticmethod
    def serve(climbs: list[Climb]) -> list[tuple[Float[np.ndarray, "P B"], Float[np.ndarray, "P"]]]:
        """The final beliefs and their values, for each request."""
        return _Climbs(climbs).ascend()


class _Climbs:
    def __init__(self, climbs: list[Climb]):
        self.climbs, self.size = climbs, climbs[0].size
        B, T, A = self.size
        flat = [np.stack([c.problem.user_payoff.reshape(B, -1), c.goal]).reshape(2, B, T, A) for c in climbs]
        # [B, mass of T, user's total of A x T, goal of A x T]
        self.payoffs = [
            np.concatenate([c.problem.mass, x.transpose(1, 0, 3, 2).reshape(B, -1)], 1)
            for c, x in zip(climbs, flat, strict=True)
        ]
        self.precision = np.array([float(c.problem.user.precision) for c in climbs])
        self.price = np.array([c.price for c in climbs])
        self.radius = np.array([c.radius for c in climbs])
        self.spread = np.array([c.problem.spread for c in climbs])

    def respond(self, beliefs: Float[np.ndarray, "R B"], counts):
        """1 / mass [T, R]; the user's totals, the goal's and the response [A, T, R]. counts: beliefs of each climb."""
        _, T, A = self.size
        ends = np.cumsum(counts)
        totals = np.empty(((2 * A + 1) * T, len(beliefs)))
        for payoffs, first, end in zip(self.payoffs, ends - counts, ends, strict=True):
            if end > first:
                totals[:, first:end] = payoffs.T @ beliefs[first:end].T
        mass, user = totals[:T], totals[T : (A + 1) * T].reshape(A, T, -1)
        with np.errstate(over="ignore", invalid="ignore"):  # As in `respond`.
            rate = np.repeat(self.precision, counts) / np.where(mass > 0, mass, np.inf)
            distribution = np.exp(rate * (user - user.max(0)))
        distribution /= distribution.sum(0)
        return mass, user, totals[(A + 1) * T :].reshape(A, T, -1), distribution

    def excess(self, beliefs, counts) -> Float[np.ndarray, "R"]:
        """The value less the price of each belief."""
        *_, goal, distribution = self.respond(beliefs, counts)
        return (distribution * goal).sum((0, 1)) - (beliefs * np.repeat(self.price, counts, 0)).sum(1)

    def slope(self, beliefs, counts) -> Float[np.ndarray, "R B"]:
        """The gradient of the value, as `BeliefProblem.slope`."""
        B, T, A = self.size
        mass, user, goal, distribution = self.respond(beliefs, counts)
        per_mass = 1 / np.where(mass > IMPOSSIBLE, mass, np.inf)
        mean = goal * per_mass
        weights = np.empty(((2 * A + 1) * T, len(beliefs)))
        pull = weights[T : (A + 1) * T].reshape(A, T, -1)
        np.multiply(np.repeat(self.precision, counts) * distribution, mean - (distribution * mean).sum(0), out=pull)
        weights[:T] = -(pull * user).sum(0) * per_mass
        weights[(A + 1) * T :] = distribution.reshape(A * T, -1)
        ends = np.cumsum(counts)
        slope = np.empty((len(beliefs), B))
        for payoffs, first, end in zip(self.payoffs, ends - counts, ends, strict=True):
            if end > first:
                slope[first:end] = (payoffs @ weights[:, first:end]).T
        return slope

    def ascend(self):
        """Damped Newton steps with |Hessian|. Coordinates at 0 are kept there while the slope points outwards. The best
        of `LENGTHS` is taken; a belief that no length improves is final."""
        first = np.cumsum([0, *(len(c.start) for c in self.climbs)])
        found = np.concatenate([c.start for c in self.climbs])
        owner = np.repeat(np.arange(len(self.climbs)), np.diff(first))
        best = self.excess(found, np.diff(first))
        rows = np.arange(len(found))
        for _ in range(NEWTON_STEPS):
            counts = np.bincount(owner[rows], minlength=len(self.climbs))
            trial = self._steps(found[rows], owner[rows], counts)
            values = self.excess(trial.reshape(-1, self.size[0]), counts * len(LENGTHS)).reshape(len(rows), -1)
            pick = values.argmax(1)
            values = values[np.arange(len(rows)), pick]
            gain = values - best[rows]
            better = gain > 0
            found[rows[better]], best[rows[better]] = trial[better, pick[better]], values[better]
            most = np.zeros(len(self.climbs))
            np.maximum.at(most, owner[rows], np.where(better, gain, 0))
            rows = rows[better & (most > SMALLEST_GAIN * self.spread)[owner[rows]]]
            if not len(rows):
                break
        return list(zip(np.split(found, first[1:-1]), np.split(best, first[1:-1]), strict=True))

    def _steps(self, here: Float[np.ndarray, "R B"], owner, counts) -> Float[np.ndarray, "R lengths B"]:
        R, B = here.shape
        # Moves along e_b - here keep the sum at 1. Differences are one-sided, inside the simplex.
        probes = here[:, None] + WIDTH * (np.eye(B) - here[:, None])
        slopes = self.slope(np.concatenate([here[:, None], probes], 1).reshape(-1, B), counts * (B + 1))
        slopes = slopes.reshape(R, B + 1, B)
        slope = slopes[:, 0] - self.price[owner]
        curvature = (slopes[:, 1:] - slopes[:, :1]) / WIDTH  # [R, b, :] = H (e_b - here)
        free = (here > 1e-12) | (slope - (here * slope).sum(1, keepdims=True) > 0)
        tangent = np.where(free[:, :, None], np.eye(B) - here[:, None], 0)  # Rows e_b - here, b free.
        hessian = np.where(free[:, :, None], curvature, 0) @ tangent.swapaxes(1, 2)
        hessian = (hessian + hessian.swapaxes(1, 2)) / 2
        eigen, basis = np.linalg.eigh(hessian)
        strength = np.abs(eigen)
        radius = self.radius[owner][:, None]
        along = (basis.swapaxes(1, 2) @ (tangent @ slope[:, :, None]))[:, :, 0]
        flat = strength <= 1e-9 * self.spread[owner][:, None]
        size = np.where(flat, np.sign(along) * radius, along / np.maximum(strength, 1e-300))
        move = ((basis @ size[:, :, None]).swapaxes(1, 2) @ tangent)[:, 0]
        move *= np.minimum(1, radius / np.maximum(np.abs(move).max(1, keepdims=True), 1e-300))
        trial = np.maximum(here[:, None] + LENGTHS[:, None] * move[:, None], 0)
        return trial / trial.sum(-1, keepdims=True)
