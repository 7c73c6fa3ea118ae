"""The search: what it finds is an equilibrium or is called otherwise, and a bad game costs only itself."""

import jax
import numpy as np
import pytest

import emalign_jax as em
from emalign_jax import Derivative, FoundBy, Result
from emalign_jax.equilibrium import search
from emalign_jax.equilibrium import solver as blocks

KEY = jax.random.key(3)
RATIONAL = (em.Selection(), em.RationalUser())
QUANTAL = (em.Pooled(), em.QuantalUser(5.0))
QUICK = em.GradientPlay(steps=200)
K, XB, A = 3, 3, 3
M = 3  # advice of three actions is all a rational user can use


def make(count=4, seed=0, agents=K, spread=1.0):
    """Agents with goals near the user's, whose hull may or may not contain u; game n is the same for every count."""
    prior, user, own = [], [], []
    for n in range(count):
        rng = np.random.default_rng([seed, n])
        prior.append(np.diag(rng.dirichlet(np.ones(XB)))[None])
        user.append(rng.normal(size=(A, XB)))
        own.append(user[-1] + spread * rng.normal(size=(agents, A, XB)))
    return em.Game(np.array(prior), np.array(user), np.array(own))


def solve(games, setting=RATIONAL, **options):
    return em.solve(games, *setting, **({"key": KEY, "solver": QUICK} | options))


def assert_consistent(games, setting, solution, tolerance=1e-3):
    """Payoffs and gains are those of the schemes returned, by a second examination; codes fit the gains."""
    again = em.certify(games, solution.schemes, *setting)
    np.testing.assert_allclose(solution.user, again.user, rtol=0, atol=1e-9)
    np.testing.assert_allclose(solution.agents, again.agents, rtol=0, atol=1e-9)
    worst = again.relative_gain.max(-1)
    ok = solution.result < Result.ABOVE_TOLERANCE
    np.testing.assert_array_equal(ok, worst <= tolerance)
    np.testing.assert_array_equal(ok, again.result <= Result.UNREFUTED)
    assert (solution.result[~ok] == Result.ABOVE_TOLERANCE).all()


@pytest.mark.parametrize(
    ("family", "setting"),
    [
        *(pytest.param(family, RATIONAL, id=f"selection-rational-{family}") for family in em.FAMILIES),
        pytest.param("hull", QUANTAL, id="pooled-quantal-hull"),
        *(
            pytest.param(family, QUANTAL, id=f"pooled-quantal-{family}", marks=pytest.mark.nightly)
            for family in em.FAMILIES
            if family != "hull"
        ),
    ],
)
def test_every_family_is_solved(family, setting):
    games = em.random_games(jax.random.key(0), 4, family=family, agents=K, states=XB, actions=A)
    solution = solve(games, setting)
    assert solution.schemes.shape == (4, K, XB, setting[0].messages(games))
    assert solution.schemes.dtype == np.float64
    np.testing.assert_allclose(solution.schemes.sum(-1), 1, rtol=0, atol=1e-12)
    assert (solution.certificate.relative_gain.max(-1) <= 1e-3).all()
    assert_consistent(games, setting, solution)
    # the bounds hold for every profile, and V_full is the most that a rational user can get
    assert (solution.user >= solution.certificate.guarantee - 1e-6).all()
    if setting is RATIONAL:
        assert (solution.user <= solution.certificate.full_information + 1e-9).all()


@pytest.mark.slow
@pytest.mark.parametrize("setting", [RATIONAL, QUANTAL], ids=["selection-rational", "pooled-quantal"])
def test_a_user_with_private_information(setting):
    games = em.random_games(jax.random.key(1), 2, agents=2, states=2, actions=2, user_features=2)
    solution = solve(games, setting)
    assert (solution.certificate.relative_gain.max(-1) <= 1e-3).all()
    assert_consistent(games, setting, solution)


@pytest.mark.slow
def test_known_equilibrium_values():
    """The user learns all, whichever equilibrium is found: section 9 of docs/model.md."""
    for game in (em.catalog.biased_advisers(), em.catalog.prosecutor_against_defender()):
        solution = solve(game)
        assert Result(int(solution.result)).ok
        # agents may gain 1e-3 of a range of 1, so the user misses at most twice that (weights 1/2, or 1)
        np.testing.assert_allclose(solution.user, 1, atol=3e-3)
    monopoly = solve(em.catalog.judge())
    np.testing.assert_allclose([monopoly.user, *monopoly.agents], [0.7, 0.6], atol=1e-3)
    quantal = solve(em.catalog.judge(), QUANTAL)
    np.testing.assert_allclose(quantal.agents, 0.38236599, atol=1e-3)


