"""Games from functions: tables by loops, integrals by hand, features given y, and refusals in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import emalign_jax as em

pytestmark = pytest.mark.host_only

ACTIONS = np.linspace(0, 1, 5)


def loss(a, y):
    return -((a - y) ** 2)


def tilted(a, y):
    return -((a - 1.5 * y) ** 2)


def make(user=loss, agents=(tilted,), **more):
    return em.game_from_functions(user, list(agents), **({"actions": ACTIONS, "outcomes": 4} | more))


def test_tables_by_loops():
    game = make(agents=(tilted, lambda a, y: a * y))
    y = [0.125, 0.375, 0.625, 0.875]
    np.testing.assert_allclose(game.user_utility, [[-((a - z) ** 2) for z in y] for a in ACTIONS], atol=1e-15)
    np.testing.assert_allclose(game.agent_utilities[1], [[a * z for z in y] for a in ACTIONS], atol=1e-15)
    np.testing.assert_array_equal(game.prior, np.eye(4)[None] / 4)
    assert game.labels is None
    assert game.prior.dtype == game.user_utility.dtype == np.float64


def test_a_quadrature_rule_integrates_exactly():
    """Gauss and Legendre's three points do polynomials of degree 5: E[-(a - y)^2] = -(a - 1/2)^2 - 1/12."""
    points, weights = np.polynomial.legendre.leggauss(3)
    game = make(outcomes=((points + 1) / 2, weights))
    expected = game.prior.sum((0, 1)) @ game.user_utility.T
    np.testing.assert_allclose(expected, -((ACTIONS - 0.5) ** 2) - 1 / 12, atol=1e-14)


def test_a_sampler_is_asked_once_for_so_many_points():
    asked = []

    def sampler(key, count):
        asked.append((jax.random.key_data(key).tolist(), count))
        return np.arange(count)[::-1] / count

    game = make(outcomes=sampler, points=6, key=7)
    assert asked == [(jax.random.key_data(jax.random.key(7)).tolist(), 6)]
    np.testing.assert_allclose(game.user_utility[0], -((np.arange(6)[::-1] / 6) ** 2))
    np.testing.assert_allclose(game.prior, np.eye(6)[None] / 6)
    drawn = make(outcomes=lambda key, n: jax.random.uniform(key, (n,)), points=50)
    assert drawn.outcomes == 50


def test_vectors_and_functions_of_jax():
    """Two-dimensional outcomes and actions; `jax.numpy` works as well as NumPy."""
    y = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    actions = np.array([[1.0, 0.0], [0.5, 0.5]])
    game = em.game_from_functions(
        lambda a, y: (a * y).sum(-1),
        [lambda a, y: jnp.max(a * y, -1)],
        actions=actions, outcomes=(y, [1, 1, 2]), agents_see=lambda y: y[:, 0] > 1,
    )  # fmt: skip
    np.testing.assert_allclose(game.user_utility, [[0, 2, 4], [0.5, 2.5, 4.5]])
    np.testing.assert_allclose(game.agent_utilities[0], [[0, 2, 4], [0.5, 1.5, 2.5]])
    np.testing.assert_allclose(game.prior, [[[0.25, 0, 0], [0, 0.25, 0.5]]])


def test_numbers_that_are_the_same_everywhere():
    game = make(agents=(lambda a, y: 1.0, lambda a, y: y))
    assert (game.agent_utilities[0] == 1).all()
    np.testing.assert_array_equal(game.agent_utilities[1, 0], [0.125, 0.375, 0.625, 0.875])


def test_cells_of_y_in_order():
    """Of five outcomes in two cells the first three are together, whatever their order."""
    points = np.array([0.9, 0.1, 0.5, 0.3, 0.7])
    game = make(outcomes=(points, np.ones(5)), agents_see=2, user_sees=5)
    joint = np.asarray(game.prior)
    for n, y in enumerate(points):
        rank = (points < y).sum()
        assert joint[rank, int(rank >= 3), n] == pytest.approx(0.2)
    assert joint.sum() == pytest.approx(1)
    assert (joint > 0).sum() == 5


