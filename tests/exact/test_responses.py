"""NumPy payoffs against plain recursion over messages, and against the JAX payoffs."""

import numpy as np
import pytest
from support import conversations as brute
from support.nightly import one_in

import emalign_jax as em
from emalign_jax.exact.responses import choose, pooled_payoffs, selection_table
from emalign_jax.protocols.standard_units import user_unit

pytestmark = pytest.mark.host_only

USERS = [
    em.QuantalUser(0.5),
    em.QuantalUser(40.0),
    em.RationalUser("agents"),
    em.RationalUser("lowest"),
    em.RationalUser("highest"),
    em.RationalUser("uniform"),
]
IDS = ["quantal0.5", "quantal40", "agents", "lowest", "highest", "uniform"]
# sums of a few hundred products of size 1, in another order; quantal distributions amplify rounding by the precision
ROUNDING = 1e-12


def random_game(seed, tied):
    """(prior, u, U, schemes), K = 2, XA = 2, XB = 3, Y = 3, A = 3, M = 3.

    tied: small whole numbers, so that the user is exactly indifferent at many messages, some of them never
    sent, and one x_B that never happens.
    """
    rng = np.random.default_rng(seed)
    if not tied:
        schemes = rng.dirichlet(np.ones(3), (2, 3))
        return rng.dirichlet(np.ones(18)).reshape(2, 3, 3), rng.normal(size=(3, 3)), rng.normal(size=(2, 3, 3)), schemes
    prior = rng.integers(0, 3, (2, 3, 3)).astype(float)
    prior[:, 2] = 0
    prior[0, 0, 0] += 1
    schemes = np.eye(3)[rng.integers(0, 2, (2, 3))]
    schemes[0, 0] = [0.5, 0.5, 0]
    u = rng.integers(0, 2, (3, 3)).astype(float)
    u[1] = u[0]  # two actions are always equally good for the user
    return prior / prior.sum(), u, rng.integers(0, 4, (2, 3, 3)).astype(float), schemes


def exact(game, schemes, protocol, user):
    reduced = em.reduce_game(game, np)
    if isinstance(protocol, em.Pooled):
        return pooled_payoffs(reduced, schemes, user)
    table = selection_table(reduced, schemes, user)
    chosen = choose(table.values, float(protocol.temperature), user_unit(reduced, user))
    return float(chosen @ table.values), table.payoffs @ chosen


PROTOCOLS = [em.Pooled(), em.Selection(), em.Selection(0.2)]
PROTOCOL_IDS = ["pooled", "selection", "selection0.2"]


@pytest.mark.parametrize("tied", [False, True], ids=["generic", "tied"])
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=PROTOCOL_IDS)
@pytest.mark.parametrize("user", USERS, ids=IDS)
def test_against_slow_loops(user, protocol, tied):
    for seed in range(6):
        prior, u, U, schemes = random_game(seed, tied)
        value, agents = exact(em.Game(prior, u, U), schemes, protocol, user)
        if isinstance(protocol, em.Pooled):
            slow = brute.pooled(em.Game(prior, u, U), schemes, user)
        else:
            slow = brute.selection(em.Game(prior, u, U), schemes, user, float(protocol.temperature))
        assert value == pytest.approx(slow[0], abs=ROUNDING)
        np.testing.assert_allclose(agents, slow[1], rtol=0, atol=ROUNDING)


@pytest.mark.slow
@pytest.mark.x64
@pytest.mark.parametrize("tied", [False, True], ids=["generic", "tied"])
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=PROTOCOL_IDS)
@pytest.mark.parametrize("user", one_in(2, USERS), ids=IDS)
def test_against_jax(user, protocol, tied):
    rows = [random_game(seed, tied) for seed in range(6)]
    games = em.Game(*(np.stack(x) for x in list(zip(*rows, strict=True))[:3]))
    schemes = np.stack([row[3] for row in rows])
    fast = em.payoffs(games, schemes, protocol, user)
    for k in range(len(rows)):
        value, agents = exact(games[k], schemes[k], protocol, user)
        assert float(fast.user[k]) == pytest.approx(value, abs=ROUNDING)
        np.testing.assert_allclose(fast.agents[k], agents, rtol=0, atol=ROUNDING)


def test_tie_rules_differ_where_they_should():
    """The user is always indifferent and agent i wants action i + 1, so every rule gives other payoffs, known here."""
    game = em.Game(np.full((1, 1, 1), 1.0), np.zeros((3, 1)), np.eye(3)[1:, :, None])
    silent = np.ones((2, 1, 1))
    expected = {"agents": [1, 1], "lowest": [0, 0], "highest": [0, 1], "uniform": [1 / 3, 1 / 3]}
    for ties, payoffs in expected.items():
        np.testing.assert_allclose(exact(game, silent, em.Pooled(), em.RationalUser(ties))[1], payoffs, atol=1e-15)
    # in Selection ties are broken for the holder (the lowest index of equals), in every agent's payoff
    np.testing.assert_array_equal(exact(game, silent, em.Selection(), em.RationalUser("agents"))[1], [1, 0])


def test_equal_values_go_to_the_lowest_index():
    # 1e-9 of the range is equal, 1e-7 is not
    np.testing.assert_array_equal(choose(np.array([0.2, 0.9 - 5e-10, 0.9]), 0.0, 1.0), [0, 1, 0])
    np.testing.assert_array_equal(choose(np.array([0.2, 0.9 - 1e-7, 0.9]), 0.0, 1.0), [0, 0, 1])
    np.testing.assert_allclose(choose(np.log([1.0, 2.0, 5.0]), 1.0, 1.0), [0.125, 0.25, 0.625], atol=1e-15)
