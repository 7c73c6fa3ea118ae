"""What the library claims, held against thousands of random games: `python benchmarks/claims.py --games 2000`.

Every claim is an inequality whose two sides come from different places (search, certificates, the equilibrium set, the
sharp bound and its dual, linprog and NumPy on the raw arrays). Prints how often each was checked, how often it failed
and the smallest margin in units of the user's or the agents' stakes; exit 1 if any failed.

Slack: certificates count actions within 1e-6 of the best as tied, so a certified law obeys to 1e-6 of her scale. What
that is worth to her is 1e-6 times the multipliers of obedience, so that is what a claim about her value is allowed.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.optimize import linprog

import emalign_jax as em
from emalign_jax.exact._base import Deviation
from emalign_jax.exact.certificate import add_guarantees, certify_game, make_check, stack_certificates
from emalign_jax.exact.dynamics import best_response_dynamics, outbid
from emalign_jax.exact.examination import Examination

TIE = 1e-6  # of the largest difference between two actions: the users' tolerance
LP = 1e-7  # of a stake: two answers to the same LP
SELECTION = em.Selection(), em.RationalUser()


class Claim(NamedTuple):
    """margin [n] >= 0 where it holds, `allowed` [n] below that is rounding; both as shares of a stake."""

    name: str
    margin: np.ndarray
    allowed: Any = 1e-9


class Violation(NamedTuple):
    claim: str
    index: int
    by: float


def violations(claims: list[Claim]) -> list[Violation]:
    """Every claim that fails, and where; a margin of NaN fails."""
    found = []
    for claim in claims:
        margin, allowed = np.broadcast_arrays(np.ravel(claim.margin), np.ravel(claim.allowed))
        for k in np.flatnonzero(~(margin >= -allowed)):
            found.append(Violation(claim.name, int(k), float(-margin[k])))
    return found


# the raw arrays


class Raw(NamedTuple):
    """m [N, XA, XB], g [N, XA, XB, A], G [N, K, XA, XB, A] by their definition, and sizes to compare with."""

    m: np.ndarray
    g: np.ndarray
    G: np.ndarray
    scale: np.ndarray  # [N] her largest difference between two actions in a cell; 1 if there is none
    stakes: np.ndarray  # [N, K] what choosing her actions is worth to each agent; 1 if nothing
    none: np.ndarray  # [N] V_none of a rational user
    full: np.ndarray  # [N] V_full


def raw(games: em.Game) -> Raw:
    p, u, U = (np.asarray(x, np.float64) for x in (games.prior, games.user_utility, games.agent_utilities))
    m, g, G = p.sum(-1), np.einsum("nxby,nay->nxba", p, u), np.einsum("nxby,nkay->nkxba", p, U)
    scale = (np.ptp(g, axis=-1) / np.where(m > 0, m, np.inf)).max((1, 2))
    stakes = np.ptp(G, axis=-1).sum((2, 3))
    none, full = g.sum(2).max(-1).sum(-1), g.max(-1).sum((1, 2))
    return Raw(m, g, G, np.where(scale > 0, scale, 1), np.where(stakes > 0, stakes, 1), none, full)


def informed_law(r: Raw, user, favour: np.ndarray) -> np.ndarray:
    """[N, XA, XB, A] what she plays when x_B is revealed."""
    if isinstance(user, em.QuantalUser):
        means = r.g / np.where(r.m > 0, r.m, 1)[..., None]
        law = np.exp(float(user.precision) * (means - means.max(-1, keepdims=True)))
        return law / law.sum(-1, keepdims=True)
    tied = r.g >= r.g.max(-1, keepdims=True) - TIE * (r.scale[:, None, None] * r.m)[..., None]
    if user.ties == "uniform":
        return tied / tied.sum(-1, keepdims=True)
    rank = np.where(tied, favour, -np.inf) if user.ties == "agents" else tied
    return np.eye(r.g.shape[-1])[rank.argmax(-1)]


def informed_payoffs(r: Raw, user) -> tuple[np.ndarray, np.ndarray]:
    """V_full [N] under her own response rule, and what it pays the agents [N, K]."""
    laws = [informed_law(r, user, own) for own in r.G.swapaxes(0, 1)]
    payoffs = np.stack([(law * own).sum((1, 2, 3)) for law, own in zip(laws, r.G.swapaxes(0, 1), strict=True)], 1)
    return (laws[0] * r.g).sum((1, 2, 3)), payoffs


def selection_value(r: Raw, schemes: np.ndarray) -> np.ndarray:
    """[N] what the best of the schemes [N, K, XB, M] is worth to a rational user."""
    return np.einsum("nkbs,nxba->nkxsa", schemes, r.g).max(-1).sum((2, 3)).max(1)


def linprog_worst_case(m, g, G, floors, obedient: bool) -> float:
    """What linprog's multipliers prove of the least user value of a law that pays the floors; +inf if there is none."""
    XA, XB, A = g.shape
    rows, least = list(-G), list(-floors)
    for xa in range(XA) if obedient else ():
        for a in range(A):
            for b in range(A):
                row = np.zeros((XA, XB, A))
                row[xa, :, a] = g[xa, :, b] - g[xa, :, a]
                rows.append(row)
                least.append(0.0)
    rows, least = np.array(rows), np.array(least)
    lowered = least + np.pad(1e-9 * np.ptp(G, axis=-1).sum((1, 2)), (0, len(least) - len(G)))  # lest it be infeasible
    sums = np.kron(np.eye(XA * XB), np.ones(A))
    tight = {"primal_feasibility_tolerance": 1e-9, "dual_feasibility_tolerance": 1e-9}
    for options in (tight, {**tight, "presolve": False}):
        found = linprog(
            g.ravel(), rows.reshape(len(rows), -1), lowered, A_eq=sums, b_eq=np.ones(XA * XB), options=options
        )
        if found.status == 0:
            price = np.maximum(-found.ineqlin.marginals, 0)
            return float((g + np.tensordot(price, rows, 1)).min(-1).sum() - price @ least)
    return np.inf if found.status == 2 else np.nan


