"""Gradient play: known optima, options, and that games of a batch do not disturb each other."""

import contextlib
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import emalign_jax as em
from emalign_jax.play import gradient_play, play_games, step, tiles

JUDGE = {5.0: 0.38236599, 20.0: 0.49708735}  # one prosecutor, prior .3, quantal judge: section 9 of docs/model.md


def batch(game, count):
    return jax.tree.map(lambda x: np.stack([np.asarray(x)] * count), game)


def starts(count, agents, features=2, messages=2, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(messages), (count, agents, features))


def go(games, schemes, user, solver, protocol=None, **kwargs):
    protocol = protocol or em.Pooled()
    cells = protocol.cells(games, schemes.shape[-1])
    return play_games(em.reduce_game(games, np), schemes, protocol, user, solver, cells=cells, **kwargs)


def paid(games, played, user, protocol=None):
    return em.payoffs(games, played.schemes, protocol or em.Pooled(), user)


@pytest.mark.slow
@pytest.mark.parametrize("extrapolation", ["none", "optimistic", "extragradient"])
@pytest.mark.parametrize("protocol", [em.Pooled(), em.Selection(0.1)], ids=["pooled", "selection"])
def test_one_prosecutor_reaches_the_optimum_for_each_precision(extrapolation, protocol):
    games, user = batch(em.catalog.judge(), 4), em.QuantalUser(np.array([5.0, 5.0, 20.0, 20.0]))
    solver = em.GradientPlay(extrapolation=extrapolation, steps=2000, learning_rate=(0.3, 0.003))
    played = go(games, starts(4, 1), user, solver, protocol)
    assert played.finite.all()
    # 1e-4: Adam's steps are as long as the rate, so it ends in a cycle of that size, 3e-3, about the optimum
    got = paid(games, played, user, protocol).agents[:, 0]
    np.testing.assert_allclose(got, [JUDGE[5.0]] * 2 + [JUDGE[20.0]] * 2, atol=1e-4)
    np.testing.assert_allclose(played.schemes.sum(-1), 1, rtol=0, atol=1e-15)


@pytest.mark.slow
def test_float64_play_is_more_exact_and_sets_no_flag():
    before = jax.config.jax_enable_x64
    games, user = batch(em.catalog.judge(), 4), em.QuantalUser(5.0)
    solver = em.GradientPlay(dtype="float64", tolerance=1e-9, steps=2000, learning_rate=(0.3, 0.001))
    played = go(games, starts(4, 1), user, solver)
    assert jax.config.jax_enable_x64 == before
    assert jnp.zeros(()).dtype == (jnp.float64 if before else jnp.float32)
    # the closed form of one message sent at belief 0 and one at mu, in NumPy
    sent = played.schemes[:, 0] * np.array([0.7, 0.3])[:, None]
    belief = sent[:, 1] / sent.sum(1)
    got = (sent.sum(1) / (1 + np.exp(-5 * (2 * belief - 1)))).sum(1)
    # what is never sent at the optimum keeps the probability of the logit floor, 1e-6
    np.testing.assert_allclose(got, JUDGE[5.0], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_shift_of_logits_changes_nothing():
    games = em.reduce_game(batch(em.catalog.biased_advisers(), 3), np)
    games = jax.tree.map(lambda x: jnp.moveaxis(jnp.asarray(x), 0, -1), games)
    solver, user = em.GradientPlay(steps=50, chunk=50), em.QuantalUser(jnp.full(3, 5.0))
    state = step.begin(solver, jnp.asarray(starts(3, 2)))
    rows = jax.tree.map(jnp.asarray, solver.schedule(False))
    shift = jnp.asarray(np.random.default_rng(1).normal(size=(2, 2, 1, 3)) * 30)
    moved = state._replace(logits=state.logits + shift)
    none = jnp.zeros(3, int)
    ends = [step.advance(solver, games, em.Pooled(), user, s, rows, none)[1].schemes for s in (state, moved)]
    # float32 rounds the shifted logits to about 4e-6, and 50 steps of Adam carry that along
    np.testing.assert_allclose(*ends, rtol=0, atol=1e-9 if jax.config.jax_enable_x64 else 1e-3)
    assert np.abs(np.asarray(ends[0]) - np.asarray(jax.nn.softmax(state.logits, axis=2))).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 3])
