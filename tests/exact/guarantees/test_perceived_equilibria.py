"""The equilibrium set of Selection with users who misread beliefs, against LPs of SciPy and certified profiles."""

import itertools
import os

import jax
import numpy as np
import pytest
from scipy.optimize import linprog
from support.games import random_game

import emalign_jax as em

pytestmark = pytest.mark.host_only

NIGHTLY = os.environ.get("EMALIGN_NIGHTLY") == "1"
PLAIN = em.RationalUser()


def users(seed, game):
    """Users who misread beliefs in several ways."""
    own = np.random.default_rng(seed).dirichlet(np.ones(game.prior.size)).reshape(game.prior.shape)
    return [
        em.Conservative(PLAIN, 0.6),
        em.Conservative(PLAIN, 1.7),
        em.BaseRateNeglect(PLAIN, 0.8),
        em.SubjectivePrior(PLAIN, (own + game.prior) / 2),
    ]


def biased(seed, own=0.1, **sizes):
    """Agents who share a bias, so that the worst equilibrium is rarely the best scheme for the user."""
    game = random_game(seed, **{"K": 3} | sizes)
    common = np.random.default_rng(seed).normal(size=game.user_utility.shape)
    return em.Game(game.prior, game.user_utility, own * game.agent_utilities + common)


class Linprog:
    """f_i, M and what is perceived, from the game's own arrays and the user's own prior, over distributions [XB, R]."""

    def __init__(self, game, user, margin=0.0):
        """margin: by which share of what they differ by a recommended action must be better than another."""
        believed, (XA, XB, _) = user.believed_prior(game.prior, np), game.prior.shape
        A = len(game.user_utility)
        advices = np.array(list(itertools.product(range(A), repeat=XA)))
        self.shape = XB, len(advices)

        def pays(prior, utility):
            by_cell = np.einsum("cby,ay->cba", prior, utility)
            return sum(by_cell[c][:, advices[:, c]] for c in range(XA)).ravel()

        self.gets, self.perceives = (pays(prior, game.user_utility) for prior in (game.prior, believed))
        self.agents = np.array([pays(game.prior, utility) for utility in game.agent_utilities])
        cell = np.einsum("cby,ay->cba", believed, game.user_utility)
        self.tempted = []
        for r, c, b in itertools.product(range(len(advices)), range(XA), range(A)):
            row = np.zeros(self.shape)
            row[:, r] = cell[c, :, b] - cell[c, :, advices[r, c]]
            self.tempted.append((row + margin * np.abs(row)).ravel())

    def solve(self, payoff, at_least=(), exactly=()):
        """The largest payoff with [(row, bound)] at least and exactly; None if there is none."""
        sums = np.kron(np.eye(self.shape[0]), np.ones(self.shape[1]))
        found = linprog(
            -payoff,
            A_ub=[*self.tempted, *(-row for row, _ in at_least)],
            b_ub=[*np.zeros(len(self.tempted)), *(-bound for _, bound in at_least)],
            A_eq=[*sums, *(row for row, _ in exactly)],
            b_eq=[*np.ones(len(sums)), *(bound for _, bound in exactly)],
            options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
        )
        assert found.status in (0, 2), found.message
        return (-found.fun, np.maximum(found.x.reshape(self.shape), 0)) if found.status == 0 else None

    @property
    def ends(self):
        return -self.solve(-self.gets)[0], self.solve(self.gets)[0]

    def frontier(self, agent, value):
        return self.solve(self.agents[agent], [(self.gets, value)])[0]

    def gap(self, value):
        together = self.solve(self.agents.sum(0), exactly=[(self.gets, value)])[0]
        return sum(self.frontier(i, value) for i in range(len(self.agents))) - together

    def equilibrium(self, value, sign, slack=1e-8):
        """The distribution of an equilibrium worth `value` whose perceived value is largest (sign = -1: least)."""
        paid = [(own, self.frontier(i, value) - slack) for i, own in enumerate(self.agents)]
        return self.solve(sign * self.perceives, [*paid, (self.gets, value - slack / 10)])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("sizes", [{}, {"XA": 2}])
def test_the_profile_is_that_of_a_grid_of_lps(seed, kind, sizes):
    game = biased(seed, **sizes)
    user = users(seed, game)[kind]
    found, lps = em.stability(game, user=user), Linprog(game, user)
    value, gap, zero = found.profile()
    least, most = lps.ends
    assert (value[0], value[-1]) == pytest.approx((least, most), abs=1e-7)
    if most - least < 1e-6:
        return
    for v in np.concatenate([least + np.linspace(0, 1, 12)[1:-1] * (most - least), value[1:-1]]):
        assert np.interp(v, value, gap) == pytest.approx(lps.gap(min(v, most - 1e-9)), abs=1e-6)
    assert zero[-1]
    assert (found.worst, found.best) == (value[zero][0], value[zero][-1])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", range(4))
