"""All that the library claims of a game, compared with its other claims on random games and on games made to be hard.

Claims and their tolerances are those of `benchmarks/claims.py`, which runs the same on 2,000 games.
"""

import claims
import claims_games
import claims_same
import claims_whole
import jax
import numpy as np
import pytest
from support.hard_cases import HARD
from support.nightly import one_in

import emalign_jax as em

pytestmark = pytest.mark.host_only

KINDS = [f"{type(p).__name__}-{getattr(u, 'ties', 'quantal')}" for p, u in claims.OTHERS]


def one(game):
    return jax.tree.map(lambda x: np.asarray(x)[None], game)


@pytest.mark.slow
@pytest.mark.parametrize("name", HARD)
def test_hard_cases_in_selection(name):
    rng = np.random.default_rng(0)
    for where, found in claims.check_selection(one(HARD[name]), jax.random.key(0), rng, search=False):
        assert not claims.violations(found), where


@pytest.mark.slow
@pytest.mark.parametrize("setting", one_in(3, claims.OTHERS), ids=KINDS)
def test_hard_cases_under_other_protocols_and_users(setting):
    protocol, user = setting
    rng = np.random.default_rng(1)
    for name, game in HARD.items():
        for where, found in claims.check_others(one(game), protocol, user, None, rng, messages=3, search=False):
            assert not claims.violations(found), (name, where)


@pytest.mark.slow
@pytest.mark.parametrize("K", [pytest.param(1, marks=pytest.mark.nightly), 3])
def test_search_on_hard_cases(K):
    """Gradient play and `solve` on all cases of one shape together."""
    alike = [g for g in HARD.values() if g.agent_utilities.shape == (K, 3, 3) and g.prior.shape == (1, 3, 3)]
    assert len(alike) >= (5 if K == 3 else 2)
    games = claims.concatenate([one(game) for game in alike])
    for where, found in claims.check_selection(games, jax.random.key(0), np.random.default_rng(2)):
        assert not claims.violations(found), where


SLOW, LATER = pytest.mark.slow, pytest.mark.nightly


@pytest.mark.parametrize("XA", [pytest.param(1, marks=SLOW), 2])
@pytest.mark.parametrize("K", [pytest.param(1, marks=SLOW), 2, *(pytest.param(K, marks=LATER) for K in (3, 5))])
def test_random_games_in_selection(K, XA):
    games = claims.all_families(jax.random.key(K), 10, agents=K, states=3, actions=3, user_features=XA)
    for where, found in claims.check_selection(games, jax.random.key(0), np.random.default_rng(3), search=False):
        assert not claims.violations(found), where


@pytest.mark.slow
@pytest.mark.parametrize(("K", "XA"), [pytest.param(2, 2, marks=pytest.mark.nightly), (5, 1)])
def test_search_on_random_games(K, XA):
    games = claims.all_families(jax.random.key(K), 10, agents=K, states=4, actions=3, user_features=XA)
    for where, found in claims.check_selection(games, jax.random.key(0), np.random.default_rng(4)):
        assert not claims.violations(found), where


@pytest.mark.slow
@pytest.mark.parametrize("setting", one_in(2, claims.OTHERS), ids=KINDS)
def test_random_games_under_other_protocols_and_users(setting):
    protocol, user = setting
    rng = np.random.default_rng(5)
    for XA in (1, 2):
        games = claims.all_families(jax.random.key(XA), 10, agents=2, states=3, actions=3, user_features=XA)
        for where, found in claims.check_others(games, protocol, user, None, rng, messages=3, search=False):
            assert not claims.violations(found), where


def no_violations(parts):
    checked = 0
    for where, found in parts:
        assert not claims.violations(found), where
        checked += sum(np.size(claim.margin) for claim in found)
    assert checked


MAKERS = [claims_games.near_ties, claims_games.indifferent]


