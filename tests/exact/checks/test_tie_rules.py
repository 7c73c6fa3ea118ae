"""Best responses under every tie rule, in Selection: the supremum by another route, and a scheme near it."""

import itertools

import numpy as np
import pytest
from support.games import switched

import emalign_jax as em
from emalign_jax.exact.checks.base import make_check
from emalign_jax.exact.obedience.recommendations import played

pytestmark = pytest.mark.host_only

TIES = ["agents", "lowest", "highest", "uniform"]
NEAR = 1e-5  # how far beside a kink brute force looks; what that costs is of this size


def response(ties, user, own):
    """What one agent gets at a belief, by the tie rule: user, own [A] expected utilities."""
    tied = np.flatnonzero(user >= user.max() - 1e-12)
    if ties == "uniform":
        return own[tied].mean()
    return {"agents": own[tied].max(), "lowest": own[tied[0]], "highest": own[tied[-1]]}[ties]


def brute_force(game, ties):
    """The supremum over schemes with two x_B and one x_A: the concave closure of what beliefs pay, at the prior."""
    _, g, G = (np.asarray(x)[0] if k < 2 else np.asarray(x)[0, 0] for k, x in enumerate(em.reduce_game(game, np)[:3]))
    prior = np.asarray(game.prior)[0].sum(-1)
    u, U = g / prior[:, None], G / prior[:, None]  # [XB, A]
    kinks = [0.0, 1.0, prior[1]]
    for a, b in itertools.combinations(range(u.shape[1]), 2):
        low, high = u[0, a] - u[0, b], u[1, a] - u[1, b]
        if low * high < 0:
            kinks.append(low / (low - high))
    beliefs = np.unique(np.clip(np.add.outer([-NEAR, 0, NEAR], kinks).ravel(), 0, 1))
    paid = np.array([response(ties, (1 - b) * u[0] + b * u[1], (1 - b) * U[0] + b * U[1]) for b in beliefs])
    best = -np.inf
    for (x, f), (y, h) in itertools.product(zip(beliefs, paid, strict=True), repeat=2):
        if x <= prior[1] <= y:
            share = 0.0 if x == y else (prior[1] - x) / (y - x)
            best = max(best, (1 - share) * f + share * h)
    return best


def games_with_ties(rng, count):
    """Small whole numbers; in some an action that is a copy of another one, or best at one belief only."""
    for n in range(count):
        A = int(rng.integers(2, 5))
        u, U = rng.integers(-2, 3, (A, 2)).astype(float), rng.integers(-3, 4, (1, A, 2)).astype(float)
        if n % 3 == 1:
            u[-1] = u[0]
        if n % 3 == 2 and A > 2:
            u[:3] = [[1, -1], [-1, 1], [0, 0]] if n % 2 else [[0, 0], [1, -1], [-1, 1]]
        share = rng.integers(1, 8)
        yield em.Game(np.diag([share / 8, 1 - share / 8])[None], u, U)


@pytest.mark.slow
@pytest.mark.parametrize("ties", TIES)
def test_the_supremum_of_one_agent(ties):
    rng = np.random.default_rng(5)
    user = em.RationalUser(ties)
    for game in games_with_ties(rng, 24):
        silent = np.ones((1, 2, 1))
        certificate = em.certify(game, silent, em.Selection(), user)
        best = em.best_response(game, silent, 0, em.Selection(), user)
        expected = brute_force(game, ties)
        spread = max(float(np.ptp(game.agent_utilities)), 1e-300)
        assert best.value == pytest.approx(expected, abs=20 * NEAR * spread)
        width = certificate.gain_upper[0] - certificate.gain_lower[0]
        assert 0 <= width <= 1e-6 * certificate.payoff_range[0] + 1e-15
        attained = em.certify(game, best.scheme[None], em.Selection(), user)
        assert attained.agents[0] >= best.value - 1e-6 * certificate.payoff_range[0] - 1e-12 * spread
        assert attained.gain_lower[0] <= 1e-6 * certificate.payoff_range[0] + 1e-12 * spread


