"""`emalign certify --counts`: what it prints, and bad files of counts."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import emalign_jax as em

pytestmark = [pytest.mark.usefixtures("empty_directory"), pytest.mark.host_only, pytest.mark.x64]

GAME = em.catalog.prosecutor_against_defender()
COUNTS = np.array([[[80, 20], [0, 100]], [[100, 0], [0, 0]]])


@pytest.fixture(autouse=True)
def files(empty_directory):
    em.save_games("g.npz", GAME)
    np.savez("c.npz", counts=COUNTS)


def table(text, name="c.csv"):
    Path(name).write_text("agent,state,message,count\n" + text)
    return name


def test_what_is_printed(run):
    code, out, err = run("certify", "g.npz", "--counts", "c.npz", "--draws", "30", "--json", "--seed", "4")
    assert (code, err) == (0, "")
    document = json.loads(out)
    (entry,) = document["games"]
    found = em.certify_counts(GAME, COUNTS, em.Selection(), em.RationalUser(), draws=30, key=4)
    assert entry["user"] == pytest.approx(float(found.mean.user))
    assert entry["loss"] == pytest.approx(float(found.mean.full_information - found.mean.user))
    assert entry["loss_interval"] == pytest.approx(list(1 - found.user[::-1]))
    assert entry["best_response"] == pytest.approx(list(found.mean.agents + found.mean.gain_lower))
    assert entry["gain_low"] + entry["gain_high"] == pytest.approx(list(found.gain.ravel()))
    assert entry["user_after"] == pytest.approx(list(found.user_after))
    assert (entry["calls"], entry["unseen_states"]) == ([200, 100], [0, 1])
    assert document["summary"]["draws"] == 30
    code, out, err = run("certify", "g.npz", "--counts", "c.npz", "--draws", "30", "--level", "0.9", "--prior", "0.5")
    assert (code, err) == (0, "")
    again = em.certify_counts(GAME, COUNTS, em.Selection(), em.RationalUser(), draws=30, level=0.9, prior=0.5)
    assert f"user value {float(again.mean.user):.4f} [{again.user[0]:.3f}, {again.user[1]:.3f}]" in out
    assert "90% credible, of 30 draws" in out


def test_a_table_says_the_same(run):
    _, wanted, _ = run("certify", "g.npz", "--counts", "c.npz", "--draws", "5")
    words = table("0,0,innocent,80\n0,0,guilty,20\n0,1,guilty,60\n1,0,innocent,100\n0,1,guilty,40\n")
    assert run("certify", "g.npz", "--counts", words, "--draws", "5") == (0, wanted, "")
    numbers = table("0,1,1,100\n0,0,0,80\n0,0,1,20\n1,0,0,100\n", "d.csv")
    assert run("certify", "g.npz", "--counts", numbers, "--draws", "5") == (0, wanted, "")
    pd.read_csv("d.csv").to_parquet("e.parquet")
    assert run("certify", "g.npz", "--counts", "e.parquet", "--draws", "5") == (0, wanted, "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0,0,a,1.5\n", "count: row 2: expected a whole number >= 0, got 1.5"),
        ("0,0,a,1\n0,0,a,-1\n", "count: row 3: expected a whole number >= 0, got -1"),
        ("0,0,a,\n", "count: row 2: expected a whole number"),
        ("2,0,a,1\n", "agent: row 2: expected a whole number from 0 to 1, got 2"),
        ("0,2,a,1\n", "state: row 2: expected a whole number from 0 to 1, got 2"),
        ("0,first,a,1\n", "state: row 2: expected a number"),
        ("0,0,,1\n", "message: row 2: expected a number or a word"),
        ("0,0,99999999,1\n", "message: row 2: expected a whole number from 0 to 9999"),
        ("0,0,a,1\n", "counts[1]: nothing is counted of this agent"),
    ],
)
def test_bad_tables(run, text, words):
    code, out, err = run("certify", "g.npz", "--counts", table(text))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "c.csv: " in err
    assert words in err


def test_bad_files_and_options(run):
    np.savez("wrong.npz", counts=np.ones((2, 3, 2)))
    np.savez("negative.npz", counts=-COUNTS)
    Path("columns.csv").write_text("agent,state,message\n0,0,1\n")
    for arguments, words in (
        (("--counts", "wrong.npz"), "wrong.npz: counts: expected shape"),
        (("--counts", "negative.npz"), "negative.npz: counts[0, 0, 0]: expected a whole number >= 0"),
        (("--counts", "columns.csv"), "columns.csv: count: there is no column 'count'"),
        (("--counts", "nowhere.csv"), "nowhere.csv: no such file"),
        (("--counts", "c.txt"), "c.txt: no such file"),
        (("c.npz", "--counts", "c.npz"), "expected schemes or counts, one of them"),
        ((), "expected schemes or counts, one of them"),
        (("c.npz", "--draws", "3"), "belong to --counts"),
        (("--counts", "c.npz", "--draws", "1"), "draws: expected an integer >= 2"),
        (("--counts", "c.npz", "--prior", "0"), "prior: expected a finite number > 0"),
        (("--counts", "c.npz", "--level", "1"), "level: expected a number between"),
        (("--counts", "c.npz", "--seed", "-1"), "key: expected a key"),
    ):
        code, out, err = run("certify", "g.npz", *arguments)
        assert (code, out) == (2, ""), arguments
        assert err.count("\n") == 1
        assert words in err