# claims


def game_claims(games: em.Game, stability: em.Stability, check_linprog: bool = True) -> list[Claim]:
    """Of games [N] alone: the equilibrium set, the sharp bound, and its dual. Shares of her scale."""
    r = raw(games)
    worst = em.worst_case(games)
    dual, plain = em.coverage(games, obedience=True), em.coverage(games)
    full, floors = informed_payoffs(r, SELECTION[1])
    claims = [
        Claim("stability solved", np.where(stability.result == em.Result.CERTIFIED, 0.0, -1)),
        Claim("stability: V_none, V_full", -_far(stability.no_information, r.none) / r.scale, 1e-12),
        Claim("stability: V_none, V_full", -_far(stability.full_information, r.full) / r.scale, 1e-12),
        Claim("worst_case <= stability.worst", (stability.worst - worst) / r.scale, LP),
        Claim("stability.worst <= best", (stability.best - stability.worst) / r.scale, 0),
        Claim("stability.best <= V_full", (r.full - stability.best) / r.scale, 1e-12),
        Claim("gap >= 0, 0 at its zeros", np.where(stability.zero, -abs(stability.gap), stability.gap).min(-1), 0),
        Claim(
            "dual closes: V_full - slack = worst_case",
            -_far(dual.full_information - dual.slack, worst) / r.scale,
            1e-9,
        ),
        Claim("without obedience <= worst_case", (worst - plain.full_information + plain.slack) / r.scale, LP),
    ]
    if games.agents > 1:
        claims.append(Claim("V_full is an equilibrium value", -_far(stability.best, r.full) / r.scale, 1e-12))
    for cover, name in ((dual, "coverage with obedience"), (plain, "coverage")):
        claims += _coverage_claims(r, cover, name, full)
    if check_linprog:
        found = np.array([
            linprog_worst_case(m, g, G, own, True) for m, g, G, own in zip(r.m, r.g, r.G, floors, strict=True)
        ])  # fmt: skip
        allowed = LP + TIE * _obedience(dual, r)
        claims.append(Claim("worst_case = linprog", -_far(worst, np.minimum(found, full)) / r.scale, allowed))
    return claims


