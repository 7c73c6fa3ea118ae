"""What the library claims, checked on thousands of random games: `python benchmarks/claims.py --games 2000`.

Every claim is an inequality whose two sides come from different places (search, certificates, the equilibrium set, the
sharp bound and its dual, linprog, NumPy and fractions on the raw arrays), or says that what should not matter does not:
units, offsets, what cannot happen. Prints how often each was checked, how often it failed and the smallest margin in
units of the user or the agents; exit 1 if any failed. Here are the games, the profiles and what holds of them;
`claims_base` has the sizes, `claims_same` what should not matter, `claims_games` games made to be hard,
`claims_whole` games of whole numbers.
"""

from __future__ import annotations

import argparse
import sys
import time

import claims_games
import claims_same
import claims_whole
import jax
import numpy as np
from claims_base import (
    TIE,
    VALUE,
    Claim,
    Raw,
    Tally,
    arrays_of,
    concatenate,
    far,
    informed_payoffs,
    informed_response,
    linprog_worst_case,
    raw,
    selected,
    violations,
    worth_of_tolerances,
)

import emalign_jax as em
from emalign_jax.equilibrium.best_response_dynamics import best_response_dynamics, outbid
from emalign_jax.exact.certificates.certificate import add_guarantees, certificates
from emalign_jax.exact.checks.base import Deviation
from emalign_jax.exact.checks.examination import Examination
from emalign_jax.exact.checks.one_by_one import OneByOne, make_checks
from emalign_jax.games.game import faults
from emalign_jax.internal import batching

__all__ = ["Claim", "concatenate", "violations"]  # for the tests

LP = 1e-7  # of a unit: two answers to the same LP, each proved to 1e-9 times multipliers of a hundred
NEGLIGIBLE_TIE_EFFECT = 1e-6  # of an agent's range: what the tie tolerance may be worth without being computed
SELECTION = em.Selection(), em.RationalUser()


# claims


def game_claims(games: em.Game, stability: em.Stability, check_linprog: bool = True) -> list[Claim]:
    """Of games [N] alone: the equilibrium set, the sharp bound, and its dual. Shares of the user's unit."""
    r = raw(games)
    worst = em.worst_case(games)
    dual, plain = em.coverage(games, obedience=True), em.coverage(games)
    full, floors = informed_payoffs(r, SELECTION[1])
    claims = [
        Claim("stability solved", np.where(stability.result == em.Result.CERTIFIED, 0.0, -1)),
        Claim("stability: V_none, V_full", -far(stability.no_information, r.none) / r.scale, VALUE + r.blur),
        Claim("stability: V_none, V_full", -far(stability.full_information, r.full) / r.scale, VALUE + r.blur),
        Claim("worst_case <= stability.worst", (stability.worst - worst) / r.scale, LP + r.blur),
        Claim("stability.worst <= best", (stability.best - stability.worst) / r.scale, 0),
        Claim("stability.best <= V_full", (r.full - stability.best) / r.scale, VALUE + r.blur),
        Claim("gap >= 0, 0 at its zeros", np.where(stability.zero, -abs(stability.gap), stability.gap).min(-1), 0),
        Claim("dual closes: V_full - slack = worst_case", -far(dual.full_information - dual.slack, worst) / r.scale),
        Claim("without obedience <= worst_case", (worst - plain.full_information + plain.slack) / r.scale, LP),
    ]
    if games.agents > 1:
        claims.append(Claim("V_full is an equilibrium value", -far(stability.best, r.full) / r.scale, VALUE + r.blur))
    for cover, name in ((dual, "coverage with obedience"), (plain, "coverage")):
        claims += _coverage_claims(r, cover, name, full)
    if check_linprog:
        found = np.array([
            linprog_worst_case(*one) for one in zip(r.m, r.g, r.G, r.D, floors, r.scale, r.stakes, strict=True)
        ])  # fmt: skip
        claims.append(Claim("worst_case = linprog", -far(worst, np.minimum(found, full)) / r.scale, LP + r.blur))
    return claims


