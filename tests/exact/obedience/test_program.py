"""The obedience LP against closed forms, grids of schemes and linprog; `compress`."""

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog
from support.games import random_game, reduced

import emalign_jax as em
from emalign_jax.exact.obedience.fewer_messages import compress
from emalign_jax.exact.obedience.program import MAX_COLUMNS, ObedienceLP, check_size
from emalign_jax.exact.responses import selection_table

pytestmark = pytest.mark.host_only

# LP feasibility 1e-9, a few dozen rows, numbers of size 1
EXACT = 1e-7


def attained(game, agent, scheme):
    """(user value, agent's payoff) of `scheme`, with ties for the agent; the tie tolerance 1e-8 covers the feasibility
    tolerance of the LP and is too small to be worth anything."""
    table = selection_table(game, np.repeat(scheme[None], len(game.agents), 0), em.RationalUser("agents", 1e-8))
    return table.values[agent], table.payoffs[agent, agent]


def by_linprog(game, agent, value_at_least):
    """f_agent(v), built from the game's own arrays: one variable a (x_B, advice to every x_A)."""
    p, u, own = game.prior, game.user_utility, game.agent_utilities[agent]
    XA, XB, Y = p.shape
    A = len(u)
    advices = list(itertools.product(range(A), repeat=XA))
    columns = list(itertools.product(range(XB), advices))

    def gets(table, xb, advice):
        return sum(p[xa, xb, y] * table[advice[xa], y] for xa in range(XA) for y in range(Y))

    less_than_zero = []
    for advice, xa, b in itertools.product(advices, range(XA), range(A)):
        temptation = [sum(p[xa, xb, y] * (u[b, y] - u[advice[xa], y]) for y in range(Y)) for xb in range(XB)]
        less_than_zero.append([temptation[xb] if r == advice else 0.0 for xb, r in columns])
    result = linprog(
        [-gets(own, xb, r) for xb, r in columns],
        A_ub=[*less_than_zero, [-gets(u, xb, r) for xb, r in columns]],
        b_ub=[0.0] * len(less_than_zero) + [-value_at_least],
        A_eq=[[float(xb == row) for xb, _ in columns] for row in range(XB)],
        b_eq=[1.0] * XB,
    )
    return -result.fun if result.status == 0 else np.nan


@pytest.mark.parametrize("prior", [0.05, 0.15, 0.3, 0.45])
def test_judge_in_closed_form(prior):
    """The agent gets 2p and the user 1 - p; at user value v they share 1 + p, so f(v) = 1 + p - v."""
    game = reduced(em.catalog.judge(prior))
    lp = ObedienceLP(game)
    best = lp.best(game.agents[0])
    assert best.value == pytest.approx(2 * prior, abs=EXACT)
    sent = best.scheme * np.array([[1 - prior], [prior]])
    assert sorted(sent[1] / sent.sum(0)) == pytest.approx([0, 0.5], abs=EXACT)
    assert attained(game, 0, best.scheme) == pytest.approx((1 - prior, 2 * prior), abs=EXACT)
    for value in np.linspace(1 - prior, 1, 7)[:-1]:
        assert lp.best(game.agents[0], value).value == pytest.approx(1 + prior - value, abs=EXACT)


@pytest.mark.parametrize("prior", [0.1, 0.3])
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_judge_by_brute_force(prior, value):
    """All two-message schemes on a grid that contains the optimum; `value` of the way from 1 - p to 1."""
    game = reduced(em.catalog.judge(prior))
    lie, tell = np.meshgrid(np.linspace(0, 1, 631), np.linspace(0, 1, 61))  # P(message | innocent), P(. | guilty)
    convicts = prior * tell >= (1 - prior) * lie - 1e-12
    convicts_else = prior * (1 - tell) >= (1 - prior) * (1 - lie) - 1e-12
    sent = (1 - prior) * lie + prior * tell
    agent = convicts * sent + convicts_else * (1 - sent)
    user = np.where(convicts, prior * tell, (1 - prior) * lie) + np.where(
        convicts_else, prior * (1 - tell), (1 - prior) * (1 - lie)
    )
    least = 1 - prior + value * prior
    best = agent[user >= least - 1e-12].max()
    exact = ObedienceLP(game).best(game.agents[0], least).value
    assert exact >= best - EXACT
    assert exact - best < 3e-3  # two cells of the grid


