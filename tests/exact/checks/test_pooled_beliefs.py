"""Pooled in batches: against one belief LP after the other, and against deviations one can try."""

import jax
import numpy as np
import pytest
from support.beliefs import BeliefProblem, concavify
from support.games import batch_of, check, checks, random_game

import emalign_jax as em
from emalign_jax.equilibrium.search import Search
from emalign_jax.exact.checks.pooled_beliefs import PooledBeliefs
from emalign_jax.exact.responses import pooled_payoffs
from emalign_jax.result import Result

pytestmark = pytest.mark.host_only

COUNT, XB, M = 20, 3, 3
AT = np.arange(COUNT)
USER = em.QuantalUser(8.0)


CASES = {
    "K = 2, XA = 1": (2, 1, USER),
    "K = 3, XA = 2": (3, 2, USER),
    "rational": (2, 2, em.RationalUser()),
    "rational, lowest ties": (2, 1, em.RationalUser("lowest")),
}


@pytest.fixture(scope="module", params=list(CASES))
def both(request):
    """The games, and their checks compiled and in NumPy."""
    K, XA, user = CASES[request.param]
    games = batch_of([random_game(seed, K=K, XA=XA) for seed in range(COUNT)])
    found = [checks(games, em.Pooled(), user, messages=M, lp=lp) for lp in ("batched", "highs")]
    assert all(isinstance(one, PooledBeliefs) for one in found)
    assert [one.compiled for one in found] == [True, False]
    return games, *found


def error(found):
    """Payoffs of a rational user's schemes may differ by what the tie tolerance and beliefs beside kinks are worth."""
    return 2e-6 if found.user.is_smooth else 1e-4


def profiles(K):
    rng = np.random.default_rng(K)
    spread = np.array([1.0, 0.3, 0.05])[AT % 3]  # The last ones are nearly deterministic.
    return np.array([rng.dirichlet(np.full(M, c), (K, XB)) for c in spread])


@pytest.mark.slow
def test_compiled_kernels_find_what_numpy_finds(both):
    _, compiled, plain = both
    schemes = profiles(compiled.K)
    first, second = (some.examine(AT, schemes, 1e-6) for some in (compiled, plain))
    ranges = compiled.facts(AT).payoff_range
    np.testing.assert_allclose(first.user, second.user, rtol=0, atol=1e-12)
    np.testing.assert_allclose(first.gains, second.gains, rtol=0, atol=error(compiled))
    for one in (first, second):
        closed = one.upper - one.gains <= error(compiled) * ranges + 1e-8
        # Where ties are broken against an agent, its supremum may be approached by no belief that is tried.
        assert closed.mean() > 0.9 if getattr(compiled.user, "ties", "agents") != "agents" else closed.all()
        assert (one.upper >= one.gains).all()
    assert (first.upper >= second.gains - 1e-8).all()
    assert (second.upper >= first.gains - 1e-8).all()
    np.testing.assert_allclose(ranges, plain.facts(AT).payoff_range, rtol=error(compiled), atol=2e-8)
    assert first.gains.max() > 0.01  # else the comparison says nothing


@pytest.mark.slow
def test_one_after_the_other(both):
    games, compiled, _ = both
    schemes = profiles(compiled.K)
    found = compiled.examine(AT, schemes, 1e-6)
    for k in range(0, COUNT, 3):
        alone = check(games[k], em.Pooled(), USER if compiled.user.is_smooth else compiled.user)
        best = [one.value for one in alone.deviations(schemes[k], range(compiled.K), 1e-6)]
        form = compiled.form_of(AT)
        mine = form.agent_unit[k] * (found.agents[k] + found.gains[k]) + form.agent_zero[k]
        raw = alone.form.agent_unit * np.array(best) + alone.form.agent_zero
        np.testing.assert_allclose(mine, np.maximum(raw, form.agent_unit[k] * found.agents[k] + form.agent_zero[k]),
                                   rtol=0, atol=error(compiled))  # fmt: skip