@pytest.mark.slow
@pytest.mark.parametrize("ties", TIES)
def test_brackets_among_rivals_are_closed_and_no_scheme_beats_them(ties):
    rng = np.random.default_rng(6)
    user, protocol = em.RationalUser(ties), em.Selection()
    for XA, A in ((1, 3), (2, 3)):
        for whole in (True, False):
            draw = (lambda shape: rng.integers(-2, 3, shape).astype(float)) if whole else (lambda s: rng.normal(size=s))
            prior = rng.integers(0, 4, (XA, 3, 3)).astype(float)
            prior[0, 0, 0] += 1
            game = em.Game(prior / prior.sum(), draw((A, 3)), draw((2, A, 3)))
            schemes = rng.dirichlet(np.full(4, 0.4), (2, 3))
            certificate = em.certify(game, schemes, protocol, user)
            range_ = np.maximum(certificate.payoff_range, 1e-300)
            assert ((certificate.gain_upper - certificate.gain_lower) / range_ <= 1e-6).all()
            batch = em.Game(*(x[None] for x in (game.prior, game.user_utility, game.agent_utilities)))
            check = make_check(em.reduce_game(batch, np), 0, protocol, user)
            paid = lambda profile, check=check: check.form.agent_unit * check.payoffs(profile)[1]  # noqa: E731
            for i in range(2):
                best = em.best_response(game, schemes, i, protocol, user).scheme
                if ties == "agents":  # it may be worth the same to the user as a rival's: a supremum is approached
                    best = np.concatenate([(1 - 1e-7) * best, 1e-7 * np.eye(3)], 1)
                tries = [best, *np.eye(3)[rng.integers(0, 3, (30, 3))], *rng.dirichlet(np.full(4, 0.3), (30, 3))]
                gains = [(paid(switched(schemes, i, scheme)) - paid(schemes))[i] for scheme in tries]
                assert max(gains) <= certificate.gain_upper[i] + 1e-12
                assert gains[0] >= certificate.gain_lower[i] - 1e-6 * range_[i] - 1e-12


def test_which_recommendations_are_followed():
    """Action 2 is best at one belief only, where all three tie; action 3 is a copy of action 0."""
    u = np.array([[1.0, -1], [-1, 1], [0, 0], [1, -1]])
    game = em.reduce_game(em.Game(np.diag([0.5, 0.5])[None], u, np.zeros((1, 4, 2))), np)
    sets = {ties: {tuple(np.flatnonzero(s[0])) for s in played(game, em.RationalUser(ties))} for ties in TIES}
    assert sets["agents"] == {(0,), (1,), (2,), (3,)}
    assert sets["lowest"] == {(0,), (1,)}
    assert sets["highest"] == {(3,), (1,)}
    assert sets["uniform"] == {(1,), (0, 3), (0, 1, 2, 3)}


@pytest.mark.slow
@pytest.mark.parametrize("ties", TIES[1:])
def test_batched_brackets_are_those_of_highs(ties):
    rng = np.random.default_rng(7)
    prior = rng.dirichlet(np.ones(9), 6).reshape(6, 1, 3, 3)
    games = em.Game(prior, rng.integers(-2, 3, (6, 3, 3)).astype(float), rng.normal(size=(6, 2, 3, 3)))
    schemes = rng.dirichlet(np.full(4, 0.4), (6, 2, 3))
    words = em.Selection(), em.RationalUser(ties)
    one, other = (em.certify(games, schemes, *words, lp=lp) for lp in ("batched", "highs"))
    for name in ("gain_lower", "gain_upper", "payoff_range"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-8)
    np.testing.assert_array_equal(one.result, other.result)


TIED = {  # prior, user's utility, an agent's utility; the other agent wants the opposite
    "two actions tie at one x_B, where the agent wants the one that the rule does not take": (
        [[4, 2, 3], [0, 2, 1], [2, 1, 0]],
        [[2, -1, 0], [-2, 1, 2], [0, 2, 0]],
        [[2, 2, 0], [0, -2, 2], [-1, 1, 0]],
    ),
    "all tie at two x_B, where a set of actions is played": (
        [[2, 0, 3], [0, 0, 1], [1, 2, 1]],
        [[0, 0, 0], [2, -1, 0], [0, 0, 0]],
        [[2, 2, -1], [0, 1, -1], [-1, -2, 0]],
    ),
    "at V_full a tie is broken at a cost to the user": (
        [[2, 1, 0], [0, 2, 0], [2, 2, 3]],
        [[1, -1, 0], [0, -1, 2], [1, -1, -2]],
        [[0, 1, 0], [0, 0, -1], [-2, -1, -2]],
    ),
    "at V_full a tie is broken for nothing": (
        [[1, 2, 2], [3, 3, 1], [1, 3, 2]],
        [[2, -2, 2], [0, -2, 1], [0, 1, -1]],
        [[-1, 1, 2], [-1, 1, -2], [-2, 0, -2]],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("lp", ["highs", "batched"])
@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("name", TIED)
def test_where_actions_tie_in_whole_cells(name, ties, lp):
    prior, u, own = (np.array(x, float) for x in TIED[name])
    game = em.Game(prior[None] / prior.sum(), u, np.stack([own, -own]))
    user, protocol = em.RationalUser(ties), em.Selection()
    for schemes in (em.full_revelation(2, 3, 3), em.no_information(2, 3, 3)):
        certificate = em.certify(game, schemes, protocol, user, lp=lp)
        width = certificate.gain_upper - certificate.gain_lower
        assert (width <= 1e-6 * certificate.payoff_range).all()
        if ties == "agents":
            continue
        for i in range(2):
            best = em.best_response(game, schemes, i, protocol, user)
            paid = em.certify(game, switched(schemes, i, best.scheme), protocol, user).agents[i]
            least = certificate.agents[i] + certificate.gain_lower[i]
            assert paid >= least - 1e-6 * certificate.payoff_range[i] - 1e-12
