"""Studies: kinds of users over the same games, differences by hand and against scipy, thresholds, what is refused."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import emalign_jax as em
from emalign_jax.experiments import plan
from emalign_jax.experiments.grid import experiment, study

pytestmark = pytest.mark.host_only

SMALL = {"games.states": 2, "games.actions": 2, "games.agents": 2, "games.count": 3, "games.family": "shared_bias"}
USERS = {"rational": {}, "lazy": {"protocol.compare": [2, 1]}}


def kinds(users):
    """As a specification has them."""
    return {f"users.{name}": own for name, own in users.items()}


def studied(path, specification):
    """The games and lines of a study, by kind of user and strength."""
    found = em.experiments.run(specification, kind="study", out=path)
    games = study.by_game(found.plan, found.rows)
    lines = study.summary(found.plan, games)
    return found, games, {(line["users"], line["strength"]): line for line in lines}


# differences by hand


@pytest.mark.parametrize(
    ("game", "best", "average", "aligned"),
    [
        (em.catalog.two_prosecutors(0.3), 0.0, 0.0, -0.3),  # the first to convince holds the user at .7
        (em.catalog.prosecutor_against_defender(0.3), 0.3, 0.3, 0.0),  # 1 against .7 with either alone
    ],
)
def test_the_judge_by_hand(tmp_path, game, best, average, aligned):
    em.save_games(tmp_path / "judge.npz", game)
    users = {"rational": {}, "lazy": {"protocol.compare": [2, 1]}}
    specification = {"games.file": str(tmp_path / "judge.npz")} | kinds(users)
    _, _, lines = studied(tmp_path / "out", specification)
    rational = next(line for (users, _), line in lines.items() if users == "rational")
    for line in (rational, lines["lazy", 2.0]):
        found = [line[f"over_{arm}_utility"] for arm in study.ALONE]
        np.testing.assert_allclose(found, [best, average, aligned], atol=1e-6)
        # A judge without messages is right with probability .7, and with all of them always.
        np.testing.assert_allclose([line[f"over_{arm}"] for arm in study.ALONE], np.array(found) / 0.3, atol=1e-5)
        assert line["helps"] == (best > 0)
        assert line["certified"] == 1
    # Who talks to one agent, drawn at random, meets it as a monopolist.
    np.testing.assert_allclose(lines["lazy", 1.0]["over_average_utility"], 0, atol=1e-6)


def test_a_file_takes_the_place_of_the_random_games_of_a_config(tmp_path):
    em.save_games(tmp_path / "judge.npz", em.catalog.two_prosecutors(0.3))
    changes = {"games.file": str(tmp_path / "judge.npz")}
    made, _ = experiment._planned(
        "study", "", {"games.agents": 3, "games.count": 4} | kinds({"rational": {}}), changes, {}
    )
    assert made.grid["games.agents"] == (2,)


@pytest.mark.slow
def test_differences_pair_the_same_games_and_an_aligned_agent_is_not_beaten(tmp_path):
    users = USERS | {"quantal": {"user.precision": [20.0, 2.0]}, "over-reacting": {"user.weight": [1.0, 2.0]}}
    found, games, lines = studied(tmp_path / "out", SMALL | kinds(users))
    assert list(found.rows["users"].unique()) == ["rational", "lazy", "quantal", "over-reacting"]
    by_cell = found.rows.groupby(["users", "strength"], dropna=False)["rational_full_information"].apply(tuple)
    assert by_cell.nunique() == 1, "all users meet the same games"
    # An aligned agent finds the scheme that is worth most to the user, and of all schemes the user hears one.
    assert (games["competition_utility"] <= games["aligned_utility"] + 1e-3).all()
    assert (games["best_utility"] <= games["aligned_utility"] + 1e-3).all()
    exact = games[games["users"] == "rational"]
    same = games.query("users == 'over-reacting' and strength == 1")
    np.testing.assert_array_equal(same["competition"], exact["competition"])
    np.testing.assert_allclose(exact["aligned"], 1, atol=1e-6)
    lazy = games.query("users == 'lazy' and strength == 1")
    np.testing.assert_allclose(lazy["competition_utility"], lazy["average_utility"], atol=1e-6)
    for (users, strength), line in lines.items():
        own = games[(games["users"] == users) & (games["strength"].eq(strength) | np.isnan(strength))]
        assert len(own) == line["games"] == 3
        test = stats.ttest_rel(own["competition"], own["average"])
        interval = test.confidence_interval(0.95)
        if np.isfinite(test.statistic):
            means = [line["over_average"], line["over_average_low"], line["over_average_high"]]
            expected = [(own["competition"] - own["average"]).mean(), interval.low, interval.high]
            np.testing.assert_allclose(means, expected, atol=1e-12)


def test_paired_intervals_are_students():
    first, second = np.random.default_rng(0).normal(size=(2, 17))
    interval = stats.ttest_rel(first, second).confidence_interval(0.95)
    with_gaps = np.append(first - second, [np.nan, np.inf])
    np.testing.assert_allclose(study.paired(with_gaps), [(first - second).mean(), interval.low, interval.high])
    assert study.paired(np.array([2.0]))[0] == 2.0
    assert np.isnan(study.paired(np.array([2.0]))[1:]).all()
    assert np.isnan(study.paired(np.array([np.nan]))).all()


# thresholds


def table_of(differences, strengths):
    """`by_game` of a study whose user gains these differences [games, strengths] from competition."""
    rows = [
        {"family": "noise", "K": 2, "users": "bent", "strength": s, "game": n, "competition": x, "best": 0.0}
        for n, row in enumerate(differences)
        for s, x in zip(strengths, row, strict=True)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("key", "strengths", "gains", "place", "strength"),
    [
        ("protocol.compare", [4, 3, 2, 1], [0.3, 0.2, -0.2, -0.5], 1.5, 2.5),
        ("user.precision", [np.inf, 10.0, 5.0], [0.2, 0.1, -0.1], 1.5, 1 / 0.15),
        ("user.precision", [np.inf, 10.0], [0.1, -0.1], 0.5, 20.0),
        ("protocol.compare", [2, 1], [0.2, 0.1], np.inf, None),
        ("protocol.compare", [2, 1], [-0.2, -0.1], -np.inf, None),
        ("protocol.compare", [3, 2, 1], [0.0, 0.2, -0.2], 1.5, 1.5),  # the last crossing counts
    ],
)
def test_a_threshold_is_where_the_mean_difference_crosses_zero(key, strengths, gains, place, strength):
    made = study.plan({"games.agents": 4, "users.bent": {key: strengths}}, "")
    noise = np.random.default_rng(1).normal(scale=0.01, size=(40, 1))
    games = table_of(np.array(gains) + noise - noise.mean(), [float(x) for x in strengths])
    (found,) = study.thresholds(made, games)
    assert found.place == pytest.approx(place, abs=1e-4)
    assert found.low <= found.place <= found.high
    if strength is not None:
        assert study.strength_at(tuple(strengths), found.place) == pytest.approx(strength, rel=1e-3)
        assert 0 < found.high - found.low < 0.3


def test_thresholds_of_games_without_a_value_of_information_are_not_known():
    made = study.plan({"users.bent": {"protocol.compare": [2, 1]}}, "")
    assert study.thresholds(made, table_of(np.full((3, 2), np.nan), [2.0, 1.0])) == []


# the plan


def test_every_kind_of_user_has_its_own_axis_and_the_games_of_all():
    given = {"games.agents": [2, 3]} | kinds(USERS | {"quantal": {"user.precision": [np.inf, 5.0]}})
    made = study.plan(given, "")
    assert made.axes == ("games.agents", "users", "strength")
    cells = made.cells()
    assert [cell.values["users"] for cell in cells] == ["rational"] * 2 + ["lazy"] * 4 + ["quantal"] * 4
    assert {cell.specification.protocol.compare for cell in cells} == {None, 1, 2}
    assert all(cell.specification.measure.aligned for cell in cells)
    rational = [cell.key for cell in cells if cell.values["users"] == "rational"]
    exact = [cell.key for cell in cells if cell.values["strength"] == np.inf]
    assert rational == exact, "what is the same is computed once"
    again = study.from_manifest(made.plain(), "manifest.json")
    assert again.plain() == made.plain()
    assert [again.departure(users) for users in again.kinds] == [None, "protocol.compare", "user.precision"]


def test_one_kind_of_user_can_be_changed_or_added():
    changes = {"users.lazy.protocol.compare": [2, 1], "users.new.user.precision": 3.0, "games.count": 7}
    made = study.plan({"users.lazy": {"protocol.compare": [3, 2, 1]}}, "", changes)
    assert made.kinds["lazy"].grid["protocol.compare"] == (2, 1)
    assert made.departure("new") is None
    assert {cell.specification.games.count for cell in made.cells()} == {7}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, r"users: expected a section \[users.NAME\]"),
        ({"users": 3, "users.a": {}}, "users: no such key"),
        ({"users.a": 3}, "users.a: expected a section with keys, got 3"),
        ({"users.a": {"user.precison": 3.0}}, "users.a: user.precison: no such key; did you mean user.precision"),
        ({"users.a": {"user.precision": -3.0}}, r"users.a: user.precision: expected a number > 0"),
        ({"users.a": {"games.bias": [0.0, 1.0]}}, "users.a: games.bias: the games are the same for all users"),
        ({"users.a": {"games.count": 2}}, "users.a: games.count: the games are the same for all users"),
        ({"users.a": {"user.precision": [2.0, 1.0], "protocol.temperature": [0.1, 0.2]}}, "expected one list"),
        ({"users.a": {"user.ties": ["agents", "lowest"]}}, "users.a: user.ties: expected numbers"),
        ({"users.a": {}, "games.familly": "hull"}, "games.familly: no such key"),
        ({"users.a": {}, "measure.aligned": False}, "measure.aligned: a study compares with certified"),
    ],
)
def test_what_cannot_be_studied_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        study.plan(given, "").cells()


def test_the_shipped_study_can_be_done():
    made = study.plan(study.document("users"), "users")
    assert made.cells()
    common = {name: value for name, value in made.plain().items() if not name.startswith("users.")}
    assert plan.from_manifest(common, "m").axes == made.shared
