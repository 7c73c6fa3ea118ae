"""The labels of a file of games, in what search, certify and report say and write."""

import json

import numpy as np
import pytest

import emalign_jax as em

pytestmark = pytest.mark.host_only

QUICK = ("--set", "solver.method=best_responses")  # nothing to compile


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_search_and_its_certificates_name_agents(run, tmp_path):
    trial = em.catalog.prosecutor_against_defender()
    em.save_games(tmp_path / "g.npz", trial)
    names = ["prosecutor", "defender"]
    code, out, _ = run("search", "--games", "g.npz", "--out", "run", "--json", *QUICK)
    assert code == 0
    assert [entry["agent_names"] for entry in json.loads(out)["games"]] == [names]
    assert em.load_games(tmp_path / "run" / "games.npz").labels == trial.labels
    assert "\nAgents: prosecutor, defender\n" in run("search", "--games", "g.npz", "--out", "run", *QUICK)[1]
    given = "certify", "run/games.npz", "run/schemes.npz"
    assert [entry["agent_names"] for entry in json.loads(run(*given, "--json")[1])["games"]] == [names]
    assert "\nAgents: prosecutor, defender\n" in run(*given)[1]
    assert run("report", "run")[0] == 0
    assert "prosecutor, defender" in (tmp_path / "run" / "report.html").read_text()


def test_cells_of_fewer_agents_have_the_first_labels(run, tmp_path):
    judge, trial = em.catalog.judge(), em.catalog.prosecutor_against_defender()
    agents = np.stack([np.asarray(trial.agent_utilities)] * 2)
    agents[0, 1] = np.nan
    np.savez(
        tmp_path / "g.npz", prior=np.stack([judge.prior] * 2), user_utility=np.stack([judge.user_utility] * 2),
        agent_utilities=agents, agents=[1, 2], labels_agents=["prosecutor", "defender"], labels_actions=["0", "1"],
    )  # fmt: skip
    _, out, _ = run("search", "--games", "g.npz", "--out", "run", "--json", *QUICK)
    assert [entry["agent_names"] for entry in json.loads(out)["games"]] == [["prosecutor"], ["prosecutor", "defender"]]
    for K in (1, 2):
        games = em.load_games(tmp_path / "run" / "games.npz", agents=K)
        assert games.labels == em.Labels(agents=("prosecutor", "defender")[:K], actions=("0", "1"))


def test_without_labels_nothing_is_said(run, tmp_path):
    em.save_games(tmp_path / "g.npz", em.catalog.judge().labelled(None))
    _, out, _ = run("search", "--games", "g.npz", "--out", "run", "--json", *QUICK)
    assert "agent_names" not in json.loads(out)["games"][0]
    with np.load(tmp_path / "run" / "games.npz") as archive:
        assert sorted(archive) == ["agent_utilities", "prior", "user_utility"]
