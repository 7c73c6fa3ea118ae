"""The equilibrium set of Selection against linprog on a grid, certified profiles, closed forms and hard cases."""

import itertools

import jax
import numpy as np
import pytest
from scipy.optimize import linprog
from support.games import FIELDS, batch_of, random_game

import emalign_jax as em
from emalign_jax.exact.obedience.program import ObedienceLP, Price

pytestmark = pytest.mark.host_only

# LPs of numbers of size 1, feasibility 1e-9 here and 1e-10 there, supergradients of size up to 100
EXACT = 1e-7
SELECTION = em.Selection(), em.RationalUser()


class Linprog:
    """f_i and M from the game's own arrays, over distributions [XB, R]; each r has an action for each x_A."""

    def __init__(self, game):
        p, (XA, XB, _) = game.prior, game.prior.shape
        A = len(game.user_utility)
        advices = np.array(list(itertools.product(range(A), repeat=XA)))
        self.shape = XB, len(advices)

        def pays(utility):  # [XB, R]
            by_cell = np.einsum("cby,ay->cba", p, utility)
            return sum(by_cell[c][:, advices[:, c]] for c in range(XA))

        self.user = pays(game.user_utility)
        self.agents = np.array([pays(utility) for utility in game.agent_utilities])
        cell = np.einsum("cby,ay->cba", p, game.user_utility)
        self.tempted = []
        for r, c, b in itertools.product(range(len(advices)), range(XA), range(A)):
            row = np.zeros(self.shape)
            row[:, r] = cell[c, :, b] - cell[c, :, advices[r, c]]
            self.tempted.append(row.ravel())
        self.none, self.full = cell.sum(1).max(-1).sum(), cell.max(-1).sum()

    def solve(self, payoff, value, exactly):
        sums = np.kron(np.eye(self.shape[0]), np.ones(self.shape[1]))
        here = self.user.ravel()
        found = linprog(
            -payoff.ravel(),
            A_ub=self.tempted if exactly else [*self.tempted, -here],
            b_ub=np.zeros(len(self.tempted)) if exactly else [*np.zeros(len(self.tempted)), -value],
            A_eq=[*sums, here] if exactly else sums,
            b_eq=[*np.ones(len(sums)), value] if exactly else np.ones(len(sums)),
            options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
        )
        assert found.status == 0, found.message
        return -found.fun, np.maximum(found.x.reshape(self.shape), 0)

    def gap(self, value):
        together = self.solve(self.agents.sum(0), value, exactly=True)[0]
        if len(self.agents) == 1:
            return self.solve(self.agents[0], -1e6, exactly=False)[0] - together
        return sum(self.solve(own, value, exactly=False)[0] for own in self.agents) - together

    def shared(self, value):
        """The scheme of M(value)."""
        scheme = self.solve(self.agents.sum(0), value, exactly=True)[1]
        return scheme / scheme.sum(1, keepdims=True)


def gap_at(found, value):
    return np.interp(value, found.value, found.gap)


@pytest.mark.parametrize(
    ("seed", "sizes"),
    [(seed, {}) for seed in range(6)]
    + [(seed, {"XA": 2}) for seed in range(4)]
    + [(seed, {"XB": 4, "Y": 4, "A": 4, "K": 5}) for seed in range(3)]
    + [(seed, {"K": 1}) for seed in range(4)]
    + [(0, {"XA": 2, "K": 1}), (0, {"XB": 2, "Y": 4, "A": 6, "K": 2}), (0, {"XA": 3, "XB": 2, "K": 2})],
)
def test_the_profile_is_that_of_a_grid_of_lps(seed, sizes):
    game = random_game(seed, **{"K": 3} | sizes)
    found, lps = em.stability(game), Linprog(game)
    assert found.no_information == pytest.approx(lps.none, abs=1e-12)
    assert found.full_information == pytest.approx(lps.full, abs=1e-12)
    value, gap, zero = found.profile()
    assert (value[0], value[-1]) == (found.no_information, found.full_information)
    assert (np.diff(value) > 0).all()
    assert (gap >= 0).all()
    assert (gap[zero] == 0).all()
    assert found.result == em.Result.CERTIFIED
    inside = lps.none + np.linspace(0, 1, 15)[1:-1] * (lps.full - lps.none)
    for v in np.concatenate([inside, value[1:-1]]):
        assert gap_at(found, v) == pytest.approx(lps.gap(v), abs=EXACT)
    if len(game.agent_utilities) > 1:
        assert zero[-1]
        assert found.best == found.full_information
    assert (found.worst, found.best) == (value[zero][0], value[zero][-1])


