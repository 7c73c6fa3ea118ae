"""What should not matter does not: units, offsets, and what utilities are at outcomes that cannot happen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from claims_base import Claim, arrays_of, raw

import emalign_jax as em

CHANGE = 1e-7  # what a relative number may change by, and as much of it where it is more than 1
NOTHING = 1e-12  # the same where no number that matters is changed
SMALLEST, LARGEST = -9, 9  # powers of ten of the factors
OFFSETS = 3  # and up to which offsets go, in spreads of the utility


class Numbers(NamedTuple):
    """What the library says of games [N], by name: verdicts are compared as they are, the rest in units."""

    verdicts: dict[str, np.ndarray]
    relative: dict[str, np.ndarray]


def compare(what: str, one: Numbers, other: Numbers, allowed: float) -> list[Claim]:
    claims = []
    for name, verdict in one.verdicts.items():
        claims.append(Claim(f"{what}: verdicts", np.where(verdict == other.verdicts[name], 0.0, -1), 0))
    for name, value in one.relative.items():
        changed = other.relative[name]
        same = (value == changed) | (np.isnan(value) & np.isnan(changed))
        size = np.maximum(1, abs(np.nan_to_num(value)))
        with np.errstate(invalid="ignore"):
            margin = np.where(same, 0, -abs(value - changed) / size)
        claims.append(Claim(f"{what}: {name}", margin.reshape(len(margin), -1).min(-1), allowed))
    return claims


def share(value: np.ndarray, of: np.ndarray) -> np.ndarray:
    """value / of, and 0 where `of` is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(of == 0, np.where(value == 0, 0, np.inf), value / of)


def numbers_of_profiles(games: em.Game, schemes, user, scale, stakes) -> Numbers:
    """Certificates in Selection. scale [N], stakes [N, K]: the units to count in."""
    found = em.certify(games, schemes, em.Selection(), user)
    ranges, worth = found.payoff_range, found.full_information - found.no_information
    full = found.full_information
    # shares of a range or of V_full - V_none are as certain as this is in units: they are compared where it is some
    matters, known = ranges > 1e-3 * stakes, worth > 1e-3 * scale
    worth, ranges = np.where(known, worth, scale), np.where(matters, ranges, stakes)
    relative = {
        "payoff_range": share(found.payoff_range, stakes),
        "gain_lower": share(found.gain_lower, ranges),
        "gain_upper": share(found.gain_upper, ranges),
        "normalised value": share(full - found.user, worth),
        "V_full - V_none": share(full - found.no_information, scale),
        "theorem": share(full - found.theorem, worth),
        "guarantee": share(full - found.guarantee, worth),
    }
    codes = {
        "result": found.result,
        "closed": found.closed,
        "worthless": np.isnan(found.normalised_value),
        "no range": found.payoff_range == 0,
    }
    return Numbers(codes, relative)


def numbers_of_games(games: em.Game, scale) -> Numbers:
    """Equilibrium sets, the sharp bound and its dual."""
    found, worst = em.stability(games), em.worst_case(games)
    dual, plain = em.coverage(games, obedience=True), em.coverage(games)
    full = found.full_information
    relative = {
        "stability, worst and best": np.stack([share(full - x, scale) for x in (found.worst, found.best)], 1),
        "worst_case": share(full - worst, scale),
        "coverage": np.stack([share(cover.slack, scale) for cover in (dual, plain)], 1),
    }
    codes = {"stability": found.result, "coverage": plain.result, "with obedience": dual.result}
    return Numbers(codes, relative)


def numbers_of_transfers(games: em.Game, budgets, user, scale, size) -> Numbers:
    """Budgets and what they do. size [N]: the unit of budgets."""
    relative = {}
    for kind in ("outcome", "action"):
        for weights in ("simplex", "cone"):
            least = em.least_budget(games, kind=kind, weights=weights)
            relative[f"least_budget, {kind}, {weights}"] = share(least, size)
        found = em.best_transfers(games, budgets, user, kind=kind)
        gained = found.guarantee - found.without
        relative[f"best_transfers, {kind}"] = share(gained, scale)
    return Numbers({}, relative)


