"""Every certified number is pinned: 1e-3 more or less is refuted by witnesses that share no code with the library.

One side is something attained (a scheme, a distribution or a profile, evaluated here), the other a bound by multipliers
of linprog, whose proof is a few lines of NumPy (weak duality: any multipliers of the right sign will do).
"""

import functools
import itertools

import claims
import claims_base
import claims_games
import claims_same
import claims_whole
import jax
import numpy as np
import pytest
from scipy.optimize import linprog
from support.conversations import reduced
from support.games import random_game
from support.nightly import one_in

import emalign_jax as em

pytestmark = pytest.mark.host_only

SELECTION = em.Selection(), em.RationalUser()
STEP = 1e-3
NEAR = 2e-4  # what witnesses miss: mixing, ties within 1e-7 and LP tolerances times multipliers


def pinned(number, least, most):
    """least <= number <= most are proved; both are so close that 1e-3 more or less is refuted."""
    assert least - NEAR <= number <= most + NEAR
    assert most - least <= STEP / 4
    for wrong in (number + STEP, number - STEP):
        assert not least - NEAR <= wrong <= most + NEAR


def played(game, scheme, sender):
    """User value and payoffs under one scheme [XB, S]: a best action for each message, near-ties for the sender."""
    _, g, G = reduced(game)
    value, payoffs = 0.0, np.zeros(len(G))
    for x, s in itertools.product(range(len(g)), range(scheme.shape[1])):
        user, agents = scheme[:, s] @ g[x], np.einsum("b,kba->ka", scheme[:, s], G[:, x])
        tied = np.flatnonzero(user >= user.max() - 1e-8)
        a = tied[agents[sender, tied].argmax()]
        value += user[a]
        payoffs += agents[:, a]
    return value, payoffs


class ObedienceProgram:
    """LPs over distributions z [XB, R] that meet the obedience constraints; r has an action for each x_A."""

    def __init__(self, game):
        _, g, G = reduced(game)
        self.g, self.G, A = g, G, g.shape[2]
        advices = list(itertools.product(range(A), repeat=len(g)))
        spread = lambda t: np.array([sum(t[x, :, r[x]] for x in range(len(g))) for r in advices]).T  # noqa: E731
        self.user, self.agents = spread(g), np.array([spread(own) for own in G])
        tempting = []
        for (k, r), x, b in itertools.product(enumerate(advices), range(len(g)), range(A)):
            row = np.zeros(self.user.shape)
            row[:, k] = g[x, :, b] - g[x, :, r[x]]
            tempting.append(row)
        self.tempting = np.array(tempting)
        self.none, self.full = g.sum(1).max(-1).sum(), g.max(-1).sum()
        self.reveal = np.zeros(self.user.shape)
        for b in range(len(self.reveal)):
            self.reveal[b, advices.index(tuple(g[:, b].argmax(-1)))] = 1

    def best(self, payoff, low, high=np.inf):
        """A scheme worth low to high to the user, and a bound on `payoff` over all of these, proved by multipliers."""
        rows, right = [*self.tempting, -self.user], [*np.zeros(len(self.tempting)), -low]
        if high < np.inf:
            rows, right = [*rows, self.user], [*right, high]
        rows, right = np.array(rows), np.array(right)
        sums = np.kron(np.eye(len(self.user)), np.ones(self.user.shape[1]))
        found = linprog(-payoff.ravel(), rows.reshape(len(rows), -1), right, sums, np.ones(len(sums)))
        assert found.status == 0, found.message
        price = np.maximum(-found.ineqlin.marginals, 0)
        bound = (payoff - np.tensordot(price, rows, 1)).max(1).sum() + price @ right
        scheme = np.maximum(found.x.reshape(self.user.shape), 0)
        return scheme / scheme.sum(1, keepdims=True), float(bound)