@pytest.mark.slow
def test_a_wrong_worst_is_caught():
    """The check that catches it: the gap at the claim is 0, and it is 0 nowhere below."""
    caught = 0
    for seed in range(40):
        shared = random_game(seed, XB=4, A=4, K=4)
        bias = np.random.default_rng(seed).normal(size=(4, 4))  # one for all
        utility = shared.user_utility + bias + 0.25 * shared.agent_utilities
        game = em.Game(shared.prior, shared.user_utility, utility)
        found, lps = em.stability(game), Linprog(game)

        def right(claim, found=found, lps=lps):
            below = [v for v in found.value if lps.none + 1e-6 < v < claim - 1e-9]
            return lps.gap(claim) <= EXACT and all(lps.gap(v) > EXACT for v in below)

        if min(found.worst - found.no_information, found.full_information - found.worst) > 2e-3:
            caught += 1
            assert right(found.worst)
            assert not right(found.worst - 1e-3)
            assert not right(found.worst + 1e-3)
    assert caught >= 5


@pytest.mark.slow
@pytest.mark.parametrize("family", em.FAMILIES)
def test_certified_equilibria_lie_where_the_gap_allows(family):
    """The necessary half: a profile of user value v has a total gain of gap(v) at least."""
    games = em.random_games(jax.random.key(3), 8, family=family, agents=3, states=3, actions=3)
    found = em.stability(games)
    solution = em.solve(games, *SELECTION, key=jax.random.key(4), starts=2)
    random = np.random.default_rng(0).dirichlet(np.ones(3), (2, 8, 3, 3))
    for schemes in (solution.schemes, random):
        certificate = em.certify(games, schemes, *SELECTION)
        total = certificate.gain_upper.sum(-1)
        for n, start in itertools.product(range(8), range(2)):
            value, gap, _ = found.profile((n,))
            v = np.clip(certificate.user[start, n], value[0], value[-1])
            # user values are known to the tie tolerance, 1e-6; at V_full itself the gap is 0 anyway
            steep = np.abs(np.diff(gap) / np.diff(value)).max(initial=0)
            assert np.interp(v, value, gap) <= total[start, n] + 1e-6 * (1 + 3 * steep)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("biased", [False, True])
def test_two_agents_who_offer_the_shared_scheme(seed, biased):
    """The sufficient half: at a zero no agent gains, elsewhere the total gain is the gap at least."""
    game = random_game(seed, K=3)
    if biased:
        common = np.random.default_rng(seed).normal(size=(3, 3))
        game = em.Game(game.prior, game.user_utility, 0.1 * game.agent_utilities + common)
    found, lps = em.stability(game), Linprog(game)
    value, _, zero = found.profile()
    middles = (value[1:] + value[:-1]) / 2
    for v in np.concatenate([value[1:-1], middles]):
        schemes = np.stack([lps.shared(v), lps.shared(v), np.full(lps.shape, 1 / lps.shape[1])])
        certificate = em.certify(game, schemes, *SELECTION)
        assert certificate.user == pytest.approx(v, abs=1e-5)
        total, gap = certificate.gain_upper.sum(), gap_at(found, v)
        assert total >= gap - 1e-5  # tie tolerance 1e-6, supergradients
        if gap == 0:
            assert total <= 1e-5
    assert zero.any()


def test_named_games():
    for game in (em.catalog.biased_advisers(), em.catalog.prosecutor_against_defender()):
        found = em.stability(game)
        assert found.worst == found.best == pytest.approx(1, abs=1e-12)
        assert found.intervals() == [(found.worst, found.best)]
        assert found.no_information == pytest.approx(0.7)
    # f_1(v) = 1.3 - v, f_2(v) = 1.7 - v, and one of them wins: gap(v) = 2 - 2 v
    found = em.stability(em.catalog.prosecutor_against_defender())
    v = np.linspace(0.7, 1, 7)
    np.testing.assert_allclose(gap_at(found, v), 2 - 2 * v, atol=EXACT)


