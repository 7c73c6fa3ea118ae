"""Comparison: the user meets a random subset of the agents. Payoffs and best responses against brute force."""

import functools
import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog
from support import conversations as brute
from support import games as makers
from support.games import batch_of, deterministic, switched

import emalign_jax as em
from emalign_jax.exact.checks.examination import examine
from emalign_jax.exact.obedience.program import ObedienceLP
from emalign_jax.experiments import plan
from emalign_jax.experiments.grid import check as checks

RATIONAL = em.RationalUser("agents")
X64 = jax.config.jax_enable_x64
CLOSE = 1e-9 if X64 else 2e-5
EXACT = 1e-7  # LP feasibility 1e-9, numbers of size 1

random_game = functools.partial(makers.random_game, K=4)


def random_games(count, K):
    return batch_of([random_game(seed, K=K) for seed in range(count)])


def check(game, compared, user=RATIONAL):
    return makers.check(game, em.Comparison(compared), user)


def candidates(rng, XB, count):
    yield from deterministic(XB, XB)
    for k in range(count):
        yield rng.dirichlet(np.full(XB + 1, 10.0 ** rng.uniform(-1.5, 1)), XB if k % 2 else 1) * np.ones((XB, 1))


# payoffs


@pytest.mark.slow
@pytest.mark.parametrize(("compared", "temperature"), [(1, 0.0), (2, 0.0), (3, 0.3)])
def test_payoffs_are_those_of_all_subsets(compared, temperature):
    user = em.QuantalUser(6.0)
    for seed in range(2):
        game = random_game(seed, XA=2)
        schemes = np.random.default_rng(seed).dirichlet(np.ones(3), (4, 3))
        value, agents = brute.comparison(game, schemes, user, compared, temperature)
        got = em.payoffs(game, schemes, em.Comparison(compared, temperature), user)
        np.testing.assert_allclose(got.user, value, atol=CLOSE)
        np.testing.assert_allclose(got.agents, agents, atol=CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("compared", [1, 2, 3, 4])
def test_exact_payoffs_are_those_of_all_subsets_ties_included(compared):
    rng = np.random.default_rng(0)
    exact = check(random_game(5), compared)
    for tied in (False, True):
        schemes = rng.dirichlet(np.ones(3), (4, 3))
        if tied:
            schemes[2], schemes[3] = schemes[0], schemes[1]
        value, agents = brute.comparison(random_game(5), schemes, RATIONAL, compared)
        got = exact.payoffs(schemes)
        assert got[0] == pytest.approx(value, abs=1e-12)
        np.testing.assert_allclose(got[1], agents, atol=1e-12)
        if compared == 2:
            played = em.payoffs(random_game(5), schemes, em.Comparison(compared), RATIONAL)
            np.testing.assert_allclose(played.agents, agents, atol=1e-5)  # the tie tolerance


@pytest.mark.slow
def test_pseudo_gradient_is_the_derivative():
    user, protocol = em.QuantalUser(6.0), em.Comparison(2, 0.2)
    game = random_game(1, XA=2)
    schemes = jnp.asarray(np.random.default_rng(1).dirichlet(np.ones(3), (4, 3)))
    got = em.pseudo_gradient(game, schemes, protocol, user)
    whole = jax.jacrev(lambda s: em.payoffs(game, s, protocol, user).agents)(schemes)
    want = np.stack([whole[i, i] for i in range(4)])
    np.testing.assert_allclose(got, want, atol=1e-10 if X64 else 1e-4)


@pytest.mark.slow
def test_all_compared_is_selection():
    game, user = random_game(2), em.QuantalUser(6.0)
    schemes = np.random.default_rng(2).dirichlet(np.ones(3), (4, 3))
    ours, theirs = em.Comparison(4, 0.1), em.Selection(0.1)
    np.testing.assert_allclose(
        em.pseudo_gradient(game, schemes, ours, user), em.pseudo_gradient(game, schemes, theirs, user), atol=CLOSE
    )


# best responses


@pytest.mark.parametrize("XA", [1, 2])
def test_the_most_between_two_values_by_another_route(XA):
    """f(low, high): the LP written out anew, message by message, for scipy."""
    for seed in range(3):
        game = em.reduce_game(random_game(seed, XA=XA), np)
        exact = check(random_game(seed, XA=XA), 2)
        lp = ObedienceLP(game)
        none, full = exact.least_value, exact.most_value
        for low, high in ((none, full), (none, 0.6 * none + 0.4 * full), (0.5 * none + 0.5 * full,) * 2):
            XB, A = game.mass.shape[1], game.user.shape[-1]
            advice = list(itertools.product(range(A), repeat=XA))
            own, user, rows = [], [], []
            for r, actions in enumerate(advice):
                for b in range(XB):
                    own.append(sum(game.agents[0, x, b, actions[x]] for x in range(XA)))
                    user.append(sum(game.user[x, b, actions[x]] for x in range(XA)))
                for x, a in itertools.product(range(XA), range(A)):
                    row = np.zeros((len(advice), XB))
                    row[r] = game.user[x, :, a] - game.user[x, :, actions[x]]
                    rows.append(row.ravel())
            sums = np.tile(np.eye(XB), len(advice))
            want = linprog(
                -np.array(own), np.array([*rows, user, np.negative(user)]), [0] * len(rows) + [high, -low],
                sums, np.ones(XB),
            )  # fmt: skip
            found = lp.best(game.agents[0], low, high)
            assert found.value == pytest.approx(-want.fun, abs=EXACT)
            # the scheme pays the agent that, and its value for the user is in the interval asked for
            scheme = switched(np.ones((4, XB, 1)), 0, found.scheme)
            values, payoffs = exact.table(scheme)
            assert payoffs[0, 0] == pytest.approx(found.value, abs=1e-5)
            assert low - 1e-5 <= values[0] <= high + 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("compared", [1, 2, 3])
@pytest.mark.parametrize("seed", range(2))
def test_no_scheme_beats_the_best_response_and_it_is_approached(compared, seed):
    rng = np.random.default_rng(seed)
    game = random_game(seed, XA=1 + seed % 2)
    exact = check(game, compared)
    reveal = np.eye(3)
    tied = rng.dirichlet(np.full(3, 0.3), (4, 3))
    tied[2] = tied[1]
    for schemes in (rng.dirichlet(np.full(3, 0.3), (4, 3)), tied, np.stack([reveal, np.ones((3, 3)) / 3] * 2)):
        before = exact.payoffs(schemes)[1]
        for i, deviation in enumerate(exact.deviations(schemes, range(4))):
            assert deviation.status == "Optimal"
            tried = max(exact.payoffs(switched(schemes, i, s))[1][i] for s in candidates(rng, 3, 30))
            assert tried <= deviation.upper + 1e-5  # it may use the tie tolerance, 1e-6 of the user's range
            assert deviation.upper == deviation.value >= before[i]
            got = exact.payoffs(switched(schemes, i, deviation.scheme))[1][i]
            assert got == pytest.approx(deviation.value, abs=1e-4 * exact.payoff_range[i])


@pytest.mark.parametrize("seed", range(3))
def test_placements_of_all_compared_are_selection(seed):
    rng = np.random.default_rng(seed)
    game = random_game(seed)
    exact = check(game, 4)
    other = makers.check(game, em.Selection(), RATIONAL)
    for schemes in (rng.dirichlet(np.full(3, 0.3), (4, 3)), em.full_revelation(4, 3, 3), em.no_information(4, 3, 3)):
        for i, theirs in enumerate(other.deviations(schemes, range(4))):
            assert exact.best_placement(schemes, i).value == pytest.approx(theirs.value, abs=EXACT)
        certificates = [
            em.certify(game, schemes, protocol, RATIONAL) for protocol in (em.Comparison(4), em.Selection())
        ]
        for ours, theirs in zip(*map(jax.tree.leaves, certificates), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_ties_are_for_the_lowest_index_even_between_others():
    """No agent can be worth more than V_full; of those who offer it the lowest index has the best rank.

    At y = 0 the user is indifferent between actions 0, which agent 0 wants, and 1, which the others want; at y = 1
    action 2 is best.
    """
    agents = np.zeros((3, 3, 2))
    agents[0, 0, 0] = agents[1:, 1, 0] = 1
    game = em.Game(np.diag([0.6, 0.4])[None], np.array([[1.0, 0], [1, 0], [0, 1]]), agents)
    exact = check(game, 2)
    silent, reveal = np.array([[1.0, 0], [1, 0]]), np.eye(2)
    np.testing.assert_allclose(exact.probabilities, [2 / 3, 1 / 3, 0])
    everyone = np.stack([reveal] * 3)
    np.testing.assert_allclose(exact.payoffs(everyone)[1], 0.6 * np.array([2 / 3, 1 / 3, 1 / 3]), atol=EXACT)
    # agent 2 has rank 0; agents 0 and 1 are worth the same, so agent 0, of the lower index, has rank 1
    examined = examine(exact, np.stack([silent, silent, reveal]))
    values = exact.table(np.stack([silent, silent, reveal])).values
    assert values[0] == values[1] < values[2]
    # agent 0 can tie with agent 2 and has the lower index: 2/3 of .6
    best = [d.value for d in examined.deviations]
    assert best[0] == pytest.approx(0.6 * 2 / 3, abs=1e-6)
    # agent 1 gets 2/3 and 1/3 of .6 at ranks 0 and 1, and the rest from agent 2, with whom action 1 is taken too
    assert best[1] == pytest.approx(0.6, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("K", [3, 5])
def test_with_one_compared_every_agent_is_a_monopolist(K):
    games = random_games(4, K=K)
    found = em.solve(games, em.Comparison(1), RATIONAL, start="monopolist")
    np.testing.assert_array_equal(found.found_by, em.FoundBy.START)  # dominant, so nothing is left to do
    np.testing.assert_array_equal(found.certificate.result, em.Result.CERTIFIED)
    alone = [em.solve(em.Game(games.prior, games.user_utility, games.agent_utilities[:, i : i + 1]), em.Selection(),
                      RATIONAL, start="monopolist").user for i in range(K)]  # fmt: skip
    np.testing.assert_allclose(found.user, np.mean(alone, 0), atol=1e-6)


@pytest.mark.slow
def test_two_compared_of_three_settle():
    solver = em.BestResponseDynamics(steps=20)
    found = em.solve(random_games(3, K=3), em.Comparison(2), RATIONAL, solver, start="monopolist")
    np.testing.assert_array_equal(found.certificate.result, em.Result.CERTIFIED)


@pytest.mark.slow
def test_all_reveal_is_an_equilibrium_when_two_are_compared():
    for seed in range(3):
        certificate = em.certify(random_game(seed), em.full_revelation(4, 3, 3), em.Comparison(2), RATIONAL)
        np.testing.assert_allclose(certificate.gain_upper, 0, atol=EXACT)


def test_other_tie_rules_attain_what_they_say():
    rng = np.random.default_rng(0)
    game, schemes = random_game(3), rng.dirichlet(np.full(3, 0.3), (4, 3))
    exact, best = check(game, 2, em.RationalUser("lowest")), check(game, 2).deviations(schemes, range(4))
    for i, (found, supremum) in enumerate(zip(exact.deviations(schemes, range(4)), best, strict=True)):
        attained = exact.payoffs(switched(schemes, i, found.scheme))[1][i]
        assert attained == pytest.approx(found.value, abs=1e-9)
        assert found.upper == pytest.approx(
            supremum.value, abs=1e-5
        )  # with generic payoffs the user's ties do not matter


# what is promised, and refusals


def test_no_guarantee_without_comparing_all():
    game, schemes = random_game(0), em.full_revelation(4, 3, 3)
    for compared in (1, 3):
        certificate = em.certify(game, schemes, em.Comparison(compared), RATIONAL)
        assert np.isnan([certificate.guarantee, certificate.theorem]).all()
        for ask in (em.worst_case, em.coverage):
            with pytest.raises(ValueError, match=f"protocol: .*compared = {compared} of K = 4"):
                ask(game, protocol=em.Comparison(compared))
    certificate = em.certify(game, schemes, em.Comparison(4), RATIONAL)
    assert certificate.guarantee == pytest.approx(float(em.worst_case(game)), abs=EXACT)
    np.testing.assert_allclose(em.worst_case(game, protocol=em.Comparison(4)), em.worst_case(game))


@pytest.mark.parametrize("compared", [0, -1, 1.5, True])
def test_compared_is_an_integer_of_at_least_one(compared):
    with pytest.raises(ValueError, match="compared"):
        em.Comparison(compared)


@pytest.mark.slow
def test_refusals():
    game, schemes, user = random_game(0), em.full_revelation(4, 3, 3), em.QuantalUser(5.0)
    for call in (em.certify, em.payoffs):
        with pytest.raises(ValueError, match=r"compared: expected at most K = 4, .* got 5"):
            call(game, schemes, em.Comparison(5), RATIONAL)
    with pytest.raises(ValueError, match="compared: expected at most"):
        em.solve(game, em.Comparison(5), RATIONAL, start="monopolist")
    with pytest.raises(ValueError, match="temperature: the exact check of Comparison"):
        em.certify(game, schemes, em.Comparison(2, 0.5), RATIONAL)
    assert em.certify(game, schemes, em.Comparison(2), user).result != em.Result.CERTIFIED  # no exact check
    with pytest.raises(ValueError, match="for gradients"):
        em.pseudo_gradient(game, schemes, em.Comparison(2), user)
    with pytest.raises(ValueError, match="exact: Comparison"):
        em.best_response(game, schemes, 0, em.Comparison(2), RATIONAL, exact=True)
    assert em.best_response(game, schemes, 0, em.Comparison(2), RATIONAL).closed
    many = random_game(0, K=20, XB=2, A=2)
    assert math.comb(20, 10) > 5000
    with pytest.raises(ValueError, match="compared: a soft choice"):
        em.payoffs(many, em.full_revelation(20, 2, 2), em.Comparison(10, 0.1), user)
    em.Comparison(10).check(many, 2)  # needs no subsets
    with pytest.raises(ValueError, match=r"compared: a soft choice.*BestResponseDynamics"):
        em.solve(many, em.Comparison(10), RATIONAL, key=jax.random.key(0))


@pytest.mark.slow
def test_play_alone_does_any_user():
    game = jax.tree.map(lambda x: np.stack([x] * 2), random_game(0))
    solver = em.GradientPlay(steps=100)
    found = em.solve(game, em.Comparison(2, 0.1), em.QuantalUser(5.0), solver, key=jax.random.key(0), verify=False)
    assert np.isfinite(found.agents).all()


# commands and sweeps


@pytest.mark.slow
def test_certify_on_the_command_line(run, tmp_path):
    em.save_games(tmp_path / "games.npz", random_games(2, K=4))
    em.save_schemes(tmp_path / "schemes.npz", em.full_revelation(4, 3, 3) + np.zeros((2, 1, 1, 1)))
    files = tmp_path / "games.npz", tmp_path / "schemes.npz"
    code, out, _ = run("certify", *files, "--set", "protocol.compare=2", "--json")
    games = json.loads(out)["games"]
    assert code == 0
    assert [game["guarantee"] for game in games] == [None, None]
    code, _, err = run("certify", *files, "--set", "protocol.compare=5")
    assert code == 2
    assert "compared: expected at most K = 4" in err


@pytest.mark.slow
def test_search_on_the_command_line(run, tmp_path):
    em.save_games(tmp_path / "games.npz", random_games(2, K=3))
    code, out, _ = run(
        "search", "--games", tmp_path / "games.npz", "--set", "protocol.compare=1", "--out", tmp_path / "out"
    )
    assert code == 0
    assert out.startswith("Comparison of 1 agents, rational user")


@pytest.mark.parametrize(
    "wrong",
    [
        ["--set", "protocol.compare=0"],
        ["--set", "protocol.compare=2", "--set", "protocol.temperature=1"],
        ["--set", "protocol.compare=2", "--protocol", "pooled"],
        ["--set", "protocol.compare=2", "--rounds", 2],
    ],
)
def test_what_the_command_line_refuses(run, wrong):
    code, _, err = run("search", *wrong)
    assert code == 2
    assert "protocol.compare" in err


def test_a_sweep_names_its_key():
    text = "[games]\nagents = [2, 3]\ncount = 1\n[protocol]\ncompare = 3\n"
    grid = plan.parse(text, "grid.toml")
    with pytest.raises(ValueError, match=r"^grid.toml: protocol.compare: expected at most K = 2"):
        checks.check(grid, grid.cells(), 1)
