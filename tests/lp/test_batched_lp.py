"""The batched solvers: against HiGHS and scipy on LPs made to be degenerate, and what they must not claim."""

import jax
import numpy as np
import pytest
from lps import random_lps
from scipy.optimize import linprog, nnls
from support.hard_cases import HARD

import emalign_jax as em
from emalign_jax.exact.alignment.fits import verify
from emalign_jax.exact.guarantees import bounds
from emalign_jax.exact.obedience import frontier
from emalign_jax.lp import batched_lp, least_squares, simplex
from emalign_jax.lp.highs import KeptLP
from emalign_jax.protocols.standard_units import standard_form

pytestmark = pytest.mark.host_only

SELECTION, RATIONAL = em.Selection(), em.RationalUser()


def highs(cost, rows, right, equal, free=()):
    lower = np.full(len(right), -np.inf)
    lower[:equal] = right[:equal]
    col_lower = np.zeros(len(cost))
    col_lower[list(free)] = -np.inf
    return KeptLP(rows, lower, right, cost=cost, col_lower=col_lower).solve()


@pytest.mark.parametrize(
    "count", [100, pytest.param(400, marks=pytest.mark.slow), pytest.param(10_000, marks=pytest.mark.nightly)]
)
def test_random_lps_agree_with_highs(count):
    """General, integer, sparse, with repeated rows, and with nearly all constraints active, in four shapes."""
    for cost, rows, right, equal in random_lps(count, seed=1):
        found = batched_lp.maximise(cost, rows, right, equal=equal)
        for k in range(len(cost)):
            exact = highs(cost[k], rows[k], right[k], equal)
            assert found.proved[k] or not exact.optimal  # nothing falls back here
            assert not exact.optimal or abs(found.value[k] - exact.value) <= 1e-7 * (1 + abs(exact.value))


@pytest.mark.slow
def test_free_columns_and_lps_without_an_optimum():
    rng = np.random.default_rng(0)
    rows, x, price = rng.normal(size=(60, 8, 5)), rng.normal(size=(60, 5)), rng.random((60, 8))
    cost, right = (rows * price[..., None]).sum(1), (rows * x[:, None]).sum(2) + 0.1
    free = (0, 1, 2, 3, 4)
    found = batched_lp.maximise(cost, rows, right, free=free)
    assert found.proved.all()
    for k in range(60):
        answer = linprog(-cost[k], rows[k], right[k], bounds=(None, None))
        assert found.value[k] == pytest.approx(-answer.fun, abs=1e-7)
    # x <= -1, x >= 0 has no point; maximise x with only -x <= 0 has no end
    lost = batched_lp.maximise([[1.0], [1.0]], [[[1.0]], [[-1.0]]], [[-1.0], [0.0]])
    assert lost.status.tolist() == [simplex.INFEASIBLE, simplex.UNBOUNDED]
    assert not lost.proved.any()
    assert np.isnan(lost.value).all()
    with pytest.raises(ValueError, match="finite"):
        batched_lp.maximise([[np.nan]], [[[1.0]]], [[1.0]])


def test_errors_see_what_is_wrong():
    """An answer that is off by 1e-6 in its point, its multipliers or its value is not proved."""
    (cost, rows, right, equal), *_ = random_lps(80, seed=2)
    found = batched_lp.maximise(cost, rows, right, equal=equal)
    assert found.proved.all()
    up, down = found.x + 1e-6, found.dual - 1e-6
    for x, dual in ((up, found.dual), (found.x, down), (found.x * (1 + 1e-6), found.dual)):
        moved = ~((x == found.x).all(1) & (dual == found.dual).all(1))
        assert (batched_lp.errors(cost, rows, right, x, dual, equal, ())[moved] > batched_lp.TOLERANCE).all()


