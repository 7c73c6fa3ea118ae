"""Best responses in Selection with a quantal user: brackets, brute force, payoffs by two other routes."""

import itertools

import numpy as np
import pytest
from support import conversations as brute
from support.games import check, deterministic, random_game, switched

import emalign_jax as em
from emalign_jax.exact.checks.soft_bound import soft_bound

pytestmark = pytest.mark.host_only

USER = em.QuantalUser(8.0)


def by_hand(game, scheme, agent, precision):
    """What the user and the agent get under one scheme."""
    value, agents = brute.pooled(game, scheme[None], em.QuantalUser(precision))
    return value, agents[agent]


def candidates(rng, XB, count, found):
    """Deterministic, random with many messages, nearly pure, mixtures with full revelation and what was found."""
    yield from deterministic(XB, XB)
    for k in range(count):
        scheme = rng.dirichlet(np.full(int(rng.integers(2, 8)), 10.0 ** rng.uniform(-2, 1)), XB)
        yield scheme
        share = rng.uniform() ** 3
        yield np.concatenate([(1 - share) * found, share * (np.eye(XB) if k % 2 else scheme)], axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, pytest.param(0.02, marks=pytest.mark.nightly), 0.3])
@pytest.mark.parametrize(("seed", "XA"), [(0, 2), pytest.param(1, 1, marks=pytest.mark.nightly)])
def test_brackets_close_and_nothing_beats_them(seed, XA, temperature):
    rng = np.random.default_rng([seed, XA])
    game = random_game(seed, K=2 + seed, XA=XA, matching=1.5)
    exact = check(game, em.Selection(temperature), USER)
    for purity in (1.0, 0.02):
        schemes = rng.dirichlet(np.full(3, purity), (game.agents, 3))
        for i in range(game.agents):
            found = em.best_response(game, schemes, i, em.Selection(temperature), USER)
            assert found.closed
            assert found.result == em.Result.CERTIFIED
            attained = brute.selection(game, switched(schemes, i, found.scheme), USER, temperature)[1][i]
            assert attained == pytest.approx(found.value, abs=1e-10)
            tried = [exact._switch(schemes, i, s) for s in candidates(rng, 3, 25, found.scheme)]
            assert max(tried) <= found.upper + 1e-10
            assert found.value >= max(tried) - 1.1e-4 * exact.payoff_range[i] - 1e-8


@pytest.mark.slow
@pytest.mark.x64
@pytest.mark.parametrize(("seed", "temperature"), [(0, 0.0), (1, 0.1)])
def test_the_value_is_what_play_pays(seed, temperature):
    """Through `em.payoffs`, which shares no code with the check."""
    game = random_game(seed, K=3, XA=2, matching=1.5)
    schemes = np.random.default_rng(seed).dirichlet(np.ones(3), (3, 3))
    for i in range(3):
        found = em.best_response(game, schemes, i, em.Selection(temperature), USER)
        paid = em.payoffs(game, switched(schemes, i, found.scheme), em.Selection(temperature), USER)
        assert float(paid.agents[i]) == pytest.approx(found.value, abs=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(2))
def test_two_features_against_a_grid_of_schemes(seed, temperature):
    """Every pair of beliefs of a fine grid that averages to the prior, and every mixture of three: V and O from the
    game's own arrays. Three messages suffice (XB, and one for the user's value), so a fine grid is nearly optimal."""
    game = random_game(seed, K=2, XB=2, matching=1.5)
    rng = np.random.default_rng(seed)
    schemes = rng.dirichlet(np.ones(2), (2, 2))
    share = game.prior.sum((0, 2))
    rival, under_rival = by_hand(game, schemes[1], 0, 8.0)
    points = np.union1d(np.linspace(0, 1, 61), share[1:])
    paid = [by_hand(game, np.array([[(1 - x) / share[0]], [x / share[1]]]), 0, 8.0) for x in points]
    V, O = np.array(paid).T  # noqa: E741  # of a message with unit mass
    best = -np.inf
    at = share[1]
    for a, b in itertools.combinations(range(len(points)), 2):
        if not points[a] <= at <= points[b]:
            continue
        w = (points[b] - at) / (points[b] - points[a])
        pair = w * V[a] + (1 - w) * V[b], w * O[a] + (1 - w) * O[b]
        for mix in np.linspace(0, 1, 21):  # with silence, the third message
            k = int(np.searchsorted(points, at))
            value, own = mix * pair[0] + (1 - mix) * V[k], mix * pair[1] + (1 - mix) * O[k]
            if temperature == 0:
                chance = float(value > rival + 1e-12)
            else:
                chance = 1 / (1 + np.exp(min((rival - value) / temperature, 700)))
            best = max(best, chance * own + (1 - chance) * under_rival)
    found = em.best_response(game, schemes, 0, em.Selection(temperature), USER)
    assert best <= found.upper + 1e-9
    assert best >= found.value - 0.05 * np.ptp(O)  # the grid is coarse: the bound is not vacuous


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.2])
def test_one_agent_is_a_monopolist(temperature):
    for seed in range(3):
        game = random_game(seed, K=1, matching=1.5)
        alone = em.best_response(game, np.full((1, 3, 2), 0.5), 0, em.Pooled(), USER)
        found = em.best_response(game, np.full((1, 3, 2), 0.5), 0, em.Selection(temperature), USER)
        assert found.closed
        assert found.value == pytest.approx(alone.value, abs=1e-7)
        assert by_hand(game, found.scheme, 0, 8.0)[1] == pytest.approx(found.value, abs=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.1])
