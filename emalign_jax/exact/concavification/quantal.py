"""A quantal user's responses to many beliefs of many problems: payoffs, their slopes, and local maxima.

All functions work on NumPy and jax arrays alike (`xp`). G problems have R beliefs each, [B, G, R]. Features x_B and
actions are Python lists or leading axes of arrays [T, G, R]: sums that are written out become one loop when compiled.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from emalign_jax.exact.concavification.problems import IMPOSSIBLE, BeliefProblems
from emalign_jax.internal.xla import stage

# Steps of one search for local maxima; the next round of column generation continues from the beliefs in use.
NEWTON_STEPS = 2
# Damping of a Newton step, as shares of the Hessian's size. The last one is larger than any curvature.
DAMPING = (1e-7, 0.05, 0.3, 1.1)
# The width of one-sided differences of the slope.
WIDTH = 1e-5


class Setting(NamedTuple):
    """G problems of B features x_B, T types and A actions.

    mass: [B, T, G, 1]; user, goal, welfare: [B, A, T, G, 1]; precision, spread: [G, 1]; price: [B, G, 1]
    """

    mass: Any
    user: Any
    goal: Any
    welfare: Any
    precision: Any
    spread: Any
    price: Any


def setting(problems: BeliefProblems, price: Any = None) -> Setting:
    """The problems and prices [P, B] of x_B (None: 0) with the axes that this file wants."""

    def last(x):
        return np.ascontiguousarray(np.moveaxis(x, 0, -1))[..., None]

    price = np.zeros_like(problems.target) if price is None else price
    return Setting(
        last(problems.mass), last(problems.user), last(problems.own), last(problems.welfare),
        problems.precision[:, None], problems.spread[:, None], last(price),
    )  # fmt: skip


def total(parts: list[Any]) -> Any:
    """The sum of a list of arrays."""
    return functools.reduce(lambda x, y: x + y, parts)


def mix(weights, numbers):
    """Sums over x_B of numbers [B, ...] with weights [B, ...]."""
    return total([weights[b] * numbers[b] for b in range(len(numbers))])


def respond(of: Setting, beliefs, xp):
    """Masses [T, G, R]; by action the user's totals and the response [T, G, R], at unnormalised beliefs."""
    mass = mix(beliefs, of.mass)
    user = [mix(beliefs, of.user[:, a]) for a in range(of.user.shape[1])]
    rate = of.precision / xp.where(mass > 0, mass, np.inf)
    best = functools.reduce(xp.maximum, user)
    power = [xp.exp(rate * (x - best)) for x in user]
    share = 1 / total(power)
    return mass, user, [x * share for x in power]


@stage()
def payoffs(of: Setting, beliefs, xp):
    """The goal's payoff and what the user gets at each belief [G, R]."""
    response = respond(of, beliefs, xp)[2]
    return tuple(_expected(payoff, beliefs, response) for payoff in (of.goal, of.welfare))


def _expected(payoff, beliefs, response):
    return total([q * mix(beliefs, payoff[:, a]) for a, q in enumerate(response)]).sum(0)


@stage()
def excess(of: Setting, beliefs, xp):
    """The goal's payoff less the price of each belief [G, R]."""
    return _expected(of.goal, beliefs, respond(of, beliefs, xp)[2]) - mix(beliefs, of.price)


def slope(of: Setting, beliefs, xp):
    """The gradient [B, G, R] of the goal's payoff less the price (section 5.3 of docs/model.md)."""
    pulls = _pulls(of, beliefs, xp=xp)
    return _gradient(of, *pulls, xp=xp)


@stage()
def _pulls(of: Setting, beliefs, xp):
    mass, user, response = respond(of, beliefs, xp)
    per_mass, A = 1 / xp.where(mass > IMPOSSIBLE, mass, np.inf), range(len(user))
    worth = [mix(beliefs, of.goal[:, a]) * per_mass for a in A]
    mean = total([response[a] * worth[a] for a in A])
    pull = [of.precision * response[a] * (worth[a] - mean) for a in A]
    return response, pull, total([pull[a] * user[a] for a in A]) * per_mass


@stage()
def _gradient(of: Setting, response, pull, lost, xp):
    A, rows = range(len(response)), []
    for b in range(len(of.goal)):
        gained = total([response[a] * of.goal[b, a] + pull[a] * of.user[b, a] for a in A]) - lost * of.mass[b]
        rows.append(gained.sum(0) - of.price[b])
    return xp.stack(rows)


