"""Large games as markets: against `stability` in small games, and against markets known by hand at real sizes."""

import subprocess
import sys

import numpy as np
import pytest

import emalign_jax as em
from emalign_jax.equilibrium.monopolists import monopoly
from emalign_jax.exact.guarantees.worst_equilibrium import KnownPoints, first_zero
from emalign_jax.exact.obedience.curves import Point

pytestmark = pytest.mark.host_only

SIZES = [(2, 2, 3), (3, 3, 4), (4, 2, 5), (3, 4, 3)]


def random_game(seed: int, agents: int, actions: int, states: int, types: int = 1) -> em.Game:
    rng = np.random.default_rng(seed)
    prior = rng.dirichlet(np.ones(types * states * states)).reshape(types, states, states)
    user = rng.normal(size=(actions, states))
    bias = rng.normal(size=(agents, actions, 1)) + 0.3 * rng.normal(size=(agents, actions, states))
    return em.Game(prior, user, user + bias)


def table_game(user: np.ndarray, scores: np.ndarray) -> em.ReducedGame:
    """One prompt a state, all equally likely; user [n, A], scores [K, n, A]."""
    n = len(user)
    return em.ReducedGame(np.full((1, n), 1 / n), user[None] / n, scores[:, None] / n, user[None] / n)