def _coverage_claims(r: Raw, cover: em.Coverage, name: str, full) -> list[Claim]:
    """The inequality that `coverage` states, cell by cell; there are no weights if no distribution pays the floors."""
    none = np.isnan(cover.weights).any(-1)
    weights = np.where(none[:, None], 0, cover.weights)
    commands = np.where(none[:, None, None, None], 0, cover.commands)
    q = np.stack([informed_response(r, SELECTION[1], k) for k in range(r.G.shape[1])], 1)  # [N, K, XA, XB, A]
    over = np.einsum("nxbc,nxbca->nxba", q[:, 0], r.D)  # by how much the response is better than each action
    theirs = np.einsum("nk,nkxbc,nkxbca->nxba", weights, q, r.E)
    commanded = np.einsum("nxac,nxbac->nxba", commands, r.D)
    eased = TIE * np.einsum("nxac,nxbac->nxba", commands, abs(r.D))  # obedience is up to the tie tolerance
    theirs_blur = (weights * r.stakes * r.blurs).sum(1) / r.scale
    margin = (theirs + cover.by_cell[..., None] - commanded + eased - over).min((1, 2, 3)) / r.scale
    return [
        Claim(f"{name} solved", np.where(cover.result == em.Result.CERTIFIED, 0.0, -1)),
        Claim(f"{name}: V_full", -far(cover.full_information, full) / r.scale, VALUE + r.blur),
        Claim(f"{name}: inequality in every cell", np.where(none, 0, margin), VALUE + r.blur + theirs_blur),
        Claim(f"{name}: weights, multipliers >= 0", np.where(none, 0, weights.min(-1)), 0),
        Claim(f"{name}: weights, multipliers >= 0", np.where(none, 0, cover.commands.min((1, 2, 3))), 0),
        Claim(f"{name}: slack >= 0, the cells' sum", cover.slack / r.scale),
        Claim(f"{name}: slack >= 0, the cells' sum", -far(cover.by_cell.sum((1, 2)), cover.slack) / r.scale),
    ]


def bound_claims(games: em.Game, certificate: em.Certificate, protocol, user) -> list[Claim]:
    """Of any profile of each game, equilibrium or not, under any protocol and user: what the theorem promises."""
    rational = isinstance(user, em.RationalUser)
    r = raw(games, np.inf if rational else float(user.precision))
    full, informed = informed_payoffs(r, user)
    gains = np.maximum(informed - certificate.agents, 0)
    cover = em.coverage(games, gains, user, obedience=rational)
    worst = em.worst_case(games, gains, user)
    kind = "rational" if rational else "quantal"
    tag = f"{type(protocol).__name__}, {kind}: "
    far_off = far(certificate.full_information, full) / r.scale
    return [
        Claim(tag + "certified", np.where(certificate.result < em.Result.MALFORMED, 0.0, -1)),
        Claim(tag + "V_full", -far_off, VALUE + r.blur),
        Claim(tag + "V >= theorem", (certificate.user - certificate.theorem) / r.scale),
        Claim(tag + "V >= guarantee", (certificate.user - certificate.guarantee) / r.scale),
        Claim(tag + "V >= worst_case(gains from telling all)", (certificate.user - worst) / r.scale),
        Claim(tag + "dual closes at those gains", -far(_promised(cover, gains), worst) / r.scale, LP),
    ]


def _promised(cover: em.Coverage, gains) -> np.ndarray:
    return cover.full_information - cover.slack - (np.nan_to_num(cover.weights) * gains).sum(-1)