@pytest.mark.slow
@pytest.mark.parametrize("simplex_weights", [False, True])
def test_least_squares_agree_with_scipy(simplex_weights):
    rng = np.random.default_rng(0)
    tables, targets = rng.normal(size=(30, 12)), rng.normal(size=(70, 30))
    tables[:, 5] = tables[:, 4]  # two agents are one
    targets[0] = tables @ rng.dirichlet(np.ones(12))  # an exact fit
    w = least_squares.solve(least_squares.prepare(tables.T @ tables, simplex_weights), targets @ tables)
    for k, goal in enumerate(targets):
        if simplex_weights:
            v = nnls(np.concatenate([tables - goal[:, None], np.full((1, 12), 10.0)]), np.eye(31)[-1])[0]
            best = np.linalg.norm(tables @ (v / v.sum()) - goal)
        else:
            best = nnls(tables, goal)[1]
        assert np.linalg.norm(tables @ w[k] - goal) == pytest.approx(best, abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("rule", [("simplex", "none"), ("cone", "constant"), ("simplex", "per_state")])
def test_fits_together_are_fits_one_by_one(rule):
    rng = np.random.default_rng(1)
    agents, users = rng.normal(size=(6, 3, 5)), rng.normal(size=(20, 3, 5))
    users[0] = agents[0]  # error 0
    users[1] = np.nan
    words = {"weights": rule[0], "offset": rule[1], "norm": "l2"}
    one, many = (em.align(users, agents, lp=lp, **words) for lp in ("highs", "batched"))
    np.testing.assert_array_equal(one.solved, many.solved)
    np.testing.assert_allclose(many.error, one.error, atol=1e-9)
    np.testing.assert_allclose(many.weights, one.weights, atol=1e-6)
    verdict = verify(many, users, agents, **words)
    assert verdict[many.solved].all()


@pytest.mark.slow
def test_what_fails_its_check_is_done_by_highs_and_counted(monkeypatch):
    games = em.random_games(jax.random.key(0), 6, family="shared_bias", agents=2, states=3, actions=3)
    words = {"start": "monopolist", "key": jax.random.key(0)}
    exact = em.solve(games, SELECTION, RATIONAL, em.BestResponseDynamics(), lp="highs", **words)
    third = standard_form(em.reduce_game(games, np), SELECTION, RATIONAL).game.user[2]
    trace = frontier.trace

    def doubted(game, *rest, **more):
        found, right = trace(game, *rest, **more), ~np.isclose(game.user, third).all((1, 2, 3))
        return found._replace(proved=found.proved & right[:, None])

    monkeypatch.setattr(frontier, "trace", doubted)
    found = em.solve(games, SELECTION, RATIONAL, em.BestResponseDynamics(), lp="batched", **words)
    assert (found.stats["lp_fallbacks"], exact.stats["lp_fallbacks"]) == (1, 0)
    assert (found.certificate.relative_gain <= 1e-3).all()
    np.testing.assert_allclose(found.certificate.payoff_range, exact.certificate.payoff_range, atol=1e-8)


def hard_games():
    """Games of equal size together, the size that has most."""
    sizes = {}
    for game in HARD.values():
        shape = (*game.prior.shape, *game.agent_utilities.shape)
        sizes.setdefault(shape, []).append(game)
    for games in sizes.values():
        if len(games) > 3:  # each size is compiled
            yield em.Game(*(np.stack(x) for x in zip(*(jax.tree.leaves(g) for g in games), strict=True)))


@pytest.mark.slow
def test_stability_of_hard_games_is_that_of_highs():
    fallback = total = 0
    for games in hard_games():
        found, exact = (em.stability(games, lp=lp) for lp in ("batched", "highs"))
        np.testing.assert_array_equal(found.result, exact.result)
        for field in ("worst", "best", "no_information", "full_information", "payoff_range"):
            np.testing.assert_allclose(getattr(found, field), getattr(exact, field), rtol=1e-8, atol=1e-7)
        for k in range(len(exact.worst)):
            v, gap, _ = found.profile((k,))
            at, gaps, _ = exact.profile((k,))
            inside = at < exact.full_information[k] - 1e-6
            np.testing.assert_allclose(
                np.interp(at, v, gap)[inside], gaps[inside], atol=1e-6 * max(exact.payoff_range[k].sum(), 1e-9)
            )
        fallback, total = fallback + found.fallback.sum(), total + len(exact.worst)
    assert fallback < total / 2  # the batched solver did most of them


def test_curves_are_bounded_by_their_multipliers():
    """No distribution that a scheme induces lies above a curve: random schemes do not, and distributions offered
    between breakpoints are worth what was asked for."""
    games = em.random_games(jax.random.key(0), 16, family="noise", agents=2, states=3, actions=3)
    game = standard_form(em.reduce_game(games, np), SELECTION, RATIONAL).game
    curves = frontier.trace(game, game.agents)
    assert curves.proved.all()
    rng = np.random.default_rng(0)
    n = np.arange(16)
    for _ in range(40):
        schemes = rng.dirichlet(np.full(3, 0.3), (16, 3))
        totals = np.einsum("nbs,nba->nsa", schemes, game.user[:, 0])
        told = np.einsum("nbs,nkba->nksa", schemes, game.agents[:, :, 0])
        choice = totals.argmax(-1)
        value = totals.max(-1).sum(-1)
        paid = np.take_along_axis(told, choice[:, None, :, None], 3).sum((2, 3))
        assert (paid <= curves.pay(n, np.repeat(value[:, None], 2, 1))[0] + 1e-9).all()
        first, last = curves.user_value[:, 0, 0], curves.user_value[:, 0, -1]
        goal = first + rng.random(16) * (last - first)
        offered = curves.offer(n, 0 * n, goal)
        assert np.einsum("nbr,nbr->n", offered, frontier.spread(game.user)) == pytest.approx(
            np.maximum(goal, curves.user_value[:, 0, 0]), abs=1e-9
        )


@pytest.mark.slow
def test_certify_batched_is_certify_by_highs():
    games = em.random_games(jax.random.key(2), 12, family="goal", agents=3, states=3, actions=3, user_features=2)
    schemes = np.random.default_rng(0).dirichlet(np.ones(3), (12, 3, 3))
    found, exact = (em.certify(games, schemes, SELECTION, RATIONAL, lp=lp) for lp in ("batched", "highs"))
    np.testing.assert_array_equal(found.result, exact.result)
    for field in ("user", "agents", "gain_lower", "gain_upper", "payoff_range", "guarantee", "theorem"):
        np.testing.assert_allclose(getattr(found, field), getattr(exact, field), atol=1e-7)


@pytest.mark.slow
def test_words_and_sizes():
    games = em.random_games(jax.random.key(0), 2, agents=2, states=2, actions=2)
    for call in (
        lambda: em.stability(games, lp="fast"),
        lambda: em.certify(games, em.random_schemes(jax.random.key(0), 2, 2, 2, 2), SELECTION, RATIONAL, lp="fast"),
        lambda: em.align(np.zeros((2, 2)), np.zeros((1, 2, 2)), lp="fast"),
        lambda: em.coverage(games, lp="fast"),
        lambda: em.solve(games, SELECTION, RATIONAL, key=jax.random.key(0), lp="fast"),
    ):
        with pytest.raises(ValueError, match="lp"):
            call()
    with pytest.raises(ValueError, match="lp"):
        em.stability(games, lp="batched", exact=True)
    with pytest.raises(ValueError, match="lp"):
        em.worst_case(games, lp="batched", exact=True)
    here = games, np.full((2, 2, 2, 2), 0.5), em.Pooled(), em.QuantalUser(5.0)  # where only the guarantees are LPs
    np.testing.assert_allclose(em.certify(*here, lp="batched").guarantee, em.certify(*here).guarantee, atol=1e-9)


GAINS = np.random.default_rng(3).uniform(0, 0.2, (24, 3)) * (np.arange(24) % 2)[:, None]


@pytest.mark.slow
@pytest.mark.parametrize("user", [RATIONAL, em.QuantalUser(6.0)], ids=["rational", "quantal"])
def test_batched_worst_distributions_are_those_of_highs(user):
    games = em.random_games(jax.random.key(3), 24, family="goal", agents=3, states=3, actions=3, user_features=2)
    words = {"obedience": user is RATIONAL}
    many, one = (em.coverage(games, GAINS, user, lp=lp, **words) for lp in ("batched", "highs"))
    assert not many.fallback.any()
    for field in ("slack", "full_information"):
        np.testing.assert_allclose(getattr(many, field), getattr(one, field), atol=1e-7)
    np.testing.assert_allclose(many.by_cell.sum((1, 2)), many.slack, atol=1e-12)
    least = [em.worst_case(games, GAINS, user, lp=lp) for lp in ("batched", "highs")]
    np.testing.assert_allclose(*least, atol=1e-7)
    np.testing.assert_allclose(least[0], many.full_information - many.slack - (many.weights * GAINS).sum(1), atol=1e-7)


@pytest.mark.slow
def test_theorems_together_are_those_of_highs():
    rng = np.random.default_rng(0)
    u, U, full = rng.normal(size=(20, 3, 4)), rng.normal(size=(20, 2, 3, 4)), rng.normal(size=20)
    U[0], U[1, 0], U[2, 1] = u[0], 0, U[2, 0]  # the hull, an agent to whom nothing matters, two who are one
    gains = rng.uniform(0, 1, (20, 2)) * (rng.random((20, 2)) < 0.5)
    many, one = (bounds.theorem_bounds(u, U, full, gains, lp=lp) for lp in ("batched", "highs"))
    for n, (found, exact) in enumerate(zip(many, one, strict=True)):
        assert not found.fallback
        assert found.value == pytest.approx(exact.value, abs=1e-7)
        misfit = np.tensordot(found.weights, U[n], 1) - u[n]  # what is said of the weights is true of them
        assert found.value == pytest.approx(full[n] - np.ptp(misfit, axis=0).max() - found.weights @ gains[n], abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("rule", [("simplex", "per_state"), ("cone", "constant"), ("simplex", "none")])
def test_sup_norm_fits_together_are_those_of_highs(rule):
    rng = np.random.default_rng(1)
    agents, users = rng.normal(size=(20, 4, 3, 3)), rng.normal(size=(20, 3, 3))
    users[0], users[1, 0, 0] = agents[0, 0], np.nan
    agents[2, 1], users[3:5], agents[5, 2] = agents[2, 0], 1e6 * users[3:5], 0
    words = {"weights": rule[0], "offset": rule[1], "norm": "sup"}
    for others in (agents, agents[2]):  # each target has agents of its own, or all share them
        one, many = (em.align(users, others, lp=lp, **words) for lp in ("highs", "batched"))
        np.testing.assert_array_equal(one.solved, many.solved)
        assert not many.fallback.any()
        np.testing.assert_allclose(many.error, one.error, rtol=1e-9, atol=1e-9)
        assert verify(many, users, others, **words)[many.solved].all()


@pytest.mark.slow
def test_multipliers_that_prove_too_little_are_left_to_highs_and_counted(monkeypatch):
    """Of every third LP the solver returns multipliers that are 1 % off, and claims that they are proved."""
    maximise = batched_lp.maximise

    def wrong(*args, **words):
        found = maximise(*args, **words)
        off = np.where(np.arange(len(found.dual)) % 3 == 0, 0.99, 1.0)[:, None]
        return found._replace(dual=found.dual * off)

    monkeypatch.setattr(batched_lp, "maximise", wrong)
    games = em.random_games(jax.random.key(3), 24, family="goal", agents=3, states=3, actions=3, user_features=2)
    third = np.arange(24) % 3 == 0
    many, one = (em.coverage(games, 0.1, obedience=True, lp=lp) for lp in ("batched", "highs"))
    assert many.fallback[third].any()
    assert not many.fallback[~third].any()
    np.testing.assert_allclose(many.slack, one.slack, atol=1e-7)
    schemes = np.random.default_rng(0).dirichlet(np.ones(3), (24, 3, 3))
    many, one = (em.certify(games, schemes, SELECTION, RATIONAL, lp=lp) for lp in ("batched", "highs"))
    assert many.fallback[third].any()
    assert not one.fallback.any()
    for field in ("guarantee", "theorem"):
        np.testing.assert_allclose(getattr(many, field), getattr(one, field), atol=1e-7)
    words = {"weights": "cone", "offset": "per_state", "lp": "batched"}
    found = em.align(games.user_utility, games.agent_utilities, **words)
    assert found.fallback[third].any()
    assert not found.fallback[~third].any()
    assert (found.gap <= 1e-9).all()


def test_a_curve_that_the_bounds_of_probabilities_cost_its_pivots():
    """The 126th game has bounds from 3e-5 to 1, with which one agent's curve ends too early."""
    games = em.random_games(0, 1, first=125, information_worth=0.0)
    game = standard_form(em.reduce_game(games, np), SELECTION, RATIONAL).game
    once = frontier._trace(game, game.agents, np.ones(5), np.ones((1, 1), bool), 0.0, plain=False)
    again = frontier.trace(game, game.agents)
    assert again.proved.all()
    agent = int(once.proved[0].argmin())
    assert not once.proved[0, agent]
    kept = once.count[0, agent]
    values = once.user_value[0, agent, :kept]
    paid = again.pay(np.zeros(kept, int), np.repeat(values[:, None], 5, 1))[0][:, agent]
    np.testing.assert_allclose(paid, once.paid[0, agent, :kept], atol=1e-9)  # where both are, they are the same
    assert again.user_value[0, agent, -1] == pytest.approx(game.user.max(-1).sum(), abs=1e-9)
