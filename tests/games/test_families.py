"""Families of random games: their structure by definition, whatever was drawn."""

import dataclasses
import zlib

import jax
import numpy as np
import pytest
from scipy.optimize import linprog

import emalign_jax as em
from emalign_jax.games import families
from emalign_jax.games.families import drawing

X64 = jax.config.jax_enable_x64
ROUNDING = 1e-12 if X64 else 1e-5  # a few sums of normals of size up to 5
SIZE = {"agents": 3, "states": 3, "actions": 4}
KEY = jax.random.key(5)


def make(family, count=4, key=KEY, **knobs):
    games = em.random_games(key, count, family=family, **(SIZE | knobs))
    return jax.tree.map(lambda x: np.asarray(x, float), games)


def hull_distance(u, agents):
    """min over w >= 0, sum w = 1, of max |sum_i w_i U_i - u|: an LP."""
    K, cells = len(agents), u.size
    table = agents.reshape(K, cells).T
    ones = np.ones((cells, 1))
    found = linprog(
        np.eye(K + 1)[K],
        A_ub=np.block([[table, -ones], [-table, -ones]]), b_ub=np.concatenate([u.ravel(), -u.ravel()]),
        A_eq=np.concatenate([np.ones(K), [0]])[None], b_eq=[1],
    )  # fmt: skip
    assert found.status == 0
    return found.fun


def worth(games):
    """(V_full - V_none) / (max u - min u), by loops."""
    found = []
    for k in range(len(games.prior)):
        p, u = games.prior[k], games.user_utility[k]
        full = sum(max((p[xa, xb] * u).sum(1)) for xa, xb in np.ndindex(p.shape[:2]))
        none = sum(max((p[xa].sum(0) * u).sum(1)) for xa in range(len(p)))
        found.append((full - none) / (u.max() - u.min()))
    return np.array(found)


@pytest.mark.parametrize("family", em.FAMILIES)
def test_game_i_is_the_same_in_any_batch(family):
    few, many = make(family, 2), make(family, 4)
    for name in ("prior", "user_utility", "agent_utilities"):
        # the draws are the same bits; XLA may vectorise what follows differently
        np.testing.assert_allclose(getattr(few, name), getattr(many, name)[:2], rtol=0, atol=ROUNDING)
    assert np.abs(np.diff(many.agent_utilities, axis=0)).max(axis=(1, 2, 3)).min() > 0.01
    other = make(family, 2, key=jax.random.key(6))
    assert np.abs(other.agent_utilities - few.agent_utilities).max() > 0.01


def test_hull_holds_the_user():
    games = make("hull", 8)
    distance = [hull_distance(u, U) for u, U in zip(games.user_utility, games.agent_utilities, strict=True)]
    assert max(distance) < 10 * max(ROUNDING, 1e-8)  # 1e-8: feasibility of the LP
    assert np.abs(games.agent_utilities - games.user_utility[:, None]).max((1, 2, 3)).min() > 0.01


def test_other_families_leave_the_hull():
    for family in ("noise", "shared_bias"):
        games = make(family, 8, noise=0.3)
        distance = [hull_distance(u, U) for u, U in zip(games.user_utility, games.agent_utilities, strict=True)]
        assert max(distance) > 0.1


def test_noise_is_a_standard_deviation():
    games = make("noise", 2000, noise=0.3)
    noise = games.agent_utilities - games.user_utility[:, None]
    # 72,000 draws: the standard error of the deviation is .3 / sqrt(2 * 72000) = .0008
    assert abs(noise.std() - 0.3) < 5 * 0.0008
    assert abs(np.corrcoef(noise[:, 0].ravel(), noise[:, 1].ravel())[0, 1]) < 5 / np.sqrt(24000)
    assert abs(games.user_utility.std() - 1) < 5 / np.sqrt(2 * 24000)