def test_likelihoods_are_independent_given_y():
    rng = np.random.default_rng(0)
    user, agents = rng.dirichlet(np.ones(2), 4), rng.dirichlet(np.ones(3), 4)
    game = make(user_sees=lambda y: user, agents_see=lambda y: agents)
    expected = [[[user[y, i] * agents[y, j] / 4 for y in range(4)] for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(game.prior, expected, atol=1e-15)


def test_names_of_agents_become_labels():
    functions = {"seller": tilted, "friend": loss}
    named = em.game_from_functions(loss, functions, actions=ACTIONS)
    assert named.names("agents") == ("seller", "friend")
    assert named.outcomes == 20
    labels = em.Labels(actions=list("abcde"), agents=("x", "y"))
    assert em.game_from_functions(loss, functions, actions=ACTIONS, labels=labels).labels == labels
    some = em.game_from_functions(loss, functions, actions=ACTIONS, labels=em.Labels(actions=list("abcde")))
    assert some.labels == labels.replace(agents=("seller", "friend"))


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"user": 3}, r"user: expected a function of \(a, y\), got 3"),
        ({"user": lambda a, y: np.ones((4, 5))}, r"user: expected an array \[A, N\] = \[5, 4\] .*, got shape \[4, 5\]"),
        ({"user": lambda a, y: np.ones((5, 4, 1))}, r"user: expected an array \[A, N\]"),
        ({"user": lambda a, y: a / (y - 0.125)}, r"user: must be finite, got nan at \[0, 0\]"),
        ({"user": lambda a, y: "good"}, "user: expected real numbers"),
        ({"agents": ()}, "agents: expected a list of functions"),
        ({"agents": (loss, None)}, r"agents\[1\]: expected a function"),
        ({"agents": (lambda a, y: a + np.inf,)}, r"agents\[0\]: must be finite"),
        ({"actions": []}, r"actions: expected \[n\] or \[n, D\] numbers, got shape \[0\]"),
        ({"actions": [0, np.nan]}, r"actions: must be finite, got nan at \[1\]"),
        ({"outcomes": 0}, "outcomes: expected an integer >= 1, got 0"),
        ({"outcomes": -3}, "outcomes: expected an integer >= 1, got -3"),
        ({"outcomes": 2.5}, "outcomes: expected an integer >= 1, got 2.5"),
        ({"outcomes": ([0, 1],)}, r"outcomes: expected \(points, weights\), got 1"),
        ({"outcomes": ([0, 1], [1])}, "outcomes: weights: expected 2 numbers >= 0"),
        ({"outcomes": ([0, 1], [1, -1])}, "outcomes: weights: expected 2 numbers >= 0, .* the least -1"),
        ({"outcomes": ([0, 1], [0, 0])}, "outcomes: weights: expected 2 numbers >= 0, not all of them 0"),
        ({"outcomes": ([0, np.inf], [1, 1])}, "outcomes: points: must be finite"),
        ({"outcomes": lambda key, n: np.zeros(n)}, "points: expected the number of outcomes"),
        ({"outcomes": lambda key, n: np.zeros(n + 1), "points": 3}, "outcomes: expected 3 points .*, got 4"),
        ({"points": 3}, "points: goes with outcomes that are a sampler"),
        ({"agents_see": 0}, "agents_see: expected an integer >= 1, got 0"),
        ({"agents_see": 5}, "agents_see: expected at most as many cells as there are outcomes, 4, got 5"),
        ({"agents_see": lambda y: np.zeros(3)}, r"agents_see: expected x \[N\] .* 4 outcomes, got shape \[3\]"),
        ({"user_sees": lambda y: np.full(4, np.nan)}, "user_sees: must be finite"),
        ({"user_sees": lambda y: np.ones((4, 2))}, r"user_sees: p\(x \| y\) must be >= 0 and add up to 1"),
        ({"user_sees": lambda y: np.tile([2.0, -1.0], (4, 1))}, r"user_sees: p\(x \| y\) .* the least is -1"),
        ({"labels": em.Labels(agents=("a", "b"))}, "labels: agents has 2, the game has 1 agents"),
        ({"outcomes": 2**31 - 1, "actions": np.arange(10000.0)}, "outcomes: utilities, .* numbers, would take about"),
        ({"outcomes": 10**6}, "outcomes: a prior of that size, 1000000000000 numbers, would take about"),
    ],
)
def test_mistakes_are_named_in_a_line(given, match):
    with pytest.raises(ValueError, match=f"^{match}") as raised, np.errstate(all="ignore"):
        make(**given)
    assert "\n" not in str(raised.value)


def test_vectors_have_no_cells():
    with pytest.raises(ValueError, match=r"^agents_see: outcomes are vectors, which have no order"):
        make(user=lambda a, y: a, agents=[lambda a, y: a], outcomes=(np.eye(3), np.ones(3)), agents_see=2)


def test_it_is_refused_under_jit():
    with pytest.raises(ValueError, match="computes on the host"):
        jax.jit(lambda x: make().user_utility + x)(1.0)
