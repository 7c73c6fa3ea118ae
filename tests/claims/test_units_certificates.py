"""Certificates where payoffs are of very different sizes, tied, or nothing, against brute force and closed forms."""

import jax
import numpy as np
import pytest
from support.games import batch_of
from support.nightly import one_in

import emalign_jax as em

pytestmark = pytest.mark.host_only

SELECTION, RATIONAL = em.Selection(), em.RationalUser()
DISASTERS = [-1.0, -30.0, -3e4, -1e6, -1e9, -1e30, -1e99]


def diagonal(*shares):
    """The agents know the outcome, the user nothing."""
    return np.diag(shares)[None]


def ordinary(seed, XB=1, Y=4, A=2):
    rng = np.random.default_rng(seed)
    return em.Game(
        rng.dirichlet(np.ones(XB * Y)).reshape(1, XB, Y), rng.normal(size=(A, Y)), rng.normal(size=(2, A, Y))
    )


# games with an indifferent player. In floats .1 + .2 - .3 is not 0; utilities of impossible outcomes and offsets by
# outcome are no differences either
ODD = np.array([0.1, 0.2, 0.3, 0.4])
CARES = np.array([[0.0, 1, 0, 2], [1, 0, 1, 0]])
NOT = np.array([[1.0, 1, 0, 0], [0, 0, 1, 0]])
INDIFFERENT = {
    "both in expectation": (ODD, NOT, [NOT, NOT]),
    "an agent in expectation": (ODD, CARES, [CARES, NOT]),
    "the user in expectation": (ODD, NOT, [CARES, 1 - CARES]),
    "large payoffs": (ODD, 1e12 * NOT, [1e12 * CARES, 1e12 * NOT]),
    "small payoffs": (ODD, 1e-12 * NOT, [1e-12 * CARES, 1e-12 * NOT]),
    "huge where it is impossible": (np.array([0.1, 0.2, 0.7, 0]), NOT + [0, 0, 0, 1e90] * CARES, [CARES, 1e90 * CARES]),
    "huge offsets": (ODD, NOT + 1e15, [CARES, NOT * 0 + [1e15, -1e15, 3, 7]]),
}


@pytest.mark.parametrize(
    "setting",
    one_in(2, [
        (SELECTION, RATIONAL), (em.Pooled(), RATIONAL), (SELECTION, em.RationalUser("uniform")),
        (em.Pooled(), em.QuantalUser(3.0)), (em.Selection(0.1), em.QuantalUser(3.0)),
        (em.Conversation(2, 2), em.RationalUser("lowest")), (em.Comparison(1), RATIONAL),
    ]),
)  # fmt: skip
def test_who_is_indifferent_costs_no_other_game(setting):
    protocol, user = setting
    odd = [em.Game(p[None, None], u, np.array(U, float)) for p, u, U in INDIFFERENT.values()]
    usual = [ordinary(seed) for seed in range(3)]
    games = batch_of([usual[0], *odd, *usual[1:]])
    rows = protocol.rows(games, 2)
    silent = np.zeros((2, rows, 2))
    silent[:, :, 0] = 1
    found = em.certify(games, silent, protocol, user)
    alone = em.certify(batch_of(usual), silent, protocol, user)
    kept = [0, len(games) - 2, len(games) - 1]
    np.testing.assert_array_equal(found.result[kept], alone.result)
    np.testing.assert_allclose(found.gain_upper[kept], alone.gain_upper, atol=1e-12)
    # there is nothing to tell (XB = 1), so nothing can be gained (which a relaxation may not know)
    proved = em.Result.UNREFUTED if isinstance(protocol, em.Conversation) else em.Result.CERTIFIED
    assert (found.result <= proved).all()
    assert (found.relative_gain == 0).all()
    if protocol is SELECTION and user is RATIONAL:
        assert (em.stability(games).result == em.Result.CERTIFIED).all()