def _far(a, b):
    return np.abs(np.asarray(a) - b)


def _obedience(cover: em.Coverage, r: Raw) -> np.ndarray:
    """[N] what one unit of disobedience is worth to her, by the multipliers; at most 10, which no game has needed."""
    return np.minimum(np.nan_to_num((cover.commands.sum(-1).max(-1) * r.m.sum(2)).sum(-1)), 10)


def _coverage_claims(r: Raw, cover: em.Coverage, name: str, full) -> list[Claim]:
    """The inequality that `coverage` states, cell by cell; where no law pays the floors there are no weights."""
    none = np.isnan(cover.weights).any(-1)
    weights = np.where(none[:, None], 0, cover.weights)
    laws = np.stack([informed_law(r, SELECTION[1], own) for own in r.G.swapaxes(0, 1)], 1)  # [N, K, XA, XB, A]
    hers = (laws[:, 0] * r.g).sum(-1)
    theirs = np.einsum("nk,nkxba,nkxba->nxb", weights, laws, r.G)[..., None]
    theirs = theirs - np.einsum("nk,nkxba->nxba", weights, r.G)
    advantage = r.g[..., :, None] - r.g[..., None, :]
    commanded = np.einsum("nxac,nxbac->nxba", np.where(none[:, None, None, None], 0, cover.commands), advantage)
    right = theirs + cover.by_cell[..., None] - commanded
    margin = (right - (hers[..., None] - r.g)).min((1, 2, 3)) / r.scale
    return [
        Claim(f"{name} solved", np.where(cover.result == em.Result.CERTIFIED, 0.0, -1)),
        Claim(f"{name}: V_full", -_far(cover.full_information, full) / r.scale, 1e-12),
        Claim(f"{name}: inequality in every cell", np.where(none, 0, margin)),
        Claim(f"{name}: weights, multipliers >= 0", np.where(none, 0, weights.min(-1)), 0),
        Claim(f"{name}: weights, multipliers >= 0", np.where(none, 0, cover.commands.min((1, 2, 3))), 0),
        Claim(f"{name}: slack >= 0, the cells' sum", cover.slack / r.scale),
        Claim(f"{name}: slack >= 0, the cells' sum", -_far(cover.by_cell.sum((1, 2)), cover.slack) / r.scale),
    ]