def test_a_free_lane_takes_the_next_game_and_results_stay_the_same(monkeypatch, threads):
    # 280 easy games, in which agents are indifferent, and 20 real ones
    count, real = 300, np.arange(7, 300, 15)
    games = batch(em.catalog.judge(), count)
    games.agent_utilities[np.setdiff1d(np.arange(count), real)] = 0
    schemes, user = starts(count, 1), em.QuantalUser(np.linspace(5, 20, count))
    solver = em.GradientPlay(steps=200, chunk=50, tolerance=1e-6)
    sizes = []

    def advance(solver, game, *rest):
        sizes.append(game.mass.shape[-1])
        return original(solver, game, *rest)

    original = step.advance
    monkeypatch.setattr(gradient_play, "advance", advance)
    monkeypatch.setattr(tiles, "workers", lambda devices: threads)
    monkeypatch.setattr(tiles, "CACHED_CELLS", 16 * em.Pooled().cells(games, 2))
    told = []
    streamed = go(games, schemes, user, solver, progress=told.append)
    assert set(sizes) == {16}
    # 16 lanes: 280 games of one chunk and 20 of four fill 22.5 tiles; a batch that waits for its slowest takes 4 a tile
    assert 360 / 16 <= len(sizes) <= 360 / 16 + 4 * threads + 1
    assert sum(told) == 50 * (280 + 4 * 20)
    monkeypatch.setattr(tiles, "CACHED_CELLS", 512 * em.Pooled().cells(games, 2))
    monkeypatch.setattr(tiles, "workers", lambda devices: 1)
    sizes.clear()
    whole = go(games, schemes, user, solver)
    assert sizes == [256] * 5  # the games that found no lane at first begin a chunk later
    # float32 in another vector lane, over 200 steps
    np.testing.assert_allclose(streamed.schemes, whole.schemes, rtol=0, atol=1e-3)
    np.testing.assert_allclose(paid(games, streamed, user).agents, paid(games, whole, user).agents, rtol=0, atol=1e-5)
    assert np.abs(streamed.schemes[real] - schemes[real]).max((1, 2, 3)).min() > 0.05


@pytest.mark.slow
def test_the_last_games_of_a_wide_tile_go_on_in_a_narrow_one(monkeypatch):
    count = 60
    games = batch(em.catalog.judge(), count)
    games.agent_utilities[3:] = 0
    schemes, user, solver = starts(count, 1), em.QuantalUser(5.0), em.GradientPlay(steps=200, chunk=50, tolerance=1e-6)
    monkeypatch.setattr(tiles, "workers", lambda devices: 1)
    whole = go(games, schemes, user, solver)
    monkeypatch.setattr(gradient_play, "NARROW_FROM", 64)
    narrowed = go(games, schemes, user, solver)
    np.testing.assert_allclose(narrowed.schemes, whole.schemes, rtol=0, atol=1e-3)
    np.testing.assert_allclose(paid(games, narrowed, user).agents, paid(games, whole, user).agents, rtol=0, atol=1e-5)


def test_an_error_in_one_thread_comes_out_and_stops_the_others(monkeypatch):
    monkeypatch.setattr(tiles, "workers", lambda devices: 3)
    seen = []

    def work(queue):
        while not queue.stopped and len(taken := queue.take(2)):
            seen.extend(taken)
            if 4 in taken:
                raise RuntimeError("no more")
            time.sleep(0.01)

    with pytest.raises(RuntimeError, match="no more"):
        tiles.run(work, 20_000, 2, jax.local_devices(), contextlib.nullcontext)
    assert len(seen) < 5000  # 33 s for all


@pytest.mark.slow
@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("protocol", [em.Pooled(), em.Selection(0.1)], ids=["pooled", "selection"])
def test_steps_are_the_same_as_one_kernel_or_many(protocol, refused, monkeypatch):
    count, asked = 20, []
    games = em.random_games(jax.random.key(0), count, agents=2, states=3, actions=3)
    schemes, solver = starts(count, 2, 3, 3), em.GradientPlay(steps=10, chunk=10)

    def advance(*everything):
        *rest, whole = everything
        asked.append(whole)
        if whole and refused:
            raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: Fusion kind not implemented on CPU")
        return original(*rest, whole)

    original = step.advance
    monkeypatch.setattr(gradient_play, "advance", advance)
    one = go(games, schemes, em.QuantalUser(10.0), solver, protocol)
    assert asked[:2] == [True, False] if refused else set(asked) == {True}
    monkeypatch.setattr(type(protocol), "sums_are_unrolled", lambda *_: False)
    many = go(games, schemes, em.QuantalUser(10.0), solver, protocol)
    assert asked[-1] is False
    np.testing.assert_allclose(one.schemes, many.schemes, rtol=0, atol=1e-4)
    assert np.abs(one.schemes - schemes).max() > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [em.Pooled(), em.Selection(0.1)], ids=["pooled", "selection"])