def selection_claims(
    games: em.Game, schemes: np.ndarray, certificate: em.Certificate, stability: em.Stability, where: str
) -> list[Claim]:
    """Of a profile of each game in Selection with a rational user. where: how it was found, by `solve` or else."""
    r = raw(games)
    value, upper = certificate.user, certificate.gain_upper
    _, informed = informed_payoffs(r, SELECTION[1])
    table = selected(r, schemes, SELECTION[1])
    short = (r.full - value) / r.scale  # what the user misses
    reveal = (upper - (informed - certificate.agents)) / r.stakes
    missed, picked = table.forgone / r.scale, short > 4 * VALUE + r.blur
    claims = bound_claims(games, certificate, *SELECTION)
    claims += _played_claims(r, table, certificate)
    claims += [
        Claim("V_none <= V <= V_full", (value - r.none) / r.scale, VALUE + r.blur + missed),
        Claim("V_none <= V <= V_full", short, VALUE + r.blur),
        Claim("0 <= gain_lower <= gain_upper", np.minimum(certificate.gain_lower, upper - certificate.gain_lower), 0),
        # revelation must be picked for this claim, so the user must miss several times the tolerance of equal values
        Claim("telling all gains gain_upper at most", np.where(picked[:, None], reveal, 0), 2 * VALUE + r.blurs),
        Claim(
            f"gap(V) <= total gain_upper: {where}",
            _gap_margin(r, stability, value, upper, missed),
            NEGLIGIBLE_TIE_EFFECT,
        ),
    ]
    if where.startswith("solve"):
        worst = em.worst_case(games, np.maximum(upper, 0))
        claims.append(Claim("an equilibrium's V >= worst_case(its gains)", (value - worst) / r.scale, 4 * VALUE))
    return claims


def _played_claims(r: Raw, table, certificate: em.Certificate) -> list[Claim]:
    """What the profile pays, by the tie rules of docs/model.md; the user picks the lowest of the agents who are worth
    the most. Which these are is left open where values are as close as their tolerance."""
    most, short = table.value.max(1), (table.value.max(1)[:, None] - table.value) / r.scale[:, None]
    close, sure = short <= 2 * VALUE + r.blur[:, None], short + r.blur[:, None] <= VALUE / 2
    holders = close & (np.cumsum(sure, 1) - sure == 0)  # none after one that is surely tied
    off = (far(table.payoffs, certificate.agents[:, None]) / r.stakes[:, None]).max(-1)
    return [
        Claim("V as NumPy has it", -far(most, certificate.user) / r.scale, 2 * VALUE + r.blur),
        Claim("payoffs as NumPy has them", -np.where(holders, off, np.inf).min(1), VALUE + r.blurs.max(1)),
    ]


def _gap_margin(r: Raw, stability: em.Stability, value, upper, missed) -> np.ndarray:
    """Total gain_upper less the least gap within rounding of V, in shares of the agents' units."""
    margins = []
    for n, v in enumerate(value):
        at, gap, _ = stability.profile((n,))
        around = (2 * VALUE + missed[n]) * r.scale[n]
        low, high = np.clip([v - around, v + around], at[0], at[-1])
        inside = gap[(at >= low) & (at <= high)]
        least = np.interp([low, high], at, gap).min()
        margins.append((upper[n].sum() - min(least, inside.min(initial=np.inf))) / r.stakes[n].sum())
    return np.array(margins)


# profiles


def random_profiles(rng, games: em.Game, messages: int) -> dict[str, np.ndarray]:
    """Schemes [N, K, XB, M] that were not optimised."""
    shape = (len(games.prior), games.agents, games.agent_features, messages)
    mixed = np.where(rng.random(shape[:2])[..., None, None] < 0.5, em.no_information(*shape[1:]), 0)
    reveals = em.full_revelation(*shape[1:]) if messages >= shape[2] else em.no_information(*shape[1:])
    mixed = np.where(mixed.sum((2, 3), keepdims=True) > 0, mixed, 0.7 * reveals + 0.3 / messages)
    return {
        "random schemes": rng.dirichlet(np.full(messages, 0.4), shape[:3]),
        "silence and noisy revelation": mixed,
        "full revelation": np.broadcast_to(reveals, shape).copy(),
    }


def dynamics_profiles(games: em.Game, schemes: np.ndarray, tolerance: float = 1e-3, user=SELECTION[1]):
    """Where outbidding and ten best responses end, from `schemes`: {name: [N, K, XB, M]}."""
    checks, at = checks_of(games, SELECTION[0], user, schemes.shape[-1]), np.arange(len(schemes))
    dynamics = {"outbidding": outbid, "ten best responses": best_response_dynamics}
    return {name: move(checks, at, schemes, tolerance).schemes for name, move in dynamics.items()}


