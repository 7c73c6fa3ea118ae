"""NumPy payoffs against slow loops written from docs/model.md alone, and against the JAX payoffs."""

import itertools
import math

import numpy as np
import pytest
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
# sums of a few hundred products of size 1, in another order; quantal laws amplify rounding by the precision
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
    u[1] = u[0]  # two actions of equal worth to her always
    return prior / prior.sum(), u, rng.integers(0, 4, (2, 3, 3)).astype(float), schemes


def law(user, expected, favour):
    """Her law over actions at posterior expected utilities `expected` (a list)."""
    if isinstance(user, em.QuantalUser):
        powers = [math.exp(float(user.precision) * (e - max(expected))) for e in expected]
        return [x / sum(powers) for x in powers]
    best = [a for a, e in enumerate(expected) if e > max(expected) - 1e-6]
    if user.ties == "uniform":
        return [(a in best) / len(best) for a in range(len(expected))]
    if user.ties == "agents":  # of those that are equally good for the agent too, the lowest
        best = [a for a in best if favour[a] > max(favour[b] for b in best) - 1e-9]
    chosen = max(best) if user.ties == "highest" else min(best)
    return [float(a == chosen) for a in range(len(expected))]


def slow_talk(prior, u, payoffs, channels, user, favoured):
    """Play out every (x_A, messages): her value and each payoff table's, ties in favour of table `favoured`.

    channels: the schemes whose messages she sees.
    """
    XA, XB, Y = prior.shape
    value, totals = 0.0, [0.0] * len(payoffs)
    for xa in range(XA):
        for messages in itertools.product(*(range(c.shape[1]) for c in channels)):
            weight = {
                (xb, y): prior[xa, xb, y] * math.prod(c[xb, s] for c, s in zip(channels, messages, strict=True))
                for xb in range(XB)
                for y in range(Y)
            }
            sent = sum(weight.values())
            if sent == 0:
                continue

            def mean(table, weight=weight, sent=sent):
                return [sum(w * table[a, y] for (_, y), w in weight.items()) / sent for a in range(len(u))]

            expected = mean(u)
            tables = [mean(table) for table in payoffs]
            choice = law(user, expected, tables[favoured])
            value += sent * sum(p * e for p, e in zip(choice, expected, strict=True))
            for i, table in enumerate(tables):
                totals[i] += sent * sum(p * e for p, e in zip(choice, table, strict=True))
    return value, totals


def slow_pooled(prior, u, U, schemes, user):
    own = [slow_talk(prior, u, U, list(schemes), user, i) for i in range(len(U))]
    return own[0][0], [totals[i] for i, (_, totals) in enumerate(own)]


def slow_selection(prior, u, U, schemes, user, temperature):
    talks = [slow_talk(prior, u, U, [scheme], user, j) for j, scheme in enumerate(schemes)]
    values = [value for value, _ in talks]
    if temperature > 0:
        powers = [math.exp((v - max(values)) / temperature) for v in values]
        chosen = [x / sum(powers) for x in powers]
    else:
        holder = next(j for j, v in enumerate(values) if v > max(values) - 1e-9)
        chosen = [float(j == holder) for j in range(len(values))]
    total = sum(s * v for s, v in zip(chosen, values, strict=True))
    return total, [sum(s * talk[1][i] for s, talk in zip(chosen, talks, strict=True)) for i in range(len(U))]


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
            slow_value, slow_agents = slow_pooled(prior, u, U, schemes, user)
        else:
            slow_value, slow_agents = slow_selection(prior, u, U, schemes, user, float(protocol.temperature))
        assert value == pytest.approx(slow_value, abs=ROUNDING)
        np.testing.assert_allclose(agents, slow_agents, rtol=0, atol=ROUNDING)


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
    """She is indifferent always; agent i wants action i: every rule gives another, known, answer."""
    game = em.Game(np.full((1, 1, 1), 1.0), np.zeros((3, 1)), np.eye(3)[1:, :, None])
    silent = np.ones((2, 1, 1))
    expected = {"agents": [1, 1], "lowest": [0, 0], "highest": [0, 1], "uniform": [1 / 3, 1 / 3]}
    for ties, payoffs in expected.items():
        np.testing.assert_allclose(exact(game, silent, em.Pooled(), em.RationalUser(ties))[1], payoffs, atol=1e-15)
    # in Selection the holder (lowest index of equals) has the tie, for everybody
    np.testing.assert_array_equal(exact(game, silent, em.Selection(), em.RationalUser("agents"))[1], [1, 0])


def test_equal_values_go_to_the_lowest_index():
    # 1e-9 of the range is equal, 1e-7 is not
    np.testing.assert_array_equal(choose(np.array([0.2, 0.9 - 5e-10, 0.9]), 0.0, 1.0), [0, 1, 0])
    np.testing.assert_array_equal(choose(np.array([0.2, 0.9 - 1e-7, 0.9]), 0.0, 1.0), [0, 0, 1])
    np.testing.assert_allclose(choose(np.log([1.0, 2.0, 5.0]), 1.0, 1.0), [0.125, 0.25, 0.625], atol=1e-15)
