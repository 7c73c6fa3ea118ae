"""Trajectories: what is kept of a search, against the search itself and against payoffs by another route."""

import jax
import numpy as np
import pytest
from support.games import batch_of, random_game

import emalign_jax as em
from emalign_jax.equilibrium.trajectory import Recorder

pytestmark = [pytest.mark.host_only, pytest.mark.x64]

RATIONAL = em.RationalUser()
GAMES = batch_of([random_game(seed, K=3) for seed in range(6)])
STARTS = np.random.default_rng(0).dirichlet(np.ones(4), (6, 3, 3))
SHORT = em.GradientPlay(steps=60, chunk=30)


class Still(em.AbstractSolver):
    """Looks at the start, without any play to compile."""

    tolerance: float | None = None

    def rounds(self, search):
        return 1

    def improve(self, search, pending, attempt):
        return search.examine(pending, em.FoundBy.START)


def last(trajectory, column, before=1):
    """The last entry of a column, or the one so many places from the end."""
    at = np.maximum(trajectory.steps - before, 0)
    values = getattr(trajectory, column)
    return np.stack([values[k][at[k]] for k in range(len(at))])


@pytest.mark.parametrize("protocol", [em.Selection(), pytest.param(em.Comparison(2), marks=pytest.mark.slow)])
def test_best_response_dynamics_end_at_the_solution(protocol):
    solver = em.BestResponseDynamics(steps=12, fresh_starts=0)
    plain = em.solve(GAMES, protocol, RATIONAL, solver, start=STARTS)
    found = em.solve(GAMES, protocol, RATIONAL, solver, start=STARTS, record=True)
    for name in ("schemes", "user", "agents", "result", "found_by"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(found, name))
    assert plain.trajectory is None
    kept = found.trajectory
    assert (last(kept, "move") == em.Move.RETURNED).all()
    assert (kept.move[:, 0] == em.Move.START).all()
    np.testing.assert_allclose(last(kept, "user"), found.user, atol=1e-9)
    np.testing.assert_allclose(last(kept, "agents"), found.agents, atol=1e-9)
    np.testing.assert_array_equal(last(kept, "relative_gain"), found.certificate.relative_gain)
    settled = found.result == em.Result.CERTIFIED
    assert settled.any()
    np.testing.assert_allclose(last(kept, "user", 2)[settled], found.user[settled], atol=1e-9)
    assert kept.steps.min() >= 2
    assert kept.steps.max() <= 12 + 4  # the first profile, the limit of outbidding, what is returned

    # the first profile by another route
    paid = em.payoffs(GAMES, STARTS, protocol, RATIONAL)
    np.testing.assert_allclose(kept.user[:, 0], paid.user, atol=1e-9)
    np.testing.assert_allclose(kept.agents[:, 0], paid.agents, atol=1e-9)
    first = em.certify(GAMES, STARTS, protocol, RATIONAL)
    np.testing.assert_allclose(kept.relative_gain[:, 0], first.relative_gain, atol=1e-5)


def test_the_holder_is_the_agent_whose_scheme_is_worth_most():
    found = em.solve(GAMES, em.Selection(), RATIONAL, Still(), start=STARTS, record=True, verify=False)
    worth = [
        em.payoffs(
            em.Game(GAMES.prior, GAMES.user_utility, GAMES.agent_utilities[:, i : i + 1]), STARTS[:, i : i + 1],
            em.Pooled(), RATIONAL,
        ).user
        for i in range(3)
    ]  # fmt: skip
    np.testing.assert_array_equal(found.trajectory.holder[:, 0], np.argmax(worth, 0))
    assert len(set(found.trajectory.holder[:, 0])) > 1
    pooled = em.solve(GAMES, em.Pooled(), RATIONAL, Still(), start=STARTS, record=True, verify=False)
    assert (pooled.trajectory.holder == -1).all()