def checks_of(games: em.Game, protocol, user, messages: int, lp: str = "auto"):
    """The exact checks of these games."""
    sizes = {"messages": messages, "rows": protocol.rows(games, messages), "lp": lp, "count": len(games.prior)}
    modules = (batching.flatten(module, games.batch_shape) for module in (protocol, user))
    return make_checks(em.reduce_game(games, np), faults(games) == "", *modules, **sizes)


def check_selection(games: em.Game, key, rng, *, search: bool = True, dynamics: int | None = None, linprogs=True):
    """All claims about Selection with a rational user, on games [N]. Yields (profiles, claims)."""
    found = em.stability(games)
    yield "games", game_claims(games, found, linprogs)
    M = em.Selection().messages(games)
    profiles = random_profiles(rng, games, M)
    for name, schemes in profiles.items():
        certificate = em.certify(games, schemes, *SELECTION)
        yield name, selection_claims(games, schemes, certificate, found, name)
    some = games[: len(games.prior) if dynamics is None else dynamics]
    of_some = found[: len(some.prior)]
    for name, schemes in dynamics_profiles(some, profiles["random schemes"][: len(some.prior)]).items():
        certificate = em.certify(some, schemes, *SELECTION)
        yield name, selection_claims(some, schemes, certificate, of_some, name)
    if not search:
        return
    played = em.solve(games, *SELECTION, key=key, verify=False)
    schemes = played.schemes / played.schemes.sum(-1, keepdims=True)
    certificate = em.certify(games, schemes, *SELECTION)
    yield "gradient play", selection_claims(games, schemes, certificate, found, "gradient play")
    for start in ("random", "monopolist"):
        solution = em.solve(games, *SELECTION, key=key, start=start)
        ok = np.isin(solution.result, [code for code in em.Result if code.ok])
        yield f"solve, {start}", [Claim("solve ends well", np.where(ok, 0.0, -1))]
        certificate = solution.certificate
        yield f"solve, {start}", selection_claims(games, solution.schemes, certificate, found, f"solve, {start}")


OTHERS = [
    (em.Pooled(), em.QuantalUser(8.0)),
    (em.Pooled(), em.RationalUser("lowest")),
    (em.Pooled(), em.RationalUser("highest")),
    (em.Pooled(), em.RationalUser("uniform")),
    (em.Selection(), em.QuantalUser(8.0)),
    (em.Selection(), em.RationalUser("lowest")),
    (em.Selection(), em.RationalUser("highest")),
    (em.Selection(), em.RationalUser("uniform")),
]


def without_gains(games: em.Game, schemes, protocol, user) -> em.Certificate:
    """`em.certify` but for the deviation gains, whose proof takes most of its time: these are set to 0."""
    modules = (batching.flatten(module, games.batch_shape) for module in (protocol, user))
    messages, rows = schemes.shape[-1], protocol.rows(games, schemes.shape[-1])
    checks = OneByOne(em.reduce_game(games, np), *modules, messages, rows, "highs", len(schemes))
    at = np.arange(len(schemes))
    found = []
    for check, profile in zip(checks.of(at), schemes, strict=True):
        value, payoffs = check.payoffs(profile)
        nothing = np.zeros(len(payoffs))
        check._range = nothing + 1  # only gains are compared with it
        stay = [Deviation(payoff, payoff, own) for payoff, own in zip(payoffs, profile, strict=True)]
        found.append(Examination(value, payoffs, stay, nothing, nothing, bracketed=True))
    rows, terms = certificates(checks, at, games, schemes, 1.0, checks.stack(found))
    return add_guarantees(rows, terms, checks.user, "auto")[0]


def check_others(games: em.Game, protocol, user, key, rng, *, messages: int, search: bool):
    """Bounds of any profile under the other protocols and users."""
    profiles = random_profiles(rng, games, messages)
    if search:
        solution = em.solve(games, protocol, user, key=key, messages=messages, verify=False)
        profiles["gradient play"] = solution.schemes / solution.schemes.sum(-1, keepdims=True)
    for name, schemes in profiles.items():
        certificate = without_gains(games, schemes, protocol, user)
        yield name, bound_claims(games, certificate, protocol, user)
    if search:
        solver = em.GradientPlay(best_responses=4, tolerance=1e-2)
        solution = em.solve(games, protocol, user, solver, key=key, start="random", messages=messages)
        yield "solve, random", bound_claims(games, solution.certificate, protocol, user)