def test_what_is_perceived_is_that_of_a_grid_of_lps(seed, kind):
    """At a fine grid of equilibrium values no other equilibrium is perceived as worse or better."""
    game = biased(seed, own=0.0 if seed % 2 else 0.1)
    user = users(seed, game)[kind]
    found, lps = em.stability(game, user=user), Linprog(game, user)
    _, most = lps.ends
    seen = []
    for low, high in found.intervals():
        for v in np.unique(np.linspace(low, high, 7)):
            if v < most - 1e-8:
                seen += [sign * lps.equilibrium(v, sign)[0] for sign in (1, -1)]
    first = lps.frontier(0, most - 1e-9) - 1e-8
    top = [(lps.gets, most - 1e-9), (lps.agents[0], first)]
    seen += [sign * lps.solve(sign * lps.perceives, top)[0] for sign in (1, -1)]
    # The grid holds the ends of all intervals, but the extremes may lie at a breakpoint in between.
    assert found.perceived_worst <= min(seen) + 1e-5
    assert found.perceived_best >= max(seen) - 1e-5
    if len(found.intervals()) == 1 and found.worst == found.best:
        assert (found.perceived_worst, found.perceived_best) == pytest.approx((min(seen), max(seen)), abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("agents", [1, 3])
def test_who_barely_misreads_is_as_good_as_plain(seed, agents):
    game = biased(seed, K=agents)
    plain, nearly = em.stability(game), em.stability(game, user=em.Conservative(PLAIN, 1 - 1e-9))
    for name in ("worst", "best", "no_information", "full_information", "perceived_worst", "perceived_best"):
        assert getattr(nearly, name) == pytest.approx(getattr(plain, name), abs=1e-6), name
    assert (plain.perceived_worst, plain.perceived_best) == (plain.worst, plain.best)
    v = np.linspace(plain.value[0], plain.value[-1], 30)[1:-1]
    np.testing.assert_allclose(np.interp(v, nearly.value, nearly.gap), np.interp(v, plain.value, plain.gap), atol=1e-6)


def disputed(prior):
    """Two agents who disagree about which of two actions, equally good to the user, it is to take where state 0 is
    likely, so that gap is not 0 just below the largest value."""
    agents = np.array([[[1.0, 1.0], [0.0, 0.0], [0.3, 0.5]], [[0.0, 0.0], [1.0, 1.0], [0.2, 0.1]]])
    return em.Game(np.array([prior]), np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), agents)


@pytest.mark.parametrize("lp", ["highs", "batched"])
@pytest.mark.parametrize("kind", range(4))
def test_the_largest_value_may_be_an_isolated_one(kind, lp):
    game = disputed([[0.5, 0.05], [0.05, 0.4]])
    user = users(0, game)[kind]
    found, lps = em.stability(game, user=user, lp=lp), Linprog(game, user)
    assert found.intervals() == [(found.best, found.best)]
    assert found.gap[-2] > 0.1
    top = [(lps.gets, lps.ends[1] - 1e-9), (lps.agents[0], lps.frontier(0, lps.ends[1] - 1e-9) - 1e-8)]
    least, most = (sign * lps.solve(sign * lps.perceives, top)[0] for sign in (-1, 1))
    assert (found.perceived_worst, found.perceived_best) == pytest.approx((least, most), abs=1e-6)


@pytest.mark.parametrize("weight", [0.9, 1.2])
def test_what_is_perceived_may_be_what_is_got_in_another_unit(weight):
    """Where states are equally likely a user who moves too far, or not far enough, only misjudges how much it gets."""
    game = disputed([[0.45, 0.05], [0.05, 0.45]])
    user = em.Conservative(PLAIN, weight)
    found = em.stability(game, user=user)
    payoffs = em.payoffs(game, em.full_revelation(2, 2, 2), em.Selection(), user)
    assert float(payoffs.user) == pytest.approx(found.worst, abs=1e-6)
    assert float(payoffs.perceived) == pytest.approx(0.9 * weight + 0.5 * (1 - weight), abs=1e-6)
    for end in (found.perceived_worst, found.perceived_best):
        assert end == pytest.approx(float(payoffs.perceived), abs=1e-6)


