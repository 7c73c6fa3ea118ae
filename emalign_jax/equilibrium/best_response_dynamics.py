"""Exact best-response dynamics, for games in which gradient play does not settle.

`best_response_dynamics` repeats the best response of the agent that gains most. In Selection that ends in an Edgeworth
cycle: rivals outbid the selected agent in tiny steps, and the selected agent lowers its offer again where no rival is
close. `outbid` therefore changes two things. A rival outbids the selected agent by a margin that grows, and a rival
that is not selected, and so loses nothing, offers slightly less than the selected agent. The user's value then only
rises. At the largest value that a scheme can have for the user (V_full for a rational user) no agent can outbid
another.
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

# The first margin is a share of V_full - V_none. Each takeover makes the margin larger by the factor GROWTH.
FIRST_MARGIN, GROWTH = 1e-3, 1.5
# A selected agent may lower its offer this often. After that the best rival follows its offer.
LOWERINGS = 2


class BestResponseDynamics(eqx.Module):
    """Hyper-parameters of exact best-response dynamics, the solver that needs no gradients.

    In Selection at temperature 0 agents outbid each other (`outbid`); elsewhere, in Comparison too, the agent that
    gains most moves (`best_response_dynamics`). Where Comparison does not settle, the profile in which all agents
    reveal everything is taken if it is nearer to an equilibrium.

    steps:        best responses from one start, at most
    fresh_starts: new random starts, at most, of a game that did not settle
    tolerance:    a profile is done if every gain is at most this share of the payoff range; None: as in `GradientPlay`
    """

    steps: int = setting("steps", 100, integer, 1)
    fresh_starts: int = setting("fresh_starts", 10, integer, 0)
    tolerance: float | None = setting("tolerance", None, number, *BETWEEN)


validation.describe(("solver",), BestResponseDynamics, "a solver such as em.GradientPlay()")


class Ended(NamedTuple):
    """schemes [K, XB, M], their check, and the number of best responses played."""

    schemes: Float[np.ndarray, "K XB M"]
    examined: Examination
    steps: int


def best_response_dynamics(
    check: AbstractCheck, schemes: Float[np.ndarray, "K XB M"], tolerance: float, *, max_steps: int = 10
) -> Ended:
    """From `schemes` until every relative gain is at most `tolerance`; the best profile met on the way.

    In Comparison the limit of outbidding is tried too.
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

    Where they do not settle in `max_steps`, the limit of outbidding is tried: all agents offer the scheme that is worth
    most to the user.
    """
    schemes = schemes.copy()
    worth = check.most_value - check.least_value
    margin, lowered = FIRST_MARGIN * worth, 0
    for step in range(max_steps):
        examined = examine(check, schemes)
        if examined.worst <= tolerance or examined.worst == np.inf:
            return Ended(schemes, examined, step)
        agent = int(examined.relative.argmax())
        values, _, selected, rival = check.standing(schemes)
        if agent != selected:
            taken = check.at_least(agent, values[selected] + margin)
            margin *= GROWTH
        elif rival is None or lowered < LOWERINGS:
            taken = examined.deviations[agent]
            lowered += 1
        else:
            schemes[rival] = _just_behind(check, schemes, selected, rival)
            continue
        fitted = fit(taken.scheme, schemes.shape[2])
        if fitted is None:
            break
        schemes[agent] = fitted
    return _at_the_limit(check, Ended(schemes, examine(check, schemes), max_steps), tolerance)


def _at_the_limit(check: SelectionCheck, ended: Ended, tolerance: float) -> Ended:
    """The profile in which all agents offer the scheme that is worth most to the user, if the dynamics did not settle
    and that profile has smaller gains."""
    messages = ended.schemes.shape[2]
    limit = fit(check.most_scheme, messages)
    if limit is not None and ended.examined.worst > tolerance:
        all_offer = np.repeat(limit[None], len(ended.schemes), 0)
        examined = examine(check, all_offer)
        if examined.worst < ended.examined.worst:
            return ended._replace(schemes=all_offer, examined=examined)
    return ended


def _just_behind(check: SelectionCheck, schemes, selected: int, rival: int) -> np.ndarray:
    """The selected agent's scheme, garbled just enough to be worth less to the user."""
    silent = np.zeros_like(schemes[selected])
    silent[:, 0] = 1
    value = check.table(schemes).values[selected]
    for share in 10.0 ** np.arange(-7, 0.5, 0.5):
        garbled = (1 - share) * schemes[selected] + share * silent
        profile = np.repeat(garbled[None], len(schemes), 0)
        if check.table(profile).values[rival] < value - 2 * VALUE_TIE * check.scale:
            break
    return garbled


def fit(scheme: Float[np.ndarray, "XB S"], messages: int) -> np.ndarray | None:
    """`scheme` with `messages` columns: unused ones are dropped or added; None if it needs more."""
    if scheme.shape[1] == messages:  # In a conversation replies depend on the message's number, so none is moved.
        return scheme
    used = scheme[:, scheme.max(0) > 0]
    if used.shape[1] > messages:
        return None
    out = np.zeros((scheme.shape[0], messages))
    out[:, : used.shape[1]] = used
    return out