@pytest.mark.parametrize("seed", range(12))
def test_agrees_with_the_equilibrium_set_of_small_games(seed):
    agents, actions, states = SIZES[seed % len(SIZES)]
    game = random_game(seed, agents, actions, states)
    market, exact = em.market(game), em.stability(game, lp="highs")
    assert market.worst == pytest.approx(float(exact.worst), abs=1e-7)
    assert market.best == pytest.approx(float(exact.best), abs=1e-9)
    assert market.none == pytest.approx(float(exact.no_information), abs=1e-12)
    assert market.full == pytest.approx(float(exact.full_information), abs=1e-12)
    assert market.guarantee == pytest.approx(float(em.worst_case(game)), abs=1e-7)
    assert market.slack == pytest.approx(float(em.coverage(game).slack), abs=1e-7)
    alone = monopoly(game, em.Selection(), em.RationalUser()).user
    np.testing.assert_allclose(market.monopoly, alone, atol=1e-6)
    for i in range(agents):
        rest = em.Game(game.prior, game.user_utility, np.delete(game.agent_utilities, i, 0))
        assert market.without[i] == pytest.approx(float(em.stability(rest, lp="highs").worst), abs=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_one_agent_decides_its_ties_for_or_against_the_user(seed):
    game = random_game(seed, 1, 3, 4)
    market, exact = em.market(game), em.stability(game, lp="highs")
    assert market.worst == pytest.approx(float(exact.worst), abs=1e-6)
    assert market.best == pytest.approx(float(exact.best), abs=1e-6)
    assert np.isnan(market.without).all()
    indifferent = em.Game(game.prior, game.user_utility, np.zeros_like(game.agent_utilities))
    market = em.market(indifferent)
    assert market.worst == pytest.approx(market.none, abs=1e-9)
    assert market.best == pytest.approx(market.full, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_states_that_tell_the_users_type_need_no_joint_recommendations(seed):
    game = random_game(seed, 3, 3, 6, types=2)
    topic = np.arange(6) % 2 == np.arange(2)[:, None]
    prior = np.where(topic[..., None], game.prior, 0)
    game = em.Game(prior / prior.sum(), game.user_utility, game.agent_utilities)
    solver = em.MarketSolver(game)
    assert len(solver._sets) == 3
    exact = em.stability(game, lp="highs")
    values = solver.values()
    assert values.worst == pytest.approx(float(exact.worst), abs=1e-7)
    assert values.guarantee == pytest.approx(float(em.worst_case(game)), abs=1e-7)
    assert values.slack == pytest.approx(float(em.coverage(game).slack), abs=1e-7)


@pytest.mark.parametrize("seed", range(2))
def test_types_that_states_do_not_tell(seed):
    game = random_game(seed, 3, 2, 4, types=2)
    assert em.market(game).worst == pytest.approx(float(em.stability(game, lp="highs").worst), abs=1e-7)


@pytest.mark.parametrize(
    ("states", "actions", "agents"), [(50, 2, 3), pytest.param(500, 4, 20, marks=pytest.mark.slow)]
)
def test_copies_of_one_biased_scorer_are_worth_the_monopoly(states, actions, agents):
    rng = np.random.default_rng(states)
    user = rng.normal(size=(states, actions))
    score = user + 0.4 * (np.arange(actions) == 1)
    chosen = score.argmax(1)
    # The agent's favourite action is obeyed, so that the agent, who needs no other, names it.
    for a in np.unique(chosen):
        assert user[chosen == a].sum(0).argmax() == a
    value = user[np.arange(states), chosen].mean()
    game = table_game(user, np.repeat(score[None], agents, 0))
    market = em.MarketSolver(game).values(without=True)
    np.testing.assert_allclose([*market.monopoly, market.worst, *market.without], value, atol=1e-6)
    assert market.best == pytest.approx(user.max(1).mean(), abs=1e-9)
    assert value < market.best - 1e-3


@pytest.mark.parametrize(
    ("states", "actions", "agents"), [(50, 2, 2), pytest.param(500, 4, 20, marks=pytest.mark.slow)]
)
def test_opposed_scorers_with_an_exact_hull_reveal_everything(states, actions, agents):
    rng = np.random.default_rng(states)
    user = rng.normal(size=(states, actions))
    bias = rng.normal(size=(agents // 2, states, actions))
    game = table_game(user, np.concatenate([user + bias, user - bias]))
    market = em.MarketSolver(game).values()
    full = user.max(1).mean()
    np.testing.assert_allclose([market.worst, market.best, market.guarantee], full, atol=1e-6)
    assert market.slack == pytest.approx(0, abs=1e-6)
    assert em.MarketSolver(game).transfers(full) == pytest.approx(0, abs=1e-6)


def test_subsets_are_the_markets_of_their_agents():
    game = random_game(5, 4, 3, 4)
    solver = em.MarketSolver(game)
    for subset in ([2, 0], [3], [1, 2, 3]):
        alone = em.Game(game.prior, game.user_utility, game.agent_utilities[subset])
        some, own = solver.values(subset), em.MarketSolver(alone).values()
        for name in ("worst", "best", "guarantee", "slack", "monopoly"):
            np.testing.assert_allclose(getattr(some, name), getattr(own, name), atol=1e-8)


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_the_least_transfers_just_secure_the_target(seed):
    rng = np.random.default_rng(seed)
    user = rng.normal(size=(6, 3))
    scores = user + rng.normal(size=(2, 1, 3)) + 0.2 * rng.normal(size=(2, 6, 3))
    game = em.Game(np.eye(6)[None] / 6, user.T, scores.swapaxes(1, 2))
    solver = em.MarketSolver(game)
    values = solver.values()
    assert values.slack > 0.01
    target = values.full - 0.4 * values.slack
    budget = solver.transfers(target)
    assert budget > 0
    enough, less = em.best_transfers(game, budget + 1e-6), em.best_transfers(game, 0.95 * budget)
    assert enough.guarantee >= target - 1e-6
    assert less.guarantee < target - 1e-6
    assert solver.transfers(values.full - values.slack - 1e-6) == pytest.approx(0, abs=1e-6)


class Bent:
    """The least of a few lines: a concave curve with its slopes, which counts how often it is evaluated."""

    def __init__(self, *lines):
        self.lines, self.calls = np.array(lines), 0

    def __call__(self, v):
        self.calls += 1
        values = self.lines[:, 0] + self.lines[:, 1] * v
        return Point(v, values.min(), self.lines[values.argmin(), 1])


@pytest.mark.parametrize("kink", [0.3, 0.71])
def test_an_isolated_zero_is_found(kink):
    """2 f - M touches 0 where M has its only kink, and V_full is not near it."""
    f = Bent([1.0, 0.0], [2.0, -1.0])
    joint = Bent([2 - 3 * kink, 3.0], [2 + 2 * kink, -2.0])
    curves = [KnownPoints(f, 0.0, 1.0) for _ in range(2)]
    assert first_zero(joint, curves, 0.0, 1.0) == pytest.approx(kink, abs=1e-9)
    lower = Bent([2 - 3 * kink - 1e-4, 3.0], [2 + 2 * kink - 1e-4, -2.0])
    assert first_zero(lower, curves, 0.0, 1.0) == 1.0


def test_an_interval_of_zeros_begins_where_it_begins():
    f = Bent([1.0, 0.0], [1.6, -1.0])
    joint = Bent([1.1, 3.0], [2.0, 0.0], [3.2, -2.0])
    assert first_zero(joint, [KnownPoints(f, 0.0, 1.0)] * 2, 0.0, 1.0) == pytest.approx(0.3, abs=1e-8)


def test_bad_input_is_told_in_one_line():
    game = random_game(0, 2, 2, 3)
    with pytest.raises(ValueError, match=r"^game: expected one game, got a batch"):
        em.market(em.Game(*(np.stack([x, x]) for x in (game.prior, game.user_utility, game.agent_utilities))))
    with pytest.raises(ValueError, match=r"^target: expected at most V_full = "):
        em.market(game, target=99.0)
    with pytest.raises(ValueError, match=r"^target: expected a finite number"):
        em.market(game, target=np.nan)
    with pytest.raises(ValueError, match=r"^agents: expected different numbers from 0 to 1, got \[0, 0\]"):
        em.MarketSolver(game).values([0, 0])
    with pytest.raises(ValueError, match=r"^game: expected finite numbers"):
        em.market(em.ReducedGame(*(np.full_like(x, np.nan) for x in em.reduce_game(game, np))))
    misread = em.reduce_game(game, np)._replace(welfare=np.zeros((1, 3, 2)))
    with pytest.raises(ValueError, match=r"^game: a market has a user who reads beliefs right"):
        em.market(misread)
    many = np.ones((20, 2, 1)) / 40
    with pytest.raises(ValueError, match=r"^game: A\^XA \* XB = \d+, the limit is"):
        em.market(em.Game(many, np.zeros((2, 1)), np.zeros((1, 2, 1))))


def test_first_models_of_two_threads_leave_standard_output_alone():
    """Each redirects standard output while it makes the first model of the process."""
    code = """
import threading
from emalign_jax.lp.highs import new_highs
threads = [threading.Thread(target=new_highs) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("still here")
"""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "still here\n"