def test_shared_bias_is_shared():
    games = make("shared_bias", noise=0.0)
    bias = games.agent_utilities - games.user_utility[:, None]
    np.testing.assert_allclose(bias, np.broadcast_to(bias[:, :1], bias.shape), atol=ROUNDING)
    assert np.abs(bias).max((1, 2, 3)).min() > 0.1
    twice = make("shared_bias", noise=0.0, bias=2.0)
    np.testing.assert_allclose(twice.agent_utilities - twice.user_utility[:, None], 2 * bias, atol=4 * ROUNDING)


def test_goal_is_a_share_of_u_plus_a_margin_on_own_products():
    games = make("goal", 8, alignment=0.25, bias=2.0)
    profit = (games.agent_utilities - 0.25 * games.user_utility[:, None]) / 0.75  # [N, K, A, Y]
    np.testing.assert_allclose(profit, np.broadcast_to(profit[..., :1], profit.shape), atol=ROUNDING)
    profit = profit[..., 0]
    assert (profit > -ROUNDING).all()
    assert ((profit > ROUNDING).sum(1) == 1).all()  # every action is the product of one agent


def test_opposed_biases_cancel_in_pairs():
    games = make("opposed", agents=5, bias=0.7)
    u, U = games.user_utility, games.agent_utilities
    np.testing.assert_allclose(U[:, 0] + U[:, 1], 2 * u, atol=ROUNDING)
    np.testing.assert_allclose(U[:, 2] + U[:, 3], 2 * u, atol=ROUNDING)
    for i, j in ((0, 2), (0, 4), (2, 4)):
        assert np.abs(U[:, i] - U[:, j]).max((1, 2)).min() > 0.05
    assert np.abs(U[:, 4] - u).max((1, 2)).min() > 0.05


@pytest.mark.parametrize(
    ("family", "knobs"),
    [
        ("hull", {"noise": 0.0}),
        ("noise", {"noise": 0.0}),
        ("shared_bias", {"noise": 0.0, "bias": 0.0}),
        ("goal", {"alignment": 1.0}),
        ("opposed", {"bias": 0.0}),
        ("attributes", {"attributes": 1}),
        ("quadratic", {"bias": 0.0}),
    ],
)
def test_without_disagreement_all_agents_are_the_user(family, knobs):
    games = make(family, **knobs)
    expected = np.broadcast_to(games.user_utility[:, None], games.agent_utilities.shape)
    np.testing.assert_allclose(games.agent_utilities, expected, atol=ROUNDING)


def test_features_know_y_and_nothing_else():
    games = make("noise", user_features=2, agent_features=3, user_information=0.5, agent_information=0.6)
    p, y = games.prior, games.prior.sum((1, 2))
    # x_A and x_B are independent given y
    expected = p.sum(2)[:, :, None, :] * p.sum(1)[:, None, :, :] / y[:, None, None, :]
    np.testing.assert_allclose(p, expected, atol=ROUNDING)
    assert (p.sum(1) / y[:, None])[:, np.arange(3), np.arange(3)].min() >= 0.6 - ROUNDING
    sees = make("noise", user_features=2, user_information=1.0).prior
    for xa, xb, outcome in np.ndindex(sees.shape[1:]):
        if (xa, xb) != (outcome % 2, outcome):
            assert np.abs(sees[:, xa, xb, outcome]).max() < ROUNDING


@pytest.mark.slow
def test_information_worth_is_respected():
    knobs = {"agent_information": 0.7, "user_features": 2, "agent_features": 3}
    free = make("hull", 12, **knobs)
    asked_for = float(np.sort(worth(free))[8] - 1e-4)  # 4 of the 12 are good enough
    asked = make("hull", 12, information_worth=asked_for, **knobs)
    rich = worth(free) >= asked_for
    assert 0 < rich.sum() < 12
    assert worth(asked).min() >= asked_for - ROUNDING
    np.testing.assert_array_equal(asked.prior[rich], free.prior[rich])  # rich ones are not drawn again
    fewer = make("hull", 5, information_worth=asked_for, **knobs)
    np.testing.assert_allclose(fewer.agent_utilities, asked.agent_utilities[:5], rtol=0, atol=ROUNDING)


