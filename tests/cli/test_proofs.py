"""`--proof DIR` and `emalign verify` from the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.commands import refused

import emalign_jax as em

pytestmark = [pytest.mark.usefixtures("empty_directory"), pytest.mark.host_only]


@pytest.fixture
def opposed():
    game = em.catalog.prosecutor_against_defender()
    em.save_games("games.npz", game)
    em.save_schemes("schemes.npz", np.stack([np.eye(2)] * 2))
    return game


def proofs(folder):
    return sorted(map(str, Path(folder).glob("*.json")))


@pytest.mark.slow
def test_certify_and_stability_write_proofs_that_verify_proves(run, opposed):
    code, out, _ = run("certify", "games.npz", "schemes.npz", "--proof", "gains")
    assert (code, "1 proof file: gains" in out) == (0, True)
    code, out, _ = run("stability", "games.npz", "--proof", "set", "--json")
    assert (code, json.loads(out)["summary"]["games"]) == (0, 1)
    code, out, _ = run("verify", *proofs("gains"), *proofs("set"))
    assert code == 0
    assert out.count("equilibrium_set: where only exact ties are ties, every pure equilibrium") == 2
    assert out.count("no agent gains more than") == 1
    code, out, _ = run("verify", *proofs("gains"), "--json")
    found = json.loads(out)
    assert (found["summary"], found["files"][0]["proved"]) == ({"files": 1, "failed": 0}, True)
    changed = Path(proofs("gains")[0])
    changed.write_text(changed.read_text().replace('"at_least":"', '"at_least":"1'))
    code, out, _ = run("verify", str(changed))
    assert (code, "NOT PROVED" in out) == (1, True)
    code, out, _ = run("verify", "absent.json", "--json")
    assert (code, json.loads(out)["summary"]["failed"]) == (1, 1)


@pytest.mark.slow
def test_a_malformed_game_of_a_batch_has_no_proof(run):
    rng = np.random.default_rng(0)
    prior = rng.dirichlet(np.ones(4), 3).reshape(3, 1, 2, 2)
    prior[1, 0, 0, 0] = np.nan
    np.savez(
        "games.npz", prior=prior, user_utility=rng.normal(size=(3, 2, 2)), agent_utilities=rng.normal(size=(3, 2, 2, 2))
    )
    np.savez("schemes.npz", schemes=np.broadcast_to(np.eye(2), (3, 2, 2, 2)))
    code, out, _ = run("certify", "games.npz", "schemes.npz", "--proof", "proofs")
    assert (code, len(proofs("proofs"))) == (1, 2)
    assert "2 proof files: proofs" in out
    assert "1 games have none" in out


@pytest.mark.slow
def test_search_writes_a_proof_of_each_profile(run):
    setting = ("--family", "hull", "--agents", "1,2", "--states", "2", "--actions", "2", "--count", "1")
    code, out, _ = run("search", *setting, "--out", "a-run", "--proof", "proofs")
    assert (code, len(proofs("proofs"))) == (0, 2)
    assert "2 proof files: proofs" in out
    assert run("verify", *proofs("proofs"))[0] == 0
    assert refused(run("search", *setting, "--out", "a-run", "--proof", "proofs"), "--proof", "new or empty")


@pytest.mark.slow
def test_a_market_writes_a_proof(run):
    rng = np.random.default_rng(0)
    rows = [f"{n},{k},{','.join(f'{x:.3f}' for x in rng.normal(size=3))}" for n in range(6) for k in range(2)]
    Path("scores.csv").write_text("\n".join(["prompt,answer,human,a,b", *rows]))
    options = ("--answers", "--id", "prompt", "--answer", "answer", "--target", "human", "--proof", "proofs")
    assert run("market", "scores.csv", *options, "--set", "market.bootstrap=0")[0] == 0
    code, out, _ = run("verify", *proofs("proofs"))
    assert (code, out.count("proved: ")) == (0, 3)


def test_the_verifier_can_be_printed(run):
    code, out, _ = run("verify", "--script")
    assert code == 0
    compile(out, "verify.py", "exec")


def test_what_is_refused(run, opposed):
    assert refused(run("verify"), "FILE: expected proof files")
    pooled = run("certify", "games.npz", "schemes.npz", "--protocol", "pooled", "--precision", "5", "--proof", "p")
    assert refused(pooled, "proofs: only Selection and Comparison")
    setting = ("--protocol", "pooled", "--precision", "5", "--agents", "2", "--count", "1", "--out", "a-run")
    assert refused(run("search", *setting, "--proof", "p"), "proofs: only Selection and Comparison")
    assert not Path("a-run").exists()  # Nothing was searched.
    Path("full").mkdir()
    Path("full", "something").touch()
    assert refused(run("stability", "games.npz", "--proof", "full"), "full: --proof: expected a directory that is new")
