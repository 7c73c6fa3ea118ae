"""The catalogue: soundness of every game, and numbers that can be worked out by hand."""

import jax
import numpy as np
import pytest
from scipy.optimize import linprog

import emalign_jax as em
from emalign_jax.games import catalog
from emalign_jax.games.game import faults

ATOL = 1e-6  # float32 in one of the two modes; the numbers are of size 1


compiled = jax.jit(em.payoffs)


def value(game, schemes, protocol=None, user=None):
    got = compiled(game, schemes, protocol or em.Pooled(), user or em.RationalUser())
    return float(got.user), np.asarray(got.agents, float)


def informed(game, **how):
    return value(game, em.full_revelation(game.agents, game.agent_features, game.agent_features), **how)


def silent(game, **how):
    return value(game, em.no_information(game.agents, game.agent_features, 1), **how)


@pytest.mark.slow
@pytest.mark.parametrize("name", catalog.GAMES)
def test_every_game_is_sound(name):
    game = catalog.GAMES[name]()
    assert faults(game)[()] == ""
    assert game.batch_shape == ()
    if name != "what_to_ask":  # there y depends on x_A too
        assert game.user_features == 1
        assert game.agent_features == game.outcomes
        np.testing.assert_array_equal(game.prior[0], np.diag(np.diagonal(game.prior[0])))  # the agents see y
    assert catalog.GAMES[name] is getattr(catalog, name)
    assert informed(game)[0] > silent(game)[0] + 0.01  # information is worth something in all of them


@pytest.mark.slow
@pytest.mark.parametrize(
    ("game", "full", "none"),
    [
        (catalog.judge(), 1, 0.7),
        (catalog.judge(0.45), 1, 0.55),
        (catalog.two_prosecutors(), 1, 0.7),
        (catalog.prosecutor_against_defender(), 1, 0.7),
        (catalog.biased_advisers(), 1, 0.7),
        (catalog.investment(), 0.25, 0),  # the user earns .5 with probability 1/2
        (catalog.investment(0.2), 0.1, 0),
        (catalog.lobbying(), 0, -0.125),  # the variance of y
        (catalog.pharma_market(), 0.32, 0),  # (1 - .6 * .6) * (1 - .5)
        (catalog.few_messages(), 1, 0.5),
        (catalog.cautious_advisers(), 3, 0),
        (catalog.what_to_ask(), 1, 0.5),
        (catalog.what_to_ask(bits=2, agents=3), 1, 0.5),
        (catalog.informants(), 0.5, 0),
    ],
)
@pytest.mark.parametrize("protocol", [em.Pooled(), em.Selection()], ids=["pooled", "selection"])
def test_what_information_is_worth(game, full, none, protocol):
    np.testing.assert_allclose(informed(game, protocol=protocol)[0], full, atol=ATOL)
    np.testing.assert_allclose(silent(game, protocol=protocol)[0], none, atol=ATOL)


@pytest.mark.parametrize("prior", [0.3, 0.1, 0.45])
def test_the_prosecutor_doubles_the_prior(prior):
    # beliefs {0, 1/2}: the innocent are accused with probability prior / (1 - prior)
    accuse = prior / (1 - prior)
    scheme = np.array([[[1 - accuse, accuse], [0, 1]]])
    for protocol in (em.Pooled(), em.Selection()):
        user, (agent,) = value(catalog.judge(prior), scheme, protocol)
        np.testing.assert_allclose([user, agent], [1 - prior, 2 * prior], atol=ATOL)
    # ties against the prosecutor leave it nothing
    assert value(catalog.judge(prior), scheme, user=em.RationalUser("lowest"))[1] == 0


@pytest.mark.slow
def test_prosecutors_together_offer_the_monopolists_scheme():
    game = catalog.judge(0.3, prosecutors=3)
    schemes = np.repeat(np.array([[[4 / 7, 3 / 7], [0, 1]]]), 3, axis=0)
    user, agents = value(game, schemes, em.Selection())
    np.testing.assert_allclose([user, *agents], [0.7, 0.6, 0.6, 0.6], atol=ATOL)
    certificate = em.certify(game, schemes, em.Selection(), em.RationalUser())
    assert certificate.gain_upper.max() < 1e-6
    np.testing.assert_allclose([certificate.full_information, certificate.no_information], [1, 0.7], atol=1e-9)


def test_two_prosecutors_are_identical():
    game = catalog.two_prosecutors()
    np.testing.assert_array_equal(game.agent_utilities[0], game.agent_utilities[1])
    assert game.agents == 2


def test_biased_advisers_hold_the_user_up_to_a_constant():
    game = catalog.biased_advisers(bias=0.8)
    np.testing.assert_allclose(game.agent_utilities.mean(0) - 0.4, game.user_utility, atol=1e-15)


