"""Families `attributes` and `quadratic`: closed forms, exact where the grid makes them so, else as cells shrink."""

from functools import cache

import jax
import numpy as np
import pytest
from scipy.optimize import linprog

import emalign_jax as em
from emalign_jax.equilibrium.monopolists import monopoly
from emalign_jax.games.families.base import Draws

pytestmark = pytest.mark.host_only

# If all outcomes were pooled in pairs of neighbours, the user would lose their variance, 3 / (Y^2 - 1) of
# V_full - V_none. With three actions an outcome these agents pool less; 2 / (Y^2 - 1) is the most that was seen.
LOST = 2
ROUNDING = 1e-9 if jax.config.jax_enable_x64 else 1e-5  # of games drawn in float32


def uniforms(family, count, agents, actions, states, seed=0):
    needed = family.numbers(agents, actions, states) + 2 * actions * states
    return np.random.default_rng(seed).uniform(1e-6, 1, (count, needed))


def attribute_games(count, agents, actions=4, states=3, seed=0, **knobs):
    """u [N, A, Y], U [N, K, A, Y], and the weights of the user [N, D] and of the agents [N, K, D]."""
    family = em.families.Attributes(**knobs)
    numbers = uniforms(family, count, agents, actions, states, seed)
    draws = Draws(numbers)
    user = family.user_utility(draws, actions, states)
    rest = numbers[:, actions * states :]
    own = family.agent_utilities(Draws(rest), user, agents)
    return user, own, *family.weights(Draws(rest), agents)


def distance_to_hull(point, corners):
    """min over convex combinations of the corners [K, D] of the largest difference from `point` [D]: an LP."""
    K, D = corners.shape
    ones = np.ones((D, 1))
    found = linprog(
        np.eye(K + 1)[K],
        A_ub=np.block([[corners.T, -ones], [-corners.T, -ones]]), b_ub=np.concatenate([point, -point]),
        A_eq=np.append(np.ones(K), 0)[None], b_eq=[1],
    )  # fmt: skip
    assert found.status == 0
    return found.fun


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["simplex", "cone"])
@pytest.mark.parametrize("offset", ["none", "constant", "per_state"])
def test_attributes_hull_is_exact_iff_the_weights_are_in_the_hull(weights, offset):
    user, own, w, v = attribute_games(60, 4, attributes=3.0)
    inside = np.array([distance_to_hull(*one) for one in zip(w, v, strict=True)]) < 1e-9
    assert 5 < inside.sum() < 55
    errors = em.align(user, own, weights=weights, offset=offset).error
    assert errors[inside].max() < 1e-7
    assert errors[~inside].min() > 1e-4


@pytest.mark.slow
def test_more_attributes_than_cells_may_be_in_the_hull_by_accident():
    """The counter-example to "only if": one outcome and two options tell three attributes apart in one direction."""
    user, own, w, v = attribute_games(200, 3, actions=2, states=1, attributes=3.0)
    outside = np.array([distance_to_hull(*one) for one in zip(w, v, strict=True)]) > 1e-3
    exact = em.align(user, own, offset="per_state").error < 1e-9
    assert (outside & exact).sum() > 10


def test_attributes_share_inside_with_two_of_them():
    """With D = 2 the weights of K agents and the user are K + 1 draws from an interval: the user's is neither the least
    nor the largest with probability (K - 1) / (K + 1)."""
    for K in (2, 3, 5):
        _, _, w, v = attribute_games(4000, K, attributes=2.0, actions=1, states=1)
        inside = (v[:, :, 0].min(1) < w[:, 0]) & (w[:, 0] < v[:, :, 0].max(1))
        assert abs(inside.mean() - (K - 1) / (K + 1)) < 4 * 0.5 / np.sqrt(4000)


def test_attributes_are_standard_normal_sums():
    """The covariance of u and U_i, given weights, is w . w_i / |w|^2 for the same option and outcome, 0 for others."""
    user, own, w, v = attribute_games(4000, 2, actions=2, states=2, attributes=3.0, seed=1)
    square = (w**2).sum(-1)
    assert abs(user.std() - 1) < 0.05
    same = (own[:, 0] * user - (np.einsum("nd,nd->n", v[:, 0], w) / square)[:, None, None]).mean()
    spread = (own[:, 0] * own[:, 1] - (np.einsum("nd,nd->n", v[:, 0], v[:, 1]) / square)[:, None, None]).mean()
    other = (own[:, 0, 0] * user[:, 1]).mean()
    assert max(map(abs, (same, spread, other))) < 0.05  # means of 16,000 products of variance about 2


def test_attributes_bias_is_for_own_options():
    plain, biased = (attribute_games(20, 3, attributes=2.0, bias=bias)[1] for bias in (0.0, 0.7))
    more = biased - plain
    np.testing.assert_allclose(more, np.broadcast_to(more[..., :1], more.shape), atol=1e-12)
    assert (np.isclose(more[..., 0], 0.7).sum(1) == 1).all()
    assert (np.isclose(more[..., 0], 0).sum(1) == 2).all()


@pytest.mark.parametrize("value", [0, 2.5, 101, -1, np.nan])
def test_attributes_are_counted(value):
    with pytest.raises(ValueError, match=r"^attributes: expected an integer from 1 to 100, got"):
        em.random_games(0, 2, family="attributes", attributes=value)


def quadratic(b, states, actions):
    """One game with given b_i, by loops over the definition."""
    y, a = ((np.arange(n) + 0.5) / n for n in (states, actions))
    user = np.array([[-((x - z) ** 2) for z in y] for x in a])
    agents = np.array([[[-((x - (1 + own) * z) ** 2) for z in y] for x in a] for own in b])
    return em.Game(np.eye(states)[None] / states, user, agents)


