"""Tables of results: the columns of the run store, wide and long, and labelled arrays."""

import sys

import numpy as np
import pytest
from result.test_batched import certificate, solution

import emalign_jax as em
from emalign_jax.result import columns

KNOWN = {column.name for column in columns.GAMES}
LABELS = em.Labels(agents=("<b>left</b>", "right"), agent_features=("low", "middle", "high"))


def test_a_row_a_game_and_start():
    found = solution(2, 3, starts=2)
    table = found.to_pandas()
    assert table["game"].tolist() == [0, 0, 1, 1, 2, 2]
    assert table["start"].tolist() == [0, 1, 0, 1, 0, 1]
    np.testing.assert_array_equal(table["user_value"], found.user.T.ravel())
    np.testing.assert_array_equal(
        np.stack(table["gain_lower"]), found.certificate.gain_lower.swapaxes(0, 1).reshape(6, 2)
    )
    assert set(table) <= KNOWN
    assert [*table] == [column.name for column in columns.GAMES if column.name in table]
    assert table["result"].tolist() == found.result_names.T.ravel().tolist()
    assert (table["messages"] == 4).all()
    np.testing.assert_allclose(table["relative_gain"], found.certificate.relative_gain.max(-1).T.ravel())


def test_a_row_an_agent():
    found = solution(3, labels=LABELS)
    table = found.to_pandas(long=True)
    assert table["game"].tolist() == [0, 0, 1, 1, 2, 2]
    assert table["agent"].tolist() == [0, 1] * 3
    assert table["label"].tolist() == ["<b>left</b>", "right"] * 3
    np.testing.assert_array_equal(table["agent_payoffs"], found.agents.ravel())
    np.testing.assert_array_equal(table["user_value"], np.repeat(found.user, 2))
    np.testing.assert_array_equal(table["relative_gain"], found.certificate.relative_gain.ravel())


@pytest.mark.parametrize("shape", [(), (0,), (2, 2)])
def test_tables_of_any_batch(shape):
    count = int(np.prod(shape, dtype=int))
    assert len(certificate(*shape).to_pandas()) == count
    assert len(certificate(*shape).to_pandas(long=True)) == 2 * count
    assert certificate(*shape).to_pandas()["game"].tolist() == list(range(count))


@pytest.mark.slow
def test_the_run_store_has_the_same_numbers(tmp_path):
    sizes = {"family": "shared_bias", "agents": 2, "states": 3, "actions": 3, "information_worth": 0.02}
    spec = {f"games.{name}": x for name, x in (sizes | {"count": 4}).items()} | {"solver.starts": 2, "seed": 3}
    run = em.experiments.run(spec, kind="search", out=tmp_path / "run")
    games = em.load_games(tmp_path / "run" / "games.npz")
    schemes = em.load_schemes(tmp_path / "run" / "schemes.npz")
    proved = em.certify(games, schemes, em.Selection(), em.RationalUser()).replace(starts=2)
    stored = run.rows
    for column, values in proved.to_pandas().items():
        if stored[column].dtype == float or column in ("agent_payoffs", "payoff_range", "gain_lower", "gain_upper"):
            ours, theirs = (np.array(x.tolist(), float) for x in (values, stored[column]))
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6, err_msg=column)
        elif column not in ("fallback", "closed"):  # how numbers were found may differ
            assert values.tolist() == stored[column].tolist(), column
    searched = em.solve(games, em.Selection(), em.RationalUser(), start=schemes, starts=2, key=0)
    assert set(searched.to_pandas()) == set(stored) & set(searched.to_pandas())
    assert {"agents", "game", "start", "messages", "found_by", *proved.to_pandas()} == set(searched.to_pandas())


def test_profiles_of_stability_stand_point_by_point():
    found = em.stability(em.catalog.two_prosecutors())
    table, long = found.to_pandas(), found.to_pandas(long=True)
    assert table["worst_equilibrium"].tolist() == [float(found.worst)]
    assert "normalised_worst_equilibrium" in table
    np.testing.assert_array_equal(long["value"], found.value)
    assert long["point"].tolist() == list(range(len(found.value)))


def test_trajectories_have_the_columns_of_their_table():
    nan = np.nan
    moves = np.array([[0, 1, 4], [0, 4, -1]])
    user = np.array([[0.1, 0.4, 0.3], [0.7, 0.8, nan]])
    agents = np.arange(12.0).reshape(2, 3, 2)
    kept = em.Trajectory(np.array([3, 2]), moves, user, agents, agents / 10, np.zeros((2, 3), int))
    table = kept.to_pandas()
    assert set(table) <= {column.name for column in columns.TRAJECTORIES}
    assert table["move"].tolist() == ["START", "PLAY", "RETURNED", "START", "RETURNED"]
    assert table["game"].tolist() == [0, 0, 0, 1, 1]
    assert table["user_value"].tolist() == [0.1, 0.4, 0.3, 0.7, 0.8]
    assert np.array(table["agent_payoffs"].tolist()).tolist() == agents.reshape(6, 2)[:5].tolist()
    assert kept.to_pandas(long=True)["agent_payoffs"].tolist() == agents.ravel()[:10].tolist()
    assert len(kept[1].to_pandas()) == 2


def test_a_market_agent_by_agent():
    found = em.market(em.catalog.prosecutor_against_defender())
    assert {column.name for column in columns.MARKET_AGENTS} >= {"agent", "monopoly", "without"}
    table = found.to_pandas(long=True)
    assert table["label"].tolist() == ["prosecutor", "defender"]
    np.testing.assert_array_equal(table["monopoly"], found.monopoly)
    assert found.to_pandas()["worst"].tolist() == [found.worst]


@pytest.mark.slow
def test_labelled_arrays():
    pytest.importorskip("xarray")
    found = solution(2, 3, starts=2, labels=LABELS).to_xarray()
    assert found["schemes"].dims == ("start", "game", "agent", "agent_feature", "message")
    assert found["agent"].values.tolist() == list(LABELS.agents)
    assert float(found["agents"].sel(agent="right")[1, 2]) == solution(2, 3, starts=2).agents[1, 2, 1]
    assert found["result"].values.tolist() == solution(2, 3, starts=2).result_names.tolist()
    assert em.coverage(em.catalog.judge()).to_xarray()["commands"].dims == ("user_feature", "action", "action_2")


def test_without_xarray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ImportError, match=r"^to_xarray: xarray is not installed: pip install 'emalign-jax\[xarray\]'$"):
        certificate(3).to_xarray()