class Changed(NamedTuple):
    """Games in other units: u' = factor u + c(y), U_i' = factors_i U_i + c_i(y)."""

    games: em.Game
    factor: np.ndarray  # [N]
    factors: np.ndarray  # [N, K]


def in_other_units(rng, games: em.Game, *, common: bool = False) -> Changed:
    """common: whether the user and all agents have the same factor."""
    prior, user, agents = arrays_of(games)
    N, K = agents.shape[:2]
    factor = 10 ** rng.uniform(SMALLEST, LARGEST, N)
    factors = np.repeat(factor[:, None], K, 1) if common else 10 ** rng.uniform(SMALLEST, LARGEST, (N, K))
    user, agents = factor[:, None, None] * user, factors[..., None, None] * agents
    return Changed(em.Game(prior, shifted(rng, user), shifted(rng, agents)), factor, factors)


def shifted(rng, utility):
    """[..., A, Y] plus c(y) and a constant, up to 1e3 times the spread of actions; in a third of the games nothing."""
    spread = np.ptp(utility, axis=-2, keepdims=True).max(-1, keepdims=True)
    size = np.where(rng.random(spread.shape) < 1 / 3, 0, 10 ** rng.uniform(-3, OFFSETS, spread.shape))
    per_outcome = rng.normal(size=(*utility.shape[:-2], 1, utility.shape[-1]))
    return utility + spread * size * (per_outcome + rng.normal(size=spread.shape))


def unit_claims(rng, games: em.Game, profiles: dict[str, np.ndarray], user=None):
    """Yields (where, claims): other units change no verdict and no relative number."""
    user = em.RationalUser() if user is None else user
    r, changed = raw(games), in_other_units(rng, games)
    scales, stakes = (r.scale, changed.factor * r.scale), (r.stakes, changed.factors * r.stakes)
    both = games, changed.games
    one, other = (numbers_of_games(g, s) for g, s in zip(both, scales, strict=True))
    yield "games", compare("other units", one, other, CHANGE)
    for name, schemes in profiles.items():
        one, other = (numbers_of_profiles(g, schemes, user, s, t) for g, s, t in zip(both, scales, stakes, strict=True))
        yield f"{name}, {user.ties}", compare("other units", one, other, CHANGE)


def transfer_claims(rng, games: em.Game):
    """Yields (where, claims): budgets grow with a common unit, and offsets by outcome cost nothing."""
    changed = in_other_units(rng, games, common=True)
    scale, size = raw(games).scale, np.ptp(arrays_of(games)[2], axis=-2).max((1, 2))
    budgets = 0.1 * size
    user = em.RationalUser("lowest")
    one = numbers_of_transfers(games, budgets, user, scale, size)
    other = numbers_of_transfers(
        changed.games, changed.factor * budgets, user, changed.factor * scale, changed.factor * size
    )
    yield "transfers", compare("other units", one, other, CHANGE)


def impossible_claims(rng, games: em.Game, huge: em.Game, profiles: dict[str, np.ndarray], users):
    """Yields (where, claims): what `huge` says of outcomes that cannot happen changes nothing of `games`."""
    r, what = raw(games), "impossible outcomes"
    one, other = (numbers_of_games(g, r.scale) for g in (games, huge))
    yield "games", compare(what, one, other, NOTHING)
    for name, schemes in profiles.items():
        for user in users:
            one, other = (numbers_of_profiles(g, schemes, user, r.scale, r.stakes) for g in (games, huge))
            yield f"{name}, {user.ties}", compare(what, one, other, NOTHING)
    size = np.ptp(arrays_of(games)[2], axis=-2).max((1, 2))
    user = em.RationalUser("lowest")
    one, other = (numbers_of_transfers(g, 0.1 * size, user, r.scale, size) for g in (games, huge))
    yield "transfers", compare(what, one, other, NOTHING)
