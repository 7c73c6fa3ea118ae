"""A batch of games is gone through and indexed as NumPy would: nothing is clamped, nothing goes on for ever."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import emalign_jax as em


def batch_of(*shape):
    """Games that differ by their priors, as jax arrays, whose indices are clamped unless they are checked."""
    number = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    prior = np.stack([(1 + number) / 100, 1 - (1 + number) / 100], -1)[..., None, None, :]
    table = jnp.broadcast_to(jnp.eye(2), (*shape, 2, 2))
    return em.Game(jnp.asarray(prior), table, table[..., None, :, :]), number


def numbers(games):
    return np.round(100 * np.asarray(games.prior)[..., 0, 0, 0]).astype(int) - 1


@pytest.mark.slow
def test_a_batch_is_gone_through():
    games, _ = batch_of(3)
    assert len(games) == 3
    assert [int(numbers(game)) for game in games] == [0, 1, 2]
    assert all(game.batch_shape == () for game in games)
    assert [game.batch_shape for game in batch_of(2, 3)[0]] == [(3,), (3,)]
    assert next(reversed(games)).batch_shape == ()
    assert games
    assert not games[:0]
    assert len(games[:0]) == len(list(games[:0])) == 0


INDICES = [
    0,
    -1,
    np.int64(1),
    slice(1, 9),
    slice(None, None, -1),
    slice(5, 1),
    [1, 0],
    [],
    np.array([-1, 0, 1]),
    None,
    Ellipsis,
    np.array([True, False]),
    (1, 2),
    (slice(None), -1),
    (Ellipsis, 0),
    (0, Ellipsis),
    ([0, 1], [2, 2]),
    (slice(None), [0, 2]),
    np.arange(6).reshape(2, 3) % 2 == 0,
    (),
    (None, 1),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_indices_are_those_of_numpy(index):
    games, number = batch_of(2, 3)
    expected = number[np.asarray(index, int) if index == [] else index] if isinstance(index, list) else number[index]
    np.testing.assert_array_equal(numbers(games[index]), expected)
    np.testing.assert_array_equal(numbers(jax.tree.map(np.asarray, games)[index]), expected)
    if isinstance(index, np.ndarray):
        np.testing.assert_array_equal(numbers(games[jnp.asarray(index)]), expected)


@pytest.mark.parametrize(
    "index",
    [
        2,
        -3,
        [0, 2],
        jnp.array([7]),
        (0, 3),
        (0, 0, 0),
        np.ones(3, bool),
        np.ones((3, 2), bool),
        0.5,
        "a",
        np.array([0.5]),
    ],
    ids=str,
)
def test_what_is_not_there_is_refused(index):
    games, _ = batch_of(2, 3)
    with pytest.raises(IndexError, match=r"^games with batch axes \[2, 3\]: "):
        games[index]


def test_one_game_is_no_batch():
    game = batch_of(2)[0][1]
    assert game
    for what in (len, iter, list):
        with pytest.raises(TypeError, match=r"^this is one game, not a batch"):
            what(game)
    with pytest.raises(IndexError, match=r"^this is one game, not a batch"):
        game[0]


def test_indices_under_jit():
    games, _ = batch_of(3)
    assert int(numbers(jax.jit(lambda games, k: games[k])(games, 2))) == 2
    assert jax.jit(lambda games: jnp.asarray(len(games)))(games) == 3