def bound_claims(games: em.Game, certificate: em.Certificate, protocol, user) -> list[Claim]:
    """Of any profile of each game, equilibrium or not, under any protocol and user: what the theorem promises."""
    r = raw(games)
    full, informed = informed_payoffs(r, user)
    gains = np.maximum(informed - certificate.agents, 0)
    rational = isinstance(user, em.RationalUser)
    cover = em.coverage(games, gains, user, obedience=rational)
    worst = em.worst_case(games, gains, user)
    kind = "rational" if rational else "quantal"
    tag = f"{type(protocol).__name__}, {kind}: "
    allowed = LP + rational * TIE * (1 + _obedience(cover, r))
    far = _far(certificate.full_information, full) / r.scale
    return [
        Claim(tag + "certified", np.where(certificate.result < em.Result.MALFORMED_GAME, 0.0, -1)),
        Claim(tag + "V_full", -far, 1e-9),
        Claim(tag + "V >= theorem", (certificate.user - certificate.theorem) / r.scale, LP + rational * TIE),
        Claim(tag + "V >= guarantee", (certificate.user - certificate.guarantee) / r.scale, LP),
        Claim(tag + "V >= worst_case(gains from telling all)", (certificate.user - worst) / r.scale, allowed),
        Claim(tag + "dual closes at those gains", -_far(_promised(cover, gains), worst) / r.scale, LP),
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
    short = (r.full - value) / r.scale  # what she misses
    reveal = (upper - (informed - certificate.agents)) / r.stakes
    claims = bound_claims(games, certificate, *SELECTION)
    claims += [
        Claim("V as NumPy has it", -_far(selection_value(r, schemes), value) / r.scale, 2 * TIE),
        Claim("V_none <= V <= V_full", np.minimum(value - r.none, r.full - value) / r.scale, 2 * TIE),
        Claim("0 <= gain_lower <= gain_upper", np.minimum(certificate.gain_lower, upper - certificate.gain_lower), 0),
        Claim("telling all gains gain_upper at most", np.where(short > 3 * TIE, reveal.min(-1), 0), 1e-8),
        Claim(f"gap(V) <= total gain_upper: {where}", _gap_margin(r, stability, value, upper), 1e-6),
    ]
    if where.startswith("solve"):
        worst = em.worst_case(games, np.maximum(upper, 0))
        cover = em.coverage(games, np.maximum(upper, 0), obedience=True)
        allowed = LP + TIE * (1 + _obedience(cover, r))
        claims.append(Claim("an equilibrium's V >= worst_case(its gains)", (value - worst) / r.scale, allowed))
    return claims


def _gap_margin(r: Raw, stability: em.Stability, value, upper) -> np.ndarray:
    """[N] total gain less the least gap at a value that ties do not tell from V; shares of all stakes."""
    margins = []
    for n, v in enumerate(value):
        at, gap, _ = stability.profile((n,))
        low, high = np.clip([v - 2 * TIE * r.scale[n], v + 2 * TIE * r.scale[n]], at[0], at[-1])
        inside = gap[(at >= low) & (at <= high)]
        least = np.interp([low, high], at, gap).min()
        margins.append((upper[n].sum() - min(least, inside.min(initial=np.inf))) / r.stakes[n].sum())
    return np.array(margins)


# profiles


def random_profiles(rng, games: em.Game, messages: int) -> dict[str, np.ndarray]:
    """Schemes [N, K, XB, M] that nobody optimised."""
    shape = (len(games.prior), games.agents, games.agent_features, messages)
    mixed = np.where(rng.random(shape[:2])[..., None, None] < 0.5, em.no_information(*shape[1:]), 0)
    reveals = em.full_revelation(*shape[1:]) if messages >= shape[2] else em.no_information(*shape[1:])
    mixed = np.where(mixed.sum((2, 3), keepdims=True) > 0, mixed, 0.7 * reveals + 0.3 / messages)
    return {
        "random schemes": rng.dirichlet(np.full(messages, 0.4), shape[:3]),
        "silence and noisy revelation": mixed,
        "full revelation": np.broadcast_to(reveals, shape).copy(),
    }


def dynamics_profiles(games: em.Game, schemes: np.ndarray, tolerance: float = 1e-3) -> dict[str, np.ndarray]:
    """Where outbidding and ten best responses end, from `schemes`."""
    reduced = em.reduce_game(games, np)
    ends: dict[str, list] = {"outbidding": [], "ten best responses": []}
    for k, start in enumerate(schemes):
        check: Any = make_check(reduced, k, *SELECTION)
        ends["outbidding"].append(outbid(check, start, tolerance).schemes)
        ends["ten best responses"].append(best_response_dynamics(check, start, tolerance).schemes)
    return {name: np.array(end) for name, end in ends.items()}


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
    of_some = em.Stability(*(x[: len(some.prior)] for x in found))
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
    (em.Pooled(), em.RationalUser("uniform")),
    (em.Selection(), em.QuantalUser(8.0)),
    (em.Selection(), em.RationalUser("lowest")),
    (em.Selection(), em.RationalUser("uniform")),
]