@pytest.mark.slow
@pytest.mark.x64
def test_an_indifferent_user_is_not_decided_by_noise():
    """The tie rule decides, the same in payoffs and certificates."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        tenths = rng.integers(1, 6, (4, 2))
        left, right = tenths[:, 0] / 10, tenths[:, 1] / 10  # probabilities, and what two actions share out
        whole = left.sum() + right.sum()
        prior = np.concatenate([left, right, left + right])[None, None] / (2 * whole)
        u = np.array([[1.0] * 8 + [0] * 4, [0.0] * 8 + [1] * 4])
        U = rng.normal(size=(2, 2, 12))
        schemes = rng.dirichlet(np.ones(3), (2, 1))
        game = em.Game(prior, u, U)
        for ties, first in (("lowest", 0), ("highest", 1)):
            user = em.RationalUser(ties)
            expected = (prior[0, 0] * U[:, first]).sum(-1)
            for protocol in (SELECTION, em.Pooled()):
                np.testing.assert_allclose(em.certify(game, schemes, protocol, user).agents, expected, atol=1e-12)
                np.testing.assert_allclose(em.payoffs(game, schemes, protocol, user).agents, expected, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("bad", DISASTERS)
@pytest.mark.parametrize("protocol", [em.Pooled(), em.Conversation(1, 1), SELECTION])
def test_a_disaster_that_is_never_taken_hides_no_gain(protocol, bad):
    """The agent wants action 1, which the user takes from a belief of 1/2 on: at the prior .3 with probability .6.

    Action 2 is a disaster in every state; it once made all other actions look tied."""
    game = em.Game(
        diagonal(0.7, 0.3),
        np.array([[0.0, 0], [-1, 1], [bad, bad]]),
        np.array([[[0.0, 0], [1, 1], [0, 0]], np.zeros((3, 2))]),
    )
    silent = np.zeros((2, 2, 2))
    silent[:, :, 0] = 1
    before = em.certify(game, silent, protocol, RATIONAL)
    np.testing.assert_allclose(before.gain_lower, [0.6, 0], atol=1e-6)
    np.testing.assert_allclose(before.payoff_range, [0.6, 0], atol=1e-6)
    best = em.best_response(game, silent, 0, protocol, RATIONAL)
    assert best.value == pytest.approx(0.6, abs=1e-6)
    profile = silent.copy()
    profile[0, :, : best.scheme.shape[1]] = best.scheme
    after = em.certify(game, profile, protocol, RATIONAL)
    assert after.result == em.Result.CERTIFIED
    assert after.user == pytest.approx(0, abs=1e-6)
    # all schemes of two messages, on a grid, and around the one that once gained
    steps = np.concatenate([np.linspace(0, 1, 21), 0.45508 + np.linspace(-1e-2, 1e-2, 5)])
    first, second = (x.ravel() for x in np.meshgrid(steps, steps))
    tried = np.broadcast_to(profile, (len(first), 2, 2, 2)).copy()
    tried[:, 0] = np.stack([first, 1 - first, second, 1 - second], -1).reshape(-1, 2, 2)
    with jax.enable_x64(True):
        gains = np.asarray(em.payoffs(game, tried, protocol, RATIONAL).agents)[:, 0] - float(after.agents[0])
    assert gains.max() <= after.gain_upper[0] + 1e-6


RARE = [10.0**-k for k in range(3, 10)]


@pytest.mark.slow
@pytest.mark.parametrize("rare", RARE)
def test_a_rare_catastrophe_changes_no_verdict(rare):
    """Two agents want action 1 always; in a rare state it is a catastrophe, and the user is told of it or not at all.

    stability, certify and full revelation must say the same of V_full, and every equilibrium value that stability
    names must be one to certify: both agents offer what is best for them at that value."""
    prior = diagonal(0.5 - rare / 2, 0.5 - rare / 2, rare)
    game = em.Game(prior, [[1.0, 0, 0], [0, 1, -1e6]], np.array([[[0.0, 0, 0], [1, 1, 1]]] * 2))
    stability = em.stability(game)
    told = em.certify(game, em.full_revelation(2, 3, 3), SELECTION, RATIONAL)
    full = 1 - rare
    assert told.full_information == pytest.approx(full, abs=1e-9)
    assert stability.full_information == pytest.approx(full, abs=1e-9)
    assert told.user == pytest.approx(full, abs=1e-9)
    assert told.result == em.Result.CERTIFIED
    assert stability.best == pytest.approx(full, abs=1e-8)
    # both agents agree: any value may be an equilibrium's, with the scheme that pays them most there
    assert stability.worst == pytest.approx(stability.no_information, abs=1e-8)
    for share in (0.25, 0.75):
        rival = np.concatenate([share * np.eye(3), np.full((3, 1), 1 - share)], 1)
        profile = np.stack([rival, rival])
        best = em.best_response(game, profile, 0, SELECTION, RATIONAL).scheme
        both = em.certify(game, np.stack([best, best]), SELECTION, RATIONAL)
        assert both.result == em.Result.CERTIFIED
        assert both.user == pytest.approx(em.certify(game, profile, SELECTION, RATIONAL).user, abs=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("size", [10.0, 1e3, 1e6, 1e9, 1e12, 1e15, 1e30, 1e60, 1e99])
def test_an_action_dominated_by_any_amount_is_never_taken(size):
    """Action 1, which agents want, is worse than action 0 in both states; action 2 is dominated in one state."""
    game = em.Game(
        diagonal(0.5, 0.5), [[0.2, 0.2], [-0.3, -0.3], [-size, 1.0]], np.array([[[0.2, 0.2], [10.0, 10], [-1, 1]]] * 2)
    )
    stability = em.stability(game)
    # action 2 after a message that says "state 1" a little too often costs agents 1 / size, the user all that it gains
    np.testing.assert_allclose(stability.best, 0.6, atol=1e-8)
    np.testing.assert_allclose(stability.worst, 0.6 if size < 1e8 else 0.2, atol=1e-8)
    silent = em.certify(game, np.ones((2, 2, 1)), SELECTION, RATIONAL)
    np.testing.assert_allclose([silent.user, *silent.agents, *silent.gain_lower], [0.2, 0.2, 0.2, 0.4, 0.4], atol=1e-8)
    assert silent.result == em.Result.ABOVE_TOLERANCE
    told = em.certify(game, em.full_revelation(2, 2, 2), SELECTION, RATIONAL)
    assert told.result == em.Result.CERTIFIED
    assert told.user == pytest.approx(0.6, abs=1e-9)
    # certify and stability agree: the gains of any profile add up to no less than the gap at its value
    schemes = np.random.default_rng(0).dirichlet(np.full(3, 0.4), (40, 2, 2))
    found = em.certify(game, schemes, SELECTION, RATIONAL)
    value, gap, _ = stability.profile()
    assert (found.gain_upper.sum(-1) >= np.interp(found.user, value, gap) - 1e-7).all()


def test_a_profile_within_one_thousandth_may_be_far_below_the_worst_equilibrium():
    """shared_bias, K = 3: silence leaves 9e-4 of a payoff range to gain, the only exact equilibrium value is V_full.

    The default tolerance must not call that an equilibrium."""
    u = [[-0.26, -0.58, -0.55], [0.18, 0.54, -1.95], [0.51, -0.37, 0.56]]
    U = [
        [[-1.4, -0.02, 0.88], [-0.91, -0.69, -1.25], [-0.27, 1.09, 1.19]],
        [[-0.77, 1.15, 0.69], [-0.36, -0.38, -0.84], [-0.44, -0.18, 1.85]],
        [[-0.6, 1.54, 1.24], [-0.74, 0.36, -1.53], [-0.33, 1.2, 0.81]],
    ]
    game = em.Game(diagonal(0.08, 0.58, 0.34), u, np.array(U))
    stability = em.stability(game)
    assert stability.worst == pytest.approx(stability.full_information, abs=1e-8)
    silent = np.ones((3, 3, 1))
    loose = em.certify(game, silent, SELECTION, RATIONAL, tolerance=1e-3)
    assert loose.result == em.Result.CERTIFIED
    assert loose.user < stability.worst - 0.1
    assert em.certify(game, silent, SELECTION, RATIONAL).result == em.Result.ABOVE_TOLERANCE