@pytest.mark.parametrize("prosecutors", [2, 3, 8])
def test_identical_prosecutors(prosecutors):
    """From the monopolist's scheme (user .7) to full revelation, everything is an equilibrium."""
    found = em.stability(em.catalog.judge(prosecutors=prosecutors))
    assert (found.worst, found.best) == pytest.approx((0.7, 1.0), abs=1e-9)
    assert len(found.intervals()) == 1


@pytest.mark.parametrize("seed", range(5))
def test_clones_of_one_agent(seed):
    """Clones have equilibria of every value from the monopolist's to V_full; alone, only the former."""
    alone = random_game(seed, K=1)
    many = em.Game(alone.prior, alone.user_utility, np.repeat(alone.agent_utilities, 3, 0))
    one, three = em.stability(alone), em.stability(many)
    assert three.worst == pytest.approx(one.worst, abs=1e-9)
    assert three.intervals() == [(three.worst, three.full_information)]
    monopolist = Linprog(alone).solve(Linprog(alone).agents[0], one.no_information - 1, exactly=False)[1]
    found = em.certify(alone, (monopolist / monopolist.sum(1, keepdims=True))[None], *SELECTION)
    assert one.worst - 1e-5 <= found.user <= one.best + 1e-5


def test_a_monopolist():
    found = em.stability(em.catalog.judge())
    assert found.worst == found.best == pytest.approx(0.7)
    np.testing.assert_allclose(gap_at(found, np.array([0.8, 1.0])), [0.1, 0.3], atol=EXACT)  # the agent gets 1.3 - v
    assert not found.zero[-1]


def three_trials():
    """Two prosecutors in three equally likely trials; the user learns which trial it is and wants the just verdict.

    In the first two both agents want conviction, one at stakes 2 and 1, the other at 1 and 2; in the third they want
    justice. Both would reveal the third and pool in the other two: value v* = (.7 + .7 + 1) / 3 = .8, an isolated
    zero. To give the user more, each would rather reveal in the trial that matters more to the other agent.
    """
    prior = np.tile([0.7, 0.3], 3) / 3
    user = np.full((6, 6), -10.0)  # action and outcome are (trial, verdict); a verdict in the wrong trial is absurd
    agents = np.full((2, 6, 6), -10.0)
    for trial in range(3):
        at = slice(2 * trial, 2 * trial + 2)
        user[at, at] = np.eye(2)
        for i in range(2):
            convict = np.array([[0.0, 0.0], [1.0, 1.0]])
            agents[i, at, at] = np.eye(2) if trial == 2 else convict * (2 if trial == i else 1)
    return em.Game(np.diag(prior)[None], user, agents)


def test_an_isolated_equilibrium_inside():
    found = em.stability(three_trials())
    assert found.no_information < 0
    assert found.worst == pytest.approx(0.8, abs=1e-9)
    (low, high), last = found.intervals()
    assert low == high == found.worst
    assert last == (found.full_information, found.full_information)
    # f_i loses at the stakes of 1, in the trial that matters less to i; M loses 2 + 1 in any trial, not 1 + 1
    assert gap_at(found, 0.8 + 0.04) == pytest.approx(0.04, abs=EXACT)
    assert gap_at(found, 0.8 - 1e-3) > 1e-4
    grid = np.linspace(found.no_information, found.full_information, 1000)[:-1]
    assert gap_at(found, grid).min() > 1e-4, "a grid misses it"


def test_ties_under_full_revelation():
    """The user is indifferent in outcome 0, where agents disagree: near V_full they lose .5, at V_full nothing."""
    game = em.Game(np.diag([0.5, 0.5])[None], [[0, 0], [0, 1]], [[[1, 0], [0, 0]], [[0, 0], [1, 0]]])
    found = em.stability(game)
    assert found.worst == found.best == found.full_information == 0.5
    pharma = em.stability(em.catalog.pharma_market())
    assert pharma.worst == pharma.best == pytest.approx(0.32)
    np.testing.assert_allclose(pharma.value[-2:], 0.32, atol=1e-12)  # it jumps: V_full is there twice
    np.testing.assert_allclose(pharma.gap[-2:], [0.16, 0], atol=EXACT)  # both drugs work with probability .16
    assert gap_at(pharma, pharma.full_information) == 0
    assert gap_at(pharma, pharma.full_information - 1e-6) == pytest.approx(0.16, abs=1e-5)
    full = em.certify(em.catalog.pharma_market(), em.full_revelation(2, 4, 4), *SELECTION)
    assert full.user == pytest.approx(0.32)
    np.testing.assert_allclose(full.gain_upper, 0, atol=1e-8)
    assert Linprog(em.catalog.pharma_market()).gap(0.32 - 1e-9) == pytest.approx(0.16, abs=1e-6)