def test_a_game_that_breaks_leaves_the_others_alone(protocol):
    games, schemes = batch(em.catalog.biased_advisers(), 4), starts(4, 2)
    solver, user = em.GradientPlay(steps=100), em.QuantalUser(10.0)
    sound = go(games, schemes, user, solver, protocol)
    games.agent_utilities[1, 0, 0, 0] = np.nan
    games.user_utility[2, 0, 0] = np.inf
    broken = go(games, schemes, user, solver, protocol)
    np.testing.assert_array_equal(broken.finite, [True, False, False, True])
    # one compiled call, the same lanes: the same bits
    np.testing.assert_array_equal(broken.schemes[[0, 3]], sound.schemes[[0, 3]])
    np.testing.assert_array_equal(broken.gap[[0, 3]], sound.gap[[0, 3]])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "rate"),
    [(optax.identity(), 3.0), (optax.trace(0.5), 3.0), (optax.scale_by_rms(), 0.02)],
    ids=["sgd", "momentum", "rms"],
)
def test_other_optimizers(optimizer, rate):
    games, user = batch(em.catalog.judge(), 4), em.QuantalUser(5.0)
    played = go(games, starts(4, 1), user, em.GradientPlay(optimizer=optimizer, learning_rate=(rate, rate), steps=1000))
    np.testing.assert_allclose(paid(games, played, user).agents, JUDGE[5.0], atol=1e-3)


def test_one_compilation_serves_other_precisions_and_starts():
    traced = []

    def update(gradient, state, params=None):
        traced.append(1)
        return gradient, state

    solver = em.GradientPlay(optimizer=optax.GradientTransformation(lambda p: optax.EmptyState(), update), steps=100)
    games = batch(em.catalog.biased_advisers(), 4)
    first = go(games, starts(4, 2), em.QuantalUser(5.0), solver)
    count = len(traced)
    second = go(games, starts(4, 2, seed=1), em.QuantalUser(np.array([1.0, 2, 3, 4])), solver)
    assert count > 0
    assert len(traced) == count
    assert np.abs(first.schemes - second.schemes).max() > 0.01


@pytest.mark.slow
def test_a_rational_user_is_approached_and_play_stops_only_at_the_end():
    games = batch(em.catalog.judge(), 4)
    solver = em.GradientPlay()
    played = go(games, starts(4, 1), em.RationalUser(), solver)
    assert played.steps == 200
    # at the last precision, 300, the quantal optimum is .58..; the limit is .6
    stand_in = em.QuantalUser(solver.precision[1])
    assert np.asarray(paid(games, played, stand_in).agents).min() > 0.56
    late = go(games, played.schemes, em.RationalUser(), solver, late=True)
    assert late.steps == 100  # half of 200


def test_schedules_are_geometric_and_end_where_they_say():
    solver = em.GradientPlay(steps=250, precision=(2.0, 50.0), learning_rate=(0.1, 0.01))
    whole, late = solver.schedule(False), solver.schedule(True)
    assert len(whole.precision) == 300
    np.testing.assert_allclose([whole.precision[0], whole.precision[-1]], [2, 50])
    np.testing.assert_allclose(np.diff(np.log(whole.learning_rate), 2), 0, atol=1e-12)
    chex.assert_trees_all_equal(late, jax.tree.map(lambda x: x[-200:], whole))


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        *((field, 0, "expected an integer >= 1") for field in ("steps", "chunk", "fresh_starts")),
        ("best_responses", -1, "expected an integer >= 0"),
        *(
            (field, pair, r"expected two finite numbers > 0 \(first, last\)")
            for field in ("learning_rate", "precision", "temperature")
            for pair in ((0.0, 1.0), (1.0, -1.0), (np.nan, 1.0), (1.0, np.inf))
        ),
        *(("tolerance", value, "expected a number between 0 and 1") for value in (0.0, 1.0, -0.1, np.nan)),
        ("extrapolation", "Optimistic", "expected one of none, optimistic, extragradient"),
        ("dtype", "bfloat16", "expected one of float32, float64"),
    ],
)
def test_bad_hyper_parameters(field, value, rule):
    with pytest.raises(ValueError, match=f"^{field}: {rule}, got"):
        em.GradientPlay(**{field: value})