def test_information_worth_out_of_reach(monkeypatch):
    monkeypatch.setattr(drawing, "MAX_REDRAWS", 2)
    with pytest.raises(ValueError, match=r"^information_worth: 4 of 4 games were below 1\.0 in 2 redraws"):
        make("hull", information_worth=1.0)


@pytest.mark.parametrize(
    ("argument", "value", "rule"),
    [
        ("family", "hulls", "expected one of hull, noise, shared_bias, goal, opposed, attributes, quadratic"),
        *((name, 0, "expected an integer >= 1") for name in ("count", "agents", "states", "actions", "user_features")),
        ("agent_features", -1, "expected an integer >= 1"),
        *(
            (name, value, r"expected a number in \[0, 1\]")
            for name in ("user_information", "agent_information", "alignment", "information_worth")
            for value in (-0.1, 1.1, np.nan)
        ),
        *(
            (name, value, "expected a finite number >= 0")
            for name in ("noise", "bias")
            for value in (-1.0, np.inf, np.nan)
        ),
    ],
)
def test_bad_arguments(argument, value, rule):
    with pytest.raises(ValueError, match=f"^{argument}: {rule}, got"):
        em.random_games(KEY, **({"count": 4} | {argument: value}))


@pytest.fixture
def scaled():
    """A family of one's own, known while a test lasts."""
    known = dict(families.FAMILIES)

    @dataclasses.dataclass(frozen=True)
    class Scaled(em.AbstractFamily):
        name = "scaled"
        most: float = em.knob(2.0, "the largest factor")

        def agent_utilities(self, draws, user_utility, agents):
            return self.most * draws.uniform(agents, 1, 1) * user_utility[:, None]

    yield Scaled
    families.FAMILIES.clear()
    families.FAMILIES.update(known)


def test_a_family_of_ones_own_is_one_class(scaled):
    games = make("scaled", most=3.0)
    factor = games.agent_utilities / games.user_utility[:, None]
    np.testing.assert_allclose(factor, np.broadcast_to(factor[..., :1, :1], factor.shape), rtol=1e-3)
    assert 0 < factor.min() <= factor.max() <= 3 * (1 + 1e-5)
    again = make(scaled(most=3.0))
    np.testing.assert_array_equal(again.agent_utilities, games.agent_utilities)


def test_other_families_change_no_games_and_no_keys(scaled):
    known = {"hull": 0, "noise": 1, "shared_bias": 2, "goal": 3, "opposed": 4}
    known |= {name: zlib.crc32(name.encode()) for name in ("attributes", "quadratic")}
    assert {name: family.key for name, family in em.FAMILIES.items() if name != "scaled"} == known
    assert scaled.key == zlib.crc32(b"scaled")


def test_knobs_are_checked_and_named(scaled):
    with pytest.raises(ValueError, match=r"^most: expected a finite number >= 0, got -1"):
        make("scaled", most=-1)
    with pytest.raises(ValueError, match=r"^mist: no argument of random_games and no knob"):
        make("scaled", mist=1)
    with pytest.raises(ValueError, match=r"^alignment: expected a number in \[0, 1\]"):
        make("scaled", alignment=2)  # of another family, but checked
    with pytest.raises(ValueError, match=r"^most: goes with the name of a family"):
        make(scaled(), most=1.0)
    with pytest.raises(ValueError, match=r"^name: there is a family 'hull' already"):
        type("Other", (em.AbstractFamily,), {"name": "hull"})


def test_a_family_that_gives_another_shape_or_takes_too_many_draws_is_told(scaled):
    class Flat(em.AbstractFamily):
        name = "flat"

        def agent_utilities(self, draws, user_utility, agents):
            return user_utility

    class Greedy(em.AbstractFamily):
        name = "greedy"

        def agent_utilities(self, draws, user_utility, agents):
            return draws.normal(agents, 100, *user_utility.shape[1:])[:, :, 0]

    with pytest.raises(ValueError, match=r"^agent_utilities: family 'flat' should give an array \[4, 3, 4, 3\]"):
        make("flat")
    with pytest.raises(ValueError, match=r"^numbers: "):
        make("greedy")