@pytest.mark.slow
def test_one_game_without_batch_axis():
    games = make()
    solution = solve(games[0])
    assert solution.schemes.shape == (K, XB, M)
    assert solution.user.shape == solution.result.shape == ()
    assert solution.agents.shape == (K,)
    assert_consistent(games[0], RATIONAL, solution)
    several = solve(games[0], starts=4)
    assert several.schemes.shape == (4, K, XB, M)
    assert several.result.shape == (4,)


@pytest.mark.slow
def test_several_batch_axes():
    games = make(4)
    grid = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), games)
    flat, solution = solve(games), solve(grid)
    assert solution.result.shape == (2, 2)
    np.testing.assert_allclose(solution.user.ravel(), flat.user, rtol=0, atol=1e-12)


def test_starts_lead_the_batch_and_differ():
    solution = solve(make(2), QUANTAL, verify=False, starts=2)  # four in all, as everywhere here: one compilation
    assert solution.schemes.shape == (2, 2, K, XB, XB)
    assert solution.user.shape == solution.result.shape == (2, 2)
    assert solution.agents.shape == (2, 2, K)
    assert np.abs(solution.schemes[0] - solution.schemes[1]).max((1, 2, 3)).min() > 0.01
    once = solve(make(4), QUANTAL, verify=False)
    np.testing.assert_allclose(solution.schemes[0], once.schemes[:2], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_starts_are_certified_one_by_one():
    games = make(2)
    solution = solve(games, starts=2)
    assert solution.certificate.gain_upper.shape == (2, 2, K)
    assert_consistent(games, RATIONAL, solution)
    assert solution.stats["games"] == 4


def test_a_game_does_not_depend_on_its_batch():
    # no random events but the start, and Pooled payoffs are smooth: float32 rounding stays small over 200 steps
    few, many = (solve(make(n), QUANTAL, verify=False) for n in (2, 4))
    np.testing.assert_allclose(few.user, many.user[:2], rtol=0, atol=1e-3)
    np.testing.assert_allclose(few.agents, many.agents[:2], rtol=0, atol=1e-3)
    assert np.abs(solve(make(2), QUANTAL, verify=False, key=jax.random.key(4)).schemes - few.schemes).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("setting", [RATIONAL, QUANTAL], ids=["selection-rational", "pooled-quantal"])
@pytest.mark.parametrize(
    ("field", "index", "value"),
    [("agent_utilities", (3, 0, 0, 0), np.nan), ("user_utility", (3, 0, 0), np.inf), ("prior", (3, 0, 0, 0), 5.0)],
)
def test_a_malformed_game_costs_only_itself(setting, field, index, value):
    sound, broken = make(4), make(4)
    getattr(broken, field)[index] = value
    broken = em.Game(broken.prior, broken.user_utility, broken.agent_utilities, check="shapes")
    expected, solution = solve(sound, setting), solve(broken, setting)
    assert solution.result[3] == Result.MALFORMED
    assert np.isnan(solution.user[3])
    assert np.isnan(solution.agents[3]).all()
    assert np.isnan(solution.certificate.gain_upper[3]).all()
    np.testing.assert_array_equal(solution.result[:3], expected.result[:3])
    # same starts, same lanes of a batch of four: the same bits, or nearly
    np.testing.assert_allclose(solution.schemes[:3], expected.schemes[:3], rtol=0, atol=1e-9)
    np.testing.assert_allclose(solution.user[:3], expected.user[:3], rtol=0, atol=1e-9)
    unverified = solve(broken, setting, verify=False)
    np.testing.assert_array_equal(unverified.result, [Result.UNCHECKED] * 3 + [Result.MALFORMED])
    assert np.isfinite(unverified.user[:3]).all()


def test_a_malformed_game_in_the_middle_and_nothing_but_malformed_games():
    games = make(4)
    games.user_utility[1, 0, 0] = np.nan
    solution = solve(games)
    assert [Result(code).ok for code in solution.result] == [True, False, True, True]
    assert solution.stats["malformed"] == 1
    games.user_utility[:] = np.nan
    np.testing.assert_array_equal(solve(games).result, Result.MALFORMED)


def test_an_equilibrium_given_as_start_is_kept():
    # all agents reveal everything: one that offers less is not picked, and the user still learns everything
    games, start = make(4), em.full_revelation(K, XB, XB)
    solution = solve(games, start=start, key=None)
    np.testing.assert_array_equal(solution.found_by, FoundBy.START)
    np.testing.assert_array_equal(solution.schemes, np.broadcast_to(start, (4, K, XB, XB)))
    np.testing.assert_allclose(solution.user, solution.certificate.full_information, rtol=0, atol=1e-12)
    assert solution.stats["steps"] == 0


@pytest.mark.slow
def test_a_start_that_is_none_is_improved():
    games, start = make(4), em.no_information(K, XB, M)
    assert (em.certify(games, start, *RATIONAL).result == Result.ABOVE_TOLERANCE).all()
    solution = solve(games, start=start)
    assert (solution.found_by != FoundBy.START).all()
    assert_consistent(games, RATIONAL, solution)
    assert (solution.certificate.relative_gain.max(-1) <= 1e-3).all()


def test_a_broken_start_costs_only_its_game():
    start = np.stack([em.full_revelation(K, XB, XB)] * 4)
    start[2, 0, 0, 0] = np.nan
    solution = solve(make(4), start=start)
    np.testing.assert_array_equal(solution.result, np.where(np.arange(4) == 2, Result.MALFORMED, Result.CERTIFIED))


def test_monopolists_as_start():
    # identical prosecutors who all offer the monopolist's scheme are in equilibrium already; no key is needed
    game = em.catalog.judge(0.3, prosecutors=3)
    solution = solve(game, start="monopolist", key=None)
    assert solution.found_by == FoundBy.START
    np.testing.assert_allclose([solution.user, *solution.agents], [0.7, 0.6, 0.6, 0.6], atol=1e-6)
    games = make(2)
    started = solve(games, start="monopolist", starts=2)
    assert started.result.shape == (2, 2)
    assert_consistent(games, RATIONAL, started)


@pytest.mark.slow
def test_too_few_messages_are_not_hidden():
    # one message reveals nothing; with two the prosecutor could gain .6
    for setting, gain in ((RATIONAL, 0.6), (QUANTAL, 0.38236599 - 1 / (1 + np.exp(5 * 0.4)))):
        solution = solve(em.catalog.judge(), setting, messages=1)
        assert solution.schemes.shape == (1, 2, 1)
        assert solution.result == Result.ABOVE_TOLERANCE
        np.testing.assert_allclose(solution.certificate.gain_lower, gain, atol=1e-4)
    assert "above_tolerance" in solution.stats


@pytest.mark.slow
def test_precision_may_differ_by_game():
    judges = jax.tree.map(lambda x: np.stack([x] * 3), em.catalog.judge())
    solution = solve(judges, (em.Pooled(), em.QuantalUser(np.array([5.0, 20.0, 100.0]))))
    np.testing.assert_allclose(solution.agents[:, 0], [0.38236599, 0.49708735, 0.56790980], atol=1e-3)
    assert (solution.certificate.relative_gain <= 1e-3).all()


def test_every_result_is_a_sentence():
    codes = [*Result, *FoundBy, *Derivative]
    messages = [code.message for code in codes]
    assert len(set(messages)) == len(codes)
    for message in messages:
        assert message[0].isupper()
        assert message.endswith(".")
    assert [code.name for code in Result if code.ok] == ["CERTIFIED", "UNREFUTED"]


def test_progress_is_told():
    told = []
    solve(make(4), start="random", progress=lambda *what: told.append(what))
    stages = [stage for stage, *_ in told]
    assert stages[0] == "play"
    assert stages[-1] == "certify"
    assert "check" in stages
    assert all(0 <= done <= total for _, done, total in told)
    assert told[-1] == ("certify", 4, 4)


def test_without_verification_no_check_is_made(monkeypatch):
    def made(*arguments, **words):
        raise AssertionError("a check was made")

    monkeypatch.setattr(search, "make_checks", made)
    found = solve(make(4), verify=False)
    assert (found.result == Result.UNCHECKED).all()
    with pytest.raises(AssertionError, match="a check was made"):
        solve(make(4))


def test_stats_count_every_game_once():
    solution = solve(make(4))
    codes = {code.name.lower(): int((solution.result == code).sum()) for code in Result}
    codes |= {code.name.lower(): int((solution.found_by == code).sum()) for code in FoundBy}
    assert {name: n for name, n in solution.stats.items() if name in codes} == {c: n for c, n in codes.items() if n}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"starts": 0}, r"^starts: expected an integer >= 1, got 0"),
        ({"messages": 0}, r"^messages: expected an integer >= 1, got 0"),
        ({"key": None, "start": "random"}, r"^key: random starts need one"),
        ({"key": None, "start": "monopolist", "starts": 2}, r"^key: random starts need one"),
        ({"start": "silent"}, r"^start: expected random or monopolist or an array of schemes, got 'silent'"),
        ({"start": np.ones((2, 3, 1))}, r"^start: expected shape \[\.\.\., K = 3, XB = 3, M\]"),
        ({"start": np.full((3, 3, 2), 0.4)}, r"^start\[0, 0, 0\]: got .* must sum to 1"),
        ({"start": np.full((5, 3, 3, 2), 0.5)}, r"^start: batch axes \[5\] do not fit those of the games, \[4\]"),
        ({"setting": QUANTAL, "messages": 300}, r"^messages: 300 messages of 3 agents need .* bytes a game; the limit"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        solve(make(), **options)


@pytest.mark.slow
def test_best_responses_alone_end_at_equilibria_too():
    """Both solvers from the same starts: what is certified of either holds for both, though the equilibria differ."""
    games = em.random_games(jax.random.key(5), 6, family="shared_bias", agents=2, states=3, actions=3, bias=2.0)
    every = em.stability(games)
    for start in ("monopolist", "random"):
        for solver in (em.GradientPlay(tolerance=1e-5, steps=200), em.BestResponseDynamics(tolerance=1e-5)):
            found = em.solve(games, em.Selection(), em.RationalUser(), solver, key=jax.random.key(1), start=start)
            again = em.certify(games, found.schemes, em.Selection(), em.RationalUser(), tolerance=1e-5)
            assert all(em.Result(int(code)).ok for code in found.result)
            assert (again.relative_gain <= 1e-5).all()
            assert (found.user >= every.worst - 1e-3).all()
            assert (found.user >= found.certificate.guarantee - 1e-6).all()
            np.testing.assert_allclose(found.certificate.full_information, every.full_information, atol=1e-9)
    assert found.stats["steps"] == 0, "no gradient play"
    assert found.stats["best_responses"] > 0


@pytest.mark.slow
def test_best_responses_in_pooled_and_from_given_schemes():
    games = em.random_games(jax.random.key(2), 3, family="hull", agents=2, states=2, actions=2)
    user, solver = em.QuantalUser(10.0), em.BestResponseDynamics(steps=20, fresh_starts=3)
    found = em.solve(games, em.Pooled(), user, solver, key=jax.random.key(0), messages=3)
    assert all(em.Result(int(code)).ok for code in found.result)
    kept = em.solve(games, em.Pooled(), user, solver, start=found.schemes)
    assert (kept.found_by == em.FoundBy.START).all(), "an equilibrium is kept"
    # rows are made to sum to one again, which may round
    np.testing.assert_allclose(kept.schemes, found.schemes, rtol=0, atol=1e-15)


def test_best_responses_do_not_depend_on_the_batch():
    games = em.random_games(jax.random.key(2), 4, family="noise", agents=2, states=2, actions=2)
    arguments = (em.Selection(), em.RationalUser(), em.BestResponseDynamics())
    whole = em.solve(games, *arguments, key=jax.random.key(0))
    part = em.solve(games[:2], *arguments, key=jax.random.key(0))
    np.testing.assert_array_equal(whole.schemes[:2], part.schemes)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [({"steps": 0}, "steps"), ({"fresh_starts": -1}, "fresh_starts"), ({"tolerance": 0.0}, "tolerance")],
)  # fmt: skip
def test_what_best_response_dynamics_cannot_be(wrong, word):
    with pytest.raises(ValueError, match=word):
        em.BestResponseDynamics(**wrong)


def test_best_responses_are_exact_checks():
    games = em.random_games(jax.random.key(2), 1, agents=2, states=2, actions=2)
    with pytest.raises(ValueError, match="verify"):
        em.solve(games, em.Selection(), em.RationalUser(), em.BestResponseDynamics(), start="monopolist", verify=False)


def test_blocks_side_by_side_are_one_after_the_other(monkeypatch):
    monkeypatch.setattr(blocks, "FEWEST_AT_ONCE", 8)
    games, solve_all = make(21), lambda **words: solve(games, start="random", **words)
    both, alone = solve_all(), solve_all(progress=lambda *told: None)
    np.testing.assert_array_equal(both.schemes, alone.schemes)
    np.testing.assert_array_equal(both.certificate.guarantee, alone.certificate.guarantee)
    np.testing.assert_array_equal(both.found_by, alone.found_by)