def test_equal_agents_gain_alike(temperature):
    game = random_game(1, K=1, matching=1.5)
    twice = em.Game(game.prior, game.user_utility, np.repeat(game.agent_utilities, 2, 0))
    scheme = np.random.default_rng(0).dirichlet(np.ones(3), 3)
    found = [em.best_response(twice, np.stack([scheme] * 2), i, em.Selection(temperature), USER) for i in range(2)]
    assert found[0].value == pytest.approx(found[1].value, abs=1e-5)
    for one in found:
        assert one.closed
        assert max(f.value for f in found) <= one.upper + 1e-6


@pytest.mark.parametrize("temperature", [0.0, 0.1])
def test_an_agent_who_does_not_care(temperature):
    game = random_game(2, matching=1.5)
    own = np.array(game.agent_utilities)
    own[0] = np.array([0.3, -1.0, 2.0])  # the agent's utility depends on the state alone
    game = em.Game(game.prior, game.user_utility, own)
    schemes = np.random.default_rng(0).dirichlet(np.ones(3), (2, 3))
    found = em.best_response(game, schemes, 0, em.Selection(temperature), USER)
    paid = float(game.prior.sum((0, 1)) @ own[0, 0])
    assert found.value == pytest.approx(paid, abs=1e-9)
    assert found.upper == pytest.approx(paid, abs=1e-6)
    assert found.closed


def matching_game():
    """The user matches the state; full revelation is worth most here, which need not hold for a quantal user."""
    return em.Game(np.eye(3)[None] / 3, np.eye(3), np.stack([np.eye(3)[::-1], np.eye(3)]))


@pytest.mark.slow
@pytest.mark.parametrize("holder", [0, 1])
def test_a_rival_that_cannot_be_outbid(holder):
    """Full revelation is worth most to the user here, so another agent is picked only by a tie and a lower index."""
    game = matching_game()
    schemes = em.no_information(2, 3, 3)
    schemes[holder] = np.eye(3)
    other = 1 - holder
    found = em.best_response(game, schemes, other, em.Selection(), USER)
    assert found.closed
    under = by_hand(game, np.eye(3), other, 8.0)[1]
    # an agent that takes over must reveal too, and so is paid the same, up to 1e-7 of the user's range
    assert found.value == pytest.approx(under, abs=1e-6)
    assert found.upper == pytest.approx(under, abs=1e-4)
    assert found.upper >= under - 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(2))
def test_a_rival_at_full_information(seed, temperature):
    """For a quantal user another scheme may be worth more than full revelation."""
    game = random_game(seed, matching=1.5)
    schemes = np.random.default_rng(seed).dirichlet(np.ones(3), (2, 3))
    schemes[1] = np.eye(3)
    exact = check(game, em.Selection(temperature), USER)
    found = em.best_response(game, schemes, 0, em.Selection(temperature), USER)
    assert found.closed
    rng = np.random.default_rng(seed)
    tried = [exact._switch(schemes, 0, s) for s in candidates(rng, 3, 60, found.scheme)]
    assert max(tried) <= found.upper + 1e-10


def test_an_agent_may_prefer_that_the_rival_is_picked():
    """Agent 0 is paid more under the rival's scheme than under any scheme with which it would be picked."""
    prior = np.diag([0.5, 0.5])[None]
    own = np.array([[[0.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, 1.0]]])
    game = em.Game(prior, np.array([[1.0, 0.0], [0.0, 1.2]]), own)
    mild = np.array([[0.6, 0.4], [0.0, 1.0]])
    user = em.QuantalUser(4.0)
    schemes = np.stack([np.eye(2), mild])
    found = em.best_response(game, schemes, 0, em.Selection(), user)
    under = by_hand(game, mild, 0, 4.0)[1]
    silent = em.best_response(game, np.stack([np.ones((2, 1)), np.ones((2, 1))]), 0, em.Selection(), user)
    attained = brute.selection(game, switched(schemes, 0, found.scheme), user)[1][0]
    assert attained == pytest.approx(found.value, abs=1e-12)
    assert found.value >= under - 1e-9
    assert found.closed
    assert silent.closed
    lost = switched(schemes, 0, np.ones((2, 1)))  # a silent agent 0 is not picked
    assert brute.selection(game, lost, user, 0.0)[1][0] == pytest.approx(under, abs=1e-12)


def soft_grid(lines, base, shift, tau, low, high, count=400_001):
    v = np.linspace(low, high, count)
    most = (lines[:, :1] - lines[:, 1:] * v).min(0)
    return float((base + (most - base) / (1 + np.exp(np.minimum((shift - v) / tau, 700)))).max())


@pytest.mark.parametrize("tau", [1e-6, 1e-3, 0.05, 1.0, 100.0])
@pytest.mark.parametrize("seed", range(6))
def test_soft_bound_against_a_grid(seed, tau):
    rng = np.random.default_rng(seed)
    low = rng.normal()
    high = low + 10.0 ** rng.uniform(-3, 1)
    worth = rng.normal(size=int(rng.integers(1, 6))) * 3
    lines = np.stack([rng.normal(size=len(worth)) + worth * rng.uniform(low, high, len(worth)), worth], axis=1)
    for base in (-5.0, 0.0, 5.0):
        for shift in (low - 1, (low + high) / 2, high + 0.1):
            for width in (1e-3, 1e-7):
                at, upper = soft_bound(lines, base, shift, tau, low, high, width)
                truth = soft_grid(lines, base, shift, tau, low, high, 20_001)
                assert low <= at <= high
                assert upper >= truth - 1e-12
                reached = soft_grid(lines, base, shift, tau, at, at, 1)
                assert upper <= reached + width + 1e-9
                assert reached <= upper + 1e-12


def test_soft_bound_on_one_value():
    at, upper = soft_bound(np.array([[1.0, 0.0]]), 0.0, 2.0, 0.5, 2.0, 2.0, 1e-6)
    assert at == 2
    assert upper == pytest.approx(0.5, abs=1e-12)