@pytest.mark.parametrize("XA", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_payoffs_and_gains(seed, XA):
    """Payoffs by evaluating the profile; deviation gains by a scheme that attains them and multipliers as a bound."""
    game = random_game(seed, K=3, XA=XA)
    program = ObedienceProgram(game)
    schemes = np.random.default_rng(seed).dirichlet(np.full(3, 0.5), (3, 3))
    certificate = em.certify(game, schemes, *SELECTION)
    outcomes = [played(game, scheme, i) for i, scheme in enumerate(schemes)]
    values = [value for value, _ in outcomes]
    holder = int(np.argmax(values))
    pinned(certificate.user, values[holder], values[holder])
    for agent in range(3):
        now = outcomes[holder][1][agent]
        pinned(certificate.agents[agent], now, now)
        needed = values[holder] if agent != holder else sorted(values)[-2]
        scheme, most = program.best(program.agents[agent], needed)
        scheme = (1 - 1e-5) * scheme + 1e-5 * program.reveal  # revealing a little makes sure that the user picks it
        value, payoffs = played(game, scheme, agent)
        assert value > needed
        least, most = max(payoffs[agent] - now, 0), max(most - now, 0)
        pinned(certificate.gain_lower[agent], least, most)
        pinned(certificate.gain_upper[agent], least, most)


def test_gain_of_a_prosecutor_by_hand():
    """The agent gets 0 from silence, for the judge acquits; the best scheme convicts with probability .6."""
    certificate = em.certify(em.catalog.judge(), em.no_information(1, 2, 2), *SELECTION)
    pinned(certificate.gain_lower[0], 0.6, 0.6)
    pinned(certificate.gain_upper[0], 0.6, 0.6)
    pinned(certificate.user, 0.7, 0.7)


def proved_offset(game, weights):
    """eps of the best offsets c(y), for given weights: half the range over actions."""
    rest = game.user_utility - np.tensordot(weights, game.agent_utilities, 1)
    return np.ptp(rest, axis=0).max() / 2


@pytest.mark.parametrize("seed", range(3))
def test_theorem(seed):
    """From below by weights and their eps, from above by signed masses on the cells, which no weights beat."""
    game = random_game(seed, K=2)
    schemes = np.random.default_rng(seed).dirichlet(np.ones(3), (2, 3))
    certificate = em.certify(game, schemes, *SELECTION)
    _, g, G = reduced(game)
    informed = np.take_along_axis(G, g.argmax(-1)[None, ..., None], -1).sum((1, 2, 3))
    gains, full = np.maximum(informed - certificate.agents, 0), g.max(-1).sum()
    K, A, Y = game.agent_utilities.shape
    # masses m >= 0 (above) and n >= 0 (below), sum 2 at most, balanced in each y: max (m - n) u, (m - n) U_i <= e_i
    u, U = game.user_utility.ravel(), game.agent_utilities.reshape(K, -1)
    signed = lambda rows: np.concatenate([rows, -rows], -1)  # noqa: E731
    balance = signed(np.tile(np.eye(Y), A))
    rows = np.concatenate([signed(U), np.ones((1, 2 * A * Y))])
    found = linprog(-signed(u), rows, [*gains, 2.0], balance, np.zeros(Y))
    mass = np.maximum(found.x, 0)
    assert (rows @ mass <= [*(gains + 1e-8), 2 + 1e-8]).all()
    np.testing.assert_allclose(balance @ mass, 0, atol=1e-8)
    weights = np.maximum(-found.ineqlin.marginals[:K], 0)
    least = full - 2 * proved_offset(game, weights) - weights @ gains
    pinned(certificate.theorem, least, full - signed(u) @ mass)


@pytest.mark.parametrize("seed", range(3))
def test_theorem_and_guarantee_met_by_a_profile(seed):
    """The agent has half of the user's stakes, so every profile meets both bounds: V = V_full - 2 e."""
    game = random_game(seed, K=1)
    offset = np.random.default_rng(seed).normal(size=3)
    game = em.Game(game.prior, game.user_utility, game.user_utility[None] / 2 + offset)
    scheme = np.random.default_rng(seed + 9).dirichlet(np.ones(3), 3)
    certificate = em.certify(game, scheme[None], *SELECTION)
    value, _ = played(game, scheme, 0)
    assert value < ObedienceProgram(game).full - STEP
    pinned(certificate.theorem, value, value)
    pinned(certificate.guarantee, value, value)


def worst_distribution(game, gains, obedient=True):
    """(distribution q, bound by multipliers, weights): linprog on the raw cells, with floors met to 1e-9."""
    _, g, G = reduced(game)
    (XA, XB, A), K = g.shape, len(G)
    informed = np.take_along_axis(G, g.argmax(-1)[None, ..., None], -1).sum((1, 2, 3))
    rows, right = list(-G), list(gains - informed + 1e-9)
    for x, a, b in itertools.product(range(XA), range(A), range(A)) if obedient else ():
        row = np.zeros(g.shape)
        row[x, :, a] = g[x, :, b] - g[x, :, a]
        rows.append(row)
        right.append(0.0)
    rows = np.array(rows)
    sums = np.kron(np.eye(XA * XB), np.ones(A))
    found = linprog(g.ravel(), rows.reshape(len(rows), -1), right, sums, np.ones(XA * XB))
    assert found.status == 0
    q = np.maximum(found.x.reshape(g.shape), 0)
    q /= q.sum(-1, keepdims=True)
    price = np.maximum(-found.ineqlin.marginals, 0)
    bound = (g + np.tensordot(price, rows, 1)).min(-1).sum() - price[:K] @ (gains - informed)
    # q meets the floors and the obedience constraints
    assert ((q * G).sum((1, 2, 3)) >= informed - gains - 1e-8).all()
    assert not obedient or (np.tensordot(rows[K:], q, 3) <= 1e-7).all()
    return q, bound, price[:K]


@pytest.mark.parametrize("XA", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_worst_case_and_slack(seed, XA):
    """A distribution meets the floors and the obedience constraints; multipliers prove that none is worth less."""
    game = random_game(seed, XA=XA, K=2, shared=1.0)
    _, g, _ = reduced(game)
    full = g.max(-1).sum()
    for gains in (np.zeros(2), np.array([0.02, 0.1])):
        q, bound, _ = worst_distribution(game, gains)
        value = (q * g).sum()
        pinned(em.worst_case(game, gains), bound, value)
        cover = em.coverage(game, gains, obedience=True)
        paid = cover.weights @ gains
        pinned(cover.slack, full - value - paid, full - bound - paid)
        q, bound, weights = worst_distribution(game, gains, obedient=False)
        cover = em.coverage(game, gains)
        pinned(full - cover.slack - cover.weights @ gains, bound, (q * g).sum())
        for own, linprogs in zip(cover.weights, weights, strict=True):  # a random game has one best dual
            pinned(own, linprogs, linprogs)


@pytest.mark.parametrize("obedience", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_weights(seed, obedience):
    """Weights 1e-3 off break the coverage inequality in some cell."""
    game = random_game(seed, K=2, shared=2.0)
    _, g, G = reduced(game)
    cover = em.coverage(game, obedience=obedience)
    star = g.argmax(-1)[..., None]
    user, agents = np.take_along_axis(g, star, -1) - g, np.take_along_axis(G, star[None], -1) - G
    commanded = np.einsum("xac,xbac->xba", cover.commands, g[..., :, None] - g[..., None, :])

    def least(weights, by_cell=cover.by_cell):
        return (np.tensordot(weights, agents, 1) + by_cell[..., None] - commanded - user).min()

    assert least(cover.weights) > -1e-9
    assert least(cover.weights, cover.by_cell - STEP) < -STEP / 2
    assert (cover.weights > STEP).any()
    for agent in np.flatnonzero(cover.weights > STEP):
        for step in (STEP, -STEP):
            assert least(cover.weights + step * np.eye(2)[agent]) < -1e-6


@pytest.mark.parametrize("K", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_worst_case_and_guarantee_met_by_a_profile(seed, K):
    """With agents of the same goal every obedient distribution is a profile's, so the worst one meets the bounds."""
    game = random_game(seed, K=1)
    game = em.Game(game.prior, game.user_utility, np.array([1.0, 0.5])[:K, None, None] * game.agent_utilities)
    gains = np.array([0.1, 0.05])[:K]
    _, g, G = reduced(game)
    q, bound, _ = worst_distribution(game, gains)
    value, payoffs = played(game, q[0], 0)
    informed = np.take_along_axis(G, g.argmax(-1)[None, ..., None], -1).sum((1, 2, 3))
    assert (payoffs >= informed - gains - 1e-8).all()
    pinned(em.worst_case(game, gains), bound, value)
    certificate = em.certify(game, np.stack([q[0]] * K), *SELECTION)
    assert (certificate.gain_upper >= informed - payoffs - 1e-6).all()
    pinned(certificate.guarantee, bound, value)


def proved_empty(program, low, high, depth=0):
    """Whether no value in [low, high] is an equilibrium's: sum_i f_i(high) exceeds M on all of it (else halve it).

    f_i falls in v, so f_i(high) is a lower bound of it in the interval; multipliers bound M from above.
    """
    together = program.best(program.agents.sum(0), low, high)[1]
    if len(program.agents) == 1:
        scheme = program.best(program.agents[0], -1e3)[0]
        return (scheme * program.agents[0]).sum() > together + 1e-7
    each = sum((program.best(own, high)[0] * own).sum() for own in program.agents)
    if each > together + 1e-7:
        return True
    if depth > 14:
        return False
    middle = (low + high) / 2
    return proved_empty(program, middle, high, depth + 1) and proved_empty(program, low, middle, depth + 1)


def attained(program, value):
    """Whether `value` is an equilibrium's: agents who offer the scheme of M(value) gain next to nothing, by
    multipliers, and the scheme is worth `value`."""
    scheme = program.best(program.agents.sum(0), value, value)[0]
    payoffs = np.array([(scheme * own).sum() for own in program.agents])
    worth = (scheme * program.user).sum()
    low = value if len(payoffs) > 1 else -1e3
    return abs(worth - value) < 1e-6 and all(
        program.best(own, low)[1] - payoff < 1e-5 for own, payoff in zip(program.agents, payoffs, strict=True)
    )


def test_stability_worst():
    """An equilibrium at `worst`, and none up to 1e-3 below it; so neither number 1e-3 off is the least."""
    seen = 0
    for seed in range(40):
        game = random_game(seed, K=2, XB=4, A=4, shared=0.0)
        bias = np.random.default_rng(seed).normal(size=(4, 4))  # one for all
        utilities = game.user_utility + bias + 0.25 * game.agent_utilities
        game = em.Game(game.prior, game.user_utility, utilities)
        found, program = em.stability(game), ObedienceProgram(game)
        if not program.none + 0.01 < found.worst < program.full - 0.01:
            continue
        seen += 1
        assert attained(program, found.worst)  # so worst + 1e-3 is too high
        assert proved_empty(program, program.none + 1e-9, found.worst - STEP)  # so worst - 1e-3 is none
        assert not attained(program, found.worst - STEP)
        if seen == 3:
            return
    raise AssertionError("too few games have their worst equilibrium inside")


@pytest.mark.parametrize("seed", range(3))
def test_stability_of_a_monopolist(seed):
    """One value: `worst` = `best`, pinned from both sides."""
    game = random_game(seed, K=1)
    found, program = em.stability(game), ObedienceProgram(game)
    assert found.worst == found.best
    assert attained(program, found.worst)
    if found.worst - STEP > program.none:
        assert proved_empty(program, program.none + 1e-9, found.worst - STEP)
    if found.best + STEP < program.full:
        assert proved_empty(program, found.best + STEP, program.full - 1e-9)


@functools.cache
def full_revelation():
    """Games, the profile of full revelation, and what the package says of both."""
    games = claims.all_families(jax.random.key(3), 10, agents=2, states=3, actions=3)
    schemes = np.tile(em.full_revelation(2, 3, 3), (10, 1, 1, 1))
    return games, schemes, em.certify(games, schemes, *SELECTION), em.stability(games)


def wrong_by(field, step):
    """The claims that a tampered certificate of full revelation breaks."""
    games, schemes, certificate, stable = full_revelation()
    wrong = certificate.replace(**{field: getattr(certificate, field) + step})
    return broken(claims.selection_claims(games, schemes, wrong, stable, "full revelation"))


def broken(checked):
    return {violation.claim.split(":")[-1].strip() for violation in claims.violations(checked)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "step", "claim"),
    [
        ("user", STEP, "V as NumPy has it"),
        ("user", -STEP, "V as NumPy has it"),
        ("user", -STEP, "V >= worst_case(gains from telling all)"),
        ("agents", STEP, "payoffs as NumPy has them"),
        ("gain_upper", -STEP, "0 <= gain_lower <= gain_upper"),
        ("theorem", STEP, "V >= theorem"),
        ("guarantee", STEP, "V >= guarantee"),
        ("full_information", STEP, "V_full"),
    ],
)
def test_the_claims_see_a_wrong_certificate(field, step, claim):
    """In `hull`, eps = 0: full revelation meets every bound."""
    assert claim in wrong_by(field, step)
    assert not wrong_by(field, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("field", ["slack", "weights", "by_cell"])
def test_the_claims_see_a_wrong_coverage(field, monkeypatch):
    games, _, _, found = full_revelation()
    coverage = em.coverage
    assert not claims.violations(claims.game_claims(games, found))
    for step in (STEP, -STEP):

        def tampered(*arguments, step=step, **options):
            right = coverage(*arguments, **options)
            return right.replace(**{field: np.maximum(getattr(right, field) + step, 0)})

        monkeypatch.setattr(em, "coverage", tampered)
        assert claims.violations(claims.game_claims(games, found)), step


def tampered(function, change):
    """`function` with its result changed by `change`."""
    return lambda *arguments, **options: change(function(*arguments, **options))


def all_broken(parts):
    return set().union(*(broken(checked) for _, checked in parts))


@pytest.mark.slow
def test_the_claims_see_what_depends_on_units(monkeypatch):
    """Every number is off by 1e-6, whatever its unit, as an absolute tolerance would have it."""
    fields = "gain_lower", "gain_upper", "payoff_range", "theorem", "guarantee", "user"
    rng = np.random.default_rng(0)
    games = claims.mixed(rng, 6, claims_games.Size())
    profiles = {"random": rng.dirichlet(np.ones(4), (6, 2, 3))}
    assert not all_broken(claims_same.unit_claims(np.random.default_rng(1), games, profiles))
    # each field has a claim of its own, so that all of them are tampered with at once
    change = lambda found: found.replace(**{name: getattr(found, name) + 1e-6 for name in fields})  # noqa: E731
    monkeypatch.setattr(em, "certify", tampered(em.certify, change))
    seen = all_broken(claims_same.unit_claims(np.random.default_rng(1), games, profiles))
    assert {*fields[:-1], "normalised value"} <= seen


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stability", "coverage", "certify"])
def test_the_claims_see_a_verdict_that_depends_on_units(name, monkeypatch):
    rng = np.random.default_rng(0)
    games = claims.mixed(rng, 6, claims_games.Size())
    profiles = {"random": rng.dirichlet(np.ones(4), (6, 2, 3))}

    def of_size(games, *arguments, **options):
        found = right(games, *arguments, **options)
        large = np.ptp(games.user_utility, axis=(1, 2)) > 1e3
        return found.replace(result=np.where(large, em.Result.FAILED, found.result))

    right = getattr(em, name)
    monkeypatch.setattr(em, name, of_size)
    assert "verdicts" in all_broken(claims_same.unit_claims(rng, games, profiles))


def test_the_claims_see_utilities_of_impossible_outcomes(monkeypatch):
    rng = np.random.default_rng(2)
    games, huge = claims_games.with_impossible(rng, claims.mixed(rng, 4, claims_games.Size()))
    least = em.least_budget

    def counts_all(games, **options):
        return least(games, **options) + 1e-9 * np.ptp(games.agent_utilities, axis=(1, 2, 3))

    monkeypatch.setattr(em, "least_budget", counts_all)
    assert "least_budget, outcome, cone" in all_broken(claims_same.impossible_claims(rng, games, huge, {}, []))


@pytest.mark.slow
@pytest.mark.parametrize("ties", one_in(3, ["lowest", "highest", "uniform"]))
def test_the_claims_see_an_open_bracket(ties, monkeypatch):
    rng = np.random.default_rng(3)
    games = claims_games.whole(rng, 4, claims_games.Size())
    wider = lambda found: found.replace(gain_upper=found.gain_upper + 1e-5 * found.payoff_range)  # noqa: E731
    monkeypatch.setattr(em, "certify", tampered(em.certify, wider))
    assert "brackets within 1e-6" in all_broken(claims.check_brackets(rng, games, em.RationalUser(ties)))


@pytest.mark.slow
@pytest.mark.parametrize("ties", one_in(2, ["lowest", "agents"]))
def test_the_claims_see_another_tie_rule(ties, monkeypatch):
    """Payoffs by the highest index instead."""
    rng, payoffs = np.random.default_rng(4), em.payoffs
    highest = lambda games, schemes, protocol, user: payoffs(games, schemes, protocol, em.RationalUser("highest"))  # noqa: E731
    monkeypatch.setattr(em, "payoffs", highest)
    found = claims_whole.whole_claims(
        rng, 12, features=2, actions=3, user_features=1, protocol=em.Selection(), ties=ties, certified=1
    )
    assert {"payoffs, float64", "payoffs, float32"} <= all_broken(found)


@pytest.mark.slow
def test_the_claims_see_a_gain_that_is_too_small(monkeypatch):
    rng = np.random.default_rng(5)
    smaller = lambda found: found.replace(gain_upper=0.9 * found.gain_upper, gain_lower=0.9 * found.gain_lower)  # noqa: E731
    monkeypatch.setattr(em, "certify", tampered(em.certify, smaller))
    found = claims_whole.whole_claims(
        rng, 6, features=2, actions=3, user_features=1, protocol=em.Selection(), ties="agents", certified=8
    )
    assert "pure deviations gain gain_upper at most" in all_broken(found)


def test_ties_by_hand():
    """The example of docs/model.md: actions that differ by .5 in every state are no tie, whatever a third one pays."""
    p = np.full((1, 1, 1, 2), 0.5)
    u = np.array([[[0.2, 0.2], [-0.3, -0.3], [-1e6, 1.0]]])
    D = claims_base.differences(p, u)
    ahead = np.maximum(D, 0).sum(2)
    assert claims_base.best(ahead)[0, 0].tolist() == [True, False, False]
    # .1 + .2 - .3 counts as 0
    p, u = np.array([[[[0.1, 0.2, 0.3, 0.4]]]]), np.array([[[1.0, 1, 0, 0], [0, 0, 1, 0]]])
    assert (claims_base.differences(p, u) == 0).all()
    ahead = np.array([[0, 1.0], [1 + 1.9e-7, 0]])  # a falls short by 9.5e-8 of what the two differ by
    assert claims_base.best(ahead).tolist() == [True, True]
    ahead = np.array([[0, 1.0], [1 + 2.1e-7, 0]])
    assert claims_base.best(ahead).tolist() == [False, True]


def test_units_by_hand():
    """The judge convicts the innocent with 3/7 at most: the unit is .3 (guilty) + .7 * 3/7 (innocent)."""
    game = em.catalog.judge()
    r = claims_base.raw(em.Game(*(np.asarray(x)[None] for x in (game.prior, game.user_utility, game.agent_utilities))))
    np.testing.assert_allclose(r.scale, 0.6)
    np.testing.assert_allclose(r.stakes, 0.6)