def deviations_tried(rng, schemes, agent, present):
    """Schemes of one agent: at random, pure, and near the present one."""
    at_random = [rng.dirichlet(np.full(M, c), XB) for c in (0.1, 0.3, 1.0) for _ in range(30)]
    near = [0.95 * present + 0.05 * one for one in at_random]
    for scheme in [*at_random, *near]:
        profile = schemes.copy()
        profile[agent] = scheme
        yield profile


@pytest.mark.slow
def test_no_deviation_pays_more_than_an_upper_bound(both):
    _, compiled, _ = both
    schemes, rng = profiles(compiled.K), np.random.default_rng(5)
    found = compiled.examine(AT, schemes, 1e-3)
    close = 0
    for k in AT:
        game = compiled.game.at(k)
        user = jax.tree.map(lambda x, k=k: x[k], compiled.users)
        for i in range(compiled.K):
            best = max(
                pooled_payoffs(game, profile, user)[1][i]
                for profile in deviations_tried(rng, schemes[k], i, schemes[k, i])
            )
            upper = found.agents[k, i] + found.upper[k, i]
            assert best <= upper + 1e-10
            close += best >= upper - 0.2 * compiled.facts(AT).payoff_range[k, i]
    assert close > COUNT // 2  # The attack is a serious one.


@pytest.mark.slow
def test_best_responses_attain_what_is_said(both):
    _, compiled, _ = both
    schemes, agents = profiles(compiled.K), AT % compiled.K
    found = compiled.examine(AT, schemes)
    moved = schemes.copy()
    moved[AT, agents] = compiled.best_responses(AT, schemes, found, agents)
    after = compiled.examine(AT, moved)
    wanted = (found.agents + found.gains)[AT, agents]
    np.testing.assert_allclose(
        np.maximum(after.agents[AT, agents], found.agents[AT, agents]), wanted, rtol=0, atol=1e-9
    )
    assert (after.gains[AT, agents] <= error(compiled)).all()


@pytest.mark.slow
def test_a_move_is_judged_as_the_profile_it_leads_to(both):
    _, compiled, _ = both
    schemes, agents, tolerance = profiles(compiled.K), AT % compiled.K, 0.02
    before = compiled.examine(AT, schemes, None, tolerance)
    moved = schemes.copy()
    moved[AT, agents] = compiled.best_responses(AT, schemes, before, agents)
    after = compiled.after_move(AT, moved, before, agents, tolerance)
    whole = compiled.examine(AT, moved)
    np.testing.assert_allclose(after.agents, whole.agents, rtol=0, atol=1e-12)
    # Gains are known well enough to tell whether they are above the tolerance; where they are, nearly all is found.
    sure = np.abs(whole.worst - tolerance) > tolerance / 2
    assert ((after.worst <= tolerance) == (whole.worst <= tolerance))[sure].all()
    assert (after.worst <= whole.worst + error(compiled)).all()


@pytest.mark.slow
def test_proofs_of_a_tolerance_are_proofs(both):
    """What `examine` with a tolerance proves, the check with a narrow bracket confirms."""
    games, compiled, _ = both
    some = AT[:8]  # The narrow bracket takes a second a game.
    user = jax.tree.map(lambda x: x[some], compiled.user)
    schemes = em.solve(games[: len(some)], em.Pooled(), user, key=0, lp="batched").schemes
    found = compiled.examine(some, schemes, 1e-4, 1e-3)
    narrow = compiled.examine(some, schemes, 1e-5)
    ranges = compiled.facts(some).payoff_range
    proved = (found.upper <= 1e-3 * ranges + 1e-8).all(1)
    assert proved.sum() >= len(some) - 1
    assert (found.upper[proved] >= narrow.gains[proved] - 1e-9).all()
    assert (narrow.gains[proved] <= 1e-3 * ranges[proved] + 1e-8).all()


