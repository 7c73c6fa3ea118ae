"""Games from tables: entry by entry, thresholds by brute force, sizes without a dense prior, bad input."""

import numpy as np
import pytest

import emalign_jax as em
from emalign_jax.games.from_table import utility_table

pytestmark = pytest.mark.host_only

RNG = np.random.default_rng(5)
USER, SCORES = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 2, 3))


def test_answers_are_actions_and_prompts_are_what_agents_see():
    topic, prior = ["b", "a", "b", "a"], [0.1, 0.2, 0.3, 0.4]
    game = em.game_from_table(USER, SCORES, topic=topic, prior=prior, order="given")
    assert game.prior.shape == (2, 4, 4)
    for xa, xb, y in np.ndindex(2, 4, 4):
        assert game.prior[xa, xb, y] == (prior[xb] if xb == y and topic[xb] == "ab"[xa] else 0)
    for a, y in np.ndindex(3, 4):
        assert game.user_utility[a, y] == USER[y, a]
        np.testing.assert_array_equal(game.agent_utilities[:, a, y], SCORES[y, :, a])


def test_random_positions_are_those_of_user_and_agents_alike():
    game = em.game_from_table(USER, SCORES, seed=1)
    assert (game.user_utility.T != USER).any()
    np.testing.assert_array_equal(game.user_utility, em.game_from_table(USER, SCORES, seed=1).user_utility)
    for y in range(4):
        place = [int(np.flatnonzero(USER[y] == u)[0]) for u in game.user_utility[:, y]]
        assert sorted(place) == [0, 1, 2]
        np.testing.assert_array_equal(game.agent_utilities[:, :, y], SCORES[y][:, place])


@pytest.mark.parametrize("prior", [None, [0.3, 0.1, 0.1, 0.1, 0.2, 0.2]])
def test_acceptance_with_own_means_by_brute_force(prior):
    """Six items: what revealing everything and nothing is worth, by trying all that the user can do."""
    ratings = np.array([[1, 5, 2], [4, 4, 1], [2, 1, 5], [5, 2, 4], [3, 3, 3], [5, 1, 2]], float)
    chance = np.full(6, 1 / 6) if prior is None else np.array(prior)
    means = [sum(chance[n] * ratings[n, p] for n in range(6)) for p in range(3)]
    game = em.game_from_table(ratings[:, 0], ratings[:, 1:], accept="own-mean", prior=prior)
    for n in range(6):
        np.testing.assert_allclose(game.user_utility[:, n], [ratings[n, 0] - means[0], 0], atol=1e-15)
        np.testing.assert_allclose(game.agent_utilities[:, 0, n], ratings[n, 1:] - means[1:], atol=1e-15)
    taken = [[n for n in range(6) if subset >> n & 1] for subset in range(64)]
    values = [sum(chance[n] * (ratings[n, 0] - means[0]) for n in items) for items in taken]
    found = em.stability(game)
    np.testing.assert_allclose(found.full_information, max(values), atol=1e-12)
    np.testing.assert_allclose(found.no_information, max(values[0], values[-1]), atol=1e-12)


def test_a_number_is_the_threshold_of_all():
    game = em.game_from_table([1.0, 5.0], [[2.0], [4.0]], accept=3)
    np.testing.assert_array_equal(game.user_utility, [[-2, 2], [0, 0]])
    np.testing.assert_array_equal(game.agent_utilities, [[[-1, 1], [0, 0]]])


def test_without_the_dense_prior_it_is_the_same_game():
    table = utility_table(USER, SCORES, topic=[0, 1, 1, 0], prior=[0.1, 0.2, 0.3, 0.4])
    for mine, theirs in zip(table.reduced(), em.reduce_game(table.game(), np), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-15)


def test_two_thousand_prompts_fit():
    rng = np.random.default_rng(0)
    table = utility_table(rng.normal(size=(2000, 10)), rng.normal(size=(2000, 100, 10)))
    assert table.reduced().agents.shape == (100, 1, 2000, 10)


def test_labels_are_the_names_of_the_agents_and_what_is_done_with_items():
    assert em.game_from_table(USER, SCORES, names=["left", "right"]).labels == em.Labels(agents=("left", "right"))
    assert em.game_from_table(USER, SCORES).labels is None
    rated = em.game_from_table([1.0, 5.0], [[2.0], [4.0]], accept=3)
    assert rated.labels == em.Labels(actions=("take", "leave"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"user_utility": USER[0]}, "user_utility: expected shape [n, A] with no empty axis, got [3]"),
        ({"user_utility": "x"}, "user_utility: expected real numbers, got 'x'"),
        ({"user_utility": USER[:, :1], "scores": SCORES[:, :, :1]}, "at least 2 answers to each prompt, got 1"),
        ({"scores": SCORES[:3]}, "scores: shape [3, 2, 3] does not go with user_utility of [4, 3]"),
        (
            {"scores": np.where(SCORES.argmax() == np.arange(24).reshape(4, 2, 3), np.nan, SCORES)},
            "] is nan: it must be finite",
        ),
        ({"prior": [0.5, 0.5, 0.5, -0.5]}, "prior: expected 4 numbers >= 0 that sum to 1"),
        ({"prior": [0.5, 0.5]}, "prior: expected 4 numbers >= 0"),
        ({"topic": ["a"]}, "topic: expected 4 labels"),
        ({"order": "shuffled"}, "order: expected one of random, given"),
        ({"seed": -1}, "seed: expected an integer >= 0"),
        ({"accept": "mean", "user_utility": [1.0] * 4, "scores": np.ones((4, 2))}, "accept: expected one of own-mean"),
        ({"accept": np.nan, "user_utility": [1.0] * 4, "scores": np.ones((4, 2))}, "accept: expected a number"),
        ({"accept": 3}, "user_utility: expected shape [n]"),
    ],
)
def test_bad_input_names_the_argument(change, words):
    with pytest.raises(ValueError) as told:
        em.game_from_table(**{"user_utility": USER, "scores": SCORES} | change)
    assert words in str(told.value)