@pytest.mark.parametrize("verify", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_play_is_the_same_with_and_without_record(verify):
    games, setting = GAMES[:3], (em.Pooled(), em.QuantalUser(5.0), SHORT)
    options = {"key": 3, "messages": 3, "starts": 2, "verify": verify}
    plain = em.solve(games, *setting, **options)
    found = em.solve(games, *setting, **options, record=True)
    for name in ("schemes", "user", "agents", "result", "found_by"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(found, name))
    kept = found.trajectory
    assert kept.user.shape[:2] == (2, 3)
    rows = jax.tree.map(lambda x: x.reshape(6, *x.shape[2:]), kept)
    np.testing.assert_allclose(last(rows, "user"), found.user.ravel(), atol=1e-6)
    played = (rows.move == em.Move.PLAY).sum(1)
    # 60 steps, every tenth: 10, ..., 50, and the end where it is checked
    assert played.max() >= 5
    assert np.isnan(rows.relative_gain[rows.move == em.Move.START]).all()
    assert np.isfinite(rows.relative_gain[rows.move == em.Move.RETURNED]).all() == verify


@pytest.mark.slow
def test_what_play_meets_leads_to_where_it_ends():
    """The last profile that is watched lies between the start and the end: a play of so many steps ends there."""
    games, setting = GAMES[:3], (em.Pooled(), em.QuantalUser(5.0))
    steady = {"learning_rate": (0.1, 0.1), "precision": (5.0, 5.0), "temperature": (0.1, 0.1), "dtype": "float64"}
    options = {"start": STARTS[:3], "verify": False}
    found = em.solve(games, *setting, em.GradientPlay(steps=40, chunk=40, **steady), **options, record=True)
    for n, steps in enumerate((10, 20, 30), 1):
        short = em.solve(games, *setting, em.GradientPlay(steps=steps, chunk=steps, **steady), **options)
        np.testing.assert_allclose(found.trajectory.user[:, n], short.user, atol=1e-9)
    assert (found.trajectory.steps == 5).all()  # 0, 10, 20, 30, and what is returned


def test_copies_share_the_past_of_their_profile():
    def value(profiles, schemes):
        return schemes[:, 0, 0, 0], schemes[:, :, 0, 0], np.zeros(len(profiles), int)

    def at(*numbers):
        return np.array(numbers, float)[:, None, None, None]

    recorder = Recorder(1, value)
    recorder.note(np.array([0, 1]), em.Move.START, at(0.0, 0.1))
    recorder.copied()  # 2 and 3 are copies of 1 and 0
    recorder.note(np.array([1, 2, 3]), em.Move.BEST_RESPONSE, at(0.2, 0.3, 0.4), np.array([[1.0], [2.0], [3.0]]))
    recorder.joined(np.array([0, -1, 1, -1]))  # 0 stays itself, 2 takes the place of 1
    recorder.note(np.array([0]), em.Move.RETURNED, at(0.5))
    kept = recorder.trajectory(3)
    np.testing.assert_array_equal(kept.steps, [2, 2, 0])
    np.testing.assert_array_equal(kept.user, [[0.0, 0.5], [0.1, 0.3], [np.nan, np.nan]])
    np.testing.assert_array_equal(kept.move, [[0, 4], [0, 2], [-1, -1]])
    np.testing.assert_array_equal(kept.relative_gain[..., 0], [[np.nan, np.nan], [np.nan, 2], [np.nan, np.nan]])


@pytest.mark.slow
def test_a_search_that_splits_profiles_keeps_one_trajectory_each(monkeypatch):
    """All goes on from so few attempts that profiles are searched in copies."""
    from emalign_jax.play import gradient_play

    monkeypatch.setattr(gradient_play, "ALONE", 1)
    monkeypatch.setattr(gradient_play, "COPIES", 3)
    solver = em.GradientPlay(steps=10, chunk=10, tolerance=1e-9, best_responses=5, fresh_starts=1)
    games, setting = batch_of([random_game(seed, XB=2, A=2) for seed in range(3)]), (em.Pooled(), em.QuantalUser(20.0))
    plain = em.solve(games, *setting, solver, key=5)
    found = em.solve(games, *setting, solver, key=5, record=True)
    np.testing.assert_array_equal(plain.schemes, found.schemes)
    kept = found.trajectory
    np.testing.assert_allclose(last(kept, "user"), found.user, atol=1e-9)
    for game in range(len(games)):
        moves = kept.move[game, : kept.steps[game]]
        assert (moves >= 0).all()
        assert (moves == em.Move.RETURNED).sum() == 1
        met = np.abs(kept.user[game, : kept.steps[game] - 1] - found.user[game])
        assert met.min() < 1e-6  # what is returned was met on the way of the copy that is kept
    assert kept.steps.max() > 6


def test_malformed_games_have_none():
    broken = em.Game(*(np.array(x) for x in jax.tree.leaves(GAMES)), check="shapes")
    broken.user_utility[2] = np.nan
    found = em.solve(broken, em.Selection(), RATIONAL, em.BestResponseDynamics(steps=3), start=STARTS, record=True)
    assert found.result[2] == em.Result.MALFORMED
    assert found.trajectory.steps[2] == 0
    assert (found.trajectory.steps[[0, 1, 3]] > 1).all()


def test_what_a_solver_of_ones_own_does_is_kept_too():
    class Shifts(em.AbstractSolver):
        tolerance: float | None = None

        def rounds(self, search):
            return 2

        def improve(self, search, pending, attempt):
            search.current[pending] = np.roll(search.current[pending], 1, axis=-2)
            return search.examine(pending, em.FoundBy.START)

    found = em.solve(GAMES, em.Selection(), RATIONAL, Shifts(), start=STARTS, record=True)
    other = found.trajectory.move == em.Move.OTHER
    going = other.any(1)  # the others start at equilibria
    assert going.sum() == 4
    assert (other[going].sum(1) == 2).all()
    for shift in (1, 2):
        paid = em.payoffs(GAMES, np.roll(STARTS, shift, axis=-2), em.Selection(), RATIONAL)
        np.testing.assert_allclose(found.trajectory.user[going, shift], paid.user[going], atol=1e-9)


@pytest.mark.slow
def test_whom_the_user_picks_is_not_known_of_other_payoffs():
    class Last(em.Selection):
        def payoffs(self, game, schemes, user):
            found = super().payoffs(game, schemes, user)
            return found._replace(agents=found.agents[::-1])

    found = em.solve(GAMES, Last(), em.QuantalUser(5.0), SHORT, start=STARTS, record=True, verify=False)
    assert (found.trajectory.holder == -1).all()


def test_refusals():
    with pytest.raises(ValueError, match="record: a differentiable search keeps no trajectory"):
        em.solve(GAMES, em.Pooled(), em.QuantalUser(5.0), em.SmoothPlay(), key=0, record=True)
