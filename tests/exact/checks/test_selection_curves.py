"""Selection with a rational user in batches, against the checks one by one, which ask HiGHS for every best response."""

import numpy as np
import pytest
from support.games import batch_of, checks, random_game

import emalign_jax as em
from emalign_jax.equilibrium.monopolists import monopoly
from emalign_jax.exact.checks.selection_curves import SelectionCurves
from emalign_jax.result.batched import axes_of

pytestmark = pytest.mark.host_only

SETTING = em.Selection(), em.RationalUser()
COUNT, XB, M = 12, 3, 4
AT = np.arange(COUNT)


@pytest.fixture(scope="module", params=[(1, 1), (2, 1), (3, 1), (3, 2)], ids=lambda p: f"K = {p[0]}, XA = {p[1]}")
def both(request):
    """The games, their checks in a batch, and one by one."""
    K, XA = request.param
    games = batch_of([random_game(seed, K=K, XA=XA) for seed in range(COUNT)])
    batch, single = (checks(games, *SETTING, messages=M, lp=lp) for lp in ("batched", "highs"))
    assert isinstance(batch, SelectionCurves)  # all frontiers are proved
    return games, batch, single


def profiles(K):
    rng = np.random.default_rng(K)
    shape = COUNT, K, XB, M
    mixed = rng.dirichlet(np.full(M, 0.4), shape[:3])
    silent, reveal = np.zeros(shape), np.broadcast_to(np.eye(XB, M), shape).copy()
    silent[..., 0] = 1
    return {"random": mixed, "silence": silent, "full revelation": reveal, "noisy": 0.7 * reveal + 0.3 * silent}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(profiles(1)))
def test_gains_and_brackets(both, name):
    _, batch, single = both
    schemes = profiles(batch.K)[name]
    found, exact = (some.examine(AT, schemes, 1e-6) for some in (batch, single))
    found = batch.refine(AT, schemes, found, np.full(COUNT, np.inf), 1e-6)
    for field in ("user", "agents", "gains", "upper", "relative"):
        np.testing.assert_allclose(getattr(found, field), getattr(exact, field), atol=2e-8, err_msg=field)
    assert (found.upper >= found.gains).all()
    assert exact.gains.max() > 0.01 or name == "full revelation"  # else the comparison says nothing


@pytest.mark.slow
def test_a_move_is_examined_as_the_profile_it_leads_to(both):
    _, batch, _ = both
    before, after = profiles(batch.K)["random"], profiles(batch.K)["noisy"]
    agents = AT % batch.K
    schemes = before.copy()
    schemes[AT, agents] = after[AT, agents]
    moved = batch.after_move(AT, schemes, batch.examine(AT, before), agents)
    whole = batch.examine(AT, schemes)
    for field in ("user", "agents", "gains", "values", "table"):
        np.testing.assert_allclose(getattr(moved, field), getattr(whole, field), atol=1e-12, err_msg=field)


def test_best_responses_attain_the_gain(both):
    """Up to what it costs to be worth a little more to the user than the rivals."""
    _, batch, single = both
    schemes = profiles(batch.K)["random"]
    found = batch.examine(AT, schemes)
    movers = found.relative.argmax(1)
    answered = schemes.copy()
    answered[AT, movers] = batch.best_responses(AT, schemes, found, movers)
    np.testing.assert_allclose(answered.sum(-1), 1, atol=1e-12)
    paid = single.examine(AT, answered).agents[AT, movers]
    expected = found.agents[AT, movers] + found.gains[AT, movers]
    assert (paid >= expected - 1e-5).all()
    assert (paid <= expected + 1e-8).all()


def test_schemes_at_least_and_just_behind(both):
    _, batch, _ = both
    schemes = profiles(batch.K)["noisy"]
    found = batch.examine(AT, schemes)
    values, selected, rivals = batch.standing(AT, schemes, found)
    assert (values[AT, selected] >= values.max(1) - 1e-9).all()
    assert ((rivals < 0) == (batch.K == 1)).all()
    low, worth = batch.facts(AT).none, batch.worth(AT)
    goals = low + 0.6 * worth
    offers = np.repeat(batch.at_least(AT, 0 * AT, goals, M)[:, None], batch.K, 1)
    assert (batch.examine(AT, offers).values[:, 0] >= goals - 1e-9).all()
    if batch.K > 1:
        behind = schemes.copy()
        behind[AT, rivals] = batch.just_behind(AT, schemes, selected, rivals)
        after = batch.examine(AT, behind).values
        held = values[AT, selected]
        assert ((after[AT, rivals] < held - 2e-9) | (held - low < 1e-8)).all()  # or nothing is worth less
        assert (after[AT, rivals] > values[AT, selected] - 1e-5 * worth - 1e-7).all()


@pytest.mark.slow
def test_monopolists(both):
    games, batch, _ = both
    found = np.array(batch.monopoly(AT))
    alone = [monopoly(games[k], *SETTING) for k in range(COUNT)]  # One game: by HiGHS.
    np.testing.assert_allclose(found[1], [one.agents for one in alone], atol=1e-7)
    np.testing.assert_allclose(found[0], [one.user for one in alone], atol=1e-6)
    schemes = batch.monopolists(AT, M)
    for i in range(batch.K):
        one = em.Game(games.prior, games.user_utility, games.agent_utilities[:, i : i + 1])
        np.testing.assert_allclose(
            em.certify(one, schemes[:, i : i + 1], *SETTING).agents[:, 0], found[1, :, i], atol=1e-7
        )


@pytest.mark.slow
def test_malformed_games_change_nothing():
    games = [random_game(seed) for seed in range(3)]
    bad = em.Game(games[1].prior * np.nan, games[1].user_utility, games[1].agent_utilities, check="shapes")
    schemes = np.random.default_rng(0).dirichlet(np.ones(M), (3, 2, XB))
    sound = em.certify(batch_of(games), schemes, *SETTING, lp="batched")
    mixed = em.certify(em.Game(*(np.stack([getattr(g, name) for g in (games[0], bad, games[2])]) for name in
                                 ("prior", "user_utility", "agent_utilities")), check="shapes"), schemes, *SETTING,
                       lp="batched")  # fmt: skip
    assert mixed.result[1] == em.Result.MALFORMED
    for name in axes_of(em.Certificate):
        np.testing.assert_array_equal(getattr(mixed, name)[[0, 2]], getattr(sound, name)[[0, 2]], err_msg=name)