def without_gains(games: em.Game, schemes, protocol, user) -> em.Certificate:
    """`em.certify` but for the deviation gains, whose proof takes most of its time: these are set to 0."""
    reduced, rows, terms = em.reduce_game(games, np), [], []
    for k, profile in enumerate(schemes):
        check = make_check(reduced, k, protocol, user)
        value, payoffs = check.payoffs(profile)
        nothing = np.zeros(len(payoffs))
        check._range = nothing + 1  # only gains are compared with it
        stay = [Deviation(payoff, payoff, own) for payoff, own in zip(payoffs, profile, strict=True)]
        examined = Examination(value, payoffs, stay, nothing, nothing, bracketed=True)
        row, of_guarantees = certify_game(games[k], check, profile, 1.0, examined)
        rows.append(row)
        terms.append(of_guarantees)
    return stack_certificates(add_guarantees(rows, terms, "auto")[0], games.batch_shape, games.agents)


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
        solution = em.solve(games, protocol, user, solver, key=key, messages=messages)
        yield "solve, random", bound_claims(games, solution.certificate, protocol, user)


# the table


SIZES = [(K, XA) for XA in (1, 2) for K in (2, 3, 5)]


class Tally:
    """Rows of the table by claim."""

    def __init__(self):
        self.rows: dict[str, list] = {}
        self.failed: list[str] = []

    def add(self, where: str, claims: list[Claim]) -> None:
        for claim in claims:
            row = self.rows.setdefault(claim.name, [0, 0, np.inf, 0.0])
            bad = violations([claim])
            row[0] += np.size(claim.margin)
            row[1] += len(bad)
            row[2] = min(row[2], float(np.min(claim.margin)))
            row[3] = max(row[3], float(np.max(claim.allowed)))
            self.failed += [f"{v.claim}: {where}, index {v.index}, by {v.by:.3g}" for v in bad]

    def __str__(self) -> str:
        width = max(map(len, self.rows))
        lines = [f"{'claim':<{width}}  checked  violations  smallest margin  most allowed"]
        for name, (checked, bad, margin, allowed) in self.rows.items():
            lines.append(f"{name:<{width}}  {checked:7,}  {bad:10,}  {margin + 0.0:15.2e}  {allowed:12.1e}")
        return "\n".join(lines)


def concatenate(parts: list[em.Game]) -> em.Game:
    fields = ("prior", "user_utility", "agent_utilities")
    return em.Game(
        *(np.concatenate([np.asarray(getattr(part, name), np.float64) for part in parts]) for name in fields)
    )


def all_families(key, count: int, **sizes) -> em.Game:
    """`count` games, as evenly as can be of all families; priors rescaled to sum to 1 in float64."""
    shares = [len(part) for part in np.array_split(np.arange(count), len(em.FAMILIES))]
    drawn = [
        em.random_games(key, share, family=family, **sizes)
        for family, share in zip(em.FAMILIES, shares, strict=True)
        if share
    ]
    games = concatenate(drawn)
    return em.Game(games.prior / games.prior.sum((1, 2, 3), keepdims=True), games.user_utility, games.agent_utilities)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--games", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    began = time.perf_counter()
    key, rng, tally = jax.random.key(options.seed), np.random.default_rng(options.seed), Tally()
    counts = [len(part) for part in np.array_split(np.arange(options.games), len(SIZES))]
    for at, ((K, XA), count) in enumerate(zip(SIZES, counts, strict=True)):
        if not count:
            continue
        own = jax.random.fold_in(key, at)
        games = all_families(own, count, agents=K, states=4, actions=4 if XA == 1 else 3, user_features=XA)
        for where, claims in check_selection(games, own, rng, dynamics=max(5, count // 5)):
            tally.add(f"K = {K}, XA = {XA}, {where}", claims)
        print(f"K = {K}, XA = {XA}: {count} games, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    some = max(5, options.games // 20)
    for at, (protocol, user) in enumerate(OTHERS):
        own = jax.random.fold_in(key, 100 + at)
        games = all_families(own, some, agents=2, states=3, actions=3, user_features=1 + at % 2)
        name = f"{type(protocol).__name__}, {user}"
        for where, claims in check_others(games, protocol, user, own, rng, messages=3, search=True):
            tally.add(f"{name}, {where}", claims)
        print(f"{name}: {some} games, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    print(tally)
    print(f"\n{options.games} games and {some * len(OTHERS)} more, {time.perf_counter() - began:.0f} s")
    for line in tally.failed[:50]:
        print("VIOLATED", line)
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