@pytest.mark.parametrize(("XA", "seed"), [(1, 0), (1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (2, 6), (2, 7)])
def test_random_games_by_linprog(XA, seed):
    game = random_game(seed, XA=XA)
    small = reduced(game)
    lp = ObedienceLP(small)
    none, full = small.user.sum(1).max(-1).sum(), small.user.max(-1).sum()
    for value in [-np.inf, *np.linspace(none - 0.01, full, 5)[:-1], full + 0.1]:
        for agent in range(2):
            found = lp.best(small.agents[agent], value)
            wanted = by_linprog(game, agent, value if np.isfinite(value) else -100.0)
            assert found.optimal == np.isfinite(wanted) == (value < full)
            if not found.optimal:
                assert np.isnan(found.value)
                assert found.status == "Infeasible"
                continue
            assert found.value == pytest.approx(wanted, abs=EXACT)
            assert found.scheme.shape[1] <= small.mass.shape[1] + 1
            np.testing.assert_allclose(found.scheme.sum(1), 1, atol=1e-12)
            assert found.scheme.min() >= 0
            user, own = attained(small, agent, found.scheme)
            assert own == pytest.approx(found.value, abs=1e-6)  # the tie tolerance, and what is cut below 1e-11
            assert user >= value - 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_f_is_concave_and_does_not_increase(seed):
    game = reduced(random_game(seed, XB=4, Y=4))
    lp = ObedienceLP(game)
    none, full = game.user.sum(1).max(-1).sum(), game.user.max(-1).sum()
    f = np.array([lp.best(game.agents[0], v).value for v in np.linspace(none - 0.1, full - 1e-9, 41)])
    assert (np.diff(f) <= EXACT).all()
    assert (np.diff(f, 2) <= EXACT).all()
    assert f[0] == pytest.approx(lp.best(game.agents[0]).value, abs=EXACT)
    assert f[0] - f[-1] > 0.01  # the claim is not about a constant


def test_many_actions_need_few_messages():
    """12 actions, XB = 2: an LP vertex may recommend many actions, 3 messages suffice and pay the same."""
    for seed in range(5):
        game = reduced(random_game(seed, XB=2, Y=4, A=12))
        lp = ObedienceLP(game)
        none, full = game.user.sum(1).max(-1).sum(), game.user.max(-1).sum()
        for share in (0, 0.3, 0.7):
            value = none + share * (full - none)
            found = lp.best(game.agents[0], value)
            assert found.scheme.shape[1] <= 3
            user, own = attained(game, 0, found.scheme)
            assert own == pytest.approx(found.value, abs=1e-6)
            assert user >= value - 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_compress(seed):
    """At most XB + 1 of the messages remain, with their beliefs, and neither agent nor user loses."""
    rng = np.random.default_rng(seed)
    scheme = rng.dirichlet(np.ones(9), 3)
    scheme[:, 4] = 0  # never sent
    scheme /= scheme.sum(1, keepdims=True)
    own, user = rng.normal(size=9) * scheme.sum(0), rng.normal(size=9) * scheme.sum(0)
    small = compress(scheme, own, user)
    assert small.shape[1] <= 4
    np.testing.assert_allclose(small.sum(1), 1, atol=1e-12)
    kept_own, kept_user, live = 0.0, 0.0, [k for k in range(9) if k != 4]
    for message in small.T:
        ratio = [message / scheme[:, k] for k in live]
        k = int(np.argmin([np.ptp(r) for r in ratio]))
        assert np.ptp(ratio[k]) < 1e-8  # a multiple of an old message: the same belief
        kept_own += ratio[k][0] * own[live[k]]
        kept_user += ratio[k][0] * user[live[k]]
    assert kept_own >= own.sum() - EXACT
    assert kept_user >= user.sum() - EXACT


def test_compress_leaves_small_schemes_alone():
    scheme = np.array([[0.2, 0.0, 0.8], [0.5, 0.0, 0.5]])
    np.testing.assert_array_equal(compress(scheme, np.ones(3), np.ones(3)), scheme[:, [0, 2]])


def test_size_limit():
    check_size(3, 4, 8)
    assert 8**3 * 4 <= MAX_COLUMNS < 8**3 * 9
    with pytest.raises(ValueError, match=r"XA = 3.*4608 columns"):
        check_size(3, 9, 8)