def batch(b, states, actions):
    return jax.tree.map(lambda x: np.asarray(x)[None], quadratic(b, states, actions))


def normalised(game, value):
    """0 without information, 1 with full information."""
    none, full = game.user_utility.mean(-1).max(-1), game.user_utility.max(-2).mean(-1)
    return (value - none) / (full - none)


@cache
def alone(b, states, actions):
    games = batch([b], states, actions)
    return float(normalised(games, monopoly(games, em.Selection(), em.RationalUser(), states + 1).user[:, 0])[0])


@pytest.mark.slow
def test_quadratic_is_drawn_as_defined():
    games = em.random_games(3, 5, family="quadratic", agents=2, states=4, actions=6, bias=0.5, tilt=-0.25)
    np.testing.assert_allclose(games.prior, np.broadcast_to(np.eye(4) / 4, (5, 1, 4, 4)), atol=ROUNDING)
    # Of a = 1/12 and y = 1/8: U = -(1/12 - (1 + b) / 8)^2, so b is one of two roots; y = 7/8 says which.
    roots = [8 * (1 / 12 + sign * np.sqrt(-np.asarray(games.agent_utilities)[:, :, 0, 0])) - 1 for sign in (1, -1)]
    far = np.asarray(games.agent_utilities)[:, :, 0, 3]
    fit = [abs(-((1 / 12 - (1 + b) * 7 / 8) ** 2) - far) for b in roots]
    b = np.where(fit[0] < fit[1], *roots)
    for n in range(5):
        one = quadratic(b[n], 4, 6)
        np.testing.assert_allclose(games.user_utility[n], one.user_utility, atol=ROUNDING)
        np.testing.assert_allclose(games.agent_utilities[n], one.agent_utilities, atol=1e3 * ROUNDING)
    assert games.names("actions")[0] == "0.08333"
    assert games.names("outcomes") == ("0.125", "0.375", "0.625", "0.875")
    many = em.random_games(
        4, 2000, family="quadratic", agents=1, states=1, actions=1, bias=0.5, tilt=0.25, information_worth=0.0
    )
    off = 2 * np.sqrt(-np.asarray(many.agent_utilities, float)[:, 0, 0, 0])  # |b|, as a = y = 1/2
    assert abs((off**2).mean() - (0.5**2 + 0.25**2)) < 5 * np.sqrt(0.25) / np.sqrt(2000)


@pytest.mark.parametrize("b", [-2.0, -0.9, -0.6])
def test_quadratic_agent_alone_reveals_nothing_below_a_half(b):
    """Exact on these grids: what is revealed to exploit rounding leaves the user indifferent to the prior's action."""
    for states, actions in ((4, 12), (6, 6), (8, 24), (8, 40)):
        assert abs(alone(b, states, actions)) < 1e-7


@pytest.mark.slow
@pytest.mark.parametrize("b", [-0.4, -0.1, 0.5, 2.0])
def test_quadratic_agent_alone_reveals_all_above_a_half_as_cells_shrink(b):
    """On a grid the agent pools neighbours, to have the user round its way; the loss falls like the square of cells."""
    for states in (4, 6, 8, 12):
        assert -1e-9 < 1 - alone(b, states, 3 * states) < LOST / (states**2 - 1)


@pytest.mark.parametrize(("b", "exactly"), [(0.0, True), (0.05, True), (0.19, True), (0.21, False), (0.3, False)])
def test_quadratic_agent_alone_reveals_all_exactly_below_a_bias(b, exactly):
    """With A = Y = 4 the last two outcomes are pooled iff b y > 1 / (2 Y) for y = 5/8: iff b > 1/5."""
    assert (1 - alone(b, 4, 4) < 1e-9) == exactly


def ends(b, states, actions):
    game = quadratic(b, states, actions)
    found = em.stability(game)
    return tuple(float(normalised(game, value)) for value in (found.worst, found.best))


@pytest.mark.parametrize("b", [(-0.9, -0.6), (-0.6, -0.6, -3.0)])
def test_quadratic_selection_below_a_half_can_be_silent(b):
    """Both ends are equilibria: full information always is with two agents."""
    for states, actions in ((4, 12), (8, 24)):
        np.testing.assert_allclose(ends(b, states, actions), [0, 1], atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("b", [(-0.9, -0.4), (0.5, 1.0), (-2.0, -0.8, 1.5)])
def test_quadratic_selection_with_one_above_a_half_reveals_all_as_cells_shrink(b):
    for states in (4, 8, 12):
        worst, best = ends(b, states, 3 * states)
        assert best == pytest.approx(1, abs=1e-7)
        assert -1e-7 < 1 - worst < LOST / (states**2 - 1)


def test_quadratic_hull_is_exact_iff_zero_is_between_the_biases():
    """With an offset for each outcome; a constant one is not enough, unless some b_i is 0."""
    for b in ((-0.3, 0.3), (-1.0, 0.1, 2.0), (0.0, 1.0), (0.1, 1.0), (-2.0, -0.2)):
        game = quadratic(b, 5, 7)
        per_state, constant = (
            float(em.align(game.user_utility, game.agent_utilities, offset=offset).error)
            for offset in ("per_state", "constant")
        )
        assert (per_state < 1e-7) == (min(b) <= 0 <= max(b))
        assert (constant < 1e-7) == (0 in b)
    # By hand: the mean of b = .3 and -.3 is u - .09 y^2, and the best constant is off by half the range of .09 y^2.
    game = quadratic((-0.3, 0.3), 5, 7)
    fit = em.align(game.user_utility, game.agent_utilities, offset="constant")
    assert float(fit.error) == pytest.approx(0.09 * (0.9**2 - 0.1**2) / 2, abs=1e-7)