def test_information_worth_nothing():
    one = random_game(0, K=3)
    indifferent = em.Game(one.prior, np.zeros((3, 3)), one.agent_utilities)
    obvious = em.Game(one.prior, np.arange(3.0)[:, None] * np.ones(3), one.agent_utilities)
    for game in (indifferent, obvious, em.Game(one.prior, np.zeros((3, 3)), one.agent_utilities[:1])):
        found = em.stability(game)
        assert found.worst == found.best == found.no_information == found.full_information
        np.testing.assert_array_equal(found.gap, 0)
        assert found.zero.all()
        assert found.result == em.Result.CERTIFIED
        assert np.isnan(found.normalise(found.worst))


@pytest.mark.parametrize("seed", range(4))
def test_odd_agents(seed):
    """The answer is known with an aligned agent, and with an agent of opposite goals that has a competitor."""
    game = random_game(seed, K=2)
    user, (one, two) = game.user_utility, game.agent_utilities
    aligned = em.stability(em.Game(game.prior, user, np.stack([one, user, two])))
    assert aligned.worst == aligned.full_information
    # the aligned agent alone could gain V_full - v by revealing
    assert (aligned.gap >= aligned.full_information - aligned.value - EXACT).all()

    zero_sum = em.stability(em.Game(game.prior, user, np.stack([user, -user])))
    assert zero_sum.worst == zero_sum.full_information
    np.testing.assert_allclose(zero_sum.gap, zero_sum.full_information - zero_sum.value, atol=EXACT)
    spiteful = em.stability(em.Game(game.prior, user, -np.stack([user, user])))
    assert spiteful.intervals() == [(spiteful.no_information, spiteful.full_information)]

    # an agent without a stake has no gain of its own, but can make the offer that disciplines the other, like a clone
    for own in (np.zeros((3, 3)), np.ones((3, 1)) * [1.0, -2.0, 5.0]):
        dummy = em.stability(em.Game(game.prior, user, np.stack([one, own])))
        clone = em.stability(em.Game(game.prior, user, np.stack([one, one])))
        assert dummy.worst == pytest.approx(clone.worst, abs=1e-9)
        assert dummy.intervals() == [(dummy.worst, dummy.full_information)]
    idle = em.stability(em.Game(game.prior, user, np.zeros((2, 3, 3))))
    assert idle.intervals() == [(idle.no_information, idle.full_information)]
    np.testing.assert_array_equal(idle.relative_gap, 0)


def test_an_idle_holder_is_approached():
    """[idle, prosecutor] at value .7: lowest-index ties go against the prosecutor, values .7 + d gain at most d."""
    game = em.catalog.judge(prosecutors=2)
    game = em.Game(game.prior, game.user_utility, game.agent_utilities * np.array([0.0, 1.0])[:, None, None])
    assert em.stability(game).worst == pytest.approx(0.7)
    for d in (1e-2, 1e-4):
        offer = np.array([[1 - (3 / 7 - d / 0.7), 3 / 7 - d / 0.7], [0, 1]])  # innocent, guilty
        certificate = em.certify(game, np.stack([np.full((2, 2), 0.5), offer]), *SELECTION)
        assert certificate.user == pytest.approx(0.7 + d)
        assert certificate.gain_upper.sum() <= d + 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_units(seed):
    """Values are in the user's unit, equilibria depend on no agent's, and gap = sum_i f_i - M is in raw utilities."""
    game = random_game(seed, K=3)
    found = em.stability(game)
    scales = np.array([1e-3, 1.0, 40.0])
    other = em.Game(game.prior, 100 * game.user_utility - 7, scales[:, None, None] * game.agent_utilities + 3)
    scaled = em.stability(other)
    assert (scaled.worst, scaled.best) == pytest.approx((100 * found.worst - 7, 100 * found.best - 7), abs=1e-6)
    np.testing.assert_allclose(scaled.payoff_range, scales * found.payoff_range, rtol=1e-6)
    lps = Linprog(other)
    for v in lps.none + np.array([0.1, 0.4, 0.8]) * (lps.full - lps.none):
        assert gap_at(scaled, v) == pytest.approx(lps.gap(v), abs=100 * EXACT)
    tiny = em.stability(em.Game(game.prior, game.user_utility * 1e-30, game.agent_utilities * 1e-40))
    np.testing.assert_allclose(tiny.value * 1e30, found.value, atol=1e-8)
    np.testing.assert_allclose(tiny.gap * 1e40, found.gap, atol=EXACT)
    # a clone of agent 0 at a millionth of the stakes: they agree on everything, so only scales could tell them apart
    clones = np.stack([game.agent_utilities[0], 1e-6 * game.agent_utilities[0]])
    same = em.stability(em.Game(game.prior, game.user_utility, clones))
    assert same.worst == pytest.approx(em.stability(em.Game(game.prior, game.user_utility, clones[:1])).worst, abs=1e-8)