def test_prosecutor_and_defender_miss_the_user_by_one_half():
    game = catalog.prosecutor_against_defender()
    np.testing.assert_array_equal(game.agent_utilities.sum(0), 1)
    # min eps over w >= 0 and c(y) of max |sum_i w_i U_i + c - u|
    rows, target = [], []
    for a, y in np.ndindex(2, 2):
        row = [*game.agent_utilities[:, a, y], *np.eye(2)[y]]
        rows += [[*row, -1], [*(-x for x in row), -1]]
        target += [game.user_utility[a, y], -game.user_utility[a, y]]
    found = linprog([0, 0, 0, 0, 1], A_ub=rows, b_ub=target, bounds=[(0, None)] * 2 + [(None, None)] * 2 + [(0, None)])
    np.testing.assert_allclose(found.fun, 0.5, atol=1e-9)


@pytest.mark.parametrize("return_", [0.5, 0.25])
def test_the_government_gets_its_investment(return_):
    # bad news is hidden with the probability that leaves the firm indifferent
    scheme = np.array([[[1 - return_, return_], [0, 1]]])
    user, (government,) = value(catalog.investment(return_), scheme)
    np.testing.assert_allclose([user, government], [0, (1 + return_) / 2], atol=ATOL)


@pytest.mark.parametrize("share", [0.75, 0.25])
def test_the_lobbyist_discloses_if_it_mostly_agrees(share):
    game = catalog.lobbying(share)
    full, none = informed(game)[1][0], silent(game)[1][0]
    # E(1 - y)^2 = 3/8 on the grid; without information the user plays 1/2
    np.testing.assert_allclose(full, -((1 - share) ** 2) * 3 / 8, atol=ATOL)
    y = np.linspace(0, 1, 5)
    np.testing.assert_allclose(none, -np.mean((0.5 - share * y - 1 + share) ** 2), atol=ATOL)
    assert (full > none) == (share > 0.5)


@pytest.mark.slow
def test_informed_patients_take_a_drug_that_works():
    game = catalog.pharma_market(quality=0.4, price=0.5)
    np.testing.assert_allclose(informed(game, user=em.RationalUser("lowest"))[1], [0.4, 0.24], atol=ATOL)
    np.testing.assert_allclose(informed(game, user=em.RationalUser("uniform"))[1], [0.32, 0.32], atol=ATOL)
    np.testing.assert_allclose(informed(game)[1], [0.4, 0.4], atol=ATOL)  # each agent's payoff has ties in its favour
    np.testing.assert_allclose(silent(game)[1], 0, atol=ATOL)


def test_two_bits_together_say_everything():
    game = catalog.few_messages()
    high, low = np.eye(2)[[0, 0, 1, 1]], np.eye(2)[[0, 1, 0, 1]]
    np.testing.assert_allclose(value(game, np.stack([high, low]))[0], 1, atol=ATOL)


@pytest.mark.slow
def test_aligned_agents_with_one_bit_can_be_stuck():
    """One names outcome 0, the other outcome 1: .75, and no change of one agent's bit does better."""
    game = catalog.few_messages()
    names = [np.eye(2)[(np.arange(4) == y).astype(int)] for y in (0, 1)]
    np.testing.assert_allclose(value(game, np.stack(names))[0], 0.75, atol=ATOL)
    # an aligned agent's payoff is convex in its scheme, so the deterministic ones are enough
    bits = np.array([np.eye(2)[[n >> y & 1 for y in range(4)]] for n in range(16)])
    first = np.stack([bits, np.broadcast_to(names[1], bits.shape)], axis=1)
    second = np.stack([np.broadcast_to(names[0], bits.shape), bits], axis=1)
    games = jax.tree.map(lambda x: np.stack([x] * 16), game)
    for profiles in (first, second):
        best = np.asarray(compiled(games, profiles, em.Pooled(), em.RationalUser()).user).max()
        np.testing.assert_allclose(best, 0.75, atol=ATOL)
    # one bit alone, against silence: naming one outcome, 1/4 * 1 + 3/4 * 1/2
    alone = np.stack([bits, np.broadcast_to(em.no_information(1, 4, 2)[0], bits.shape)], axis=1)
    best = np.asarray(compiled(games, alone, em.Pooled(), em.RationalUser()).user).max()
    np.testing.assert_allclose(best, 0.625, atol=ATOL)


def test_arguments_pass_through():
    assert catalog.judge(0.2).prior[0, 1, 1] == 0.2
    assert catalog.few_messages(agents=3).agents == 3
    with pytest.raises(ValueError, match=r"^prior: expected a number in \[0, 1\], got 1.5"):
        catalog.judge(1.5)