@pytest.mark.slow
def test_batched_is_one_by_one():
    games = em.random_games(jax.random.key(5), 12, family="shared_bias", agents=3, states=3, actions=3)
    for user in (em.Conservative(PLAIN, np.linspace(0.3, 1.6, 12)), em.BaseRateNeglect(PLAIN, 0.7)):
        one, many = (em.stability(games, user=user, lp=lp) for lp in ("highs", "batched"))
        for name in ("worst", "best", "perceived_worst", "perceived_best", "no_information", "full_information"):
            np.testing.assert_allclose(getattr(one, name), getattr(many, name), atol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", range(4))
def test_agents_who_offer_the_scheme_of_an_end(kind):
    """The sufficient half: the worst value, and what is perceived there, are those of a certified equilibrium."""
    attained = tried = 0
    for seed in range(8):
        game = biased(seed)
        user = users(seed, game)[kind]
        found, lps = em.stability(game, user=user), Linprog(game, user, margin=3e-7)
        if found.worst > lps.ends[1] - 1e-5:
            continue
        for sign in (1, -1):
            scheme = lps.equilibrium(found.worst, sign, slack=2e-5)[1]
            scheme = scheme / scheme.sum(1, keepdims=True)
            schemes = np.stack([scheme] * 3)  # Silence might be worth more.
            certificate = em.certify(game, schemes, em.Selection(), user)
            tried += 1
            perceived = em.payoffs(game, schemes, em.Selection(), user).perceived
            assert found.perceived_worst - 1e-3 <= perceived <= found.perceived_best + 1e-3
            attained += abs(certificate.user - found.worst) < 1e-3 and certificate.gain_upper.sum() <= 1e-3
    assert attained == tried >= 4


def test_what_is_refused():
    game = em.catalog.two_prosecutors()
    for protocol, user in (
        (em.Pooled(), PLAIN),
        (em.Selection(), em.QuantalUser(3.0)),
        (em.Selection(), em.RationalUser("lowest")),
        (em.Selection(then=em.Conversation(2)), PLAIN),
    ):
        with pytest.raises(ValueError, match="protocol, user"):
            em.stability(game, protocol, user)
    with pytest.raises(ValueError, match="temperature"):
        em.stability(game, em.Selection(temperature=0.1))
    with pytest.raises(ValueError, match="equilibrium_bounds"):
        em.stability(em.catalog.judge(prosecutors=3), em.Comparison(2))
    with pytest.raises(ValueError, match="exact"):
        em.stability(game, user=em.Conservative(PLAIN, 0.5), exact=True)
    same = em.stability(game, em.Comparison(2))
    assert (same.worst, same.best) == pytest.approx((0.7, 1.0))


@pytest.mark.slow
@pytest.mark.parametrize("family", em.FAMILIES)
def test_certified_equilibria_lie_where_the_gap_allows(family):
    """The necessary half, of equilibria that a search found: a profile worth v has a total gain of gap(v) at least, and
    perceived values lie between the ends where the true value is that of an equilibrium."""
    count = 200 if NIGHTLY else 6
    games = em.random_games(jax.random.key(3), count, family=family, agents=3, states=3, actions=3)
    for user in (em.Conservative(PLAIN, 0.6), em.Conservative(PLAIN, 1.5), em.BaseRateNeglect(PLAIN, 0.9)):
        found = em.stability(games, user=user)
        solution = em.solve(games, em.Selection(), user, key=jax.random.key(4), starts=2)
        certificate = em.certify(games, solution.schemes, em.Selection(), user)
        perceived = em.payoffs(games, solution.schemes, em.Selection(), user).perceived
        total = certificate.gain_upper.sum(-1)
        checked = 0
        for n, start in itertools.product(range(count), range(2)):
            value, gap, _ = found.profile((n,))
            v = np.clip(certificate.user[start, n], value[0], value[-1])
            steep = np.abs(np.diff(gap) / np.maximum(np.diff(value), 1e-12)).max(initial=0)
            assert np.interp(v, value, gap) <= total[start, n] + 1e-6 * (1 + 3 * min(steep, 1e3))
            if total[start, n] <= 1e-9 and value[-1] - value[0] > 1e-6:
                checked += 1
                assert found.worst[n] - 1e-5 <= v <= found.best[n] + 1e-5
                room = 1e-4 * max(1.0, abs(found.perceived_best[n]))
                low, high = found.perceived_worst[n] - room, found.perceived_best[n] + room
                assert low <= perceived[start, n] <= high
        assert checked or family != "random"
