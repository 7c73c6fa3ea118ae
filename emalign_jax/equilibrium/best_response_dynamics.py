"""Exact best-response dynamics of many games at once, for games in which gradient play does not settle.

`best_response_dynamics` repeats the best response of the agent that gains most. In Selection that ends in an Edgeworth
cycle: rivals outbid the selected agent in tiny steps, and the selected agent lowers its offer again where no rival is
close. `outbid` therefore changes two things. A rival outbids the selected agent by a margin that grows, and a rival
that is not selected, and so loses nothing, offers slightly less than the selected agent. The user's value then only
rises. At the largest value that a scheme can have for the user (V_full for a rational user) no agent can outbid
another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from emalign_jax.exact.checks.batch import AbstractChecks, Examinations, not_examined
from emalign_jax.internal.arguments import BETWEEN, integer, number
from emalign_jax.internal.validation import setting
from emalign_jax.play.solver import AbstractSolver

# The first margin is a share of V_full - V_none. Each takeover makes the margin larger by the factor GROWTH.
FIRST_MARGIN, GROWTH = 1e-3, 1.5
# Called with (rows, schemes, examinations): `rows` of `schemes` are profiles that were met.
Watch = Callable[[np.ndarray, np.ndarray, Examinations], None]
# A selected agent may lower its offer this often. After that the best rival follows its offer.
LOWERINGS = 2


class BestResponseDynamics(AbstractSolver):
    """Hyper-parameters of exact best-response dynamics, the solver that needs no gradients.

    In Selection at temperature 0 agents outbid each other; elsewhere, in Comparison too, the agent that gains most
    moves. Where Comparison does not settle, the profile in which all agents reveal everything is taken if it is nearer
    to an equilibrium.

    Args:
        tolerance: a profile is done if every gain is at most this share of the payoff range; None: as in
            `GradientPlay`.
        steps: best responses from one start, at most.
        fresh_starts: new random starts, at most, of a game that did not settle.

    Raises:
        ValueError: names the field and the rule.

    Example:
        >>> game, solver = em.catalog.prosecutor_against_defender(), em.BestResponseDynamics()
        >>> found = em.solve(game, em.Selection(), em.RationalUser(), solver, key=0)
        >>> em.Result(int(found.result)).name, round(float(found.user), 3)
        ('CERTIFIED', 1.0)

    Source: section 4.8 of docs/model.md.
    """

    steps: int = setting("steps", 100, integer, 1)
    fresh_starts: int = setting("fresh_starts", 10, integer, 0)
    tolerance: float | None = setting("tolerance", None, number, *BETWEEN)
    verifies = True

    def rounds(self, search):
        return self.fresh_starts + 1

    def improve(self, search, pending, attempt):
        if attempt:
            search.restart(pending, attempt)
        return search.settle(pending, self.steps)


class Ended(NamedTuple):
    """schemes [n, K, rows, M], their examinations, and the number of best responses played [n]."""

    schemes: Float[np.ndarray, "n K rows M"]
    examined: Examinations
    steps: Int[np.ndarray, "n"]


def settle(
    checks: AbstractChecks, at: Int[np.ndarray, "n"], schemes: Float[np.ndarray, "n K rows M"], tolerance: float, *,
    max_steps: int | None = None, tell: Callable[[int], None] = lambda done: None, watch: Watch | None = None,
) -> Ended:  # fmt: skip
    """Outbidding where it is defined, elsewhere best-response dynamics, from `schemes`.

    at:        numbers of the games of `checks`
    max_steps: None: the default of each
    tell:      called with the number of profiles done so far
    watch:     called with (rows of `at`, their schemes, their examinations) before the first step, and after each of
               the profiles that moved
    """
    limit = {} if max_steps is None else {"max_steps": max_steps}
    outbids = checks.can_outbid(at)
    schemes, examined, steps = schemes.copy(), not_examined(len(at), schemes.shape[1]), np.zeros(len(at), int)
    done = 0

    def met(some, rows, profiles, now):
        if watch is not None:
            watch(some[rows], profiles[rows], now)

    for dynamics, some in ((outbid, np.flatnonzero(outbids)), (best_response_dynamics, np.flatnonzero(~outbids))):
        if len(some):
            ended = dynamics(
                checks, at[some], schemes[some], tolerance, tell=lambda n, before=done: tell(before + n),
                watch=functools.partial(met, some), **limit,
            )  # fmt: skip
            schemes[some], steps[some] = ended.schemes, ended.steps
            examined.put(some, ended.examined)
            done += len(some)
    return Ended(schemes, examined, steps)


def best_response_dynamics(
    checks: AbstractChecks, at, schemes, tolerance: float, *, max_steps: int = 10, tell=lambda done: None,
    watch: Watch = lambda *met: None,
) -> Ended:  # fmt: skip
    """From `schemes` until every relative gain is at most `tolerance`; the best profiles met on the way, or the limit
    of outbidding where that is better."""
    current, best = schemes.copy(), schemes.copy()
    now = checks.examine(at, current, None, tolerance)
    examined = Examinations(*(x.copy() for x in now))
    steps = np.zeros(len(at), int)
    left = np.arange(len(at))
    for step in range(max_steps + 1):
        if step:
            now = checks.after_move(at[left], current[left], now, movers, tolerance)
        watch(left, current, now)
        worst = now.worst
        better = worst < examined.worst[left]
        best[left[better]] = current[left[better]]
        examined.put(left[better], now.rows(better))
        steps[left] = step
        going = (worst > tolerance) & (worst < np.inf)
        if step == max_steps or not going.any():
            break
        left, now = left[going], now.rows(going)
        movers = now.relative.argmax(1)
        moved = checks.best_responses(at[left], current[left], now, movers)
        fits = np.isfinite(moved).all((1, 2))
        left, now, movers = left[fits], now.rows(fits), movers[fits]
        current[left, movers] = moved[fits]
        tell(len(at) - len(left))
        if not len(left):
            break
    return _at_the_limit(checks, at, Ended(best, examined, steps), tolerance, watch)


def outbid(
    checks: AbstractChecks, at, schemes, tolerance: float, *, max_steps: int = 100, tell=lambda done: None,
    watch: Watch = lambda *met: None,
) -> Ended:  # fmt: skip
    """Best responses from `schemes` until every relative gain is at most `tolerance`.

    Where they do not settle in `max_steps`, the limit of outbidding is tried: all agents offer the scheme that is worth
    most to the user.
    """
    schemes, M = schemes.copy(), schemes.shape[-1]
    examined, steps = not_examined(len(at), schemes.shape[1]), np.zeros(len(at), int)
    margin, lowered = FIRST_MARGIN * checks.worth(at), np.zeros(len(at), int)
    left = np.arange(len(at))
    now = checks.examine(at, schemes, None, tolerance)
    for step in range(max_steps + 1):
        examined.put(left, now)
        watch(left, schemes, now)
        steps[left] = step
        worst = now.worst
        going = (worst > tolerance) & (worst < np.inf)
        if step == max_steps or not going.any():
            break
        left, now = left[going], now.rows(going)
        game, profile = at[left], schemes[left]
        values, selected, rivals = checks.standing(game, profile, now)
        each = np.arange(len(left))
        movers = now.relative.argmax(1)
        takes = movers != selected
        lowers = ~takes & ((rivals < 0) | (lowered[left] < LOWERINGS))
        follows = ~takes & ~lowers
        moved = np.empty_like(profile[:, 0])
        if takes.any():
            goal = values[each, selected] + margin[left]
            moved[takes] = checks.at_least(game[takes], movers[takes], goal[takes], M)
            margin[left[takes]] *= GROWTH
        if lowers.any():
            moved[lowers] = checks.best_responses(game[lowers], profile[lowers], now.rows(lowers), movers[lowers])
            lowered[left[lowers]] += 1
        if follows.any():
            moved[follows] = checks.just_behind(game[follows], profile[follows], selected[follows], rivals[follows])
            movers = np.where(follows, rivals, movers)
        # Without a scheme that fits, or with the one that there is already, nothing would ever change.
        moves = np.isfinite(moved).all((1, 2)) & (moved != profile[each, movers]).any((1, 2))
        left, movers, now = left[moves], movers[moves], now.rows(moves)
        schemes[left, movers] = moved[moves]
        tell(len(at) - len(left))
        if not len(left):
            break
        now = checks.after_move(at[left], schemes[left], now, movers, tolerance)
    return _at_the_limit(checks, at, Ended(schemes, examined, steps), tolerance, watch)


def _at_the_limit(checks: AbstractChecks, at, ended: Ended, tolerance: float, watch: Watch) -> Ended:
    """The profiles in which all agents offer the scheme that is worth most to the user, where the dynamics did not
    settle and those profiles have smaller gains."""
    left = np.flatnonzero(ended.examined.worst > tolerance)
    if not len(left):
        return ended
    limits = checks.limits(at[left], ended.schemes.shape[-1])
    fits = np.isfinite(limits).all((1, 2))
    left, limits = left[fits], limits[fits]
    if not len(left):
        return ended
    offers = np.repeat(limits[:, None], ended.schemes.shape[1], 1)
    examined = checks.examine(at[left], offers, None, tolerance)
    better = examined.worst < ended.examined.worst[left]
    ended.schemes[left[better]] = offers[better]
    ended.examined.put(left[better], examined.rows(better))
    watch(left[better], ended.schemes, examined.rows(better))
    return ended
