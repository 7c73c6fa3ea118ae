"""`--proof DIR` and `emalign verify` from the command line."""

import json
from fractions import Fraction
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
    code, out, _ = run("stability", "games.npz", "--set", "user.tolerance=1e-6", "--proof", "set", "--json")
    assert (code, json.loads(out)["summary"]["games"]) == (0, 1)
    rule = json.loads(Path(proofs("set")[0]).read_text())["game"]["rule"]
    assert float(Fraction(rule["tie_tolerance"])) == pytest.approx(1e-6, rel=1e-6)  # Of the user who was asked for.
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
    first, second = map(Path, proofs("proofs"))
    written = first.stat().st_mtime_ns
    second.write_text(second.read_text().replace("at_least", "at_most"))  # It proves nothing, and is written again.
    code, out, _ = run("search", *setting, "--out", "a-run", "--proof", "proofs", "--workers", "2")
    assert (code, "2 proof files: proofs" in out, "1 were there already" in out) == (0, True, True)
    assert (first.stat().st_mtime_ns, run("verify", *proofs("proofs"))[0]) == (written, 0)
    other = run("search", *setting, "--seed", "5", "--out", "b-run", "--proof", "proofs")
    assert refused(other, "game-0-K1.json: --proof: is there, and proves other claims")


@pytest.mark.slow
def test_a_market_writes_a_proof(run):
    rng = np.random.default_rng(0)
    rows = [f"{n},{k},{','.join(f'{x:.3f}' for x in rng.normal(size=3))}" for n in range(6) for k in range(2)]
    Path("scores.csv").write_text("\n".join(["prompt,answer,human,a,b", *rows]))
    options = ("--answers", "--id", "prompt", "--answer", "answer", "--target", "human", "--proof", "proofs")
    assert run("market", "scores.csv", *options, "--set", "market.bootstrap=0")[0] == 0
    rows = [f"{n},{n % 9},{k},{','.join(f'{x:.3f}' for x in rng.normal(size=3))}" for n in range(9) for k in range(4)]
    Path("topics.csv").write_text("\n".join(["prompt,topic,answer,human,a,b", *rows]))
    named = ("--answers", "--id", "prompt", "--answer", "answer", "--topic", "topic", "--target", "human")
    assert refused(run("market", "topics.csv", *named, "--proof", "more", "--out", "late"), "proofs: A^XA * XB = ")
    assert not Path("late").exists()  # Nothing was computed.
    code, out, _ = run("verify", *proofs("proofs"))
    assert (code, out.count("proved: "), out.count("every pure equilibrium")) == (0, 4, 1)


@pytest.mark.slow
def test_search_and_certify_write_proofs_about_a_quantal_user(run):
    pytest.importorskip("flint")
    sizes = ("--family", "hull", "--agents", "2", "--states", "2", "--count", "2")
    setting = ("--protocol", "pooled", "--precision", "10", *sizes)
    out = run("search", *setting, "--out", "a-run", "--proof", "proofs")[1]
    assert (len(proofs("proofs")), "2 proof files: proofs" in out) == (2, True)
    assert "no agent gains more than" in run("verify", *proofs("proofs"))[1]
    found = "a-run/games.npz", "a-run/schemes.npz", "--protocol", "pooled", "--precision", "10", "--proof", "again"
    assert "2 proof files: again" in run("certify", *found)[1]
    assert run("verify", *proofs("again"))[0] == 0


def test_the_verifiers_can_be_printed(run):
    for options in ((), ("--quantal",)):
        code, out, _ = run("verify", "--script", *options)
        assert code == 0
        compile(out, "verify.py", "exec")
        assert ("import flint" in out) == bool(options)


def test_what_is_refused(run, opposed):
    assert refused(run("verify"), "FILE: expected proof files")
    assert refused(run("verify", "--quantal", "a.json"), "--quantal: belongs to --script")
    pooled = run("certify", "games.npz", "schemes.npz", "--protocol", "pooled", "--precision", "inf", "--proof", "p")
    assert refused(pooled, "proofs: only Selection and Comparison")
    setting = ("--protocol", "pooled", "--precision", "inf", "--agents", "2", "--count", "1", "--out", "a-run")
    assert refused(run("search", *setting, "--proof", "p"), "proofs: only Selection and Comparison")
    assert not Path("a-run").exists()  # Nothing was searched.
    Path("full").mkdir()
    Path("full", "something").touch()
    assert refused(
        run("stability", "games.npz", "--proof", "full"),
        "full: --proof: expected a directory that is new, empty, or holds",
    )