def ascend(of: Setting, start, radius: float, xp):
    """Beliefs [B, G, R] reached from `start` by damped Newton steps of at most `radius`, and their excess [G, R].

    Coordinates at 0 are kept there while the slope points outwards. Of several dampings the best is taken, and only if
    it is better than no step.
    """
    here, best = start, excess(of, start, xp=xp)
    for _ in range(NEWTON_STEPS):
        slopes = slope(of, _probes(here, xp=xp), xp)
        pull, hessian, size = _curvature(of.spread, here, slopes, xp=xp)
        weights = _solve(pull, hessian, size, xp)
        trials = _moved(here, weights, radius=radius, xp=xp)
        found = excess(of, trials, xp=xp)
        here, best = _better(here, best, trials, found, xp=xp)
    return here, best


@stage()
def _better(here, best, trials, found, xp):
    R = here.shape[-1]
    for k in range(len(DAMPING)):
        some = slice(k * R, (k + 1) * R)
        better = found[:, some] > best
        here, best = xp.where(better, trials[..., some], here), xp.where(better, found[:, some], best)
    return here, best


@stage()
def _probes(here, xp):
    """The beliefs, and those a little nearer to each x_B: moves along e_b - here keep the sum at 1, and differences are
    one-sided, inside the simplex."""
    B = range(len(here))
    moved = [xp.stack([(1 - WIDTH) * here[c] + (WIDTH if b == c else 0.0) for c in B]) for b in B]
    return xp.concatenate([here, *moved], -1)


@stage()
def _curvature(spread, here, slopes, xp):
    """The slope [b] and the Hessian [b][c] along e_b - here, 0 where that leaves the simplex, and the Hessian's size;
    from slopes [B, G, (1 + B) R] at the `_probes`."""
    B, R = range(len(here)), here.shape[-1]
    slopes = [slopes[..., k * R : (k + 1) * R] for k in range(len(here) + 1)]
    own = slopes[0] - mix(here, slopes[0])
    free = [(here[b] > 1e-12) | (own[b] > 0) for b in B]
    curved = [(slopes[b + 1] - slopes[0]) / WIDTH for b in B]  # H (e_b - here)
    curved = [curve - mix(here, curve) for curve in curved]
    hessian = [[xp.where(free[b] & free[c], (curved[b][c] + curved[c][b]) / 2, 0) for c in B] for b in B]
    size = xp.sqrt(total([x * x for row in hessian for x in row])) + 1e-9 * spread
    return [xp.where(free[b], own[b], 0) for b in B], hessian, size


def _solve(pull, hessian, size, xp):
    """(damping * size - hessian)^-1 pull [b] for each damping [D, G, R], by elimination without exchanges, which is
    stable where the matrix is definite."""
    B = range(len(pull))
    rows = _system(pull, hessian, size, xp=xp)
    for k in B:
        rows = _eliminate(rows, k=k, xp=xp)
    return _substitute(rows, xp=xp)


@stage()
def _system(pull, hessian, size, xp):
    damping, B = xp.asarray(DAMPING)[:, None, None] * size, range(len(pull))
    rows = [[(damping if b == c else 0 * damping) - hessian[b][c] for c in B] for b in B]
    return [[*row, pull[b] + 0 * damping] for b, row in enumerate(rows)]


@stage("k")
def _eliminate(rows, k: int, xp):
    inverse = _inverse(rows[k][k], xp)
    below = [
        row[: k + 1] + [row[c] - row[k] * inverse * rows[k][c] for c in range(k + 1, len(row))] for row in rows[k + 1 :]
    ]
    return rows[: k + 1] + below


@stage()
def _substitute(rows, xp):
    B = len(rows)
    found: list[Any] = [None] * B
    for k in reversed(range(B)):
        left = total([rows[k][B], *(-rows[k][c] * found[c] for c in range(k + 1, B))])
        found[k] = left * _inverse(rows[k][k], xp)
    return found


def _inverse(x, xp):
    return 1 / xp.where(xp.abs(x) > 1e-300, x, np.inf)


@stage("radius")
def _moved(here, weights, radius: float, xp):
    """The beliefs after moves of the sum of weights[b] (e_b - here), at most `radius` [B, G, D * R]."""
    whole, B = total(weights), range(len(here))
    move = [weights[b] - here[b] * whole for b in B]
    longest = functools.reduce(xp.maximum, [xp.abs(x) for x in move])
    reach = xp.where(longest < np.inf, xp.minimum(1, radius / xp.maximum(longest, 1e-300)), 0)
    trial = [xp.maximum(here[b] + xp.where(reach > 0, reach * move[b], 0), 0) for b in B]
    mass = 1 / total(trial)
    trial = xp.stack([x * mass for x in trial])  # [B, D, G, R]
    return xp.concatenate([trial[:, d] for d in range(len(DAMPING))], -1)
