"""Selection with a quantal user in batches: compiled against NumPy, and against deviations one can try."""

import numpy as np
import pytest
from support import conversations as brute
from support.games import batch_of, checks, random_game, switched

import emalign_jax as em
from emalign_jax.exact.checks.selection_beliefs import SelectionBeliefs
from emalign_jax.exact.concavification.by_user import belief_lps
from emalign_jax.exact.concavification.problems import pooled_problems

pytestmark = pytest.mark.host_only

COUNT, K, XB, M = 12, 3, 3, 3
AT = np.arange(COUNT)
USER = em.QuantalUser(8.0)


@pytest.fixture(scope="module", params=[0.0, 0.1], ids=["sharp", "soft"])
def both(request):
    """The games, and their checks compiled and in NumPy."""
    protocol = em.Selection(np.full(COUNT, request.param))
    games = batch_of([random_game(seed, K=K, XA=2) for seed in range(COUNT)])
    found = [checks(games, protocol, USER, messages=M, lp=lp) for lp in ("batched", "highs")]
    assert all(isinstance(one, SelectionBeliefs) for one in found)
    assert [one.compiled for one in found] == [True, False]
    return games, *found


def profiles():
    rng = np.random.default_rng(0)
    return np.array([rng.dirichlet(np.full(M, c), (K, XB)) for c in np.array([1.0, 0.3, 0.05, 0.3])[AT % 4]])


@pytest.mark.slow
def test_compiled_kernels_find_what_numpy_finds(both):
    _, compiled, plain = both
    first, second = (some.examine(AT, profiles(), 1e-5) for some in (compiled, plain))
    np.testing.assert_allclose(first.user, second.user, rtol=0, atol=1e-12)
    np.testing.assert_allclose(first.gains, second.gains, rtol=0, atol=2e-5)
    for one in (first, second):
        closed = one.upper - one.gains <= 1.1e-5 * compiled.facts(AT).payoff_range + 1e-6
        assert closed.mean() > 0.9  # Where a rival offers nearly the most, a bound of the value decides.
        assert (one.upper >= one.gains).all()
    assert (first.upper >= second.gains - 1e-8).all()
    assert (second.upper >= first.gains - 1e-8).all()
    assert first.gains.max() > 0.01  # else the comparison says nothing


@pytest.mark.slow
def test_no_deviation_pays_more_than_an_upper_bound(both):
    games, compiled, _ = both
    schemes, rng, close = profiles(), np.random.default_rng(5), 0
    found, form, temperature = compiled.examine(AT, schemes, 1e-3), compiled.form_of(AT), 0.0 if compiled.sharp else 0.1
    for k in AT:
        for i in range(K):
            offers = [rng.dirichlet(np.full(M, c), XB) for c in (0.1, 0.3, 1.0) for _ in range(8)]
            tried = [*offers, np.eye(XB), *(0.9 * schemes[k, i] + 0.1 * one for one in offers)]
            paid = [brute.selection(games[k], switched(schemes[k], i, x), USER, temperature)[1][i] for x in tried]
            best = (max(paid) - form.agent_zero[k, i]) / form.agent_unit[k, i]
            upper = found.agents[k, i] + found.upper[k, i]
            assert best <= upper + 1e-9
            close += best >= upper - 0.3 * compiled.facts(AT).payoff_range[k, i]
    assert close > COUNT // 2  # The attack is a serious one.


@pytest.mark.slow
def test_a_best_response_attains_what_is_said(both):
    _, compiled, _ = both
    schemes, agents = profiles(), AT % K
    found = compiled.examine(AT, schemes)
    offers = compiled.best_responses(AT, schemes, found, agents)
    fits = np.isfinite(offers).all((1, 2))
    assert fits.mean() > 0.5
    moved = schemes.copy()
    moved[AT[fits], agents[fits]] = offers[fits]
    after = compiled.examine(AT, moved)
    wanted = (found.agents + found.gains)[AT, agents]
    np.testing.assert_allclose(after.agents[AT, agents][fits], wanted[fits], rtol=0, atol=1e-9)


@pytest.mark.slow
def test_an_agent_just_behind_is_worth_less(both):
    _, compiled, _ = both
    schemes = profiles()
    schemes[:, 0] = np.eye(XB)
    found = compiled.examine(AT, schemes)
    values, selected, rivals = compiled.standing(AT, schemes, found)
    behind = compiled.just_behind(AT, schemes, selected, rivals)
    after = schemes.copy()
    after[AT, rivals] = behind
    informative = compiled.none < values[AT, selected] - 1e-6  # To a quantal user silence may be worth more.
    assert informative.mean() > 0.5
    behind = (values[AT, selected] - compiled.examine(AT, after).values[AT, rivals])[informative]
    assert (behind > 0).all()
    assert (behind < 1e-3).all()
    assert (compiled.can_outbid(AT) == compiled.sharp).all()


@pytest.mark.slow
@pytest.mark.parametrize("exactly", [False, True])
def test_bounded_values_by_the_batched_simplex_and_by_highs(both, exactly):
    """The user's value is a row of the belief LPs; its price is that of HiGHS, and bounds hold along its line."""
    _, compiled, _ = both
    problems = pooled_problems(compiled.game, np.zeros((COUNT, 0, XB, 1)), np.zeros(COUNT, int), compiled.users)
    compiled.facts(AT)
    low, most = compiled._least[AT], compiled._most[AT]
    goal, found = low + 0.7 * (most - low), []
    goal[::4] = -np.inf  # No bound beside bounds.
    for batched in (True, False):
        lps = belief_lps(problems, compiled._offers[0].swapaxes(1, 2) * problems.target[:, None], batched)
        lps.restrict(goal, np.where(np.isfinite(goal), goal, np.inf) if exactly else np.inf)
        found.append(lps.best(AT, np.full(COUNT, 1e-6), 10**8))
        assert not lps.failed.any()
        assert (lps.value_price[::4] == 0).all()
    np.testing.assert_allclose(found[0].value, found[1].value, rtol=0, atol=1e-6)
    for one in found:
        assert (one.upper - one.value <= 1e-6).all()
        line = one.level - one.value_price * np.where(np.isfinite(goal), goal, 0)
        np.testing.assert_allclose(line, one.upper, rtol=0, atol=1e-12)
        if not exactly:
            assert (one.value_price >= 0).all()