@pytest.mark.slow
@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_hard_random_games(make, monkeypatch):
    """Every kind of small stake, and of indifference, for every player."""
    monkeypatch.setattr(claims, "SHAPES", claims.SHAPES[:1])
    no_violations(claims.check_hard(make, np.random.default_rng(6), 16))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [claims_games.whole, pytest.param(claims_games.indifferent, marks=LATER), claims.mixed]
)
@pytest.mark.parametrize("size", [pytest.param(claims.SHAPES[1], marks=LATER), *claims.SHAPES[2:]], ids=str)
def test_units_and_offsets(make, size):
    rng = np.random.default_rng(7)
    games = make(rng, 4, size)
    profiles = claims.random_profiles(rng, games, em.Selection().messages(games))
    for user in claims.USERS:
        no_violations(claims_same.unit_claims(rng, games, profiles, user))
    no_violations(claims_same.transfer_claims(rng, claims.mixed(rng, 4, size)))


@pytest.mark.slow
@pytest.mark.parametrize("make", [claims_games.whole, claims.mixed])
def test_impossible_outcomes(make):
    rng = np.random.default_rng(8)
    games, huge = claims_games.with_impossible(rng, make(rng, 6, claims_games.Size()))
    profiles = claims.random_profiles(rng, games, 4)
    no_violations(claims_same.impossible_claims(rng, games, huge, profiles, claims.USERS))


@pytest.mark.slow
@pytest.mark.parametrize("user", claims.USERS, ids=claims_whole.TIES)
@pytest.mark.parametrize("make", [pytest.param(claims_games.whole, marks=LATER), claims_games.near_ties])
def test_brackets_under_every_tie_rule(make, user):
    rng = np.random.default_rng(9)
    for size in claims.SHAPES[1:]:
        no_violations(claims.check_brackets(rng, make(rng, 4, size), user))


@pytest.mark.slow
@pytest.mark.parametrize("ties", one_in(2, claims_whole.TIES))
@pytest.mark.parametrize("protocol", [em.Selection(), em.Pooled()], ids=["Selection", "Pooled"])
def test_whole_numbers(protocol, ties):
    rng = np.random.default_rng(10)
    for features, actions, user_features, certified in ((2, 3, 1, 3), (2, 2, 2, 2)):
        no_violations(claims_whole.whole_claims(
            rng, 1, features=features, actions=actions, user_features=user_features, protocol=protocol, ties=ties,
            certified=certified,
        ))  # fmt: skip


def test_a_violation_is_named():
    found = claims.violations([claims.Claim("sound", np.zeros(2)), claims.Claim("broken", np.array([0, -0.5, np.nan]))])
    assert [(v.claim, v.index) for v in found] == [("broken", 1), ("broken", 2)]
    assert found[0].by == 0.5


@pytest.mark.slow
def test_the_script(capsys, monkeypatch):
    """Every family once in Selection, and Pooled with a quantal user; the other users are left to the long run."""
    monkeypatch.setattr(claims, "OTHERS", claims.OTHERS[:1])
    monkeypatch.setattr(claims, "SIZES", [(2, 1)])
    monkeypatch.setattr(claims, "SHAPES", claims.SHAPES[2:])
    monkeypatch.setattr(claims, "FURTHER", {name: claims.FURTHER[name] for name in ("near ties", "impossible")})
    assert claims.main(["--games", "5", "--seed", "3"]) == 0
    table = capsys.readouterr().out
    for claim in (
        "an equilibrium's V >= worst_case(its gains)",
        "Pooled, quantal: V >= theorem",
        "dual closes",
        "impossible outcomes: theorem",
    ):
        assert claim in table
    assert "VIOLATED" not in table


@pytest.mark.slow
def test_the_script_fails_on_a_violation(capsys, monkeypatch):
    monkeypatch.setattr(claims, "OTHERS", [])
    monkeypatch.setattr(claims, "FURTHER", {})
    monkeypatch.setattr(claims, "SIZES", [(2, 1)])
    broken = [("here", [claims.Claim("broken", np.array([-1.0]))])]
    monkeypatch.setattr(claims, "check_selection", lambda *_, **__: broken)
    assert claims.main(["--games", "5"]) == 1
    assert "VIOLATED broken" in capsys.readouterr().out


@pytest.mark.slow
def test_play_with_an_indifferent_user():
    """The user's unit is 0, and play divides by it."""
    solver = em.GradientPlay(steps=2, chunk=2)
    game = HARD["all actions equal for the user"]
    found = em.solve(game, *claims.SELECTION, solver, key=jax.random.key(0), verify=False)
    assert found.result == em.Result.UNCHECKED
    np.testing.assert_allclose(found.schemes.sum(-1), 1, atol=1e-6)
