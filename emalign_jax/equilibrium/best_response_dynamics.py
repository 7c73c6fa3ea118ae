"""Exact best-response dynamics: what to do where gradient play does not settle.

`best_response_dynamics` lets the agent who gains most play his best response, again and again.
`outbid` does it in Selection, where that would creep: play ends in an Edgeworth
cycle, rivals outbid the holder in tiny steps, he lowers his offer when no one is close, and so on. There
takeovers exceed the holder by a margin that grows, and a rival who is not picked, and so loses nothing,
stays just behind the holder. The user's value then only rises, and at the most that a scheme can be worth to her
(V_full, for a rational user) nobody can outbid.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float

from emalign_jax.exact.checks.base import AbstractCheck
from emalign_jax.exact.checks.examination import Examination, examine
from emalign_jax.exact.checks.selection_rational import SelectionCheck
from emalign_jax.games.units import VALUE_TIE
from emalign_jax.internal import validation
from emalign_jax.internal.arguments import BETWEEN, integer, number
from emalign_jax.internal.validation import setting

FIRST_MARGIN = 1e-3  # of V_full - V_none
GROWTH = 1.5
LOWERINGS = 2  # how often a holder may lower his offer before rivals shadow him


class BestResponseDynamics(eqx.Module):
    """Hyper-parameters of exact best-response dynamics, the solver that needs no gradients.

    In Selection at temperature 0 agents outbid each other (`outbid`), elsewhere the agent who gains most moves
    (`best_response_dynamics`); in Comparison too, and what does not settle ends where all reveal all, if that is
    nearer to an equilibrium.

    steps:        best responses from one start, at most
    fresh_starts: how many new random starts, one after the other, a game gets that did not settle
    tolerance:    a profile is done if every gain is at most this share of the payoff range; None: as in `GradientPlay`
    """

    steps: int = setting("steps", 100, integer, 1)
    fresh_starts: int = setting("fresh_starts", 10, integer, 0)
    tolerance: float | None = setting("tolerance", None, number, *BETWEEN)


validation.describe(("solver",), BestResponseDynamics, "a solver such as em.GradientPlay()")


class Ended(NamedTuple):
    """schemes [K, XB, M]; what they are worth; best responses played."""

    schemes: Float[np.ndarray, "K XB M"]
    examined: Examination
    steps: int


def best_response_dynamics(
    check: AbstractCheck, schemes: Float[np.ndarray, "K XB M"], tolerance: float, *, max_steps: int = 10
) -> Ended:
    """From `schemes` until every relative gain is at most `tolerance`; the best profile met on the way.

    Where agents compete for a user who picks the best of those she compares, the limit of outbidding is tried too.
    """
    schemes = schemes.copy()
    best = Ended(schemes.copy(), examine(check, schemes), 0)
    for step in range(max_steps + 1):
        examined = best.examined if step == 0 else examine(check, schemes)
        if examined.worst < best.examined.worst:
            best = Ended(schemes.copy(), examined, step)
        if examined.worst <= tolerance or examined.worst == np.inf:
            break
        mover = int(examined.relative.argmax())
        fitted = fit(examined.deviations[mover].scheme, schemes.shape[2])
        if fitted is None:
            break
        schemes[mover] = fitted
    best = best._replace(steps=step)
    return _at_the_limit(check, best, tolerance) if isinstance(check, SelectionCheck) and check.sharp else best


def outbid(
    check: SelectionCheck, schemes: Float[np.ndarray, "K XB M"], tolerance: float, *, max_steps: int = 100
) -> Ended:
    """Best responses from `schemes` until every relative gain is at most `tolerance`.

    Where they do not settle in `max_steps`, the limit of outbidding is tried: all offer what is worth most to her.
    """
    schemes = schemes.copy()
    worth = check.most_value - check.least_value
    margin, lowered = FIRST_MARGIN * worth, 0
    for step in range(max_steps):
        examined = examine(check, schemes)
        if examined.worst <= tolerance or examined.worst == np.inf:
            return Ended(schemes, examined, step)
        agent = int(examined.relative.argmax())
        values, _, holder, rival = check.standing(schemes)
        if agent != holder:
            taken = check.at_least(agent, values[holder] + margin)
            margin *= GROWTH
        elif rival is None or lowered < LOWERINGS:
            taken = examined.deviations[agent]
            lowered += 1
        else:
            schemes[rival] = _just_behind(check, schemes, holder, rival)
            continue
        fitted = fit(taken.scheme, schemes.shape[2])
        if fitted is None:
            break
        schemes[agent] = fitted
    return _at_the_limit(check, Ended(schemes, examine(check, schemes), max_steps), tolerance)


def _at_the_limit(check: SelectionCheck, ended: Ended, tolerance: float) -> Ended:
    """If it did not settle and that is better: all offer what is worth most to her."""
    messages = ended.schemes.shape[2]
    limit = fit(check.most_scheme, messages)
    if limit is not None and ended.examined.worst > tolerance:
        all_offer = np.repeat(limit[None], len(ended.schemes), 0)
        examined = examine(check, all_offer)
        if examined.worst < ended.examined.worst:
            return ended._replace(schemes=all_offer, examined=examined)
    return ended


def _just_behind(check: SelectionCheck, schemes, holder: int, rival: int) -> np.ndarray:
    """The holder's scheme, garbled so little that it is worth a hair less to the user."""
    silent = np.zeros_like(schemes[holder])
    silent[:, 0] = 1
    value = check.table(schemes).values[holder]
    for share in 10.0 ** np.arange(-7, 0.5, 0.5):
        garbled = (1 - share) * schemes[holder] + share * silent
        profile = np.repeat(garbled[None], len(schemes), 0)
        if check.table(profile).values[rival] < value - 2 * VALUE_TIE * check.scale:
            break
    return garbled


def fit(scheme: Float[np.ndarray, "XB S"], messages: int) -> np.ndarray | None:
    """`scheme` with exactly `messages` columns: unused ones dropped or added; None if it needs more."""
    if scheme.shape[1] == messages:  # in a conversation what a message is called matters to what follows
        return scheme
    used = scheme[:, scheme.max(0) > 0]
    if used.shape[1] > messages:
        return None
    out = np.zeros((scheme.shape[0], messages))
    out[:, : used.shape[1]] = used
    return out