# games made to be hard, and what should not matter


USERS = [em.RationalUser(ties) for ties in claims_whole.TIES]
SHAPES = [claims_games.Size(), claims_games.Size(3, 1, 2, 4, 3), claims_games.Size(2, 2, 2, 2, 3)]


def check_hard(make, rng, count: int):
    """All claims about Selection with a rational user on games by `make`; the search is left out."""
    for size in SHAPES:
        games = make(rng, count, size)
        for where, claims in check_selection(games, None, rng, search=False, dynamics=max(2, count // 4)):
            yield f"{size}, {where}", claims


def check_brackets(rng, games: em.Game, user: em.RationalUser):
    """In Selection gains are known exactly under every tie rule, at profiles that were not optimised and at those
    where dynamics ended."""
    protocol = em.Selection()
    profiles = random_profiles(rng, games, protocol.messages(games))
    profiles["silence"] = np.zeros_like(profiles["random schemes"])
    profiles["silence"][..., 0] = 1
    profiles |= dynamics_profiles(games, profiles["random schemes"], user=user)
    solution = em.solve(games, protocol, user, em.BestResponseDynamics(), start="monopolist")
    profiles["solve, monopolist"] = solution.schemes
    r = raw(games)
    for name, schemes in profiles.items():
        found = em.certify(games, schemes, protocol, user)
        width = found.gain_upper - found.gain_lower
        table = selected(r, schemes, user)
        ranges = np.where(found.payoff_range > 0, found.payoff_range, r.stakes)
        yield (
            f"{name}, {user.ties}",
            [
                *_played_claims(r, table, found),
                Claim("Selection: certified", np.where(found.result < em.Result.MALFORMED, 0.0, -1)),
                Claim(
                    f"Selection, {user.ties}: brackets within 1e-6",
                    -width / ranges,
                    NEGLIGIBLE_TIE_EFFECT
                    + VALUE * r.stakes / ranges
                    + _worth_of_tolerances(r, table, width / ranges, ranges),
                ),
                Claim("0 <= gain_lower <= gain_upper", np.minimum(found.gain_lower, width), 0),
            ],
        )


def _worth_of_tolerances(r: Raw, table, widths, ranges) -> np.ndarray:
    """[N, K] what the tolerances of ties and of equal values are worth to an agent, where a bracket is wide enough to
    contain it: `gain_upper` counts it where it is more than NEGLIGIBLE_TIE_EFFECT."""
    worth = np.zeros(widths.shape)
    for n, i in np.argwhere(widths > NEGLIGIBLE_TIE_EFFECT):
        to_beat = np.delete(table.value[n], i).max() / r.scale[n]
        worth[n, i] = worth_of_tolerances(r.g[n] / r.scale[n], r.G[n, i] / ranges[n, i], r.D[n] / r.scale[n], to_beat)
    return np.maximum(np.nan_to_num(worth), 0)


def check_units(rng, count: int):
    """On games of all kinds, but for those whose stakes rounding beside an offset of 1e3 would change."""
    for size in SHAPES:
        for make in (claims_games.whole, claims_games.indifferent, mixed):
            games = make(rng, count, size)
            profiles = random_profiles(rng, games, em.Selection().messages(games))
            profiles |= dynamics_profiles(games, profiles["random schemes"])
            for user in USERS[:1] if make is not claims_games.whole else USERS:
                for where, claims in claims_same.unit_claims(rng, games, profiles, user):
                    yield f"{make.__name__}, {size}, {where}", claims
        yield from claims_same.transfer_claims(rng, mixed(rng, count, size))


def mixed(rng, count: int, size: claims_games.Size) -> em.Game:
    return claims_games.stack([claims_games.plain(rng, size) for _ in range(count)])


def check_impossible(rng, count: int):
    for size in SHAPES:
        for make in (mixed, claims_games.whole):
            games, huge = claims_games.with_impossible(rng, make(rng, count, size))
            profiles = random_profiles(rng, games, em.Selection().messages(games))
            for where, claims in claims_same.impossible_claims(rng, games, huge, profiles, USERS):
                yield f"{make.__name__}, {size}, {where}", claims


def check_tie_rules(rng, count: int):
    for size in SHAPES:
        for make in (mixed, claims_games.whole, claims_games.near_ties):
            games = make(rng, max(count // 2, 3), size)
            for user in USERS:
                for where, claims in check_brackets(rng, games, user):
                    yield f"{make.__name__}, {size}, {where}", claims


def check_whole(rng, count: int):
    """XB = M = 2 and 3, all profiles; certificates of all 16 of the former, of some of the 729 of the latter. Fewer
    games in Pooled, whose certificates take most of the time."""
    for protocol, many in ((em.Selection(), count), (em.Pooled(), max(2, count // 4))):
        for ties in claims_whole.TIES:
            for features, actions, user_features, certified in ((2, 3, 1, 16), (2, 2, 2, 16), (3, 3, 1, 6)):
                yield from claims_whole.whole_claims(
                    rng, many, features=features, actions=actions, user_features=user_features, protocol=protocol,
                    ties=ties, certified=certified,
                )  # fmt: skip


FURTHER = {
    "near ties": lambda rng, count: check_hard(claims_games.near_ties, rng, 2 * count),
    "indifferent": lambda rng, count: check_hard(claims_games.indifferent, rng, 2 * count),
    "units": check_units,
    "impossible": check_impossible,
    "tie rules": check_tie_rules,
    "whole numbers": check_whole,
}


# the table


SIZES = [(K, XA) for XA in (1, 2) for K in (2, 3, 5)]


def all_families(key, count: int, **sizes) -> em.Game:
    """`count` games, as evenly as can be of all families; priors rescaled to sum to 1 in float64."""
    shares = [len(part) for part in np.array_split(np.arange(count), len(em.FAMILIES))]
    drawn = [
        em.random_games(key, share, family=family, information_worth=0.0, **sizes)
        for family, share in zip(em.FAMILIES, shares, strict=True)
        if share
    ]
    games = concatenate(drawn)
    prior, user, agents = arrays_of(games)
    return em.Game(prior / prior.sum((1, 2, 3), keepdims=True), user, agents)


def run(tally: Tally, where: str, found) -> None:
    for part, claims in found:
        tally.add(f"{where}, {part}", claims)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--games", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    began = time.perf_counter()
    key, rng, tally = jax.random.key(options.seed), np.random.default_rng(options.seed), Tally()

    def said(what: str) -> None:
        print(f"{what}, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)

    counts = [len(part) for part in np.array_split(np.arange(options.games), len(SIZES))]
    for at, ((K, XA), count) in enumerate(zip(SIZES, counts, strict=True)):
        if not count:
            continue
        own = jax.random.fold_in(key, at)
        games = all_families(own, count, agents=K, states=4, actions=4 if XA == 1 else 3, user_features=XA)
        found = check_selection(games, own, rng, dynamics=max(5, count // 5))
        run(tally, f"K = {K}, XA = {XA}", found)
        said(f"K = {K}, XA = {XA}: {count} games")
    some = max(5, options.games // 20)
    for at, (protocol, user) in enumerate(OTHERS):
        own = jax.random.fold_in(key, 100 + at)
        games = all_families(own, some, agents=2, states=3, actions=3, user_features=1 + at % 2)
        name = f"{type(protocol).__name__}, {user}"
        run(tally, name, check_others(games, protocol, user, own, rng, messages=3, search=True))
        said(f"{name}: {some} games")
    for name, make in FURTHER.items():
        run(tally, name, make(rng, max(2, options.games // 50)))
        said(name)
    print(tally)
    print(f"\n{options.games} games and more, {time.perf_counter() - began:.0f} s")
    for line in tally.failed[:50]:
        print("VIOLATED", line)
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