@pytest.mark.slow
@pytest.mark.parametrize("user", [USER, em.RationalUser("lowest")], ids=["quantal", "rational"])
def test_a_game_is_checked_alike_in_any_company(user):
    """Others with more messages in use, and so more kinks, change no answer."""
    games = [random_game(seed, K=2, XA=2, XB=4) for seed in range(5)]
    rng = np.random.default_rng(0)
    silent = np.zeros((4, 4))
    silent[:, 0] = 1
    schemes = np.array([[silent, silent], *([one, silent] for one in rng.dirichlet(np.ones(4), (3, 4)))])
    schemes = np.concatenate([schemes, rng.dirichlet(np.ones(4), (1, 2, 4))])
    together = em.certify(batch_of(games), schemes, em.Pooled(), user, lp="batched")
    for k in range(4):
        alone = em.certify(games[k], schemes[k], em.Pooled(), user, lp="highs")
        for name in ("user", "agents", "gain_lower", "gain_upper", "payoff_range"):
            value = getattr(alone, name)
            np.testing.assert_allclose(getattr(together, name)[k], value, rtol=0, atol=2e-4, err_msg=name)
        assert together.closed[k] == alone.closed


@pytest.mark.parametrize("ties", ["agents", "lowest"])
def test_small_stakes_of_a_rational_user_are_stakes(ties):
    """Types that differ in which action is better, by little, are not one type. Silence pays .1 here."""
    mass = np.array([[0.3, 0.3], [0.15, 0.15], [0.05, 0.05]])
    for stake in (1e-3, 1e-12, 1e-15):
        user, own = np.zeros((3, 2, 2)), np.zeros((3, 2, 2))
        user[0, :, 0], user[1, :, 0], user[2, :, 1] = mass[0], stake * mass[1], stake * mass[2]
        own[1:, :, 1] = mass[1:]
        problem = BeliefProblem(mass, user, own, em.RationalUser(ties))
        found = concavify(problem, np.eye(2), bracket=1e-6, work=10**9)
        assert found.value == pytest.approx(0.1, abs=1e-9)
        assert found.upper == pytest.approx(0.1, abs=1e-6)


@pytest.mark.slow
def test_an_x_b_that_cannot_occur():
    game = random_game(0)
    prior = np.array(game.prior)
    prior[:, 1] = 0
    rare = em.Game(prior / prior.sum(), game.user_utility, game.agent_utilities)
    games = batch_of([rare, game])
    schemes = np.random.default_rng(0).dirichlet(np.ones(M), (2, 2, XB))
    for lp in ("batched", "highs"):
        found = em.certify(games, schemes, em.Pooled(), USER, lp=lp)
        assert found.closed.all()
    less = em.Game(np.delete(rare.prior, 1, 1), rare.user_utility, rare.agent_utilities)
    alone = em.certify(less, np.delete(schemes[0], 1, 1), em.Pooled(), USER)
    np.testing.assert_allclose(found.gain_lower[0], alone.gain_lower, rtol=0, atol=1e-7)


@pytest.mark.slow
def test_copies_end_with_one_profile_a_game(monkeypatch):
    """Games that few starts lead to equilibria are searched side by side; each keeps the best of its copies."""
    games, user = em.random_games(3, 40, family="noise", agents=2, states=3, actions=4), em.QuantalUser(40.0)
    solver = em.GradientPlay(steps=20, best_responses=12, tolerance=1e-7)
    split = []
    wanted = Search.split
    monkeypatch.setattr(Search, "split", lambda self, *x: split.append(x) or wanted(self, *x))
    solution = em.solve(games, em.Pooled(), user, solver, key=0, starts=2, lp="batched")
    assert len(split) == 1
    assert split[0][1] > 1
    assert solution.schemes.shape[:2] == solution.result.shape == (2, 40)
    assert len(np.unique(solution.result)) > 1, "some games are hard"
    again = em.certify(games, solution.schemes, em.Pooled(), user, tolerance=1e-7, lp="batched")
    done = solution.result == Result.CERTIFIED
    assert (again.result[done] == Result.CERTIFIED).mean() > 0.9
    assert (again.result[solution.result == Result.ABOVE_TOLERANCE] == Result.ABOVE_TOLERANCE).all()
    np.testing.assert_allclose(again.user, solution.user, rtol=0, atol=1e-12)
    np.testing.assert_allclose(again.guarantee[done], solution.certificate.guarantee[done], rtol=0, atol=1e-6)