@pytest.mark.slow
def test_a_batch_is_its_games_and_a_bad_one_costs_itself():
    each = [random_game(seed, K=3) for seed in range(6)]
    games = batch_of(each)
    done = []
    together = em.stability(games, progress=done.append)
    assert sum(done) == 6
    for n, game in enumerate(each):
        alone = em.stability(game)
        for batched, single in zip(together.profile((n,)), alone.profile(), strict=True):
            np.testing.assert_array_equal(batched, single)
        assert together.worst[n] == alone.worst
        assert together.intervals((n,)) == alone.intervals()
        v = np.linspace(alone.no_information, alone.full_information, 20)
        padded = np.interp(v, together.value[n], together.gap[n])
        np.testing.assert_array_equal(padded, gap_at(alone, v))
    utility = games.agent_utilities.copy()
    utility[4, 0, 0, 0] = np.inf
    bad = em.stability(em.Game(games.prior, games.user_utility, utility, check="shapes"))
    assert list(bad.result) == [0, 0, 0, 0, em.Result.MALFORMED, 0]
    for name in ("worst", "best", "value", "gap", "no_information", "full_information", "payoff_range"):
        assert np.isnan(getattr(bad, name)[4]).all()
        good = np.delete(getattr(bad, name), 4, 0)
        P = good.shape[-1] if good.ndim == 2 else None
        np.testing.assert_array_equal(good, np.delete(getattr(together, name), 4, 0)[..., :P])
    assert not bad.zero[4].any()
    assert bad.intervals((4,)) == []
    square = em.stability(em.Game(*(x.reshape(2, 3, *x.shape[1:]) for x in (getattr(games, name) for name in FIELDS))))
    np.testing.assert_array_equal(square.worst, together.worst.reshape(2, 3))
    np.testing.assert_array_equal(square.relative_gap, together.relative_gap.reshape(2, 3, -1))
    worthless = square.no_information == square.full_information
    np.testing.assert_array_equal(square.normalise(square.value)[..., 0], np.where(worthless, np.nan, 0))


def test_a_failed_lp_is_said(monkeypatch):
    def fail(self, *_):
        return Price(False, np.nan, np.nan, "Unknown")

    monkeypatch.setattr("emalign_jax.exact.obedience.program.ObedienceLP.price", fail)
    found = em.stability(em.catalog.two_prosecutors())
    assert found.result == em.Result.FAILED
    assert np.isnan(found.worst)


def test_too_large():
    game = em.Game(np.full((8, 2, 2), 1 / 32), np.eye(4, 2), np.ones((2, 4, 2)))
    with pytest.raises(ValueError, match="columns"):
        em.stability(game)


@pytest.mark.slow
def test_few_lps():
    """Breakpoints cost about two LPs each; a regression to a grid would show."""
    count = 0
    price = ObedienceLP.price

    def counted(*arguments):
        nonlocal count
        count += 1
        return price(*arguments)

    ObedienceLP.price = counted
    try:
        for seed in range(10):
            em.stability(random_game(seed, XB=4, A=4, K=5))
    finally:
        ObedienceLP.price = price
    assert count < 10 * 120
